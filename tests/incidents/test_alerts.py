"""One open alert for a rule and group, over restarts and replicas; told at least once, not too often (I8)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from incidents.alert_kit import Desk, only, refusal, rule
from limen.core.faults import DependencyFault
from limen.incidents.alerts import Alerting, alerts, decide, find, suppress, suppressions, unsuppress
from limen.incidents.outbox import claim, delivered, entries, failed, revive

HOOK = {"kind": "webhook", "name": "hook", "url": "https://siem.example/x", "secret": "s" * 24, "severity": "low"}
PAGER = {"kind": "pagerduty", "name": "pager", "key": "k" * 32, "severity": "critical"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, only(rule(group=["subject"], cooldown=600), routes=[HOOK, PAGER]))


def test_an_alert_is_on_record_and_on_its_way_to_those_it_concerns(desk: Desk) -> None:
    event = desk.say(**refusal("policy.denied"))
    (one,) = desk.open()
    ((kind, told),) = desk.recorded
    assert kind == "alert"
    assert told == {"id": one.id, "rule": "ours", "severity": "high", "title": "It happened",
                    "about": {"subject": "alice"}, "group": one.key, "count": 1, "events": (event.id,)}  # fmt: skip
    assert [entry.route for entry in desk.waiting()] == ["hook"]  # the pager is for what is critical
    assert not one.untold


def test_a_thousand_events_are_one_alert_with_a_count_and_told_once_per_cool_down(desk: Desk) -> None:
    for _ in range(10):
        desk.say(100, **refusal("policy.denied"))
        desk.settle()
    (one,) = desk.open()
    assert (one.count, one.notices, len(one.events)) == (1000, 1, 20)
    assert len(desk.waiting()) == 1
    desk.now += 601
    desk.say(**refusal("policy.denied"))
    (one,) = desk.open()
    assert one.notices == 2
    assert len(desk.waiting()) == 2
    assert [told["id"] for _, told in desk.recorded] == [one.id, one.id]  # whoever opened an incident knows it


def test_nobody_is_told_again_of_what_somebody_took_up(desk: Desk) -> None:
    desk.say(**refusal("policy.denied"))
    (one,) = desk.open()
    decide(desk.table, one.id, "acknowledged", "ann", "looking")
    desk.now += 601
    desk.say(**refusal("policy.denied"))
    (again,) = desk.open()
    assert (again.state, again.by, again.count, again.notices) == ("acknowledged", "ann", 2, 1)


def test_closed_is_closed_and_what_comes_next_is_another(desk: Desk) -> None:
    desk.say(**refusal("policy.denied"))
    (one,) = desk.open()
    decide(desk.table, one.id, "closed", "ann", "a drill", lambda: desk.now)
    assert desk.open() == []
    assert find(desk.table, one.id).reason == "a drill"
    desk.say(**refusal("policy.denied"))
    assert desk.open()[0].id != one.id
    with pytest.raises(LookupError):
        decide(desk.table, one.id, "closed", "ann", "")


def test_an_alert_that_was_quiet_for_a_day_is_over(desk: Desk) -> None:
    desk.say(**refusal("policy.denied"))
    (one,) = desk.open()
    desk.now += 2 * 86_400
    desk.say(**refusal("policy.denied"))
    assert desk.open()[0].id != one.id
    assert [old.id for old in alerts(desk.table, closed=True)] == [one.id]


# suppression


def test_suppressed_is_recorded_and_told_to_nobody_until_it_ends(desk: Desk) -> None:
    made = suppress(desk.table, "ou*", {"subject": "alice"}, "ann", "a release", desk.now + 600, desk.now)
    desk.say(5, **refusal("policy.denied"))
    assert desk.open() == []
    assert [(kind, told["suppression"]) for kind, told in desk.recorded] == [("alert_suppressed", made.id)]
    desk.say(**refusal("policy.denied", sub="bob"))  # somebody else
    assert [one.about for one in desk.open()] == [(("subject", "bob"),)]
    desk.now += 601
    desk.say(**refusal("policy.denied"))
    assert len(desk.open()) == 2


def test_a_suppression_can_be_taken_back(desk: Desk) -> None:
    made = suppress(desk.table, "*", {}, "ann", "a release", desk.now + 600, desk.now)
    unsuppress(desk.table, made.id)
    desk.say(**refusal("policy.denied"))
    assert len(desk.open()) == 1
    assert suppressions(desk.table) == []


@pytest.mark.parametrize("wrong", [{"owner": " "}, {"reason": ""}, {"until": 1.0}, {"until": 1e12}], ids=str)
def test_nothing_is_suppressed_for_ever_or_by_nobody(desk: Desk, wrong: Mapping[str, Any]) -> None:
    given: dict[str, Any] = {"owner": "ann", "reason": "x", "until": desk.now + 60, **wrong}
    with pytest.raises(ValueError, match="suppression"):
        suppress(desk.table, "ours", {}, now=desk.now, **given)


# crashes, restarts, replicas


class Stopped(Exception):
    """The process is gone."""


def _stopping(desk: Desk, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 at one step between the alert and its outbox."""

    def gone(*_: Any, **__: Any) -> Any:
        raise Stopped

    if step == "before the record":
        desk.watch._record = gone
    elif step == "before the outbox":
        monkeypatch.setattr("limen.incidents.alerts.put", gone)
    else:
        real = desk.table.swap

        def swap(key: str, old: Any, new: Any, expires: float | None = None) -> bool:
            if key.startswith("open/") and b'"untold":false' in (new or b""):
                raise Stopped
            return real(key, old, new, expires)

        monkeypatch.setattr(desk.table, "swap", swap)


@pytest.mark.parametrize("step", ["before the record", "before the outbox", "before it was marked as told"])
def test_a_crash_between_record_and_delivery_loses_nothing(
    desk: Desk, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        _stopping(desk, step, broken)
        event = desk.say(**refusal("policy.denied"))
        with pytest.raises(Stopped):
            desk.settle()
    desk.watch = desk.started()
    desk.watch.see(event)  # the cursor was not moved: it is seen again
    (one,) = desk.open()
    assert (one.count, one.untold) == (1, False)
    assert [entry.alert["id"] for entry in desk.waiting()] == [one.id]
    assert {told["id"] for _, told in desk.recorded} == {one.id}


def test_what_a_replica_that_is_gone_left_another_finishes(desk: Desk, tmp_path: Path) -> None:
    desk.watch._record = lambda kind, told: (_ for _ in ()).throw(Stopped)
    desk.say(**refusal("policy.denied"))
    with pytest.raises(Stopped):
        desk.settle()
    other = Desk(tmp_path, only(rule(group=["subject"]), routes=[HOOK]), log="other")
    other.now = desk.now + 31
    other.settle()
    assert len(other.waiting()) == 1
    assert not alerts(other.table)[0].untold


def test_counts_survive_a_restart_and_events_seen_again_count_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, only(rule(count={"at_least": 5, "within": 600})))
    desk.say(3, **refusal("policy.denied"))
    desk.settle()
    desk.watch = desk.started()
    for event in desk.events:  # the cursor is kept after the counts
        desk.watch.see(event)
    desk.say(**refusal("policy.denied"))
    assert desk.open() == []
    desk.say(**refusal("policy.denied"))
    assert desk.open()[0].count == 5


def test_another_rule_of_the_same_name_begins_anew(tmp_path: Path) -> None:
    desk = Desk(tmp_path, only(rule(count={"at_least": 5, "within": 600})))
    desk.say(4, **refusal("policy.denied"))
    desk.settle()
    desk.settings = desk.settings.model_validate(only(rule(count={"at_least": 4, "within": 600})))
    desk.watch = desk.started()
    desk.say(**refusal("policy.denied"))
    assert desk.open() == []


def test_two_replicas_raise_one_alert_and_tell_once(tmp_path: Path) -> None:
    settings = only(rule(group=["subject"]), routes=[HOOK])
    one, two = Desk(tmp_path, settings, "one"), Desk(tmp_path, settings, "two")
    for desk in (one, two):
        desk.say(3, **refusal("policy.denied"))
    one.settle()
    two.settle()
    (found,) = alerts(one.table)
    assert (found.count, found.notices) == (6, 1)
    assert len(one.waiting()) == 1
    assert len(one.recorded) + len(two.recorded) == 1


def test_nothing_is_forgotten_while_the_table_is_away(desk: Desk) -> None:
    class Away:
        def __getattr__(self, name: str) -> Any:
            raise DependencyFault("table", "away")

    desk.say(2, **refusal("policy.denied"))
    real, desk.watch._table = desk.watch._table, Away()  # type: ignore[assignment]
    for _ in range(3):
        with pytest.raises(DependencyFault):
            desk.settle()
    desk.watch._table = real
    assert desk.open()[0].count == 2


def test_our_own_alerts_raise_none(tmp_path: Path) -> None:
    desk = Desk(tmp_path, only(rule(match={"type": "*"})))
    for kind in ("alert", "alert_suppressed", "alert_decided"):
        desk.say(t=kind, id="x")
    assert desk.open() == []


def test_a_record_that_cannot_be_read_is_raised_anew_and_keeps_no_other_from_being_told(desk: Desk) -> None:
    desk.say(**refusal("policy.denied"))
    (one,) = desk.open()
    desk.table.put("open/" + one.key, b'{"id": 1}')
    with pytest.raises(DependencyFault):
        alerts(desk.table)
    desk.watch = desk.started()
    desk.say(**refusal("policy.denied"))
    desk.say(**refusal("policy.denied", sub="bob"))
    assert [each.about[0][1] for each in desk.open()] == ["alice", "bob"]


# the outbox


def test_one_replica_delivers_and_another_takes_over(desk: Desk) -> None:
    assert claim(desk.table, "one", desk.now)
    assert claim(desk.table, "one", desk.now + 1)
    assert not claim(desk.table, "two", desk.now + 1)
    assert claim(desk.table, "two", desk.now + 31)
    assert not claim(desk.table, "one", desk.now + 32)
    desk.table.put("lease", b'{"holder":"three","until":9e15}')  # a clock that was wrong
    assert claim(desk.table, "one", desk.now + 33)


def test_attempts_are_further_and_further_apart_and_end_in_the_dead_letters(desk: Desk) -> None:
    desk.say(**refusal("policy.denied"))
    desk.settle()
    now, waits = desk.now, []
    for _ in range(200):
        (entry,) = desk.waiting()
        now = max(now, entry.due)
        if failed(desk.table, entry, "down", now, refused=False, give_up=86_400, wait=0):
            break
        waits.append(desk.waiting()[0].due - now)
    assert waits[:4] == [5, 10, 20, 40]
    assert max(waits) == 900
    assert desk.waiting() == []
    (gone,) = entries(desk.table, dead=True)
    again = revive(desk.table, gone.id, now)
    assert (again.attempts, desk.waiting()[0].id, entries(desk.table, dead=True)) == (0, gone.id, [])
    delivered(desk.table, desk.waiting()[0])
    assert desk.waiting() == []
    with pytest.raises(LookupError):
        revive(desk.table, gone.id, now)


def test_what_is_refused_for_good_is_given_up_soon_and_what_asks_for_time_gets_it(desk: Desk) -> None:
    desk.say(**refusal("policy.denied"))
    desk.settle()
    entry = desk.waiting()[0]
    failed(desk.table, entry, "busy", desk.now, refused=False, give_up=86_400, wait=1800)
    assert desk.waiting()[0].due == desk.now + 1800
    for last in (False, False, False, False, True):
        entry = desk.waiting()[0]
        assert failed(desk.table, entry, "404", desk.now, refused=True, give_up=86_400, wait=0) is last


def test_alerting_is_a_watch() -> None:
    assert Alerting.name == "alerts"
