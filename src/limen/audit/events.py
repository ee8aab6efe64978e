"""The catalogue of events: what each record of the log is called, to which category it belongs, how grave it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, get_args

import orjson

from limen.core.events import SEVERITIES, Category, Event, Severity
from limen.core.reasons import REASONS

# Records whose type has a second part, and the member that names it.
_SECOND: Final = MappingProxyType(
    {
        "security": "event", "catalog": "change", "cell": "event", "egress": "what", "consent": "event",
        "grant": "state", "vault": "act", "labels": "act", "protect": "act", "quarantine": "act", "incident": "act",
        "follower": "act",
    }
)  # fmt: skip
_CALLS: Final = MappingProxyType(
    {"intent": "call.intent", "outcome": "call.outcome", "local": "call.local", "refusal": "call.refused"}
)
_CATEGORIES: Final[Mapping[str, Category]] = MappingProxyType(
    {
        "catalog": "catalog", "finding": "catalog", "unreachable": "catalog", "reachable": "catalog", "lock": "catalog",
        "cell": "sandbox", "egress": "sandbox", "consent": "consent", "connected": "consent",
        "disconnected": "consent", "grant": "token", "exchange": "token", "credential": "token", "session": "session",
        "authenticated": "authentication", "signal": "incident", "alert": "incident", "contained": "incident",
        "released": "incident", "incident": "incident", "playbook": "incident", "revoked": "incident",
        "unrevoked": "incident", "quarantine": "content",
    }
)  # fmt: skip
_OF_REASON: Final[Mapping[str, Category]] = MappingProxyType(
    {"identity": "authentication", "policy": "authorization", "catalog": "authorization", "content": "content",
     "flow": "content", "incidents": "incident"}
)  # fmt: skip
_GRAVITY: Final[Mapping[str, Severity]] = MappingProxyType(
    {"info": "info", "notice": "low", "warning": "medium", "error": "high"}
)


def read_event(log: str, index: int, record: bytes) -> Event:
    """The event of one record. A record nobody knows is an event too, of category administration; nothing is dropped.

    Raises ValueError for what is no record of ours: not one JSON object.
    """
    found = orjson.loads(record)
    if not isinstance(found, dict):
        raise ValueError(f"record {index} of {log} is not an object")
    kind = _text(found, "t")
    reason = _text(found, "reason") if kind in _CALLS else ""
    call = kind in _CALLS
    return Event(
        log=log,
        index=index,
        at=_number(found.get("ts")) or 0.0,
        type=_CALLS.get(kind) or (f"{kind}.{found[_SECOND[kind]]}" if found.get(_SECOND.get(kind, "")) else kind),
        category=_category(kind, reason),
        severity=_severity(found, reason),
        ref=_text(found, "ref"),
        trace=_text(found, "trace"),
        issuer=_text(found, "iss") or _text(found, "issuer"),
        subject=_text(found, "sub") or _text(found, "subject"),
        client=_text(found, "client"),
        session=_text(found, "session"),
        peer=_text(found, "peer"),
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


def _category(kind: str, reason: str) -> Category:
    if kind in _CALLS:
        return _OF_REASON.get(reason.partition(".")[0], "call") if kind == "refusal" else "call"
    return _CATEGORIES.get(kind.partition(".")[0], "administration")


def _severity(found: Mapping[str, Any], reason: str) -> Severity:
    stated = found.get("severity")
    if stated in SEVERITIES:
        return stated  # type: ignore[no-any-return]
    if reason in REASONS and found.get("t") == "refusal":
        return _GRAVITY[REASONS[reason].severity.value]
    return _GRAVITY.get(str(stated), "info")


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
