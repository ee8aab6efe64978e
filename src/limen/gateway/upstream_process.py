"""One child process that speaks lines: started clean, read in bounds, and stopped for certain.

It runs in a session of its own, so that its whole process group can be signalled. A child that starts a further
session (setsid) leaves that group and may outlive it: containing those takes a sandbox, which this is not.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from limen.core.faults import UpstreamFault

LINE_LIMIT: Final = 8 << 20
WRITE_LIMIT: Final = 8 << 20
STDERR_KEPT: Final = 8 << 10
GRACE_SECONDS: Final = 2.0
_LAST_WORDS: Final = 0.1  # what it wrote before it exited may still be in the pipe
_INHERITED: Final = ("PATH", "LANG")


def scrubbed(declared: Mapping[str, str]) -> dict[str, str]:
    """The child's whole environment: PATH and LANG of ours, and what the operator declared. Nothing else is ours to
    give: an environment is where credentials live."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | dict(declared)


class Child(asyncio.SubprocessProtocol):
    """`line` is called for every line it writes, `gone` once when it can no longer be used."""

    def __init__(self, server: str, line: Callable[[bytes], None], gone: Callable[[str], None]) -> None:
        self.server = server
        self.reason = ""
        self._line, self._gone = line, gone
        self._transport: asyncio.SubprocessTransport
        self._stdin: asyncio.WriteTransport
        self._partial: list[bytes] = []
        self._size = 0
        self._stderr: deque[bytes] = deque()
        self._stderr_size = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._exited = asyncio.Event()

    async def start(self, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> None:
        """Run it: no shell, no inherited files, an environment of its own. Raises UpstreamFault."""
        loop = asyncio.get_running_loop()
        try:
            await loop.subprocess_exec(
                lambda: self, *argv, env=scrubbed(env), cwd=cwd, start_new_session=True, close_fds=True
            )
        except (OSError, ValueError) as error:
            raise UpstreamFault(self.server, f"could not be started: {error}") from None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
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

    def _keep(self, data: bytes) -> None:
        data = data[-STDERR_KEPT:]
        self._stderr.append(data)
        self._stderr_size += len(data)
        while self._stderr_size - len(self._stderr[0]) >= STDERR_KEPT:
            self._stderr_size -= len(self._stderr.popleft())
        if len(self._stderr) > 256:
            self._stderr = deque([self.stderr])

    @property
    def stderr(self) -> bytes:
        """The last of what it complained about. Untrusted: for the operator's eyes, escaped."""
        return b"".join(self._stderr)[-STDERR_KEPT:]

    def pipe_connection_lost(self, fd: int, error: Exception | None) -> None:
        if fd != 2:
            why = "closed its output" if fd == 1 else "closed its input"
            asyncio.get_running_loop().call_later(_LAST_WORDS, self.kill, why)

    def process_exited(self) -> None:
        self._signal(signal.SIGKILL)  # whoever is left of its group; afterwards the number may be someone else's
        self._exited.set()
        status = self._transport.get_returncode()
        asyncio.get_running_loop().call_later(_LAST_WORDS, self._end, f"exited with status {status}")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def write(self, line: bytes) -> None:
        """One message, with back-pressure. Raises UpstreamFault when it is gone or does not read."""
        self.offer(line)
        await self._writable.wait()
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
                    await self._exits()
            self._gone(self.reason)
        self._writable.set()
        self._transport.close()

    async def _exits(self) -> bool:
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                await self._exited.wait()
        except TimeoutError:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        process = self._transport.get_pid()
        if self._exited.is_set():
            return
        try:
            os.killpg(process, number)
        except (ProcessLookupError, PermissionError):
            return  # nobody is left

    def _end(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason
            self._partial = []
            self._writable.set()
            self._transport.close()
            self._gone(reason)
