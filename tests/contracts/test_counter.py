"""Every Counter behaves like this (A12): in memory, over any table, and in Redis. Real servers, real concurrency."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from limen.adapters.counting import TableCounter
from limen.adapters.postgres import open_tables as postgres_tables
from limen.adapters.redis import RedisCounter
from limen.adapters.sqlite import open_tables as sqlite_tables
from limen.core.faults import DependencyFault
from limen.core.ports import Quota, Taken
from limen.policy.buckets import MemoryCounter
from stores import new_redis, shared_postgres, shared_redis

KINDS = ("memory", "sqlite", "postgres", "redis")


@asynccontextmanager
async def counters(kind: str, tmp_path: Any, number: int = 1) -> AsyncIterator[list[Any]]:
    """As many counters of one store as there are replicas."""
    if kind == "memory":
        yield [MemoryCounter(now=time.time)] * number
    elif kind == "redis":
        made = [RedisCounter(shared_redis()) for _ in range(number)]
        yield made
        for one in made:
            await one.close()
    else:
        place = tmp_path / "state.db" if kind == "sqlite" else shared_postgres()
        opened = [(sqlite_tables if kind == "sqlite" else postgres_tables)(place, ["counts"]) for _ in range(number)]
        yield [TableCounter(tables["counts"]) for tables in opened]
        for tables in opened:
            tables["counts"].close()


async def answer(given: Any) -> Any:
    return await given if isinstance(given, Awaitable) else given


def run(kind: str, tmp_path: Any, test: Callable[..., Any], number: int = 1) -> None:
    async def all_of_it() -> None:
        async with counters(kind, tmp_path, number) as made:
            await test(*made, uuid.uuid4().hex)

    asyncio.run(all_of_it())


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_is_given_once_and_no_more(kind: str, tmp_path: Any) -> None:
    async def test(counter: Any, key: str) -> None:
        budget = Quota(10, 0.0, time.time() + 50)
        assert (await answer(counter.take(key, 4, budget))).granted == 4
        assert (await answer(counter.take(key, 8, budget, 1))) == Taken(6, 0)
        refused = await answer(counter.take(key, 1, budget))
        assert refused.granted == 0
        assert 45 < refused.wait <= 50
        assert (await answer(counter.take(key, -3, budget))).granted == -3
        assert (await answer(counter.take(key, 9, budget, 1))).granted == 3
        assert (await answer(counter.take(key, -99, budget))).left == 10  # giving back never makes more than there was
        assert (await answer(counter.take(key + "other", 10, budget))).granted == 10

    run(kind, tmp_path, test)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bucket_fills_again_and_says_when(kind: str, tmp_path: Any) -> None:
    async def test(counter: Any, key: str) -> None:
        quota = Quota(5, 20.0)
        assert (await answer(counter.take(key, 5, quota))).granted == 5
        refused = await answer(counter.take(key, 5, quota))
        assert refused.granted == 0
        assert 0.1 < refused.wait <= 0.25
        await asyncio.sleep(refused.wait + 0.05)
        assert (await answer(counter.take(key, 5, quota))).granted == 5

    run(kind, tmp_path, test)


@pytest.mark.parametrize("kind", KINDS)
def test_replicas_together_get_no_more_than_there_is(kind: str, tmp_path: Any) -> None:
    async def test(one: Any, other: Any, key: str) -> None:
        quota = Quota(40, 0.0, time.time() + 60)
        given = await asyncio.gather(
            *(answer(counter.take(key, 3, quota, 1)) for _ in range(10) for counter in (one, other))
        )
        assert sum(taken.granted for taken in given) == 40

    run(kind, tmp_path, test, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_places_are_for_holders_and_come_free(kind: str, tmp_path: Any) -> None:
    async def test(one: Any, other: Any, key: str) -> None:
        assert await answer(one.hold(key, "one", 3, 4, 30)) == 3
        assert await answer(other.hold(key, "other", 3, 4, 30)) == 1
        assert await answer(one.hold(key, "one", 9, 4, 30)) == 3  # what others hold stays theirs
        assert await answer(one.hold(key, "one", 0, 4, 30)) == 0
        assert await answer(one.hold(key, "one", 0, 4, 30)) == 0
        assert await answer(other.hold(key, "other", 9, 4, 30)) == 4

    run(kind, tmp_path, test, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_holder_that_does_not_come_back_loses_its_places(kind: str, tmp_path: Any) -> None:
    """What a replica that was killed held is free again after its time."""

    async def test(one: Any, other: Any, key: str) -> None:
        assert await answer(one.hold(key, "killed", 4, 4, 0.2)) == 4
        assert await answer(other.hold(key, "other", 1, 4, 30)) == 0
        await asyncio.sleep(0.3)
        assert await answer(other.hold(key, "other", 4, 4, 30)) == 4

    run(kind, tmp_path, test, 2)


def test_redis_that_is_gone_or_silent_is_a_fault_and_comes_back() -> None:
    async def test() -> None:
        url, server = new_redis()
        counter = RedisCounter(url)
        quota = Quota(1000, 0.0, time.time() + 60)
        assert (await counter.take("a", 1, quota)).granted == 1
        server.pause()
        started = time.monotonic()
        with pytest.raises(DependencyFault):
            await counter.take("a", 1, quota)
        waited = time.monotonic()
        with pytest.raises(DependencyFault):
            await counter.take("a", 1, quota)  # at once: the next caller does not wait as well
        assert time.monotonic() - waited < (waited - started) / 2
        server.resume()
        server.kill()
        with pytest.raises(DependencyFault):
            await counter.take("a", 1, quota)
        server.start()
        await asyncio.sleep(0.3)
        assert (await counter.take("a", 1, quota)).granted == 1
        await counter.close()
        server.kill()

    asyncio.run(test())
    with pytest.raises(DependencyFault):
        RedisCounter("http://nothing")
