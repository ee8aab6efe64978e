"""Calls under way (A12): bounded, fair, shared by replicas, and free again whatever ended the call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import pytest
from policy_material import caller, tool

from limen.core.call import Approved, Caller
from limen.core.faults import DependencyFault
from limen.engine import Engine
from limen.policy.buckets import MemoryCounter
from limen.policy.limit import LimitSettings
from limen.policy.slots import LEASE, Held, Slots


class Facts:
    """As much of a Permit as places are given by."""

    def __init__(self, who: str, server: str = "mail", name: str = "send") -> None:
        self._facts = {Caller: caller(who), Approved: tool(server, name)}

    def get(self, kind: type) -> Any:
        return self._facts[kind]


def slots(counter: Any = None, now: Any = time.monotonic, **settings: Any) -> Slots:
    return Slots(LimitSettings.model_validate(settings), counter, now)


def enter(places: Slots, who: str, **what: str) -> Any:
    facts: Any = Facts(who, **what)
    return places.enter(facts)


async def come(places: Slots, who: str, **what: str) -> Any:
    answer = enter(places, who, **what)
    return await answer if isinstance(answer, Awaitable) else answer


@pytest.mark.requirement("AU-20")
def test_so_many_calls_of_a_caller_and_then_none_until_one_ends() -> None:
    places = slots(caller={"concurrency": 2})
    held = [enter(places, "alice") for _ in range(3)]
    assert [isinstance(one, Held) for one in held] == [True, True, False]
    assert held[2].reason.id == "policy.busy"
    assert held[2].public == {"retry_after": 1}
    assert isinstance(enter(places, "bob"), Held)
    held[0].leave()
    held[0].leave()  # once only
    assert isinstance(enter(places, "alice"), Held)
    assert not isinstance(enter(places, "alice"), Held)


def test_nobody_gets_all_places_of_a_server() -> None:
    places = slots(caller={}, servers={"mail": {"concurrency": 8}})
    flood = [one for one in (enter(places, "flood") for _ in range(50)) if isinstance(one, Held)]
    assert len(flood) == 4
    others = [one for one in (enter(places, f"c{number}") for number in range(4)) if isinstance(one, Held)]
    assert len(others) == 4
    assert not isinstance(enter(places, "late"), Held)  # all taken: turned away, and remembered
    for one in flood:
        one.leave()
    again = [one for one in (enter(places, "flood") for _ in range(50)) if isinstance(one, Held)]
    assert len(again) == 2  # even parts now that six want some
    assert isinstance(enter(places, "late"), Held)
    assert isinstance(enter(places, "flood", server="files"), Held)


def test_a_refused_call_leaves_no_place_behind() -> None:
    places = slots(caller={"concurrency": 5}, tools={"mail/*": {"concurrency": 2}})
    held = [enter(places, "alice") for _ in range(9)]
    for one in held:
        if isinstance(one, Held):
            one.leave()
    assert all(not place.crowd.total for place in places._places.values())


@pytest.mark.parametrize("how", ["crash", "cancel", "deadline", "honest"])
def test_a_place_is_free_again_whatever_ends_the_call(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        places = slots(caller={"concurrency": 1})
        nothing: Any = None
        engine = Engine(nothing, nothing, nothing, {}, slots=places)

        async def forwarded(*_: Any) -> bytes:
            assert not isinstance(enter(places, "alice"), Held)
            if how == "crash":
                raise RuntimeError("boom")
            await asyncio.sleep(30 if how in ("cancel", "deadline") else 0)
            return b"{}"

        monkeypatch.setattr(engine, "_forward", forwarded)
        permit: Any = Facts("alice")
        task = asyncio.create_task(engine.forward(permit, nothing, nothing, nothing))
        await asyncio.sleep(0.01)
        if how == "cancel":
            task.cancel()
        if how == "deadline":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.01)
        await asyncio.gather(task, return_exceptions=True)
        assert isinstance(enter(places, "alice"), Held)

    asyncio.run(test())


def test_other_bounds_from_now_on() -> None:
    places = slots(caller={"concurrency": 4})
    held = [enter(places, "alice") for _ in range(4)]
    places.adopt(LimitSettings.model_validate({"caller": {"concurrency": 2}}))
    assert not isinstance(enter(places, "alice"), Held)
    for one in held[:3]:
        one.leave()
    assert isinstance(enter(places, "alice"), Held)


def test_replicas_share_places_and_one_that_dies_frees_them() -> None:
    async def test() -> None:
        clock = [100.0]
        store: Any = MemoryCounter(now=lambda: clock[0])
        one, other = (slots(store, lambda: clock[0], caller={"concurrency": 8}) for _ in range(2))
        held = [await come(replica, "alice") for _ in range(10) for replica in (one, other)]
        assert sum(isinstance(answer, Held) for answer in held) == 8
        clock[0] += LEASE * 0.9
        await other.once()  # this one lives, the first was killed
        clock[0] += LEASE * 0.5
        more = [await come(other, "alice") for _ in range(10)]
        assert sum(isinstance(answer, Held) for answer in more) == 4

    asyncio.run(test())


def test_places_nobody_needs_are_given_back() -> None:
    async def test() -> None:
        store: Any = MemoryCounter()
        one, other = (slots(store, caller={"concurrency": 2}) for _ in range(2))
        held = [await come(one, "alice") for _ in range(2)]
        assert not isinstance(await come(other, "alice"), Held)
        for answer in held:
            answer.leave()
        await one.once()
        assert isinstance(await come(other, "alice"), Held)
        assert not one._places

    asyncio.run(test())


def test_without_the_store_no_more_calls_are_admitted_than_are_paid_for() -> None:
    async def test() -> None:
        class Down:
            down = False
            store: Any = MemoryCounter()

            async def hold(self, *arguments: Any) -> int:
                if self.down:
                    raise DependencyFault("redis", "gone")
                return int(self.store.hold(*arguments))

        far: Any = Down()
        places = slots(far, caller={"concurrency": 64})
        first = await come(places, "alice")
        far.down = True
        more = [await come(places, "alice") for _ in range(7)]  # an eighth was taken at once
        assert all(isinstance(one, Held) for one in more)
        with pytest.raises(DependencyFault):
            await come(places, "alice")
        await places.once()
        far.down = False
        assert isinstance(await come(places, "alice"), Held)
        first.leave()

    asyncio.run(test())


def test_a_place_that_is_being_given_back_is_not_used_meanwhile() -> None:
    """A call that comes while the answer of the store is under way must not sit in a place others have by then."""

    async def test() -> None:
        class Slow:
            store: Any = MemoryCounter()

            async def hold(self, *arguments: Any) -> int:
                got = int(self.store.hold(*arguments))
                await asyncio.sleep(0.05)
                return got

        far: Any = Slow()
        one, other = (slots(far, caller={"concurrency": 64}) for _ in range(2))
        (await come(one, "alice")).leave()  # one holds eight, and needs none
        renewing = asyncio.create_task(one.once())
        await asyncio.sleep(0.01)
        late = asyncio.gather(*(come(one, "alice") for _ in range(8)))
        taken = [await come(other, "alice") for _ in range(64)]
        both = [*taken, *await late]
        await renewing
        assert sum(isinstance(answer, Held) for answer in both) <= 64

    asyncio.run(test())
