"""Runs of playbooks, as they are kept: one record each, shared by replicas, kept for 90 days."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, get_args

import orjson

from limen.core.faults import DependencyFault
from limen.core.ports import Table

State = Literal["running", "waits", "agreed", "refused", "expired", "done", "limited", "undo", "undone"]
STATES: Final[tuple[State, ...]] = get_args(State)
_ROW, _KEPT = "run/", 90 * 86_400.0


@dataclass(frozen=True, slots=True)
class Run:
    """One playbook, triggered by one event. `steps`: what each came to; `applied`: ids of containments it made."""

    id: str
    playbook: str
    digest: str
    event: str
    at: float
    state: State
    about: dict[str, str]
    since: float = 0.0  # when it came to this state
    by: str = ""
    reason: str = ""
    incident: str = ""
    applied: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()

    def shown(self) -> dict[str, Any]:
        """For people and programs."""
        return asdict(self)


class Runs:
    """The shared records of runs. Methods raise DependencyFault; those that name a run LookupError."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def get(self, identifier: str) -> Run:
        """One run."""
        raw = self._table.get(_ROW + identifier)
        if raw is None:
            raise LookupError(f"no run {identifier}")
        return _read(raw)

    def all(self) -> list[Run]:
        """Newest first."""
        return sorted((_read(raw) for _, raw in self._table.scan(_ROW)), key=lambda one: (-one.at, one.id))

    def begin(self, run: Run) -> Run:
        """This run, or the one there is."""
        if self._table.swap(_ROW + run.id, None, _raw(run), time.time() + _KEPT):
            return run
        return self.get(run.id)

    def move(self, run: Run, **changes: Any) -> Run | None:
        """Change it if it is still as it was; None: somebody else was first."""
        after = replace(run, **changes)
        return after if self._table.swap(_ROW + run.id, _raw(run), _raw(after), time.time() + _KEPT) else None

    def decide(
        self, identifier: str, state: Literal["agreed", "refused", "undo"], by: str, why: str, now: float
    ) -> Run:
        """A person's word about a run that waits (agreed, refused) or is done (undo). Raises ValueError."""
        run = self.get(identifier)
        if run.state != ("done" if state == "undo" else "waits"):
            raise ValueError(f"run {identifier} is {run.state}")
        if (made := self.move(run, state=state, by=by, reason=why, since=now)) is None:
            raise ValueError(f"run {identifier} changed meanwhile: look again")
        return made


def _raw(run: Run) -> bytes:
    return orjson.dumps(asdict(run))


def _read(raw: bytes) -> Run:
    try:
        found = orjson.loads(raw)
        run = Run(**{**found, "applied": tuple(found["applied"]), "steps": tuple(found["steps"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DependencyFault("incidents", f"a run cannot be read: {error}", retryable=False) from None
    if run.state not in STATES:
        raise DependencyFault("incidents", f"run {run.id} has a state nobody knows", retryable=False)
    return run
