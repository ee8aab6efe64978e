"""A bounded HTTP/1.1 keep-alive pool to one origin.

No cookies, no proxy variables, no retries. A POST may have been executed as soon as one byte of it was written, so a
call is never written twice: a connection found closed before writing is replaced, and one that breaks afterwards is a
fault (RFC 9110 section 9.2.2). Connections idle longer than `idle_seconds` are not reused; that is below the five
seconds after which common servers close them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from limen.core.faults import UpstreamFault
from limen.gateway.upstream_target import Target, pinned
from limen.gateway.upstream_wire import Connection, Reply

_WAITING_LIMIT: Final = 1024
_CONNECT_SECONDS: Final = 10.0
_SETTLED_SECONDS: Final = 0.5  # idle for longer: look for a close that arrived meanwhile


class Pool:
    """At most `size` connections to one origin. Waiting is first come, first served, and bounded."""

    def __init__(self, server: str, target: Target, size: int = 64, idle_seconds: float = 4.0) -> None:
        self.server, self._target = server, target
        self._free = size
        self._loop: asyncio.AbstractEventLoop
        self._queue: deque[asyncio.Future[None]] = deque()
        self._idle: deque[Connection] = deque()
        self._idle_seconds = idle_seconds
        self._reaper: asyncio.TimerHandle | None = None
        self._all: set[Connection] = set()
        self.closing = False
        self.severed = False  # cut off by us: nothing is sent, and no connection made

    async def post(self, data: bytes) -> Reply:
        """Send one rendered request and wait until its reply is ready. Raises UpstreamFault."""
        connection = self._fresh() or await self._acquire()
        reply = connection.send(data)
        try:
            await reply.ready
        except BaseException:
            connection.leave()
            raise
        return reply

    def _fresh(self) -> Connection | None:
        """A connection used a moment ago, with its slot, where there is one: the common case, without waiting."""
        idle = self._idle
        if not idle or not self._free or self.closing or self._queue:
            return None
        connection = idle[-1]
        if connection.closed or self._loop.time() - connection.since > _SETTLED_SECONDS:
            return None
        self._free -= 1
        return idle.pop()

    async def _acquire(self) -> Connection:
        self._loop = asyncio.get_running_loop()
        if self.closing or self.severed:
            raise UpstreamFault(self.server, "is cut off" if self.severed else "is being shut down")
        if self._free and not self._queue:
            self._free -= 1
        else:
            await self._turn()
        try:
            if self.severed:
                raise UpstreamFault(self.server, "is cut off")
            return await self._reuse() or await self._connect()
        except BaseException:
            self._vacate()
            raise

    async def _turn(self) -> None:
        """Wait for a slot, first come, first served."""
        if len(self._queue) >= _WAITING_LIMIT:
            raise UpstreamFault(self.server, "too many calls wait for a connection")
        turn = self._loop.create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._vacate()  # the slot came while we were leaving
            elif turn in self._queue:
                self._queue.remove(turn)
            raise

    def _vacate(self) -> None:
        """A slot is free: it goes straight to whoever waits longest."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def _reuse(self) -> Connection | None:
        loop = self._loop
        while self._idle:
            connection = self._idle.pop()
            age = loop.time() - connection.since
            if not connection.closed and age > _SETTLED_SECONDS:
                try:
                    for _ in range(3):  # let a close that already arrived be seen before anything is written
                        await asyncio.sleep(0)
                except asyncio.CancelledError:
                    self._discard(connection)
                    raise
            if not connection.closed and age < self._idle_seconds:
                return connection
            self._discard(connection)
        return None

    async def _connect(self) -> Connection:
        host, port, tls, loop = self._target.host, self._target.port, self._target.tls, self._loop
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                transport, connection = await loop.create_connection(
                    lambda: Connection(self), host, port, ssl=tls, server_hostname=host if tls else None
                )
        except TimeoutError:
            raise UpstreamFault(self.server, "could not be reached in time", timeout=True) from None
        except OSError as error:  # ssl.SSLError and resolver errors are OSErrors
            raise UpstreamFault(self.server, f"could not be reached: {error}") from None
        if self._target.pins:  # before a byte of ours, a credential least of all, is written
            shown = transport.get_extra_info("ssl_object")
            if not pinned(shown.getpeercert(binary_form=True) if shown is not None else None, self._target.pins):
                transport.abort()
                connection.closed = True
                raise UpstreamFault(self.server, "shows a certificate that is not one of those pinned")
        if self.severed:
            transport.abort()
            connection.closed = True
            raise UpstreamFault(self.server, "is cut off")
        self._all.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """A connection's exchange is over."""
        self._vacate()
        if connection.closed or self.closing:
            self._discard(connection)
            return
        loop = self._loop
        connection.since = loop.time()
        self._idle.append(connection)
        if self._reaper is None:
            self._reaper = loop.call_later(self._idle_seconds, self._reap)

    def _reap(self) -> None:
        loop = self._loop
        self._reaper = None
        while self._idle and (self._idle[0].closed or loop.time() - self._idle[0].since >= self._idle_seconds):
            self._discard(self._idle.popleft())
        if self._idle:
            self._reaper = loop.call_later(self._idle_seconds, self._reap)

    def _discard(self, connection: Connection) -> None:
        self._all.discard(connection)
        if not connection.closed:
            connection.transport.close()
            connection.closed = True

    async def close(self) -> None:
        """Close every connection; calls in flight fail."""
        self.closing = True
        if self._reaper is not None:
            self._reaper.cancel()
        self._abort()
        await asyncio.sleep(0)

    def sever(self, severed: bool) -> None:
        """End every connection and make none, or make them again."""
        self.severed = severed
        if severed:
            self._abort()

    def _abort(self) -> None:
        for connection in list(self._all):
            connection.abort("connection closed by us")
        self._all.clear()
        self._idle.clear()
