"""Incidents: what people work on after an attack. One record each, shared by replicas, changed by compare-and-set.

Whatever changes is put on record as an `incident` event, at least once: what is not yet told stands in the record
itself until it is.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, Literal, get_args

import orjson

from limen.core.events import SEVERITIES, Event, Severity, Subject
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.incidents.response_settings import ResponseSettings
from limen.incidents.rules import plain

Status = Literal["open", "investigating", "contained", "closed"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
Record = Callable[[str, Mapping[str, Any]], None]
Find = Callable[[str], Event | None]
SUBJECTS: Final = ("caller", "client", "session", "server", "tool")
LINKS: Final = ("events", "alerts", "containments", "subjects")
MOST: Final = 2000  # of each kind of link; what is beyond is counted
_TITLE, _TEXT, _TRIES = 200, 4000, 32
_LOOK: Final = 15.0  # seconds
_ROW, _GROUP = "incident/", "group/"


@dataclass(frozen=True, slots=True)
class Incident:
    """`subjects` read "kind:value". Notes hold by, at, text. `missed`: links that did not fit. `untold`: what is still
    to be put on record. Times in seconds since the epoch."""

    id: str
    title: str
    severity: Severity
    at: float
    by: str
    status: Status = "open"
    owner: str = ""
    changed: float = 0.0
    group: str = ""
    notes: tuple[dict[str, Any], ...] = ()
    events: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    containments: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    missed: int = 0
    untold: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    def shown(self) -> dict[str, Any]:
        """For people, programs and evidence."""
        return {name: value for name, value in asdict(self).items() if name != "untold"}


def subject_text(subject: Subject | Mapping[str, Any]) -> str:
    """A subject as incidents name it: kind:value; issuer and subject of a caller with a space between."""
    kind, value = subject if isinstance(subject, tuple) else (subject.get("kind", ""), subject.get("value", ""))
    return f"{kind}:{str(value).replace(chr(0), ' ')}" if kind and value else ""


def stated(record: Mapping[str, Any]) -> list[Subject]:
    """Whom or what an alert or a signal says it is about, narrowest first: a subject, or what a rule grouped by."""
    about, value = record.get("about"), record.get("value")
    if isinstance(about, str):
        about = {"kind": about, "value": value}
    if not isinstance(about, Mapping):
        return []
    row = {str(name): str(one) for name, one in about.items() if isinstance(one, str) and one}
    if "about" in row:  # grouped by what a signal is about
        row["kind"] = row["about"]
    if isinstance(value, str) and value and "kind" in row:
        row["value"] = value
    if row.get("kind") and row.get("value"):
        found = [(row["kind"], row["value"])]
    else:
        pairs = [("caller", f"{row['issuer']}\0{row['subject']}")] if row.get("issuer") and row.get("subject") else []
        pairs += [("caller", row.get("caller", "")), ("session", row.get("session", "")), ("tool", row.get("tool", ""))]
        if row.get("server") and row.get("name"):
            pairs.append(("tool", f"{row['server']}/{row['name']}"))
        found = [*pairs, ("server", row.get("server", "")), ("client", row.get("client", ""))]
    # An alert shows a caller with a space where the record has a NUL.
    return [
        Subject(kind, value if kind != "caller" or "\0" in value else value.replace(" ", "\0", 1))  # type: ignore[arg-type] # one of them
        for kind, value in found
        if value and kind in SUBJECTS
    ]


def read_subject(text: str) -> Subject:
    """The other way. Raises ValueError."""
    kind, colon, value = text.partition(":")
    if not colon or not value or kind not in SUBJECTS:
        raise ValueError("a subject reads caller:ISSUER SUBJECT, client:ID, session:DIGEST, server:NAME or tool:S/NAME")
    if kind == "caller":
        issuer, space, name = value.partition(" ")
        if not space or not name:
            raise ValueError("a caller reads caller:ISSUER SUBJECT")
        value = f"{issuer}\0{name}"
    return Subject(kind, value)  # type: ignore[arg-type] # one of them, as was looked at


class Incidents:
    """All incidents of one table. `record` puts an event in the log. All methods raise DependencyFault."""

    def __init__(self, table: Table, record: Record) -> None:
        self._table, self._record = table, record

    def get(self, identifier: str) -> Incident:
        """Raises LookupError when there is none."""
        raw = self._table.get(_ROW + identifier)
        if raw is None:
            raise LookupError(f"no incident {identifier}")
        return _read(identifier, raw)

    def all(self) -> list[Incident]:
        """Newest first."""
        found = [_read(key.removeprefix(_ROW), raw) for key, raw in self._table.scan(_ROW)]
        return sorted(found, key=lambda one: (-one.at, one.id))

    def open(
        self, title: str, severity: str, *, by: str, at: float, identifier: str = "", group: str = "", **links: Any
    ) -> Incident:
        """A new one; with `identifier` the one there is, should it have been opened before. Raises ValueError."""
        if severity not in SEVERITIES:
            raise ValueError(f"severity is one of {', '.join(SEVERITIES)}")
        if not title.strip() or len(title) > _TITLE or not title.isprintable():
            raise ValueError(f"a title is 1 to {_TITLE} printable characters on one line")
        made = Incident(
            identifier or secrets.token_hex(6), title, severity, at, by, changed=at, group=group,
            untold=({"act": "opened", "title": title, "severity": severity, "by": by, "group": group},),
        )  # fmt: skip
        made, _ = _linked(made, links)
        if self._table.swap(_ROW + made.id, None, _raw(made)):
            return self._tell(made)
        return self._tell(self.link(made.id, by=by, at=at, **links))

    def note(self, identifier: str, text: str, *, by: str, at: float) -> Incident:
        """Raises LookupError, ValueError."""
        if not text.strip() or len(text) > _TEXT:
            raise ValueError(f"a note is 1 to {_TEXT} characters")
        note = {"by": by, "at": at, "text": text}
        told = {"act": "noted", "by": by, "text": text[:500]}

        def add(one: Incident) -> Incident:
            if note in one.notes:
                return one
            return replace(one, notes=(*one.notes, note)[-MOST:], untold=(*one.untold, told))

        return self._change(identifier, at, add)

    def assign(self, identifier: str, owner: str, *, by: str, at: float) -> Incident:
        """Raises LookupError."""
        told = {"act": "changed", "by": by, "owner": owner}
        return self._change(identifier, at, lambda one: replace(one, owner=owner, untold=(*one.untold, told)))

    def move(self, identifier: str, status: str, *, by: str, at: float, reason: str = "") -> Incident:
        """To another status. Raises LookupError, ValueError: no such status, or closing without a reason."""
        if status not in STATUSES:
            raise ValueError(f"status is one of {', '.join(STATUSES)}")
        if status == "closed" and not reason.strip():
            raise ValueError("an incident is closed with a reason: what it was, and what follows from it")
        act = "closed" if status == "closed" else "changed"
        told = {"act": act, "by": by, "status": status, "reason": reason[:500]}

        def moved(one: Incident) -> Incident:
            if one.status == status:
                return one
            noted = ({"by": by, "at": at, "text": f"{status}: {reason}"},) if reason else ()
            return replace(one, status=status, notes=(*one.notes, *noted), untold=(*one.untold, told))

        return self._change(identifier, at, moved)

    def link(self, identifier: str, *, by: str, at: float, **links: Any) -> Incident:
        """Add events, alerts, containments, subjects (each a list of texts). Raises LookupError."""

        def add(one: Incident) -> Incident:
            linked, added = _linked(one, links)
            told = {"act": "changed", "by": by, **{name: values[:20] for name, values in added.items()}}
            return replace(linked, untold=(*one.untold, told)) if added else linked

        return self._change(identifier, at, add)

    def of_group(self, group: str) -> Incident | None:
        """The incident of this alert group that is not closed."""
        raw = self._table.get(_GROUP + _digest(group))
        if raw is None:
            return None
        try:
            found = self.get(raw.decode())
        except LookupError:
            return None
        return found if found.status != "closed" else None

    def of_alert(self, event: Event, find: Find = lambda identifier: None) -> Incident:
        """Open one for an alert, or add it to the one of its group. `find`: an event of this log by id."""
        alert = event.record
        links = {
            "events": [event.id, *(one for one in alert.get("events") or () if isinstance(one, str))],
            "alerts": [str(alert.get("id", ""))],
            "subjects": [subject_text(_exact(one, alert, find)) for one in stated(alert)[:1]],
        }
        group = str(alert.get("group") or alert.get("rule") or alert.get("id"))
        title = printable(str(alert.get("title") or alert.get("rule") or "alert"))[:_TITLE] or "alert"
        return self.open_group(title, event.severity, by="alert", at=event.at, group=group, seed=event.id, **links)

    def open_group(
        self, title: str, severity: str, *, by: str, at: float, group: str, seed: str, **links: Any
    ) -> Incident:
        """The incident of this group that is not closed, with these links; else a new one, whose id follows from
        group and seed: opened again by the same event it is the same one."""
        place, identifier = _GROUP + _digest(group), _digest(f"{group}\n{seed}")[:12]
        for _ in range(_TRIES):
            if (known := self.of_group(group)) is not None:
                return self.link(known.id, by=by, at=at, **links)
            before = self._table.get(place)
            if self._table.swap(place, before, identifier.encode()):
                return self.open(title, severity, by=by, at=at, identifier=identifier, group=group, **links)
        raise DependencyFault("incidents", f"the group {group} changes faster than it can be written")

    def settle(self) -> None:
        """Put on record what a crash or a full disk kept from it."""
        for one in self.all():
            if one.untold:
                self._tell(one)

    def _change(self, identifier: str, at: float, change: Callable[[Incident], Incident]) -> Incident:
        for _ in range(_TRIES):
            raw = self._table.get(_ROW + identifier)
            if raw is None:
                raise LookupError(f"no incident {identifier}")
            before = _read(identifier, raw)
            after = change(before)
            if after == before:
                return self._tell(before)
            after = replace(after, changed=max(at, before.changed))
            if self._table.swap(_ROW + identifier, raw, _raw(after)):
                return self._tell(after)
        raise DependencyFault("incidents", f"incident {identifier} changes faster than it can be written")

    def _tell(self, incident: Incident) -> Incident:
        """What was not yet put on record. Another one may do the same at the same time: at least once."""
        if not incident.untold:
            return incident
        for fields in incident.untold:
            self._record("incident", {"id": incident.id, **fields})
        for _ in range(_TRIES):
            raw = self._table.get(_ROW + incident.id)
            if raw is None:
                break
            now = _read(incident.id, raw)
            left = tuple(one for one in now.untold if one not in incident.untold)
            told = replace(now, untold=left)
            if told == now or self._table.swap(_ROW + incident.id, raw, _raw(told)):
                return told
        return incident


class IncidentWatch:
    """Opens an incident for every alert that is grave enough, and notes what was contained for one. A Watch."""

    name = "incidents"

    def __init__(self, incidents: Incidents, settings: ResponseSettings, find: Find = lambda identifier: None) -> None:
        self._incidents, self._find, self._looked = incidents, find, float("-inf")
        self._from = SEVERITIES.index(settings.open_from) if settings.open_from != "none" else len(SEVERITIES)

    def see(self, event: Event) -> None:
        """One event."""
        if event.type == "alert" and SEVERITIES.index(event.severity) >= self._from:
            self._incidents.of_alert(event, self._find)
        elif (
            event.type in ("contained", "released") and isinstance(known := event.record.get("incident"), str) and known
        ):
            try:
                made = [str(event.record.get("id", ""))]
                self._incidents.link(str(known), by=str(event.record.get("by", "")), at=event.at, containments=made)
            except LookupError:
                return  # of another installation's records, or long gone

    def settle(self, now: float) -> None:
        """What was not told, now and then: there may be many."""
        if not 0 <= now - self._looked < _LOOK:
            self._incidents.settle()
            self._looked = now


def _exact(subject: Subject, alert: Mapping[str, Any], find: Find) -> Subject:
    """As its own events have it. An alert is for people and shows names in plain: cut off, and with one kind of space,
    they could be those of somebody else, whose calls would then be evidence."""
    for one in alert.get("events") or ():
        event = find(one) if isinstance(one, str) else None
        if event is None:
            continue
        tool = f"{event.server}/{event.name}" if event.server and event.name else ""
        seen = [("caller", event.caller), ("client", event.client), ("session", event.session), ("tool", tool)]
        for kind, value in (*seen, ("server", event.server), *(stated(event.record) if event.type == "signal" else ())):
            if kind == subject.kind and value and plain(value) == plain(subject.value):
                return Subject(subject.kind, value)
    return subject


def printable(text: str) -> str:
    """On one line and without what a terminal obeys."""
    return "".join(one if one.isprintable() else " " for one in text).strip()


def _linked(incident: Incident, links: Mapping[str, Any]) -> tuple[Incident, dict[str, list[str]]]:
    """With these links added, and which of them were new."""
    changes: dict[str, Any] = {}
    added: dict[str, list[str]] = {}
    missed = 0
    for name in LINKS:
        known = getattr(incident, name)
        new = [one for one in dict.fromkeys(links.get(name) or ()) if one and one not in known]
        room = max(0, MOST - len(known))
        missed += len(new[room:])
        if new[:room]:
            changes[name], added[name] = (*known, *new[:room]), new[:room]
    if unknown := links.keys() - set(LINKS):
        raise TypeError(f"no such links: {', '.join(sorted(unknown))}")
    return replace(incident, **changes, missed=incident.missed + missed), added


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]


def _raw(incident: Incident) -> bytes:
    return orjson.dumps(asdict(incident))


def _read(identifier: str, raw: bytes) -> Incident:
    try:
        found: dict[str, Any] = orjson.loads(raw)
        lists = ("notes", "untold", *LINKS)
        found |= {name: tuple(found[name]) for name in lists}
        incident = Incident(**found)
    except (ValueError, TypeError, KeyError) as error:
        raise DependencyFault("incidents", f"incident {identifier} cannot be read: {error}", retryable=False) from None
    if incident.id != identifier or incident.status not in STATUSES:
        raise DependencyFault("incidents", f"incident {identifier} is not the record of its key", retryable=False)
    return incident
