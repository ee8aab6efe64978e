"""Those who wait for a record to be on disk, each on its own event loop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from limen.core.faults import DependencyFault


@dataclass(frozen=True, slots=True)
class Waiter:
    """For record `index`."""

    index: int
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


def settle(waiters: list[Waiter], trouble: str) -> None:
    """Wake those who wait, each on its own event loop."""
    for waiter in waiters:
        try:
            waiter.loop.call_soon_threadsafe(_finish, waiter.done, trouble)
        except RuntimeError:
            # That event loop has closed: its waiter is gone, and the others must still be told.
            continue


def _finish(done: asyncio.Future[None], trouble: str) -> None:
    if done.done():
        return
    if trouble:
        done.set_exception(DependencyFault("audit", trouble))
    else:
        done.set_result(None)
