"""Events as OCSF 1.8.0 (schema.ocsf.io): which class each is, what goes where. Pure.

API Activity (6003, with the AI operation profile) for calls and their refusals, Authentication (3002) for who came and
who was not let in, Detection Finding (2004) for what was found in content and definitions, for suspicions and alerts,
Incident Finding (2005), and Entity Management (3004) for whatever changed.

`raw_data` is the record byte for byte, `unmapped.proof` says where in which log it stands, so an event can be proven
from a SIEM: SHA-256(0x00 || raw_data) is the leaf, an inclusion proof leads to any checkpoint of `size` or more.
`unmapped` holds whatever of the record has no place elsewhere. MAPPING grows when a place changes.
"""

from __future__ import annotations

from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, Final

from limen import __version__
from limen.audit.export import Entry
from limen.core.events import Event

VERSION: Final = "1.8.0"
MAPPING: Final = "1"
_SEVERITY: Final = MappingProxyType({"info": 1, "low": 2, "medium": 3, "high": 4, "critical": 5})
_FINDINGS: Final = frozenset({"signal", "alert", "finding", "tampered", "connect_by_another", "connect_mix_up"})
_READS: Final = frozenset(
    {"resources/read", "prompts/get", "completion/complete", "tools/list", "resources/list", "prompts/list",
     "resources/templates/list", "server/discover", "ping"}
)  # fmt: skip
# Last word of an event's type -> activity of Entity Management.
_CHANGES: Final = MappingProxyType(
    {
        "created": 1, "added": 1, "granted": 1, "opened": 1, "registered": 1, "stored": 1, "connected": 1, "start": 10,
        "started": 10, "removed": 4, "deleted": 4, "withdrawn": 4, "shredded": 4, "disconnected": 4, "approved": 8,
        "rejected": 9, "revoked": 9, "unrevoked": 8, "contained": 12, "released": 13, "expired": 11, "ended": 11,
        "pruned": 4, "forgotten": 4, "uprooted": 4, "lifted": 4, "planted": 1,
    }
)  # fmt: skip
_MAPPED: Final = frozenset(
    {
        "t", "ts", "ref", "trace", "iss", "sub", "client", "session", "peer", "server", "upstream", "method", "name",
        "tool", "decision", "reason", "policy", "rules", "risk", "detail", "ms", "severity",
    }
)  # fmt: skip


def ocsf(entry: Entry) -> dict[str, Any]:
    """One event of one class, valid against the published schema."""
    event = entry.event
    if (
        event.type in _FINDINGS
        or event.type.startswith("security.")
        or (event.type == "call.refused" and event.category in ("content", "incident"))
    ):
        return _finding(entry)
    if event.type.startswith(("incident.", "playbook.")) or event.type in ("incident", "playbook"):
        return _incident(entry)
    if event.category in ("authentication", "session"):
        return _authentication(entry)
    if event.type.startswith("call."):
        return _api(entry)
    return _change(entry)


def _base(entry: Entry, class_uid: int, activity: int, profiles: tuple[str, ...] = ()) -> dict[str, Any]:
    """What every class has (Base Event)."""
    event = entry.event
    found: dict[str, Any] = {
        "activity_id": activity,
        "category_uid": class_uid // 1000,
        "class_uid": class_uid,
        "type_uid": class_uid * 100 + activity,
        "severity_id": _SEVERITY[event.severity],
        "time": int(event.at * 1000),
        "metadata": {
            "version": VERSION,
            "product": {"name": "Limen", "vendor_name": "Limen", "version": __version__},
            "profiles": ["security_control", *profiles],
            "log_name": event.log,
            "log_version": MAPPING,
            "uid": entry.id,
            "sequence": event.index,
            "event_code": event.type,
        },
        "message": _message(event),
        "unmapped": {
            "proof": {"origin": event.log, "index": event.index, "leaf": entry.leaf, "size": entry.size},
            **{name: value for name, value in event.record.items() if name not in _MAPPED and value not in ("", None)},
        },
    }
    if event.ref:
        found["metadata"]["correlation_uid"] = event.ref
    try:
        found["raw_data"] = entry.raw.decode()
    except UnicodeDecodeError:
        found["unmapped"]["raw_hex"] = entry.raw.hex()
    if event.decision:
        allowed = event.decision == "allow"
        found |= {"action_id": 1 if allowed else 2, "disposition_id": 1 if allowed else 2}
    if event.risk:
        found["risk_score"] = round(100 * min(event.risk, 1.0))
    if event.type.startswith("call."):
        good = event.decision == "allow" and event.reason in ("", "ok")
        found |= {"status_id": 1 if good else 2, "status_code": event.reason or "ok"}
        if event.detail:
            found["status_detail"] = event.detail
    if event.policy:
        found["policy"] = {"uid": event.policy, "desc": ", ".join(event.rules)}
    return found


def _message(event: Event) -> str:
    what = "/".join(part for part in (event.server, event.name) if part) or event.method
    return " ".join(part for part in (event.type, what, event.reason) if part)


def _user(event: Event) -> dict[str, Any]:
    if not event.subject:
        return {"name": "unknown", "type_id": 0}
    return {"uid": event.subject, "domain": event.issuer} if event.issuer else {"uid": event.subject}


def _actor(event: Event) -> dict[str, Any]:
    actor: dict[str, Any] = {"user": _user(event)}
    if event.client:
        actor["app_uid"] = event.client
    if event.agent:
        actor["app_name"] = event.agent
    if event.session:
        actor["session"] = {"uid": event.session}
    return actor


def _endpoint(event: Event) -> dict[str, Any]:
    try:
        return {"ip": str(ip_address(event.peer))}
    except ValueError:
        return {"name": event.peer or "unknown"}


def _call(event: Event) -> dict[str, Any]:
    """The API object of a call."""
    api: dict[str, Any] = {"operation": event.method or event.type}
    if event.server:
        api["service"] = {"name": event.server}
    if event.ref:
        api["request"] = {"uid": event.ref}
    if event.reason and event.reason != "ok":
        api["response"] = {"error": event.reason}
    return api


def _api(entry: Entry) -> dict[str, Any]:
    event = entry.event
    profiles = ("ai_operation", "trace") if event.trace else ("ai_operation",)
    found = _base(entry, 6003, 2 if event.method in _READS else 99, profiles)
    if found["activity_id"] == 99:
        found["activity_name"] = "Call"
    found |= {"actor": _actor(event), "api": _call(event), "src_endpoint": _endpoint(event)}
    # The AI operation profile asks for a role only when there is one: what was called is a tool.
    if event.server:
        found["message_context"] = {
            "ai_role_id": 3,
            "name": event.name or event.method,
            "service": found["api"]["service"],
        }
        found["resources"] = [{"name": event.name or event.server, "type": event.method, "namespace": event.server}]
        if event.digest:
            found["resources"][0]["version"] = event.digest
    if event.ms is not None:
        found |= {"duration": round(event.ms), "start_time": int(event.at * 1000 - event.ms), "end_time": found["time"]}
    parts = event.trace.split("-")
    if event.trace:
        found["trace"] = {"uid": parts[1] if len(parts) == 4 else event.trace}
    return found


def _authentication(entry: Entry) -> dict[str, Any]:
    event = entry.event
    act = event.type.rpartition(".")[2]
    ends = event.category == "session" and act in ("ended", "expired", "closed")
    found = _base(entry, 3002, 2 if ends else 1)
    found |= {"user": _user(event), "src_endpoint": _endpoint(event)}
    found["service"] = {"name": event.server or "limen"}
    found.setdefault("status_id", 1)
    if event.session:
        found["session"] = {"uid": event.session}
    found["actor"] = _actor(event)
    return found


def _finding(entry: Entry) -> dict[str, Any]:
    event = entry.event
    found = _base(entry, 2004, 1, ("host",))
    title = event.record.get("title") or event.record.get("why") or _message(event)
    info: dict[str, Any] = {"uid": str(event.record.get("id") or event.id), "title": str(title)[:512]}
    if event.findings or event.type in ("alert", "signal"):
        rule = event.record.get("rule") or event.record.get("source")
        info["types"] = list(event.findings) or [str(rule or event.type)]
    found["finding_info"] = info
    found["actor"] = _actor(event)
    found["status_id"] = 1  # a finding that is new
    found["is_alert"] = event.type == "alert" or event.severity in ("high", "critical")
    evidence: dict[str, Any] = {"actor": found["actor"], "src_endpoint": _endpoint(event)}
    if event.method:
        evidence["api"] = _call(event)
    found["evidences"] = [evidence]
    if event.server:
        found["resources"] = [{"name": event.name or event.server, "namespace": event.server}]
    return found


def _incident(entry: Entry) -> dict[str, Any]:
    event = entry.event
    act = event.type.rpartition(".")[2]
    activity = {"opened": 1, "closed": 3}.get(act, 2)
    found = _base(entry, 2005, activity)
    uid = str(event.record.get("id") or event.record.get("incident") or event.id)
    found["finding_info_list"] = [{"uid": uid, "title": str(event.record.get("title") or _message(event))[:512]}]
    found["status_id"] = {1: 1, 3: 5}.get(activity, 2)
    owner = event.record.get("assignee") or event.record.get("by")
    if isinstance(owner, str) and owner:
        found["assignee"] = {"name": owner}
    else:
        found["assignee_group"] = {"name": "unassigned"}
    return found


def _change(entry: Entry) -> dict[str, Any]:
    event = entry.event
    activity = _CHANGES.get(event.type.rpartition(".")[2], 3)
    found = _base(entry, 3004, activity)
    name = "/".join(part for part in (event.server, event.name) if part) or event.subject or event.type
    entity: dict[str, Any] = {"name": name, "type": event.category, "type_id": 99}
    if event.digest:
        entity["version"] = event.digest
    found["entity"] = entity
    by = event.record.get("by")
    if isinstance(by, str) and by:
        found["actor"] = {"user": {"name": by}}
    if event.detail:
        found["comment"] = event.detail
    return found
