"""Records that stand against somebody or something, in a table every replica reads, and the copy of them in memory.

A call looks them up in the copy. One that is older than `MAX_AGE` decides nothing: whoever asks reads anew, and refuses
when that fails.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Final, Generic, Protocol, TypeVar

from limen.core.faults import DependencyFault
from limen.core.ports import Table

MAX_AGE: Final = 1.0  # seconds a copy of the records may decide
RECORD: Final = "r/"  # where records stand: what is written elsewhere in the table is none
_VERSION: Final = "version"
_RESCAN: Final = 5.0  # seconds after which all records are read even if nobody says that they changed


class Lasting(Protocol):
    """What a record says of itself. `until` in seconds since the epoch; None: until it is taken back."""

    @property
    def id(self) -> str: ...
    @property
    def until(self) -> float | None: ...


Record = TypeVar("Record", bound=Lasting)


def identifier(kind: str, issuer: str, value: str) -> str:
    """The same for the same thing done again: 16 hexadecimal digits."""
    return sha256(json.dumps([kind, issuer, value]).encode()).hexdigest()[:16]


def tell(table: Table) -> None:
    """Say that records changed; after they did, so that nobody who looks again misses it. Raises DependencyFault."""
    table.put(_VERSION, secrets.token_bytes(16))


class Copied(Generic[Record]):
    """The copy. `read` gives a record of its id and its bytes, and raises DependencyFault for what it cannot read: it
    may be what should stop this call. `remote`: reading waits for a network, and is done in a thread."""

    def __init__(
        self,
        table: Table,
        read: Callable[[str, bytes], Record],
        *,
        remote: bool = False,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table, self._read_one, self._remote, self._now, self._monotonic = table, read, remote, now, monotonic
        self._records: dict[str, Record] = {}
        self.quiet = True  # nothing stands against anybody: one look instead of one for everything a call shows
        self._as_of = self._scanned = float("-inf")
        self._due = float("inf")  # the first of them ends then
        self._version: bytes | None = None
        self._reading: asyncio.Task[None] | None = None
        self.on_change: Callable[[list[Record], list[Record]], None] = lambda added, gone: None

    def arrange(self, records: dict[str, Record]) -> None:
        """Called with all records, by id, whenever they were read: make ready what calls look up."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Read what changed. Raises DependencyFault, and then the copy goes on ageing."""
        self._adopt(*self._look())

    async def current(self) -> None:
        """`refresh` without holding up the event loop; several callers share one reading."""
        if not self._remote:
            self.refresh()
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    def fresh(self) -> Awaitable[None] | None:
        """None while the copy may decide; else what to wait for first, which raises DependencyFault."""
        return self._anew() if self._monotonic() - self._as_of > MAX_AGE else None

    async def _anew(self) -> None:
        """What took longer to read than a copy may be old decides nothing either."""
        for _ in range(2):  # the first may have begun long before we asked
            await self.current()
            if not self.old:
                return
        raise DependencyFault("table", "records took too long to read")

    @property
    def old(self) -> bool:
        """Whether the copy may not decide any more."""
        return self._monotonic() - self._as_of > MAX_AGE

    async def _read(self) -> None:
        self._adopt(*await asyncio.to_thread(self._look))

    def _look(self) -> tuple[float, bytes | None, list[Record] | None]:
        """When this began, the version, and all records where they may differ from the copy."""
        began = self._monotonic()
        version = self._table.get(_VERSION)
        if version == self._version and began - self._scanned < _RESCAN and self._now() < self._due:
            return began, version, None
        return began, version, [self._read_one(key.removeprefix(RECORD), raw) for key, raw in self._table.scan(RECORD)]

    def _adopt(self, began: float, version: bytes | None, records: list[Record] | None) -> None:
        before, first = self._records, self._scanned == float("-inf")
        if records is not None:
            self._records = {record.id: record for record in records}
            self.quiet = not records
            self._due = min((one.until for one in records if one.until is not None), default=float("inf"))
            self.arrange(self._records)
            self._version, self._scanned = version, began
        self._as_of = max(self._as_of, began)
        if records is not None and before != self._records:
            added = [record for key, record in self._records.items() if before.get(key) != record]
            gone = [] if first else [record for key, record in before.items() if key not in self._records]
            self.on_change(added, gone)
