"""Every Bus behaves like this: whoever listens hears what others publish, and is told when something may be missed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from limen.adapters.postgres import Link, PostgresBus, PostgresTable
from limen.adapters.redis import RedisBus
from limen.core.faults import DependencyFault
from stores import new_postgres, new_redis, shared_postgres, shared_redis

MAKE: dict[str, Callable[[str], Any]] = {"postgres": PostgresBus, "redis": RedisBus}


async def heard_within(heard: list[str], topic: str, seconds: float = 5.0) -> None:
    started = time.monotonic()
    while topic not in heard:
        assert time.monotonic() - started < seconds, heard
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("kind", MAKE)
def test_whoever_listens_hears(kind: str) -> None:
    async def test() -> None:
        url = shared_postgres() if kind == "postgres" else shared_redis()
        first, second = list[str](), list[str]()
        tasks = [asyncio.create_task(MAKE[kind](url).listen(heard.append)) for heard in (first, second)]
        for heard in (first, second):
            await heard_within(heard, "")  # what was published before may have been missed
        await asyncio.to_thread(MAKE[kind](url).publish, "revocations")
        for heard in (first, second):
            await heard_within(heard, "revocations", 1.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(test())


@pytest.mark.parametrize("kind", MAKE)
def test_a_bus_that_is_gone_is_a_fault(kind: str) -> None:
    async def test() -> None:
        url, server = (new_postgres if kind == "postgres" else new_redis)()
        heard = list[str]()
        task = asyncio.create_task(MAKE[kind](url).listen(heard.append))
        await heard_within(heard, "")
        server.kill()
        with pytest.raises(DependencyFault):
            await asyncio.wait_for(task, 10)
        with pytest.raises(DependencyFault):
            await asyncio.to_thread(MAKE[kind](url).publish, "x")
        with pytest.raises(DependencyFault):
            await asyncio.wait_for(MAKE[kind](url).listen(heard.append), 10)

    asyncio.run(test())


def test_postgres_tables_announce_what_was_written_and_only_that() -> None:
    async def test() -> None:
        url, heard = shared_postgres(), list[str]()
        task = asyncio.create_task(PostgresBus(url).listen(heard.append))
        await heard_within(heard, "")
        quiet = PostgresTable(Link(url), "quiet", told=False)
        told = PostgresTable(Link(url), "told")
        before = told.change_token()
        quiet.put("a", b"1")
        assert not told.swap("absent", b"no", b"x")
        assert told.change_token() == before
        told.put("a", b"1")
        await heard_within(heard, "told")
        assert told.change_token() != before
        assert "quiet" not in heard
        assert heard.count("told") == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(test())
