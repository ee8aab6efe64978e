"""Following the log to somewhere else: what is sent, when it is tried again, what is put aside. No clock, no network.

Each record is offered at least once, in order, and only once a signed checkpoint covers it: what was exported is what
anybody can have proven. A sink that is away is waited for; one that refuses a single record for what it says loses
that record to a file beside the log and gets the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Protocol

from limen.audit.events import read_event
from limen.audit.tree import leaf_hash
from limen.core.events import SEVERITIES, Category, Event, Severity
from limen.core.faults import DependencyFault, Fault

FIRST_DELAY: Final[float] = 0.5  # seconds before the second attempt
MOST_DELAY: Final = 60.0
MOST_STRIKES: Final = 16  # records put aside in a row before it is the sink that must be wrong
MOST_BYTES: Final = 1 << 20  # of records in one batch
OWN: Final = "follower"  # events about followers: one that is refused makes no further one


class Rejected(Fault):
    """A sink that works took none of a batch because of what it says: 400, 413, 422. Never an outage."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record on its way out, and what is needed to prove it: any signed checkpoint of at least `size` records."""

    event: Event
    raw: bytes = field(repr=False)
    leaf: str  # RFC 6962 leaf hash, hexadecimal
    size: int

    @property
    def id(self) -> str:
        """The same whenever this record is sent, for sinks that drop what they have. Holds the hash, so a log that was
        set back and went on otherwise does not repeat it."""
        return f"{self.event.id}:{self.leaf[:16]}"


class Sink(Protocol):
    """Where a follower sends. `send` returns once the other side has all of it."""

    def send(self, entries: Sequence[Entry]) -> None:
        """Raises Rejected, DependencyFault."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events go to a sink. Empty: all."""

    categories: frozenset[Category] = frozenset()
    types: tuple[str, ...] = ()  # globs
    severity: Severity = "info"  # and above

    def wants(self, event: Event) -> bool:
        if self.categories and event.category not in self.categories:
            return False
        if self.types and not any(fnmatchcase(event.type, pattern) for pattern in self.types):
            return False
        return SEVERITIES.index(event.severity) >= SEVERITIES.index(self.severity)


def read_entries(
    records: Iterable[tuple[int, bytes]], log: str, size: int, wants: Callable[[Event], bool], most: int, looked: int
) -> tuple[list[Entry], int | None]:
    """Up to `most` wanted entries below `size`, and the number of the record after the last one looked at (at most
    `looked` are). None: there was none. A record that is no event of ours goes out as one without a type."""
    found: list[Entry] = []
    weight, after = 0, None
    for count, (index, raw) in enumerate(records):
        if index >= size or count == looked or len(found) == most or weight >= MOST_BYTES:
            break
        try:
            event = read_event(log, index, raw)
        except ValueError:
            event = Event(log=log, index=index, at=0.0, type="unreadable", category="administration", severity="high")
        after = index + 1
        if wants(event):
            found.append(Entry(event, raw, leaf_hash(raw).hex(), size))
            weight += len(raw)
    return found, after


def delay(failures: int, asked: float, chance: float) -> float:
    """Seconds to wait after so many failures in a row: doubling, with full jitter (`chance` 0..1), never less than
    what the other side asked for."""
    most: float = min(MOST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16))
    return max(asked, most * (0.5 + chance / 2))


class Strikes:
    """How many records in a row were put aside. A sink that refuses everything is broken, not choosy."""

    def __init__(self) -> None:
        self.count = 0

    def struck(self, reason: str) -> None:
        """Raises DependencyFault when nothing more may be put aside."""
        if self.count >= MOST_STRIKES:
            raise DependencyFault("follower", f"refuses every record: {reason}")
        self.count += 1


def deliver(
    sink: Sink, entries: Sequence[Entry], strikes: Strikes, aside: Callable[[Entry, str], None]
) -> Iterator[int]:
    """Send all of them in order; yields the number of the record after each part that is settled.

    A part that is rejected is halved until the one record is found, and that one is put `aside`. Raises what the sink
    raises otherwise, and what `aside` raises: nothing counts as settled then.
    """
    parts = [list(entries)] if entries else []
    while parts:
        part = parts.pop()
        try:
            sink.send(part)
        except Rejected as refusal:
            if len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            strikes.struck(str(refusal))
            aside(part[0], str(refusal))
        else:
            strikes.count = 0
        yield part[-1].event.index + 1


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far behind a sink may be, in records and in seconds since the oldest one that waits for it was written."""

    records: int
    seconds: float
    refuse: bool = False  # beyond that, no call is made

    def exceeded(self, records: int, seconds: float) -> bool:
        return records > self.records or seconds > self.seconds
