"""Fair shares of what several callers use together: nobody starves because somebody else is busy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from limen.core.ports import Quota

WINDOW: Final = 1.0  # seconds over which shares of a rate are compared
MEMORY: Final = 2.0  # seconds somebody who was refused still counts as waiting for a place
MOST: Final = 1000  # claimants remembered for one thing


class Shares:
    """Of a rate. Alone, a caller may use all of it. When several ask within a second and less than half a bucket is
    left, none gets more than an even part of what that second allows."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._windows: dict[str, tuple[float, dict[str, int], int]] = {}
        self._left: dict[str, float] = {}

    def left(self, key: str, units: float) -> None:
        """What a counter said is left in this bucket."""
        self._left[key] = units

    def fair(self, key: str, caller: str, quota: Quota) -> bool:
        """Count one more try of this caller; may it have it?"""
        now = self._now()
        began, tries, before = self._windows.get(key, (now, {}, 1))
        if now - began >= WINDOW:
            before = len(tries) if now - began < 2 * WINDOW else 1
            began, tries = now, {}
        self._windows[key] = (began, tries, before)
        if caller not in tries and len(tries) >= MOST:
            return True  # nobody's share can be told from another's: the bucket decides alone
        mine = tries[caller] = tries.get(caller, 0) + 1
        claimants = max(len(tries), before)
        if claimants == 1 or self._left.get(key, quota.capacity) >= quota.capacity / 2:
            return True
        return mine <= max(1, math.floor(quota.rate * WINDOW / claimants))


class Crowd:
    """Who holds how many of a number of places, and who was turned away a moment ago."""

    __slots__ = ("held", "total", "turned_away")

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.total = 0
        self.turned_away: dict[str, float] = {}

    def admits(self, caller: str, places: int, clock: Callable[[], float], *, shared: bool) -> bool:
        """May this caller have one more of so many places? `shared`: they are for everybody, so nobody gets more than
        half, nor more than an even part while others hold some or wait."""
        mine = self.held.get(caller, 0)
        if not shared:
            return mine < places
        now = clock()
        waiting = [who for who, since in self.turned_away.items() if now - since < MEMORY]
        claimants = len({*self.held, *waiting, caller})
        most = min(max(1, places // 2), math.ceil(places / claimants))
        fits = mine < most and self.total < places
        if fits:
            self.turned_away.pop(caller, None)
        elif mine == 0:
            if len(self.turned_away) >= MOST:
                self.turned_away = {who: self.turned_away[who] for who in waiting[-MOST // 2 :]}
            self.turned_away[caller] = now
        return fits

    def enter(self, caller: str) -> None:
        """One more place is taken."""
        self.held[caller] = self.held.get(caller, 0) + 1
        self.total += 1

    def leave(self, caller: str) -> None:
        """One is free again."""
        self.total -= 1
        self.held[caller] -= 1
        if not self.held[caller]:
            del self.held[caller]
