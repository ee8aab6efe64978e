"""Watch Alerting: events -> alerts, one open alert for each rule and group over all replicas, told at least once.

An alert is written with a mark that it is still to be told. Then it is put on record and into the outbox under names
that depend on nothing but the alert, and the mark is taken off. Whoever finds a mark after a crash does the rest again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any, Final, Literal

import orjson

from limen.core.events import SEVERITIES, Event, Severity
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.incidents.outbox import put
from limen.incidents.rules import LONGEST, Rule, kind_of, plain
from limen.incidents.tally import Fired, Tally

OPEN: Final = "open/"
DONE: Final = "done/"
QUIET: Final = "quiet/"
STATE: Final = "rule/"
KEEP: Final = 30 * 86_400.0  # seconds a closed alert can be looked at
LASTING: Final = 86_400.0  # an alert that was quiet for so long is over; what comes then is another one
MAX_EVENTS: Final = 20
STORM: Final = 100  # new alerts of one rule in an hour; whatever comes beyond is one alert, about nobody alone
LONGEST_QUIET: Final = 90 * 86_400.0
_LEFT: Final = 30.0  # seconds after which others finish what somebody left
_TRIES: Final = 16
_KINDS: Final = 2048  # kinds of events whose rules are remembered

Record = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Alert:
    """`notices`: how often it was told so far; `untold`: it is still to be told, since `told`."""

    id: str
    key: str
    rule: str
    severity: Severity
    title: str
    about: tuple[tuple[str, str], ...]
    count: int
    first: float
    last: float
    events: tuple[str, ...]
    state: Literal["open", "acknowledged", "closed"] = "open"
    by: str = ""
    reason: str = ""
    told: float = 0.0
    notices: int = 0
    untold: bool = False

    def encode(self) -> bytes:
        """As stored."""
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, raw: bytes) -> Alert:
        """Raises DependencyFault for what this version did not write."""
        try:
            row = orjson.loads(raw)
            row["about"] = tuple((str(name), str(value)) for name, value in row["about"])
            row["events"] = tuple(map(str, row["events"]))
            found = cls(**row)
            if found.severity not in SEVERITIES or found.state not in ("open", "acknowledged", "closed"):
                raise ValueError("is not an alert")
        except (ValueError, TypeError, KeyError) as error:
            raise DependencyFault("alerts", f"a record cannot be read: {error}") from None
        return found


@dataclass(frozen=True, slots=True)
class Quiet:
    """A suppression: these alerts are not raised until it ends. Somebody owns it."""

    id: str
    rule: str  # glob over ids of rules
    about: tuple[tuple[str, str], ...]  # what the group must be, as far as named
    owner: str
    reason: str
    until: float

    def covers(self, fired: Fired, now: float) -> bool:
        """Whether it holds for this."""
        return now < self.until and fnmatchcase(fired.rule.id, self.rule) and set(self.about) <= set(fired.about)


def alerts(table: Table, *, closed: bool = False) -> list[Alert]:
    """Open ones, or those that were closed lately, newest last. Raises DependencyFault."""
    found = [Alert.decode(raw) for _, raw in table.scan(DONE if closed else OPEN)]
    return sorted(found, key=lambda one: (one.last, one.id))


def find(table: Table, identifier: str) -> Alert:
    """Raises LookupError when there is none, DependencyFault."""
    for one in (*alerts(table), *alerts(table, closed=True)):
        if one.id == identifier:
            return one
    raise LookupError(f"no alert {identifier}")


def decide(
    table: Table,
    identifier: str,
    state: Literal["acknowledged", "closed"],
    by: str,
    reason: str,
    now: Callable[[], float] = time.time,
) -> Alert:
    """Somebody takes it up, or closes it. Raises LookupError when it is not open, DependencyFault."""
    for _ in range(_TRIES):
        one = next((each for each in alerts(table) if each.id == identifier), None)
        if one is None:
            raise LookupError(f"no open alert {identifier}")
        new = replace(one, state=state, by=by, reason=reason[:500])
        if state == "closed":
            table.put(DONE + one.id, new.encode(), now() + KEEP)
        if table.swap(OPEN + one.key, one.encode(), None if state == "closed" else new.encode()):
            return new
    raise DependencyFault("alerts", "the record kept changing")


def suppress(
    table: Table, rule: str, about: Mapping[str, str], owner: str, reason: str, until: float, now: float
) -> Quiet:
    """Raises ValueError without owner, reason or an end that is not far; DependencyFault."""
    if not owner.strip() or not reason.strip():
        raise ValueError("a suppression has an owner and a reason")
    if not now < until <= now + LONGEST_QUIET:
        raise ValueError("a suppression ends within 90 days")
    named = tuple(sorted(about.items()))
    id_ = sha256(orjson.dumps([rule, named, owner, until])).hexdigest()[:12]
    made = Quiet(id_, rule, named, owner[:200], reason[:500], until)
    table.put(QUIET + id_, orjson.dumps(asdict(made)), until)
    return made


def suppressions(table: Table) -> list[Quiet]:
    """Those in force. Raises DependencyFault: what cannot be read suppresses nothing and is told."""
    try:
        rows = [orjson.loads(raw) for _, raw in table.scan(QUIET)]
        return [Quiet(**{**row, "about": tuple((str(a), str(b)) for a, b in row["about"])}) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise DependencyFault("alerts", f"a suppression cannot be read: {error}") from None


def unsuppress(table: Table, identifier: str) -> None:
    """Raises LookupError when there is none, DependencyFault."""
    raw = table.get(QUIET + identifier)
    if raw is None or not table.swap(QUIET + identifier, raw, None):
        raise LookupError(f"no suppression {identifier}")


class Alerting:
    """`routes`: names of those to be told, for a severity and a rule. `log`: whose events these are."""

    name = "alerts"

    def __init__(
        self,
        table: Table,
        rules: Sequence[Rule],
        log: str,
        record: Record,
        routes: Callable[[Severity, str], Sequence[str]],
    ) -> None:
        self._table, self._record, self._routes = table, record, routes
        self._tallies = [Tally(rule) for rule in rules]
        self._prefix = STATE + sha256(log.encode()).hexdigest()[:16] + "/"
        self._counted = {tally.rule.id: self._adopt(tally) for tally in self._tallies}
        self._of_kind: dict[tuple[str, ...], list[Tally]] = {}
        self._fired: list[Fired] = []
        self._last, self._swept = -1, 0.0
        self._silenced: dict[tuple[str, str], float] = {}
        self._new: dict[str, deque[float]] = {}  # rule -> when it raised its newest alerts

    def _adopt(self, tally: Tally) -> int:
        raw = self._table.get(self._prefix + tally.rule.id)
        return tally.adopt(raw) if raw is not None else -1

    def see(self, event: Event) -> None:
        """One event. Our own alerts raise none."""
        self._last = event.index
        kind = kind_of(event)
        tallies = self._of_kind.get(kind)
        if tallies is None:
            ours = event.type == "alert" or event.type.startswith("alert_")
            tallies = [] if ours else [one for one in self._tallies if one.fits(event)]
            if len(self._of_kind) >= _KINDS:  # the second part of a type is data, and so are some reasons
                self._of_kind.clear()
            if len(event.reason) <= LONGEST:  # and those may be whole texts of people
                self._of_kind[kind] = tallies
        for tally in tallies:
            if event.index > self._counted[tally.rule.id] and (fired := tally.see(event)) is not None:
                self._fired.append(fired)

    def settle(self, now: float) -> None:
        """Raise what fired, tell what is to be told, and only then remember that it was counted."""
        self._fired += [fired for tally in self._tallies if (fired := tally.missing(now)) is not None]
        quiet = suppressions(self._table) if self._fired else []
        while self._fired:
            silent = next((one for one in quiet if one.covers(self._fired[0], now)), None)
            if silent is None:
                self._raise(self._fired[0], now)
            else:
                self._silence(silent, self._fired[0], now)
            self._fired.pop(0)
        if now - self._swept >= _LEFT:
            self._finish(now)
            self._swept = now
        for tally in self._tallies:
            if tally.dirty:
                self._table.put(self._prefix + tally.rule.id, tally.encode(self._last))
                tally.dirty = False

    def _raise(self, fired: Fired, now: float) -> None:
        """A new alert, or one more event of an open one."""
        for _ in range(_TRIES):
            raw = self._table.get(OPEN + fired.key)
            known = _readable(raw)
            if known is not None and fired.at - known.last > LASTING:
                self._table.put(DONE + known.id, replace(known, state="closed", by="limen").encode(), now + KEEP)
                known = None
            if known is None and fired.about and self._storm(fired.rule.id, now):
                fired = replace(fired, about=(), title=f"{fired.title} (and more than {STORM} like it within an hour)")
                continue
            if known is None:
                new = self._fresh(fired, now)
            elif set(fired.events) <= set(known.events):
                new = known  # the same events again, after a crash
            else:
                new = _more(known, fired, now)
            if new == known or self._table.swap(OPEN + fired.key, raw, new.encode()):
                if known is None:
                    self._new.setdefault(fired.rule.id, deque(maxlen=STORM)).append(now)
                if new.untold:
                    self._tell(new)
                return
        raise DependencyFault("alerts", "the record kept changing")

    def _storm(self, rule: str, now: float) -> bool:
        """Whether strangers could fill the table and everybody's mail with it."""
        seen = self._new.get(rule)
        return seen is not None and len(seen) == STORM and 0 <= now - seen[0] < 3600.0

    def _fresh(self, fired: Fired, now: float) -> Alert:
        seed = orjson.dumps([fired.key, fired.events or fired.at])
        return Alert(
            id=sha256(seed).hexdigest()[:16], key=fired.key, rule=fired.rule.id, severity=fired.rule.severity,
            title=fired.title, about=tuple((name, plain(value)) for name, value in fired.about),
            count=max(1, len(fired.events)), first=fired.at, last=fired.at, events=fired.events[-MAX_EVENTS:],
            told=now, notices=1, untold=True,
        )  # fmt: skip

    def _tell(self, alert: Alert) -> None:
        """On record, into the outbox, and the mark off. Each step can be done again."""
        told = {"id": alert.id, "rule": alert.rule, "severity": alert.severity, "title": alert.title,
                "about": dict(alert.about), "group": alert.key, "count": alert.count,
                "events": alert.events}  # fmt: skip
        self._record("alert", told)
        for route in self._routes(alert.severity, alert.rule):
            put(self._table, route, "trigger", asdict(alert), alert.told)
        # Where it changed meanwhile, the mark stays and it is told once more.
        self._table.swap(OPEN + alert.key, alert.encode(), replace(alert, untold=False).encode())

    def _finish(self, now: float) -> None:
        """What somebody left half told: we ourselves before a crash, or another replica that is gone. What nobody took
        up and did not come again for as long as closed ones are kept is forgotten."""
        for key, raw in list(self._table.scan(OPEN)):
            alert = _readable(raw)
            if alert is not None and not alert.untold and now - alert.last > KEEP:
                self._table.swap(key, raw, None)
            elif alert is not None and alert.untold and (self._swept == 0.0 or now - alert.told >= _LEFT):
                self._tell(alert)

    def _silence(self, quiet: Quiet, fired: Fired, now: float) -> None:
        """Nobody is told; that is on record, once for each cool-down."""
        key = (quiet.id, fired.key)
        if now - self._silenced.get(key, float("-inf")) >= fired.rule.cooldown:
            told = {"rule": fired.rule.id, "suppression": quiet.id, "owner": quiet.owner, "events": fired.events[-1:]}
            self._record("alert_suppressed", told)
            self._silenced = dict([*self._silenced.items(), (key, now)][-1000:])


def _readable(raw: bytes | None) -> Alert | None:
    """One that cannot be read is as good as none: it is raised and told anew, and keeps no other from being told."""
    try:
        return Alert.decode(raw) if raw is not None else None
    except DependencyFault:
        return None


def _more(known: Alert, fired: Fired, now: float) -> Alert:
    """Told again after the cool-down, unless somebody has taken it up."""
    new = [one for one in fired.events if one not in known.events]
    again = known.state == "open" and now - known.told >= fired.rule.cooldown
    more = replace(known, count=known.count + max(1, len(new)), last=max(known.last, fired.at),
                   events=(*known.events, *new)[-MAX_EVENTS:])  # fmt: skip
    return replace(more, told=now, notices=known.notices + 1, untold=True) if again else more
