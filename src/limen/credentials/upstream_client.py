"""Who we are at the authorization server of a server behind us, and what we send to its token endpoint.

Priority (MCP client registration): written down by the operator, our metadata document, dynamic registration. What was
registered is kept by issuer and used at that issuer only.
"""

from __future__ import annotations

import asyncio
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Literal, cast
from urllib.parse import quote_plus, urlencode, urlsplit

import orjson

from limen.core.faults import DependencyFault
from limen.core.ports import Exchange, Fetched, Sealer, Table
from limen.credentials.discovery import AuthorizationServer
from limen.protocol.jsonrpc import JsonLimits, NotJson, parse

Method = Literal["none", "client_secret_basic", "client_secret_post"]
METHODS: Final = ("client_secret_basic", "client_secret_post", "none")  # a server can keep a secret
_PORT: Final = "upstream sign-in"
_PREFIX: Final = "upstream-client/"
_OWNER: Final = "limen"
_LIMITS: Final = JsonLimits(size=256 << 10, depth=16, members=512, string=64 << 10)
_CODE: Final = re.compile(r"[a-zA-Z0-9_.-]{1,64}\Z")
_VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,16384}\Z")
_FORM: Final = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
_GRANTS: Final = ("authorization_code", "refresh_token")


class Denied(Exception):
    """The token endpoint said no, in OAuth's words (RFC 6749 section 5.2). `code` is safe for the log."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Identity:
    """One client of one authorization server."""

    id: str
    method: Method = "none"
    secret: str = field(default="", repr=False)
    source: Literal["configured", "metadata", "registered"] = "configured"


@dataclass(frozen=True, slots=True)
class Granted:
    """A successful token response. `lasts`: seconds, 0 where the server does not say."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    lasts: float
    scopes: tuple[str, ...] | None  # None: as asked (RFC 6749 section 5.1)


class Clients:
    """Our clients elsewhere. `base`: our own public URL, under which our metadata document is served."""

    def __init__(
        self, base: str, table: Table, sealer: Sealer, name: str = "Limen", now: Callable[[], float] = time.time
    ) -> None:
        self._table, self._sealer, self._name, self._now = table, sealer, name, now
        self.redirect_uri = f"{base}/oauth/connected"
        self.document_url = f"{base}/oauth/client"
        self._secure = base.startswith("https:")
        self._base = base

    def document(self) -> dict[str, Any]:
        """Our Client ID Metadata Document, served at the URL that is our client id."""
        return {"client_id": self.document_url, "client_uri": self._base, **self._metadata("none", "web")}

    async def at(self, server: AuthorizationServer, exchange: Exchange) -> Identity:
        """Who we are there, registered if need be. Raises DependencyFault. Reads and writes the table."""
        if server.documents and self._secure:
            return Identity(self.document_url, source="metadata")
        key = _PREFIX + sha256(server.issuer.encode()).hexdigest()
        known = await asyncio.to_thread(self._known, key)
        if known is not None:
            return known
        if not server.registration_endpoint:
            raise _fault(server.issuer, "takes no metadata documents and registers nobody: write down a `client`")
        told, method = await self._register(server, exchange)
        return await asyncio.to_thread(self._keep, key, server, told, method)

    def _known(self, key: str) -> Identity | None:
        raw = self._table.get(key)
        return self._read(key, raw) if raw is not None else None

    def forget(self, issuer: str) -> None:
        """The authorization server does not know our registration any more: register again next time."""
        key = _PREFIX + sha256(issuer.encode()).hexdigest()
        self._table.swap(key, self._table.get(key), None)

    async def _register(self, server: AuthorizationServer, exchange: Exchange) -> tuple[dict[str, Any], str]:
        method = next((one for one in METHODS if one in server.methods), None)
        if method is None:
            raise _fault(server.issuer, f"wants client authentication we do not have: {', '.join(server.methods)}")
        # OpenID Connect Registration section 2: a web client redirects to https, so on loopback we are none.
        body = orjson.dumps(self._metadata(method, "web" if self._secure else "native"))
        headers = {"content-type": "application/json", "accept": "application/json"}
        answer = await exchange.post(server.registration_endpoint, body, headers)
        told = _object(server.registration_endpoint, answer)
        if answer.status not in (200, 201):
            raise _fault(server.registration_endpoint, f"refused to register us: {_code(told)}")
        return told, method

    def _keep(self, key: str, server: AuthorizationServer, told: Mapping[str, Any], method: str) -> Identity:
        given, identifier = told.get("token_endpoint_auth_method", method), told.get("client_id")
        secret, until = told.get("client_secret", ""), told.get("client_secret_expires_at")
        if type(identifier) is not str or not _VISIBLE.match(identifier) or given not in METHODS:
            raise _fault(server.registration_endpoint, "registered us without a client_id or with another method")
        if type(secret) is not str or (given != "none" and not secret):
            raise _fault(server.registration_endpoint, "registered us without a client_secret")
        sealed = b64encode(self._sealer.seal(_OWNER, key, secret.encode())).decode()
        record = orjson.dumps({"issuer": server.issuer, "id": identifier, "method": given, "secret": sealed})
        expires = float(until) if type(until) is int and until > self._now() else None
        if not self._table.swap(key, None, record, expires):  # another replica was first: one client is enough
            record = self._table.get(key) or record
        return self._read(key, record)

    def _read(self, key: str, raw: bytes) -> Identity:
        record = orjson.loads(raw)
        secret = self._sealer.open(_OWNER, key, b64decode(record["secret"])).decode()
        return Identity(record["id"], record["method"], secret, "registered")

    def _metadata(self, method: str, kind: str) -> dict[str, Any]:
        return {
            "client_name": self._name,
            "redirect_uris": [self.redirect_uri],
            "grant_types": list(_GRANTS),
            "response_types": ["code"],
            "token_endpoint_auth_method": method,
            "application_type": kind,
        }


async def token(exchange: Exchange, endpoint: str, client: Identity, form: Mapping[str, str]) -> Granted:
    """One token request. Raises Denied for an OAuth error and DependencyFault for anything else that is no token."""
    answer = await exchange.post(endpoint, *_signed(client, form))
    told = _object(endpoint, answer)
    if answer.status != 200:
        if answer.status in (400, 401, 403) and "error" in told:
            raise Denied(_code(told))
        wait = answer.headers.get("retry-after", "")
        after = float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 6 else 0.0
        raise DependencyFault(_PORT, f"{_host(endpoint)}: status {answer.status}", retry_after=after)
    access, refresh = told.get("access_token"), told.get("refresh_token", "")
    if str(told.get("token_type", "")).lower() != "bearer":
        raise _fault(endpoint, "gave a token that is not of the type Bearer")
    if type(access) is not str or not _VISIBLE.match(access):
        raise _fault(endpoint, "gave no access token, or one that cannot be sent")
    if type(refresh) is not str or (refresh and not _VISIBLE.match(refresh)):
        raise _fault(endpoint, "gave a refresh token that cannot be sent")
    lasts, scope = told.get("expires_in", 0), told.get("scope")
    return Granted(
        access,
        refresh,
        float(min(max(lasts, 0), 31_536_000)) if type(lasts) is int else 0.0,
        tuple(scope.split()) if type(scope) is str else None,
    )


async def revoke(exchange: Exchange, endpoint: str, client: Identity, refresh: str, access: str) -> None:
    """End a token where it came from (RFC 7009). Raises DependencyFault when the server did not say it is done."""
    for text, hint in ((refresh, "refresh_token"), (access, "access_token")):
        if text:
            answer = await exchange.post(endpoint, *_signed(client, {"token": text, "token_type_hint": hint}))
            if answer.status == 400 and _object(endpoint, answer).get("error") == "unsupported_token_type":
                continue  # RFC 7009 section 2.2.1: some cannot be ended, they run out
            if answer.status != 200:
                raise DependencyFault(_PORT, f"{_host(endpoint)}: status {answer.status} to a revocation")


def _signed(client: Identity, form: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """The form with our authentication (RFC 6749 section 2.3.1), in one way only."""
    if client.method == "client_secret_basic":
        pair = f"{quote_plus(client.id)}:{quote_plus(client.secret)}"
        headers = {**_FORM, "authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        return urlencode(form).encode(), headers
    more = {"client_secret": client.secret} if client.method == "client_secret_post" else {}
    return urlencode({**form, "client_id": client.id, **more}).encode(), dict(_FORM)


def _object(url: str, answer: Fetched) -> dict[str, Any]:
    """The JSON object of an answer; an empty one where an error has none."""
    try:
        value = parse(answer.body, _LIMITS)
    except NotJson:
        value = None
    if type(value) is dict:
        return cast("dict[str, Any]", value)
    if 200 <= answer.status < 300:
        raise _fault(url, "answered with something else than a JSON object")
    return {}


def _code(told: Mapping[str, Any]) -> str:
    code = told.get("error")
    return code if type(code) is str and _CODE.match(code) else "an error without a known name"


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _fault(url: str, what: str) -> DependencyFault:
    return DependencyFault(_PORT, f"{_host(url) or url[:100]}: {what}", retryable=False)
