"""From what servers were refused to the rules that would allow it: proposals, for a person to read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from limen.sandbox.egress import Denied, Egress, data_like
from limen.sandbox.egress_rules import SHARED, parse_destination

_NAMED = frozenset({"learn.wanted", "connect.port", "connect.unnamed", "connect.address"})


@dataclass(frozen=True, slots=True)
class Proposal:
    """One rule that would be needed. `to` lacks the port where it was not seen. `note`: why not to just accept it."""

    server: str
    to: str
    protocol: str  # "tls", "http", "tcp"; "" where it was not seen
    seen: int
    last: float  # seconds since the epoch
    note: str = ""

    @property
    def entry(self) -> str | dict[str, str] | None:
        """As it would stand under `security.egress`; None while the port is not known."""
        _, colon, port = self.to.rpartition(":")
        if not colon:
            return None
        usual = "http" if port == "80" else "tls"
        return self.to if self.protocol in ("", usual) else {"to": self.to, "protocol": self.protocol}


def propose(events: Iterable[Mapping[str, Any]], known: Mapping[str, Egress]) -> list[Proposal]:
    """Events of the audit, oldest first; `known`: what is configured now, so that nothing allowed is proposed again."""
    named: dict[tuple[str, str], Proposal] = {}
    asked: dict[tuple[str, str], Proposal] = {}
    for event in events:
        server, target, reason = (event.get(member) for member in ("server", "target", "reason"))
        if not (isinstance(server, str) and isinstance(target, str) and server in known):
            continue
        place = named if reason in _NAMED else asked if reason == "dns.not_allowed" else None
        if place is None:
            continue
        before, stamp = place.get((server, target)), event.get("ts")
        protocol = str(event.get("detail", "")) if reason == "learn.wanted" else ""
        place[server, target] = Proposal(
            server,
            target,
            protocol or (before.protocol if before else ""),
            1 + (before.seen if before else 0),
            float(stamp) if isinstance(stamp, int | float) else 0.0,
            _note(target, reason),
        )
    with_port = {(server, target.rpartition(":")[0]) for server, target in named}
    wanted = [one for one in named.values() if not _allowed(one, known)]
    wanted += [one for key, one in asked.items() if key not in with_port and _still_refused(one, known)]
    return sorted(wanted, key=lambda one: (one.server, bool(one.note), one.to))


def _note(target: str, reason: Any) -> str:
    name = target.rpartition(":")[0] or target
    if reason == "connect.address":
        return "not a public address"
    if reason == "connect.unnamed":
        return "an address, not a name: it may be anyone's tomorrow"
    if data_like(name):
        return "looks like data being carried out, not like a name"
    if any(name.endswith(f".{one}") for one in SHARED):
        return "anyone can have a name there: check whose it is"
    return ""


def _allowed(one: Proposal, known: Mapping[str, Egress]) -> bool:
    try:
        name, wildcard, address, port = parse_destination(one.to)
    except ValueError:
        return True  # nothing that could be written as a rule
    return wildcard or not isinstance(known[one.server].explain(name, address, port), Denied)


def _still_refused(one: Proposal, known: Mapping[str, Egress]) -> bool:
    egress = known[one.server]
    denied = egress.question(one.to, egress.memory(), 0.0)
    return denied is not None and denied.reason == "dns.not_allowed"
