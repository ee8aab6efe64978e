"""Takes what arrives on a listener of a cell no faster than allowed: a server that floods its own network must not
take the event loop from everyone else. What is not taken waits in the kernel, or is dropped there.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Final

from limen.sandbox.egress import Bucket

_BURST: Final = 16  # taken in one turn of the loop
_PAUSE: Final = 0.1


class Intake:
    """Calls `take` for each thing that arrives, which returns False when there is nothing left. `over` is called when
    the bucket is empty, before a pause."""

    def __init__(self, sock: socket.socket, bucket: Bucket, take: Callable[[], bool], over: Callable[[], None]) -> None:
        self._socket, self._bucket, self._take, self._over = sock, bucket, take, over
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._resume()

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(_BURST):
            if not self._bucket.take(time.monotonic()):
                self._over()
                self._rest()
                return
            try:
                more = self._take()
            except (BlockingIOError, InterruptedError):
                more = False
            except OSError:  # no descriptors left, an ICMP error, or a connection that is gone again
                self._rest()
                return
            if not more:
                self._bucket.level += 1  # nothing was there
                return

    def _rest(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._pause = self._loop.call_later(_PAUSE, self._resume)

    def close(self) -> None:
        """Take nothing more, and close the socket."""
        if self._pause is not None:
            self._pause.cancel()
        elif self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
