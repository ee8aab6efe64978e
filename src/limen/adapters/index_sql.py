"""What the index of the log looks like in a database, and how questions are put to it: the same for both.

Texts that repeat are stored once and referred to by number. `id` holds the log's number in its upper 23 bits and the
record's in its lower 40, so that a record has one row, however often it is shown.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from operator import attrgetter
from typing import Any, Final, NamedTuple

from limen.audit.index import COLUMNS, INDEXED, Place, Query, Row, read_place
from limen.core.events import SEVERITIES
from limen.core.faults import DependencyFault

TEXTS: Final = (
    "type", "category", "issuer", "caller", "client", "session", "server", "tool", "digest", "decision", "reason",
    "policy",
)  # fmt: skip  # by number in the table of texts; NULL for ""
_texts: Final[Callable[[Row], tuple[str, ...]]] = attrgetter(*TEXTS)
STORED: Final = ("id", "at", "severity", *TEXTS, "ref", "trace", "risk")
NUMBERS: Final = 1 << 40
LEVELS: Final = (1, 2, 3, 4)  # severities that have an index of their own
_TOGETHER: Final = ("caller", "tool", "decision", "type")
_FEW: Final = ("ref", "session")  # found by these are few rows
MOST_CACHED: Final = 200_000  # texts and their numbers
PAGE: Final = 5000  # rows read, or numbers deleted, in one statement
LISTED: Final = ", ".join(STORED)


def indexes(tail: str) -> dict[str, str]:
    """Name -> what follows ON: each column that can be asked for, in order of time; and each severity. `tail` is the
    order of rows: SQLite ends every index with the id by itself."""
    named = {
        f"limen_event_{name}": f"({', '.join((name, tail, *_beside(name)))}) WHERE {name} IS NOT NULL"
        for name in COLUMNS
        if name in INDEXED
    }
    grave = {f"limen_event_severity_{level}": f"({tail}) WHERE severity >= {level}" for level in LEVELS}
    return {**named, **grave}


def _beside(name: str) -> list[str]:
    """What is most often asked for together stands in each other's index: a row that meets one condition of two is
    passed over without a look at it."""
    return [] if name in _FEW else [other for other in _TOGETHER if other != name]


def packed(log: int, number: int) -> int:
    """The id of a row."""
    return log * NUMBERS + number


class Way(NamedTuple):
    """An index of the database by which rows are found in order of time, and the condition that chooses it."""

    name: str
    term: str
    values: list[Any]


class Asked:
    """One question as SQL. `ways`: how its rows can be found; at least one."""

    def __init__(self, query: Query, known: Mapping[str, int], log: int | None, mark: str) -> None:
        """`known`: the numbers of the texts that are asked for; `mark` stands for a value. Raises ValueError."""
        self._query, self._mark = query, mark
        self._terms: list[str] = []
        self._values: list[Any] = []
        self.ways: list[Way] = []
        for name in sorted(query.equal, key=COLUMNS.index):
            text = query.equal[name]
            if name == "log":
                assert log is not None
                self._terms += [f"id >= {mark}", f"id < {mark}"]
                self._values += [packed(log, 0), packed(log + 1, 0)]
                continue
            value = text if name == "ref" else known[text]
            self._terms.append(f"{name} = {mark}")
            self._values.append(value)
            if name in INDEXED:
                self.ways.append(Way(f"limen_event_{name}", f"{name} = {mark}", [value]))
        level = SEVERITIES.index(query.severity)
        if level:
            term = f"severity >= {level}"  # a literal: partial indexes need one
            self._terms.append(term)
            self.ways.append(Way(f"limen_event_severity_{level}", term, []))
        if not self.ways:
            self.ways.append(Way("limen_event_at", "true", []))

    def _timed(self, terms: Sequence[str], values: Sequence[Any]) -> tuple[str, list[Any]]:
        found, chosen = [*terms], [*values]
        for bound, sign in ((self._query.since, ">="), (self._query.until, "<")):
            if bound is not None:
                found.append(f"at {sign} {self._mark}")
                chosen.append(bound)
        return " AND ".join(found) or "true", chosen

    @property
    def where(self) -> tuple[str, list[Any]]:
        """The condition, and its values."""
        return self._timed(self._terms, self._values)

    def page(self) -> tuple[str, list[Any]]:
        """Condition, order and limit of one page, and its values. Raises ValueError for an `after` that is none."""
        where, values = self.where
        if self._query.after:
            sign = "<" if self._query.newest_first else ">"
            where += f" AND (at, id) {sign} ({self._mark}, {self._mark})"
            values += read_place(self._query.after)
        return f"{where} {self._order} LIMIT {self._mark}", [*values, self._query.limit]

    def behind(self, way: Way, rows: int) -> tuple[str, list[Any]]:
        """The row behind the first `rows` that are found this way, whatever else is asked."""
        where, values = self._timed([way.term], way.values)
        return f"{where} {self._order} LIMIT 1 OFFSET {self._mark}", [*values, rows]

    def first(self, way: Way, rows: int) -> tuple[str, list[Any]]:
        """At most so many of those found this way, in any order."""
        where, values = self._timed([way.term], way.values)
        return f"{where} LIMIT {self._mark}", [*values, rows]

    @property
    def _order(self) -> str:
        return "ORDER BY at DESC, id DESC" if self._query.newest_first else "ORDER BY at ASC, id ASC"


def stored(row: Row, log: int, numbers: Callable[[str], int | None]) -> tuple[Any, ...]:
    """A row's values, in the order of STORED. `numbers`: of each text, None of ""."""
    texts = map(numbers, _texts(row))
    return (packed(log, row.number), row.at, row.severity, *texts, row.ref or None, row.trace or None, row.risk)


def loaded(values: Sequence[Any], logs: Mapping[int, str], texts: Callable[[int], str]) -> tuple[Row, Place]:
    """The row these values were stored for, and its place."""
    found = dict(zip(STORED, values, strict=True))
    named = {name: texts(found[name]) if found[name] is not None else "" for name in TEXTS}
    log, number = divmod(found["id"], NUMBERS)
    row = Row(
        log=logs[log], number=number, at=found["at"], severity=found["severity"], ref=found["ref"] or "",
        trace=found["trace"] or "", risk=found["risk"], **named,
    )  # fmt: skip
    return row, Place(found["at"], found["id"])


class SqlIndex(ABC):
    """`audit.index.Index` but for what the two databases do differently. Threads may share one."""

    mark: str  # stands for a value
    explaining = "EXPLAIN"

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._connection: Any = None
        self._numbers: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._logs: dict[str, int] = {}

    @abstractmethod
    def add(self, rows: Sequence[Row]) -> None:
        """See `Index.add`."""

    @abstractmethod
    def _fault(self) -> AbstractContextManager[Any]:
        """The connection, opened if it was not, for one thread at a time; its errors are DependencyFaults."""

    @abstractmethod
    def _within(self, connection: Any, seconds: float | None) -> AbstractContextManager[Any]:
        """Statements that may take so long, None: any time. Raises TooLong."""

    @abstractmethod
    def _run(self, connection: Any, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of a statement that is made of our own names only."""

    @abstractmethod
    def _numbered(self, connection: Any, texts: set[str]) -> dict[str, int]:
        """The numbers of those texts that have one."""

    @abstractmethod
    def _worded(self, connection: Any, numbers: set[int]) -> dict[int, str]:
        """The texts of those numbers that have one."""

    def _table(self, connection: Any, asked: Asked, way: Way | None = None) -> str:
        """Where rows are looked for, with the index to be used if the database does not see which by itself."""
        return "limen_event"

    def _select(
        self, connection: Any, what: str, asked: Asked, clause: tuple[str, list[Any]], way: Way | None = None
    ) -> list[Any]:
        where, values = clause
        return self._run(connection, f"{what} FROM {self._table(connection, asked, way)} WHERE {where}", values)

    def find(self, query: Query, seconds: float | None = None) -> list[tuple[Row, Place]]:
        """See `Index.find`."""
        with self._fault() as connection, self._within(connection, seconds):
            asked = self._asked(connection, query)
            if asked is None:
                return []
            return self._loaded(connection, self._select(connection, f"SELECT {LISTED}", asked, asked.page()))

    def count(self, query: Query, seconds: float | None = None) -> int:
        """See `Index.count`."""
        with self._fault() as connection, self._within(connection, seconds):
            asked = self._asked(connection, query)
            if asked is None:
                return 0
            return int(self._select(connection, "SELECT count(*)", asked, asked.where)[0][0])

    def behind(self, query: Query, rows: int) -> float | None:
        """See `Index.behind`. The way that goes back farthest before it has seen as many is the shortest one here."""
        with self._fault() as connection:
            asked = self._asked(connection, query)
            if asked is None:
                return None
            times = list[float]()
            for way in asked.ways:
                found = self._select(connection, "SELECT at", asked, asked.behind(way, rows), way)
                if not found:
                    return None
                times.append(float(found[0][0]))
            return min(times) if query.newest_first else max(times)

    def explain(self, query: Query) -> str:
        """See `Index.explain`."""
        with self._fault() as connection:
            asked = self._asked(connection, query)
            if asked is None:
                return "nothing to look for"
            plan = self._select(connection, f"{self.explaining} SELECT {LISTED}", asked, asked.page())
            return "\n".join(str(row[-1]) for row in plan)

    def numbers(self, log: str) -> Iterator[Row]:
        """See `Index.numbers`."""
        after = -1
        while True:
            with self._fault() as connection:
                number = self._known_logs(connection).get(log)
                if number is None:
                    return
                rows = self._run(
                    connection,
                    f"SELECT {LISTED} FROM limen_event WHERE id > {self.mark} AND id < {self.mark} ORDER BY id"  # noqa: S608 - our own names
                    f" LIMIT {PAGE}",
                    (packed(number, after), packed(number + 1, 0)),
                )
                found = [row for row, _ in self._loaded(connection, rows)]
            yield from found
            if not found:
                return
            after = found[-1].number

    def forget(self, log: str, first: int = 0, last: int | None = None) -> None:
        """See `Index.forget`. A few at a time: others write meanwhile, and no statement takes long."""
        between = f"limen_event WHERE id >= {self.mark} AND id < {self.mark}"
        with self._fault() as connection:
            number = self._known_logs(connection).get(log)
        if number is None:
            return
        start, end = packed(number, first), packed(number, NUMBERS if last is None else last)
        while True:
            with self._fault() as connection:
                found = self._run(connection, f"SELECT min(id) FROM {between}", (start, end))[0][0]  # noqa: S608 - our own names
                if found is None:
                    return
                start = min(found + PAGE, end)
                self._run(connection, f"DELETE FROM {between}", (found, start))  # noqa: S608 - our own names

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _asked(self, connection: Any, query: Query) -> Asked | None:
        """None: something is asked for that no row has."""
        asked = {text for name, text in query.equal.items() if name not in ("ref", "log")}
        known, log = self._numbered(connection, asked), self._known_logs(connection).get(query.log)
        if len(known) < len(asked) or (query.log and log is None):
            return None
        return Asked(query, known, log, self.mark)

    def _loaded(self, connection: Any, rows: Sequence[Sequence[Any]]) -> list[tuple[Row, Place]]:
        places = [place for place, name in enumerate(STORED) if name in TEXTS]
        if len(self._texts) > MOST_CACHED:
            self._texts.clear()
        missing = {row[place] for row in rows for place in places if row[place] is not None} - self._texts.keys()
        self._texts.update(self._worded(connection, missing))
        logs = {number: name for name, number in self._known_logs(connection).items()}
        try:
            return [loaded(row, logs, self._texts.__getitem__) for row in rows]
        except KeyError:
            raise DependencyFault("index", "it is damaged: limen audit index rebuild", retryable=False) from None

    def _known_logs(self, connection: Any) -> dict[str, int]:
        return dict(self._run(connection, "SELECT name, number FROM limen_log"))

    def _log(self, connection: Any, name: str) -> int:
        """The number of a log, given it now if it has none."""
        if name not in self._logs:
            values = f"limen_log (name) VALUES ({self.mark})"
            self._run(connection, f"INSERT INTO {values} ON CONFLICT DO NOTHING", (name,))
            self._logs = self._known_logs(connection)
        return self._logs[name]

    def _number(self, connection: Any, texts: set[str]) -> None:
        """Know the numbers of all of these, given now to those that have none."""
        if len(self._numbers) > MOST_CACHED:
            self._numbers.clear()
        new = sorted(texts - self._numbers.keys())  # in order: two replicas that insert the same do not deadlock
        if new:
            self._enter(connection, new)
            self._numbers.update(self._numbered(connection, set(new)))

    @abstractmethod
    def _enter(self, connection: Any, texts: Sequence[str]) -> None:
        """Texts that have no number get one."""

    def _stored(self, connection: Any, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
        """What is stored of rows, in the order of STORED."""
        texts = set[str]().union(*map(_texts, rows)) - {""}
        self._number(connection, texts)
        numbers: dict[str, int | None] = {"": None, **{text: self._numbers[text] for text in texts}}
        logs = {name: self._log(connection, name) for name in {row.log for row in rows}}
        return [stored(row, logs[row.log], numbers.__getitem__) for row in rows]
