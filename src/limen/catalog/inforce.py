"""From stored rows to what is in force: nothing is served that does not stand on an authentic, unbroken record."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Final, NamedTuple

from limen.catalog.attest import Decision, Unattested, digest_of_note, read_note
from limen.catalog.records import SEPARATOR, Record
from limen.catalog.snapshot import Item
from limen.catalog.store import Contents, Links, Store, Subject
from limen.core.call import Approved

SIGNATURES: Final = 1000  # verified for one snapshot; the rest rests on seals, which only the same key can make
EXPIRED: Final = "approval expired: attest again"
UNKNOWN_SERVER: Final = "nobody approves the identity of this server any more"


class Ahead(NamedTuple):
    """What was read in one go for many names: all decisions about one of them, all versions of its server."""

    links: Links
    contents: Contents | None = None


class Head(NamedTuple):
    """How far a chain was followed before."""

    chain: int
    number: int
    digest: str


class Built(NamedTuple):
    """One name as last read. `seen`: digest of the stored record; `since`, `expires`: of its approval, 0 without."""

    seen: bytes
    item: Item
    head: Head
    since: float = 0.0
    expires: float = 0.0
    reviewed: bool = False
    fault: str = ""


def chain_fault(store: Store, subject: Subject, record: Record) -> str:
    """Why the decisions about a name cannot be believed, or "": one is altered, missing, or from elsewhere, or the
    record was put back to an earlier state."""
    try:
        _follow(store, subject, record, None, None)
    except (Unattested, UnicodeDecodeError) as error:
        return f"a decision {error}"
    return ""


def _follow(store: Store, subject: Subject, record: Record, links: Links | None, head: Head | None) -> Head:
    """Walk the chain, with `head` only what came after. Raises Unattested."""
    known = head is not None and head.chain == record.chain and head.number <= record.decisions
    start, previous = (head.number, head.digest) if known and head is not None else (0, "")
    for number in range(start + 1, record.decisions + 1):
        newest = number == record.decisions
        row = _row(store, subject, record.chain, number, links)
        if newest:
            note = record.last  # its row is written after the record, and believed when it says the same
            if row is not None and store.notary.value(row[1]) != note.encode():
                raise Unattested("is not the one its record carries")
        elif row is None:
            raise Unattested("is missing")
        else:
            note = store.notary.unseal(*row).decode()
        in_force = record.approved if newest and not record.final else None
        decision = in_force or read_note(note)
        if decision.subject != tuple(subject) or (decision.chain, decision.number) != (record.chain, number):
            raise Unattested("is from elsewhere")
        if decision.previous != previous:
            raise Unattested("does not follow the one before it")
        previous = digest_of_note(note)
    after = (record.chain, record.decisions + 1)
    if after in links if links is not None else store.link(subject, *after) is not None:
        raise Unattested("is newer than its record: the record was put back to an earlier state")
    approved = record.approved
    if approved is not None and record.final:
        if approved.chain != record.chain or not 0 < approved.number < record.decisions:
            raise Unattested("is in force that is not in the chain")
        row = _row(store, subject, record.chain, approved.number, links)
        if row is None or store.notary.value(row[1]) != record.note.encode():
            raise Unattested("is in force that is not in the chain")
    return Head(record.chain, record.decisions, previous)


def _row(store: Store, subject: Subject, chain: int, number: int, links: Links | None) -> tuple[str, bytes] | None:
    found = links.get((chain, number)) if links is not None else None
    return found or store.link(subject, chain, number)


def seen_of(raw: bytes) -> bytes:
    """What tells one stored record from another."""
    return sha256(raw).digest()


def build(
    store: Store, subject: Subject, raw: bytes, head: Head | None, ahead: Ahead | None = None, *, verify: bool = True
) -> Built:
    """What a stored record puts into service. `verify`: its signature as well as the seals and the chain."""
    while True:
        built = _build(store, subject, raw, head, ahead, verify)
        if not built.fault:
            return built
        now = store.load(subject)
        if now is None or now.raw == raw:
            return built
        raw, ahead = now.raw, None  # somebody decided while we were reading


def _build(store: Store, subject: Subject, raw: bytes, head: Head | None, ahead: Ahead | None, verify: bool) -> Built:
    _, record, fault = store.read(subject, raw)
    if fault:
        return _unbelieved(subject, raw, fault)
    decision, content = record.approved, b""
    try:
        head = _follow(store, subject, record, ahead.links if ahead is not None else None, head)
        if decision is not None:
            if verify:
                store.notary.open(record.note)
            content = store.content(subject, decision.digest, ahead.contents if ahead is not None else None)
    except (Unattested, UnicodeDecodeError) as error:
        return _unbelieved(
            subject, raw, f"it {error}" if str(error).startswith("has a stored") else f"a decision {error}"
        )
    if decision is None:
        return Built(seen_of(raw), Item(*subject, record.state, None, record.held), head, reviewed=record.reviewed)
    item = Item(*subject, record.state, approved_of(decision, content, drifted=record.drifted), record.withheld)
    return Built(seen_of(raw), item, head, decision.since, decision.expires, True)


def _unbelieved(subject: Subject, raw: bytes, fault: str) -> Built:
    return Built(seen_of(raw), unbelieved(subject, fault), Head(-1, 0, ""), reviewed=True, fault=fault)


def unbelieved(subject: Subject, fault: str) -> Item:
    """Nothing is served of a name whose rows are not believed."""
    return Item(*subject, "held", None, f"not served: {fault}")


def last_link(record: Record) -> Head | None:
    """From where to follow a chain when a look at its newest decision is enough."""
    return Head(record.chain, record.decisions - 1, read_note(record.last).previous) if record.last else None


def approved_of(decision: Decision, content: bytes, *, drifted: bool) -> Approved:
    """The fact calls are judged by."""
    return Approved(*decision.subject, decision.digest, content, decision.effect, decision.durable, drifted)


def why_foreign(item: Item, *, reviewed: bool) -> str:
    """Why nothing of a server is served, told from its identity record, or ""."""
    if item.approved is not None:
        return item.why
    return UNKNOWN_SERVER if reviewed else ""


@contextmanager
def uncollected() -> Iterator[None]:
    """Many lasting objects are about to be made: looking for garbage among them again and again takes a fifth more."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def verify_all(store: Store) -> list[str]:
    """Every row's seal, every decision's signature and place, and that every version counted is there."""
    wrong: list[str] = []
    for place, raw in store.table.scan(""):
        try:
            if not place.startswith(f"version{SEPARATOR}"):  # these are looked at below
                store.notary.unseal(place, raw)
        except Unattested as error:
            wrong.append(f"{'/'.join(place.split(SEPARATOR))}: {error}")
    for subject, rows in store.all_decisions().items():
        before: tuple[int, str] = (-1, "")
        for (chain, number), (place, raw) in sorted(rows.items()):
            try:
                note = store.notary.unseal(place, raw).decode()
                decision = store.notary.open(note)
                if decision.subject != tuple(subject) or (decision.chain, decision.number) != (chain, number):
                    raise Unattested("is from elsewhere")
                if decision.previous != (before[1] if before[0] == chain else ""):
                    raise Unattested("does not follow the one before it")
                before = (chain, digest_of_note(note))
            except (Unattested, UnicodeDecodeError) as error:
                wrong.append(f"{subject}: decision {number} {error}")
    for subject, loaded in store.scan():
        kept = [digest for _, digest, _ in store.marks(*subject)]
        if len(kept) < loaded.record.versions:
            wrong.append(f"{subject}: {loaded.record.versions - len(kept)} versions are missing")
        for digest in kept:
            try:
                store.content(subject, digest)
            except Unattested as error:
                wrong.append(f"{subject}: version {digest} {error}")
    return wrong
