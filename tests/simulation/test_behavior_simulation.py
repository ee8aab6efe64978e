"""I4-I6 on simulated months: a small organisation nobody tuned on, with attacks and without. Floors, not records:
the full runs stand in docs/behavior.md."""

import itertools

import pytest

from limen.core.events import Signal
from simulation.injected import Attack, plan
from simulation.measures import area, measure, of, run
from simulation.organisations import START, build, calls
from simulation.responding import Responding, only, responses

FIRST, LAST = 40, 75


def test_ordinary_weeks_make_few_alerts_and_refuse_nobody_i4_i7() -> None:
    """With every shipped rule, and with guard Weigh asked about each call."""
    organisation = build("agency", 21, LAST, people=7)
    result = run(organisation, 21, FIRST, LAST, [], others=(Responding,))
    assert measure(result)["clean_a_day"] < 1.0
    assert result.events > 5_000
    told = responses(result, only(result), of)
    assert told["calls"] > 3_000
    assert told["alerts_a_day"] < 1.0
    assert told["refused_a_day"] == 0.0
    assert told["held_a_day"] < 5.0


def test_attacks_among_them_are_found_i4_i5_i6() -> None:
    organisation = build("agency", 22, LAST, people=14)
    attacks = [one for one in plan(organisation, 22, FIRST, LAST) if one.strength == 2]
    result = run(organisation, 22, FIRST, LAST, attacks, others=(Responding,))
    told = measure(result)
    found = {name: times[0] is not None for name, times in told["found"].items()}  # type: ignore[attr-defined]
    assert found["theft/2"]
    assert found["server/2"]
    assert sum(found.values()) >= 3, found
    answered = responses(result, only(result), of)
    (theft,) = answered["found"]["theft/2"]
    assert theft["alert"] is not None and theft["held"] is not None and theft["alert"] < 600
    assert answered["true"] / answered["alerts"] > 0.5
    areas = told["areas"]
    assert areas["theft/2"] > 0.95 and areas["server/2"] > 0.8  # type: ignore[index]
    said = [one for one in result.signals if one.score >= 0.5]
    assert all(isinstance(one, Signal) and one.why and one.at > START for one in said)


def test_the_generator_is_deterministic_and_days_stand_alone() -> None:
    one = [list(day) for day in calls(build("startup", 5, 20), 5, 0, 10)]
    again = [list(day) for day in calls(build("startup", 5, 20), 5, 0, 10)]
    assert [[call.at for call in day] for day in one] == [[call.at for call in day] for day in again]
    other = next(iter(calls(build("startup", 6, 20), 6, 0, 1)))
    assert [call.at for call in other] != [call.at for call in one[0]]
    assert all(call.at <= following.at for day in one for call, following in itertools.pairwise(day))


@pytest.mark.parametrize(
    ("bad", "usual", "silent", "expected"),
    [([3.0], [1.0, 2.0], 0, 1.0), ([1.0], [2.0], 0, 0.0), ([0.0], [], 4, 0.5), ([2.0], [1.0, 3.0], 2, 0.75)],
)
def test_the_area_is_the_chance_to_score_higher(
    bad: list[float], usual: list[float], silent: int, expected: float
) -> None:
    assert area(bad, usual, silent) == expected


def test_every_attack_has_a_victim_of_its_own() -> None:
    attacks: list[Attack] = plan(build("bank", 3, 100, people=60), 3, 45, 100)
    subjects = [one.subject for one in attacks if one.subject]
    assert len(subjects) == len(set(subjects)) == 12
    assert {one.kind for one in attacks} == {"theft", "exfiltration", "abuse", "insider", "server"}
