"""An identity provider behind the port Exchange, in process: honest until told otherwise.

idp = Idp(clock)
back = idp.authorize(url)                    # what a browser brings back from the provider: a path with a query
idp.claims["aud"] = "another"                # of the ID tokens it signs from now on; None leaves a claim out
idp.answer["token_type"] = "mac"             # the same for the token response, and `metadata` for that
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

from limen.core.faults import DependencyFault
from limen.core.ports import Fetched
from minting import Clock, Key, without

ISSUER = "https://id.example"


def half_hash(token: str, algorithm: str = "ES256") -> str:
    """OpenID Connect Core 3.1.3.6."""
    name = {"256": "sha256", "384": "sha384"}.get(algorithm[-3:], "sha512")
    digest = hashlib.new(name, token.encode()).digest()
    return urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()


class Idp:
    """Implements ports.Exchange; attributes may change at any time."""

    def __init__(self, clock: Clock, issuer: str = ISSUER, key: Key | None = None) -> None:
        self.clock, self.issuer = clock, issuer
        self.key = key or Key("ES256", kid="idp-1")
        self.published: list[dict[str, Any]] = [self.key.jwk]
        self.client_id, self.client_secret = "limen", "p&ss+word: 100%"
        self.user = "alice"  # whose session the browser's cookie at the provider opens
        self.claims: dict[str, Any] = {}
        self.answer: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.token_status, self.down, self.skew, self.wait = 200, False, 0, 0.0
        self.gets: list[str] = []
        self.forms: list[dict[str, str]] = []  # of the token endpoint
        self.authorization: list[str] = []
        self.asked: list[dict[str, str]] = []  # of the authorization endpoint
        self.posted_to: list[str] = []
        self.codes: dict[str, dict[str, str]] = {}

    def authorize(self, url: str, **changes: str | None) -> str:
        """The browser is here and its session at the provider is open: where it is sent, as path and query."""
        asked = dict(parse_qsl(urlsplit(url).query))
        self.asked.append(asked)
        code = secrets.token_urlsafe(24)
        self.codes[code] = {**asked, "user": self.user}
        answer: dict[str, Any] = {"code": code, "state": asked["state"], "iss": self.issuer, **changes}
        return f"{urlsplit(asked['redirect_uri']).path}?{urlencode(without(answer))}"

    async def get(self, url: str, accept: str = "application/json") -> Fetched:
        self.gets.append(url)
        await asyncio.sleep(self.wait)
        if self.down:
            raise DependencyFault("fetch", "down")
        if url == f"{self.issuer}/.well-known/openid-configuration":
            return _json(200, self._metadata())
        if url == f"{self.issuer}/jwks":
            return _json(200, {"keys": self.published})
        return Fetched(404, {}, b"")

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        self.posted_to.append(url)
        form = dict(parse_qsl(body.decode()))
        self.forms.append(form)
        self.authorization.append(headers.get("authorization", ""))
        await asyncio.sleep(self.wait)
        if self.down:
            raise DependencyFault("fetch", "down")
        if self.token_status != 200:
            return _json(self.token_status, {"error": "invalid_client", **self.answer})
        grant = self.codes.pop(form.get("code", ""), None)
        challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if (
            grant is None
            or not self._authenticated(form, headers)
            or form["redirect_uri"] != grant["redirect_uri"]
            or urlsafe_b64encode(challenge).rstrip(b"=").decode() != grant["code_challenge"]
        ):
            return _json(400, {"error": "invalid_grant"})
        token = {
            "access_token": f"provider-access-{grant['user']}",
            "refresh_token": f"provider-refresh-{grant['user']}",
            "token_type": "Bearer",
            "expires_in": 300,
            "id_token": self.id_token(grant),
            **self.answer,
        }
        return _json(200, without(token))

    def id_token(self, grant: Mapping[str, str]) -> str:
        now = int(self.clock()) + self.skew
        access = f"provider-access-{grant['user']}"
        honest = {
            "iss": self.issuer, "sub": grant["user"], "aud": self.client_id, "iat": now, "exp": now + 300,
            "nonce": grant["nonce"], "at_hash": half_hash(access, self.key.algorithm), "name": grant["user"].title(),
            "groups": ["staff"], "amr": ["pwd"], "acr": "1", "auth_time": now - 5,
        }  # fmt: skip
        return self.key.sign(self.key.header(typ="JWT"), without({**honest, **self.claims}))

    def _authenticated(self, form: Mapping[str, str], headers: Mapping[str, str]) -> bool:
        basic = headers.get("authorization", "")
        if basic:
            name, _, secret = b64decode(basic.removeprefix("Basic ")).decode().partition(":")
            return (unquote_plus(name), unquote_plus(secret)) == (self.client_id, self.client_secret)
        given = (form.get("client_id"), form.get("client_secret", self.client_secret))
        return given == (self.client_id, self.client_secret)

    def _metadata(self) -> dict[str, Any]:
        honest = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/auth",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "response_types_supported": ["code", "id_token"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        return without({**honest, **self.metadata})


def _json(status: int, document: Mapping[str, Any]) -> Fetched:
    return Fetched(status, {"content-type": "application/json"}, json.dumps(document).encode())
