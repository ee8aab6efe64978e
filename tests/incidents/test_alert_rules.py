"""Rules as data (I8): what each way of counting finds, what it does not, and that it stays bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from incidents.alert_kit import NOW, Desk, only, refusal, rule
from limen.incidents.alert_settings import AlertSettings, shipped
from limen.incidents.rules import plain
from limen.incidents.tally import GROUPS

GRANTED = {"t": "intent", "ref": "r", "iss": "https://id.example", "sub": "alice", "server": "mail"}


def test_shipped_rules_are_sound_and_unlike() -> None:
    assert len({one.id for one in shipped()}) == len(shipped()) >= 15


ATTACKS: dict[str, list[dict[str, Any]]] = {
    "brute_force": [refusal("identity.invalid", peer="10.0.0.9")] * 20,
    "token_replay": [{"t": "security", "event": "token.two_networks", "iss": "https://id.example", "sub": "alice"}],
    "proof_replay": [refusal("identity.proof", peer="10.0.0.9")] * 5,
    "session_hijack": [{"t": "security", "event": "session.hijack", "iss": "https://id.example", "sub": "alice"}],
    "handle_probing": [{"t": "security", "event": "handle.probing", "iss": "https://id.example", "sub": "alice"}],
    "consent_attack": [{"t": "security", "event": "consent.forged", "severity": "high"}],
    "rug_pull": [{"t": "catalog", "change": "changed", "server": "mail", "name": "send"}],
    "server_caught": [{"t": "finding", "server": "mail", "detail": "x"}],
    "exfiltration_blocked": [refusal("flow.blocked")],
    "egress_refused": [{"t": "egress", "what": "refused", "server": "mail"}],
    "decoy_called": [{"t": "signal", "source": "decoy", "about": "caller", "value": "x", "score": 0.9}],
    "risk_block": [refusal("threat.blocked", guard="Weigh")],
    "risk_signal": [{"t": "signal", "source": "behaviour", "about": "caller", "value": "x", "score": 0.85}],
    "approvals_flood": [refusal("policy.approval", guard="RequireApproval")] * 20,  # OP-08
    "enumeration": [refusal("catalog.unknown", name=f"tool{n}") for n in range(15)],  # OP-07
    "runaway": [refusal("policy.limit")] * 50,  # OP-06
    "content_attack": [refusal("content.blocked")] * 5,
    "poisoned_answers": [{"t": "outcome", "ref": "r", "server": "mail", "reason": "content.filtered"}] * 5,
    "detector_fault": [refusal("fault.guard")] * 3,  # OP-04
    "dependency_down": [refusal("fault.dependency")] * 10,
    "log_recovered": [{"t": "recovered"}],
    "undelivered": [{"t": "delivery", "act": "dead", "route": "pager"}],
    "follower_dead": [{"t": "follower", "act": "dead", "name": "splunk"}],
    "kill_switch": [{"t": "contained", "action": "stop_all", "by": "ann"}],
}
LATE = {"off_hours_admin", "new_issuer", "new_admin"}


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_shipped_rule_finds_what_it_is_for_and_not_a_little_less(tmp_path: Path, name: str) -> None:
    """OP-04, OP-06, OP-07, OP-08 among them. One event less, or the same by several, raises nothing."""
    desk = Desk(tmp_path)
    for record in ATTACKS[name][:-1]:
        desk.say(**record)
    assert name not in desk.ids()
    desk.say(**ATTACKS[name][-1])
    assert name in desk.ids()


def test_every_shipped_rule_has_its_test() -> None:
    assert {one.id for one in shipped()} == set(ATTACKS) | LATE


def test_ordinary_days_raise_nothing(tmp_path: Path) -> None:
    """Honest twin: calls, the odd refusal, a token that expired, an approval asked for, administration by day."""
    desk = Desk(tmp_path)
    for number in range(400):
        desk.say(**GRANTED | {"sub": f"user{number % 40}"})
        desk.say(t="outcome", ref="r", reason="ok", server="mail")
        desk.now += 30
        if number % 40 == 0:
            for reason in ("identity.expired", "policy.denied", "policy.approval", "catalog.arguments"):
                desk.say(**refusal(reason, guard="RequireApproval"))
            desk.say(t="egress", what="allowed", server="mail")
            desk.say(t="catalog", change="approved", server="mail", name="send")
    assert [one for one in desk.ids() if one not in LATE] == []


def test_first_seen_after_learning(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.say(**GRANTED)
    desk.now += 2 * 86_400
    desk.say(**GRANTED)
    assert desk.ids() == []
    desk.say(**GRANTED | {"iss": "https://evil.example"})
    assert desk.ids() == ["new_issuer"]


def test_outside_of_working_hours(tmp_path: Path) -> None:
    hours = {"begin": 7, "end": 19, "zone": "Asia/Seoul"}
    desk = Desk(tmp_path, only(rule(match={"type": "vault.*", "outside": hours})))
    midnight = NOW - NOW % 86_400  # of a Wednesday, UTC; Seoul is nine hours ahead
    for hour, found in ((1, []), (9, []), (18, ["ours"])):
        desk.now = midnight + hour * 3600
        desk.say(t="vault", act="rotated", by="ann")
        assert desk.ids() == found
    weekend = Desk(tmp_path, only(rule(id="weekend", match={"type": "vault.*", "outside": hours})))
    weekend.now = midnight + 3 * 86_400 + 3600
    weekend.say(t="vault", act="rotated", by="ann")
    assert "weekend" in weekend.ids()


def test_count_is_within_the_window_and_by_group(tmp_path: Path) -> None:
    desk = Desk(tmp_path, only(rule(group=["subject"], count={"at_least": 3, "within": 60})))
    for _ in range(5):
        desk.say(**refusal("policy.denied"))
        desk.now += 31
    for number in range(5):
        desk.say(**refusal("policy.denied", sub=f"user{number}"))
    assert desk.open() == []
    desk.now += 100
    desk.say(3, **refusal("policy.denied", sub="mallory"))
    (one,) = desk.open()
    assert (one.about, one.count, len(one.events)) == ((("subject", "mallory"),), 3, 3)


def test_distinct_counts_values_and_not_events(tmp_path: Path) -> None:
    settings = only(rule(distinct={"member": "tool", "at_least": 3, "within": 60}))
    desk = Desk(tmp_path, settings)
    desk.say(50, **refusal("catalog.unknown", name="one"))
    desk.say(**refusal("catalog.unknown", name="two"))
    assert desk.open() == []
    desk.say(**refusal("catalog.unknown", name="three"))
    assert len(desk.open()) == 1


def test_sequence_needs_both_in_order_in_time_and_of_one_group(tmp_path: Path) -> None:
    then = {"match": {"type": "call.intent"}, "within": 60}
    desk = Desk(tmp_path, only(rule(group=["subject"], then=then)))
    desk.say(**GRANTED)
    desk.say(**refusal("policy.denied", sub="bob"))
    desk.say(**GRANTED)  # another group
    desk.now += 100
    desk.say(**GRANTED | {"sub": "bob"})  # too late
    assert desk.open() == []
    desk.say(**refusal("policy.denied"))
    desk.say(**GRANTED)
    (one,) = desk.open()
    assert len(one.events) == 2


def test_absence_of_a_heartbeat(tmp_path: Path) -> None:
    desk = Desk(tmp_path, only(rule(match={"type": "heartbeat"}, absent={"within": 300})))
    for _ in range(10):
        desk.say(t="heartbeat")
        desk.now += 200
        assert desk.open() == []
    desk.now += 200
    assert len(desk.open()) == 1


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({"score": {"above": 0.5}}, True), ({"score": {"above": 0.9}}, False), ({"score": {"equals": 0.7}}, True),
        ({"value": {"one_of": ["a", "b"]}}, True), ({"value": {"matches": "^[bc]"}}, False),
        ({"value": {"matches": "^[ab]"}, "score": {"above": 0.8}}, False), ({"nothing": {"matches": ""}}, False),
        ({"value": {"above": 0}}, False),
    ],
    ids=str,
)  # fmt: skip
def test_members_are_compared(tmp_path: Path, where: dict[str, Any], found: bool) -> None:
    desk = Desk(tmp_path, only(rule(match={"type": "signal", "where": where})))
    desk.say(t="signal", value="a", score=0.7)
    assert bool(desk.open()) is found


@pytest.mark.parametrize(
    "wrong",
    [
        {"title": "{record}"}, {"title": "{subject.__class__}"}, {"title": "a } b"}, {"id": "../x"},
        {"match": {"type": "x", "where": {"a": {"matches": "("}}}}, {"match": {"type": "x", "where": {"a": {}}}},
        {"count": {"at_least": 1, "within": 5}}, {"count": {"at_least": 3, "within": 5}, "absent": {"within": 5}},
        {"group": ["a"], "absent": {"within": 5}}, {"severity": "urgent"}, {"match": {"typ": "x"}},
        {"match": {"type": "x", "outside": {"zone": "Mars/Olympus"}}},
    ],
    ids=str,
)  # fmt: skip
def test_a_rule_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AlertSettings.model_validate({"rules": [rule(**wrong)]})


def test_names_are_unique_and_known() -> None:
    for wrong in ({"rules": [rule(), rule()]}, {"disable": ["no_such_rule"]}):
        with pytest.raises(ValidationError):
            AlertSettings.model_validate(wrong)
    replaced = AlertSettings.model_validate({"rules": [rule(id="rug_pull", severity="low")]})
    assert [one.severity for one in replaced.in_force if one.id == "rug_pull"] == ["low"]


def test_a_flood_of_groups_takes_no_more_room(tmp_path: Path) -> None:
    desk = Desk(tmp_path, only(rule(group=["subject"], count={"at_least": 3, "within": 60})))
    for number in range(GROUPS * 2):
        desk.say(**refusal("policy.denied", sub=f"user{number}"))
    desk.settle()
    (stored,) = [raw for key, raw in desk.table.scan("rule/")]
    assert len(stored) < GROUPS * 200


def test_what_strangers_wrote_is_on_one_line_and_cut(tmp_path: Path) -> None:
    desk = Desk(tmp_path, only(rule(title="by {subject}", group=["subject"])))
    desk.say(**refusal("policy.denied", sub="evil\r\nBcc: x@evil.example\u202e" + "A" * 5000))
    (one,) = desk.open()
    assert one.title.isprintable()
    assert len(one.title) < 100
    assert all(value.isprintable() and len(value) <= 200 for _, value in one.about)
    assert plain("a\u202eb\x00c\nd") == "a b c d"


def test_of_two_reasons_of_one_type_each_finds_its_own_rule_and_texts_of_people_are_not_kept(tmp_path: Path) -> None:
    """Which rules can matter is remembered by type and reason."""
    desk = Desk(tmp_path, only(rule(match={"type": "call.*", "reason": "policy.*"})))
    desk.say(t="refusal", reason="wire.params")
    assert desk.open() == []
    desk.say(t="refusal", reason="policy.denied")
    assert [one.count for one in desk.open()] == [1]
    desk.say(3, t="refusal", reason="policy." + "x" * 500)
    assert [one.count for one in desk.open()] == [4]
    assert max(len(kind[3]) for kind in desk.watch._of_kind) < 100
