"""I4, I5, I6: what is usual is learnt, what is not is said in words, and neither time nor patience fools it."""

import math
import random
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from contracts.memory import MemoryTable
from limen.core.events import Event, Signal
from limen.core.faults import DependencyFault
from limen.detection.behavior import Behavior, forget, key, network, read_profiles
from limen.detection.behavior_model import Weights, load_weights
from limen.detection.behavior_profile import Oddity, Profile
from limen.detection.behavior_settings import BehaviorSettings
from limen.detection.behavior_statistics import Fading, Names, Rising, Spread, Steps, hour_bits
from limen.detection.behavior_trees import WINDOW, Trees
from limen.detection.behavior_words import explain, size, usual

START = 1_767_571_200.0  # a Monday, 00:00 UTC
DAY, HOUR = 86_400.0, 3_600.0
ISSUER = "https://login.example"


class Office:
    """Calls of one who works from nine to five, and whatever else a test wants."""

    def __init__(self, settings: BehaviorSettings | None = None, table: Any = None, log: str = "log") -> None:
        self.table = MemoryTable() if table is None else table
        self.signals: list[Signal] = []
        self.settings = settings or BehaviorSettings()
        self.behaviour = Behavior(self.table, self.settings, self.signals.append, log)
        self.draw, self.index = random.Random(3), 0

    def call(self, at: float, name: str = "read", subject: str = "alice", **more: Any) -> None:
        self.index += 1
        given: dict[str, Any] = {
            "server": "hr", "peer": "10.0.0.7", "client": "desk", "agent": "desk 1", "sent": 2_000, "received": 90,
            "ms": 40.0, "reason": "ok", "args": f"{self.draw.randrange(30):016x}", **more,
        }  # fmt: skip
        kind = given.pop("type", "call.outcome")
        self.behaviour.see(
            Event(
                "log",
                self.index,
                at,
                kind,
                "call",
                issuer=ISSUER,
                subject=subject,
                method="tools/call",
                name=name,
                **given,
            )
        )

    def works(self, first: int, last: int, subject: str = "alice", calls: int = 16, **more: Any) -> None:
        """Days from `first` until `last`, not on days off."""
        for day in range(first, last):
            if day % 7 < 5:
                for number in range(calls):
                    at = START + day * DAY + (9 + 8 * number / calls) * HOUR + self.draw.random() * 300
                    size = int(2_000 * self.draw.lognormvariate(0, 0.4))
                    self.call(at, ("search", "read", "comment")[number % 3], subject, **{"sent": size, **more})

    def about(self, subject: str = "alice", score: float = 0.0) -> list[Signal]:
        return [one for one in self.signals if one.subject.value.endswith(subject) and one.score >= score]


def night(office: Office, day: int, count: int = 40, subject: str = "alice") -> None:
    """Somebody else with alice's credential."""
    for number in range(count):
        at = START + day * DAY + 3.2 * HOUR + number * 5
        name = ("delete_user", "export_all", "read")[number % 3]
        office.call(at, name, subject, peer="185.3.2.1", agent="curl 8", args=f"{number:016x}")


def test_a_stolen_credential_is_named_in_words_and_the_honest_twin_is_not_i4() -> None:
    office = Office()
    for day in range(30):
        office.works(day, day + 1)
        office.works(day, day + 1, "bob")
    assert not office.about("alice") and not office.about("bob")
    night(office, 30)
    office.works(30, 31, "bob")
    found = office.about(score=0.5)
    assert found, office.signals
    assert not office.about("bob")
    said = " ".join(one.why for one in found)
    assert "first call to hr/delete_user in 22 days" in said
    assert "at 03:1" in said
    assert "185.3.2" in said
    assert (found[0].subject.kind, found[0].source) == ("caller", "behaviour")
    assert found[0].event.startswith("log:")
    volume = explain([Oddity("volume", 9.0, "day", 224, 16)])
    assert volume == "14x usual volume (224 calls this day)"


def test_times_are_those_of_the_configured_place_i4() -> None:
    settings = BehaviorSettings(time_zone="Asia/Tokyo")
    office = Office(settings)
    office.works(0, 30)
    night(office, 30)
    assert any("at 12:1" in one.why for one in office.about())
    with pytest.raises(ValueError, match="time zone"):
        BehaviorSettings(time_zone="Nowhere/Else")


def test_nothing_is_said_of_newcomers_before_enough_was_seen_i4() -> None:
    office = Office()
    office.works(0, 30, "bob")
    office.works(28, 33, "alice")
    night(office, 33, 5)
    assert not office.about("alice")
    office.works(33, 60, "alice")
    assert not office.about("alice", 0.5)  # a slow start is a usual one afterwards


def test_off_says_and_keeps_nothing_i4() -> None:
    assert BehaviorSettings(enabled=False).enabled is False
    assert (
        BehaviorSettings(sensitivity="high").shift
        > BehaviorSettings().shift
        > BehaviorSettings(sensitivity="low").shift
    )


def test_a_new_job_becomes_usual_i4() -> None:
    office = Office()
    office.works(0, 30)
    for day in range(30, 60):
        if day % 7 < 5:
            for number in range(16):
                office.call(START + day * DAY + (9 + number / 2) * HOUR, ("plan", "budget")[number % 2])
    late = [one for one in office.about() if one.at > START + 45 * DAY]
    assert not late


def test_who_is_patient_is_found_as_well_drift_i4() -> None:
    """Poisoning: every day a little more. What is usual may follow; the long memory does not follow so fast."""
    office = Office()
    office.works(0, 40)
    for day in range(40, 75):
        office.works(day, day + 1, sent=int(2_000 * 1.12 ** (day - 39)))
    found = [one for one in office.about() if "data" in one.why]
    assert found
    grown = 1.12 ** ((found[0].at - START) / DAY - 39)
    assert grown < 24
    honest = Office()
    honest.works(0, 40)
    for day in range(40, 75):  # half as much again over five weeks is what happens to people
        honest.works(day, day + 1, sent=int(2_000 * 1.012 ** (day - 39)))
    assert not honest.about(score=0.5)


def test_a_server_that_reaches_out_and_grows_is_suspicious_i5() -> None:
    office = Office()
    record = {"t": "egress", "what": "allowed", "name": "api.example"}
    for day in range(40):
        office.works(day, day + 1)
        reach(office, START + day * DAY + 10 * HOUR, record)
    before = len(office.signals)
    office.works(42, 43, sent=60_000)
    reach(office, START + 42 * DAY + 17.5 * HOUR, {**record, "name": "drop.example"})
    found = [one for one in office.signals[before:] if one.subject.kind in ("server", "tool")]
    assert {one.subject.kind for one in found} >= {"server"}
    assert any("drop.example" in one.why for one in found)
    assert not [one for one in office.signals[:before] if one.subject.kind == "server"]


def reach(office: Office, at: float, record: dict[str, Any]) -> None:
    office.index += 1
    office.behaviour.see(Event("log", office.index, at, "egress.allowed", "sandbox", server="hr", record=record))


def test_a_new_tool_is_new_to_everybody_and_nobody_is_suspected_i5() -> None:
    scores = []
    for released in (False, True):
        office = Office()
        for name in ("alice", *(f"colleague{number}" for number in range(14))):
            office.works(0, 12, name, calls=6)
        at = START + 30 * DAY
        if released:
            office.behaviour.see(Event("log", 1, at, "catalog.approved", "catalog", server="hr", name="delete_user"))
        office.call(at + 10 * HOUR, "delete_user")
        entity = office.behaviour._held[("caller", f"{ISSUER}\0alice")]
        scores.append(entity.levels.bits(at + 10 * HOUR)["tool"])
    assert scores[0] > scores[1] + 0.5


def test_outcomes_that_say_nothing_of_who_are_joined_with_their_intents_i4() -> None:
    office = Office()
    for number in range(3):
        who = Event(
            "log", number, START, "call.intent", "call", ref=f"r{number}", issuer=ISSUER, subject="alice",
            server="hr", method="tools/call", name="read",
        )  # fmt: skip
        office.behaviour.see(who)
        office.behaviour.see(
            Event("log", number, START + 1, "call.outcome", "call", ref=f"r{number}", reason="ok", sent=9)
        )
    office.behaviour.see(Event("log", 9, START + 2, "call.outcome", "call", ref="unknown", reason="ok"))
    assert office.behaviour._held[("caller", f"{ISSUER}\0alice")].profile.calls == 3


def test_what_is_kept_goes_on_after_a_restart_and_a_crash_i4() -> None:
    office = Office()
    office.works(0, 30)
    office.behaviour.close()
    again = Office(table=office.table)
    night(again, 30)
    assert again.about(score=0.5)
    kept = next(iter(read_profiles(office.table, "caller", f"{ISSUER}\0alice")))
    assert kept.days > 20
    assert (
        Profile.load(orjson.loads(orjson.dumps(kept.dump(), option=orjson.OPT_NON_STR_KEYS)), DAY).dump() == kept.dump()
    )


def test_a_settle_writes_a_few_and_a_minute_later_i4() -> None:
    office = Office()
    for number in range(100):
        office.call(START + number, subject=f"user{number}")
    now = time.time()
    office.behaviour.settle(now)
    first = len(list(office.table.scan("profile/")))
    office.behaviour.settle(now + 1)
    assert 0 < first <= 64 < len(list(office.table.scan("profile/")))
    office.call(START + 200, subject="user0")
    before = office.table.get(key("log", "caller", f"{ISSUER}\0user0"))
    office.behaviour.settle(now + 2)
    assert office.table.get(key("log", "caller", f"{ISSUER}\0user0")) == before
    office.behaviour.settle(now + 90)
    assert office.table.get(key("log", "caller", f"{ISSUER}\0user0")) != before


def test_memory_is_bounded_and_those_put_aside_come_back_i4() -> None:
    office = Office(BehaviorSettings(entities=16))
    for number in range(60):
        for again in range(5):
            office.call(START + number * 10 + again, f"tool{again}", f"user{number}")
    assert office.behaviour.held <= 16
    office.call(START + 1_000, subject="user0")
    assert office.behaviour._held[("caller", f"{ISSUER}\0user0")].profile.calls == 6
    flood = Office()
    for number in range(4_000):  # one caller with a new name for everything
        args = f"{random.Random(number).getrandbits(64):016x}"
        flood.call(
            START + number, f"t{number}", peer=f"10.{number % 250}.{number // 250}.1", agent=f"a{number}", args=args
        )
    raw = orjson.dumps(
        flood.behaviour._held[("caller", f"{ISSUER}\0alice")].profile.dump(), option=orjson.OPT_NON_STR_KEYS
    )
    assert len(raw) < 64_000


def test_a_table_that_is_down_loses_no_event_and_learns_none_twice_i4() -> None:
    class Failing(MemoryTable):
        down = False

        def get(self, key: str) -> Any:
            if self.down and "/client/" in key:
                raise DependencyFault("state", "down")
            return super().get(key)

    office = Office(table=Failing())
    office.table.down = True
    with pytest.raises(DependencyFault):
        office.call(START)
    office.table.down = False
    office.call(START)
    assert office.behaviour._held[("caller", f"{ISSUER}\0alice")].profile.calls == 1


def test_who_is_forgotten_is_forgotten_by_a_running_gateway_too_i4() -> None:
    office = Office()
    office.works(0, 10)
    office.behaviour.close()
    office.behaviour.settle(time.time())
    value = f"{ISSUER}\0alice"
    assert forget(office.table, "caller", value, time.time()) == 1
    office.call(START + 10 * DAY)
    office.behaviour.settle(time.time())
    assert office.table.get(key("log", "caller", value)) is None
    office.call(START + 10 * DAY + 5)
    assert office.behaviour._held[("caller", value)].profile.calls == 1


def test_what_is_usual_in_words_i4() -> None:
    office = Office()
    office.works(0, 30)
    office.behaviour.close()
    row = usual(next(iter(read_profiles(office.table, "caller"))), True)
    assert row["hours"].startswith("09-1")
    assert row["tools"][0].split()[0] in ("hr/search", "hr/read", "hr/comment")
    assert "hr/search -> hr/read" in row["then"]
    assert (size(10), size(3 << 20)) == ("10 bytes", "3 MiB")


# statistics


def test_a_spread_knows_its_quantiles_and_tails() -> None:
    spread, draw = Spread(), random.Random(1)
    for _ in range(5_000):
        spread.add(draw.lognormvariate(7, 0.5), 1.0)
    assert 700 < spread.quantile(0.5) < 1_200
    middle, around = spread.middle()
    assert abs(middle - 7 / math.log(2)) < 0.6
    assert 0.3 < around < 1.6
    assert spread.bits(1_000, 1.0) < 2 < spread.bits(5_000, 1.0) < spread.bits(500_000, 1.0)
    assert Spread().bits(9, 1.0) == 0.0


def test_forgetting_is_dividing_nothing_until_it_must() -> None:
    fading = Fading(DAY, START)
    assert fading.weight(START + 3 * DAY) == 8.0
    assert not fading.overgrown(8.0, START + 3 * DAY)
    assert fading.weight(START + 40 * DAY) > 1e9
    assert fading.overgrown(fading.weight(START + 40 * DAY), START + 40 * DAY)
    assert fading.weight(START + 40 * DAY) == 1.0
    profile = Profile("caller", "x", START, DAY)
    office = Office(BehaviorSettings(memory_days=3))
    office.works(0, 200)  # through several such divisions
    assert not office.about(score=0.5)
    assert profile.days == 0


def test_names_and_steps_are_bounded_and_smoothed() -> None:
    names, steps = Names(4), Steps(4)
    for number in range(9):
        names.add(f"n{number}", 1.0, float(number))
        steps.add(f"n{number % 6}", f"n{number}", 1.0)
    assert len(names) == 4
    assert math.isclose(names.total, 4.0)
    assert 0 < names.unknown(1.0) <= 0.9
    assert len(steps) <= 4
    for _ in range(20):
        steps.add("a", "b", 1.0)
    assert steps.bits("a", "b", 0.1, 1.0) < 1 < steps.bits("a", "c", 0.1, 1.0)


def test_hours_wrap_around_midnight() -> None:
    hours = [0.0] * 48
    for _ in range(100):
        hours[23] += 1
        hours[0] += 1
    assert hour_bits(hours, 23) == 0.0
    assert hour_bits(hours, 1) < hour_bits(hours, 12)
    assert hour_bits([0.0] * 48, 5) == 0.0


def test_trees_find_a_combination_nobody_had_i6() -> None:
    trees, draw = Trees(4, 14), random.Random(5)
    for _ in range(3 * WINDOW):
        busy = draw.random() < 0.5  # high in the first two, or in the last two, never in all
        trees.see(bytes([9, 9, 0, 0] if busy else [0, 0, draw.randrange(9, 12), 9]))
    odd, plain = trees.see(bytes([9, 9, 9, 9])), trees.see(bytes([9, 9, 0, 0]))
    assert odd > 5 > 3 > plain
    again = Trees(4, 14)
    again.load(orjson.loads(orjson.dumps(trees.dump())))
    assert again.see(bytes([9, 9, 9, 9])) > 5


def test_more_surprise_never_means_less_suspicion_i7() -> None:
    for weights in load_weights().values():
        assert all(one >= 0 for one in weights.weights.values())
        calm = weights.score({})
        assert calm < 0.05
        for name in weights.weights:
            assert weights.score({name: 5.0}) >= calm
    assert Weights(-1000.0, {}).score({}) >= 0.0


def test_networks_are_neighbourhoods() -> None:
    assert network("10.1.2.3") == "10.1.2"
    assert network("2001:db8:1:2::5") == "2001:db8:1"
    assert network("") == ""


def test_the_cost_of_an_event_is_bounded_i4() -> None:
    """Ratio to a plain JSON round trip of the same record, best of several: under 100 us where that takes 4."""
    office = Office()
    office.works(0, 20)
    record = orjson.dumps({"sub": "alice", "server": "hr", "tool": "read", "args": "a" * 64, "n": list(range(40))})

    def best(step: Callable[[int], object]) -> float:
        return min(_timed(lambda: step(number)) for number in range(7))

    yardstick = best(lambda _: [orjson.loads(orjson.dumps(orjson.loads(record))) for _ in range(2_000)]) / 2_000
    cost = best(lambda week: office.works(21 + 7 * week, 26 + 7 * week)) / 80
    assert cost < 120 * yardstick, (cost, yardstick)


def _timed(step: Callable[[], object]) -> float:
    begun = time.process_time()
    step()
    return time.process_time() - begun


def test_a_count_that_grows_is_as_unusual_as_its_spread_says_at_every_step() -> None:
    spread, again, draw = Spread(), Spread(), random.Random(4)
    for _ in range(300):
        value = draw.lognormvariate(4, 2)
        spread.add(value, 1.0)
        again.add(value, 1.0)
    rising, count = Rising(), 0
    looked = 0
    for _ in range(3_000):
        count += draw.choice((1, 1, 1, 2, 40, 900))
        if count >= rising.until:
            looked += 1
            rising.enter(count, spread, 1.0)
        assert rising.bits == again.bits(count, 1.0)
    assert looked < 40


def test_of_names_that_are_too_many_the_one_met_longest_ago_is_forgotten() -> None:
    names = Names(3)
    for name, at, weight in (("a", 1.0, 2.0), ("b", 1.0, 1.0), ("c", 2.0, 0.1)):
        names.add(name, weight, at)
    names.add("d", 1.0, 3.0)
    assert set(names) == {"a", "c", "d"}  # of two that were met together, the one that weighs less
    names.add("a", 1.0, 4.0)
    names.add("e", 1.0, 5.0)
    assert set(names) == {"a", "d", "e"}
