"""Where the provider answers and which keys it signs with, by its own metadata and nothing else.

OpenID Connect Discovery 1.0, RFC 8414. The metadata names exactly the configured issuer, or is not used (OA-47).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from limen.core.addresses import is_loopback
from limen.core.faults import DependencyFault
from limen.core.ports import Exchange
from limen.oauth.fresh import Fresh
from limen.oauth.web import plain_url
from limen.protocol.jsonrpc import JsonLimits, NotJson, parse

DOCUMENT: Final = JsonLimits(size=512 << 10, depth=16, members=10_000, string=64 << 10)


class Compact(Protocol):
    """A well-formed compact JWS of which nothing is proven."""

    @property
    def algorithm(self) -> str: ...
    @property
    def kid(self) -> str | None: ...
    @property
    def issuer(self) -> str: ...
    @property
    def claims(self) -> dict[str, Any]: ...


class Keys(Protocol):
    """A published key set."""

    def find(self, algorithm: str, kid: str | None) -> tuple[Any, ...]:
        """Those that fit. Without a `kid` every key of the algorithm fits."""
        ...


@dataclass(frozen=True, slots=True)
class Jose:
    """Reads and verifies signed tokens, as it is done for access tokens: handed in by the composition root."""

    read: Callable[[bytes], Compact]  # raises ValueError for what is not one strict compact JWS
    keys: Callable[[bytes, frozenset[str] | None], Keys]  # of a JWK set and for whom its keys are; raises ValueError
    holds: Callable[[bytes, Any, tuple[str, ...]], bool]  # token, key, algorithms


@dataclass(frozen=True, slots=True)
class Server:
    """An authorization server as its metadata has it."""

    issuer: str
    authorization: str
    token: str
    jwks: str
    names_itself: bool  # each answer carries `iss` (RFC 9207)
    methods: tuple[str, ...] = ("client_secret_basic",)  # how a client may show at the token endpoint who it is


class ProviderMetadata:
    """The metadata and keys of one issuer, as they are now."""

    def __init__(
        self, issuer: str, marks: frozenset[str] | None, exchange: Exchange, jose: Jose, now: Callable[[], float]
    ) -> None:
        """`marks`: in a key set that several issuers share, those of keys that are for this one."""
        self._issuer, self._marks, self._exchange, self._jose, self._now = issuer, marks, exchange, jose, now
        self._server = Fresh(self._discover, now)
        self._keys: dict[str, Fresh[Keys]] = {}

    async def server(self) -> Server:
        """Raises DependencyFault."""
        return await self._server.get()

    async def find(self, jwks: str, algorithm: str, kid: str | None) -> tuple[Any, ...]:
        """Keys published there that fit; for a name nobody knows it looks once more (OA-50). Raises DependencyFault."""
        published = self._keys.get(jwks)
        if published is None:
            self._keys.clear()  # the provider has moved: one place at a time
            published = self._keys[jwks] = Fresh(lambda: self._fetch_keys(jwks), self._now)
        found = (await published.get()).find(algorithm, kid)
        return found or (await published.get(anew=True)).find(algorithm, kid)

    async def _fetch_keys(self, jwks: str) -> Keys:
        return self._jose.keys(await self._document(jwks), self._marks)

    async def _discover(self) -> Server:
        problems = []
        for url in metadata_urls(self._issuer):
            try:
                return read_server(self._issuer, await self._document(url))
            except (DependencyFault, ValueError) as error:
                problems.append(f"{url}: {error}")
        raise DependencyFault("identity provider", "; ".join(problems))

    async def _document(self, url: str) -> bytes:
        answer = await self._exchange.get(url)
        if answer.status != 200:
            raise DependencyFault("identity provider", f"{url}: status {answer.status}")
        return answer.body


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where the metadata of somebody who signs people in may be, best first."""
    parts = urlsplit(issuer)
    oidc = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    return oidc, f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path.rstrip('/')}"


def read_server(issuer: str, data: bytes) -> Server:
    """The metadata of exactly this issuer (RFC 8414 section 3.3). Raises ValueError, naming the member."""
    try:
        document: Any = parse(data, DOCUMENT)
    except NotJson as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        said = document.get("issuer") if isinstance(document, dict) else None
        raise ValueError(f"issuer: the metadata is of {said!r}, not of {issuer!r}")
    if "S256" not in _listed(document, "code_challenge_methods_supported", ("S256",)):  # not every provider says it
        raise ValueError("code_challenge_methods_supported: not S256")
    if "code" not in _listed(document, "response_types_supported", ("code",)):
        raise ValueError("response_types_supported: not code")
    offered = _listed(document, "token_endpoint_auth_methods_supported", ("client_secret_basic",))
    return Server(
        issuer,
        _endpoint(document, "authorization_endpoint", issuer, query=True),
        _endpoint(document, "token_endpoint", issuer),
        _endpoint(document, "jwks_uri", issuer),
        document.get("authorization_response_iss_parameter_supported") is True,
        offered,
    )


def _listed(document: dict[str, Any], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = document.get(name, list(default))
    if not isinstance(value, list):
        raise ValueError(f"{name}: not a list")
    return tuple(one for one in value if isinstance(one, str))


def _endpoint(document: dict[str, Any], name: str, issuer: str, *, query: bool = False) -> str:
    url = document.get(name)
    if not isinstance(url, str):
        raise ValueError(f"{name}: missing")
    try:
        plain_url(url, query=query)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if is_loopback(urlsplit(url).hostname or "") and not is_loopback(urlsplit(issuer).hostname or ""):
        raise ValueError(f"{name}: points back at this machine")
    return url
