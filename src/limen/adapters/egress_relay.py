"""Passes bytes between a cell and a destination that was allowed, both ways, with back-pressure and limits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from limen.sandbox.egress import Window
from limen.sandbox.egress_rules import EgressLimits

CHUNK: Final = 64 << 10
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Stopped(Exception):
    """A limit ended the connection; `reason` is one of egress.REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Relay:
    """One connection. `sent` and `received` are bytes, from the cell's point of view."""

    def __init__(self, limits: EgressLimits, sent: Window, received: Window) -> None:
        self._limits, self._sent, self._received = limits, sent, received
        self.sent = self.received = 0
        self._last = 0.0

    async def run(self, inside: Streams, outside: Streams, filtered: Callable[[bytes], bytes] | None = None) -> None:
        """Until both sides have said all they had to say. `filtered` turns what the cell says into what is sent on.

        Raises Stopped, and whatever `filtered` raises. OSError of either side ends it quietly.
        """
        self._last = time.monotonic()
        both = {
            asyncio.create_task(self._pump(inside[0], outside[1], self.out, filtered)),
            asyncio.create_task(self._pump(outside[0], inside[1], self._in, None)),
        }
        try:
            await self._watch(both)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _watch(self, both: set[asyncio.Task[None]]) -> None:
        ends = self._last + self._limits.total
        running = set(both)
        while running:
            now = time.monotonic()
            wait = min(ends - now, self._last + self._limits.idle - now)
            if wait <= 0:
                raise Stopped("traffic.total" if ends <= now else "traffic.idle")
            done, running = await asyncio.wait(running, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                try:
                    task.result()
                except OSError:
                    return

    def out(self, count: int) -> None:
        """Count what is sent. Raises Stopped."""
        self.sent += count
        if not self._sent.take(count, time.monotonic()):
            raise Stopped("traffic.sent")

    def _in(self, count: int) -> None:
        self.received += count
        if not self._received.take(count, time.monotonic()):
            raise Stopped("traffic.received")

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        count: Callable[[int], None],
        filtered: Callable[[bytes], bytes] | None,
    ) -> None:
        while data := await source.read(CHUNK):
            self._last = time.monotonic()
            if filtered is not None:
                data = filtered(data)
            count(len(data))
            sink.write(data)
            await sink.drain()
        with contextlib.suppress(OSError, RuntimeError):  # it is gone already
            if sink.can_write_eof():
                sink.write_eof()
