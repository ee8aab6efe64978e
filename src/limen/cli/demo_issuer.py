"""Development issuer for `limen demo`: signs access tokens for whoever asks in process. Never use it for anything else.

It listens on loopback only and says so in its issuer name; there is no sign-in, because there is nobody to sign in.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

import orjson
from joserfc import jwt
from joserfc.jwk import ECKey

from limen.core.faults import ConfigFault
from limen.gateway.answer import Scope
from limen.gateway.server import HttpServer, Receive, Send


class DevelopmentIssuer:
    """Metadata (RFC 8414) and keys over HTTP, tokens (RFC 9068) by method call."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        if host not in ("127.0.0.1", "::1"):
            raise ConfigFault("the development issuer listens on loopback only", host)
        self._host = host
        self._key = ECKey.generate_key("P-256", {"kid": "development-only", "alg": "ES256", "use": "sig"})
        self._server = HttpServer(self._answer)
        self.issuer = ""

    async def start(self) -> None:
        """Listen on a free port."""
        port = await self._server.start(self._host, 0)
        self.issuer = f"http://{self._host}:{port}/development-issuer"

    async def stop(self) -> None:
        """Stop listening."""
        await self._server.stop()

    def token(self, subject: str, resource: str, scope: str, **claims: Any) -> str:
        """An access token for one resource, good for ten minutes."""
        now = int(time.time())
        body = {
            "iss": self.issuer,
            "sub": subject,
            "aud": resource,
            "scope": scope,
            "client_id": "limen-demo",
            "iat": now,
            "exp": now + 600,
            "jti": secrets.token_hex(8),
            **claims,
        }
        return jwt.encode({"alg": "ES256", "typ": "at+jwt", "kid": "development-only"}, body, self._key)

    async def _answer(self, scope: Scope, _receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/.well-known/oauth-authorization-server/development-issuer":
            body: dict[str, Any] | None = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}
        elif path == "/development-issuer/keys":
            body = {"keys": [self._key.as_dict(private=False)]}
        else:
            body = None
        data = orjson.dumps(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": 200 if body else 404, "headers": headers})
        await send({"type": "http.response.body", "body": data})
