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
    kind = _text(found, "t")
    reason = _text(found, "reason") if kind in _CALLS else ""
    call, type = kind in _CALLS, type_of(found)
    row = row_of(type)
    return Event(
        log=log,
        index=index,
        at=_number(found.get("ts")) or 0.0,
        type=type,
        category=_category(row, kind, reason),
        severity=_severity(row, found, reason),
        ref=_text(found, "ref"),
        trace=_text(found, "trace"),
        issuer=_text(found, "iss") or _text(found, "issuer"),
        subject=_text(found, "sub") or _text(found, "subject") or _text(found, "user"),
        client=_text(found, "client") or _text(found, "client_id"),
        session=_text(found, "session"),
        peer=_text(found, "peer") or _text(found, "address"),
        agent=_text(found, "agent"),
        server=_text(found, "upstream") or _text(found, "server"),
        method=_text(found, "method"),
        name=_text(found, "tool") or _text(found, "name"),
        digest=_text(found, "digest"),
        args=_text(found, "args"),
        decision="deny" if kind == "refusal" else "allow" if call else "",
        reason=reason or _text(found, "reason"),
        guard=_text(found, "guard"),
        rules=_texts(found.get("rules")),
        policy=_text(found, "policy"),
        catalog=_text(found, "catalog"),
        risk=_number(found.get("risk")) or 0.0,
        findings=_texts(found.get("findings")),
        ms=_number(found.get("ms")),
        received=_count(found.get("in")),
        sent=_count(found.get("out")),
        detail=_text(found, "detail"),
        record=found,
    )


def _category(row: Row | None, kind: str, reason: str) -> Category:
    if kind == "refusal":
        return _OF_REASON.get(reason.partition(".")[0], "call")
    return row.category if row is not None else "administration"


def _severity(row: Row | None, found: Mapping[str, Any], reason: str) -> Severity:
    stated = found.get("severity")
    if stated in SEVERITIES:
        return stated  # type: ignore[no-any-return]
    if str(stated) in _GRAVITY:
        return _GRAVITY[str(stated)]
    if reason in REASONS:  # of a refusal, or of a call that went wrong
        return _GRAVITY[REASONS[reason].severity.value]
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
