"""What is suspected of whom, shared by all replicas: one record per subject in one table, and a copy in memory.

The copy is read four times a second. One that is older than the operator allows decides nothing: it is read anew, and
what cannot be read refuses. Unknown risk is not no risk.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, get_args, get_type_hints

import orjson

from limen.core.events import Signal, Subject
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.incidents.risk import FAINT, by_source, ends, left, risk_of, worth

KINDS: Final[tuple[str, ...]] = get_args(get_type_hints(Subject)["kind"])
MAX_SUBJECTS: Final = 10_000
MAX_SIGNALS: Final = 32  # per subject
MAX_OF_SOURCE: Final = 12  # repeats beyond these raise nothing any more
LONGEST: Final = 30 * 86_400.0  # half-life of a signal
_CLEARED: Final = 7 * 86_400.0  # what was cleared is remembered, so that events seen again do not bring it back
_RESCAN: Final = 5.0
_RECORD, _VERSION = "s/", "version"
_TRIES: Final = 16


@dataclass(frozen=True, slots=True)
class Suspect:
    """One subject and the signals about it, oldest first. `cleared`: what was raised until then does not count."""

    subject: Subject
    signals: tuple[Signal, ...] = ()
    cleared: float = 0.0
    by: str = ""
    reason: str = ""

    def encode(self) -> bytes:
        """As stored."""
        rows = [[one.source, one.score, one.why, one.at, one.event, one.seconds] for one in self.signals]
        return orjson.dumps({"kind": self.subject.kind, "value": self.subject.value, "signals": rows,
                             "cleared": self.cleared, "by": self.by, "reason": self.reason})  # fmt: skip

    @classmethod
    def decode(cls, raw: bytes) -> Suspect:
        """Raises DependencyFault: what cannot be read may be what should stop a call."""
        try:
            row = orjson.loads(raw)
            subject = Subject(row["kind"], row["value"])
            signals = tuple(
                Signal(subject, source, float(score), why, float(at), event, float(seconds))
                for source, score, why, at, event, seconds in row["signals"]
            )
            if subject.kind not in KINDS or any(_wrong(one) for one in signals):
                raise ValueError("is not a suspicion")
            return cls(subject, signals, float(row["cleared"]), row["by"], row["reason"])
        except (ValueError, TypeError, KeyError) as error:
            raise DependencyFault("threats", f"a record cannot be read ({error}): clear it") from None


def _wrong(one: Signal) -> bool:
    return not (0.0 <= one.score <= 1.0 and math.isfinite(one.at) and 1.0 <= one.seconds <= LONGEST)


def key_of(subject: Subject) -> str:
    """Where it is kept. Names of strangers are no keys."""
    return f"{_RECORD}{subject.kind}/{sha256(subject.value.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def note(table: Table, subject: Subject, signals: Iterable[Signal], now: float) -> bool:
    """Put signals about one subject on record for every replica. The same event of one source counts once. Returns
    whether anything changed. Raises DependencyFault."""
    given = [
        replace(one, score=min(1.0, one.score), seconds=min(LONGEST, max(1.0, one.seconds)), why=one.why[:300])
        for one in signals
        if one.score > 0 and math.isfinite(one.score) and math.isfinite(one.at) and math.isfinite(one.seconds)
    ]
    key = key_of(subject)
    for _ in range(_TRIES):
        raw = table.get(key)
        known = Suspect.decode(raw) if raw is not None else Suspect(subject)
        fresh = [one for one in given if one.at > known.cleared]
        kept = _kept([*known.signals, *fresh], now)
        if not fresh or kept == known.signals:
            return False
        until = max([known.cleared + _CLEARED, *map(ends, kept)])
        if table.swap(key, raw, replace(known, signals=kept).encode(), until):
            _tell(table)
            return True
    raise DependencyFault("threats", "a record kept changing")


def _kept(signals: list[Signal], now: float) -> tuple[Signal, ...]:
    """Each event once, the strongest of each source, and no more than there is room for."""
    unique: dict[tuple[str, str, float], Signal] = {}
    for one in signals:
        name = (one.source, one.event, 0.0 if one.event else one.at)
        if left(one, now) >= FAINT and (name not in unique or one.score > unique[name].score):
            unique[name] = one
    kept: list[Signal] = []
    of: dict[str, int] = {}
    for one in sorted(unique.values(), key=lambda one: -left(one, now)):
        if of.get(one.source, 0) < MAX_OF_SOURCE and len(kept) < MAX_SIGNALS:
            of[one.source] = of.get(one.source, 0) + 1
            kept.append(one)
    return tuple(sorted(kept, key=lambda one: (one.at, one.event)))


def clear(table: Table, subject: Subject, by: str, reason: str, now: float) -> Suspect:
    """Take back all that is suspected of somebody. Raises LookupError when there is nothing, DependencyFault."""
    key = key_of(subject)
    for _ in range(_TRIES):
        raw = table.get(key)
        if raw is None:
            raise LookupError(f"nothing is suspected of {subject.kind} {subject.value}")
        try:
            known = Suspect.decode(raw)
        except DependencyFault:  # it can be taken away even where it cannot be read
            known = Suspect(subject)
        if table.swap(key, raw, Suspect(subject, (), now, by, reason).encode(), now + _CLEARED):
            _tell(table)
            return known
    raise DependencyFault("threats", "the record kept changing")


def suspects(table: Table) -> Iterator[Suspect]:
    """All that is on record. Raises DependencyFault."""
    for _, raw in table.scan(_RECORD):
        yield Suspect.decode(raw)


def make_room(table: Table, most: int, now: float) -> int:
    """Forget those of whom least is suspected, so that `most` remain. Returns how many. Raises DependencyFault."""
    every = list(table.scan(_RECORD))
    if len(every) <= most:
        return 0
    weighed = sorted((risk_of((one := Suspect.decode(raw)).signals, now), one.cleared, key, raw) for key, raw in every)
    gone = sum(table.swap(key, raw, None) for _, _, key, raw in weighed[: len(every) - most])
    _tell(table)
    return gone


def _tell(table: Table) -> None:
    table.put(_VERSION, secrets.token_bytes(16))


class Standing:
    """One subject as calls see it: what each source is worth, computed at most once a second."""

    __slots__ = ("_second", "_sources", "events", "suspect")

    def __init__(self, suspect: Suspect) -> None:
        self.suspect, self._second = suspect, -1
        self._sources: dict[str, tuple[float, list[float]]] = {}
        self.events = sorted(((one.at, one.event) for one in suspect.signals if one.event), reverse=True)

    def sources(self, now: float) -> dict[str, tuple[float, list[float]]]:
        """Source -> what its signals are worth together, and each of them."""
        if int(now) != self._second:
            kind, found = self.suspect.subject.kind, by_source(self.suspect.signals, now)
            self._sources = {source: (worth(kind, source, scores), scores) for source, scores in found.items()}
            self._second = int(now)
        return self._sources


class Threats:
    """The copy in memory. `read` is asked by calls and decides nothing about its own age."""

    def __init__(self, table: Table, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._table, self._monotonic = table, monotonic
        self.of: dict[str, dict[str, Standing]] = {}  # kind -> value -> what stands against it
        self._raw: dict[bytes, Standing] = {}
        self._version: bytes | None = None
        self._as_of = self._scanned = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    @property
    def known(self) -> bool:
        """Whether anything is suspected of anybody."""
        return bool(self.of)

    @property
    def age(self) -> float:
        """Seconds since the records were read."""
        return self._monotonic() - self._as_of

    def find(self, kind: str, value: str) -> Standing | None:
        """What stands against it."""
        return self.of.get(kind, {}).get(value)

    def refresh(self) -> None:
        """Read what changed. Raises DependencyFault, and then the copy goes on ageing."""
        began = self._monotonic()
        version = self._table.get(_VERSION)
        if version != self._version or began - self._scanned >= _RESCAN:
            raws = {raw: self._raw.get(raw) or Standing(Suspect.decode(raw)) for _, raw in self._table.scan(_RECORD)}
            found: dict[str, dict[str, Standing]] = {}
            for one in raws.values():
                if one.suspect.signals:
                    found.setdefault(one.suspect.subject.kind, {})[one.suspect.subject.value] = one
            self._raw, self.of, self._version, self._scanned = raws, found, version, began
        self._as_of = max(self._as_of, began)

    async def current(self) -> None:
        """`refresh` in a thread; several callers share one reading."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(asyncio.to_thread(self.refresh))
        await asyncio.shield(self._reading)


def as_row(suspect: Suspect, now: float) -> dict[str, Any]:
    """One subject for people: its risk, and each signal with what is left of it."""
    shown = [
        {"source": one.source, "score": round(one.score, 3), "left": round(left(one, now), 3), "half_life": one.seconds,
         "at": one.at, "why": one.why, "event": one.event}
        for one in suspect.signals
    ]  # fmt: skip
    row: dict[str, Any] = {
        "about": suspect.subject.kind, "value": suspect.subject.value, "risk": round(risk_of(suspect.signals, now), 3),
        "signals": sorted(shown, key=lambda one: (-float(str(one["left"])), str(one["event"]))),
    }  # fmt: skip
    if suspect.cleared:
        row |= {"cleared": suspect.cleared, "by": suspect.by, "reason": suspect.reason}
    return row
