"""An MCP server on the official SDK that takes tokens of one authorization server, for itself only.

Run as `python account_server.py PORT ISSUER SCOPE [KEYS [READ]]`. SCOPE "": none is demanded. KEYS: the path of the
issuer's key set. READ: a fixed token that it takes from whoever reads what it offers.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jwt
import uvicorn
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

PORT, ISSUER, SCOPE = int(sys.argv[1]), sys.argv[2], sys.argv[3]
RESOURCE = f"http://127.0.0.1:{PORT}/mcp"
PATH, READ = (*sys.argv[4:], "", "")[:2]
KEYS = jwt.PyJWKClient(f"{ISSUER}{PATH or '/jwks'}")


def verified(token: str) -> dict[str, Any]:
    """Its claims. Raises PyJWTError."""
    key = KEYS.get_signing_key_from_jwt(token)
    required = ["exp", "iat", "aud", "iss", "sub"]
    found: dict[str, Any] = jwt.decode(
        token, key, algorithms=["ES256"], issuer=ISSUER, audience=RESOURCE, options={"require": required}
    )
    return found


class Verifier:
    async def verify_token(self, token: str) -> AccessToken | None:
        if READ and token == READ:
            scopes = [SCOPE] if SCOPE else []
            return AccessToken(token=token, client_id="reader", scopes=scopes, resource=RESOURCE, subject="reader")
        try:
            claims = verified(token)
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
            "required_scopes": [SCOPE] if SCOPE else None,
            "validate_token_resource": True,
        }
    ),
)


@server.tool()
def whoami() -> str:
    """Whose account this is."""
    token = get_access_token()
    return str(token.subject) if token is not None else "nobody"


@server.tool()
def told(word: str) -> str:
    """What the token says that came with this call."""
    token = get_access_token()
    return json.dumps(verified(token.token)) if token is not None and token.subject != "reader" else word


if __name__ == "__main__":
    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=PORT, log_level="warning")
