"""The catalogue of events: what each record of the log is called, to which category it belongs, how grave it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, get_args

import orjson

from limen.audit.catalogue import Row, row_of
from limen.core.events import SEVERITIES, Category, Event, Severity
from limen.core.reasons import REASONS

# Records whose type has a second part, and the members that name it: the first one there does.
_SECOND: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "security": ("event",), "catalog": ("change",), "cell": ("event",), "egress": ("what",),
        "consent": ("change", "event"), "signin": ("event",), "grant": ("state",), "credential": ("outcome",),
        "key": ("change",), "reload": ("ok",), "upstream_issuer": ("accepted",), "vault": ("act",), "labels": ("act",),
        "protect": ("act",), "quarantine": ("act",), "session": ("act",), "approval": ("act",), "revocation": ("act",),
        "parameters": ("act",), "package": ("act",), "incident": ("act",), "playbook": ("act",),
        "follower": ("act",), "hold": ("act",), "prune": ("act",), "restart": ("ok",), "certificate": ("ok",),
        "config": ("change",), "risk": ("act",), "alert_suppression": ("act",), "delivery": ("act",),
    }
)  # fmt: skip
_CALLS: Final = MappingProxyType(
    {"intent": "call.intent", "outcome": "call.outcome", "local": "call.local", "refusal": "call.refused"}
)
_OF_REASON: Final[Mapping[str, Category]] = MappingProxyType(
    {"identity": "authentication", "policy": "authorization", "catalog": "authorization", "content": "content",
     "flow": "content", "credentials": "token", "incidents": "incident"}
)  # fmt: skip
_GRAVITY: Final[Mapping[str, Severity]] = MappingProxyType(
    {"info": "info", "notice": "low", "warning": "medium", "error": "high"}
)


_STATED: Final[Mapping[str, Severity]] = MappingProxyType({**_GRAVITY, **{one: one for one in SEVERITIES}})
_GRAVITY_OF: Final[Mapping[str, Severity]] = MappingProxyType(
    {id_: _GRAVITY[reason.severity.value] for id_, reason in REASONS.items()}
)


def type_of(record: Mapping[str, Any]) -> str:
    """The type of a record's event, as in the catalogue."""
    kind = _text(record, "t")
    if (call := _CALLS.get(kind)) is not None:
        return call
    for name in _SECOND.get(kind, ()):
        second = record.get(name)
        if isinstance(second, bool):
            return f"{kind}.{'ok' if second else 'failed'}"
        if isinstance(second, str) and second:
            return f"{kind}.{second.replace(' ', '_')}"
    return kind


def read_event(log: str, index: int, record: bytes) -> Event:
    """The event of one record. A record nobody knows is an event too, of category administration; nothing is dropped.

    Raises ValueError for what is no record of ours: not one JSON object.
    """
    found = orjson.loads(record)
    if not isinstance(found, dict):
        raise ValueError(f"record {index} of {log} is not an object")
    texts = {name: value for name, value in found.items() if type(value) is str}
    text = texts.get  # one look for each member, in C: every record is read here, in the thread that watches
    kind, reason = text("t", ""), text("reason", "")
    call, kind_of_event = kind in _CALLS, type_of(found)
    row = row_of(kind_of_event)
    return Event(
        log=log,
        index=index,
        at=_number(found.get("ts")) or 0.0,
        type=kind_of_event,
        category=_category(row, kind, reason),
        severity=_severity(row, found.get("severity"), reason if call else ""),
        ref=text("ref", ""),
        trace=text("trace", ""),
        issuer=text("iss") or text("issuer", ""),
        subject=text("sub") or text("subject") or text("user", ""),
        client=text("client") or text("client_id", ""),
        session=text("session", ""),
        peer=text("peer") or text("address", ""),
        agent=text("agent", ""),
        server=text("upstream") or text("server", ""),
        method=text("method", ""),
        name=text("tool") or text("name", ""),
        digest=text("digest", ""),
        args=text("args", ""),
        decision="deny" if kind == "refusal" else "allow" if call else "",
        reason=reason,
        guard=text("guard", ""),
        rules=_texts(found.get("rules")),
        policy=text("policy", ""),
        catalog=text("catalog", ""),
        risk=_number(found.get("risk")) or 0.0,
        findings=_texts(found.get("findings")),
        ms=_number(found.get("ms")),
        received=_count(found.get("in")),
        sent=_count(found.get("out")),
        detail=text("detail", ""),
        record=found,
    )


def _category(row: Row | None, kind: str, reason: str) -> Category:
    if kind == "refusal":
        return _OF_REASON.get(reason.partition(".")[0], "call")
    return row.category if row is not None else "administration"


def _severity(row: Row | None, stated: object, reason: str) -> Severity:
    """What the record states; else by its reason, of a refusal or of a call that went wrong; else what is usual."""
    if isinstance(stated, str) and (known := _STATED.get(stated)) is not None:
        return known
    if (known := _GRAVITY_OF.get(reason)) is not None:
        return known
    return row.severity if row is not None else "info"


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)
