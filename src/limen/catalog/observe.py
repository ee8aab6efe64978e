"""One reading of a server against what is known of it: what is new, changed, held or gone, and what that does."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

import jiter

from limen.catalog.attest import Unattested, digest_of_note
from limen.catalog.definitions import Definition, Held, intake
from limen.catalog.differences import new_requirement
from limen.catalog.govern import AUTO, AUTOMATON, Judge
from limen.catalog.history import SEEN, STORE, Row
from limen.catalog.records import GONE, HELD, Record
from limen.catalog.retain import make_room
from limen.catalog.store import Loaded, Store, Subject
from limen.catalog.text import printable
from limen.core.announce import Announcement

MAX_NAMES: Final = 4096
ANOTHER_SERVER: Final = "the server behind this name is another one now: approve its identity"
_NOT_ANNOUNCED: Final = "the server no longer announces it"
_MEMBERS: Final = {"tool": ("tools", "name"), "prompt": ("prompts", "name")}

Accept = Callable[[Subject, Record, bytes], str]
"""Takes a descriptive change into service where that is allowed; the note of the decision, or ""."""


@dataclass(frozen=True, slots=True)
class Observer:
    """Writes what readings change. `damaged`: what is known to have lost its stored definition."""

    store: Store
    judge: Judge
    accept: Accept
    damaged: Collection[Subject]

    def observe(self, announcement: Announcement, now: float) -> list[Row]:
        """Write what the reading changes. Returns unnumbered history rows. Raises DependencyFault."""
        store, server = self.store, announcement.server
        known = dict(store.scan(server))
        rows: list[Row] = _forget_strangers(store, known, now) if len(known) >= MAX_NAMES else []
        sorted_ = intake(announcement)
        held = [*([Held("", "", sorted_.whole)] if sorted_.whole else []), *sorted_.held]
        seen: set[Subject] = set()
        names = len(known)
        self.judge.met((server, one.kind, one.name) for one in sorted_.accepted)
        for definition in sorted_.accepted:
            subject = Subject(server, definition.kind, definition.name)
            seen.add(subject)
            if subject in known:
                loaded = known[subject]
                if not loaded.fault and loaded.record.announced == definition.digest:
                    rows.extend(self._repaired(subject, definition, now))
                    continue
            elif names >= MAX_NAMES:
                reason = f"the server has announced {MAX_NAMES} names before"
                held.append(Held(definition.kind, definition.name, reason))
                continue
            else:
                names += 1
            rows.extend(self._met(subject, definition, now))
        reasons = {(one.kind, one.name): one.reason for one in held}
        for subject, (_, record, fault) in known.items():
            if subject not in seen:
                reason = reasons.get((subject.kind, subject.name), "") or sorted_.whole
                if fault or record.announced != (HELD if reason else GONE) or record.held != reason:
                    rows.extend(self._missed(subject, reason, _raw(announcement, subject), now))
        store.keep_held(server, held)
        rows.extend(make_room(store, server, now) if rows else [])
        return [*rows, *_noticed(store, announcement, now)]

    def _met(self, subject: Subject, definition: Definition, now: float) -> list[Row]:
        """A well-formed definition was announced that is not what the last reading had."""
        store, digest = self.store, definition.digest
        while True:
            loaded = store.load(subject)
            raw, record, fault = loaded if loaded is not None else (None, store.fresh(subject), "")
            if loaded is not None and not fault and record.announced == digest:
                return []
            store.settle(subject, record)
            mark = store.mark(subject, digest)
            store.keep_version(subject, record, digest, definition.canonical, now)
            event = "new" if raw is None or fault else "returned" if record.announced == GONE else "changed"
            record.announced, record.held = digest, ""
            record.wait("")
            note = ""
            if record.approved is not None and record.approved.digest == digest:
                event = "returned"
            elif mark is not None and mark.verdict == "rejected":
                event = "rejected_again"
            elif not (note := self.accept(subject, record, definition.canonical)):
                before = _content(store, subject, record)
                risk = self.judge(*subject, before, definition.canonical, exact=False)
                record.wait(digest, risk.level, risk.score)
            record.withheld = withheld(store, subject, record)
            if store.save(subject, raw, record):
                break
        store.settle(subject, record)
        rows = [Row(0, now, STORE, "tampered", *subject, "", fault)] if fault else []
        rows.append(Row(0, now, SEEN, event, *subject, digest, record.withheld))
        if note:
            why = "a descriptive change"
            rows.append(Row(0, now, AUTOMATON, "approved", *subject, digest, why, AUTO, digest_of_note(note)))
        return rows

    def _missed(self, subject: Subject, reason: str, announced: Any, now: float) -> list[Row]:
        """Nothing well-formed of this name was announced: it is held for `reason`, or gone."""
        store = self.store
        while True:
            loaded = store.load(subject)
            if loaded is None:
                return []
            raw, record, fault = loaded
            store.settle(subject, record)
            record.announced, record.held, record.withheld = HELD if reason else GONE, reason, ""
            record.wait("")
            if record.approved is not None:
                record.withheld = _NOT_ANNOUNCED
                if reason:
                    approved = _content(store, subject, record)
                    record.withheld = _refusal(subject, approved, announced) if approved is not None else ""
            if store.save(subject, raw, record):
                rows = [Row(0, now, STORE, "tampered", *subject, "", fault)] if fault else []
                return [*rows, Row(0, now, SEEN, "held" if reason else "gone", *subject, "", reason)]

    def _repaired(self, subject: Subject, definition: Definition, now: float) -> list[Row]:
        """What is announced as before may have been altered where it is stored: its digest says that it is the same."""
        if subject not in self.damaged:
            return []
        try:
            self.store.content(subject, definition.digest)
        except Unattested:
            self.store.repair(subject, definition.digest, definition.canonical)
            why = "the stored definition had been altered"
            return [Row(0, now, STORE, "repaired", *subject, definition.digest, why)]
        return []


def withheld(store: Store, subject: Subject, record: Record) -> str:
    """Why the approved definition must not be used with what the server announces now, or ""."""
    if record.approved is None or not record.drifted:
        return ""
    if record.announced == GONE:
        return _NOT_ANNOUNCED
    if record.announced == HELD:
        return record.withheld
    approved = _content(store, subject, record)
    if approved is None:
        return ""  # not served either way: its stored definition is not believed
    try:
        return _refusal(subject, approved, jiter.from_json(store.content(subject, record.announced)))
    except Unattested:
        return "what the server announces now was altered where it is stored"


def _refusal(subject: Subject, approved: bytes, announced: Any) -> str:
    """What of a drift keeps the approved definition out of service: another server, or a parameter asked for now."""
    if subject.kind == "server":
        same = jiter.from_json(approved)["identity"] == announced.get("identity")
        return "" if same else ANOTHER_SERVER
    required = new_requirement(subject.kind, approved, announced)
    return f"the server now requires {required}" if required else ""


def _content(store: Store, subject: Subject, record: Record) -> bytes | None:
    """The approved definition, or None without one that is believed."""
    if record.approved is None:
        return None
    try:
        return store.content(subject, record.approved.digest)
    except Unattested:
        return None


def _raw(announcement: Announcement, subject: Subject) -> Any:
    """What was announced under this name although it is held, to see what it asks for."""
    if subject.kind == "server":
        return {"identity": dict(announcement.identity)}
    member, name = _MEMBERS.get(subject.kind, ("", ""))
    for item in getattr(announcement, member) if member else ():
        if type(item) is dict and item.get(name) == subject.name:
            return item
    return None


def _noticed(store: Store, announcement: Announcement, now: float) -> list[Row]:
    """What was noticed while reading and was not at the last reading."""
    found = list(dict.fromkeys(printable(text[:500]) for text in announcement.findings))
    before = set(store.findings(announcement.server))
    store.keep_findings(announcement.server, found)
    return [Row(0, now, SEEN, "finding", announcement.server, "", "", "", text) for text in found if text not in before]


def _forget_strangers(store: Store, known: dict[Subject, Loaded], now: float) -> list[Row]:
    """Make room: names that are gone and that nobody ever decided about."""
    dropped: list[Row] = []
    for subject, (raw, record, fault) in list(known.items()):
        if record.announced == GONE and not record.reviewed and not fault and store.drop(subject, raw):
            del known[subject]
            why = f"gone, never decided about, and one of {MAX_NAMES} names"
            dropped.append(Row(0, now, STORE, "dropped", *subject, "", why))
    return dropped
