"""Hands for tests that work alone, and a small world of playbooks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import orjson

from contracts.memory import MemoryTable
from limen.audit.events import read_event
from limen.config.playbooks import read_playbook
from limen.core.events import Event
from limen.incidents.actions import ACTIONS, Action, Applied
from limen.incidents.approved import HEADER, Approvals
from limen.incidents.incident import Incidents
from limen.incidents.playbooks import Loaded, digest_of
from limen.incidents.response_settings import ResponseSettings
from limen.incidents.runs import Playbooks


class NotedHands:
    """Keeps what is in force in memory. `down`: raises that instead."""

    def __init__(self) -> None:
        self.held: dict[str, Applied] = {}
        self.applied: list[Action] = []
        self.down: Exception | None = None

    def apply(self, action: Action, *, by: str, reason: str, incident: str = "") -> Applied:
        if self.down is not None:
            raise self.down
        if action.kind not in ACTIONS or not action.value:
            raise ValueError("means nothing")
        self.applied.append(action)
        identifier = sha256(f"{action.kind}/{action.issuer}/{action.value}".encode()).hexdigest()[:16]
        self.held[identifier] = Applied(identifier, action, by, reason, 0.0, incident)
        return self.held[identifier]

    def release(self, identifier: str, *, by: str, reason: str) -> Applied:
        if identifier not in self.held:
            raise LookupError(identifier)
        return self.held.pop(identifier)

    def in_force(self) -> list[Applied]:
        return list(self.held.values())


class World:
    """One gateway's playbooks over tables of its own (or shared ones)."""

    def __init__(
        self, *texts: str, approve: Sequence[str] = ("ann",), table: Any = None, hands: Any = None, **settings: Any
    ) -> None:
        self.table = MemoryTable() if table is None else table
        self.hands = NotedHands() if hands is None else hands
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.settings = ResponseSettings(**settings)
        self.texts = [text.encode() for text in texts]
        self.events: dict[str, Event] = {}
        self.numbers = itertools.count()
        self.approvals = Approvals(
            self.table, _opened, self.settings.approvers, lambda text: b"signed:" + text.encode()
        )
        for loaded in self.load():
            for who in approve:
                assert loaded.playbook is not None
                self.approvals.approve(loaded.playbook.playbook, loaded.digest, by=who, reason="", at=1.0)
        self.incidents = Incidents(self.table, self.record)
        self.playbooks = Playbooks(
            self.hands, self.incidents, self.table, self.approvals, self.settings, self.load, self.record,
            self.events.get,
        )  # fmt: skip

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        self.records.append((event, dict(fields)))

    def load(self) -> list[Loaded]:
        return [
            Loaded(f"{n}.yaml", digest_of(text), read_playbook(text, "x.yaml")) for n, text in enumerate(self.texts)
        ]

    def see(self, record: dict[str, Any], at: float = 1000.0, log: str = "limen") -> Event:
        """One record happens."""
        event = read_event(log, next(self.numbers), orjson.dumps({"ts": at, **record}))
        self.events[event.id] = event
        self.playbooks.see(event)
        return event

    def told(self, kind: str, act: str = "") -> list[dict[str, Any]]:
        return [fields for event, fields in self.records if event == kind and act in ("", fields.get("act"))]


def _opened(note: bytes) -> str:
    if not note.startswith(b"signed:" + HEADER.encode()):
        raise ValueError("not signed by our key")
    return note.removeprefix(b"signed:").decode()


def refusal(sub: str = "mallory", **more: Any) -> dict[str, Any]:
    """A refused call of a proven caller."""
    return {
        "t": "refusal", "iss": "https://idp", "sub": sub, "client": "app", "token": f"t-{sub}", "session": f"s-{sub}",
        "server": "files", "method": "tools/call", "name": "read", "reason": "content.arguments", "risk": 0.9,
        "ref": "r1", **more,
    }  # fmt: skip


def intent(sub: str, **more: Any) -> dict[str, Any]:
    """An allowed call."""
    return {**refusal(sub), "t": "intent", "reason": "", "risk": 0.0, "decision": "allow", **more}
