"""Finds the authorization server of a server behind us (RFC 9728, RFC 8414, MCP authorization server discovery).

Whatever is read here was written by strangers. The first authorization server a server names is pinned; afterwards
another one is refused until an operator names it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import orjson

from limen.core.addresses import is_loopback
from limen.core.faults import DependencyFault
from limen.core.ports import Exchange, Fetched, Table
from limen.credentials.challenge import bearer, scopes
from limen.protocol.jsonrpc import JsonLimits, NotJson, parse

_PORT: Final = "upstream sign-in"
_PIN: Final = "upstream-issuer/"
_LIMITS: Final = JsonLimits(size=64 << 10, depth=8, members=512, string=8192)
_KEPT: Final = 300.0  # seconds a reading is good for
_RESOURCE: Final = "/.well-known/oauth-protected-resource"
_SERVER: Final = "/.well-known/oauth-authorization-server"
_OPENID: Final = "/.well-known/openid-configuration"
_PING: Final = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
_ASKING: Final = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@dataclass(frozen=True, slots=True)
class Place:
    """A configured server whose callers connect accounts of their own. `hosts`: hosts besides the issuer's own that
    its endpoints may be on; `private`: its authorization server may be in a private network."""

    name: str
    url: str
    issuer: str = ""
    hosts: frozenset[str] = frozenset()
    private: bool = False
    scopes: tuple[str, ...] | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # configured for every request to it


@dataclass(frozen=True, slots=True)
class AuthorizationServer:
    """What its metadata says, as far as we use it."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    registration_endpoint: str = ""
    revocation_endpoint: str = ""
    methods: tuple[str, ...] = ("client_secret_basic",)  # RFC 8414 section 2: the default
    scopes: tuple[str, ...] = ()
    documents: bool = False  # takes the URL of a metadata document for a client id
    says_issuer: bool = False  # `iss` is in its authorization responses (RFC 9207)


@dataclass(frozen=True, slots=True)
class Found:
    """Where a person connects an account, for which resource, and with which scopes to begin with."""

    resource: str
    server: AuthorizationServer
    scopes: tuple[str, ...]


class Discovery:
    """Reads metadata through `public`, or through `private` where the server itself is in a private network."""

    def __init__(
        self,
        public: Exchange,
        private: Exchange,
        table: Table,
        record: Callable[[str, Mapping[str, Any]], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._public, self._private, self._table, self._record, self._now = public, private, table, record, now
        self._found: dict[tuple[Place, str], tuple[float, Found]] = {}

    def exchange(self, place: Place) -> Exchange:
        """The way to everything that belongs to this server."""
        return self._private if is_inside(place) else self._public

    async def find(self, place: Place, challenge: str = "") -> Found:
        """Everything needed to begin. `challenge`: WWW-Authenticate as the server sent it; "": it is asked.

        Raises DependencyFault, whose text says which document and which member is wrong.
        """
        known = self._found.get((place, challenge))
        if known is not None and known[0] > self._now():
            return known[1]
        exchange = self.exchange(place)
        told = bearer(challenge or await self._challenge(exchange, place))
        document = await self._resource(exchange, place, told.get("resource_metadata", ""))
        issuer = await asyncio.to_thread(self._issuer, place, document)
        server = await self._metadata(exchange, place, issuer)
        asked = place.scopes
        if asked is None:
            asked = scopes(told.get("scope", "")) or _texts(document.get("scopes_supported"))
            if asked and "offline_access" in server.scopes and "offline_access" not in asked:
                asked = (*asked, "offline_access")
        found = Found(str(document.get("resource", place.url)), server, asked)
        await asyncio.to_thread(self._pin, place, server.issuer)
        if len(self._found) > 256:
            self._found.clear()
        self._found[place, challenge] = (self._now() + _KEPT, found)
        return found

    async def _challenge(self, exchange: Exchange, place: Place) -> str:
        answer = await exchange.post(place.url, _PING, {**_ASKING, **dict(place.headers)})
        return answer.headers.get("www-authenticate", "") if answer.status in (401, 403) else ""

    async def _resource(self, exchange: Exchange, place: Place, told: str) -> Mapping[str, Any]:
        """The protected resource metadata: where the challenge says, then below the path, then at the root."""
        parts = urlsplit(place.url)
        root = f"{parts.scheme}://{parts.netloc}"
        path = parts.path if parts.path != "/" else ""
        query = f"?{parts.query}" if parts.query else ""
        places = [told] if told else []
        if path or query:
            places.append(f"{root}{_RESOURCE}{path}{query}")
        places.append(f"{root}{_RESOURCE}")
        for url in places:
            if url == told:
                _check(url, place.url, place, "resource_metadata of the challenge")
            answer = await exchange.get(url)
            if answer.status != 200:
                continue
            document = _read(url, answer)
            # RFC 9728 section 3.3: what was asked for, exactly. The document at the root stands for the whole origin.
            allowed = (place.url, root, f"{root}/") if url == f"{root}{_RESOURCE}" else (place.url,)
            if (resource := document.get("resource")) not in allowed:
                raise _wrong(url, f"resource is {str(resource)[:200]!r} and not {place.url!r}")
            return document
        if place.issuer:
            return {"authorization_servers": [place.issuer]}
        raise _wrong(place.url, "has no protected resource metadata; name its `issuer` if it never will")

    def _issuer(self, place: Place, document: Mapping[str, Any]) -> str:
        """Which of the named authorization servers is asked. Raises DependencyFault when the known one is gone."""
        named = document.get("authorization_servers")
        if type(named) is not list or not named or any(type(one) is not str for one in named):
            raise _wrong(place.url, "authorization_servers is missing or not a list of texts")
        wanted = place.issuer or self._pinned(place)
        # Some servers write an issuer without a path with a slash behind. An operator's word settles which it is.
        known = [one.removesuffix("/") if place.issuer else one for one in named]
        if wanted and (wanted.removesuffix("/") if place.issuer else wanted) not in known:
            shown = ", ".join(named)[:300]
            self._record("upstream_issuer", {"server": place.name, "known": wanted, "named": shown, "accepted": False})
            raise _wrong(
                place.url, f"authorization_servers names {shown!r} and not {wanted!r}, the one it was connected with; "
                f"if that is right, set mcpServers.{place.name}.security.credential.issuer",
            )  # fmt: skip
        return wanted or str(named[0])

    def _pinned(self, place: Place) -> str:
        raw = self._table.get(_PIN + place.name)
        if raw is None:
            return ""
        known = orjson.loads(raw)
        return str(known["issuer"]) if known["url"] == place.url else ""  # another server: nothing is known of it

    def _pin(self, place: Place, issuer: str) -> None:
        if place.issuer or self._pinned(place):
            return
        key = _PIN + place.name
        if self._table.swap(key, self._table.get(key), orjson.dumps({"issuer": issuer, "url": place.url})):
            self._record("upstream_issuer", {"server": place.name, "named": issuer, "accepted": True})

    async def _metadata(self, exchange: Exchange, place: Place, issuer: str) -> AuthorizationServer:
        """RFC 8414 with the path inserted, then OpenID Connect inserted, then OpenID Connect appended."""
        parts = _check(issuer, issuer if not is_inside(place) else place.issuer or place.url, place, "issuer")
        if parts.query or parts.fragment:
            raise _wrong(issuer, "an issuer has neither query nor fragment (RFC 8414 section 2)")
        root, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
        urls = [f"{root}{_SERVER}{path}", f"{root}{_OPENID}{path}"] + ([f"{root}{path}{_OPENID}"] if path else [])
        for url in urls:
            answer = await exchange.get(url)
            if answer.status == 200:
                return _server(url, issuer, _read(url, answer), place)
        raise _wrong(issuer, "publishes no authorization server metadata")


def is_inside(place: Place) -> bool:
    """Whether the operator's own URL leads into a private network, or they said so."""
    host = urlsplit(place.url).hostname or ""
    try:
        return place.private or not ip_address(host).is_global
    except ValueError:
        return place.private or host == "localhost"


def _server(url: str, issuer: str, document: Mapping[str, Any], place: Place) -> AuthorizationServer:
    if document.get("issuer") != issuer:  # RFC 8414 section 3.3: compared as it is, never normalised
        raise _wrong(url, f"issuer is {str(document.get('issuer'))[:200]!r} and not {issuer!r}")
    if "S256" not in _texts(document.get("code_challenge_methods_supported")):
        raise _wrong(url, "code_challenge_methods_supported has no S256: PKCE is not to be relied on")

    def endpoint(name: str, *, needed: bool = False) -> str:
        value = document.get(name)
        if value is None and not needed:
            return ""
        if type(value) is not str:
            raise _wrong(url, f"{name} is missing or not a text")
        _check(value, issuer, place, name)
        return value

    return AuthorizationServer(
        issuer,
        endpoint("authorization_endpoint", needed=True),
        endpoint("token_endpoint", needed=True),
        endpoint("registration_endpoint"),
        endpoint("revocation_endpoint"),
        _texts(document.get("token_endpoint_auth_methods_supported")) or ("client_secret_basic",),
        _texts(document.get("scopes_supported")),
        document.get("client_id_metadata_document_supported") is True,
        document.get("authorization_response_iss_parameter_supported") is True,
    )


def _check(url: str, home: str, place: Place, what: str) -> SplitResult:
    """A URL somebody else wrote, as far as one can see: https (http where `home` is http on loopback), on the host of
    `home`, below it, or on one an operator named. Raises DependencyFault (OA-47, OA-48)."""
    base = urlsplit(home)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise _wrong(home, f"{what} is not a URL") from None
    shown = url[:200]
    if not url.isascii() or not url.isprintable() or any(char in url for char in " \"'<>\\^`{}|$;()"):
        raise _wrong(home, f"{what} has characters no URL has: {shown!r}")
    if parts.username is not None or parts.password is not None or "#" in url or not host:
        raise _wrong(home, f"{what} has a user or a fragment, or no host: {shown!r}")
    plain = parts.scheme == "http" and base.scheme == "http" and is_loopback(host) and is_inside(place)
    if parts.scheme != "https" and not plain:
        raise _wrong(home, f"{what} is not https: {shown!r}")
    own = (base.hostname or "").lower()
    if host.lower() != own and not host.lower().endswith(f".{own}") and host.lower() not in place.hosts:
        raise _wrong(
            home, f"{what} is on the host {host!r}; if that is right, add it to "
            f"mcpServers.{place.name}.security.credential.hosts",
        )  # fmt: skip
    return parts


def _read(url: str, answer: Fetched) -> Mapping[str, Any]:
    media = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise _wrong(url, "is not application/json")
    try:
        document = parse(answer.body, _LIMITS)
    except NotJson as error:
        raise _wrong(url, f"is not strict JSON: {error}") from None
    if type(document) is not dict:
        raise _wrong(url, "is not a JSON object")
    return document


def _texts(value: object) -> tuple[str, ...]:
    """A list of scope tokens or names; nothing where it is anything else."""
    return scopes(" ".join(value)) if type(value) is list and value and all(type(v) is str for v in value) else ()


def _wrong(url: str, what: str) -> DependencyFault:
    return DependencyFault(_PORT, f"{url[:200]}: {what}", retryable=False)
