"""Every version of every definition, and which one people approved. All state is in one Table.

Several processes may read servers and decide at the same time: every change is a compare-and-set of one record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from limen.catalog.attest import Decision, Notary, Unattested, digest_of_note
from limen.catalog.decide import Gate, Vote
from limen.catalog.definitions import Held
from limen.catalog.differences import Change, changes
from limen.catalog.findings import Assessment, Detector
from limen.catalog.govern import Assess, Governance, Judge, NeedsReason, NothingPending
from limen.catalog.history import STORE, History, Row
from limen.catalog.inforce import (
    EXPIRED,
    SIGNATURES,
    Ahead,
    Built,
    approved_of,
    build,
    last_link,
    seen_of,
    unbelieved,
    uncollected,
    verify_all,
    why_foreign,
)
from limen.catalog.observe import Observer
from limen.catalog.records import Record, Version
from limen.catalog.snapshot import Catalog, Item
from limen.catalog.store import AllLinks, Loaded, Store, Subject
from limen.core.announce import Announcement
from limen.core.call import Approved
from limen.core.ports import Signer, Table

__all__ = ["Difference", "Entry", "Governance", "NeedsReason", "NothingPending", "Registry", "Version", "Vote"]

MAX_TOLD: Final = 100  # faults written to the history for one snapshot
_EVENTS: Final = {"approve": "approved", "vote": "voted", "reject": "rejected", "rollback": "rolled_back"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One name as an operator sees it. `state`: pending, approved, drifted, rejected, held or gone.

    `withheld` says why an approved definition is refused all the same, `held` why what is announced cannot be approved
    or what is stored is not believed. `versions`: how many are kept. `risk`, `score`: of what waits, "" and 0.0 when
    nothing does. `expires`: seconds since the epoch, 0: never. `votes`: who has approved what waits.
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
    versions: int
    risk: str = ""
    score: float = 0.0
    expires: float = 0.0
    votes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """What separates the approved definition (none: "") from the one that waits."""

    before: str
    after: str
    changes: tuple[Change, ...]


class Registry:
    """Observes servers, takes decisions, and hands out snapshots. Methods raise DependencyFault from the Table.

    With a signer, decisions are signed and every row is sealed; what another key or nobody signed is not served.
    Without one nothing is signed and everything stored is believed: for tests, and for tools that only look.
    """

    def __init__(
        self,
        table: Table,
        now: Callable[[], float] = time.time,
        *,
        governance: Governance = Governance(),  # noqa: B008 - immutable
        signer: Signer | None = None,
        detectors: Sequence[Detector] = (),
        assess: Assess | None = None,
    ) -> None:
        self._notary = Notary(signer)
        self._store, self._history, self._now = Store(table, self._notary), History(table, self._notary), now
        self._rules = governance
        self._judge = Judge(detectors, assess, lambda: (subject for subject, _ in self._store.scan_raw()))
        self._gate = Gate(self._store, self._notary, self._judge, governance, now)
        self._built: dict[Subject, Built] = {}
        self._faults: dict[Subject, str] = {}

    def observe(self, announcement: Announcement) -> list[Row]:
        """Compare a complete reading with what is known; what is new or different waits for a person.

        Returns what changed since the last reading. Approved definitions stay in service when the server drifts,
        unless it is another server now, dropped them, or asks for more.
        """
        observer = Observer(self._store, self._judge, self._gate.accept, frozenset(self._faults))
        return list(self._history.append(observer.observe(announcement, self._now())))

    # decisions

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
        source: str = "cli",
    ) -> Approved | Vote:
        """Put a definition into service: the one that waits, or with `digest` any version that is kept.

        Where several people must approve, all but the last get a Vote back. Approving what is in force attests it
        again. Raises NothingPending when there is nothing such, or when its definition would be held today;
        NeedsReason; ValueError for an unknown effect or source, no name of who decides, or somebody who has approved it
        already.
        """
        subject = Subject(server, kind, name)
        decision, note, content, record = self._gate.approve(subject, by, reason, digest, effect, durable, source)
        self._log(decision, note)
        if decision.act == "vote":
            needed = self._rules.approvers - len(decision.approvers)
            return Vote(*subject, decision.digest, decision.effect, decision.approvers, needed)
        return approved_of(decision, content, drifted=record.drifted)

    def reject(
        self,
        server: str,
        kind: str,
        name: str,
        by: str,
        reason: str,
        digest: str | None = None,
        source: str = "cli",
    ) -> str:
        """Refuse the definition that waits, or with `digest` any version; the approved one goes out of service then.

        Returns the digest. Raises NothingPending, and ValueError for no name of who decides.
        """
        decision, note = self._gate.reject(Subject(server, kind, name), by, reason, digest, source)
        self._log(decision, note)
        return decision.digest

    def rollback(
        self, server: str, kind: str, name: str, by: str, reason: str, steps: int = 1, source: str = "cli"
    ) -> Approved:
        """Put the version back into service that was approved before. Forward again: approve it by its digest.

        Raises NothingPending when there is none, when its approval has expired, or when too few people gave it;
        NeedsReason; ValueError.
        """
        decision, note, content, record = self._gate.rollback(Subject(server, kind, name), by, reason, steps, source)
        self._log(decision, note)
        return approved_of(decision, content, drifted=record.drifted)

    # looking

    def names(self) -> Iterator[tuple[str, str, str]]:
        """Server, kind and name of everything known, in order; costs a fraction of `entries`."""
        return ((subject.server, subject.kind, subject.name) for subject, _ in self._store.scan_raw())

    def entries(self, server: str | None = None) -> list[Entry]:
        """Every name known, of one server or of all, in order."""
        rows = list(self._store.scan(server))
        foreign: dict[str, str] = {}
        now = self._now()
        faults = {subject: self._fault(subject, loaded) for subject, loaded in rows}
        for subject, loaded in rows:
            if subject.kind == "server" and (why := _foreign(loaded.record, faults[subject])):
                foreign[subject.server] = why
        found = [
            self._entry(subject, loaded.record, faults[subject], foreign.get(subject.server, ""), now)
            for subject, loaded in rows
        ]
        known = {subject for subject, _ in rows}
        for subject, fault in self._faults.items():
            if subject not in known and server in (None, subject.server):  # its record was deleted
                found.append(self._entry(subject, Record(announced="", chain=1), fault, "", now))
        return found

    def held(self, server: str) -> list[Held]:
        """What the last reading of this server announced that cannot be approved. A whole server has kind ""."""
        return self._store.held(server)

    def findings(self, server: str) -> list[str]:
        """What was noticed during the last reading of this server."""
        return self._store.findings(server)

    def versions(self, server: str, kind: str, name: str) -> list[Version]:
        """Every version kept, oldest first, with what was decided about it. Raises NothingPending for no such name."""
        subject = Subject(server, kind, name)
        record = self._load(subject).record
        decided: dict[str, list[Decision]] = {}
        for _, decision, _ in self._store.decisions(subject):
            if decision is not None:
                decided.setdefault(decision.digest, []).append(decision)
        found = []
        for _, digest, mark in self._store.marks(*subject):
            about = tuple(decided.get(digest, ()))
            last = (about[-1].by, about[-1].at, about[-1].reason, about[-1].source) if about else ("", 0.0, "", "")
            if mark is None:
                found.append((0, Version(digest, 0.0, "unknown: its mark was altered", 0, *last, about)))
            else:
                state = record.standing(digest, mark.verdict)
                found.append((mark.number, Version(digest, mark.seen, state, mark.size, *last, about)))
        return [version for _, version in sorted(found, key=lambda one: one[0])]

    def definition(self, server: str, kind: str, name: str, digest: str) -> bytes:
        """Canonical bytes of a version. Raises NothingPending when it is not kept, or not what was observed."""
        subject = Subject(server, kind, name)
        self._load(subject)
        try:
            return self._store.content(subject, digest)
        except Unattested as error:
            raise NothingPending(f"{subject}: no such version, or it {error}") from None

    def diff(self, server: str, kind: str, name: str) -> Difference:
        """Approved against pending. Raises NothingPending when nothing waits."""
        subject = Subject(server, kind, name)
        record = self._load(subject).record
        waiting = record.pending or self._gate.lapsed(record)
        if not waiting:
            raise NothingPending(f"{subject}: nothing waits for approval")
        before = record.approved.digest if record.approved else ""
        old = self.definition(*subject, before) if before else None
        return Difference(before, waiting, changes(old, self.definition(*subject, waiting)))

    def assessment(self, server: str, kind: str, name: str, digest: str = "") -> Assessment:
        """The risk of what waits (or of this version) against what is approved. Raises NothingPending."""
        subject = Subject(server, kind, name)
        record = self._load(subject).record
        if not (chosen := digest or record.pending or self._gate.lapsed(record)):
            raise NothingPending(f"{subject}: nothing waits for approval")
        return self._gate.assess(subject, record, self.definition(*subject, chosen))

    def history(self, after: int = 0, server: str | None = None, kind: str = "", name: str = "") -> Iterator[Row]:
        """Who decided and what was seen after this sequence number, oldest first; of one server, kind or name."""
        for row in self._history.rows(after):
            if row.event == "tampered" or (
                server in (None, row.server) and kind in ("", row.kind) and name in ("", row.name)
            ):
                yield row

    def verify(self) -> list[str]:
        """Check every row and every decision ever stored: seals, signatures, places, chains, and that no version is
        missing. What is wrong, a line each; nothing: []."""
        wrong = verify_all(self._store)
        self.snapshot()
        wrong += [f"{subject}: {fault}" for subject, fault in self._faults.items()]
        return list(dict.fromkeys(wrong))

    # what is in force

    def snapshot(self) -> Catalog:
        """What is in force now, immutable. Only what changed since the last snapshot is read again.

        What is not believed is left out of service, shown by `entries`, and told once in the history.
        """
        if self._built:
            return self._snapshot(None)
        with uncollected():
            return self._snapshot(self._store.all_decisions())

    def _snapshot(self, links: AllLinks | None) -> Catalog:
        now = self._now()
        built, lost = self._read_again(links), set(self._faults if links is None else links)
        self._judge.met(subject for subject in built if subject not in self._built)
        lost |= {subject for subject, one in self._built.items() if one.reviewed}  # others may be dropped
        faults = {subject: one.fault for subject, one in built.items() if one.fault}
        faults |= dict.fromkeys(sorted(lost - set(built)), "its record was deleted, decisions about it exist")
        self._tell(faults, now)
        self._built, self._faults = built, faults
        return self._catalog(now)

    def _read_again(self, links: AllLinks | None) -> dict[Subject, Built]:
        """Every record that is not as it was at the last snapshot; at the first one with what was read ahead."""
        store = self._store
        built: dict[Subject, Built] = {}
        signatures, server, contents = SIGNATURES, "", None
        for subject, raw in store.scan_raw():
            known = self._built.get(subject)
            if known is None or known.seen != seen_of(raw):
                ahead = None
                if links is not None:
                    if subject.server != server:
                        server, contents = subject.server, store.contents(subject.server)
                    ahead = Ahead(links.get(subject, {}), contents)
                known = build(store, subject, raw, known.head if known else None, ahead, verify=signatures > 0)
                signatures -= known.item.approved is not None
            built[subject] = known
        return built

    def _catalog(self, now: float) -> Catalog:
        foreign: dict[str, str] = {}
        for subject, one in self._built.items():
            if subject.kind == "server" and (why := why_foreign(one.item, reviewed=one.reviewed)):
                foreign[subject.server] = why
        foreign.update({one.server: self._faults[one] for one in self._faults if one.kind == "server"})
        items: list[Item] = []
        due = inf
        for subject, one in self._built.items():
            item, why = one.item, foreign.get(subject.server, "") if subject.kind != "set" else ""
            if item.approved is not None and not why and (one.expires or self._rules.expires):
                ends = self._rules.ends(one.since, one.expires)
                if ends and ends <= now:
                    why = EXPIRED
                elif ends:
                    due = min(due, ends)
            items.append(replace(item, why=why) if why and item.approved is not None else item)
        items += [unbelieved(subject, fault) for subject, fault in self._faults.items() if subject not in self._built]
        return Catalog(items, due)

    def _tell(self, faults: dict[Subject, str], now: float) -> None:
        fresh = [(subject, fault) for subject, fault in faults.items() if self._faults.get(subject) != fault]
        rows = [Row(0, now, STORE, "tampered", *subject, "", fault) for subject, fault in fresh[:MAX_TOLD]]
        if len(fresh) > MAX_TOLD:
            rows.append(Row(0, now, STORE, "tampered", "", "", "", "", f"and {len(fresh) - MAX_TOLD} more"))
        self._history.append(rows)

    def _fault(self, subject: Subject, loaded: Loaded) -> str:
        """Why what is stored about a name is not believed, as far as a quick look tells."""
        if loaded.fault:
            return loaded.fault
        known = self._built.get(subject)
        if known is None or known.seen != seen_of(loaded.raw):
            known = build(self._store, subject, loaded.raw, last_link(loaded.record), verify=False)
        return known.fault

    def _entry(self, subject: Subject, record: Record, fault: str, foreign: str, now: float) -> Entry:
        decision = record.approved if not fault else None
        waiting = "" if fault else record.pending or self._gate.lapsed(record)
        ends = self._rules.ends(decision.since, decision.expires) if decision else 0.0
        withheld = ""
        if decision is not None:
            outside = foreign if subject.kind != "set" else ""
            withheld = outside or (EXPIRED if ends and ends <= now else record.withheld)
        return Entry(
            *subject,
            state="held" if fault else record.state,
            approved=decision.digest if decision else "",
            pending=waiting,
            effect=decision.effect if decision else "",
            durable=decision.durable if decision else False,
            withheld=withheld,
            held=f"not served: {fault}" if fault else record.held,
            versions=record.versions,
            risk=(record.risk or "none") if waiting else "",
            score=record.score if waiting else 0.0,
            expires=ends,
            votes=tuple(vote.by for vote in self._gate.votes(record, waiting)) if waiting else (),
        )

    def _load(self, subject: Subject) -> Loaded:
        loaded = self._store.load(subject)
        if loaded is None:
            raise NothingPending(f"{subject}: never announced, or held from the start")
        if loaded.fault:
            raise NothingPending(f"{subject}: {loaded.fault}: read the server again")
        return loaded

    def _log(self, decision: Decision, note: str) -> None:
        row = Row(
            0, self._now(), decision.by, _EVENTS[decision.act], *decision.subject, decision.digest, decision.reason,
            decision.source, digest_of_note(note),
        )  # fmt: skip
        self._history.append([row])


def _foreign(record: Record, fault: str) -> str:
    """Why nothing of a server is served, told from the record of its identity, or ""."""
    item = Item("", "server", "", "", None, record.withheld)
    if fault or record.approved is None:
        return why_foreign(item, reviewed=bool(fault) or record.reviewed)
    return record.withheld
