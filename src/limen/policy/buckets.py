"""Token buckets and places: what a counter computes, wherever it keeps the numbers; and one in memory."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from limen.core.ports import Quota, Taken


def take(tokens: float, then: float, now: float, want: float, least: float | None, quota: Quota) -> tuple[float, Taken]:
    """What is in the bucket afterwards, and what was taken. A clock that steps back neither fills nor drains."""
    least, capacity = want if least is None else least, quota.capacity
    if now > then:
        tokens += (now - then) * quota.rate
    tokens = min(capacity, tokens)
    if 0 < want == least and want <= tokens and want == want // 1:  # the ordinary case: whole units that are there
        return tokens - want, Taken(want, tokens - want)
    if want <= 0:
        return min(capacity, tokens - want), Taken(want, min(capacity, tokens - want))
    granted = min(want, float(math.floor(tokens + 1e-9)))
    if granted >= least and granted > 0:
        return tokens - granted, Taken(granted, tokens - granted)
    wait = math.inf if quota.ends is None else quota.ends - now
    if quota.rate > 0:
        wait = (least - tokens) / quota.rate
    return tokens, Taken(0.0, tokens, max(0.0, wait))


def lifetime(quota: Quota, tokens: float) -> float:
    """Seconds after which a bucket is as full as a new one, and need not be kept."""
    return (quota.capacity - tokens) / quota.rate + 1.0 if quota.rate > 0 else math.inf


def places(held: Mapping[str, tuple[int, float]], holder: str, now: float, want: int, capacity: int) -> int:
    """How many this holder can have, beside others whose time (the second number) is not over."""
    others = sum(number for name, (number, until) in held.items() if name != holder and until > now)
    return max(0, min(want, capacity - others))


class MemoryCounter:
    """`Counter` of one process, for rates and not for budgets: of more than `most` keys the idlest are forgotten, and
    begin full again."""

    def __init__(self, most: int = 100_000, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._now = most, now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._held: dict[str, dict[str, tuple[int, float]]] = {}

    def take(self, key: str, want: float, quota: Quota, least: float | None = None) -> Taken:
        """See `Counter.take`; `quota.ends` is on this counter's own clock."""
        now = self._now()
        tokens, then = self._buckets.get(key, (quota.capacity, now))
        tokens, taken = take(tokens, then, now, want, least, quota)
        self._buckets[key] = (tokens, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return taken

    def hold(self, key: str, holder: str, want: int, capacity: int, seconds: float) -> int:
        """See `Counter.hold`."""
        now, held = self._now(), self._held.setdefault(key, {})
        got = places(held, holder, now, want, capacity)
        live = {name: one for name, one in held.items() if name != holder and one[1] > now}
        if got:
            live[holder] = (got, now + seconds)
        if live:
            self._held[key] = live
        else:
            del self._held[key]
        return got

    async def close(self) -> None:
        """See `Counter.close`: there is nothing to let go of."""

    def __len__(self) -> int:
        return len(self._buckets)
