"""The token endpoint of another authorization server: one form there, one token or one refusal back."""

from __future__ import annotations

import asyncio
import secrets
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote_plus, urlencode, urlsplit

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from limen.core.encoding import encode_base64url
from limen.core.faults import DependencyFault, InvariantFault
from limen.core.ports import Exchange, Fetched
from limen.credentials.settings import Server

_TOKEN: Final = frozenset(map(chr, range(0x21, 0x7F)))  # what a header can carry; RFC 6750 section 2.1 allows less
_LONGEST: Final = 32 << 10
_UNSAID: Final = 60.0  # seconds a token is taken to be good for when nobody says
_LONGEST_LIFE: Final = 86_400.0
_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_OWN_FAULT: Final = frozenset({"invalid_client", "unauthorized_client", "unsupported_grant_type"})
_AWAY: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds not to ask again, after one failure, two, ...
_FORGET: Final = 3600.0  # seconds metadata is good for
_KEYS: Final = ((ECKey, "ES256"), (OKPKey, "EdDSA"), (RSAKey, "PS256"))


class Denied(Exception):
    """The authorization server said no (RFC 6749 section 5.2). `code` is its word for it, as far as it is printable."""

    def __init__(self, code: str, detail: str, claims: str = "") -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail, self.claims = code, detail, claims


@dataclass(frozen=True, slots=True)
class Granted:
    """A token response."""

    access: str = field(repr=False)
    expires: float  # seconds since the epoch
    refresh: str = field(default="", repr=False)
    identity: str = field(default="", repr=False)  # ID token
    issued: str = ""  # issued_token_type (RFC 8693 section 2.2.1)
    scopes: tuple[str, ...] = ()


class Endpoint:
    """Asks one authorization server for tokens, as the client we are there.

    After a failure it is left alone: for as long as it asked for (Retry-After), else for longer each time.
    """

    def __init__(self, server: Server, web: Exchange, now: Callable[[], float] = time.time) -> None:
        self._server, self._web, self._now = server, web, now
        self._url, self._read = server.token_endpoint or "", 0.0
        self._not_before, self._failures = 0.0, 0
        self._why = ""
        self._finding: asyncio.Task[str] | None = None
        self._key, self._header = _signing(server)

    @property
    def issuer(self) -> str:
        """As configured; "" where only the endpoint is."""
        return self._server.issuer or ""

    async def token(self, form: Mapping[str, str | tuple[str, ...]], bearer: str = "Bearer") -> Granted:
        """The answer to this form (empty values are left out, tuples are repeated).

        Raises Denied, and DependencyFault for everything that is neither a token nor a refusal of this request.
        `bearer` is the token_type that is expected.
        """
        answer = await self._posted(form)
        document = _object(answer.body)
        if answer.status == 200:
            self._failures = 0
            return self._granted(document, bearer)
        code = _words(document.get("error"))
        if answer.status in (400, 401, 403) and code and code not in _OWN_FAULT:
            self._failures = 0
            claims = document.get("claims")
            raise Denied(code, _words(document.get("error_description")), claims if isinstance(claims, str) else "")
        raise self._failed(f"status {answer.status} {code}".strip(), _seconds(answer), retryable=code not in _OWN_FAULT)

    async def _posted(self, form: Mapping[str, str | tuple[str, ...]]) -> Fetched:
        if self._now() < self._not_before:
            raise self._fault(self._why)
        url = await self._find()
        pairs = [(name, one) for name, value in form.items() for one in ((value,) if isinstance(value, str) else value)]
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        pairs += self._proof(url, headers)
        try:
            return await self._web.post(url, urlencode([pair for pair in pairs if pair[1]]).encode("ascii"), headers)
        except DependencyFault as fault:
            raise self._failed(str(fault), fault.retry_after) from None

    def _proof(self, url: str, headers: dict[str, str]) -> list[tuple[str, str]]:
        """Client authentication: added to the headers, or the parameters it takes."""
        client = self._server.client
        if client.secret is not None:
            secret = client.secret.get_secret_value()
            if client.send == "body":
                return [("client_id", client.id), ("client_secret", secret)]
            pair = f"{quote_plus(client.id)}:{quote_plus(secret)}"  # RFC 6749 section 2.3.1
            headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
            return []
        if self._key is None:
            return [("client_id", client.id)]
        at = int(self._now())
        claims = {"iss": client.id, "sub": client.id, "aud": url, "iat": at, "nbf": at, "exp": at + 120}
        claims["jti"] = secrets.token_urlsafe(24)
        algorithm = str(self._header["alg"])
        signed = jwt.encode(dict(self._header), claims, self._key, algorithms=[algorithm])
        return [("client_id", client.id), ("client_assertion_type", _ASSERTION), ("client_assertion", signed)]

    def _granted(self, document: Mapping[str, Any], bearer: str) -> Granted:
        access, lasts = document.get("access_token"), document.get("expires_in")
        if not isinstance(access, str) or not 0 < len(access) <= _LONGEST or not _TOKEN.issuperset(access):
            raise self._failed("a token response without a token that can be sent")
        if str(document.get("token_type")).casefold() != bearer.casefold():
            raise self._failed(f"a token that is not of type {bearer}")
        if isinstance(lasts, str) and lasts.isascii() and lasts.isdigit():  # Entra v1 and others
            lasts = int(lasts[:9])
        life = _UNSAID
        if isinstance(lasts, int | float) and type(lasts) is not bool and lasts > 0:
            life = min(float(lasts), _LONGEST_LIFE) if lasts < 1e9 else _LONGEST_LIFE
        scope = document.get("scope")
        return Granted(
            access,
            self._now() + life,
            _text(document.get("refresh_token")),
            _text(document.get("id_token")),
            _text(document.get("issued_token_type")),
            tuple(scope.split()) if isinstance(scope, str) else (),
        )

    async def _find(self) -> str:
        """Where the token endpoint is. One look at the metadata for all who wait."""
        if self._server.token_endpoint is not None or (self._url and self._now() - self._read < _FORGET):
            return self._url
        if self._finding is None:
            self._finding = asyncio.ensure_future(self._discover(self.issuer))
            self._finding.add_done_callback(self._found)
        return await asyncio.shield(self._finding)

    def _found(self, task: asyncio.Task[str]) -> None:
        self._finding = None
        if not task.cancelled() and task.exception() is None:
            self._url, self._read = task.result(), self._now()

    async def _discover(self, issuer: str) -> str:
        """The token endpoint its metadata names, if that is the metadata of this very issuer and the endpoint is its
        own (RFC 8414 sections 3 and 3.3; OpenID Connect Discovery section 4)."""
        last = "no metadata"
        for url in metadata_urls(issuer):
            try:
                answer = await self._web.get(url)
            except DependencyFault as fault:
                raise self._failed(str(fault), fault.retry_after) from None
            if answer.status >= 500 or answer.status == 429:
                raise self._failed(f"metadata: status {answer.status}", _seconds(answer))
            document = _object(answer.body) if answer.status == 200 else {}
            if not document:
                continue
            named = document.get("token_endpoint")
            if document.get("issuer") != issuer:
                last = "the metadata is of another issuer"
            elif not isinstance(named, str) or _origin(named) != _origin(issuer):
                last = "the token endpoint is elsewhere: write token_endpoint to trust it"
            else:
                return named
            break
        raise self._failed(last)

    def _failed(self, why: str, away: float = 0.0, *, retryable: bool = True) -> DependencyFault:
        pause = away or _AWAY[min(self._failures, len(_AWAY) - 1)]
        self._failures += 1
        self._not_before, self._why = self._now() + pause, why
        return self._fault(why, retryable=retryable)

    def _fault(self, why: str, *, retryable: bool = True) -> DependencyFault:
        host = urlsplit(self.issuer or self._server.token_endpoint or "").netloc
        left = max(self._not_before - self._now(), 0.0)
        return DependencyFault("credentials", f"{host}: {why}", retryable=retryable, retry_after=left)


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where the metadata of an issuer may be, in the order MCP 2026-07-28 asks for."""
    parts = urlsplit(issuer)
    base, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    oauth, openid = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
    if not path:
        return f"{base}{oauth}", f"{base}{openid}"
    return f"{base}{oauth}{path}", f"{base}{openid}{path}", f"{base}{path}{openid}"


def _signing(server: Server) -> tuple[Key | None, Mapping[str, str]]:
    """The key of private_key_jwt and the header of its assertions."""
    client = server.client
    if client.key is None:
        return None, {}
    for kind, usual in _KEYS:
        try:
            key = kind.import_key(client.key.get_secret_value())
        except JoseError:
            continue
        header = {"alg": client.algorithm or usual, "typ": "JWT"}
        if client.key_id:
            header["kid"] = client.key_id
        if client.certificate is not None:
            shown = x509.load_pem_x509_certificate(client.certificate.encode()).fingerprint(hashes.SHA256())
            header["x5t#S256"] = encode_base64url(shown)
        return key, header
    raise InvariantFault("the settings let a key through that nothing signs with")


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _text(value: object) -> str:
    """A token-like member, or "" for anything else."""
    return value if isinstance(value, str) and len(value) <= _LONGEST and _TOKEN.issuperset(value) else ""


def _words(value: object) -> str:
    """What an operator may read in the log: printable, short."""
    return "".join(c if c.isprintable() else "?" for c in value)[:300] if isinstance(value, str) else ""


def _seconds(answer: Fetched) -> float:
    told = answer.headers.get("retry-after", "")
    return min(float(told), 3600.0) if told.isascii() and told.isdigit() and len(told) < 10 else 0.0


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return "", "", None
