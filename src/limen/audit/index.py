"""What is kept of each event so that it is found again, and which questions can be asked.

The index is a convenience and believed of nothing: every hit is read back from its log, and a row that says something
else than its record is shown as such. It can be made again from the logs at any time.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Final, NamedTuple, Protocol

from limen.core.events import SEVERITIES, Event, Severity

_BATCH: Final = 2000  # rows written at once
SOON: Final = 0.6  # seconds after which an answer says how far it goes
_FIRST = 1000  # rows looked at for the first part of an answer
_LONGEST: Final = 512  # characters: databases do not index more, and nobody asks for more


class Row(NamedTuple):
    """What is kept of one event; "" is nothing. `at` is in seconds since the epoch."""

    log: str
    number: int
    at: float
    severity: int
    type: str
    category: str
    issuer: str
    caller: str
    client: str
    session: str
    server: str
    tool: str
    digest: str
    decision: str
    reason: str
    policy: str
    ref: str
    trace: str
    risk: float


_of_event: Final[Callable[[Event], tuple[str, ...]]] = attrgetter(
    "type", "category", "issuer", "subject", "client", "session", "server", "name", "digest", "decision", "reason",
    "policy", "ref", "trace",
)  # fmt: skip  # in the order of a row


def row_of(event: Event) -> Row:
    """The row of an event. Clients choose some of its texts: long ones are cut, and NUL, which PostgreSQL does not
    store, is replaced, so that nobody can stop the index with a name."""
    texts = _of_event(event)
    if max(map(len, texts)) > _LONGEST or "\0" in "".join(texts):  # of hardly any
        texts = tuple(text[:_LONGEST].replace("\0", "\ufffd") for text in texts)
    return Row._make((event.log, event.index, event.at, SEVERITIES.index(event.severity), *texts, event.risk))


@dataclass(frozen=True, slots=True)
class Query:
    """What all rows found have in common; "" asks nothing. `since` is included, `until` is not (seconds since the
    epoch), `severity` is the least. `after` is where the page before ended (see `Hit.place`)."""

    caller: str = ""
    issuer: str = ""
    client: str = ""
    tool: str = ""
    server: str = ""
    digest: str = ""
    decision: str = ""
    reason: str = ""
    type: str = ""
    session: str = ""
    ref: str = ""
    policy: str = ""
    log: str = ""
    severity: Severity = "info"
    since: float | None = None
    until: float | None = None
    newest_first: bool = True
    limit: int = 50
    after: str = ""

    @property
    def equal(self) -> dict[str, str]:
        """The members that must be equal to what is asked for, as columns."""
        asked = {one.name: getattr(self, one.name) for one in fields(self) if one.name in COLUMNS}
        return {name: value for name, value in asked.items() if value}


# Columns that can be asked for, those that tell most first: of several that are asked for, the first one's index is
# used where the index itself cannot tell how many rows each would leave.
COLUMNS: Final = (
    "ref", "session", "caller", "digest", "tool", "client", "reason", "type", "server", "decision", "issuer", "policy",
    "log",
)  # fmt: skip
INDEXED: Final = frozenset(COLUMNS) - {"issuer", "policy", "log"}  # the others only narrow what these find


class Place(NamedTuple):
    """Where a row stands among all rows of all logs: by time, then log, then number."""

    at: float
    id: int

    def text(self) -> str:
        """To begin the next page behind it."""
        return base64.urlsafe_b64encode(struct.pack(">dq", *self)).decode().rstrip("=")


def read_place(text: str) -> Place:
    """Raises ValueError for what is not the end of a page."""
    try:
        return Place(*struct.unpack(">dq", base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))
    except (struct.error, binascii.Error, ValueError):
        raise ValueError("does not say where a page ended") from None


class TooLong(Exception):
    """There is no answer in the time there is."""


class Index(Protocol):
    """Keeps rows. All methods raise DependencyFault."""

    def add(self, rows: Sequence[Row]) -> None:
        """All of them or none. Rows that are there already stay as they are."""
        ...

    def find(self, query: Query, seconds: float | None = None) -> list[tuple[Row, Place]]:
        """At most `limit` rows, in order of time. Raises ValueError for an `after` that is none, TooLong when it
        takes longer."""
        ...

    def count(self, query: Query, seconds: float | None = None) -> int:
        """How many there are, whatever the limit and the page. Raises TooLong when it takes longer."""
        ...

    def behind(self, query: Query, rows: int) -> float | None:
        """When was the row, in the order of the question, before which at most `rows` need be looked at to answer it?
        None: there are not so many."""
        ...

    def explain(self, query: Query) -> str:
        """How the database would look for them."""
        ...

    def numbers(self, log: str) -> Iterator[Row]:
        """All rows of one log, by number."""
        ...

    def forget(self, log: str, first: int = 0, last: int | None = None) -> None:
        """Rows first to last - 1 of one log go."""
        ...

    def close(self) -> None: ...


class Counted(NamedTuple):
    """How many rows were found. `since`: only of those from then on, for time ran out; None: all were counted."""

    number: int
    since: float | None


class Page(NamedTuple):
    """Rows, and where the next page begins (None: there are no more). `reached`: time ran out there, in seconds since
    the epoch, before the page was full; the next one goes on from there."""

    rows: list[tuple[Row, Place]]
    after: Place | None
    reached: float | None = None


def counted(index: Index, query: Query, seconds: float | None = SOON) -> Counted:
    """Count, the newest first, for about so long (None: until all are counted). Raises DependencyFault."""
    end, total = _end(seconds), 0
    for number, part in enumerate(_parts(index, replace(query, newest_first=True, after=""))):
        try:
            total += index.count(part, _left(end) if number else None)
        except TooLong:
            return Counted(total, part.until)
    return Counted(total, None)


def page(index: Index, query: Query, seconds: float | None = SOON) -> Page:
    """At most `limit` rows, found in about so long. Raises ValueError for an `after` that is none, DependencyFault."""
    end, found, limit = _end(seconds), list[tuple[Row, Place]](), query.limit
    for number, part in enumerate(_parts(index, _from(query))):
        try:
            found += index.find(replace(part, limit=limit + 1 - len(found)), _left(end) if number else None)
        except TooLong:
            reached = part.until if query.newest_first else part.since
            assert reached is not None
            return Page(found, Place(reached, 0), reached)
        if len(found) > limit:
            return Page(found[:limit], found[limit - 1][1])
    return Page(found, None)


def _end(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _left(end: float | None) -> float | None:
    """Seconds until then. Raises TooLong when there are none."""
    if end is None:
        return None
    if (left := end - time.monotonic()) <= 0:
        raise TooLong
    return left


def _from(query: Query) -> Query:
    """The same question, of no time that lies before the page."""
    if not query.after:
        return query
    at = read_place(query.after).at
    if query.newest_first:
        end = math.nextafter(at, math.inf)
        return replace(query, until=end if query.until is None else min(end, query.until))
    return replace(query, since=at if query.since is None else max(at, query.since))


def _parts(index: Index, query: Query) -> Iterator[Query]:
    """The same question of one span of time after the other, in its order: the first of so few rows that it is answered
    at once, each other four times as long as the one before. Where time runs out, little was in vain."""
    edge = index.behind(query, _FIRST)
    start = index.behind(query, 0)
    last = index.behind(replace(query, newest_first=not query.newest_first), 0)
    if edge is not None and start is not None and last is not None:
        width = max(abs(start - edge), 1.0)
        while edge > last if query.newest_first else edge < last:
            if query.newest_first:
                yield replace(query, since=edge)
                query, edge = replace(query, until=edge), edge - 4 * width
            else:
                edge = math.nextafter(edge, math.inf)
                yield replace(query, until=edge)
                query, edge = replace(query, since=edge), edge + 4 * width
            width *= 4
    yield query


class Indexing:
    """Implements `core.events.Watch`: writes the row of every event, many at a time."""

    name = "index"

    def __init__(self, index: Index) -> None:
        self._index = index
        self._rows: list[Row] = []

    def see(self, event: Event) -> None:
        """Raises DependencyFault, and will see the event again."""
        if len(self._rows) >= _BATCH:
            self.settle(0.0)
        self._rows.append(row_of(event))

    def settle(self, now: float) -> None:
        """Raises DependencyFault; nothing of it is forgotten then."""
        if self._rows:
            self._index.add(self._rows)
            self._rows = []
