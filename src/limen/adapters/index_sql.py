"""What the index of the log looks like in a database, and how questions are put to it: the same for both.

Texts that repeat are stored once and referred to by number. `id` holds the log's number in its upper 23 bits and the
record's in its lower 40, so that a record has one row, however often it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from limen.audit.index import COLUMNS, INDEXED, Place, Query, Row, read_place
from limen.core.events import SEVERITIES

TEXTS: Final = (
    "type", "category", "issuer", "caller", "client", "session", "server", "tool", "digest", "decision", "reason",
    "policy",
)  # fmt: skip  # by number in the table of texts; NULL for ""
STORED: Final = ("id", "at", "severity", *TEXTS, "ref", "trace", "risk")
NUMBERS: Final = 1 << 40
LEVELS: Final = (1, 2, 3, 4)  # severities that have an index of their own


def indexes(tail: str) -> dict[str, str]:
    """Name -> what follows ON: each column that can be asked for, in order of time; and each severity. `tail` is the
    order of rows: SQLite ends every index with the id by itself."""
    named = {f"limen_event_{name}": f"({name}, {tail}) WHERE {name} IS NOT NULL" for name in COLUMNS if name in INDEXED}
    grave = {f"limen_event_severity_{level}": f"({tail}) WHERE severity >= {level}" for level in LEVELS}
    return {**named, **grave}


def packed(log: int, number: int) -> int:
    """The id of a row."""
    return log * NUMBERS + number


class Asked:
    """One question as SQL. `where` and `values` belong together."""

    def __init__(self, query: Query, known: Mapping[str, int], log: int | None, mark: str) -> None:
        """`known`: the numbers of the texts that are asked for; `mark` stands for a value. Raises ValueError."""
        self.values: list[Any] = []
        self._terms: list[str] = []
        self._mark = mark
        self.columns: dict[str, Any] = {}  # those with an index of their own, and what each must be
        for name, text in query.equal.items():
            if name == "log":
                assert log is not None
                self._also(f"id >= {mark}", packed(log, 0))
                self._also(f"id < {mark}", packed(log + 1, 0))
            else:
                value = text if name == "ref" else known[text]
                self._also(f"{name} = {mark}", value)
                if name in INDEXED:
                    self.columns[name] = value
        if query.since is not None:
            self._also(f"at >= {mark}", query.since)
        if query.until is not None:
            self._also(f"at < {mark}", query.until)
        self.level = SEVERITIES.index(query.severity)
        if self.level:
            self._terms.append(f"severity >= {self.level}")  # a literal: partial indexes need one

    def _also(self, term: str, value: object) -> None:
        self._terms.append(term)
        self.values.append(value)

    @property
    def where(self) -> str:
        """The condition."""
        return " AND ".join(self._terms) or "true"

    def page(self, query: Query) -> tuple[str, list[Any]]:
        """Condition, order and limit of one page, and its values."""
        where, values = self.where, [*self.values]
        if query.after:
            place = read_place(query.after)
            where += f" AND (at, id) {'<' if query.newest_first else '>'} ({self._mark}, {self._mark})"
            values += place
        way = "DESC" if query.newest_first else "ASC"
        return f"{where} ORDER BY at {way}, id {way} LIMIT {self._mark}", [*values, query.limit]


def stored(row: Row, log: int, numbers: Callable[[str], int]) -> tuple[Any, ...]:
    """A row's values, in the order of STORED."""
    texts = [numbers(text) if (text := getattr(row, name)) else None for name in TEXTS]
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


def wanted(query: Query) -> list[str]:
    """Texts of a question whose numbers are needed."""
    return [text for name, text in query.equal.items() if name not in ("ref", "log")]
