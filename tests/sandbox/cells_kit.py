"""Cells for tests: the configured server, its upstream, and code to be run inside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from limen.adapters.bubblewrap import Bubblewrap
from limen.config.model import Config
from limen.config.servers import ServerConfig
from limen.gateway.cells import Cells
from limen.gateway.run import build, launcher
from limen.gateway.upstreams import StdioUpstream
from upstreams.minted import Heard, call, permit

HOSTILE = Path(__file__).with_name("hostile_server.py")
ISOLATOR = Bubblewrap()
LAUNCHES = launcher(Config.model_validate({}))  # nothing is installed
needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="there is no bwrap: install bubblewrap")
SMALL = {"memory": "96Mi", "processes": 24, "tmp": "2Mi", "file_size": "1Mi"}


class Inside:
    """A running server and what its cell recorded."""

    def __init__(self, upstream: StdioUpstream, events: list[dict[str, Any]]) -> None:
        self.upstream, self.events = upstream, events

    async def run(self, code: str) -> Any:
        """What the code left in `found`. An exception inside is returned as its description."""
        arguments = json.dumps({"code": code}).encode()
        asked = call(name="run", arguments=arguments)
        result = await self.upstream.forward(await permit(asked), Heard())
        said = json.loads(result["content"][0]["text"])
        return said.get("found", said)

    @property
    def pid(self) -> int:
        return int(self.upstream.state()["pid"])


def configured(argv: list[str], *, env: dict[str, str] | None = None, cwd: str | None = None, **security: Any) -> Any:
    document: dict[str, Any] = {"command": argv[0], "args": argv[1:], "env": env or {}, "security": security}
    return ServerConfig.model_validate(document | ({"cwd": cwd} if cwd else {}))


def upstream_of(name: str, config: ServerConfig, cells: Cells) -> StdioUpstream:
    upstream = build(name, config, cells, LAUNCHES)
    assert isinstance(upstream, StdioUpstream)
    upstream._probe_first = False  # the servers here know only the handshake
    return upstream


@asynccontextmanager
async def inside(
    name: str = "hostile", argv: list[str] | None = None, private: tuple[str, ...] = (), **more: Any
) -> AsyncIterator[Inside]:
    """A hostile server in a cell with small limits."""
    events: list[dict[str, Any]] = []
    cells = Cells(private, ISOLATOR)
    cells.record = lambda server, event: events.append({"server": server, **event})
    limits = {**SMALL, **more.pop("limits", {})}
    config = configured(argv or [sys.executable, "-I", "-S", str(HOSTILE)], limits=limits, **more)
    upstream = upstream_of(name, config, cells)
    try:
        yield Inside(upstream, events)
    finally:
        await upstream.close()


def run_inside(code: str, **more: Any) -> Any:
    """One piece of code in a cell of its own."""

    async def work() -> Any:
        async with inside(**more) as cell:
            return await cell.run(code)

    return asyncio.run(work())


def alive(pid: int) -> bool:
    """Whether this process runs, outside."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)


def marked(mark: str) -> list[int]:
    """Processes outside whose command line has this mark."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in Path(f"/proc/{entry}/cmdline").read_bytes() and alive(int(entry)):
                    found.append(int(entry))
    return found
