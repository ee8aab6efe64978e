from __future__ import annotations

import pytest
from policy_material import caller, context

from limen.core.call import Caller
from limen.core.verdict import Pass, Refuse
from limen.policy.buckets import MemoryCounter
from limen.policy.limit import Limit, LimitSettings


class Clock:
    time = 100.0

    def __call__(self) -> float:
        return self.time


def limit(**settings: float) -> tuple[Limit, Clock]:
    clock = Clock()
    checked = LimitSettings.model_validate(settings)
    return Limit(checked, MemoryCounter(checked.callers, clock)), clock


def passes(guard: Limit, who: Caller) -> bool:
    return isinstance(guard.check(context(who)), Pass)


def test_a_burst_passes_and_a_flood_does_not() -> None:
    guard, clock = limit(rate=2, burst=5)
    assert [passes(guard, caller()) for _ in range(7)] == [True] * 5 + [False] * 2
    assert passes(guard, caller("bob"))
    clock.time += 0.5
    assert [passes(guard, caller()) for _ in range(2)] == [True, False]
    clock.time += 1000
    assert [passes(guard, caller()) for _ in range(6)] == [True] * 5 + [False]


def test_the_refusal_says_when() -> None:
    guard, clock = limit(rate=0.1, burst=1)
    assert passes(guard, caller())
    verdict = guard.check(context(caller()))
    assert isinstance(verdict, Refuse)
    assert (verdict.reason.id, verdict.public["retry_after"]) == ("policy.limit", 10)
    clock.time += verdict.public["retry_after"]
    assert passes(guard, caller())


@pytest.mark.requirement("AU-20")
def test_another_client_is_no_other_caller() -> None:
    guard, _ = limit(rate=1, burst=1)
    assert passes(guard, caller(client="a"))
    assert not passes(guard, caller(client="b"))
    assert passes(guard, caller(issuer="https://other.example"))


def test_a_clock_that_steps_back_neither_fills_nor_drains() -> None:
    guard, clock = limit(rate=1, burst=1)
    assert passes(guard, caller())
    clock.time -= 50
    assert not passes(guard, caller())
    clock.time += 1
    assert passes(guard, caller())


def test_memory_is_bounded() -> None:
    guard, _ = limit(rate=1, burst=1, callers=3)
    assert passes(guard, caller("0"))
    assert not passes(guard, caller("0"))
    assert all(passes(guard, caller(str(number))) for number in range(1, 50))
    assert len(guard._rates) == 3
