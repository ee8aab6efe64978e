"""What is under way here, so that it can be ended when it is no longer welcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from limen.core.call import Context
from limen.core.faults import DependencyFault
from limen.core.verdict import Permit

Answer = TypeVar("Answer")


class Ended(Exception):
    """It was ended by us. `reason`: the id of why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Flights:
    """Calls and streams under way, by the task that serves them."""

    def __init__(self) -> None:
        self._flying: dict[asyncio.Task[Any], Context | Permit] = {}
        self._ended: dict[asyncio.Task[Any], str] = {}
        # Deciding takes its time: whoever became unwelcome meanwhile was not under way yet, and could not be ended.
        self.fresh: Callable[[], Awaitable[None] | None] = lambda: None  # what to wait for before `bars` may be asked
        self.bars: Callable[[Context | Permit], str] = lambda facts: ""  # the id of why this must not begin, if so

    async def fly(self, facts: Context | Permit, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Do the work. Raises Ended when `end` picked it, whatever the work made of that, or it must not begin."""
        task = asyncio.current_task()
        assert task is not None
        self._flying[task] = facts
        try:
            if (reading := self.fresh()) is not None:
                await self._read(reading)
            if reason := self.bars(facts):
                raise Ended(reason)
            answer = await work
        except asyncio.CancelledError:
            if task in self._ended and not task.uncancel():
                raise Ended(self._ended[task]) from None
            raise
        finally:
            work.close()  # where it did not begin
            del self._flying[task]
            ended = self._ended.pop(task, None) if self._ended else None
        if ended is not None:
            raise Ended(ended)
        return answer

    async def _read(self, reading: Awaitable[None]) -> None:
        """Who is unwelcome cannot be told without it."""
        try:
            await reading
        except DependencyFault:
            raise Ended("fault.dependency") from None

    def end(self, unwelcome: Callable[[Context | Permit], object], reason: str) -> int:
        """End everything for which this is true. How many there were."""
        found = [task for task, facts in self._flying.items() if unwelcome(facts)]
        for task in found:
            if task not in self._ended:
                self._ended[task] = reason
                task.cancel()
        return len(found)

    def __len__(self) -> int:
        return len(self._flying)
