"""One child process that speaks lines: read in bounds, and stopped for certain.

It leads a process group of its own, which is signalled as a whole. How it was started is its cell's matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from typing import IO, Final, cast

from limen.core.cell import Cell, Process
from limen.core.faults import UpstreamFault

LINE_LIMIT: Final = 8 << 20
WRITE_LIMIT: Final = 8 << 20
STDERR_KEPT: Final = 8 << 10
GRACE_SECONDS: Final = 2.0
_LAST_WORDS: Final = 0.1  # what it wrote before it exited may still be in the pipe


class _End:
    """Our end of a pipe, as an event loop takes it.

    asyncio's own loop leaves closing to `close`. uvloop has libuv close the number, and then calls `close` as well: by
    then another thread may have been given the number for a file of its own, and would lose it.
    """

    def __init__(self, stream: IO[bytes] | None, loop: asyncio.AbstractEventLoop) -> None:
        assert stream is not None
        self._number = os.dup(stream.fileno())
        self._ours = not type(loop).__module__.startswith("uvloop")
        stream.close()

    def fileno(self) -> int:
        """The file descriptor."""
        return self._number

    def close(self) -> None:
        """Close it, where that is not done for us."""
        if self._ours and self._number >= 0:
            os.close(self._number)
            self._number = -1


class _Pipe(asyncio.Protocol):
    """One of the child's three pipes."""

    def __init__(self, child: Child, number: int) -> None:
        self._child, self._number = child, number

    def data_received(self, data: bytes) -> None:
        self._child.heard(self._number, data)

    def connection_lost(self, error: Exception | None) -> None:
        self._child.lost(self._number)

    def pause_writing(self) -> None:
        self._child.writable.clear()

    def resume_writing(self) -> None:
        self._child.writable.set()


class Child:
    """`line` is called for every line it writes, `gone` once when it can no longer be used, `exited` with its status
    when the process is no more. `rate`: bytes a second that are read of its output; `secrets` are taken out of what it
    complains about."""

    def __init__(self, server: str, line: Callable[[bytes], None], gone: Callable[[str], None]) -> None:
        self.server = server
        self.reason = ""
        self.writable = asyncio.Event()
        self.writable.set()
        self.exited: Callable[[int | None], None] = lambda status: None
        self.rate: int | None = None
        self.secrets: tuple[bytes, ...] = ()
        self._line, self._gone = line, gone
        self._process: Process
        self._stdin: asyncio.WriteTransport
        self._pipes: list[asyncio.BaseTransport] = []
        self._handle = -1
        self._partial: list[bytes] = []
        self._size = 0
        self._stderr: deque[bytes] = deque()
        self._stderr_size = 0
        self._exited = asyncio.Event()
        self._second = self._heard = 0.0

    @property
    def pid(self) -> int:
        """Its process number, which is its group's as well."""
        return self._process.pid

    async def start(self, cell: Cell) -> None:
        """Speak to the program that was started in this cell."""
        self._process = process = cell.process
        loop = asyncio.get_running_loop()
        self._watch(loop)
        try:
            transport, _ = await loop.connect_write_pipe(lambda: _Pipe(self, 0), _End(process.stdin, loop))
            self._stdin = transport
            self._pipes.append(transport)
            for number, stream in ((1, process.stdout), (2, process.stderr)):
                self._pipes.append((await loop.connect_read_pipe(self._reader(number), _End(stream, loop)))[0])
        except BaseException:
            self.kill("could not be listened to")
            raise

    def _reader(self, number: int) -> Callable[[], _Pipe]:
        return lambda: _Pipe(self, number)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call `_died` when it exits: by process handle where there are such, else by a thread that waits."""
        try:
            self._handle = os.pidfd_open(self._process.pid)
            loop.add_reader(self._handle, self._died)
        except (AttributeError, OSError):

            def wait() -> None:
                self._process.wait()
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
                    loop.call_soon_threadsafe(self._died)

            threading.Thread(target=wait, name=f"wait-{self.server}", daemon=True).start()

    def _died(self) -> None:
        self._signal(signal.SIGKILL)  # whoever is left of its group, while the number is still taken
        if self._handle >= 0:
            asyncio.get_running_loop().remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1
        self._exited.set()
        status = self._process.poll()
        self.exited(status)
        why = f"exited with status {status}{self._setup()}"
        asyncio.get_running_loop().call_later(_LAST_WORDS, self._end, why)

    def heard(self, number: int, data: bytes) -> None:
        """Bytes from standard output (1) or standard error (2)."""
        if self.rate is not None:
            self._slow(number, len(data))
        if number == 2:
            self._keep(data)
            return
        start = 0
        while not self.reason and (end := data.find(b"\n", start)) >= 0:
            self._partial.append(data[start:end])
            start = end + 1
            whole, self._partial, self._size = b"".join(self._partial), [], 0
            self._line(whole.removesuffix(b"\r"))
        if self.reason:
            return
        if start < len(data):
            self._partial.append(data[start:])
            self._size += len(data) - start
        if self._size > LINE_LIMIT:
            self.kill(f"wrote a line longer than {LINE_LIMIT} bytes")

    def _slow(self, number: int, count: int) -> None:
        """Read no more than `rate` bytes in a second of both: the rest waits in the pipe, and its writer with it."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._second >= 1.0:
            self._second, self._heard = now, 0.0
        self._heard += count
        if self.rate is not None and self._heard > self.rate and len(self._pipes) > number:
            output = cast("asyncio.ReadTransport", self._pipes[number])
            output.pause_reading()
            loop.call_later(max(self._second + self._heard / self.rate - now, 0.0), self._resume, output)

    def _resume(self, output: asyncio.ReadTransport) -> None:
        if not self.reason and not output.is_closing():
            output.resume_reading()

    def lost(self, number: int) -> None:
        """It closed one of its pipes. Without input or output it is of no use."""
        if number != 2 and not self.reason:
            why = "closed its output" if number == 1 else "closed its input"
            asyncio.get_running_loop().call_later(_LAST_WORDS, self.kill, why)

    def _keep(self, data: bytes) -> None:
        data = data[-STDERR_KEPT:]
        self._stderr.append(data)
        self._stderr_size += len(data)
        while self._stderr_size - len(self._stderr[0]) >= STDERR_KEPT:
            self._stderr_size -= len(self._stderr.popleft())
        if len(self._stderr) > 256:
            self._stderr = deque([b"".join(self._stderr)])

    @property
    def stderr(self) -> bytes:
        """The last of what it complained about, without its secrets. Untrusted: for the operator's eyes, escaped."""
        said = b"".join(self._stderr)
        for secret in self.secrets:
            said = said.replace(secret, b"(secret)")
        return said[-STDERR_KEPT:]

    def _setup(self) -> str:
        """What bubblewrap said, if it was that which failed and not the program."""
        said = self.stderr.lstrip()
        return f": {said[:300].decode(errors='replace').strip()}" if said.startswith(b"bwrap: ") else ""

    async def write(self, line: bytes) -> None:
        """One message, with back-pressure. Raises UpstreamFault when it is gone or does not read."""
        self.offer(line)
        await self.writable.wait()
        if self.reason:
            raise UpstreamFault(self.server, self.reason)

    def offer(self, line: bytes, limit: int = WRITE_LIMIT) -> None:
        """One message, without waiting. Raises UpstreamFault when it is gone or has too much unread."""
        if self.reason or self._stdin.is_closing():
            raise UpstreamFault(self.server, self.reason or "closed its input")
        if self._stdin.get_write_buffer_size() > limit:
            raise UpstreamFault(self.server, "does not read its input")
        self._stdin.write(line + b"\n")

    def kill(self, reason: str) -> None:
        """End it now, with its group."""
        if not self.reason:
            self._signal(signal.SIGKILL)
            self._end(reason)

    async def stop(self) -> None:
        """End it politely: close its input, then SIGTERM, then SIGKILL, two seconds apart."""
        if not self.reason:
            self.reason = "was stopped"
            self._stdin.close()
            if not await self._exits():
                self._signal(signal.SIGTERM)
                if not await self._exits():
                    self._signal(signal.SIGKILL)
            self._gone(self.reason)
        await self._exits()
        self._close()

    async def _exits(self) -> bool:
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                await self._exited.wait()
        except TimeoutError:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self._exited.is_set():
            return  # the number may be someone else's by now
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # nobody is left

    def _end(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason
            self._close()
            self._gone(reason)

    def _close(self) -> None:
        self._partial = []
        self.writable.set()
        if self._pipes and self._stdin.get_write_buffer_size():
            self._stdin.abort()  # what it never read cannot be flushed
        for pipe in self._pipes:
            pipe.close()
