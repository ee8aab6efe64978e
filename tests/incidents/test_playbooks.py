"""Playbooks do what people reviewed, once, on those who were proven to be meant, and never more than their limits."""

from __future__ import annotations

from typing import Any

import pytest

from incidents.stand_ins import World, intent, refusal
from limen.config.playbooks import playbook_text, read_playbook, shipped
from limen.core.faults import ConfigFault, DependencyFault
from limen.incidents.playbooks import digest_of
from limen.incidents.ran import Runs
from limen.incidents.rehearsal import rehearse
from limen.incidents.response_settings import ResponseSettings

LOCK = """
playbook: lock
title: Lock whoever attacks
on: {event: [call.refused], risk: 0.8}
when: [{not_already: lock_caller}]
then:
  - {do: open_incident, title: Attack, severity: high}
  - {do: lock_caller, for: 600}
limits: {per_hour: 3, share: 0.5}
"""


def kinds(world: World) -> list[tuple[str, str, str]]:
    return [(one.kind, one.issuer, one.value) for one in world.hands.applied]


def test_attacker_is_locked_and_an_incident_opened_and_the_honest_is_left_alone_j2() -> None:
    world = World(LOCK)
    world.see(refusal("ann", risk=0.1))
    assert not world.hands.applied
    event = world.see(refusal(), at=1000.0)
    assert kinds(world) == [("lock_caller", "https://idp", "mallory")]
    assert world.hands.applied[0].until == 1600.0
    (incident,) = world.incidents.all()
    assert incident.subjects == ("caller:https://idp mallory", "session:s-mallory")
    assert event.id in incident.events
    assert incident.containments == tuple(world.hands.held)
    assert [one["playbook"] for one in world.told("playbook", "fired")] == ["lock"]


def test_same_event_seen_again_is_one_run_and_a_fault_in_the_middle_is_made_good() -> None:
    world = World(LOCK)
    world.hands.down = DependencyFault("contained", "database is away")
    event = None
    with pytest.raises(DependencyFault):
        event = world.see(refusal())
    event = next(iter(world.events.values()))
    assert Runs(world.table).all()[0].state == "running"
    world.hands.down = None
    world.playbooks.see(event)
    world.playbooks.see(event)
    assert kinds(world) == [("lock_caller", "https://idp", "mallory")]
    (run,) = Runs(world.table).all()
    assert run.state == "done"
    assert len(world.incidents.all()) == 1
    again = World(
        LOCK, table=world.table, hands=world.hands, approve=()
    )  # after kill -9: memory is gone, records are not
    again.playbooks.see(event)
    assert len(kinds(world)) == 1


def test_nothing_is_done_before_it_was_approved_nor_after_the_file_changed_j2() -> None:
    world = World(LOCK, approve=())
    world.see(refusal())
    assert not world.hands.applied
    assert world.told("playbook", "unapproved")
    approved = World(LOCK)
    approved.texts[0] = approved.texts[0].replace(b"for: 600", b"for: 6000")
    approved.playbooks.settle(10.0)
    approved.see(refusal())
    assert not approved.hands.applied
    assert [one["digest"] for one in approved.told("playbook", "unapproved")] == [digest_of(approved.texts[0])]


def test_two_different_people_must_approve_where_configured_and_a_forged_approval_is_none() -> None:
    world = World(LOCK, approve=("ann",), approvers=2)
    digest = digest_of(world.texts[0])
    with pytest.raises(ValueError, match="already"):
        world.approvals.approve("lock", digest, by="ann", reason="", at=2.0)
    world.table.put(f"approved/{digest}/9/eve", b'forged:limen.playbook/approval/1\n{"by":"eve"}')
    world.playbooks.settle(10.0)
    world.see(refusal())
    assert not world.hands.applied
    world.approvals.approve("lock", digest, by="bob", reason="", at=3.0)
    world.see(refusal("other"))
    assert kinds(world) == [("lock_caller", "https://idp", "other")]


@pytest.mark.parametrize(
    "record",
    [
        {"t": "refusal", "peer": "203.0.113.9", "reason": "identity.invalid", "risk": 0.9, "sub": "victim"},
        {"t": "authenticated", "iss": "https://idp", "sub": "victim", "decision": "deny", "risk": 0.9},
        {"t": "consent", "event": "refused", "iss": "https://idp", "sub": "victim", "risk": 0.9},
        {"t": "alert", "rule": "r", "severity": "critical", "about": {"kind": "caller", "value": "https://idp\0victim"}},
        {
            "t": "alert", "rule": "r", "severity": "critical", "events": ["limen:0"],
            "about": {"kind": "caller", "value": "https://idp\0victim"},
        },
        {
            "t": "signal", "about": {"kind": "caller", "value": "https://idp\0victim"}, "score": 1.0,
            "event": "limen:0", "source": "behaviour",
        },
    ],
)  # fmt: skip
def test_a_name_that_was_only_claimed_locks_nobody_out_op(record: dict[str, Any]) -> None:
    """An attacker who triggers it with forged or others' names (OP, AU): event 0 is of mallory, and says nothing of
    victim."""
    world = World(
        LOCK.replace("[call.refused], risk: 0.8", "[call.refused, authenticated, consent.refused, alert, signal]")
    )
    seed = intent("mallory")
    world.see(seed)
    world.see(record)
    assert not [one for one in world.hands.applied if one.value == "victim"]


def test_alert_about_a_proven_caller_does_lock_it() -> None:
    world = World(LOCK.replace("[call.refused], risk: 0.8", "[alert], severity: high"))
    first = world.see(intent("mallory"))
    world.see(
        {
            "t": "alert", "id": "a1", "rule": "bulk", "severity": "high", "events": [first.id],
            "about": {"kind": "caller", "value": "https://idp\0mallory"},
        }
    )  # fmt: skip
    assert kinds(world) == [("lock_caller", "https://idp", "mallory")]


def test_limits_keep_a_playbook_from_locking_a_company_out_and_say_so_once() -> None:
    world = World(LOCK, share=1.0)
    for number in range(20):
        world.see(intent(f"user{number}"), at=990.0)
    for number in range(20):
        world.see(refusal(f"user{number}"), at=1000.0 + number)
    assert len(kinds(world)) == 3
    (alarm,) = [one for one in world.told("alert") if one["severity"] == "critical"]
    assert "limit" in alarm["title"]
    assert {run.state for run in Runs(world.table).all()} == {"done", "limited"}
    world.see(refusal("user19"), at=1000.0 + 3700.0)
    assert len(kinds(world)) == 4


def test_share_of_active_callers_bounds_it_and_replicas_count_together() -> None:
    text = LOCK.replace("per_hour: 3, share: 0.5", "per_hour: 100, share: 0.1")
    one = World(text, share=1.0)
    other = World(text, share=1.0, table=one.table, hands=one.hands, approve=())
    for number in range(30):
        for world in (one, other):
            world.see(intent(f"user{number}"), at=990.0, log="a" if world is one else "b")
    for number in range(10):
        (one if number % 2 else other).see(refusal(f"user{number}"), at=1000.0, log="a" if number % 2 else "b")
    assert len(kinds(one)) == 3
    few = World(text)
    few.see(refusal())
    assert len(kinds(few)) == 1


@pytest.mark.parametrize("name", ["user:mallory", "user:https://idp mallory"])
def test_protected_subjects_are_never_touched(name: str) -> None:
    world = World(LOCK, protected=(name,))
    world.see(refusal())
    assert not world.hands.applied
    assert any("protected" in one["title"] for one in world.told("alert"))
    world.see(refusal("eve"), at=1100.0)
    assert kinds(world) == [("lock_caller", "https://idp", "eve")]


def test_blocking_a_client_counts_everybody_who_uses_it() -> None:
    text = LOCK.replace("lock_caller", "block_client")
    world = World(text, protected=("user:oncall",))
    world.see(intent("oncall"))
    world.see(refusal("mallory"))
    assert not world.hands.applied
    wide = World(text.replace("0.5", "0.05"))
    for number in range(20):
        wide.see(intent(f"user{number}"), at=990.0)
    wide.see(refusal("mallory"))
    assert not wide.hands.applied


def test_what_concerns_everybody_waits_for_a_person_and_ends_if_nobody_comes() -> None:
    text = "playbook: stop\ntitle: Stop\non: {event: [finding]}\nthen: [{do: stop_all, every: true}]\n"
    with pytest.raises(ConfigFault, match="person"):
        read_playbook(text.encode(), "stop.yaml")
    world = World(text + "approval: person\nexpires: 600\n")
    world.see({"t": "finding", "server": "files"})
    assert not world.hands.applied
    runs = Runs(world.table)
    (run,) = runs.all()
    runs.decide(run.id, "agreed", "ann", "yes", 1100.0)
    with pytest.raises(ValueError, match="agreed"):
        runs.decide(run.id, "agreed", "bob", "yes", 1100.0)
    world.playbooks.settle(1101.0)
    assert kinds(world) == [("stop_all", "", "*")]
    runs.decide(run.id, "undo", "ann", "over", 1200.0)
    world.playbooks.settle(1201.0)
    assert not world.hands.held
    assert world.told("playbook", "rolled_back")
    late = World(text + "approval: person\nexpires: 600\n")
    late.see({"t": "finding", "server": "files"})
    late.playbooks.settle(5000.0)
    assert Runs(late.table).all()[0].state == "expired"
    assert not late.hands.applied


def test_counts_within_a_time_and_of_one_caller_only() -> None:
    text = LOCK.replace("when: [", "when: [{count: 3, same: caller, within: 60}, ")
    world = World(text)
    for number in range(6):
        world.see(refusal(f"user{number % 3}"), at=1000.0 + number * 25)
    assert not world.hands.applied
    for number in range(3):
        world.see(refusal("mallory"), at=1200.0 + number)
    assert kinds(world) == [("lock_caller", "https://idp", "mallory")]


def test_playbooks_do_not_trigger_each_other_without_end() -> None:
    text = "playbook: loud\ntitle: Loud\non: {event: [alert]}\nthen: [{do: alert, title: again}]\n"
    world = World(text)
    world.see({"t": "alert", "id": "a", "rule": "x", "severity": "high"})
    (alert,) = world.told("alert")
    world.see({"t": "alert", **alert})
    assert len(world.told("alert")) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LOCK + "code: import os\n", "x.yaml:10:1 code: unknown key"),
        (LOCK.replace("not_already: lock_caller", "member: detail, equals: x"), "when"),
        (LOCK.replace("lock_caller, for: 600", "run_program"), "then"),
        (LOCK.replace("not_already: lock_caller", "count: 3"), "count"),
        (LOCK.replace("title: Lock whoever attacks\n", ""), "needed"),
        ("- a\n", "mapping"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigFault) as fault:
        read_playbook(text.encode(), "x.yaml")
    assert said in str(fault.value)


def test_shipped_ones_are_sound_and_off() -> None:
    assert len(shipped()) >= 5
    for name in shipped():
        read_playbook(playbook_text(f"shipped:{name}"), name)
    assert ResponseSettings().playbooks == ()
    for bad in ("shipped:../../../etc/passwd", "shipped:nothing"):
        with pytest.raises(ConfigFault):
            playbook_text(bad)


def test_rehearsal_counts_what_the_real_thing_does() -> None:
    world = World(LOCK, share=1.0)
    for number in range(20):
        world.see(intent(f"user{number}"), at=990.0)
    for number in range(8):
        world.see(refusal(f"user{number}"), at=1000.0)
    playbook = read_playbook(LOCK.encode(), "x")
    found = rehearse(playbook, digest_of(LOCK.encode()), world.events.values(), world.settings)
    assert (found["fired"], found["limited"], found["events"]) == (3, 5, 28)
    assert sorted(found["on"]) == ["user0", "user1", "user2"]
    assert found["actions"]["lock_caller"] == 3
