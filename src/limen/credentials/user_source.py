"""The credential of a server at which each caller has an account of their own: their token, or the way to one."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from limen.core.call import Call, Caller, Context, Era, Session, UpstreamCredential
from limen.core.verdict import Pass, Refuse, Verdict, refuse
from limen.credentials.attach import checked
from limen.credentials.challenge import bearer, scopes
from limen.credentials.connection import Person
from limen.credentials.discovery import Place
from limen.credentials.linking import Linking
from limen.credentials.user_grants import MARGIN, Held, UserGrants
from limen.protocol.methods import LATEST_HANDSHAKE

BELIEVED: Final = 1.0  # seconds in which the end of a connection reaches every replica
AGAIN: Final = 600.0  # seconds in which scopes are asked for, or a token is given up, once (OA-95)
_CALLERS: Final = 10_000
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Known:
    answer: Pass
    until: float  # monotonic: when to look at the record again
    held: Held


@dataclass(frozen=True, slots=True)
class _Rejected:
    """What the server thought of a token, and when (seconds since the epoch)."""

    at: float
    serial: int
    missing: tuple[str, ...]  # scopes; none: the token itself is not good
    challenge: str
    dead: bool = False  # it had been renewed because the one before was not taken either


class UserSource:
    """Implements Source for one server.

    `person` says who of the provider's people a caller is: None for programs and for callers the provider does not
    know. `fixed`: headers of the server's configuration that go along.
    """

    def __init__(
        self,
        place: Place,
        grants: UserGrants,
        linking: Linking,
        person: Callable[[Caller], Person | None],
        *,
        header: str = "authorization",
        fixed: Sequence[tuple[str, str]] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._place, self._grants, self._linking, self._person, self._now = place, grants, linking, person, now
        self._header = header.lower()
        self._fixed = tuple(pair for pair in checked(place.name, fixed) if pair[0] != self._header)
        self._scheme = "Bearer " if self._header == "authorization" else ""
        self._known: OrderedDict[_Key, _Known] = OrderedDict()
        self._rejected: OrderedDict[_Key, _Rejected] = OrderedDict()
        self._again: OrderedDict[_Key, float] = OrderedDict()  # when a person was asked to connect once more

    def credential(self, context: Context) -> Verdict | Awaitable[Verdict]:
        """The caller's own token at once while it was looked at within a second, else after a look."""
        caller = context.get(Caller)
        known = self._known.get((caller.issuer, caller.subject))
        if known is not None and known.until > time.monotonic():
            return known.answer
        return self._find(context, caller)

    async def _find(self, context: Context, caller: Caller) -> Verdict:
        person = self._person(caller)
        if person is None:
            return refuse("credentials.person", f"{self._place.name} is reached with accounts of people only")
        key = (caller.issuer, caller.subject)
        rejected = self._rejected.get(key)
        if rejected is not None and rejected.at + AGAIN < self._now():
            del self._rejected[key]
            rejected = None
        refused = rejected is not None and not rejected.missing and not rejected.dead
        unusable = rejected.serial if rejected is not None and refused else -1
        held = await self._grants.held(person, self._place.name, unusable)
        if held is None:
            self._known.pop(key, None)
            challenge = rejected.challenge if rejected is not None else ""
            return await self._ask(context, person, (), challenge)
        if rejected is not None and rejected.dead and held.connection.serial == rejected.serial:
            await self._grants.end(held.connection.key.partition("/")[2], "the server does not take its tokens")
            del self._rejected[key]
            _bounded(self._again, key, self._now())
            return await self._ask(context, person, (), rejected.challenge)
        if rejected is not None and rejected.missing and held.connection.serial == rejected.serial:
            return await self._more(context, person, held, rejected)
        answer = Pass((UpstreamCredential(self._headers(held.access)),))
        self._remember(key, held, answer)
        return answer

    async def _more(self, context: Context, person: Person, held: Held, rejected: _Rejected) -> Verdict:
        """The server wants more than was granted. A person is asked once in a while, within what an operator allows."""
        connection = held.connection
        wanted = tuple(dict.fromkeys((*connection.asked, *rejected.missing)))
        if self._place.scopes is not None and not set(wanted) <= set(self._place.scopes):
            return refuse("credentials.refused", f"wants {' '.join(rejected.missing)!r}, which `scopes` leaves out")
        if connection.stepped + AGAIN > self._now():
            return refuse("credentials.refused", "wants more scopes again, right after it was given more")
        return await self._ask(context, person, wanted, "")

    async def _ask(self, context: Context, person: Person, wanted: tuple[str, ...], challenge: str) -> Refuse:
        name = self._place.name
        id, url = await asyncio.to_thread(self._linking.offer, person, name, wanted, challenge)
        asked: dict[str, Any] = {"connect": url}
        if _opens_urls(context.call, context.find(Session)):
            asked["elicitation"] = {"id": id, "message": f"Connect your account at {name}, then try again."}
        return refuse("credentials.connect", f"no usable connection; asked as {id[:12]}", **asked)

    def _headers(self, access: str) -> tuple[tuple[str, str], ...]:
        """What the server gets to see. Raises ConfigFault for a token that cannot be sent."""
        return (*self._fixed, *checked(self._place.name, [(self._header, f"{self._scheme}{access}")]))

    def _remember(self, key: _Key, held: Held, answer: Pass) -> None:
        left = held.connection.expires - self._now() - MARGIN if held.connection.expires else BELIEVED
        if left > 0:
            _bounded(self._known, key, _Known(answer, time.monotonic() + min(BELIEVED, left), held))

    def rejected(self, caller: Caller, status: int, challenge: str) -> None:
        """A token was not taken: it is renewed before the next call; if that one is not taken either, the person is
        asked to connect once more; where scopes are missing, for those. Each of them once in a while."""
        key, now = (caller.issuer, caller.subject), self._now()
        known, told = self._known.pop(key, None), bearer(challenge)
        missing = scopes(told.get("scope", "")) if told.get("error") == "insufficient_scope" else ()
        if known is None or (status != 401 and not missing):
            return
        serial, before = known.held.connection.serial, self._rejected.get(key)
        renewed = before is not None and not before.missing and before.at + AGAIN > now and before.serial != serial
        dead = renewed and not missing
        if dead and self._again.get(key, 0.0) + AGAIN > now:
            return  # renewed, connected anew, renewed, and still not taken: that is the server's trouble
        _bounded(self._rejected, key, _Rejected(now, serial, missing, challenge, dead))

    def forget(self, caller: Caller) -> None:
        """Keep nothing in memory for this person; "" stands for any issuer or subject."""
        gone = [key for key in self._known if caller.issuer in ("", key[0]) and caller.subject in ("", key[1])]
        for key in gone:
            del self._known[key]

    async def close(self) -> None:
        """Let go of everything."""
        self._known.clear()


def _bounded(kept: OrderedDict[_Key, Any], key: _Key, value: object) -> None:
    """Remember it; the oldest caller goes first."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _CALLERS:
        kept.popitem(last=False)


def _opens_urls(call: Call, session: Session | None) -> bool:
    """Whether this client said that it can show a person a URL (elicitation in URL mode)."""
    if call.era is Era.MODERN:
        declared: Any = call.read_capabilities()
    elif call.revision < LATEST_HANDSHAKE or session is None:
        return False
    else:
        declared = orjson.loads(session.capabilities)
    elicitation = declared.get("elicitation") if isinstance(declared, Mapping) else None
    return isinstance(elicitation, Mapping) and isinstance(elicitation.get("url"), Mapping)


def persons(provider: str, own: str) -> Callable[[Caller], Person | None]:
    """Callers as the provider's people: those it vouches for itself, and those we signed in through it, whose tokens
    are ours and carry its subject. Programs are none."""

    def person(caller: Caller) -> Person | None:
        if caller.machine or caller.issuer not in (provider, own) or not caller.subject:
            return None
        if caller.issuer == own and caller.provider != provider:  # signed in when we stood in front of another one
            return None
        return Person(provider, caller.subject)

    return person
