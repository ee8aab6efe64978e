"""Writes samples/logs: one file of events for each attack the Sigma rules know, and one ordinary day, as `record` and
as `ocsf`. Deterministic; run it after a change of the forms: python samples/generate.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from limen.audit.events import read_event
from limen.audit.export import Entry
from limen.audit.lines import render
from limen.audit.tree import leaf_hash

LOGS = Path(__file__).parent / "logs"
START = 1_790_000_000.0  # 2026-09-21, a Monday
FORMS = ("record", "ocsf")
Record = dict[str, Any]
ISSUER = "https://idp.example"
DIGEST = "3f" * 32


def who(name: str) -> Record:
    number = sum(name.encode()) % 200
    client, peer = f"desk-{name}", f"192.0.2.{number + 10}"
    return {"iss": ISSUER, "sub": name, "client": client, "peer": peer, "session": f"{number:016x}"}


def call(name: str, tool: str, server: str = "files", **more: Any) -> Record:
    """The outcome of a call that went well."""
    place = {"server": server, "upstream": server, "method": "tools/call", "name": tool, "tool": tool, "digest": DIGEST}
    return {"t": "outcome", **who(name), **place, "decision": "allow", "reason": "ok", "ms": 42.0, "in": 120, **more}


def refused(name: str, reason: str, tool: str = "read_file", **more: Any) -> Record:
    place = {"server": "files", "method": "tools/call", "name": tool}
    return {"t": "refusal", **who(name), **place, "decision": "deny", "reason": reason, "guard": "Authorize", **more}


def stranger(reason: str) -> Record:
    return {"t": "refusal", "peer": "203.0.113.9", "server": "files", "method": "tools/call", "name": "read_file",
            "decision": "deny", "reason": reason, "guard": "Authenticate"}  # fmt: skip


def alarm(event: str, severity: str, **more: Any) -> Record:
    return {"t": "security", "event": event, "severity": severity, **who("mallory"), **more}


def ordinary() -> Iterator[tuple[float, Record]]:
    """A day of an office: four people, two servers, a few refusals of the kind everybody causes."""
    yield 0, {"t": "start", "version": "0", "policy": "p"}
    yield (
        5,
        {"t": "catalog", "change": "approved", "server": "files", "name": "read_file", "digest": DIGEST, "by": "op"},
    )
    for hour in range(8, 18, 2):
        for place, name in enumerate(("ann", "ben", "cleo", "dan")):
            at = hour * 3600 + place * 60.0
            yield at, {"t": "authenticated", **who(name), "kind": "token"}
            for number in range(5):
                tool = ("read_file", "search", "list")[number % 3]
                yield at + 10 + number * 20, call(name, tool, "files" if number % 2 else "wiki")
        yield hour * 3600 + 400, stranger("identity.expired")
    yield 40_000, stranger("identity.invalid")
    yield 40_100, refused("ben", "policy.denied", "delete_file")
    yield 40_200, refused("ann", "policy.approval", "send_mail")
    yield 40_300, refused("ann", "catalog.unknown", "serch")
    yield 40_400, {"t": "egress", "what": "refused", "server": "wiki", "target": "updates.example", "reason": "rule"}
    yield 64_000, {"t": "follower", "act": "recovered", "name": "siem", "severity": "info"}
    yield 64_100, {"t": "contained", "id": "c0", "action": "end_session", "value": "0f", "by": "op", "reason": "leaver"}


def every(seconds: float, *records: Record) -> list[tuple[float, Record]]:
    return [(number * seconds, record) for number, record in enumerate(records)]


ATTACKS: dict[str, list[tuple[float, Record]]] = {
    "token_replay": every(
        30, call("mallory", "read_file"), alarm("token.two_networks", "error", networks=2),
        alarm("token.revoked_use", "error", count=3),
    ),
    "session_hijack": every(10, call("ann", "search"), alarm("session.hijack", "error", ended=2)),
    "proof_replay": every(5, call("ann", "search"), {**stranger("identity.proof"), "detail": "jti was used"}),
    "brute_force": every(3, *[stranger("identity.invalid")] * 25),
    "approvals_flood": every(20, *[refused("mallory", "policy.approval", "send_mail")] * 18),
    "tool_probing": every(15, *[refused("mallory", "catalog.unknown", f"admin_{number}") for number in range(14)]),
    "rug_pull": every(
        60, {"t": "catalog", "change": "changed", "server": "files", "name": "read_file", "digest": "ab" * 32},
        refused("ann", "catalog.drifted", guard="Resolve", digest="ab" * 32),
    ),
    "exfiltration_blocked": every(
        9, call("mallory", "read_file"),
        refused("mallory", "flow.blocked", "http_post", findings=["flow.labelled"], risk=0.9),
    ),
    "injection_blocked": every(
        9, refused("ann", "content.blocked", "fetch", findings=["injection.override"], risk=0.92),
        call("ann", "fetch", reason="content.filtered", findings=["injection.override"], risk=0.95),
    ),
    "egress_refused": every(
        12, *[{"t": "egress", "what": "refused", "server": "wiki", "target": "c2.example", "reason": "rule"}] * 7
    ),
    "sign_in_mix_up": every(
        40, {"t": "security", "event": "signin.mix_up", "severity": "high", "field": "iss", "address": "203.0.113.9"},
        {"t": "connect_by_another", "server": "files", "iss": ISSUER, "sub": "ann", "came_sub": "mallory"},
    ),
    "kill_switch": every(
        2, {"t": "contained", "id": "c1", "action": "stop_all", "value": "*", "by": "op", "reason": "fire"}
    ),
    "follower_dead": every(
        2, {"t": "follower", "act": "behind", "name": "siem", "records": 120_000, "severity": "high", "refusing": True}
    ),
    "log_recovered": every(2, {"t": "recovered", "detail": "the log was cut to its last whole record"}),
}  # fmt: skip


def entries(scene: list[tuple[float, Record]]) -> list[Entry]:
    found = []
    for index, (at, record) in enumerate(sorted(scene, key=lambda one: one[0])):
        raw = orjson.dumps({**record, "ts": START + at, "ref": f"ref-{index}"})
        found.append(Entry(read_event("limen", index, raw), raw, leaf_hash(raw).hex(), len(scene)))
    return found


def files() -> dict[str, bytes]:
    """Every file's name and content."""
    scenes = {**ATTACKS, "clean": list(ordinary())}
    return {
        f"{name}.{form}.jsonl": b"".join(render(form, entry) + b"\n" for entry in entries(scene))
        for name, scene in scenes.items()
        for form in FORMS
    }


def main() -> None:
    LOGS.mkdir(exist_ok=True)
    for name, data in files().items():
        (LOGS / name).write_bytes(data)
    sys.stderr.write(f"{len(files())} files in {LOGS}\n")


if __name__ == "__main__":
    main()
