"""Slices of shared counts (A12): no more than there is, few questions, and refusal when nobody answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from limen.core.faults import DependencyFault
from limen.core.ports import Quota, Taken
from limen.policy.buckets import MemoryCounter
from limen.policy.leases import Leased


class Far:
    """A shared counter somewhere else: counts questions, can be down."""

    def __init__(self) -> None:
        self.store, self.asked, self.down = MemoryCounter(now=time.time), 0, False

    async def take(self, key: str, want: float, quota: Quota, least: float | None = None) -> Taken:
        self.asked += 1
        await asyncio.sleep(0)
        if self.down:
            raise DependencyFault("redis", "ConnectionError")
        return self.store.take(key, want, quota, least)

    async def hold(self, key: str, holder: str, want: int, capacity: int, seconds: float) -> int:
        return self.store.hold(key, holder, want, capacity, seconds)

    async def close(self) -> None:
        self.down = True


async def one(counter: Leased, quota: Quota, want: float = 1.0) -> Taken:
    answer = counter.take("k", want, quota)
    return await answer if isinstance(answer, Awaitable) else answer


def test_two_replicas_admit_exactly_the_budget_and_ask_seldom() -> None:
    async def test() -> None:
        far, quota = Far(), Quota(1000.0, 0.0, time.time() + 60)
        replicas = [Leased(far), Leased(far)]
        got = 0
        for turn in range(3000):
            got += bool((await one(replicas[turn % 2], quota)).granted)
        # what one replica holds when the budget ends is not lost to it, only to the other
        assert got == 1000
        assert far.asked < 400

    asyncio.run(test())


def test_a_flood_of_refused_calls_does_not_reach_the_store() -> None:
    async def test() -> None:
        far, quota = Far(), Quota(2.0, 0.001)
        counter = Leased(far)
        answers = [await one(counter, quota) for _ in range(500)]
        assert sum(bool(taken.granted) for taken in answers) == 2
        assert answers[-1].wait > 100
        assert far.asked < 20

    asyncio.run(test())


def test_callers_that_come_together_share_one_question() -> None:
    async def test() -> None:
        far, quota = Far(), Quota(800.0, 400.0)
        counter = Leased(far)
        answers = await asyncio.gather(*(one(counter, quota) for _ in range(100)))
        assert all(taken.granted for taken in answers)
        assert far.asked == 1

    asyncio.run(test())


def test_without_the_store_a_call_is_refused_said_once_and_well_again() -> None:
    async def test() -> None:
        far, said = Far(), list[str]()
        counter, quota = Leased(far, said.append), Quota(100.0, 1.0)
        assert (await one(counter, quota)).granted
        far.down = True
        for _ in range(3):
            with pytest.raises(DependencyFault):
                await one(counter, quota, 50.0)
        far.down = False
        assert (await one(counter, quota)).granted
        assert said == [
            "limits: redis: ConnectionError; calls that need them are refused until it answers",
            "limits: works again",
        ]

    asyncio.run(test())


def test_what_is_left_of_a_budget_is_given_back_at_the_end() -> None:
    async def test() -> None:
        far, quota = Far(), Quota(640.0, 0.0, time.time() + 60)
        counter = Leased(far)
        assert (await one(counter, quota)).granted
        await counter.close()
        assert far.store.take("k", 639.0, quota) == Taken(639.0, 0.0)

    asyncio.run(test())


def test_an_old_slice_of_a_rate_is_not_used() -> None:
    async def test() -> None:
        clock = [0.0]
        far: Any = Far()
        counter = Leased(far, now=lambda: clock[0])
        quota = Quota(80.0, 40.0)
        assert (await one(counter, quota)).granted
        clock[0] += 5
        far.down = True
        with pytest.raises(DependencyFault):
            await one(counter, quota)

    asyncio.run(test())
