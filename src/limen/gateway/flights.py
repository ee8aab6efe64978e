"""Who has something under way here, so that it can be ended when they are no longer welcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from limen.core.call import Caller

Answer = TypeVar("Answer")


class Ended(Exception):
    """It was ended by us: its caller is revoked."""


class Flights:
    """Calls and streams under way, by the task that serves them."""

    def __init__(self) -> None:
        self._flying: dict[asyncio.Task[Any], tuple[Caller, str | None]] = {}
        self._ended: set[asyncio.Task[Any]] = set()

    async def fly(self, caller: Caller, session: str | None, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Do the work for this caller. Raises Ended when `end` picked it, whatever the work made of that."""
        task = asyncio.current_task()
        assert task is not None
        self._flying[task] = (caller, session)
        try:
            answer = await work
        except asyncio.CancelledError:
            if task in self._ended and not task.uncancel():
                raise Ended from None
            raise
        finally:
            del self._flying[task]
            ended = task in self._ended
            self._ended.discard(task)
        if ended:
            raise Ended
        return answer

    def end(self, unwelcome: Callable[[Caller, str | None], object]) -> int:
        """End everything of those for whom this is true. How many there were."""
        found = [task for task, (caller, session) in self._flying.items() if unwelcome(caller, session)]
        for task in found:
            if task not in self._ended:
                self._ended.add(task)
                task.cancel()
        return len(found)

    def __len__(self) -> int:
        return len(self._flying)
