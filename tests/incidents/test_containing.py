"""The hands (J1, J2): every action and its inverse, once however often, by one person or two, in an order that never
leaves less in force than the log says."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from limen.config.load import load_config
from limen.containing import PENDING, Containing, covered
from limen.core.call import Caller
from limen.core.copied import RECORD
from limen.core.faults import DependencyFault
from limen.identity.revoked import Revocation, Revocations, find, revocations, revoke, undo
from limen.incidents.actions import ACTIONS, Action, Hands
from limen.incidents.contain import HERE, Containments
from limen.incidents.settings import IncidentSettings
from limen.storage import State

SERVERS = {
    "mail": {"url": "http://127.0.0.1:9/mcp"},
    "files": {"command": "/bin/true"},
    "bare": {"command": "/bin/true", "security": {"unsafe_no_sandbox": True}},
}
VALUES = {
    "end_session": "0a1b2c3d4e5f6071",
    "lock_caller": "alice",
    "block_client": "app",
    "revoke_token": "t-1",
    "quarantine_tool": "mail/send",
    "quarantine_server": "mail",
    "cut_egress": "files",
    "read_only": "*",
    "stop_all": "*",
}


class World:
    def __init__(self, directory: Path, **incidents: Any) -> None:
        path = directory / "limen.yaml"
        path.write_text(json.dumps({"mcpServers": SERVERS, "incidents": incidents}))
        path.chmod(0o600)
        self.config = load_config(path).config
        self.state = State.open(self.config)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.clock = time.time()
        self.fails = False
        self.hands = Containing(self.config, self.state, self.record, lambda: self.clock)

    def record(self, event: str, fields: Any) -> None:
        if self.fails:
            raise DependencyFault("audit", "disk full")
        with suppress(DependencyFault):  # one that cannot be read
            self.events.append((event, {**fields, "stood": len(self.hands.in_force())}))

    def apply(self, kind: str, value: str = "", by: str = "ann", **more: Any) -> Any:
        action = Action(kind, value or VALUES.get(kind, ""), **more)
        return self.hands.apply(action, by=by, reason="odd calls", incident="i-1")

    @property
    def here(self) -> set[tuple[str, str]]:
        """As every replica reads it."""
        known = Containments(self.state.contained)
        known.refresh()
        return set(known._found)

    @property
    def welcome(self) -> bool:
        known = Revocations(self.state.revocations)
        known.refresh()
        return known.find(Caller("https://id.example", "alice", "app", token_id="t-1"), None) is None


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_every_action_has_hands(world: World) -> None:
    hands: Hands = world.hands
    assert set(VALUES) | {"revoke_grants"} == set(ACTIONS)
    assert hands.in_force() == []


@pytest.mark.parametrize("kind", VALUES)
def test_each_action_is_in_force_once_and_its_release_restores(world: World, kind: str) -> None:
    applied = world.apply(kind)
    assert (applied.action.kind, applied.by, applied.reason, applied.incident) == (kind, "ann", "odd calls", "i-1")
    assert world.apply(kind, by="bob").id == applied.id
    assert [one.id for one in world.hands.in_force()] == [applied.id]
    assert (world.here == {(kind, VALUES[kind])}) is (kind in HERE)
    assert world.welcome is (kind in HERE)
    released = world.hands.release(applied.id, by="ann", reason="false alarm")
    assert not released.waits
    assert world.here == set()
    assert world.welcome
    assert world.hands.in_force() == revocations(world.state.revocations) == []
    with pytest.raises(LookupError):
        world.hands.release(applied.id, by="ann", reason="again")
    told = [(event, one["id"], one["by"], one["reason"], one["waits"]) for event, one in world.events]
    assert told == [
        ("contained", applied.id, "ann", "odd calls", False),
        ("released", applied.id, "ann", "false alarm", False),
    ]
    assert {"action", "value", "issuer", "incident", "until"} <= world.events[0][1].keys()


@pytest.mark.parametrize(
    ("kind", "value", "more"),
    [
        ("nothing", "x", {}),
        ("stop_all", "mail", {}),
        ("quarantine_server", "mial", {}),
        ("quarantine_tool", "send", {}),
        ("quarantine_tool", "mail/", {}),
        ("quarantine_tool", "mial/send", {}),
        ("read_only", "mial", {}),
        ("cut_egress", "bare", {}),
        ("cut_egress", "*", {}),
        ("lock_caller", "x" * 256, {}),
        ("lock_caller", "a\nb", {}),
        ("stop_all", "*", {"until": 1.0}),
        ("revoke_grants", "alice", {"until": 9e9}),
        ("read_only", "mail", {"issuer": "i"}),
    ],
)
def test_what_would_contain_nothing_is_refused(world: World, kind: str, value: str, more: Any) -> None:
    with pytest.raises(ValueError):
        world.apply(kind, value, **more)
    assert world.hands.in_force() == world.events == []


def test_who_and_why_are_needed(world: World) -> None:
    for by, reason in (("", "x"), ("ann", " ")):
        with pytest.raises(ValueError):
            world.hands.apply(Action("stop_all", "*"), by=by, reason=reason)
    applied = world.apply("stop_all")
    with pytest.raises(ValueError):
        world.hands.release(applied.id, by="ann", reason="")


def test_it_contains_before_it_is_recorded_and_is_recorded_before_it_is_released(world: World) -> None:
    """Kill -9 or a full disk at any point: never less in force than the log says."""
    applied = world.apply("stop_all")
    world.hands.release(applied.id, by="ann", reason="over")
    assert [(event, one["stood"]) for event, one in world.events] == [("contained", 1), ("released", 1)]
    world.fails = True
    with pytest.raises(DependencyFault):
        world.apply("stop_all")
    assert world.here == {("stop_all", "*")}  # the operator hears of it, and it holds
    with pytest.raises(DependencyFault):
        world.hands.release(applied.id, by="ann", reason="over")
    assert world.here == {("stop_all", "*")}


def test_the_longer_of_two_stands(world: World) -> None:
    """A playbook that locks for a quarter of an hour does not shorten what an operator locked for good."""
    now = world.clock
    for kind in ("lock_caller", "quarantine_server"):
        short = world.apply(kind, until=now + 900)
        assert world.apply(kind, until=now + 300).action.until == now + 900
        assert world.apply(kind, until=now + 1800).action.until == now + 1800
        assert world.apply(kind).action.until is None
        assert world.apply(kind, until=now + 60).action.until is None
        assert [one.action.until for one in world.hands.in_force() if one.id == short.id] == [None]
    found = find(world.state.revocations, "user", "", "alice")
    assert found is not None
    assert found.until is None


def test_what_was_revoked_before_is_revoked_afterwards(world: World) -> None:
    """Release restores exactly: the operator's own revocation comes back, with its own end."""
    until = world.clock + 5000
    before = revoke(world.state.revocations, Revocation("user", "alice", "", "left", "ops", world.clock, until))
    applied = world.apply("lock_caller")
    world.apply("lock_caller", by="bob")
    world.hands.release(applied.id, by="ann", reason="false alarm")
    assert revocations(world.state.revocations) == [before]


def test_what_was_undone_behind_its_back_is_not_said_to_be_in_force(world: World) -> None:
    applied = world.apply("lock_caller")
    undo(world.state.revocations, revocations(world.state.revocations)[0].id)
    assert world.hands.in_force() == []
    assert world.apply("lock_caller").id == applied.id
    assert not world.welcome


def test_it_ends_by_itself(world: World) -> None:
    world.apply("lock_caller", until=time.time() + 0.3)
    world.apply("quarantine_server", until=time.time() + 0.3)
    assert len(world.hands.in_force()) == 2
    time.sleep(0.35)
    assert world.hands.in_force() == []
    assert world.welcome
    assert world.here == set()


# two people


def test_two_people_release_and_nobody_alone(tmp_path: Path) -> None:
    world = World(tmp_path, release_approvers=2)
    for kind in ("lock_caller", "quarantine_server"):
        applied = world.apply(kind)
        assert not applied.waits
        for by in ("ann", "Ann ", "ann"):
            assert world.hands.release(applied.id, by=by, reason="seems fine").waits
        assert applied.id in {one.id for one in world.hands.in_force()}
        done = world.hands.release(applied.id, by="bob", reason="agreed")
        assert not done.waits
        assert world.hands.in_force() == []
        people = [(one["by"], one["waits"]) for event, one in world.events if event == "released"]
        assert people[-2:] == [("ann", True), ("ann and bob", False)]
    assert world.welcome


def test_half_a_release_is_good_for_a_day(tmp_path: Path) -> None:
    world = World(tmp_path, release_approvers=2)
    applied = world.apply("read_only")
    world.hands.release(applied.id, by="ann", reason="x")
    world.clock += PENDING + 1
    assert world.hands.release(applied.id, by="bob", reason="x").waits
    assert not world.hands.release(applied.id, by="ann", reason="x").waits


def test_applying_it_anew_takes_half_a_release_back(tmp_path: Path) -> None:
    """Whoever contains again for longer, after it was asked for, has not agreed."""
    world = World(tmp_path, release_approvers=2)
    applied = world.apply("read_only", until=world.clock + 600)
    world.hands.release(applied.id, by="ann", reason="x")
    world.apply("read_only", by="cid")
    assert world.hands.release(applied.id, by="bob", reason="x").waits


def test_breaking_the_glass_is_possible_and_loud(tmp_path: Path) -> None:
    world = World(tmp_path, release_approvers=2)
    applied = world.apply("stop_all")
    world.hands.release(applied.id, by="ann", reason="nobody else awake", break_glass=True)
    assert world.here == set()
    assert (world.events[-1][1]["break_glass"], world.events[-1][1]["severity"]) == (True, "critical")


def test_two_people_apply_what_stops_everybody(tmp_path: Path) -> None:
    world = World(tmp_path, apply_approvers=2)
    assert not world.apply("lock_caller").waits  # not one of those
    waiting = world.apply("stop_all")
    assert waiting.waits
    assert world.apply("stop_all").waits  # the same person again
    assert world.here == set()
    assert [one.waits for one in world.hands.in_force() if one.id == waiting.id] == [True]
    done = world.apply("stop_all", by="bob")
    assert (done.waits, done.by) == (False, "ann and bob")
    assert world.here == {("stop_all", "*")}
    assert not world.apply("stop_all", by="cid").waits  # it is in force
    assert [one.waits for one in world.hands.in_force() if one.id == waiting.id] == [False]


def test_who_asked_can_take_it_back_before_anybody_agrees(tmp_path: Path) -> None:
    world = World(tmp_path, apply_approvers=2, release_approvers=2)
    waiting = world.apply("stop_all")
    assert not world.hands.release(waiting.id, by="ann", reason="no").waits
    assert world.apply("stop_all", by="bob").waits


def test_each_kind_can_have_its_own_number() -> None:
    settings = IncidentSettings.model_validate(
        {"release_approvers": 2, "actions": {"lock_caller": {"release": 1}, "cut_egress": {"apply": 2}}}
    )
    assert [settings.to_release(kind) for kind in ("lock_caller", "cut_egress", "stop_all")] == [1, 2, 2]
    assert [settings.to_apply(kind) for kind in ("lock_caller", "cut_egress", "stop_all")] == [1, 2, 1]
    for wrong in ({"actions": {"unknown": {}}}, {"release_approvers": 3}, {"actions": {"stop_all": {"aply": 2}}}):
        with pytest.raises(ValueError):
            IncidentSettings.model_validate(wrong)


def test_a_revocation_that_contains_is_not_undone_by_the_other_command(world: World) -> None:
    applied = world.apply("lock_caller")
    standing = revocations(world.state.revocations)[0]
    assert covered(world.state, standing) == applied.id
    assert covered(world.state, Revocation("user", "bob")) == ""


def test_a_damaged_record_is_contained_again_or_broken_out_of(world: World) -> None:
    applied = world.apply("stop_all")
    world.state.contained.put(RECORD + applied.id, b"{}")
    with pytest.raises(DependencyFault):
        world.hands.release(applied.id, by="ann", reason="x")
    world.hands.release(applied.id, by="ann", reason="x", break_glass=True)
    assert world.here == set()
    world.apply("stop_all")
    world.state.contained.put(RECORD + applied.id, b"{}")
    assert world.apply("stop_all").id == applied.id
    assert world.here == {("stop_all", "*")}
