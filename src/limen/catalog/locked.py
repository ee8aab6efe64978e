"""A catalog that stands on a lock alone: it observes, shows and serves as ever, and nothing in it can be decided.

What a server announces is compared with the lock in memory. So one reading of the servers against a fresh one of these
is also how a pipeline finds what differs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import jiter

from limen.catalog.attest import FORCE, Decision, Notary
from limen.catalog.govern import NothingPending
from limen.catalog.lock import Lock, Locked
from limen.catalog.records import Record
from limen.catalog.registry import Registry
from limen.catalog.store import Store, Subject

if TYPE_CHECKING:
    from limen.catalog.findings import Assessment, Detector, Finding
    from limen.catalog.registry import Entry

__all__ = ["Drift", "LockedRegistry", "Memory", "ReadOnly", "against_records", "against_servers", "collect"]

READ_ONLY: Final = "the gateway runs from a lock; change it there"


class ReadOnly(NothingPending):
    """A decision was asked for where only the lock decides."""

    def __init__(self) -> None:
        super().__init__(READ_ONLY)


class Memory:
    """A `core.ports.Table` that lasts as long as the process. Servers are read in threads, so it is locked."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._rows: dict[str, tuple[bytes, float | None]] = {}
        self._lock = threading.Lock()
        self._now = now

    def get(self, key: str) -> bytes | None:
        """The live value, or None."""
        value, expires = self._rows.get(key, (None, None))
        return None if expires is not None and expires <= self._now() else value

    def put(self, key: str, value: bytes, expires: float | None = None) -> None:
        """Write."""
        self._rows[key] = (value, expires)

    def swap(self, key: str, old: bytes | None, new: bytes | None, expires: float | None = None) -> bool:
        """Write `new` if the value is `old`."""
        with self._lock:
            if self.get(key) != old:
                return False
            if new is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = (new, expires)
        return True

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Live rows in key order."""
        for key in sorted(key for key in list(self._rows) if key.startswith(prefix)):
            if (value := self.get(key)) is not None:
                yield key, value


class LockedRegistry(Registry):
    """The registry of a lock: what it approves is in service until a server asks for more, and nothing else ever is.

    Drift is recorded in memory, rows of history counted from 1 in every run. Decisions raise ReadOnly.
    """

    def __init__(self, lock: Lock, now: Callable[[], float] = time.time, *, detectors: Sequence[Detector] = ()) -> None:
        table = Memory(now)
        _fill(Store(table, Notary(None)), lock)
        super().__init__(table, now, detectors=detectors)
        self.lock = lock

    def approve(self, *_args: Any, **_options: Any) -> NoReturn:
        """Raises ReadOnly."""
        raise ReadOnly

    def reject(self, *_args: Any, **_options: Any) -> NoReturn:
        """Raises ReadOnly."""
        raise ReadOnly

    def rollback(self, *_args: Any, **_options: Any) -> NoReturn:
        """Raises ReadOnly."""
        raise ReadOnly


def _fill(store: Store, lock: Lock) -> None:
    """Each entry as if its approval had been made here. Until a server is read it counts as announcing what is locked:
    withholding everything until then would make a restart an outage."""
    for entry in lock.entries:
        subject, record = Subject(*entry.place), Record(announced=entry.digest)
        store.keep_version(subject, record, entry.digest, entry.definition, float(entry.at))
        decision = Decision(
            "approve",
            *entry.place,
            entry.digest,
            entry.by[-1],
            float(entry.at),
            entry.reason,
            entry.source,
            entry.effect,
            entry.durable,
            float(entry.expires),
            entry.by,
            entry.digest,
            since=float(entry.at),
            number=1,
        )
        record.decide(decision, store.notary.sign(decision))
        store.save(subject, None, record)
        store.settle(subject, record)


def collect(registry: Registry, server: str) -> list[Locked]:
    """Everything of this server that is approved, with who approved it and until when, as a lock holds it."""
    found: list[Locked] = []
    for entry in registry.entries(server):
        if not entry.approved:
            continue
        place = (entry.server, entry.kind, entry.name)
        version = next(one for one in registry.versions(*place) if one.digest == entry.approved)
        decision = next(one for one in reversed(version.decisions) if one.act in FORCE)
        found.append(
            Locked(
                *place,
                entry.approved,
                entry.effect,
                entry.durable,
                decision.approvers or (decision.by,),
                int(decision.since),
                decision.reason,
                decision.source,
                int(entry.expires),
                registry.definition(*place, entry.approved),
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Drift:
    """One thing that is not as the lock says. `event`: changed, new, gone, held or decided; `level`, `score` and
    `findings` are the risk of what is announced instead; `before`, `after` digests, "" for none; `line`: in the lock's
    file, 0 where it has no such definition."""

    server: str
    kind: str
    name: str
    event: str
    level: str
    score: float
    detail: str
    before: str
    after: str
    line: int
    findings: tuple[Finding, ...] = ()


def against_servers(lock: Lock, registry: LockedRegistry, servers: Iterable[str]) -> list[Drift]:
    """What these servers announce differently from the lock. `registry` is of this lock and has just read them.

    Names that stand in the locked set of a server and were never approved are no drift: they were known and left out.
    """
    found: list[Drift] = []
    places = {entry.place: entry for entry in lock.entries}
    for server in servers:
        left_out = _announced(places.get((server, "set", "")))
        for entry in registry.entries(server):
            locked = places.get((server, entry.kind, entry.name))
            if locked is None:
                if entry.pending and (entry.kind, entry.name) not in left_out:
                    detail = "is announced and not in the lock"
                    found.append(_drift(entry, "new", detail, 0, _risk(registry, entry)))
            elif entry.state == "drifted":
                found.append(_of_drifted(registry, entry, locked.line))
    return found


def against_records(lock: Lock, registry: Registry, servers: Iterable[str]) -> list[Drift]:
    """What is approved in the records differently from the lock."""
    found: list[Drift] = []
    for server in servers:
        entries = {(one.server, one.kind, one.name): one for one in registry.entries(server) if one.approved}
        locked = {entry.place: entry for entry in lock.entries if entry.server == server}
        for place, entry in entries.items():
            held = locked.get(place)
            if held is None:
                found.append(_drift(entry, "new", "is approved and not in the lock", 0, after=entry.approved))
            elif held.digest != entry.approved:
                detail = f"another version is approved, {entry.approved}"
                found.append(_drift(entry, "changed", detail, held.line, before=held.digest, after=entry.approved))
            elif (held.effect, held.durable) != (entry.effect, entry.durable):
                detail = f"the lock says effect {held.effect}, the records {entry.effect}"
                if held.effect == entry.effect:
                    detail = f"the lock says durable: {held.durable}, the records {entry.durable}"
                found.append(_drift(entry, "decided", detail, held.line, before=held.digest, after=held.digest))
        for place, held in locked.items():
            if place not in entries:
                detail = "is in the lock and no longer approved"
                found.append(Drift(*place, "gone", "", 0.0, detail, held.digest, "", held.line))
    return found


def _announced(found: Locked | None) -> set[tuple[str, str]]:
    """Kind and name of everything the locked set of a server lists."""
    rows = jiter.from_json(found.definition)["announced"] if found is not None else []
    return {(row[0], row[1]) for row in rows}


def _of_drifted(registry: Registry, entry: Entry, line: int) -> Drift:
    if entry.pending:
        detail = entry.withheld or "is announced with another definition"
        return _drift(entry, "changed", detail, line, _risk(registry, entry))
    if entry.held:
        return _drift(entry, "held", f"is announced in a form nobody can approve: {entry.held}", line)
    return _drift(entry, "gone", "is no longer announced", line)


def _risk(registry: Registry, entry: Entry) -> Assessment:
    return registry.assessment(entry.server, entry.kind, entry.name, entry.pending)


def _drift(
    entry: Entry, event: str, detail: str, line: int, risk: Assessment | None = None, before: str = "", after: str = ""
) -> Drift:
    return Drift(
        entry.server,
        entry.kind,
        entry.name,
        event,
        risk.level if risk else "",
        risk.score if risk else 0.0,
        detail,
        before or entry.approved,
        after or entry.pending,
        line,
        risk.findings if risk else (),
    )
