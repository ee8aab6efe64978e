"""One reading of a server against what is known of it: what is new, changed, held or gone, and what that does."""

from __future__ import annotations

from typing import Any, Final

import jiter

from limen.catalog.definitions import Definition, Held, intake
from limen.catalog.differences import new_requirement
from limen.catalog.history import SEEN, Row
from limen.catalog.records import GONE, HELD, Record
from limen.catalog.store import Store, Subject
from limen.core.announce import Announcement

MAX_NAMES: Final = 4096
_NOT_ANNOUNCED: Final = "the server no longer announces it"
_MEMBERS: Final = {"tool": ("tools", "name"), "prompt": ("prompts", "name")}


def observe(store: Store, announcement: Announcement, now: float) -> list[Row]:
    """Write what the reading changes. Returns unnumbered history rows. Raises DependencyFault."""
    server = announcement.server
    known = {subject: (raw, record) for subject, raw, record in store.scan(server)}
    if len(known) >= MAX_NAMES:
        _forget_strangers(store, known)
    sorted_ = intake(announcement)
    held = [Held("", "", sorted_.whole)] if sorted_.whole else list(sorted_.held)
    rows: list[Row] = []
    seen: set[Subject] = set()
    names = len(known)
    for definition in sorted_.accepted:
        subject = Subject(server, definition.kind, definition.name)
        seen.add(subject)
        if subject in known:
            if known[subject][1].announced == definition.digest:
                continue
        elif names >= MAX_NAMES:
            held.append(Held(definition.kind, definition.name, f"the server has announced {MAX_NAMES} names before"))
            continue
        else:
            names += 1
        rows.extend(_met(store, subject, definition, now))
    reasons = {(one.kind, one.name): one.reason for one in held}
    for subject, (_, record) in known.items():
        if subject not in seen:
            reason = sorted_.whole or reasons.get((subject.kind, subject.name), "")
            if record.announced != (HELD if reason else GONE) or record.held != reason:
                rows.extend(_missed(store, subject, reason, _raw(announcement, subject), now))
    store.keep_held(server, held)
    return rows


def withheld(store: Store, subject: Subject, record: Record) -> str:
    """Why the approved definition must not be used with what the server announces now, or ""."""
    if record.approved is None or not record.drifted:
        return ""
    if record.announced == GONE:
        return _NOT_ANNOUNCED
    if record.announced == HELD:
        return record.withheld
    approved = store.content(subject, record.approved.digest)
    return _requirement(subject, approved, jiter.from_json(store.content(subject, record.announced)))


def _requirement(subject: Subject, approved: bytes, announced: Any) -> str:
    required = new_requirement(subject.kind, approved, announced)
    return f"the server now requires {required}" if required else ""


def _met(store: Store, subject: Subject, definition: Definition, now: float) -> list[Row]:
    """A well-formed definition was announced that is not what the last reading had."""
    digest = definition.digest
    while True:
        loaded = store.load(subject)
        raw, record = loaded if loaded is not None else (None, Record(announced=GONE))
        if loaded is not None and record.announced == digest:
            return []
        if not record.knows(digest):
            store.keep(subject, digest, definition.canonical)
        event = "new" if raw is None else "returned" if record.announced == GONE else "changed"
        record.announced, record.held, record.pending = digest, "", ""
        if record.approved is not None and record.approved.digest == digest:
            event = "returned"
        elif digest in record.rejected:
            event = "rejected_again"
        else:
            record.pending = digest
        forgotten = record.remember(digest, now)
        record.withheld = withheld(store, subject, record)
        if store.save(subject, raw, record):
            store.forget(subject, forgotten)
            return [Row(0, now, SEEN, event, *subject, digest, record.withheld)]


def _missed(store: Store, subject: Subject, reason: str, announced: Any, now: float) -> list[Row]:
    """Nothing well-formed of this name was announced: it is held for `reason`, or gone."""
    while True:
        loaded = store.load(subject)
        if loaded is None:
            return []
        raw, record = loaded
        record.announced, record.held, record.pending = HELD if reason else GONE, reason, ""
        record.withheld = ""
        if record.approved is not None:
            approved = store.content(subject, record.approved.digest)
            record.withheld = _requirement(subject, approved, announced) if reason else _NOT_ANNOUNCED
        if store.save(subject, raw, record):
            return [Row(0, now, SEEN, "held" if reason else "gone", *subject, "", reason)]


def _raw(announcement: Announcement, subject: Subject) -> Any:
    """What was announced under this name although it is held, to see what it asks for."""
    member, name = _MEMBERS.get(subject.kind, ("", ""))
    for item in getattr(announcement, member) if member else ():
        if type(item) is dict and item.get(name) == subject.name:
            return item
    return None


def _forget_strangers(store: Store, known: dict[Subject, tuple[bytes, Record]]) -> None:
    """Make room: names that are gone and that nobody ever decided about."""
    for subject, (raw, record) in list(known.items()):
        if record.announced == GONE and not record.reviewed:
            store.drop(subject, raw, record)
            del known[subject]
