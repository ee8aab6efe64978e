"""Opaque tokens: what their issuer says about them right now (RFC 7662). A yes is remembered for a minute at most."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Verdict, refuse
from limen.identity.discovery import discover
from limen.identity.issuers import IdentitySettings, Issuer, Issuers
from limen.identity.token import MAX_TOKEN, Compact, TokenRefused, read_caller
from limen.protocol.jsonrpc import JsonLimits, NotJson, parse

NEGATIVE: Final = 5.0  # seconds a no is good for
_FLIGHTS: Final = 16  # questions under way at the issuer
_WAITING: Final = 512  # tokens that wait for one of them
_LIMITS: Final = JsonLimits(size=64 << 10, depth=16, members=2000, string=64 << 10)
_ACCESS: Final = frozenset({"bearer", "dpop"})
Claims = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Answer:
    claims: Claims | None  # None: not active
    until: float


class Introspector:
    """Asks one issuer about tokens, each once at a time. Knows no token, only digests of tokens."""

    def __init__(self, issuer: Issuer, settings: IdentitySettings, now: Any, capacity: int = 10_000) -> None:
        assert issuer.settings.introspection is not None
        self._issuer, self._identity, self._now = issuer, settings, now
        self._settings = issuer.settings.introspection
        self._known: dict[bytes, _Answer] = {}
        self._flights: dict[bytes, asyncio.Task[_Answer]] = {}
        self._capacity, self._slots = capacity, asyncio.Semaphore(_FLIGHTS)
        self._endpoint = self._settings.endpoint

    def forget(self) -> None:
        """Ask anew about every token; answers under way are not remembered either."""
        self._known.clear()
        self._flights.clear()

    async def verify(self, token: bytes, resource: str) -> Verdict:
        """Judge one opaque token for one resource, by the same rules as a JWT.

        Refusals: identity.invalid, identity.audience, identity.expired. Raises DependencyFault when the issuer cannot
        be asked: a token of which nothing is known opens nothing.
        """
        if len(token) > MAX_TOKEN:
            return refuse("identity.invalid", "larger than a token may be")
        digest = sha256(token).digest()
        answer = self._known.get(digest)
        if answer is None or self._now() >= answer.until:
            answer = await self._asked(digest, token)
        if answer.claims is None:
            return refuse("identity.invalid", "the issuer does not call it active")
        # `at+jwt`: what kind of token it is was settled when the answer was read.
        compact = Compact(token, "", None, "at+jwt", self._issuer.settings.issuer, answer.claims)
        try:
            caller = read_caller(compact, self._issuer.settings, self._identity, resource, self._now())
        except TokenRefused as refused:
            return refuse(refused.reason, refused.detail)
        return Pass((caller,))

    async def _asked(self, digest: bytes, token: bytes) -> _Answer:
        flight = self._flights.get(digest)
        if flight is None:
            if len(self._flights) >= _WAITING:
                raise DependencyFault("identity provider", "too many tokens wait for introspection")
            flight = self._flights[digest] = asyncio.get_running_loop().create_task(self._ask(digest, token))
            flight.add_done_callback(lambda done: self._landed(digest, done))
        return await asyncio.shield(flight)  # a caller that gives up must not take the others' answer with it

    def _landed(self, digest: bytes, flight: asyncio.Task[_Answer]) -> None:
        if self._flights.get(digest) is not flight:
            return  # asked before `forget`
        del self._flights[digest]
        if flight.cancelled() or flight.exception() is not None:
            return
        self._known.pop(digest, None)
        while len(self._known) >= self._capacity:
            self._known.pop(next(iter(self._known)))
        self._known[digest] = flight.result()

    async def _ask(self, digest: bytes, token: bytes) -> _Answer:
        fetch, issuer = self._issuer.fetch, self._issuer.settings.issuer
        async with self._slots:
            if self._endpoint is None:
                own = self._issuer.settings.rules.metadata
                self._endpoint = await discover(issuer, fetch, "introspection_endpoint", own)
            form = {"token": token.decode("ascii", "replace"), "token_type_hint": "access_token"}
            secret = self._settings.client_secret.get_secret_value()
            data = await fetch.post_form(self._endpoint, form, self._settings.client_id, secret)
        claims, now = _read(data, issuer), self._now()
        if claims is None:
            return _Answer(None, now + NEGATIVE)
        return _Answer(claims, now + self._settings.cache)


def _read(data: bytes, issuer: str) -> Claims | None:
    """The claims of an active access token, or None (RFC 7662 section 2.2). Raises DependencyFault if unreadable.

    `active` is exactly true. A refresh token is active as well, so the answer has to say that this is none.
    """
    try:
        answer = parse(data, _LIMITS)
    except NotJson as error:
        raise DependencyFault("identity provider", f"introspection: {error}") from None
    if not isinstance(answer, dict):
        raise DependencyFault("identity provider", "introspection: the answer is no JSON object")
    kind = answer.get("token_type", answer.get("typ"))
    if answer.get("active") is not True or not isinstance(kind, str) or kind.casefold() not in _ACCESS:
        return None
    if answer.get("iss", issuer) != issuer:
        return None
    if kind.casefold() == "dpop" and "cnf" not in answer:
        return None  # bound to a key that we are not told
    if answer.get("token_use") == "access_token":
        answer["token_use"] = "access"
    if "client_id" in answer:
        answer.setdefault("sub", answer["client_id"])  # of nobody else: a client that acts for itself
    return {name: value for name, value in answer.items() if name not in ("active", "token_type")}


def introspector(issuers: Issuers, settings: IdentitySettings) -> Introspector | None:
    """The one issuer that is asked about opaque tokens, if there is one."""
    for one in settings.each_issuer:
        if one.introspection is not None and (issuer := issuers.find(one.issuer)) is not None:
            return Introspector(issuer, settings, issuers.now)
    return None
