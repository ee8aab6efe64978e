"""Who decided and what was seen, in order. Sequence numbers only grow, whoever writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from limen.catalog.records import key
from limen.core.faults import DependencyFault
from limen.core.ports import Table

SEEN: Final = "server"  # `by` of rows that no person caused
KEPT_READINGS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Row:
    """One event. By the server: new, changed, returned, rejected_again, held, gone. By a person: approved, rejected."""

    sequence: int
    at: float
    by: str
    event: str
    server: str
    kind: str
    name: str
    digest: str = ""
    reason: str = ""


class History:
    """Rows in a Table. A batch is one record, so a reading of hundreds of definitions costs one write."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def append(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        """Number and store the rows together. Raises DependencyFault."""
        if not rows:
            return ()
        sequence = self._head() + 1
        while True:
            numbered = tuple(Row(**{**asdict(row), "sequence": sequence + at}) for at, row in enumerate(rows))
            place = self._place(sequence)
            if self._table.swap(place, None, orjson.dumps([asdict(row) for row in numbered])):
                break
            taken = self._table.get(place)  # someone was faster: go on after that batch
            sequence += len(_load(taken)) if taken is not None else 0
        last = sequence + len(rows) - 1
        self._advance(last)
        if sequence // 1000 != (last + 1) // 1000:
            self._trim(last)
        return numbered

    def rows(self, after: int = 0) -> Iterator[Row]:
        """All rows kept with a higher sequence number, oldest first. Raises DependencyFault."""
        if after and self._head() <= after:
            return
        for _, raw in self._table.scan(key("history", "")):
            yield from (Row(**row) for row in _load(raw) if row["sequence"] > after)

    def _place(self, sequence: int) -> str:
        return key("history", f"{sequence:016d}")

    def _head(self) -> int:
        raw = self._table.get("sequence")
        return int(raw) if raw else 0

    def _advance(self, sequence: int) -> None:
        while True:
            raw = self._table.get("sequence")
            if raw and int(raw) >= sequence:
                return
            if self._table.swap("sequence", raw, b"%d" % sequence):
                return

    def _trim(self, sequence: int) -> None:
        """Forget old readings, never decisions: a server that flaps must not fill the disk."""
        oldest = self._place(max(0, sequence - KEPT_READINGS))
        for place, raw in list(self._table.scan(key("history", ""))):
            if place < oldest and _load(raw)[0]["by"] == SEEN:
                self._table.swap(place, raw, None)


def _load(raw: bytes) -> list[dict[str, Any]]:
    try:
        return list(orjson.loads(raw))
    except ValueError as error:
        raise DependencyFault("catalog", f"a history record cannot be read: {error}") from None
