"""One run of a local server's program: what it was started as, how it is watched, how it ended.

A program is started by a launcher: in a cell (the default), or bare where the configuration accepts that. What it uses
is looked at while it runs, so that a bound nothing else enforces still ends it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from limen.adapters import processes
from limen.core.cell import Bounds, Cell, Process, Usage
from limen.core.faults import UpstreamFault
from limen.gateway.upstream_channel import Channel

LOOK_SECONDS: Final = 0.2
_INHERITED: Final = ("PATH", "LANG")
_NONE: Final = Bounds(memory=0, processes=0, files=0, file_size=0, tmp=0)

Launch = Callable[[], Awaitable[Cell]]
Record = Callable[[dict[str, Any]], None]


def scrubbed(declared: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a bare child: PATH and LANG of ours, and what the operator declared. Nothing else is
    ours to give: an environment is where credentials live."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | dict(declared)


class Bare:
    """A child that is not confined: a session of its own, and nothing that was not declared for it. A grandchild that
    starts a session of its own (setsid) may outlive it: containing those takes a cell."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def usage(self) -> Usage | None:
        """Of it and its descendants."""
        return processes.usage(self.process.pid)

    def exceeded(self) -> str:
        """It has no bounds."""
        return ""

    def bound_hit(self) -> str:
        """It has no bounds."""
        return ""

    def end(self) -> None:
        """Kill its process group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


def bare(server: str, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> Launch:
    """A launcher without a cell. By `subprocess`, not by the event loop: uvloop takes `close_fds` and ignores it, so
    that a child would inherit what is marked inheritable and second copies of its own pipes."""

    async def launch() -> Cell:
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(  # noqa: S603, ASYNC220 - configured; as asyncio itself does
                argv, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env=scrubbed(env), cwd=cwd,
                start_new_session=True, close_fds=True,
            )  # fmt: skip
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise UpstreamFault(server, f"could not be started: {error}") from None
        return Bare(process)

    return launch


class Run:
    """Begins when the program was started, and is told when it has ended. `record` gets both, for the audit."""

    def __init__(self, cell: Cell, channel: Channel, bounds: Bounds | None, record: Record) -> None:
        self.cell, self.channel, self.bounds = cell, channel, bounds or _NONE
        self.wanted = False  # it was ended by us for a reason that is no failure of the program
        self.peak = Usage(0, 0.0, 0)
        self._record = record
        self._watch: asyncio.Task[None] | None = None
        channel.child.exited = self._exited

    def begin(self, starts: int) -> None:
        """Watch it from now on. `starts`: how often this server was started before."""
        self._record({"event": "start", "pid": self.cell.process.pid, "restarts": starts})
        self._watch = asyncio.ensure_future(self._keep())

    async def _keep(self) -> None:
        """Look at it now and then, until it ends."""
        loop = asyncio.get_running_loop()
        bounds, since, looks = self.bounds, self.channel.since, 0
        while not self.channel.child.reason:
            await asyncio.sleep(LOOK_SECONDS)
            if bound := self.cell.exceeded():
                self.channel.child.kill(f"used more {bound} than its limit")
                return
            now, looks = loop.time(), looks + 1
            if looks % 10 == 0:
                self._look()
            if bounds.wall is not None and now - since > bounds.wall:
                self.wanted = True
                self.channel.child.kill(f"ran for {bounds.wall:.0f} s, its limit")
            elif bounds.idle is not None and self.channel.idle > bounds.idle:
                self.wanted = True
                await self.channel.child.stop()

    def _look(self) -> None:
        used, peak = self.cell.usage(), self.peak
        if used is not None:
            self.peak = Usage(
                max(used.memory, peak.memory), max(used.cpu, peak.cpu), max(used.processes, peak.processes),
                max(used.read, peak.read), max(used.written, peak.written),
            )  # fmt: skip

    def _exited(self, status: int | None) -> None:
        """The process is gone: what is left of it goes too."""
        if self._watch is not None:
            self._watch.cancel()
        seconds = asyncio.get_running_loop().time() - self.channel.since
        self.cell.end()
        bound = self.cell.bound_hit()
        self._record(
            {
                "event": "exit",
                "status": status,
                "reason": self.channel.child.reason or "exited by itself",
                "bound": bound,
                "seconds": round(seconds, 3),
                "peak": asdict(self.peak),
            }
        )

    def state(self) -> dict[str, Any]:
        """What it uses now."""
        used = self.cell.usage()
        seconds = round(asyncio.get_running_loop().time() - self.channel.since, 1)
        return {"pid": self.cell.process.pid, "seconds": seconds, "usage": asdict(used) if used is not None else None}
