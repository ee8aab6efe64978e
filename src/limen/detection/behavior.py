"""What is usual for every caller, client, server and tool, learnt from the log, and what is not: a suspicion.

Off the way of every call: reads events in the watching thread. What it says is risk for the next call. Of each
process's own log; a replica learns from what it saw. Memory is bounded: those who did nothing for longest are kept in
the table only.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

import orjson

from limen.core.events import Event, Signal, Subject
from limen.core.ports import Table
from limen.core.remembered import remembered
from limen.detection.behavior_model import CAP, Levels, Weights, load_weights
from limen.detection.behavior_profile import ASPECTS, DAY, NOTED, QUIET, Act, Oddity, Profile
from limen.detection.behavior_settings import BehaviorSettings
from limen.detection.behavior_trees import Trees
from limen.detection.behavior_words import explain

FLOOR: Final = 0.2  # nobody is told of less
_STEP: Final = 0.15  # how much more suspicious one must be to be named again within a day for the same
_SECONDS: Final = 4 * 3_600.0  # half-life of what is said
_PENDING: Final = 4_096  # intents whose outcome is not yet seen
_WRITE: Final = 60.0  # seconds between two snapshots of the same subject
_BATCH: Final = 64  # snapshots written at once
_YOUNG: Final = 14 * DAY  # a tool that came so lately is new to everybody
Kind = Literal["caller", "client", "server", "tool"]
KINDS: Final[tuple[Kind, ...]] = ("caller", "client", "server", "tool")


class Entity:
    """A profile, what is suspicious about it now, and when it was last written and told."""

    __slots__ = ("dirty", "levels", "profile", "said", "told", "told_at", "written")

    def __init__(self, profile: Profile) -> None:
        self.profile, self.levels = profile, Levels()
        self.said = set[str]()  # aspects it was told for
        self.dirty, self.written, self.told, self.told_at = False, 0.0, 0.0, 0.0


class Behavior:
    """Watch. `signal` takes each suspicion; `log` names the log that is learnt from."""

    name = "behaviour"

    def __init__(
        self,
        table: Table,
        settings: BehaviorSettings,
        signal: Callable[[Signal], None],
        log: str,
        weights: dict[str, Weights] | None = None,
    ) -> None:
        self._table, self._settings, self._signal, self._log = table, settings, signal, log
        self._weights = load_weights() if weights is None else weights
        self._zone = ZoneInfo(settings.time_zone)
        self._half = settings.memory_days * DAY
        self._held: OrderedDict[tuple[str, str], Entity] = OrderedDict()
        self._pending: OrderedDict[str, Event] = OrderedDict()
        self._trees, self._trees_written = Trees(len(ASPECTS), int(CAP) // 2), 0.0
        self._hour: tuple[int, int, int] = (-1, 0, 0)  # quarter of an hour, place, day: the calendar is slow
        self._forgotten: set[str] | None = None
        if (kept := table.get(f"trees/{log}")) is not None:
            self._trees.load(orjson.loads(kept))

    # see

    def see(self, event: Event) -> None:
        """Learn from one event, and say what is odd about it. Raises DependencyFault."""
        kind = event.type
        if kind == "call.outcome" or kind == "call.refused":
            whole = self._whole(event)
            if whole is not None:
                self._call(whole, event)
        elif kind == "call.intent":
            if event.ref:
                self._pending[event.ref] = event
                if len(self._pending) > _PENDING:
                    self._pending.popitem(last=False)
        elif event.category == "sandbox" and event.server and kind.startswith("egress."):
            self._reach(event)
        elif kind == "catalog.approved" and event.server and event.name:
            self._entity("tool", f"{event.server}/{event.name}", event.at).profile.released = event.at

    def _whole(self, event: Event) -> Event | None:
        """Who did what: the outcome says so, or the intent of the same call did. None: nobody known did anything."""
        if event.type == "call.refused" and event.guard in _ANSWERS:
            return None  # our own answer to a suspicion is no reason for another one
        if event.subject or event.type == "call.refused":
            return event if event.subject and event.method in _CALLS else None
        before = self._pending.get(event.ref)
        return before if before is not None and before.subject else None

    def _call(self, who: Event, event: Event) -> None:
        tool = f"{who.server}/{who.name}"
        refused = event.type == "call.refused"
        # All are at hand before one of them learns: what cannot be read now is seen again, and is learnt once.
        people = [self._entity("caller", who.caller, event.at)]
        if who.client:
            people.append(self._entity("client", who.client, event.at))
        things = [] if refused else [self._entity("server", who.server, event.at), self._entity("tool", tool, event.at)]
        common = _common(things[0].profile, things[1].profile, who.caller, event.at) if things else 1.0
        act = self._act(who, event, tool, refused, common)
        for entity in (*people, *things):
            self._judge(entity, entity.profile.see(act), event)
        self._pending.pop(event.ref, None)

    def _act(self, who: Event, event: Event, tool: str, refused: bool, common: float) -> Act:
        at = event.at
        place, day = self._calendar(at)
        return Act(
            at=at,
            place=place,
            day=day,
            what=tool,
            server=who.server,
            origin=network(who.peer or event.peer),
            agent=f"{who.client} {who.agent}".strip(),
            args=who.args[:12],
            received=event.received or who.received or 0,
            sent=max(0, event.sent or 0),
            ms=event.ms or 0.0,
            refused=refused,
            failed=not refused and event.reason not in ("ok", "call.cancelled", ""),
            common=common,
        )

    def _calendar(self, at: float) -> tuple[int, int]:
        quarter = int(at // 900)
        if self._hour[0] != quarter:
            local = datetime.fromtimestamp(at, self._zone)
            self._hour = (quarter, local.hour + (24 if local.weekday() >= 5 else 0), local.toordinal())
        return self._hour[1], self._hour[2]

    def _reach(self, event: Event) -> None:
        record = event.record
        destination = next((str(record[one]) for one in ("host", "name", "address") if record.get(one)), "")
        if destination:
            server = self._entity("server", event.server, event.at)
            server.dirty = True
            reached = server.profile.reach(destination[:253], event.at)
            if reached.bits > QUIET:
                self._say(server, [reached], event)

    # judge

    def _judge(self, entity: Entity, oddities: list[Oddity], event: Event) -> None:
        entity.dirty = True
        if entity.profile.kind == "caller":
            bits = self._trees.see(_vector(oddities) if oddities else _CALM)
            if bits > QUIET:
                oddities.append(Oddity("trees", bits))
        if oddities and (odd := [one for one in oddities if one[1] > QUIET]):
            self._say(entity, odd, event)

    def _say(self, entity: Entity, oddities: list[Oddity], event: Event) -> None:
        profile, settings = entity.profile, self._settings
        if not profile.ready(settings.warm_up_days, settings.warm_up_calls):
            return
        grown = False
        for one in oddities:
            if one.aspect == "hour":
                one = Oddity(one.aspect, one.bits, self._clock(event.at))
            grown = entity.levels.add(one, event.at) or grown
        if not grown:
            return
        weights = self._weights["people" if profile.people else "things"]
        score = weights.score(entity.levels.bits(event.at), settings.shift)
        if score < FLOOR:
            return
        counting = entity.levels.oddities(event.at, weights)
        aspects = {one.aspect for one in counting}
        if event.at - entity.told_at > DAY:
            entity.told, entity.said = 0.0, set()
        if score >= entity.told + _STEP or not aspects <= entity.said:
            subject = Subject(profile.kind, profile.value)  # type: ignore[arg-type]  # one of KINDS
            why = explain(counting, entity.said)
            self._signal(Signal(subject, "behaviour", round(score, 3), why, event.at, event.id, _SECONDS))
            entity.told, entity.told_at, entity.said = max(score, entity.told), event.at, entity.said | aspects

    def _clock(self, at: float) -> str:
        return datetime.fromtimestamp(at, self._zone).strftime("%H:%M")

    # keep

    def _entity(self, kind: Kind, value: str, now: float) -> Entity:
        held = self._held.get((kind, value))
        if held is not None:
            self._held.move_to_end((kind, value))
            return held
        raw = self._table.get(self._key(kind, value))
        profile = Profile.load(orjson.loads(raw), self._half) if raw else Profile(kind, value, now, self._half)
        entity = self._held[(kind, value)] = Entity(profile)
        if len(self._held) > self._settings.entities:
            oldest = next(iter(self._held.items()))
            if oldest[1].dirty:
                self._write(oldest[1], now)
            del self._held[oldest[0]]
        return entity

    def _key(self, kind: str, value: str) -> str:
        return key(self._log, kind, value)

    def _write(self, entity: Entity, now: float) -> None:
        profile = entity.profile
        self._table.put(
            self._key(profile.kind, profile.value),
            orjson.dumps(profile.dump(), option=orjson.OPT_NON_STR_KEYS),
            now + 2 * 365 * DAY,
        )
        entity.dirty, entity.written = False, now

    def settle(self, now: float) -> None:
        """Write a few of those that changed a minute ago or more. Raises DependencyFault.

        What is lost in a crash is a minute of learning, nothing that was said.
        """
        self._forget()
        due = [one for one in self._held.values() if one.dirty and now - one.written >= _WRITE]
        for entity in due[:_BATCH]:
            self._write(entity, now)
        if self._trees.ready and now - self._trees_written >= 10 * _WRITE:
            self._keep_trees(now)

    def close(self) -> None:
        """Write all that changed. Raises DependencyFault."""
        now = time.time()
        for entity in self._held.values():
            if entity.dirty:
                self._write(entity, now)
        if self._trees.ready:
            self._keep_trees(now)

    def _keep_trees(self, now: float) -> None:
        self._table.put(f"trees/{self._log}", orjson.dumps(self._trees.dump()))
        self._trees_written = now

    def _forget(self) -> None:
        """An operator had somebody forgotten: here as well, once for each time it was asked."""
        asked = dict(self._table.scan("forget/"))
        done = self._forgotten
        for name, raw in asked.items():
            mark = f"{name} {raw.decode()}"
            if done is not None and mark not in done:
                kind, value = orjson.loads(raw)["subject"]
                self._held.pop((kind, value), None)
                self._table.swap(self._key(kind, value), self._table.get(self._key(kind, value)), None)
        self._forgotten = {f"{name} {raw.decode()}" for name, raw in asked.items()}

    @property
    def held(self) -> int:
        """How many are in memory."""
        return len(self._held)


_ANSWERS: Final = frozenset({"Weigh", "Halted", "Contained"})
_CALLS: Final = frozenset({"tools/call", "resources/read", "prompts/get", "completion/complete"})
_PLACES: Final = {name: number for number, name in enumerate(ASPECTS)}
_CALM: Final = bytes(len(ASPECTS))  # the vector of a call nothing is unusual about


def _vector(oddities: Iterable[Oddity]) -> bytes:
    """What is unusual together, as `Trees` take it: pairs of bits, aspect by aspect."""
    vector = bytearray(_CALM)
    for aspect, bits, *_ in oddities:
        if bits >= NOTED:
            vector[_PLACES[aspect]] = int((bits if bits < CAP else CAP) / 2)
    return bytes(vector)


def network(address: str) -> str:
    """The neighbourhood of an address: /24, or /48 of IPv6."""
    if ":" in address:
        return ":".join(address.split(":")[:3])
    return address.rpartition(".")[0] or address


def key(log: str, kind: str, value: str) -> str:
    """Where a profile stands in the table."""
    return f"profile/{kind}/{_short(value)}/{log}"


@remembered(4096)  # the same callers come again
def _short(value: str) -> str:
    return sha256(value.encode()).hexdigest()[:32]


def _common(server: Profile, tool: Profile, caller: str, now: float) -> float:
    """The share of a server's callers who use this tool. What is new to all is not odd of anybody."""
    name = _short(caller)
    for thing in (server, tool):
        thing.callers.add(name, 1.0, now)
    share = len(tool.callers) / len(server.callers)
    return max(share, 0.3) if tool.released and now - tool.released < _YOUNG else share


def read_profiles(table: Table, kind: str = "", value: str = "") -> Iterable[Profile]:
    """Those that were written: of one subject in each log, of one kind, or all. Raises DependencyFault."""
    prefix = f"profile/{kind}/{_short(value)}/" if value else f"profile/{kind}/" if kind else "profile/"
    for _, raw in table.scan(prefix):
        yield Profile.load(orjson.loads(raw), DAY)


def forget(table: Table, kind: str, value: str, now: float) -> int:
    """Drop what is known of somebody, in every log, and tell running gateways. How many were dropped."""
    mark: dict[str, Any] = {"subject": [kind, value], "at": now}
    table.put(f"forget/{kind}/{_short(value)}", orjson.dumps(mark), now + DAY)
    count = 0
    for name, raw in list(table.scan(f"profile/{kind}/{_short(value)}/")):
        count += table.swap(name, raw, None)
    return count
