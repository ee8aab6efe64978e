"""Events in the words of OpenTelemetry: the semantic conventions of MCP, of errors and of events. Pure.

A finished or refused call is one span and one measurement; every event is one log record. Tool and server names stand
in spans and logs; a measurement carries them only for calls that were let through, whose names are approved ones.
"""

from __future__ import annotations

import re
from hashlib import sha256
from types import MappingProxyType
from typing import Final, NamedTuple

from limen.audit.export import Entry
from limen.core.events import Event

_PARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")  # W3C Trace Context
SEVERITY: Final = MappingProxyType({"info": 9, "low": 10, "medium": 13, "high": 17, "critical": 21})  # SeverityNumber
ENDS: Final = frozenset({"call.outcome", "call.local", "call.refused"})
DURATION: Final = "mcp.server.operation.duration"  # seconds
BOUNDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # of the conventions
Value = str | int | float


class Trace(NamedTuple):
    """Ids as raw bytes: 16 and 8; `parent` is empty for a call that came without a trace."""

    trace: bytes
    span: bytes
    parent: bytes


def trace_of(event: Event) -> Trace:
    """The caller's trace if it is one, else one of our own. The same for every record of a call, however often sent."""
    own = sha256(f"{event.log}\0{event.ref or event.index}".encode()).digest()
    match = _PARENT.match(event.trace)
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return Trace(own[:16], own[16:24], b"")
    return Trace(bytes.fromhex(match[1]), own[16:24], bytes.fromhex(match[2]))


def failed(event: Event) -> str:
    """`error.type`: the reason of a call that did not end well, else ""."""
    return "" if event.reason in ("", "ok") else event.reason


def span_name(event: Event) -> str:
    """{mcp.method.name} {target}, the target only where a tool or prompt was let through."""
    named = event.method in ("tools/call", "prompts/get") and event.decision == "allow" and event.name
    return f"{event.method} {event.name}" if named else event.method or event.type


def span_attributes(event: Event) -> dict[str, Value]:
    """Of a span."""
    found: dict[str, Value] = {"mcp.method.name": event.method, "mcp.session.id": event.session}
    if event.method == "tools/call":
        found |= {"gen_ai.tool.name": event.name, "gen_ai.operation.name": "execute_tool"}
    elif event.method == "prompts/get":
        found["gen_ai.prompt.name"] = event.name
    elif event.method == "resources/read":
        found["mcp.resource.uri"] = event.name
    found |= {"error.type": failed(event), "client.address": event.peer, "limen.server": event.server}
    found |= {"limen.caller": event.subject, "limen.issuer": event.issuer, "limen.client": event.client}
    found |= {"limen.decision": event.decision, "limen.reference": event.ref, "limen.definition": event.digest}
    if event.risk:
        found["limen.risk"] = event.risk
    return {name: value for name, value in found.items() if value != ""}


def log_attributes(entry: Entry) -> dict[str, Value]:
    """Of a log record: what a span has, which event it is, and where its proof begins."""
    event = entry.event
    found: dict[str, Value] = span_attributes(event) if event.type.startswith("call.") else {}
    if not found:
        named = {"limen.caller": event.subject, "limen.server": event.server, "client.address": event.peer}
        found = {name: value for name, value in named.items() if value}
    proof: dict[str, Value] = {"limen.log": event.log, "limen.index": event.index, "limen.leaf": entry.leaf}
    return {**found, **proof, "limen.id": entry.id, "limen.category": event.category, "limen.checkpoint": entry.size}


def measured(event: Event) -> dict[str, Value]:
    """Of a measurement: few values each."""
    found: dict[str, Value] = {"mcp.method.name": event.method, "error.type": failed(event)}
    if event.decision == "allow" and event.digest:
        found |= {"limen.server": event.server}
        if event.method == "tools/call":
            found["gen_ai.tool.name"] = event.name
    return {name: value for name, value in found.items() if value}
