"""Calls and streams under way can be ended for those who are no longer welcome, and for nobody else (B9, J1)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from limen.core.call import Call, Caller, Context, Era, Presented
from limen.core.faults import DependencyFault
from limen.gateway.flights import Ended, Flights


def facts(subject: str) -> Context:
    call = Call("ping", "s", "s", Era.MODERN, "2026-07-28")
    return Context(call, Presented(), 0.0, "ref", {Caller: Caller("i", subject)})


ALICE, BOB = facts("alice"), facts("bob")


def unwelcome(facts: Any) -> bool:
    return facts.get(Caller).subject == "alice"


async def waits(seconds: float = 30.0) -> str:
    await asyncio.sleep(seconds)
    return "done"


async def swallows() -> str:
    """As a session's call does: a cancellation becomes an answer."""
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
    return "swallowed"


@pytest.mark.parametrize("work", [waits, swallows])
def test_what_is_ended_says_so_whatever_the_work_makes_of_it(work: Any) -> None:
    async def test() -> None:
        flights = Flights()
        bad, good = (asyncio.create_task(flights.fly(who, w)) for who, w in ((ALICE, work()), (BOB, waits(0.1))))
        await asyncio.sleep(0.01)
        assert flights.end(unwelcome, "identity.revoked") == 1
        assert flights.end(unwelcome, "incidents.contained") == 1  # once more changes nothing
        with pytest.raises(Ended) as ended:
            await bad
        assert ended.value.reason == "identity.revoked"  # the first reason stands
        assert await good == "done"
        assert len(flights) == 0

    asyncio.run(test())


def test_a_client_that_leaves_is_a_cancellation_and_nothing_else() -> None:
    async def test() -> None:
        flights = Flights()
        task = asyncio.create_task(flights.fly(ALICE, waits()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(flights) == 0

    asyncio.run(test())


def test_the_task_goes_on_living_after_its_call_was_ended() -> None:
    """A keep-alive connection serves the next request in the same task."""

    async def test() -> None:
        flights, ended = Flights(), list[bool]()

        async def connection() -> str:
            try:
                await flights.fly(ALICE, waits())
            except Ended:
                ended.append(True)
            return await flights.fly(ALICE, waits(0.01))

        task = asyncio.create_task(connection())
        await asyncio.sleep(0.01)
        flights.end(unwelcome, "incidents.contained")
        assert await task == "done"
        assert ended == [True]

    asyncio.run(test())


def test_what_became_unwelcome_while_it_was_decided_does_not_begin() -> None:
    """J1: deciding can take as long as a call; what is contained meanwhile was not under way and could not be ended."""

    async def test() -> None:
        flights, begun, readings = Flights(), list[str](), list[str]()

        async def work() -> str:
            begun.append("begun")
            return "done"

        async def reads() -> None:
            readings.append("read")

        async def fails() -> None:
            raise DependencyFault("table", "gone")

        flights.bars = lambda facts: "incidents.contained" if unwelcome(facts) else ""
        flights.fresh = reads
        with pytest.raises(Ended, match=r"incidents\.contained"):
            await flights.fly(ALICE, work())
        assert begun == []
        assert await flights.fly(BOB, work()) == "done"
        assert (begun, readings) == (["begun"], ["read", "read"])
        flights.fresh = fails
        with pytest.raises(Ended, match=r"fault\.dependency"):  # who is contained cannot be told
            await flights.fly(BOB, work())
        assert begun == ["begun"]
        assert len(flights) == 0

    asyncio.run(test())
