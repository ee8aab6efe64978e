"""The catalogue of events: what each record of the log is called, to which category it belongs, how grave it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
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
    texts: Iterable[Any] = tuple(map(found.get, _TEXTS, _NOTHING))
    if set(map(type, texts)) != _ALL_TEXT:
        texts = [value if type(value) is str else "" for value in texts]
    (kind, reason, ref, trace, iss, issuer, sub, subject, user, client, client_id, session, peer, address, agent,
     upstream, server, method, tool, name, digest, args, guard, policy, catalog, detail) = texts  # fmt: skip
    call, type_ = kind in _CALLS, type_of(found)
    category, severity = _graded(type_, kind, reason if call else "")
    if "severity" in found:
        severity = _STATED.get(_text(found, "severity"), severity)
    # In the order of the fields: with their names it takes three times as long.
    return Event(
        log, index, _number(found.get("ts")) or 0.0, type_, category, severity, ref, trace, iss or issuer,
        sub or subject or user, client or client_id, session, peer or address, agent, upstream or server, method,
        tool or name, digest, args, "deny" if kind == "refusal" else "allow" if call else "", reason, guard,
        _texts(found.get("rules")), policy, catalog, _number(found.get("risk")) or 0.0, _texts(found.get("findings")),
        _number(found.get("ms")), _count(found.get("in")), _count(found.get("out")), detail, found,
    )  # fmt: skip


# The members of a record that are texts of its event. Every record is read in the thread that watches: all of them are
# looked up in one go.
_TEXTS: Final = (
    "t", "reason", "ref", "trace", "iss", "issuer", "sub", "subject", "user", "client", "client_id", "session", "peer",
    "address", "agent", "upstream", "server", "method", "tool", "name", "digest", "args", "guard", "policy", "catalog",
    "detail",
)  # fmt: skip
_NOTHING: Final = ("",) * len(_TEXTS)
_ALL_TEXT: Final = {str}


@lru_cache(maxsize=2048)  # the second part of a type is data
def _graded(type_: str, kind: str, reason: str) -> tuple[Category, Severity]:
    """What a record of this type is, and how grave, where it does not state that itself. `reason`: of a call."""
    row = row_of(type_)
    return _category(row, kind, reason), _severity(row, reason)


def _category(row: Row | None, kind: str, reason: str) -> Category:
    if kind == "refusal":
        return _OF_REASON.get(reason.partition(".")[0], "call")
    return row.category if row is not None else "administration"


def _severity(row: Row | None, reason: str) -> Severity:
    """By its reason, of a refusal or of a call that went wrong; else what is usual."""
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
