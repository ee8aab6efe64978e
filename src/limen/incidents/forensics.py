"""What happened: which records belong to an incident, in which order, and how far it reached.

Works on events alone, whoever wrote the logs; the same questions are answered for an incident, a caller, a session, a
tool or a definition.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from limen.core.events import Event, Subject
from limen.incidents.incident import stated

AROUND: Final = 3600.0  # seconds before and after the first and last linked event that belong to an incident
AFTERWARDS: Final = 24 * 3600.0  # seconds in which what was read may have gone somewhere
_ABOUT: Final = frozenset({"contained", "released", "incident", "playbook", "alert", "signal"})
_FRAME: Final = frozenset({"start", "stop", "swap", "recovered"})
_ADDRESS: Final = re.compile(r"(?i):(?=//)|(?<=www)\.")  # of which Markdown makes a link as it stands
_CALLS: Final = frozenset({"call.intent", "call.local", "call.refused"})


@dataclass(frozen=True, slots=True)
class Scope:
    """What is looked for. An event belongs when it is named, joined to a named one by its reference, about one of the
    subjects or definitions within the time, or about the incident."""

    incident: str = ""
    events: frozenset[str] = frozenset()
    alerts: frozenset[str] = frozenset()
    containments: frozenset[str] = frozenset()
    subjects: frozenset[Subject] = frozenset()
    digests: frozenset[str] = frozenset()
    since: float = 0.0
    until: float = float("inf")
    frame: bool = False  # starts, stops and changes of policy as well


@dataclass(slots=True)
class Selection:
    """Goes through one log in order. `refs` known beforehand (of another pass) belong from the beginning."""

    scope: Scope
    refs: set[str] = field(default_factory=set)

    def belongs(self, event: Event) -> bool:
        """Whether this record is part of it."""
        scope = self.scope
        if event.id in scope.events or (event.ref and event.ref in self.refs):
            self._join(event)
            return True
        if event.type.partition(".")[0] in _ABOUT and self._tells(event):
            return True
        if not scope.since <= event.at <= scope.until:
            return False
        if scope.frame and event.type in _FRAME:
            return True
        if (event.digest and event.digest in scope.digests) or self._is_about(event):
            self._join(event)
            return True
        return False

    def _join(self, event: Event) -> None:
        if event.ref:
            self.refs.add(event.ref)

    def _tells(self, event: Event) -> bool:
        scope, record = self.scope, event.record
        named = record.get("id")
        if scope.incident and scope.incident in (record.get("incident"), named):
            return True
        return isinstance(named, str) and (named in scope.alerts or named in scope.containments)

    def _is_about(self, event: Event) -> bool:
        subjects = self.scope.subjects
        if not subjects:
            return False
        about: list[tuple[str, str]] = [("caller", event.caller), ("client", event.client), ("session", event.session)]
        about.append(("server", event.server))
        if event.server and event.name:
            about.append(("tool", f"{event.server}/{event.name}"))
        if event.type in ("alert", "signal"):
            about.extend(stated(event.record))
        return any(value and (kind, value) in subjects for kind, value in about)


def timeline(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Rows in order of time, over all logs; an outcome stands with the call it ends."""
    rows: list[dict[str, Any]] = []
    calls: dict[str, dict[str, Any]] = {}
    for event in sorted(events, key=lambda one: (one.at, one.log, one.index)):
        if event.type == "call.outcome" and event.ref in calls:
            calls[event.ref] |= {
                "outcome": event.reason, "ms": event.ms, "sent": event.sent, "ended": event.id,
                **({"risk": event.risk, "findings": list(event.findings)} if event.findings else {}),
            }  # fmt: skip
            continue
        row = {
            "at": event.at, "id": event.id, "type": event.type, "severity": event.severity, "issuer": event.issuer,
            "subject": event.subject, "client": event.client, "session": event.session, "peer": event.peer,
            "server": event.server, "name": event.name, "method": event.method, "digest": event.digest,
            "decision": event.decision, "reason": event.reason, "rules": list(event.rules), "risk": event.risk,
            "findings": list(event.findings), "detail": event.detail or _said(event), "ref": event.ref,
        }  # fmt: skip
        rows.append({name: value for name, value in row.items() if value not in ("", [], None, 0.0)})
        if event.type in _CALLS and event.ref:
            calls[event.ref] = rows[-1]
    return rows


def _said(event: Event) -> str:
    """What a record of containment, alerts or incidents says, on one line."""
    names = ("act", "action", "change", "event", "what", "title", "playbook", "rule", "by", "value", "id")
    found = (f"{name} {event.record[name]}" for name in names if isinstance(event.record.get(name), str | int))
    return ", ".join(one for one in found if not one.endswith(" "))[:300]


def markdown(title: str, rows: Sequence[Mapping[str, Any]], impact: Mapping[str, Any]) -> str:
    """The timeline for people. Nothing in it can be more than text of a table."""
    lines = [f"# {_cell(title)}", "", "| when (UTC) | what | who | on | outcome |", "|---|---|---|---|---|"]
    for row in rows:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(row["at"]))
        what = f"{row['type']} {row.get('reason', '')}".strip()
        who = " ".join(str(row[name]) for name in ("subject", "client", "peer") if name in row)
        on = "/".join(str(row[name]) for name in ("server", "name") if name in row)
        came = " ".join(str(row[name]) for name in ("decision", "outcome", "detail") if name in row)
        lines.append(f"| {when} | {_cell(what)} | {_cell(who)} | {_cell(on)} | {_cell(came)} |")
    callers = impact.get("callers", ())
    lines += ["", f"{len(callers)} callers, {impact.get('calls', 0)} calls, {impact.get('sent', 0)} bytes read."]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Names come from strangers: no cell, link, image or markup begins in one."""
    inert = _ADDRESS.sub(lambda found: f"[{found[0]}]", text)
    return "".join(f"\\{one}" if one in "\\|`*_[]<>!#" else one if one.isprintable() else " " for one in inert)


def impact(
    events: Iterable[Event],
    *,
    server: str = "",
    name: str = "",
    digest: str = "",
    callers: frozenset[str] = frozenset(),
    since: float = 0.0,
    until: float = float("inf"),
) -> dict[str, Any]:
    """Who called this (a tool, a definition, or anything by these callers), what was read, and where it could go.

    `events`: in order, of all logs, and not only those of the incident: what a caller did within a day afterwards is
    where what it read may have gone. Sizes are those of results, in bytes, where the log has them.
    """
    ordered = sorted(events, key=lambda one: (one.at, one.log, one.index))
    touched: dict[str, str] = {}  # ref -> caller
    found: dict[str, dict[str, Any]] = {}
    later: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for event in ordered:
        if event.type == "call.outcome":
            _ended(event, touched, found)
            continue
        if event.type not in ("call.intent", "call.local") or not since <= event.at <= until + AFTERWARDS:
            continue
        meant = (not server or event.server == server) and (not name or event.name == name)
        meant = meant and (not digest or event.digest == digest) and (not callers or event.caller in callers)
        who = event.caller or event.peer
        if meant and event.at <= until and event.ref:
            touched[event.ref] = who
            _called(found.setdefault(who, _fresh(event)), event)
        elif who in found and event.at <= found[who]["last"] + AFTERWARDS:
            _went(later.setdefault(who, {}), event)
    rows = [_row(one, later.get(who, {})) for who, one in found.items()]
    return {
        "server": server, "name": name, "digest": digest, "calls": sum(one["calls"] for one in rows),
        "sent": sum(one["sent"] for one in rows), "unknown_sizes": sum(one["unknown"] for one in rows),
        "callers": sorted(rows, key=lambda one: -one["sent"]), "egress": _egress(ordered, found, since, until),
    }  # fmt: skip


def _fresh(event: Event) -> dict[str, Any]:
    return {
        "issuer": event.issuer, "subject": event.subject, "peer": event.peer, "calls": 0, "first": event.at,
        "last": event.at, "sent": 0, "unknown": 0, "clients": set(), "sessions": set(), "on": {}, "digests": set(),
        "servers": set(),
    }  # fmt: skip


def _called(one: dict[str, Any], event: Event) -> None:
    one["calls"] += 1
    one["unknown"] += 1  # until its outcome says how much it was
    one["last"] = event.at
    place = f"{event.server}/{event.name}"
    one["on"][place] = one["on"].get(place, 0) + 1
    for members, value in (("clients", event.client), ("sessions", event.session), ("digests", event.digest)):
        if value:
            one[members].add(value)
    one["servers"].add(event.server)


def _ended(event: Event, touched: Mapping[str, str], found: Mapping[str, dict[str, Any]]) -> None:
    who = touched.get(event.ref)
    if who is not None and event.sent is not None:
        found[who]["sent"] += event.sent
        found[who]["unknown"] -= 1


def _went(places: dict[tuple[str, str], dict[str, Any]], event: Event) -> None:
    row = places.setdefault(
        (event.server, event.name),
        {"server": event.server, "name": event.name, "calls": 0, "first": event.at, "received": 0, "flow": set()},
    )
    row["calls"] += 1
    row["received"] += event.received or 0
    flow = event.record.get("flow")
    row["flow"] |= set(flow) if isinstance(flow, list) else set()


def _row(one: dict[str, Any], later: Mapping[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in one.items()}
    went = [{**row, "flow": sorted(row["flow"])} for row in later.values()]
    return {**plain, "afterwards": sorted(went, key=lambda row: row["first"])}


def _egress(
    events: Iterable[Event], found: Mapping[str, dict[str, Any]], since: float, until: float
) -> list[dict[str, Any]]:
    """What the servers in question reached, or tried to, meanwhile."""
    servers: set[str] = set().union(*(one["servers"] for one in found.values()))
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for event in events:
        if event.record.get("t") != "egress" or event.server not in servers:
            continue
        if not since <= event.at <= until + AFTERWARDS:
            continue
        what = str(event.record.get("what"))
        target = str(event.record.get("target") or event.record.get("name") or "")
        row = rows.setdefault(
            (event.server, what, target),
            {"server": event.server, "what": what, "target": target, "count": 0, "first": event.at, "sent": 0},
        )
        row["count"] += 1
        sent = event.record.get("sent")
        row["sent"] += sent if isinstance(sent, int) else 0
    return sorted(rows.values(), key=lambda row: row["first"])
