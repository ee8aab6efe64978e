"""What is usual for one caller, client, server or tool, and how far one call is from it.

A profile learns from each call and says, for each aspect, how many bits of surprise the call holds. Before it has seen
enough it says nothing. What it finds odd it learns with less weight, so that an attack does not become usual by
being repeated, and what changes slowly is compared with a memory six times as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import Any, Final, NamedTuple

from limen.detection.behavior_statistics import (
    PLACES,
    Fading,
    Names,
    Rising,
    Spread,
    Steps,
    hour_bits,
    place_of,
)

DAY: Final = 86_400.0
HOUR: Final = 3_600.0
ASPECTS: Final = (
    "hour", "volume", "tool", "server", "sequence", "arguments", "size", "day", "slow", "refused", "origin", "agent",
    "latency", "errors", "destination", "pace", "shift",
)  # fmt: skip
_ODD: Final = 7.0  # bits from which something is learnt with a quarter of its weight
_SESSION: Final = 1_800.0  # seconds after which a step does not follow from the one before
_LONG: Final = 6.0
_DISTINCT: Final = 512  # argument digests of one hour that are told apart
_SMALL: Final = 256.0  # bytes of a result below which its size says nothing
_MOMENT: Final = 30.0  # seconds
QUIET: Final = 3.0  # bits nobody is told about
NOTED: Final = 2.0  # bits below which nothing is said of an aspect


@dataclass(slots=True)
class Act:
    """One call, or a try at one, as profiles see it. `at` in seconds, `place`: hour of a working day, or 24 + hour of a
    day off; `day`: its number in local time; sizes in bytes, none below 0, `ms` of the whole call. Every profile asks
    in which half octave sizes and time lie: that is found out here, once."""

    at: float
    place: int
    day: int
    what: str  # server/name
    server: str
    origin: str  # network of the peer
    agent: str  # client and program
    args: str  # begin of the digest
    received: int
    sent: int
    ms: float
    refused: bool
    failed: bool
    common: float  # share of the server's callers who use this tool
    hour: int = 0
    received_place: int = 0
    sent_place: int = 0
    ms_place: int = 0

    def __post_init__(self) -> None:
        self.hour = self.day * 24 + self.place % 24
        self.received_place, self.sent_place = place_of(self.received), place_of(self.sent)
        self.ms_place = place_of(self.ms)


class Oddity(NamedTuple):
    """One aspect that is unusual: how much, and the numbers that say so in words (see `behavior_words`)."""

    aspect: str
    bits: float
    what: str = ""
    value: float = 0.0
    usual: float = 0.0


class Window:
    """What happened in the hour or day under way, and how unusual so much of it is."""

    __slots__ = ("args", "calls", "distinct", "failed", "number", "refused", "sent", "size", "volume")

    def __init__(self, number: int = -1) -> None:
        self.number, self.calls, self.refused, self.failed, self.sent = number, 0, 0, 0, 0
        self.args: set[str] = set()  # of an hour
        self.volume, self.size, self.distinct = Rising(), Rising(), Rising()

    def add(self, act: Act) -> None:
        self.calls += 1
        self.sent += act.sent
        if act.refused:
            self.refused += 1
        elif act.failed:
            self.failed += 1

    def dump(self) -> list[Any]:
        return [self.number, self.calls, self.refused, self.failed, self.sent, sorted(self.args)]

    @classmethod
    def load(cls, kept: list[Any]) -> Window:
        window = cls(kept[0])
        window.calls, window.refused, window.failed, window.sent = kept[1:5]
        window.args = set(kept[5])
        return window


_SPREADS: Final = (
    "hourly", "daily", "hourly_refused", "hourly_failed", "hourly_sent", "daily_sent", "hourly_args", "received",
    "sent", "latency", "surprise", "pace", "long_sent", "long_daily",
)  # fmt: skip


class Profile:
    """Of one caller or client (`people`), or of one server or tool."""

    __slots__ = (
        "agents", "before", "callers", "calls", "creep", "day", "days", "destinations", "fading", "first", "flow",
        "flow_place", "hour", "hour_bits", "hours", "kind", "last", "learning", "level", "origins", "pace",
        "pace_place", "people", "released", "servers", "shift", "spreads", "stale", "steps", "tools", "value",
    )  # fmt: skip

    def __init__(self, kind: str, value: str, now: float, half: float) -> None:
        self.kind, self.value, self.people = kind, value, kind in ("caller", "client")
        self.fading = Fading(half, now)
        self.first, self.last, self.days, self.calls = now, now, 0, 0
        self.released = 0.0  # when a tool was last approved
        self.hours = [0.0] * PLACES
        self.spreads = {name: Spread() for name in _SPREADS}
        self.tools, self.servers, self.origins = Names(96), Names(32), Names(24)
        self.agents, self.destinations, self.callers = Names(12), Names(128), Names(256)
        self.steps = Steps(48)
        self.before, self.flow = "", 0.0  # the last thing done, and how unusual the last steps were together
        self.flow_place = self.pace_place = 0  # half octaves of flow and pace, of the call under way
        self.creep = 0.0  # sum of days that were larger than usual
        self.pace = 0.0  # calls of the last moments
        self.shift, self.level, self.stale = 0.0, (0.0, 1.0), 0  # sum of results that were larger than usual
        self.hour, self.day = Window(), Window()
        self.hour_bits = 0.0  # how unusual this hour is
        self.learning = 1.0  # weight of the hour under way, less once it was odd

    def ready(self, days: int, calls: int) -> bool:
        """Whether enough was seen to say what is usual."""
        return self.days >= days and self.calls >= calls

    def see(self, act: Act) -> list[Oddity]:
        """The aspects of this call that are unusual by `NOTED` bits or more; then learn from it."""
        now = act.at
        if act.hour != self.hour.number:
            self._hour_ends(act.hour)
            self.hour_bits = hour_bits(self.hours, act.place)
        if act.day != self.day.number:
            self._day_ends(act)
        weight = self.fading.weight(now)
        if self.fading.overgrown(weight, now):
            self._divide(weight)
            weight = self.fading.weight(now)
        hour = self.hour
        hour.add(act)
        self.day.add(act)
        if act.args and len(hour.args) < _DISTINCT:
            hour.args.add(act.args)
        found = self._windows(weight)
        if self.people:
            self._person(act, weight, found)
        else:
            self._thing(act, weight, found)
        if found and max([one[1] for one in found]) > _ODD:
            self.learning = 0.25
            weight *= 0.25
        self._learn(act, weight)
        self.calls += 1
        self.last = now
        return found

    def reach(self, destination: str, now: float) -> Oddity:
        """A server's process reached out. Unusual where it never went before."""
        weight = self.fading.weight(now)
        known = destination in self.destinations
        bits = 0.0 if known else -log2(self.destinations.unknown(weight))
        self.destinations.add(destination, weight, now)
        return Oddity("destination", bits, destination)

    # unusual

    def _windows(self, weight: float) -> list[Oddity]:
        spreads, hour, day = self.spreads, self.hour, self.day
        found = list[Oddity]()
        if hour.calls >= hour.volume.until:
            hour.volume.enter(hour.calls, spreads["hourly"], weight)
        if day.calls >= day.volume.until:
            day.volume.enter(day.calls, spreads["daily"], weight)
        bits, whole = hour.volume.bits, day.volume.bits
        if bits >= whole:
            if bits >= NOTED:
                usual = spreads["hourly"].quantile(0.5) if bits > QUIET else 0
                found.append(Oddity("volume", bits, "hour", hour.calls, usual))
        elif whole >= NOTED:
            usual = spreads["daily"].quantile(0.5) if whole > QUIET else 0
            found.append(Oddity("volume", whole, "day", day.calls, usual))
        if hour.refused > 2:
            bits = spreads["hourly_refused"].bits(hour.refused, weight)
            found.append(Oddity("refused", bits, "", hour.refused, spreads["hourly_refused"].quantile(0.5)))
        if hour.failed > 2:
            bits = spreads["hourly_failed"].bits(hour.failed, weight)
            found.append(Oddity("errors", bits, "", hour.failed, spreads["hourly_failed"].quantile(0.5)))
        if day.sent > _SMALL:
            if day.sent >= day.size.until:
                day.size.enter(day.sent, spreads["daily_sent"], weight)
            if (bits := day.size.bits) >= NOTED:
                usual = spreads["daily_sent"].quantile(0.5) if bits > QUIET else 0
                found.append(Oddity("day", bits, "", day.sent, usual))
        if self.creep >= NOTED:
            found.append(Oddity("slow", self.creep, "", spreads["daily_sent"].quantile(0.5), self._once()))
        return found

    def _person(self, act: Act, weight: float, found: list[Oddity]) -> None:
        if self.hour_bits >= NOTED:
            found.append(Oddity("hour", self.hour_bits))
        row = self.tools.get(act.what)
        if row is None:
            chance = self.tools.unknown(weight) * max(act.common, 0.002)
            found.append(Oddity("tool", -log2(chance), act.what, self.days))
        elif act.at - row[2] > 45 * DAY:
            found.append(Oddity("tool", 6.0, act.what, (act.at - row[2]) / DAY, 1.0))
        if act.server and act.server not in self.servers:
            found.append(Oddity("server", -log2(self.servers.unknown(weight)), act.server, self.days))
        if act.origin and act.origin not in self.origins:
            found.append(Oddity("origin", -log2(self.origins.unknown(weight)), act.origin))
        if act.agent and act.agent not in self.agents:
            found.append(Oddity("agent", -log2(self.agents.unknown(weight)), act.agent))
        if self.kind == "caller":
            self._sequence(act, row, weight, found)
        spreads = self.spreads
        self.pace = self.pace * 2.0 ** (-max(0.0, act.at - self.last) / _MOMENT) + 1
        self.pace_place = place_of(self.pace)
        bits = spreads["pace"].at(self.pace_place, weight) - 5.0
        if bits >= NOTED:
            found.append(Oddity("pace", bits, "", self.pace, 0))
        rising, distinct = self.hour.distinct, len(self.hour.args)
        if distinct >= rising.until:
            rising.enter(distinct, spreads["hourly_args"], weight)
        bits = rising.bits
        large = spreads["received"].at(act.received_place, weight) - 5.0  # of many calls one is always the largest
        if bits >= NOTED or large >= NOTED:
            found.append(Oddity("arguments", max(bits, large), "" if bits >= large else act.what, distinct, 0))

    def _sequence(self, act: Act, row: list[float] | None, weight: float, found: list[Oddity]) -> None:
        """The mean surprise of the last steps, against what it usually is."""
        before = self.before if act.at - self.last < _SESSION else ""
        total = self.tools.total + weight
        share = row[0] / total if row is not None else weight / total
        bits = self.steps.bits(before, act.what, share, weight)
        self.flow = bits if not before else 0.8 * self.flow + 0.2 * bits
        self.flow_place = place_of(2.0**self.flow)
        unusual = self.spreads["surprise"].at(self.flow_place, weight) - 4.0
        if before and unusual >= NOTED:
            found.append(Oddity("sequence", unusual, act.what, self.flow))

    def _thing(self, act: Act, weight: float, found: list[Oddity]) -> None:
        spreads = self.spreads
        if act.sent > _SMALL:
            sent = spreads["sent"]
            bits = sent.at(act.sent_place, weight) - 4.0
            if bits >= NOTED:
                found.append(Oddity("size", bits, act.what, act.sent, sent.quantile(0.5) if bits > QUIET else 0))
            if self.kind == "tool":
                self._shifted(act, found)
        if act.ms > 0:
            bits = spreads["latency"].at(act.ms_place, weight) - 6.0
            if bits >= NOTED:
                found.append(Oddity("latency", bits, act.what, act.ms, 0))

    def _shifted(self, act: Act, found: list[Oddity]) -> None:
        """Results that are larger than usual, one after the other, add up; one adds at most one and a half."""
        self.stale -= 1
        if self.stale <= 0:
            self.level, self.stale = self.spreads["sent"].middle(), 32
        middle, spread = self.level
        away = (log2(1 + act.sent) - middle) / max(0.5, spread)
        self.shift = min(48.0, max(0.0, self.shift + max(-2.0, min(2.0, away)) - 0.5))
        if self.shift / 2 >= NOTED:
            found.append(Oddity("shift", self.shift / 2, act.what, self.shift))

    # learn

    def _learn(self, act: Act, weight: float) -> None:
        spreads, now = self.spreads, act.at
        self.hours[act.place] += weight
        if self.kind != "tool":
            self.tools.add(act.what, weight, now)
        spreads["received"].put(act.received_place, weight)
        if self.people:
            spreads["pace"].put(self.pace_place, weight)
        if act.sent > 0:
            spreads["sent"].put(act.sent_place, weight)
        if not self.people:
            if act.ms > 0:
                spreads["latency"].put(act.ms_place, weight)
            return
        if act.server:
            self.servers.add(act.server, weight, now)
        if act.origin:
            self.origins.add(act.origin, weight, now)
        if act.agent:
            self.agents.add(act.agent, weight, now)
        if self.kind == "caller":
            self.steps.add(self.before if now - self.last < _SESSION else "", act.what, weight)
            spreads["surprise"].put(self.flow_place, weight)
            self.before = act.what

    def _hour_ends(self, number: int) -> None:
        hour, spreads = self.hour, self.spreads
        if hour.number >= 0:
            weight = self.fading.weight(self.last) * self.learning
            spreads["hourly"].add(hour.calls, weight)
            spreads["hourly_refused"].add(hour.refused, weight)
            spreads["hourly_failed"].add(hour.failed, weight)
            spreads["hourly_args"].add(len(hour.args), weight)
        self.hour, self.learning = Window(number), 1.0

    def _day_ends(self, act: Act) -> None:
        day, spreads = self.day, self.spreads
        if day.number >= 0:
            weight = self.fading.weight(self.last)
            if self.days >= 5:
                self._creep(day.sent)
            odd = spreads["daily_sent"].bits(day.sent, weight) > _ODD
            spreads["daily_sent"].add(day.sent, weight * (0.25 if odd else 1.0))
            spreads["daily"].add(day.calls, weight * (0.25 if odd else 1.0))
            slow = weight ** (1 / _LONG)
            spreads["long_sent"].add(day.sent, slow)
            spreads["long_daily"].add(day.calls, slow)
            self.days += 1
        self.day = Window(act.day)

    def _creep(self, sent: int) -> None:
        """Days that are larger than usual add up (a cumulative sum, Page 1954); one day adds at most three."""
        middle, spread = self.spreads["long_sent"].middle()
        away = (log2(1 + sent) - middle) / max(0.7, spread)
        self.creep = min(24.0, max(0.0, self.creep + max(-3.0, min(3.0, away)) - 1.0))

    def _once(self) -> float:
        return self.spreads["long_sent"].quantile(0.5)

    def _divide(self, scale: float) -> None:
        """Make all weights small again; what is next to nothing is dropped."""
        for name, spread in self.spreads.items():
            by = scale ** (1 / _LONG) if name.startswith("long") else scale
            for place in list(spread):
                spread[place] /= by
                if spread[place] < 1e-6:
                    del spread[place]
        for names in (self.tools, self.servers, self.origins, self.agents, self.destinations, self.callers):
            names.divide(scale)
        self.hours = [one / scale for one in self.hours]
        for row in self.steps.values():
            for after in row:
                row[after] /= scale

    # keep

    def dump(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "kind": self.kind, "value": self.value, "start": self.fading.start,
            **{name: getattr(self, name) for name in _PLAIN}, "hour": self.hour.dump(), "day": self.day.dump(),
            "spreads": {name: sorted(spread.items()) for name, spread in self.spreads.items() if spread},
            "names": {name: dict(getattr(self, name)) for name in _NAMES}, "steps": dict(self.steps),
        }  # fmt: skip

    @classmethod
    def load(cls, kept: dict[str, Any], half: float) -> Profile:
        """Raises KeyError, TypeError or ValueError for what `dump` did not make."""
        profile = cls(kept["kind"], kept["value"], kept["start"], half)
        for name in _PLAIN:
            setattr(profile, name, kept[name])
        profile.hour, profile.day = Window.load(kept["hour"]), Window.load(kept["day"])
        for name, places in kept["spreads"].items():
            profile.spreads[name].update({int(place): mass for place, mass in places})
        for name in _NAMES:
            getattr(profile, name).fill(kept["names"][name])
        profile.steps.update(kept["steps"])
        return profile


_NAMES: Final = ("tools", "servers", "origins", "agents", "destinations", "callers")
_PLAIN: Final = (
    "first", "last", "days", "calls", "hours", "before", "flow", "creep", "pace", "shift", "released", "hour_bits",
    "learning",
)  # fmt: skip
