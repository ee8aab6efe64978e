"""Incidents as people and alerts make them, what happened in order, and decisions decided again."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from contracts.memory import MemoryTable
from incidents.stand_ins import World, intent
from limen.audit.events import read_event
from limen.core.call import Approved, Caller
from limen.core.events import Event, Subject
from limen.core.faults import DependencyFault
from limen.incidents.forensics import Scope, Selection, impact, markdown, timeline
from limen.incidents.incident import Incidents, IncidentWatch
from limen.incidents.response_settings import ResponseSettings
from limen.policy.compile import compile_policy
from limen.policy.kept import Keeper, NotKept, rebuild
from limen.policy.replay import Replay
from limen.policy.rules import PolicySettings

ALERT = {
    "t": "alert", "id": "a1", "rule": "bulk", "severity": "high", "title": "Bulk \x1b[31mread", "group": "g",
    "about": {"kind": "caller", "value": "https://idp\0eve"}, "events": ["limen:7"],
}  # fmt: skip


def events(*records: dict[str, Any], log: str = "limen") -> list[Event]:
    return [read_event(log, n, orjson.dumps({"ts": 100.0 + n, **one})) for n, one in enumerate(records)]


def test_alerts_of_one_group_are_one_incident_until_it_is_closed() -> None:
    world = World()
    watch = IncidentWatch(world.incidents, ResponseSettings())
    first, second, low = events(ALERT, {**ALERT, "id": "a2"}, {**ALERT, "severity": "low", "group": "other"})
    for event in (first, first, second, low):
        watch.see(event)
    (one,) = world.incidents.all()
    assert (one.alerts, one.severity, one.title) == (("a1", "a2"), "high", "Bulk  [31mread")
    assert one.subjects == ("caller:https://idp eve",)
    watch.see(events({"t": "contained", "id": "c1", "incident": one.id, "by": "ann"})[0])
    assert world.incidents.get(one.id).containments == ("c1",)
    with pytest.raises(ValueError, match="reason"):
        world.incidents.move(one.id, "closed", by="ann", at=200.0)
    world.incidents.move(one.id, "closed", by="ann", at=200.0, reason="a migration")
    watch.see(read_event("limen", 9, orjson.dumps({**ALERT, "id": "a3", "ts": 300.0})))
    assert len(world.incidents.all()) == 2
    acts = [one["act"] for one in world.told("incident")]
    assert acts == ["opened", "changed", "changed", "closed", "opened"]


def test_what_could_not_be_recorded_is_recorded_later() -> None:
    table, told, full = MemoryTable(), list[str](), [True]

    def record(event: str, fields: Any) -> None:
        if full[0]:
            raise DependencyFault("audit", "disk full")
        told.append(fields["act"])

    incidents = Incidents(table, record)
    with pytest.raises(DependencyFault):
        incidents.open("Stolen", "high", by="ann", at=1.0)
    full[0] = False
    incidents.settle()
    incidents.settle()
    assert told == ["opened"]


def test_two_people_at_once_lose_nothing() -> None:
    class Racing(MemoryTable):
        def swap(self, key: str, old: Any, new: Any, expires: Any = None) -> bool:
            if key.startswith("incident/") and old is not None and racing:
                racing.pop()()
            return bool(super().swap(key, old, new, expires))

    racing: list[Any] = []
    incidents = Incidents(Racing(), lambda event, fields: None)
    one = incidents.open("Stolen", "high", by="ann", at=1.0)
    racing.append(lambda: incidents.note(one.id, "mine", by="bob", at=2.0))
    incidents.note(one.id, "hers", by="ann", at=2.0)
    assert {note["text"] for note in incidents.get(one.id).notes} == {"mine", "hers"}


def call(sub: str, name: str, ref: str, at: float, **more: Any) -> dict[str, Any]:
    return intent(sub, name=name, ref=ref, ts=at, digest=f"d-{name}", **more)


def test_timeline_and_impact_over_replicas_say_who_what_and_where_j5() -> None:
    east = events(
        call("eve", "read", "r1", 100.0),
        {"t": "outcome", "ref": "r1", "reason": "ok", "ms": 2.0, "out": 5000, "ts": 100.1},
        call("bob", "read", "r9", 90.0),
        {"t": "egress", "server": "files", "what": "refused", "target": "evil.example:443", "ts": 120.0},
        log="east",
    )
    west = events(call("eve", "send", "r2", 150.0, server="mail", flow=["flow.secret"]), log="west")
    found = impact([*east, *west], server="files", name="read", digest="d-read")
    assert {one["subject"]: one["sent"] for one in found["callers"]} == {"eve": 5000, "bob": 0}
    assert found["unknown_sizes"] == 1
    eve = next(one for one in found["callers"] if one["subject"] == "eve")
    assert [(one["server"], one["name"], one["flow"]) for one in eve["afterwards"]] == [
        ("mail", "send", ["flow.secret"])
    ]
    assert found["egress"][0]["target"] == "evil.example:443"
    scope = Scope(subjects=frozenset({Subject("caller", "https://idp\0eve")}))
    chosen = [one for log in (east, west) for s in [Selection(scope)] for one in log if s.belongs(one)]
    rows = timeline(chosen)
    assert [(row["name"], row.get("outcome")) for row in rows] == [("read", "ok"), ("send", None)]
    text = markdown("[x](http://evil) www.evil.example\n# a", rows, found)
    assert "\n# a" not in text
    assert "\\[x\\](http\\[:\\]//evil) www\\[.\\]evil.example" in text  # not even one that stands there as it is
    assert "call.intent" in text


DEVICE = 'principal.device == "managed"'
ITEM = Approved("files", "tool", "read", "d" * 64, b'{"name":"read","inputSchema":{"type":"object"}}', "read")
ROWS = orjson.dumps([["files", "tool", "read", "approved", "", ITEM.digest, "read", False]])


def kept(*rules: dict[str, Any]) -> tuple[MemoryTable, str, str]:
    from hashlib import sha256

    table, settings = MemoryTable(), PolicySettings.model_validate({"rules": list(rules)})
    policy, version = compile_policy(settings, [ITEM]), sha256(ROWS).hexdigest()
    Keeper(table).policy(policy, settings)
    Keeper(table).catalog(version, lambda: ROWS)
    return table, policy.digest, version


def replayed(table: MemoryTable, *records: dict[str, Any]) -> list[Any]:
    again = Replay(lambda policy, version: rebuild(table, policy, version, lambda *place: ITEM.definition))
    found = []
    for event in events(*records):
        again.see(event)
        found.append(again.again(event))
    return [one for one in found if one is not None]


def decided(policy: str, version: str, **more: Any) -> dict[str, Any]:
    return {
        **intent("eve"), "digest": ITEM.digest, "rules": ["rule-1"], "policy": policy, "catalog": version,
        "standing": {"scopes": [], "roles": [], "groups": ["dev"], "amr": [], "acr": ""}, **more,
    }  # fmt: skip


def test_recorded_decisions_are_decided_again_and_a_forged_one_differs_a10() -> None:
    table, policy, version = kept({"allow": "group:dev", "call": "files/*"}, {"deny": "user:bob", "call": "files/*"})
    again, later, forged, stranger = replayed(
        table,
        decided(policy, version),
        {**decided(policy, version), "standing": None} | {"standing": {"groups": ["dev"]}},
        decided(policy, version, standing={"groups": []}),
        {**decided(policy, version, sub="zoe"), "standing": {"groups": ["dev"]}, "rules": ["rule-7"]},
    )
    assert (again.state, later.state, forged.state, stranger.state) == ("same", "same", "different", "different")
    denied = decided(policy, version, t="refusal", guard="Authorize", reason="policy.denied", rules=["rule-2"])
    (refused,) = replayed(table, {**denied, "sub": "bob"})
    assert refused.now.startswith("deny")


def test_what_cannot_be_replayed_is_said_and_not_guessed_a10() -> None:
    table, policy, version = kept({"allow": "anyone", "call": "files/*", "when": DEVICE})
    unheard = decided(policy, version)
    del unheard["standing"]
    asks, unknown, gone, other = replayed(
        table,
        decided(policy, version),
        {**unheard, "sub": "new"},
        decided("f" * 64, version),
        decided(policy, "e" * 64),
    )
    assert {one.state for one in (asks, unknown, gone, other)} == {"unknown"}
    assert "device" in asks.why
    assert "standing" in unknown.why
    assert "not kept" in gone.why
    flow, policy, version = kept({"allow": "anyone", "call": "files/*", "unless": "context.flow.secret"})
    assert "had read" in replayed(flow, decided(policy, version))[0].why


def test_a_kept_policy_or_catalog_that_was_changed_is_not_believed() -> None:
    table, policy, version = kept({"allow": "anyone", "call": "files/*"})
    for key, value in ((f"policy/{policy}", b'{"text":"permit;","settings":{}}'), (f"catalog/{version}", b"[]")):
        before = table.get(key)
        table.put(key, value)
        with pytest.raises(NotKept, match="another one"):
            rebuild(table, policy, version, lambda *place: ITEM.definition)
        table.put(key, before)
    rebuilt, _ = rebuild(table, policy, version, lambda *place: ITEM.definition)
    assert rebuilt.decide(Caller("i", "s"), ITEM).allowed
