"""Calls under way: so many for each caller, client, server and pattern, on all replicas together.

A replica holds places for a few seconds and renews them while calls run. One that was killed stops renewing, and its
places are free again after `LEASE` seconds; one that cannot renew admits no more calls.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from limen.core.call import Approved, Caller
from limen.core.faults import DependencyFault
from limen.core.ports import Counter
from limen.core.verdict import Permit, Refuse, refuse
from limen.policy.limit import LimitSettings, Matching
from limen.policy.shares import Crowd

LEASE: Final = 6.0
RENEW: Final = 2.0
ROUND: Final = 32  # renewed at once


@dataclass(slots=True)
class Place:
    """Places of one key: who is in them here, and how many this replica holds of all."""

    capacity: int
    shared: bool
    crowd: Crowd = field(default_factory=Crowd)
    lease: int = 0
    until: float = 0.0
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Held:
    """The places of one call. `leave` gives them back, once."""

    __slots__ = ("_caller", "_places")

    def __init__(self, caller: str, places: list[Place]) -> None:
        self._caller, self._places = caller, places

    def leave(self) -> None:
        """Whatever ended the call."""
        places, self._places = self._places, []
        for place in places:
            place.crowd.leave(self._caller)


class Slots:
    """`counter` None: this process is alone, and its places are all there are."""

    def __init__(
        self, settings: LimitSettings, counter: Counter | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._matching, self._counter, self._now = Matching(settings), counter, now
        self._holder = secrets.token_hex(8)
        self._places: dict[str, Place] = {}

    def adopt(self, settings: LimitSettings) -> None:
        """Other bounds from now on; who is in a place stays in it."""
        self._matching = Matching(settings)

    def enter(self, permit: Permit) -> Held | Refuse | Awaitable[Held | Refuse]:
        """A place of everything this call needs one of, or `policy.busy`. The awaitable may raise DependencyFault."""
        counted = self._matching.of(permit.get(Caller), permit.get(Approved))
        who, places = counted.who, self._places
        wanted: list[Place] = []
        for key, capacity, shared in counted.places:
            place = places.get(key)
            if place is None:
                place = places[key] = Place(capacity, shared)
            place.capacity = capacity
            wanted.append(place)
            if not place.crowd.admits(who, capacity, self._now, shared=shared):
                return refuse("policy.busy", f"{place.crowd.total} calls under way of {key}", retry_after=1)
            if self._counter is not None and not self._covered(place):
                return self._ask(permit, key, place)
        for place in wanted:
            place.crowd.enter(who)
        if len(places) > 10_000:
            self._forget()
        return Held(who, wanted)

    def _covered(self, place: Place) -> bool:
        return self._now() < place.until and place.crowd.total < place.lease

    async def _ask(self, permit: Permit, key: str, place: Place) -> Held | Refuse:
        """Hold more of this key, then begin anew: meanwhile others came and went."""
        async with place.asking:
            if not self._covered(place):
                more = place.crowd.total + max(1, place.capacity // 8)
                await self._hold(key, place, min(more, place.capacity))
                if place.lease <= place.crowd.total:
                    return refuse("policy.busy", f"other replicas have the rest of {key}", retry_after=1)
        answer = self.enter(permit)
        return answer if isinstance(answer, Held | Refuse) else await answer

    async def _hold(self, key: str, place: Place, want: int) -> None:
        assert self._counter is not None
        began = self._now()
        place.lease = min(place.lease, want)  # what is given back must not be used while the answer is under way
        answer = self._counter.hold(key, self._holder, want, place.capacity, LEASE)
        place.lease = answer if isinstance(answer, int) else await answer
        place.until = began + LEASE * 0.8  # ends here before it ends there

    async def renew(self) -> None:
        """Keep what calls are in, give back what nobody needs. Runs until cancelled."""
        while True:
            await asyncio.sleep(RENEW)
            await self.once()

    async def once(self) -> None:
        """One round; what cannot be renewed runs out by itself, and is asked for by the next call."""
        if self._counter is None:
            return
        used = [(key, place) for key, place in self._places.items() if place.lease or place.crowd.total]
        for at in range(0, len(used), ROUND):
            try:
                await asyncio.gather(*(self._renew(key, place) for key, place in used[at : at + ROUND]))
            except DependencyFault:
                break
        self._forget()

    async def _renew(self, key: str, place: Place) -> None:
        async with place.asking:
            await self._hold(key, place, place.crowd.total)

    async def close(self) -> None:
        """Give everything back: a replica that stops is missed by nobody."""
        for place in self._places.values():
            place.crowd = Crowd()
        await self.once()

    def _forget(self) -> None:
        for key in [key for key, place in self._places.items() if not place.crowd.total and not place.lease]:
            del self._places[key]
