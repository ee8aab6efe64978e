"""Many deadlines on one timer: entering one costs a set entry, not a timer of the event loop."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

TICK: Final = 0.05


class Deadline(Protocol):
    """Something that must be over by the loop's time `until`. Compared by identity."""

    until: float

    def expire(self) -> None:
        """Its time is over."""
        ...


class Deadlines:
    """Calls `expire` at most `tick` seconds late, and once; whoever is done before is discarded."""

    def __init__(self, tick: float = TICK) -> None:
        self._tick, self._open = tick, set[Deadline]()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, deadline: Deadline) -> None:
        """Watch it. Must run inside the event loop."""
        self._open.add(deadline)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick, self._sweep)

    def discard(self, deadline: Deadline) -> None:
        """It is over."""
        self._open.discard(deadline)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for late in [deadline for deadline in self._open if deadline.until <= now]:
            self._open.discard(late)
            late.expire()
        self._timer = loop.call_later(self._tick, self._sweep) if self._open else None
