"""A counter that many replicas share, used a slice at a time: most calls take from the slice and wait for nobody.

What a slice holds has been taken from the shared count before, so replicas together never admit more than there is;
what one does not use, or dies with, is admitted later or, of a daily budget, not at all (see docs/state.md).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from limen.core.faults import DependencyFault
from limen.core.ports import Counter, Quota, Taken

KEEP: Final = 1.0  # seconds a slice of a rate may be used
SLICE: Final = 0.25  # seconds of a rate in one slice
PART: Final = 64  # of a budget, at most this part at a time
PAUSE: Final = 0.25  # seconds a refusal of the shared count is not asked about again


@dataclass(slots=True)
class Slice:
    """What is left of one key here, and until when. `dry` until: the shared count said that there is no more."""

    left: float = 0.0
    until: float = 0.0
    known: float = math.inf
    dry: float = 0.0
    ends: float = 0.0
    budget: Quota | None = None
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Leased:
    """`Counter` in front of a shared one. `tell` hears once when that one fails, and when it works again."""

    def __init__(
        self,
        shared: Counter,
        tell: Callable[[str], None] = lambda text: None,
        most: int = 100_000,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared, self._tell, self._most, self._now = shared, tell, most, now
        self._slices: OrderedDict[str, Slice] = OrderedDict()
        self._failing = False

    def take(self, key: str, want: float, quota: Quota, least: float | None = None) -> Taken | Awaitable[Taken]:
        """See `Counter.take`; all or nothing."""
        now, one = self._now(), self._slices.get(key)
        if one is None:
            one = self._slices[key] = Slice()
            if len(self._slices) > self._most:
                self._slices.popitem(last=False)
        if want <= 0:
            one.left -= want
            return Taken(want, one.left)
        if one.left >= want and now < one.until:
            one.left -= want
            return Taken(want, one.left + one.known)
        if now < one.dry:
            return Taken(0.0, 0.0, one.ends - now)
        return self._more(key, want, quota, one)

    def hold(self, key: str, holder: str, want: int, capacity: int, seconds: float) -> int | Awaitable[int]:
        """See `Counter.hold`: nothing to slice here."""
        return self._shared.hold(key, holder, want, capacity, seconds)

    async def _more(self, key: str, want: float, quota: Quota, one: Slice) -> Taken:
        async with one.asking:  # those who come meanwhile wait for the same slice
            now = self._now()
            if now >= one.until and quota.rate > 0:
                one.left = 0.0  # too old: the shared bucket has filled up meanwhile
            if one.left < want and now >= one.dry:
                asked = max(want - one.left, _slice(quota, one.known))
                taken = await self._ask(key, asked, quota, want - one.left)
                now = self._now()
                one.left, one.known = one.left + taken.granted, taken.left
                one.until = now + KEEP if quota.rate > 0 else math.inf
                one.budget = None if quota.rate > 0 else quota
                if not taken.granted:
                    one.dry, one.ends = now + min(PAUSE, taken.wait), now + taken.wait
            if one.left < want:
                return Taken(0.0, one.left, max(0.0, one.ends - now))
            one.left -= want
            return Taken(want, one.left + one.known)

    async def close(self) -> None:
        """Give back what is left of budgets, then let go of the shared counter. Raises DependencyFault."""
        try:
            for key, one in list(self._slices.items()):
                left, one.left = one.left, 0.0
                if one.budget is not None and left >= 1:
                    await self._ask(key, -left, one.budget, -left)
        finally:
            await self._shared.close()

    async def _ask(self, key: str, want: float, quota: Quota, least: float) -> Taken:
        try:
            answer = self._shared.take(key, want, quota, least)
            taken = answer if isinstance(answer, Taken) else await answer
        except DependencyFault as fault:
            if not self._failing:
                self._failing = True
                self._tell(f"limits: {fault}; calls that need them are refused until it answers")
            raise
        if self._failing:
            self._failing = False
            self._tell("limits: works again")
        return taken


def _slice(quota: Quota, known: float) -> float:
    """How much to take at a time: whole units, and never more than an eighth of a bucket."""
    wanted = quota.rate * SLICE if quota.rate > 0 else min(known, quota.capacity) / PART
    return float(max(1, math.floor(min(wanted, quota.capacity / 8))))
