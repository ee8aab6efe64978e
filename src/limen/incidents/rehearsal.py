"""A playbook tried on what has happened: the same code that carries it out, with hands that only count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from limen.core.events import Event
from limen.incidents.actions import Action, Applied
from limen.incidents.approved import Approvals
from limen.incidents.incident import Incidents
from limen.incidents.playbooks import Loaded, Playbook
from limen.incidents.ran import Runs
from limen.incidents.response_settings import ResponseSettings
from limen.incidents.runs import Playbooks

_SHOWN, _REMEMBERED = 20, 200_000


def rehearse(playbook: Playbook, digest: str, events: Iterable[Event], settings: ResponseSettings) -> dict[str, Any]:
    """What it would have done: how often, on whom, and what limits and protection would have kept from it. `approval`
    counts as given."""
    table, hands, told = _Memory(), _Counting(), list[Mapping[str, Any]]()
    tried = playbook.model_copy(update={"approval": "none"})
    loaded = [Loaded("tried", digest, tried)]

    def record(event: str, fields: Mapping[str, Any]) -> None:
        if event in ("playbook", "alert"):
            told.append({**fields, "t": event})

    seen: dict[str, Event] = {}
    works = Playbooks(
        hands, Incidents(table, record), table, _Given(table), settings, lambda: loaded, record, seen.get
    )  # fmt: skip
    count, first, last = 0, 0.0, 0.0
    for event in events:
        count, first, last = count + 1, first or event.at, event.at
        seen[event.id] = event
        if len(seen) > _REMEMBERED:
            del seen[next(iter(seen))]
        hands.now = event.at
        works.see(event)
    runs = Runs(table).all()[::-1]
    fired = [one for one in runs if one.state == "done"]
    return {
        "playbook": playbook.playbook,
        "digest": digest,
        "events": count,
        "since": first,
        "until": last,
        "fired": len(fired),
        "limited": sum(one.state == "limited" for one in runs),
        "protected": sum("is protected" in step for one in runs for step in one.steps),
        "nobody_meant": sum("nobody was proven" in step for one in runs for step in one.steps),
        "alerts": sum(one["t"] == "alert" for one in told),
        "on": _most(
            one.about.get("subject") or one.about.get("tool") or one.about.get("server") or "" for one in fired
        ),
        "actions": _most(step.partition(":")[0] for one in fired for step in one.steps),
        "runs": [
            {"at": one.at, "event": one.event, "on": one.about, "steps": list(one.steps)} for one in runs[:_SHOWN]
        ],
    }


def _most(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:100])


class _Given(Approvals):
    """Approved, for the sake of trying."""

    def __init__(self, table: _Memory) -> None:
        super().__init__(table, lambda note: "")

    def in_force(self, playbook: str, digest: str) -> bool:
        return True


class _Memory:
    """A table of this process alone. Nothing expires: a rehearsal is short."""

    def __init__(self) -> None:
        self._rows: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self._rows.get(key)

    def put(self, key: str, value: bytes, expires: float | None = None) -> None:
        self._rows[key] = value

    def swap(self, key: str, old: bytes | None, new: bytes | None, expires: float | None = None) -> bool:
        if self._rows.get(key) != old:
            return False
        if new is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = new
        return True

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        yield from sorted((key, value) for key, value in self._rows.items() if key.startswith(prefix))


class _Counting:
    """Hands that do nothing, and forget an action when its time is over."""

    def __init__(self) -> None:
        self.now = 0.0
        self._applied: dict[str, Applied] = {}

    def apply(self, action: Action, *, by: str, reason: str, incident: str = "") -> Applied:
        identifier = sha256(f"{action.kind}\n{action.issuer}\n{action.value}".encode()).hexdigest()[:16]
        self._applied[identifier] = Applied(identifier, action, by, reason, self.now, incident)
        return self._applied[identifier]

    def release(self, identifier: str, *, by: str, reason: str) -> Applied:
        return self._applied.pop(identifier)

    def in_force(self) -> list[Applied]:
        held = [one for one in self._applied.values() if one.action.until is None or one.action.until > self.now]
        return sorted(held, key=lambda one: one.at)
