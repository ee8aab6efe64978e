"""How likely is it that somebody else uses this session now? What changed, what that weighs, what follows (C4, C5).

Signals: another network, another user agent, a journey no traveller makes, a long silence, use from two networks in
turn. Each is remembered for a while and weighs once; the sum is the score. What one honest person does (moving between
networks, a VPN, a browser's update) stays below the limit that ends a session; two people at once do not.

An address is not a device: several people can share a network, and a thief in the victim's network raises nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Weight = Annotated[float, Field(ge=0, le=1)]
Locate = Callable[[str], tuple[float, float] | None]  # address -> latitude and longitude in degrees
Action = Literal["none", "record", "step_up", "end"]
PLACES: Final = 4
TOKENS: Final = 4
_REFUSED: Final = 16
_EARTH_KM: Final = 6371.0


class RiskWeights(BaseModel):
    """What each signal adds to the score."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    network: Weight = 0.3
    agent: Weight = 0.2
    travel: Weight = 0.4
    inactivity: Weight = 0.1
    concurrent: Weight = 0.3


class RiskSettings(BaseModel):
    """Above `step_up` the caller must sign in anew, above `end` the session ends. Times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    weights: RiskWeights = RiskWeights()
    step_up: Weight = Field(default=0.5, description="a score above this asks for a fresh sign-in; 1 never does")
    end: Weight = Field(default=0.7, description="a score above this ends the session; 1 never does")
    ipv4_prefix: Annotated[int, Field(ge=8, le=32)] = 24
    ipv6_prefix: Annotated[int, Field(ge=16, le=128)] = 48
    networks: tuple[str, ...] = Field(
        default=(), description="prefixes that count as one network each: egress of hosted clients, of a company, a VPN"
    )
    memory: Annotated[float, Field(gt=0, le=86_400, description="for how long a signal counts")] = 600.0
    interleaved: Annotated[float, Field(gt=0, le=3600, description="back in a network within this: used from both")] = (
        60.0
    )
    inactivity: Annotated[float, Field(gt=0, le=86_400, description="silence that is a signal")] = 900.0
    travel_kmh: Annotated[float, Field(gt=0, description="nobody travels faster")] = 1000.0
    travel_km: Annotated[float, Field(gt=0, description="shorter journeys are not looked at")] = 500.0
    callers: Annotated[int, Field(ge=1, le=1_000_000, description="callers without a session remembered")] = 10_000

    @field_validator("networks")
    @classmethod
    def _prefixes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ip_network(one)) for one in value)

    def network(self, address: str) -> str:
        """The network an address counts as."""
        return network(address, self.ipv4_prefix, self.ipv6_prefix, self.networks)

    @model_validator(mode="after")
    def _graded(self) -> RiskSettings:
        if self.step_up > self.end:
            raise ValueError("step_up comes before end")
        return self


@dataclass(slots=True)
class Place:
    """A network it was used from: the last address there, and when. Seconds since the epoch."""

    network: str
    address: str
    used: float


@dataclass(slots=True)
class Trail:
    """What is remembered of one session, or of one caller's use of one client.

    `floor`: since then a new token counts only if its sign-in is later (0: any does); where an issuer does not state
    the time of sign-in, if it is none of `refused`. `tokens`: ids of those that count, the last few.
    """

    places: list[Place]
    agent: str
    used: float
    origin: str = ""
    raised: dict[str, float] = field(default_factory=dict)  # signal -> when
    floor: float = 0.0
    tokens: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As stored with a session."""
        return {
            "places": [[one.network, one.address, one.used] for one in self.places],
            "agent": self.agent, "used": self.used, "origin": self.origin, "raised": self.raised,
            "floor": self.floor, "tokens": self.tokens, "refused": self.refused,
        }  # fmt: skip

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Trail:
        """Raises KeyError, TypeError or ValueError for what `plain` did not write."""
        return cls(**{**plain, "places": [Place(*one) for one in plain["places"]]})


class Seen(NamedTuple):
    """One use: from where, with what, under which token. `signed_in`: time of the sign-in, if the issuer says it.
    `person`: whether somebody could sign in; a service cannot, and is only recorded."""

    address: str
    agent: str
    token: str
    signed_in: int | None = None
    origin: str = ""
    person: bool = True


@dataclass(frozen=True, slots=True)
class Judgement:
    """`action`: what must follow. `signals`: what is new, empty for an ordinary use. `since`: seconds since a fresh
    sign-in was first asked for. `changed`: more than the time of use is to be remembered."""

    action: Action = "none"
    score: float = 0.0
    signals: tuple[str, ...] = ()
    since: float = 0.0
    changed: bool = False


ORDINARY: Final = Judgement()


def doubt(trail: Trail, tokens: list[str], now: float) -> None:
    """From now on only a fresh sign-in counts; these tokens do not, nor do those that counted so far."""
    trail.floor = now
    trail.refused = (trail.refused + [one for one in (*trail.tokens, *tokens) if one not in trail.refused])[-_REFUSED:]
    trail.tokens = []


def begin(seen: Seen, settings: RiskSettings, now: float) -> Trail:
    """The context at the start."""
    place = Place(settings.network(seen.address), seen.address, now)
    return Trail([place], seen.agent, now, seen.origin, tokens=[seen.token])


def observe(trail: Trail, seen: Seen, settings: RiskSettings, now: float, locate: Locate | None = None) -> Judgement:
    """Judge one use and remember it in `trail`."""
    place, known = trail.places[-1], seen.token in trail.tokens
    if known and seen.address == place.address and seen.agent == trail.agent and now - trail.used < settings.inactivity:
        trail.used = place.used = now
        return ORDINARY
    if trail.floor and not known:
        if not _fresh(trail, seen):
            return Judgement("step_up", _score(trail, settings, now), since=max(0.0, now - trail.floor))
        # Signed in anew: here and now is the context from here on.
        trail.raised.clear()
        trail.places = [Place(settings.network(seen.address), seen.address, now)]
        _move(trail, seen, settings, now)
        return Judgement("record", 0.0, ("signed_in",), changed=True)
    signals = _signals(trail, seen, settings, now, locate)
    _move(trail, seen, settings, now)
    if not signals:
        return Judgement(changed=not known)
    trail.raised.update(dict.fromkeys(signals, now))
    score = _score(trail, settings, now)
    action: Action = "end" if score > settings.end else "step_up" if score > settings.step_up else "record"
    if not seen.person:
        return Judgement("record", score, signals, changed=True)
    if action != "record":
        doubt(trail, [], now)
    return Judgement(action, score, signals, changed=True)


def _fresh(trail: Trail, seen: Seen) -> bool:
    """A sign-in after the doubt arose. A token the doubt is about does not become good by being shown again."""
    return seen.token not in trail.refused if seen.signed_in is None else seen.signed_in >= trail.floor


def _signals(trail: Trail, seen: Seen, settings: RiskSettings, now: float, locate: Locate | None) -> tuple[str, ...]:
    found = []
    here = settings.network(seen.address)
    kin = [place for place in trail.places if (":" in place.network) is (":" in here)]
    if not kin or kin[-1].network != here:  # a device may have an address of each family: they are told apart
        known = next((place for place in kin if place.network == here), None)
        if known is not None and now - known.used <= settings.interleaved:
            found += ["network", "concurrent"]
        else:
            found.append("network")
        if locate is not None and _impossible(trail.places[-1], seen.address, settings, now, locate):
            found.append("travel")
    if seen.agent != trail.agent:
        found.append("agent")
    if now - trail.used >= settings.inactivity:
        found.append("inactivity")
    return tuple(found)


def _move(trail: Trail, seen: Seen, settings: RiskSettings, now: float) -> None:
    here = settings.network(seen.address)
    place = next((place for place in trail.places if place.network == here), None)
    if place is None:
        place = Place(here, seen.address, now)
    else:
        trail.places.remove(place)
        place.address, place.used = seen.address, now
    trail.places.append(place)
    del trail.places[:-PLACES]
    trail.agent, trail.used = seen.agent, now
    _remember(trail, seen.token)


def _remember(trail: Trail, token: str) -> None:
    if token not in trail.tokens:
        trail.tokens.append(token)
        del trail.tokens[:-TOKENS]


def _score(trail: Trail, settings: RiskSettings, now: float) -> float:
    """Each signal raised within memory counts once. Signals of later settings weigh nothing."""
    trail.raised = {name: when for name, when in trail.raised.items() if now - when <= settings.memory}
    weights = settings.weights
    return min(1.0, round(sum(float(getattr(weights, name, 0.0)) for name in trail.raised), 6))


def _impossible(before: Place, address: str, settings: RiskSettings, now: float, locate: Locate) -> bool:
    there, here = locate(before.address), locate(address)
    if there is None or here is None:
        return False
    distance = kilometres(there, here)
    hours = max(1.0, now - before.used) / 3600
    return distance >= settings.travel_km and distance / hours > settings.travel_kmh


def kilometres(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Great-circle distance between two points in degrees (haversine)."""
    (a, b), (c, d) = ((math.radians(x), math.radians(y)) for x, y in (one, other))
    half = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * _EARTH_KM * math.asin(min(1.0, math.sqrt(half)))


@lru_cache(maxsize=8192)
def network(address: str, ipv4_prefix: int = 24, ipv6_prefix: int = 48, wide: tuple[str, ...] = ()) -> str:
    """The network an address is in; the text itself where it is no address (a local socket)."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if parsed.is_loopback:
        return "loopback"
    for known in map(_network, wide):
        if parsed in known:
            return str(known)
    return str(ip_network((parsed, ipv6_prefix if parsed.version == 6 else ipv4_prefix), strict=False))


@lru_cache(maxsize=1024)
def _network(prefix: str) -> IPv4Network | IPv6Network:
    return ip_network(prefix)
