"""Means of defence in the hands of the other side: counts that others fill, one person who is two, records that say
more than is so. Each with its honest twin."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from incidents.stand_ins import World, intent, refusal
from incidents.test_containing import World as Hall
from limen.config.playbooks import playbook_text, read_playbook, shipped
from limen.core.call import Approved, Caller
from limen.core.faults import ConfigFault, DependencyFault
from limen.core.people import two_people
from limen.identity.revoked import Revocation, Revocations, find, revocations, revoke
from limen.incidents.actions import Action, Applied
from limen.incidents.contain import Containments
from limen.incidents.incident import IncidentWatch, read_subject
from limen.incidents.playbooks import digest_of
from limen.incidents.ran import Runs
from limen.incidents.rules import plain

LOCK = """
playbook: lock
title: Lock whoever attacks
on: {event: [call.refused], risk: 0.8}
when: [{not_already: lock_caller}]
then:
  - {do: lock_caller, for: 600}
limits: {per_hour: 100, share: 1.0}
"""


# counts


@pytest.mark.parametrize("same", ["peer", "server", "name", "digest", "client"])
def test_who_comes_last_does_not_answer_for_what_others_did(same: str) -> None:
    """Behind one address, or with one tool, an attacker fills the count and the next one there is locked out."""
    text = LOCK.replace("{not_already: lock_caller}", f"{{count: 3, same: {same}, within: 60}}")
    with pytest.raises(ConfigFault, match="same: caller or session"):
        read_playbook(text.encode(), "x.yaml")
    read_playbook((text + "approval: person\n").encode(), "x.yaml")  # a person sees whom it is about
    read_playbook(text.replace(same, "caller", 1).encode(), "x.yaml")


def test_a_client_answers_for_its_own_users_alone() -> None:
    text = LOCK.replace("lock_caller", "block_client").replace(
        "{not_already", "{count: 3, same: client, within: 9}, {not_already"
    )
    read_playbook(text.encode(), "x.yaml")
    with pytest.raises(ConfigFault, match="same: caller or client or session"):
        read_playbook(text.replace("same: client", "same: peer").encode(), "x.yaml")


@pytest.mark.parametrize("same", ["name", "digest"])
def test_a_neighbour_with_the_same_tool_is_not_counted_with_it(same: str) -> None:
    """A server that announces what its neighbour has, and misbehaves with it, wants the neighbour quarantined."""
    text = f"""
playbook: same-tool
title: Quarantine
on: {{event: [call.outcome]}}
when: [{{count: 3, same: {same}, within: 60}}]
then: [{{do: quarantine_server}}]
"""
    world = World(text)
    bad = {"t": "outcome", "name": "read", "tool": "read", "digest": "d", "reason": "content.filtered"}
    for _ in range(2):
        world.see(intent("eve", **bad, upstream="evil"))
    world.see(intent("ann", **bad, upstream="files"))
    assert not world.hands.applied
    world.see(intent("eve", **bad, upstream="evil"))
    assert [one.value for one in world.hands.applied] == ["evil"]


def test_a_comparison_that_does_not_fit_its_member_fits_nothing_and_stops_nobody() -> None:
    """A number, or nothing that can be put into a set, where texts are compared: the others still see the event."""
    texts = [
        f"""
playbook: {name}
title: Odd
on: {{event: [call.intent, signal, catalog.changed]}}
when: [{{member: {member}, one_of: [a, b]}}]
then: [{{do: alert, title: never}}]
"""
        for name, member in (("odd-ms", "ms"), ("odd-in", "received"), ("odd-what", "what"), ("odd-kind", "signals"))
    ]
    world = World(*texts, LOCK.replace("call.refused", "call.intent"))
    world.see(intent("mallory", ms=5.0, what=[{"a": 1}], signals=[["x"]], **{"in": 7, "risk": 0.9}))
    assert [one.value for one in world.hands.applied] == ["mallory"]
    assert not world.told("alert")


def test_shipped_ones_count_those_they_contain() -> None:
    for name in shipped():
        read_playbook(playbook_text(f"shipped:{name}"), name)


# one person as two


def test_spellings_of_one_name_are_one_person() -> None:
    for one, other in (
        ("ann", "Ann "),
        ("ann", "ａｎｎ"),
        ("ann lee", "Ann  Lee"),
        ("ann", "playbook:x"),
        ("ann", " "),
    ):
        assert not two_people(one, other)
    assert two_people("ann", "bob")


def test_a_playbook_approved_twice_by_one_person_is_not_approved() -> None:
    world = World(LOCK, approve=("ann",), approvers=2)
    digest = digest_of(world.texts[0])
    for by in ("Ann", "ann ", "ａｎｎ"):
        with pytest.raises(ValueError, match="already"):
            world.approvals.approve("lock", digest, by=by, reason="", at=2.0)
    assert not world.approvals.in_force("lock", digest)
    assert world.approvals.approve("lock", digest, by="bob", reason="", at=3.0) == 0
    assert world.approvals.in_force("lock", digest)


def test_nobody_releases_alone_by_another_spelling(tmp_path: Path) -> None:
    hall = Hall(tmp_path, release_approvers=2)
    applied = hall.apply("lock_caller")
    for by in ("ann", "ANN", "ａｎｎ", "playbook:x"):
        assert hall.hands.release(applied.id, by=by, reason="fine").waits
    with pytest.raises(ValueError, match="seen"):
        hall.hands.release(applied.id, by="ann\u200b", reason="fine")
    assert not hall.hands.release(applied.id, by="bob", reason="fine").waits


def test_a_playbook_is_nobody_of_two(tmp_path: Path) -> None:
    """One person who lets a playbook ask for it and confirms it has not asked a second one."""
    hall = Hall(tmp_path, apply_approvers=2)
    assert hall.apply("stop_all", by="playbook:panic").waits
    assert hall.apply("stop_all", by="ann").waits
    assert hall.apply("stop_all", by="playbook:panic").waits
    assert hall.apply("stop_all", by="Ann").waits
    assert hall.here == set()
    done = hall.apply("stop_all", by="bob")
    assert (done.waits, done.by) == (False, "ann and bob")
    assert hall.here == {("stop_all", "*")}


class Waiting:
    """Hands that need a second person to let go."""

    def __init__(self, world: World) -> None:
        self._hands = world.hands

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hands, name)

    def release(self, identifier: str, *, by: str, reason: str) -> Applied:
        held = self._hands.held[identifier]
        return Applied(held.id, held.action, held.by, held.reason, held.at, waits=True)


def test_a_rollback_that_waits_for_a_second_person_does_not_say_it_is_done() -> None:
    world = World(LOCK)
    world.see(refusal())
    (run,) = Runs(world.table).all()
    world.playbooks._hands = Waiting(world)  # type: ignore[assignment]
    Runs(world.table).decide(run.id, "undo", "ann", "fine", 1100.0)
    world.playbooks.settle(1101.0)
    (told,) = world.told("playbook", "rolled_back")
    assert "second person" in told["steps"][0]
    assert "released" not in str(told["steps"])
    assert world.hands.held


def test_a_rollback_takes_back_what_its_run_did_and_nothing_people_decided() -> None:
    world = World(LOCK.replace("when: [{not_already: lock_caller}]\n", ""))
    action = Action("lock_caller", "mallory", "https://idp")
    decided = world.hands.apply(action, by="ann", reason="stolen laptop")
    world.hands.held[decided.id] = decided
    world.playbooks._hands = Longer(world)  # type: ignore[assignment]
    world.see(refusal("mallory"))
    world.see(refusal("eve"), at=1001.0)
    runs = {one.about["subject"]: one for one in Runs(world.table).all()}
    assert runs["mallory"].applied == ()
    assert "in force already" in runs["mallory"].steps[0]
    for run in runs.values():
        Runs(world.table).decide(run.id, "undo", "bob", "fine", 1100.0)
    world.playbooks.settle(1101.0)
    assert [one.action.value for one in world.hands.in_force()] == ["mallory"]


class Longer:
    """Hands as they are: of the same action twice, the one that lasts longer stands."""

    def __init__(self, world: World) -> None:
        self._hands = world.hands

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hands, name)

    def apply(self, action: Action, **more: Any) -> Applied:
        held: list[Applied] = self._hands.in_force()
        same = [one for one in held if (one.action.value, one.action.until) == (action.value, None)]
        return same[0] if same else self._hands.apply(action, **more)


# killed in between, and two at once


def test_killed_between_its_two_writes_it_is_still_taken_back_as_a_whole(tmp_path: Path) -> None:
    """Done again after kill -9, its own half must not be taken for what somebody had revoked before."""
    for stop_at in range(1, 6):
        hall = Hall(Path(tmp_path, str(stop_at)) if Path(tmp_path, str(stop_at)).mkdir() is None else tmp_path)
        writes = Killing(hall, stop_at)
        try:
            hall.apply("lock_caller", until=hall.clock + 900)
        except Killed:
            writes.stop()
            for one in hall.hands.in_force():
                assert not hall.welcome, one  # what is said to be in force is
        else:
            writes.stop()
        applied = hall.apply("lock_caller", by="bob", until=hall.clock + 1800)
        assert not hall.welcome
        hall.hands.release(applied.id, by="ann", reason="false alarm")
        assert hall.welcome
        assert hall.hands.in_force() == revocations(hall.state.revocations) == []


def test_killed_between_its_two_writes_what_people_revoked_before_comes_back(tmp_path: Path) -> None:
    for stop_at in range(1, 6):
        place = tmp_path / str(stop_at)
        place.mkdir()
        hall = Hall(place)
        before = revoke(hall.state.revocations, Revocation("user", "alice", "", "left", "ops", hall.clock, None))
        writes = Killing(hall, stop_at)
        try:
            hall.apply("lock_caller")
        except Killed:
            pass
        writes.stop()
        applied = hall.apply("lock_caller")
        hall.hands.release(applied.id, by="ann", reason="false alarm")
        assert revocations(hall.state.revocations) == [before]


class Killed(BaseException):
    """As by kill -9: nobody handles it."""


class Killing:
    """Ends the process before the nth write to either table."""

    def __init__(self, hall: Hall, number: int) -> None:
        self._tables = (hall.state.contained, hall.state.revocations)
        self._left = number
        for table in self._tables:
            for name in ("put", "swap"):
                setattr(table, name, self._counted(getattr(table, name)))

    def _counted(self, write: Any) -> Any:
        def counted(*given: Any, **more: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise Killed
            return write(*given, **more)

        return counted

    def stop(self) -> None:
        for table in self._tables:
            for name in ("put", "swap"):
                delattr(table, name)


@pytest.mark.parametrize("first", [None, 900.0])
def test_two_replicas_at_once_leave_one_that_is_taken_back_as_a_whole(tmp_path: Path, first: float | None) -> None:
    """Whatever the other one did between our writes, what stands afterwards is the longer of both, and ends whole."""
    for at in range(1, 4):
        place = tmp_path / str(at)
        place.mkdir()
        hall = Hall(place)
        other = Hall(place)
        until = None if first is None else hall.clock + first
        meddle = Meddling(hall, at, lambda other=other: other.apply("lock_caller", by="bob", until=other.clock + 60))
        applied = hall.apply("lock_caller", until=until)
        meddle.stop()
        assert applied.action.until == until
        standing = find(hall.state.revocations, "user", "", "alice")
        assert standing is not None
        assert standing.until == until
        hall.hands.release(applied.id, by="ann", reason="false alarm")
        assert revocations(hall.state.revocations) == []


class Meddling(Killing):
    """Before the nth write, somebody else acts."""

    def __init__(self, hall: Hall, number: int, act: Any) -> None:
        self._act = act
        super().__init__(hall, number)

    def _counted(self, write: Any) -> Any:
        def counted(*given: Any, **more: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                self._act()
            return write(*given, **more)

        return counted


def test_a_table_that_is_full_leaves_no_note_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hall = Hall(tmp_path)
    monkeypatch.setattr("limen.identity.revoked.MAX_RECORDS", 0)
    with pytest.raises(ValueError, match="already"):
        hall.apply("lock_caller")
    assert not list(hall.state.contained.scan("a/"))
    monkeypatch.undo()
    assert hall.apply("lock_caller").id
    assert not hall.welcome


# names


@pytest.mark.parametrize("name", ["山田\u3000太郎", "ann\u00a0lee", "ann\ue000", "ann  lee"])
def test_whoever_gets_in_by_a_name_can_be_kept_out_by_it(tmp_path: Path, name: str) -> None:
    hall = Hall(tmp_path)
    applied = hall.apply("lock_caller", name)
    known = Revocations(hall.state.revocations)
    known.refresh()
    assert known.find(Caller("https://id.example", name), None) is not None
    assert known.find(Caller("https://id.example", "ann lee"), None) is None
    hall.hands.release(applied.id, by="ann", reason="x")
    for unseen in ("a\u200bnn", "a\nb", "a\u202eb"):
        with pytest.raises(ValueError):
            hall.apply("lock_caller", unseen)


def test_a_quarantined_uri_is_not_read_by_a_template_it_fits(tmp_path: Path) -> None:
    hall = Hall(tmp_path)
    hall.apply("quarantine_tool", "files/file:///pay/2026")
    known = Containments(hall.state.contained)
    known.refresh()
    template = Approved("files", "template", "file:///{+path}", "d", b"{}", "read")
    assert known.calling(template, "file:///pay/2026") is not None
    assert known.calling(template, "file:///pay/2025") is None
    assert known.calling(template) is None  # it is listed: it is good for others
    assert known.calling(replace(template, server="mail"), "file:///pay/2026") is None


def test_who_is_locked_out_by_our_token_does_not_come_back_with_the_providers(tmp_path: Path) -> None:
    hall = Hall(tmp_path)
    ours, provider = "https://limen.example", "https://idp.example"
    hall.apply("lock_caller", "alice", issuer=ours)
    known = Revocations(hall.state.revocations)
    known.refresh()
    assert known.find(Caller(provider, "alice"), None) is None  # nothing says that they are the same
    known.ours = lambda issuer: ours if issuer == provider else ""
    assert known.find(Caller(provider, "alice"), None) is not None
    assert known.find(Caller("https://other.example", "alice"), None) is None
    assert known.find(Caller(provider, "bob"), None) is None


@pytest.mark.parametrize("name", ["ann\u3000lee", "ann  lee", "n" * 254 + "x"])
def test_an_incident_is_about_who_did_it_and_not_about_who_is_called_alike(name: str) -> None:
    """What an alert shows of a name is made plain and cut; evidence is gathered by the whole of it."""
    world = World()
    watch = IncidentWatch(world.incidents, world.settings, world.events.get)
    call = world.see(refusal(name))
    signal = world.see({"t": "signal", "about": "caller", "value": f"https://idp\0{name}", "event": call.id})
    for number, events in enumerate(([call.id], [signal.id], ["elsewhere:7"])):
        about = {"issuer": "https://idp", "subject": plain(name)}
        watch.see(
            world.see(
                {
                    "t": "alert",
                    "id": f"a{number}",
                    "group": f"g{number}",
                    "rule": "r",
                    "severity": "high",
                    "title": "x",
                    "about": about,
                    "events": events,
                }
            )
        )
    found = {one.group: one.subjects for one in world.incidents.all()}
    assert found["g0"] == found["g1"] == (f"caller:https://idp {name}",)
    assert found["g2"] == (f"caller:https://idp {plain(name)}",)  # all that is known here
    assert read_subject(found["g0"][0]).value == call.caller


def test_disk_full_in_the_middle_of_a_run_is_made_good() -> None:
    world = World(LOCK)
    apply, failed = world.hands.apply, []

    def full(action: Action, **more: Any) -> Applied:
        made = apply(action, **more)
        if not failed:
            failed.append(made)
            raise DependencyFault("audit", "disk full")
        return made

    world.hands.apply = full  # type: ignore[method-assign]
    with pytest.raises(DependencyFault):
        world.see(refusal())
    world.playbooks.settle(time.time() + 3600.0)
    (run,) = Runs(world.table).all()
    assert (run.state, len(run.applied)) == ("done", 1)
