"""Every version of every definition, and which one a person approved. All state is in one Table.

Several processes may read servers and decide at the same time: every change is a compare-and-set of one record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import jiter

from limen.catalog.definitions import Held, check
from limen.catalog.differences import Change, changes
from limen.catalog.history import History, Row
from limen.catalog.observe import observe, withheld
from limen.catalog.records import EFFECTS, Decision, Record, Version
from limen.catalog.snapshot import Catalog, Item
from limen.catalog.store import Store, Subject, parse
from limen.core.announce import Announcement
from limen.core.call import Approved
from limen.core.ports import Table

_READS: Final = frozenset({"prompt", "resource", "template", "instructions"})


class NothingPending(ValueError):
    """There is nothing to decide: unknown, held, or changed since it was looked at. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name as an operator sees it. `state`: pending, approved, drifted, rejected, held or gone.

    `withheld` says why an approved definition is refused all the same, `held` why what is announced cannot be approved.
    """

    server: str
    kind: str
    name: str
    state: str
    approved: str
    pending: str
    effect: str
    durable: bool
    withheld: str
    held: str
    versions: tuple[Version, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """What separates the approved definition (none: "") from the one that waits."""

    before: str
    after: str
    changes: tuple[Change, ...]


class Registry:
    """Observes servers, takes decisions, and hands out snapshots. Methods raise DependencyFault from the Table."""

    def __init__(self, table: Table, now: Callable[[], float] = time.time) -> None:
        self._store, self._history, self._now = Store(table), History(table), now
        self._built: dict[Subject, tuple[bytes, Item]] = {}

    def observe(self, announcement: Announcement) -> list[Row]:
        """Compare a complete reading with what is known; what is new or different waits for a person.

        Returns what changed since the last reading. Approved definitions stay in service when the server drifts.
        """
        return list(self._history.append(observe(self._store, announcement, self._now())))

    def approve(
        self,
        server: str,
        kind: str,
        name: str,
        by: str,
        reason: str,
        digest: str | None = None,
        effect: str | None = None,
        durable: bool = False,
    ) -> Approved:
        """Put a definition into service: the one that waits, or with `digest` any version that is kept (rollback).

        Raises NothingPending when there is nothing such, or when its definition would be held today; ValueError for
        an unknown effect or no name of who decides.
        """
        if effect is not None and effect not in EFFECTS:
            raise ValueError(f"effect is one of {', '.join(EFFECTS)}")
        subject = Subject(server, kind, name)
        while True:
            raw, record, chosen = self._choose(subject, by, digest)
            content = self._store.content(subject, chosen)
            definition = jiter.from_json(content)
            try:
                check(kind, definition)
            except ValueError as error:
                raise NothingPending(f"{subject}: held: {error}") from None
            if record.approved is not None:
                record.superseded.append(record.approved.digest)
            decided = effect or _effect(kind, definition)
            _take_out(record, chosen)
            record.approved = Decision(chosen, by, self._now(), reason, decided, durable)
            record.withheld = withheld(self._store, subject, record)
            if self._store.save(subject, raw, record):
                break
        self._log("approved", subject, chosen, by, reason)
        return Approved(server, kind, name, chosen, content, decided, durable, record.drifted)

    def reject(self, server: str, kind: str, name: str, by: str, reason: str, digest: str | None = None) -> str:
        """Refuse the definition that waits, or with `digest` any version; the approved one goes out of service then.

        Returns the digest. Raises NothingPending, and ValueError for no name of who decides.
        """
        subject = Subject(server, kind, name)
        while True:
            raw, record, chosen = self._choose(subject, by, digest)
            if record.approved is not None and record.approved.digest == chosen:
                record.approved, record.withheld = None, ""
            _take_out(record, chosen)
            record.rejected.append(chosen)
            if self._store.save(subject, raw, record):
                break
        self._log("rejected", subject, chosen, by, reason)
        return chosen

    def entries(self, server: str | None = None) -> list[Entry]:
        """Every name known, of one server or of all, in order."""
        return [_entry(subject, record) for subject, _, record in self._store.scan(server)]

    def held(self, server: str) -> list[Held]:
        """What the last reading of this server announced that cannot be approved. A whole server has kind ""."""
        return self._store.held(server)

    def definition(self, server: str, kind: str, name: str, digest: str) -> bytes:
        """Canonical bytes of a version. Raises NothingPending when it is not kept."""
        subject = Subject(server, kind, name)
        if not self._load(subject)[1].knows(digest):
            raise NothingPending(f"{subject}: no such version")
        return self._store.content(subject, digest)

    def diff(self, server: str, kind: str, name: str) -> Difference:
        """Approved against pending. Raises NothingPending when nothing waits."""
        subject = Subject(server, kind, name)
        _, record = self._load(subject)
        if not record.pending:
            raise NothingPending(f"{subject}: nothing waits for approval")
        before = record.approved.digest if record.approved else ""
        old = self._store.content(subject, before) if before else None
        return Difference(before, record.pending, changes(old, self._store.content(subject, record.pending)))

    def history(self, after: int = 0) -> Iterator[Row]:
        """Who decided and what was seen after this sequence number, oldest first."""
        return self._history.rows(after)

    def snapshot(self) -> Catalog:
        """What is in force now, immutable. Only what changed since the last snapshot is read again."""
        built: dict[Subject, tuple[bytes, Item]] = {}
        for subject, raw in self._store.scan_raw():
            known = self._built.get(subject)
            built[subject] = known if known is not None and known[0] == raw else (raw, self._item(subject, parse(raw)))
        self._built = built
        return Catalog(item for _, item in built.values())

    def _item(self, subject: Subject, record: Record) -> Item:
        if (decision := record.approved) is None:
            return Item(*subject, record.state, None, record.held)
        content = self._store.content(subject, decision.digest)
        approved = Approved(
            *subject, decision.digest, content, decision.effect, decision.durable, drifted=record.drifted
        )
        return Item(*subject, record.state, approved, record.withheld)

    def _load(self, subject: Subject) -> tuple[bytes, Record]:
        loaded = self._store.load(subject)
        if loaded is None:
            raise NothingPending(f"{subject}: never announced, or held from the start")
        return loaded

    def _choose(self, subject: Subject, by: str, digest: str | None) -> tuple[bytes, Record, str]:
        if not by:
            raise ValueError("a decision needs the name of who decides")
        raw, record = self._load(subject)
        chosen = record.pending if digest is None else digest
        if not chosen or not record.knows(chosen):
            raise NothingPending(f"{subject}: no such definition waits for a decision")
        return raw, record, chosen

    def _log(self, event: str, subject: Subject, digest: str, by: str, reason: str) -> None:
        self._history.append([Row(0, self._now(), by, event, *subject, digest, reason)])


def _take_out(record: Record, digest: str) -> None:
    """A decision about a version ends whatever was decided about it before."""
    record.pending = "" if record.pending == digest else record.pending
    record.superseded = [one for one in dict.fromkeys(record.superseded) if one != digest]
    record.rejected = [one for one in record.rejected if one != digest]


def _effect(kind: str, definition: dict[str, Any]) -> str:
    """The proposal for a person to confirm: the server's own hints, read at this moment and never again."""
    if kind in _READS:
        return "read"
    hints = definition.get("annotations", {})
    if hints.get("destructiveHint") is True:
        return "destructive"
    return "read" if hints.get("readOnlyHint") is True else "unknown"


def _entry(subject: Subject, record: Record) -> Entry:
    decision = record.approved
    return Entry(
        *subject,
        state=record.state,
        approved=decision.digest if decision else "",
        pending=record.pending,
        effect=decision.effect if decision else "",
        durable=decision.durable if decision else False,
        withheld=record.withheld,
        held=record.held,
        versions=tuple(Version(digest, seen, record.standing(digest)) for digest, seen in record.versions),
    )
