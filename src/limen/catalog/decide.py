"""The one gate every definition passes on its way into service, whoever brings it and however.

A decision takes effect with one compare-and-set of the record, which carries the signed decision; rows come after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jiter

from limen.catalog.attest import FORCE, Decision, Notary, Unattested, digest_of_note
from limen.catalog.definitions import check
from limen.catalog.findings import Assessment
from limen.catalog.govern import (
    AUTO,
    AUTOMATON,
    SOURCES,
    Governance,
    Judge,
    NeedsReason,
    NothingPending,
    at_least,
    descriptive,
)
from limen.catalog.inforce import chain_fault
from limen.catalog.observe import withheld
from limen.catalog.records import EFFECTS, Record
from limen.catalog.store import Store, Subject
from limen.core.people import person

MAX_REASON: Final = 4096  # characters
MAX_BY: Final = 256
_READS: Final = frozenset({"prompt", "resource", "template", "instructions", "server", "set"})


@dataclass(frozen=True, slots=True)
class Vote:
    """An approval that is not enough yet. `votes`: who has approved this digest; `needed`: how many more must."""

    server: str
    kind: str
    name: str
    digest: str
    effect: str
    votes: tuple[str, ...]
    needed: int


@dataclass(frozen=True, slots=True)
class Gate:
    """Takes decisions. Everything raises NothingPending, NeedsReason or ValueError, with words for the operator."""

    store: Store
    notary: Notary
    judge: Judge
    rules: Governance
    now: Callable[[], float]

    def approve(
        self, subject: Subject, by: str, reason: str, digest: str | None, effect: str | None, durable: bool, source: str
    ) -> tuple[Decision, str, bytes, Record]:
        """Approve a version, or vote for it while more people are needed. The decision with its note, the definition's
        canonical bytes, and the record as it is now."""
        if effect is not None and effect not in EFFECTS:
            raise ValueError(f"effect is one of {', '.join(EFFECTS)}")
        _check_author(by, reason, source)
        while True:
            raw, record, chosen = self._choose(subject, digest)
            content, definition = self._sound(subject, chosen)
            level = self._justified(subject, record, content, reason)
            votes = self.votes(record, chosen)
            if person(by) in {person(vote.by) for vote in votes}:
                raise ValueError(f"{subject}: {by} has approved this version already; another person must")
            decided = _agreed(subject, votes, effect) or _effect(subject.kind, definition)
            now = self.now()
            people = (*(vote.by for vote in votes), by)
            decision = Decision(
                "approve" if len(people) >= self.rules.approvers else "vote", *subject, chosen, by, now, reason, source,
                decided, durable or any(vote.durable for vote in votes), self.rules.until(now), people,
                base=chosen, level=level, since=now,
            )  # fmt: skip
            note = self._record(subject, record, decision)
            record.withheld = withheld(self.store, subject, record)
            if self.store.save(subject, raw, record):
                self.store.settle(subject, record)
                return decision, note, content, record

    def reject(self, subject: Subject, by: str, reason: str, digest: str | None, source: str) -> tuple[Decision, str]:
        """Refuse a version. One person is enough: it takes nothing into service."""
        _check_author(by, reason, source)
        while True:
            raw, record, chosen = self._choose(subject, digest)
            now = self.now()
            decision = Decision("reject", *subject, chosen, by, now, reason, source, since=now, base=chosen)
            note = self._record(subject, record, decision)
            record.withheld = withheld(self.store, subject, record)
            if self.store.save(subject, raw, record):
                self.store.settle(subject, record)
                return decision, note

    def rollback(
        self, subject: Subject, by: str, reason: str, steps: int, source: str
    ) -> tuple[Decision, str, bytes, Record]:
        """Put the version into service that was approved before the one in force, or `steps` before.

        It stands on the approval it had: its people must be enough today, and its time goes on where it was.
        """
        if steps < 1:
            raise ValueError("steps is at least 1")
        _check_author(by, reason, source)
        while True:
            raw, record, _ = self._choose(subject, None, waiting=False)
            earlier = self._earlier(subject, record)
            if len(earlier) < steps:
                raise NothingPending(f"{subject}: no version was approved {steps} before")
            note = earlier[-steps]
            target = self.notary.open(note)
            content, _ = self._sound(subject, target.digest)
            now = self.now()
            ends = self.rules.ends(target.since, target.expires)
            if ends and ends <= now:
                raise NothingPending(f"{subject}: the approval of that version expired: approve it with its digest")
            if len({person(one) for one in target.approvers}) < self.rules.approvers:
                raise NothingPending(f"{subject}: too few people approved that version: approve it with its digest")
            level = self._justified(subject, record, content, reason)
            decision = target._replace(
                act="rollback", by=by, at=now, reason=reason, source=source, expires=ends, level=level
            )
            note = self._record(subject, record, decision)
            record.withheld = withheld(self.store, subject, record)
            if self.store.save(subject, raw, record):
                self.store.settle(subject, record)
                return decision, note, content, record

    def accept(self, subject: Subject, record: Record, content: bytes) -> str:
        """Take a descriptive change of an approved definition into service where nobody has to be asked. Its note, "".

        It is compared with what a person last approved as well: many small steps are no way around them.
        """
        approved = record.approved
        if self.rules.auto_accept != "descriptive" or approved is None:
            return ""
        now = self.now()
        ends = self.rules.ends(approved.since, approved.expires)
        try:
            if (ends and ends <= now) or chain_fault(self.store, subject, record):
                return ""
            for base in dict.fromkeys((approved.digest, approved.base)):
                before = self.store.content(subject, base)
                if not descriptive(self.judge(*subject, before, content)) or _identity(subject, before, content):
                    return ""
            definition = check(subject.kind, jiter.from_json(content))
        except (Unattested, ValueError):
            return ""
        decision = approved._replace(
            act="approve", digest=definition.digest, by=AUTOMATON, at=now, reason="a descriptive change",
            source=AUTO, expires=ends, level="descriptive",
        )  # fmt: skip
        return self._record(subject, record, decision)

    def votes(self, record: Record, digest: str) -> list[Decision]:
        """Approvals of this digest that still count: authentic, not outlived, one a person."""
        found: dict[str, Decision] = {}
        for note in record.votes:
            try:
                vote = self.notary.open(note)
            except Unattested:
                continue
            ends = self.rules.ends(vote.at, vote.expires)
            if vote.act == "vote" and vote.digest == digest and not (ends and ends <= self.now()):
                found.setdefault(person(vote.by), vote)
        return list(found.values())

    def assess(self, subject: Subject, record: Record, content: bytes) -> Assessment:
        """The risk of these bytes against what is approved."""
        before = None
        if record.approved is not None:
            try:
                before = self.store.content(subject, record.approved.digest)
            except Unattested:
                before = None  # then everything is new
        return self.judge(*subject, before, content)

    def _justified(self, subject: Subject, record: Record, content: bytes, reason: str) -> str:
        level = self.assess(subject, record, content).level
        if at_least(level, self.rules.reason_from) and not reason.strip():
            raise NeedsReason(f"{subject}: the risk is {level}: say why")
        return level

    def _record(self, subject: Subject, record: Record, decision: Decision) -> str:
        """Number, chain and sign a decision, and enter it into the record. The note."""
        if chain_fault(self.store, subject, record):
            # What was decided before cannot be trusted or is lost. It stays where it is, and a new chain begins.
            fresh = self.store.fresh(subject)
            record.chain, record.decisions = max(record.chain + 1, fresh.chain), 0
            record.approved, record.note, record.final, record.votes = None, "", "", []
        self.store.settle(subject, record)
        previous = digest_of_note(record.last) if record.last else ""
        decision = decision._replace(chain=record.chain, number=record.decisions + 1, previous=previous)
        note = self.notary.sign(decision)
        record.decide(decision, note)
        return note

    def _choose(self, subject: Subject, digest: str | None, *, waiting: bool = True) -> tuple[bytes, Record, str]:
        loaded = self.store.load(subject)
        if loaded is None:
            raise NothingPending(f"{subject}: never announced, or held from the start")
        raw, record, fault = loaded
        if fault:
            raise NothingPending(f"{subject}: {fault}: read the server again")
        chosen = (record.pending or self.lapsed(record)) if digest is None else digest
        if waiting and (not chosen or self.store.mark(subject, chosen) is None):
            raise NothingPending(f"{subject}: no such definition waits for a decision")
        return raw, record, chosen

    def lapsed(self, record: Record) -> str:
        """The digest in force if its approval has expired and it is what the server announces still, or ""."""
        if record.approved is None or record.drifted:
            return ""
        ends = self.rules.ends(record.approved.since, record.approved.expires)
        return record.approved.digest if ends and ends <= self.now() else ""

    def _sound(self, subject: Subject, digest: str) -> tuple[bytes, Any]:
        """A kept version that could be approved today."""
        try:
            content = self.store.content(subject, digest)
            definition = jiter.from_json(content)
            check(subject.kind, definition)
        except Unattested as error:
            raise NothingPending(f"{subject}: {error}: read the server again") from None
        except ValueError as error:
            raise NothingPending(f"{subject}: held: {error}") from None
        return content, definition

    def _earlier(self, subject: Subject, record: Record) -> list[str]:
        """Notes of the approvals one can go back to, the nearest last."""
        if fault := chain_fault(self.store, subject, record):
            raise NothingPending(f"{subject}: {fault}: approve a version with its digest")
        stack: list[tuple[str, str]] = []
        for note, decision, _ in self.store.decisions(subject):
            if decision is None or decision.chain != record.chain:
                continue
            if decision.act == "rollback":
                # Going back leaves what came after behind: a second step goes further back, not forward again.
                places = [at for at, one in enumerate(stack) if one[0] == decision.digest]
                stack = stack[: places[-1]] if places else stack
            if decision.act in (*FORCE, "reject"):
                stack = [one for one in stack if one[0] != decision.digest]
            if decision.act in FORCE:
                stack.append((decision.digest, note))
        if record.approved is not None and stack and stack[-1][0] == record.approved.digest:
            stack.pop()
        return [note for _, note in stack]


def _check_author(by: str, reason: str, source: str) -> None:
    if not person(by):
        raise ValueError("a decision needs the name of who decides")
    if person(by) == AUTOMATON:
        raise ValueError(f"{AUTOMATON} is not a person")
    if source not in SOURCES:
        raise ValueError(f"source is one of {', '.join(SOURCES)}")
    if len(by) > MAX_BY or len(reason) > MAX_REASON:
        raise ValueError(f"a name has at most {MAX_BY} characters, a reason {MAX_REASON}")


def _agreed(subject: Subject, votes: list[Decision], effect: str | None) -> str:
    """The effect those who approved before gave it. Raises ValueError for another: that is not the same approval."""
    for vote in votes:
        if effect is not None and effect != vote.effect:
            raise ValueError(f"{subject}: {vote.by} approved it with effect {vote.effect}: agree on one, or reject it")
    return effect or (votes[0].effect if votes else "")


def _effect(kind: str, definition: dict[str, Any]) -> str:
    """The proposal for a person to confirm: the server's own hints, read at this moment and never again."""
    if kind in _READS:
        return "read"
    hints = definition.get("annotations", {})
    if hints.get("destructiveHint") is True:
        return "destructive"
    return "read" if hints.get("readOnlyHint") is True else "unknown"


def _identity(subject: Subject, before: bytes, after: bytes) -> bool:
    """Whether this is another server: never a descriptive change, whatever else is said of it."""
    if subject.kind != "server":
        return False
    return bool(jiter.from_json(before)["identity"] != jiter.from_json(after)["identity"])
