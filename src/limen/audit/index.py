"""What is kept of each event so that it is found again, and which questions can be asked.

The index is a convenience and believed of nothing: every hit is read back from its log, and a row that says something
else than its record is shown as such. It can be made again from the logs at any time.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final, NamedTuple, Protocol

from limen.core.events import SEVERITIES, Event, Severity

_BATCH: Final = 2000  # rows written at once
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


def row_of(event: Event) -> Row:
    """The row of an event. Clients choose some of its texts: long ones are cut, and NUL, which PostgreSQL does not
    store, is replaced, so that nobody can stop the index with a name."""
    texts = (
        event.type, event.category, event.issuer, event.subject, event.client, event.session, event.server, event.name,
        event.digest, event.decision, event.reason, event.policy, event.ref, event.trace,
    )  # fmt: skip
    kept = [text[:_LONGEST].replace("\0", "\ufffd") for text in texts]
    return Row._make((event.log, event.index, event.at, SEVERITIES.index(event.severity), *kept, event.risk))


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


class Index(Protocol):
    """Keeps rows. All methods raise DependencyFault."""

    def add(self, rows: Sequence[Row]) -> None:
        """All of them or none. Rows that are there already stay as they are."""
        ...

    def find(self, query: Query) -> list[tuple[Row, Place]]:
        """At most `limit` rows, in order of time. Raises ValueError for an `after` that is none."""
        ...

    def count(self, query: Query) -> int:
        """How many there are, whatever the limit and the page."""
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
