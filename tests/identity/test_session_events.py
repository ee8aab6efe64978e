"""I1: handshake-era sessions leave a record when they begin, end and go on elsewhere, with why, under their digest."""

from __future__ import annotations

import time
from typing import Any

import pytest

from contracts.memory import MemoryTable
from limen.core.call import Caller
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.identity.revoked import session_digest
from limen.identity.session_risk import RiskSettings, Seen, begin
from limen.identity.sessions import Sessions, SessionSettings
from minting import Clock

ANN = Caller("https://id.example", "ann", "desk", frozenset({"read"}))


class Process:
    """One replica, and what it tells the log."""

    def __init__(self, table: Table, clock: Clock, **settings: Any) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.sessions = Sessions(table, SessionSettings(**settings), clock)
        self.sessions.tell = lambda act, members: self.told.append((act, members))
        self.clock = clock

    def open(self, caller: Caller = ANN) -> str:
        trail = begin(Seen("192.0.2.1", "Desk/1.0", "t"), RiskSettings(), time.time())
        return self.sessions.open(caller, "hr", "2025-11-25", {}, "desk app", trail, ref="ref-1")

    def find(self, session: str, caller: Caller = ANN) -> bool:
        return self.sessions.find(session, caller, "hr") is not None

    @property
    def ended(self) -> list[str]:
        return [members["why"] for act, members in self.told if act == "ended"]


@pytest.fixture
def here() -> Process:
    return Process(MemoryTable(), Clock())


def test_I1_a_session_begins_with_who_and_ends_with_why(here: Process) -> None:
    session = here.open()
    held = here.sessions.find(session, ANN, "hr")
    assert held is not None
    here.sessions.end(held.key)
    here.sessions.end(held.key)  # once more: nothing happened
    (begun, first), (ended, last) = here.told
    assert (begun, ended, last["why"]) == ("begun", "ended", "ended by its client")
    assert first["session"] == last["session"] == session_digest(held.key)
    assert (first["sub"], first["ref"], first["agent"]) == ("ann", "ref-1", "desk app")
    assert session not in str(here.told), "the id a client holds is a secret of that client"


@pytest.mark.parametrize(("settings", "later", "why"), [
    ({"idle": 10.0, "absolute": 100.0}, 11, "unused for long"),
    ({"idle": 10.0, "absolute": 10.0}, 11, "its time was up"),
])  # fmt: skip
def test_I1_expiry_is_told_apart(settings: dict[str, Any], later: float, why: str) -> None:
    here = Process(MemoryTable(), Clock(), **settings)
    session = here.open()
    here.clock.now += later
    assert not here.find(session)
    assert here.ended == [why]


def test_I1_ends_that_are_somebodys_doing_say_so(here: Process) -> None:
    first = here.open()
    assert not here.find(first, Caller("https://id.example", "ann", "desk", frozenset({"read", "write"})))
    here.open()
    assert here.sessions.end_all(ANN.key, "somebody else may have it") == 1
    here.sessions.settings = SessionSettings(per_caller=1)
    here.open()
    here.open()
    assert here.ended == ["its caller's rights changed", "somebody else may have it", "too many of this caller"]


def test_I1_another_process_says_that_it_goes_on_and_that_it_is_over() -> None:
    """Twice at most: where it was ended, and where it was still known."""
    table, clock = MemoryTable(), Clock()
    one, two = Process(table, clock), Process(table, clock)
    session = one.open()
    assert two.find(session)
    assert two.find(session)
    held = one.sessions.find(session, ANN, "hr")
    assert held is not None
    one.sessions.end(held.key)
    clock.now += 2
    assert not two.find(session)
    assert [act for act, _ in two.told] == ["resumed", "ended"]
    assert (one.ended, two.ended) == (["ended by its client"], ["ended elsewhere"])


def test_I1_a_session_that_cannot_be_recorded_does_not_begin(here: Process) -> None:
    def broken(act: str, members: dict[str, Any]) -> None:
        raise DependencyFault("audit", "disk full")

    here.sessions.tell = broken
    with pytest.raises(DependencyFault):
        here.open()
    assert len(here.sessions) == 0


def test_I1_a_guess_is_no_event(here: Process) -> None:
    """Whoever tries ids that never were cannot fill the log with sessions."""
    assert not here.find("mcp_" + "A" * 43)
    assert here.told == []
