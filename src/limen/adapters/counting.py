"""`Counter` over any `Table`, by compare-and-set: for stores that have nothing of the kind themselves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Final

from limen.core.faults import DependencyFault
from limen.core.ports import Quota, Table, Taken
from limen.policy.buckets import lifetime, places, take

_TRIES: Final = 64


class TableCounter:
    """Each step is one read and one swap in a thread, again where another process was faster. Clocks are the callers':
    replicas must agree on the time to a fraction of a second, or a bucket fills too early by the difference."""

    def __init__(self, table: Table, now: Callable[[], float] = time.time) -> None:
        self._table, self._now = table, now

    async def take(self, key: str, want: float, quota: Quota, least: float | None = None) -> Taken:
        """See `Counter.take`."""
        return await asyncio.to_thread(self._take, key, want, quota, least)

    async def hold(self, key: str, holder: str, want: int, capacity: int, seconds: float) -> int:
        """See `Counter.hold`."""
        return await asyncio.to_thread(self._hold, key, holder, want, capacity, seconds)

    async def close(self) -> None:
        """See `Counter.close`: the table belongs to whoever opened it."""

    def _take(self, key: str, want: float, quota: Quota, least: float | None) -> Taken:
        for _ in range(_TRIES):
            raw, now = self._table.get(f"b/{key}"), self._now()
            before, then = _read(raw, quota.capacity, now)
            tokens, taken = take(before, then, now, want, least, quota)
            if not taken.granted:
                return taken
            expires = quota.ends if quota.ends is not None else now + min(lifetime(quota, tokens), 1e9)
            if self._table.swap(f"b/{key}", raw, json.dumps([tokens, max(then, now)]).encode(), expires):
                return taken
        raise DependencyFault("counter", "others were always faster")

    def _hold(self, key: str, holder: str, want: int, capacity: int, seconds: float) -> int:
        for _ in range(_TRIES):
            raw, now = self._table.get(f"h/{key}"), self._now()
            held = {name: (int(n), float(until)) for name, (n, until) in json.loads(raw or b"{}").items()}
            got = places(held, holder, now, want, capacity)
            live = {name: one for name, one in held.items() if name != holder and one[1] > now}
            if got:
                live[holder] = (got, now + seconds)
            elif holder not in held:
                return 0
            last = max((until for _, until in live.values()), default=now)
            if self._table.swap(f"h/{key}", raw, json.dumps(live).encode() if live else None, last):
                return got
        raise DependencyFault("counter", "others were always faster")


def _read(raw: bytes | None, capacity: float, now: float) -> tuple[float, float]:
    """Raises DependencyFault for what is not ours."""
    if raw is None:
        return capacity, now
    try:
        tokens, then = json.loads(raw)
        return float(tokens), float(then)
    except (ValueError, TypeError):
        raise DependencyFault("counter", "a count is damaged", retryable=False) from None
