"""What limits and revocation cost one call, in microseconds of CPU. Run by hand:

    python bench/state.py [--redis URL] [--postgres URL]

The first part is what every call pays, in this process; the second is a round trip to a shared store, which a call pays
when its slice of a limit is used up.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

from limen.adapters.counting import TableCounter
from limen.adapters.sqlite import open_tables
from limen.core.call import Approved, Call, Caller, Context, Era, Presented
from limen.core.ports import Quota
from limen.identity.revoked import Revocation, Revocations, Revoked, revoke
from limen.policy.buckets import MemoryCounter
from limen.policy.leases import Leased
from limen.policy.limit import Limit, LimitSettings, Spend
from limen.policy.slots import Slots

CALLER = Caller("https://id.example", "alice", "app", token_id="t-1", key_id="k-1")
TOOL = Approved("mail", "tool", "send", "digest", b"{}")
BUSY = {
    "rate": 1_000_000, "burst": 1_000_000,
    "caller": {"concurrency": 64, "daily": {"calls": 10**9, "cost": 10**9}},
    "servers": {"mail": {"rate": 1_000_000, "concurrency": 1000}},
    "tools": {"mail/*": {"cost": 2, "bytes": 100_000}},
}  # fmt: skip


class Facts(Context):
    """A Context is read like a Permit."""


def context() -> Facts:
    call = Call("tools/call", "mail", "mail", Era.MODERN, "2026-07-28", name="send", arguments=b"{}")
    return Facts(call, Presented(), time.monotonic() + 1e6, "ref", {Caller: CALLER, Approved: TOOL})


def timed(what, turns=50_000):
    """Best of five, microseconds for one."""
    best = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(turns):
            what()
        best.append((time.process_time() - started) / turns * 1e6)
    return min(best)


def revocations(directory: Path, number: int):
    table = open_tables(directory / f"{number}.db", ["revocations"])["revocations"]
    for index in range(number):
        table.put(f"r/{index}", b"")  # room for the real one below
        table.swap(f"r/{index}", b"", None)
    if number:
        revoke(table, Revocation("user", "mallory"))
    known = Revocations(table, monotonic=lambda: 0.0)
    known.refresh()
    for index in range(number):
        known._found["user", "", f"u{index}"] = Revocation("user", f"u{index}")
    return Revoked(known)


def slot(slots, permit):
    held = slots.enter(permit)
    held.leave()


async def trip(counter, turns=300):
    """Median of a take that always asks the store."""
    quota, times = Quota(1e9, 0.0, time.time() + 1000), []
    for _ in range(turns):
        started = time.perf_counter()
        answer = counter.take("bench", 1, quota)
        if isinstance(answer, Awaitable):
            await answer
        times.append((time.perf_counter() - started) * 1e6)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis")
    parser.add_argument("--postgres")
    wanted = parser.parse_args()
    seen, settings = context(), LimitSettings.model_validate(BUSY)
    memory = MemoryCounter()
    limit, spend, both = Limit(settings, memory), Spend(settings, memory, memory), Slots(settings)
    idle, own = Spend(LimitSettings(), memory, memory), Slots(LimitSettings())
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        none, many = revocations(directory, 0), revocations(directory, 1000)
        rows = {
            "Revoked, nothing revoked": timed(lambda: none.check(seen)),
            "Revoked, 1000 revoked": timed(lambda: many.check(seen)),
            "Limit, one process": timed(lambda: limit.check(seen)),
            "Spend, nothing configured": timed(lambda: idle.check(seen)),
            "Spend, a rate and two budgets": timed(lambda: spend.check(seen)),
            "Slots, caller": timed(lambda: slot(own, seen)),
            "Slots, caller and server": timed(lambda: slot(both, seen)),
        }
        leased = Leased(memory)

        async def sliced() -> float:
            quota = Quota(1e9, 1e8)
            await leased.take("k", 1, quota)
            return timed(lambda: leased.take("k", 1, quota), 10_000)

        rows["Leased, from the slice"] = asyncio.run(sliced())
        counts = open_tables(directory / "counts.db", ["counts"])["counts"]
        rows["round trip, SQLite"] = asyncio.run(trip(TableCounter(counts)))
    if wanted.redis:
        from limen.adapters.redis import RedisCounter

        rows["round trip, Redis"] = asyncio.run(trip(RedisCounter(wanted.redis, "bench/")))
    if wanted.postgres:
        from limen.adapters.postgres import open_tables as postgres_tables

        table = postgres_tables(wanted.postgres, ["counts"])["counts"]
        rows["round trip, PostgreSQL"] = asyncio.run(trip(TableCounter(table)))
    for what, cost in rows.items():
        print(f"{what:<36} {cost:8.2f} µs")


if __name__ == "__main__":
    main()
