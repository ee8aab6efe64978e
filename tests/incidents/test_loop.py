"""Events, suspicions, alerts, playbooks and incidents together, looked at by an attacker: whom can be locked out, what
can be filled, what runs in circles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from incidents.alert_kit import Desk, only, refusal, rule
from incidents.stand_ins import World
from incidents.stand_ins import refusal as refused
from incidents.test_suspicion import ALICE, Log
from limen.core.events import Subject
from limen.incidents.alerts import STORM, alerts
from limen.incidents.incident import stated
from limen.incidents.ran import Runs

ISSUER, MALLORY = "https://idp", "https://idp\0mallory"
DO = """
playbook: answer
title: Answer
on: {{event: [alert, signal]}}
then: [{{do: {0}}}]
"""


def done(world: World) -> list[tuple[str, str]]:
    return [(one.kind, one.value) for one in world.hands.applied]


@pytest.mark.parametrize(
    ("about", "more"),
    [
        ({"issuer": ISSUER, "subject": "mallory"}, {}),  # as rules group
        ({"issuer": ISSUER, "subject": "mallory", "server": "files"}, {}),
        ({"caller": f"{ISSUER} mallory"}, {}),
        ({"session": "s-mallory"}, {}),
        ({"kind": "caller", "value": MALLORY}, {}),  # as playbooks say it
    ],
)
def test_an_alert_as_the_watch_writes_it_contains_whom_it_is_about_j2(
    about: dict[str, str], more: dict[str, Any]
) -> None:
    world = World(DO.format("lock_caller"))
    event = world.see(refused())
    world.see({"t": "alert", "id": "a", "rule": "r", "severity": "high", "about": about, "events": [event.id], **more})
    assert done(world) == [("lock_caller", "mallory")]


def test_an_alert_of_a_suspicion_leads_to_its_event() -> None:
    """Decoys and behaviour: alert -> signal -> what somebody did."""
    world = World(DO.format("lock_caller").replace("alert, signal", "alert"))
    event = world.see(refused())
    signal = world.see({"t": "signal", "about": "caller", "value": MALLORY, "source": "decoy", "score": 0.95,
                        "event": event.id})  # fmt: skip
    about = {"about": "caller", "value": f"{ISSUER} mallory"}
    world.see({"t": "alert", "id": "a", "rule": "decoy_called", "severity": "critical", "about": about,
               "events": [signal.id]})  # fmt: skip
    assert done(world) == [("lock_caller", "mallory")]
    assert stated({"about": about}) == [Subject("caller", MALLORY)]


@pytest.mark.parametrize(
    ("action", "about"),
    [
        ("lock_caller", {"server": "files"}),  # who called a server is not the server
        ("lock_caller", {"client": "app"}),
        ("quarantine_server", {"issuer": ISSUER, "subject": "mallory"}),  # nor the other way round
        ("quarantine_tool", {"server": "files"}),
        ("block_client", {"server": "files", "name": "read"}),
        ("lock_caller", {"issuer": ISSUER, "subject": "victim"}),
        ("lock_caller", {"issuer": "https://other", "subject": "mallory"}),
        ("lock_caller", {"peer": "203.0.113.9"}),
    ],
)
def test_nobody_is_contained_for_an_alert_about_something_else_op(action: str, about: dict[str, str]) -> None:
    """A caller cannot have a server everybody uses put out of service, nor somebody else who uses it locked out."""
    world = World(DO.format(action))
    event = world.see(refused())
    world.see({"t": "alert", "id": "a", "rule": "r", "severity": "high", "about": about, "events": [event.id]})
    assert done(world) == []


@pytest.mark.parametrize(
    "record",
    [
        {"t": "playbook", "act": "fired", "id": "x", "playbook": "circle"},
        {"t": "incident", "act": "opened", "id": "x", "by": "playbook:circle"},
        {"t": "contained", "id": "x", "action": "lock_caller", "value": "v", "by": "playbook:circle"},
        {"t": "released", "id": "x", "action": "lock_caller", "value": "v", "by": "playbook:circle"},
        {"t": "alert", "id": "x", "rule": "playbook.circle", "severity": "high"},
    ],
)
def test_what_playbooks_do_triggers_none(record: dict[str, Any]) -> None:
    types = "playbook.fired, playbook, incident.opened, incident, contained, released, alert"
    world = World(f"playbook: circle\ntitle: Circle\non: {{event: [{types}]}}\nthen: [{{do: alert, title: again}}]\n")
    world.see(record)
    assert not world.told("alert")


def test_a_flood_of_sessions_fills_no_table_of_runs_op() -> None:
    text = DO.format("end_session").replace("alert, signal", "call.refused") + "limits: {per_hour: 2}\n"
    world = World(text, share=1.0)
    for number in range(100):
        world.see(refused(session=f"s{number}"))
    assert len(Runs(world.table).all()) == 40
    assert len(world.hands.applied) == 1  # of one active caller
    said = [one["title"] for one in world.told("alert")]
    assert any("too often" in one for one in said)
    world.see(refused(session="later"), at=9000.0)
    assert len(Runs(world.table).all()) == 41, "and goes on an hour later"


def test_a_flood_of_names_is_one_more_alert_and_not_thousands_op(tmp_path: Path) -> None:
    desk = Desk(tmp_path, only(rule(group=["peer"])))
    for number in range(3 * STORM):
        desk.say(**{**refusal("policy.denied"), "peer": f"2001:db8::{number:x}"})
    desk.settle()
    found = alerts(desk.table)
    assert len(found) == STORM + 1
    (rest,) = [one for one in found if not one.about]
    assert rest.count == 2 * STORM
    desk.now += 3700
    desk.say(**{**refusal("policy.denied"), "peer": "2001:db8::ffff"})
    desk.settle()
    assert ("peer", "2001:db8::ffff") in {pair for one in alerts(desk.table) for pair in one.about}


def test_open_alerts_nobody_looks_at_end_some_day(tmp_path: Path) -> None:
    desk = Desk(tmp_path, only(rule()))
    desk.say(**refusal("policy.denied"))
    assert len(desk.open()) == 1
    desk.now += 31 * 86_400
    assert desk.open() == []


@pytest.mark.parametrize("kind", ["tool", "server", "client"])
def test_what_one_does_to_a_tool_is_not_held_against_all_who_use_it_op(tmp_path: Path, kind: str) -> None:
    """Whoever makes a shared tool behave unusually must not take it from the others; who does it is held."""
    log = Log(tmp_path)
    for number in range(40):
        log.say(t="signal", about=kind, value="x/y", source="behaviour", score=0.99, why="odd", event=f"limen:{number}")
    log.say(t="signal", about="caller", value=ALICE[1], source="behaviour", score=0.99, why="odd", event="limen:1")
    risks = log.risks()
    assert risks[(kind, "x/y")] < 0.5
    assert risks[ALICE] >= 0.5  # a person is asked: behaviour alone refuses nobody
