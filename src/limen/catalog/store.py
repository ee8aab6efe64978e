"""Where the registry keeps things: one Table, prefixed keys, every row sealed under its key.

entry/SERVER/KIND/NAME                    the record: small, written as one, the point where a change takes effect
version/SERVER/KIND/NAME/DIGEST           canonical bytes of a definition
mark/SERVER/KIND/NAME/DIGEST              when it was first seen, and what was decided about it
decision/SERVER/KIND/NAME/CHAIN.NUMBER    signed decisions, each naming the one before it
held/SERVER, findings/SERVER, bytes/SERVER  what the last reading brought; how much the versions take
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import orjson

from limen.catalog.attest import FORCE, Decision, Notary, Unattested, parse_note
from limen.catalog.definitions import Held, digest_of
from limen.catalog.records import GONE, SEPARATOR, Mark, Record, key
from limen.core.ports import Table

MAX_HELD: Final = 1000
MAX_FINDINGS: Final = 100
MAX_AT_ONCE: Final = 4 << 20  # bytes of a server's versions that are read in one go

Contents = Mapping[str, bytes]
Links = Mapping[tuple[int, int], tuple[str, bytes]]
"""Raw decisions about one name with their places, by chain and number."""


class Subject(NamedTuple):
    """Which definition: of which server, of which kind, under which name."""

    server: str
    kind: str
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


AllLinks = Mapping[Subject, Links]


class Loaded(NamedTuple):
    """A record as it is stored. `fault` says why it is not believed; `record` is then a new one to go on with."""

    raw: bytes
    record: Record
    fault: str = ""


class Store:
    """Typed access to the table. Raises DependencyFault for a table that fails, Unattested for rows not believed."""

    def __init__(self, table: Table, notary: Notary) -> None:
        self.table, self.notary = table, notary

    # rows

    def get(self, place: str) -> bytes | None:
        """What is stored, or None. Raises Unattested."""
        raw = self.table.get(place)
        return None if raw is None else self.notary.unseal(place, raw)

    def put(self, place: str, value: bytes) -> None:
        """Store, whatever was there."""
        self.table.put(place, self.notary.seal(place, value))

    # records

    def load(self, subject: Subject) -> Loaded | None:
        """The record with the bytes a compare-and-set needs, or None."""
        raw = self.table.get(key("entry", *subject))
        return self.read(subject, raw) if raw is not None else None

    def read(self, subject: Subject, raw: bytes) -> Loaded:
        """A stored record as far as it is believed: authentic, and about this subject."""
        try:
            record = Record.load(self.notary.unseal(key("entry", *subject), raw))
            if record.approved is not None and record.approved.subject != tuple(subject):
                raise Unattested("carries the approval of another definition")
        except Unattested as error:
            record = self.fresh(subject)
            record.chain = max(record.chain, 1)  # something was there, even if no decision is left of it
            return Loaded(raw, record, f"its record {error}")
        return Loaded(raw, record)

    def fresh(self, subject: Subject) -> Record:
        """A record of a name of which nothing is known. Decisions of an earlier one that was lost are left alone."""
        rows = [place.rpartition(SEPARATOR)[2] for place, _ in self.table.scan(key("decision", *subject, ""))]
        return Record(announced=GONE, chain=max((int(row.partition(".")[0]) + 1 for row in rows), default=0))

    def save(self, subject: Subject, old: bytes | None, record: Record) -> bool:
        """True if nobody else wrote in between."""
        place = key("entry", *subject)
        return self.table.swap(place, old, self.notary.seal(place, record.dump()))

    def scan(self, server: str | None = None) -> Iterator[tuple[Subject, Loaded]]:
        """All records, of one server or of all."""
        for subject, raw in self.scan_raw(server):
            yield subject, self.read(subject, raw)

    def scan_raw(self, server: str | None = None) -> Iterator[tuple[Subject, bytes]]:
        """The same, not read yet."""
        for place, raw in self.table.scan(key("entry", "") if server is None else key("entry", server, "")):
            _, owner, kind, name = place.split(SEPARATOR)
            yield Subject(owner, kind, name), raw

    # versions

    def mark(self, subject: Subject, digest: str) -> Mark | None:
        """The standing of a version, or None when it is not kept or its mark is not believed: it waits again then."""
        try:
            raw = self.get(key("mark", *subject, digest))
            return Mark.load(raw) if raw is not None else None
        except Unattested:
            return None

    def marks(self, *parts: str) -> Iterator[tuple[Subject, str, Mark | None]]:
        """Every version of a server, or of one of its names. A mark that is not believed is None."""
        for place, raw in self.table.scan(key("mark", *parts, "")):
            _, server, kind, name, digest = place.split(SEPARATOR)
            try:
                yield Subject(server, kind, name), digest, Mark.load(self.notary.unseal(place, raw))
            except Unattested:
                yield Subject(server, kind, name), digest, None

    def keep_version(self, subject: Subject, record: Record, digest: str, content: bytes, now: float) -> None:
        """Store a version not kept yet. Written before the record that counts it: a crash leaves no dangling name."""
        if self.mark(subject, digest) is not None:
            return
        self.table.put(key("version", *subject, digest), content)  # its digest is its seal
        record.serial += 1
        record.versions += 1
        self.put(key("mark", *subject, digest), Mark(record.serial, now, len(content)).dump())
        self._weigh(subject.server, len(content))

    def content(self, subject: Subject, digest: str, contents: Contents | None = None) -> bytes:
        """Canonical bytes of a version, checked against its digest. Raises Unattested."""
        place = key("version", *subject, digest)
        raw = contents.get(place) if contents is not None else self.table.get(place)
        if raw is None or digest_of(raw) != digest:
            raise Unattested("has a stored definition that is not what was observed")
        return raw

    def contents(self, server: str) -> Contents | None:
        """The bytes of all versions of a server by key, not checked, or None where that would be much."""
        return dict(self.table.scan(key("version", server, ""))) if self.weight(server) <= MAX_AT_ONCE else None

    def repair(self, subject: Subject, digest: str, content: bytes) -> None:
        """Put back the bytes of a version that were altered, from the server that announces it still."""
        self.table.put(key("version", *subject, digest), content)

    def forget(self, subject: Subject, versions: Iterable[tuple[str, int]]) -> None:
        """Drop versions, given by digest and size."""
        freed = 0
        for digest, size in versions:
            for prefix in ("version", "mark"):
                place = key(prefix, *subject, digest)
                self.table.swap(place, self.table.get(place), None)
            freed += size
        self._weigh(subject.server, -freed)

    def drop(self, subject: Subject, raw: bytes) -> bool:
        """Drop a name nobody ever decided about, with its versions."""
        if not self.table.swap(key("entry", *subject), raw, None):
            return False
        self.forget(subject, [(digest, mark.size if mark else 0) for _, digest, mark in list(self.marks(*subject))])
        return True

    def weight(self, server: str) -> int:
        """Bytes of all versions of a server, as counted along the way."""
        try:
            return int(self.get(key("bytes", server)) or 0)
        except (Unattested, ValueError):
            return sum(mark.size for _, _, mark in self.marks(server) if mark is not None)

    def weighed(self, server: str, size: int) -> None:
        """Set that count."""
        self.put(key("bytes", server), b"%d" % size)

    def _weigh(self, server: str, size: int) -> None:
        place = key("bytes", server)
        while True:
            raw = self.table.get(place)
            total = max(0, self.weight(server) + size)
            if self.table.swap(place, raw, self.notary.seal(place, b"%d" % total)):
                return

    # decisions

    def settle(self, subject: Subject, record: Record) -> None:
        """Write the row of the newest decision, and its verdict on the version, unless that is done.

        The record is what counts and carries its newest decision: a crash in between is made good here.
        """
        if not record.decisions:
            return
        place = _row(subject, record.chain, record.decisions)
        if self.table.get(place) is not None:
            return
        decision = parse_note(record.last)
        mark = self.mark(subject, decision.digest)
        verdict = "rejected" if decision.act == "reject" else "approved" if decision.act in FORCE else ""
        if mark is not None and verdict:
            mark.verdict = verdict
            self.put(key("mark", *subject, decision.digest), mark.dump())
        self.put(place, record.last.encode())

    def decisions(self, subject: Subject) -> list[tuple[str, Decision | None, str]]:
        """Every decision about this name, all chains, oldest first: note, what it says, and why it is not believed."""
        found: list[tuple[str, Decision | None, str]] = []
        for place, raw in self.table.scan(key("decision", *subject, "")):
            note = ""
            try:
                note = self.notary.unseal(place, raw).decode()
                decision = parse_note(note)
                if decision.subject != tuple(subject) or place != _row(subject, decision.chain, decision.number):
                    raise Unattested("stands in the place of another")
                found.append((note, decision, ""))
            except (Unattested, UnicodeDecodeError) as error:
                found.append((note, None, f"a decision {error}"))
        return found

    def all_decisions(self) -> AllLinks:
        """Raw rows of every decision, by subject, chain and number, each with its place."""
        found: dict[Subject, dict[tuple[int, int], tuple[str, bytes]]] = {}
        for place, raw in self.table.scan(key("decision", "")):
            _, server, kind, name, position = place.split(SEPARATOR)
            chain, _, number = position.partition(".")
            found.setdefault(Subject(server, kind, name), {})[int(chain), int(number)] = (place, raw)
        return found

    def link(self, subject: Subject, chain: int, number: int) -> tuple[str, bytes] | None:
        """The raw row of one decision with its place."""
        place = _row(subject, chain, number)
        raw = self.table.get(place)
        return None if raw is None else (place, raw)

    # readings

    def held(self, server: str) -> list[Held]:
        """What the last reading announced that cannot be approved."""
        return [Held(*row) for row in self._list(key("held", server), [["", "", "the stored list was altered"]])]

    def keep_held(self, server: str, held: Iterable[Held]) -> None:
        """Replace that list; at most MAX_HELD rows."""
        self._replace(key("held", server), [[one.kind, one.name, one.reason] for one in held][:MAX_HELD])

    def findings(self, server: str) -> list[str]:
        """What was noticed during the last reading."""
        return [str(row) for row in self._list(key("findings", server), [])]

    def keep_findings(self, server: str, findings: Iterable[str]) -> None:
        """Replace that list; at most MAX_FINDINGS."""
        self._replace(key("findings", server), list(findings)[:MAX_FINDINGS])

    def _list(self, place: str, otherwise: list[list[str]]) -> list[list[str]]:
        try:
            raw = self.get(place)
            return list(orjson.loads(raw)) if raw else []
        except (Unattested, ValueError):
            return otherwise

    def _replace(self, place: str, rows: list[list[str]] | list[str]) -> None:
        raw, sealed = self.table.get(place), self.notary.seal(place, orjson.dumps(rows))
        if raw != sealed and (rows or raw is not None):
            self.table.put(place, sealed)


def _row(subject: Subject, chain: int, number: int) -> str:
    return key("decision", *subject, f"{chain:06d}.{number:08d}")
