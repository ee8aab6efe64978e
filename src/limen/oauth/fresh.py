"""Something another server publishes, kept while it is fresh: one request at a time, and never many in a row."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from limen.core.faults import DependencyFault

Thing = TypeVar("Thing")


class Fresh(Generic[Thing]):
    """Loads when asked. While the other side cannot be reached, what it said last is good for `stale` seconds."""

    def __init__(
        self,
        load: Callable[[], Awaitable[Thing]],
        now: Callable[[], float],
        *,
        good: float = 900.0,
        stale: float = 86_400.0,
        apart: float = 10.0,
    ) -> None:
        """`good`: seconds until it is loaded again; `apart`: between two attempts, whoever asks."""
        self._load, self._now = load, now
        self._good, self._stale, self._apart = good, stale, apart
        self._thing: Thing | None = None
        self._loaded = self._tried = -math.inf
        self._trouble = "not asked yet"
        self._flight: asyncio.Task[None] | None = None

    async def get(self, *, anew: bool = False) -> Thing:
        """What is published. `anew`: something was missing in it, look again if that is not too soon.

        Raises DependencyFault when there is nothing young enough.
        """
        age = self._age(self._loaded)
        if anew or age > self._good:
            flight = self._start()
            if flight is not None:
                await asyncio.shield(flight)  # who gives up must not take the others' answer along
                age = self._age(self._loaded)
        if self._thing is None or age > self._stale:
            raise DependencyFault("identity provider", self._trouble)
        return self._thing

    def _age(self, since: float) -> float:
        """A clock that was set back makes everything old."""
        age = self._now() - since
        return age if age >= 0 else math.inf

    def _start(self) -> asyncio.Task[None] | None:
        if self._flight is not None and not self._flight.done():
            return self._flight
        if self._age(self._tried) < self._apart:
            return None
        self._tried = self._now()
        self._flight = asyncio.get_running_loop().create_task(self._renew())
        return self._flight

    async def _renew(self) -> None:
        try:
            self._thing = await self._load()
        except (DependencyFault, ValueError) as error:
            self._trouble = str(error)
        else:
            self._loaded = self._now()
