"""Where the registry keeps things: one Table, prefixed keys, contents beside the records that name them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import orjson

from limen.catalog.definitions import Held, digest_of
from limen.catalog.records import SEPARATOR, Record, key
from limen.core.faults import DependencyFault
from limen.core.ports import Table

MAX_HELD: Final = 1000


class Subject(NamedTuple):
    """Which definition: of which server, of which kind, under which name."""

    server: str
    kind: str
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


class Store:
    """Typed access to the table. Raises DependencyFault for what cannot be read or is not what was written."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def load(self, subject: Subject) -> tuple[bytes, Record] | None:
        """The record with the bytes a compare-and-set needs, or None."""
        raw = self.table.get(key("entry", *subject))
        return (raw, parse(raw)) if raw is not None else None

    def save(self, subject: Subject, old: bytes | None, record: Record) -> bool:
        """True if nobody else wrote in between."""
        return self.table.swap(key("entry", *subject), old, record.dump())

    def scan(self, server: str | None = None) -> Iterator[tuple[Subject, bytes, Record]]:
        """All records, of one server or of all."""
        for subject, raw in self.scan_raw(server):
            yield subject, raw, parse(raw)

    def scan_raw(self, server: str | None = None) -> Iterator[tuple[Subject, bytes]]:
        """The same, not parsed yet."""
        for place, raw in self.table.scan(key("entry", "") if server is None else key("entry", server, "")):
            _, owner, kind, name = place.split(SEPARATOR)
            yield Subject(owner, kind, name), raw

    def keep(self, subject: Subject, digest: str, content: bytes) -> None:
        """Store a version. Written before the record that names it, so a crash leaves no dangling name."""
        self.table.put(key("version", *subject, digest), content)

    def content(self, subject: Subject, digest: str) -> bytes:
        """Canonical bytes of a version, checked against its digest."""
        raw = self.table.get(key("version", *subject, digest))
        if raw is None or digest_of(raw) != digest:
            raise DependencyFault("catalog", f"{subject}: the stored definition is not what was observed")
        return raw

    def forget(self, subject: Subject, digests: Iterable[str]) -> None:
        """Drop versions nobody ever decided about."""
        for digest in digests:
            place = key("version", *subject, digest)
            self.table.swap(place, self.table.get(place), None)

    def drop(self, subject: Subject, raw: bytes, record: Record) -> None:
        """Drop a name nobody ever decided about, with its versions."""
        if self.table.swap(key("entry", *subject), raw, None):
            self.forget(subject, [digest for digest, _ in record.versions])

    def held(self, server: str) -> list[Held]:
        """What the last reading announced that cannot be approved."""
        raw = self.table.get(key("held", server))
        return [Held(*row) for row in orjson.loads(raw)] if raw else []

    def keep_held(self, server: str, held: Iterable[Held]) -> None:
        """Replace that list; at most MAX_HELD rows."""
        rows = [(one.kind, one.name, one.reason) for one in held][:MAX_HELD]
        place, data = key("held", server), orjson.dumps(rows)
        if self.table.get(place) != data:
            self.table.put(place, data)


def parse(raw: bytes) -> Record:
    try:
        return Record.load(raw)
    except (ValueError, KeyError, TypeError) as error:
        raise DependencyFault("catalog", f"a record cannot be read: {type(error).__name__}") from None
