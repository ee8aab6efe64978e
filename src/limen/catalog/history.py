"""Who decided and what was seen, in order. Sequence numbers only grow, whoever writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import orjson

from limen.catalog.attest import Notary, Unattested
from limen.catalog.records import SEPARATOR, key
from limen.core.ports import Table

SEEN: Final = "server"  # `by` of rows that no person caused
STORE: Final = "store"  # `by` of rows about what is kept
KEPT_READINGS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Row:
    """One event. By the server: new, changed, returned, rejected_again, held, gone, finding. By a person (or by "limen"
    where nobody has to be asked): approved, voted, rejected, rolled_back. Of the store: dropped, repaired, tampered.

    `source`: the way a decision came in. `decision`: the digest of its signed record.
    """

    sequence: int
    at: float
    by: str
    event: str
    server: str
    kind: str
    name: str
    digest: str = ""
    reason: str = ""
    source: str = ""
    decision: str = ""


class History:
    """Rows in a Table. A batch is one record, so a reading of hundreds of definitions costs one write."""

    def __init__(self, table: Table, notary: Notary) -> None:
        self._table, self._notary = table, notary

    def append(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        """Number and store the rows together. Raises DependencyFault."""
        if not rows:
            return ()
        sequence = self._head() + 1
        while True:
            numbered = tuple(Row(**{**asdict(row), "sequence": sequence + at}) for at, row in enumerate(rows))
            place = self._place(sequence)
            data = orjson.dumps([asdict(row) for row in numbered])
            if self._table.swap(place, None, self._notary.seal(place, data)):
                break
            taken = self._table.get(place)  # someone was faster: go on after that batch
            sequence += len(self._load(place, taken)) if taken is not None else 0
        last = sequence + len(rows) - 1
        self._advance(last)
        if sequence // 1000 != (last + 1) // 1000:
            self._trim(last)
        return numbered

    def rows(self, after: int = 0) -> Iterator[Row]:
        """All rows kept with a higher sequence number, oldest first. Raises DependencyFault.

        Where a batch was altered a row "tampered" stands in its place.
        """
        if after and self._head() <= after:
            return
        for place, raw in self._table.scan(key("history", "")):
            yield from (row for row in self._load(place, raw) if row.sequence > after)

    def _place(self, sequence: int) -> str:
        return key("history", f"{sequence:016d}")

    def _head(self) -> int:
        return self._number(self._table.get("sequence"))

    def _number(self, raw: bytes | None) -> int:
        """The highest number given out. Where that row is not believed the rows themselves tell."""
        try:
            return int(self._notary.unseal("sequence", raw)) if raw is not None else 0
        except (Unattested, ValueError):
            rows = self._table.scan(key("history", ""))
            return max((self._load(place, row)[-1].sequence for place, row in rows), default=0)

    def _advance(self, sequence: int) -> None:
        while True:
            raw = self._table.get("sequence")
            if raw and self._number(raw) >= sequence:
                return
            if self._table.swap("sequence", raw, self._notary.seal("sequence", b"%d" % sequence)):
                return

    def _trim(self, sequence: int) -> None:
        """Forget old readings, never decisions: a server that flaps must not fill the disk."""
        oldest = self._place(max(0, sequence - KEPT_READINGS))
        for place, raw in list(self._table.scan(key("history", ""))):
            if place < oldest and all(row.by == SEEN or row.event == "dropped" for row in self._load(place, raw)):
                self._table.swap(place, raw, None)

    def _load(self, place: str, raw: bytes) -> list[Row]:
        try:
            return [Row(**row) for row in orjson.loads(self._notary.unseal(place, raw))]
        except (Unattested, ValueError, TypeError) as error:
            number = place.rpartition(SEPARATOR)[2]
            fault = f"a history record {error}"
            return [Row(int(number) if number.isdecimal() else 0, 0.0, STORE, "tampered", "", "", "", "", fault)]
