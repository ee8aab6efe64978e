"""An MCP server on the official SDK that takes tokens of one authorization server, for itself only.

Run as `python account_server.py PORT ISSUER SCOPE`.
"""

from __future__ import annotations

import sys

import jwt
import uvicorn
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

PORT, ISSUER, SCOPE = int(sys.argv[1]), sys.argv[2], sys.argv[3]
RESOURCE = f"http://127.0.0.1:{PORT}/mcp"
KEYS = jwt.PyJWKClient(f"{ISSUER}/jwks")


class Verifier:
    async def verify_token(self, token: str) -> AccessToken | None:
        try:
            key = KEYS.get_signing_key_from_jwt(token)
            claims = jwt.decode(token, key, algorithms=["ES256"], issuer=ISSUER, audience=RESOURCE)
        except jwt.PyJWTError:
            return None
        return AccessToken(
            token=token, client_id=claims["client_id"], scopes=claims.get("scope", "").split(),
            expires_at=claims["exp"], resource=claims["aud"], subject=claims["sub"],
        )  # fmt: skip


server = MCPServer(
    "accounts",
    token_verifier=Verifier(),
    auth=AuthSettings.model_validate(  # as text: a URL object would get a slash behind
        {
            "issuer_url": ISSUER,
            "resource_server_url": RESOURCE,
            "required_scopes": [SCOPE],
            "validate_token_resource": True,
        }
    ),
)


@server.tool()
def whoami() -> str:
    """Whose account this is."""
    token = get_access_token()
    return str(token.subject) if token is not None else "nobody"


if __name__ == "__main__":
    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=PORT, log_level="warning")
