"""A network that is cut off (J1, G5): what is open ends, nothing new begins, names are not answered; and back again."""

from __future__ import annotations

import asyncio
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from egress.cells import PUBLIC, World, in_loop, needs_namespaces
from gateway.running import Recorder
from limen.adapters.egress_proxy import EgressGate
from limen.core.copied import RECORD, tell
from limen.core.faults import DependencyFault, UpstreamFault
from limen.gateway.cells import Cells
from limen.gateway.containment import obey
from limen.gateway.upstreams import HttpUpstream, Upstreams
from limen.incidents.contain import Containments, Standing
from limen.sandbox.egress_rules import EgressSettings
from policy.policy_material import MemoryTable

# Keeps one connection open and writes into it; says what becomes of it, of a new one, and of the name, when told to.
PROGRAM = """
import socket, sys, threading
def name():
    try:
        return socket.getaddrinfo("plain.test", 80)[0][4][0]
    except OSError as error:
        return type(error).__name__
def fresh():
    try:
        with socket.create_connection((address, 80), 5) as one:
            one.sendall(b"GET /new HTTP/1.1\\r\\nHost: plain.test\\r\\nConnection: close\\r\\n\\r\\n")
            return one.recv(12).decode() or "closed"
    except OSError as error:
        return type(error).__name__
address = name()
kept = socket.create_connection((address, 80), 5)
kept.sendall(b"POST /long HTTP/1.1\\r\\nHost: plain.test\\r\\nContent-Length: 1000000\\r\\n\\r\\n")
print("open", flush=True)
sys.stdin.readline()
try:
    kept.settimeout(5)
    print("kept", kept.recv(1) or "closed", flush=True)
except OSError as error:
    print("kept", type(error).__name__, flush=True)
print("fresh", fresh(), name(), flush=True)
sys.stdin.readline()
print("fresh", fresh(), name(), flush=True)
"""


class Switch:
    reason = ""

    async def __call__(self) -> str:
        return self.reason


@needs_namespaces
@pytest.mark.parametrize("reason", ["contained.cut", "contained.unknown"])
@in_loop
async def test_what_is_open_ends_nothing_begins_and_release_restores(tmp_path: Path, reason: str) -> None:
    """A running process: it need not be restarted to be cut off, nor to go on."""
    world, switch = World(tmp_path, {"plain.test": [PUBLIC]}), Switch()
    settings = EgressSettings.model_validate({"allow": [{"to": "plain.test:80", "methods": ["GET", "POST"]}]})
    gate = EgressGate("files", settings, world.events.append, lookup=world.lookup, dial=world.dial, barred=switch)
    async with world.serve(PUBLIC, 80), world.cell(gate, "/usr/bin/python3", "-uc", PROGRAM) as (process, _):

        async def line() -> str:
            return (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()

        def go() -> None:
            process.stdin.write(b"\n")

        assert await line() == "open"
        await asyncio.sleep(0.2)
        switch.reason = reason
        gate.sever()
        dialled = len(world.dialled)
        go()
        assert await line() in ("kept closed", "kept b'' closed", "kept ConnectionResetError")
        told = (await line()).split()
        assert told[1] in ("closed", "ConnectionResetError")
        assert told[2] == "gaierror"
        assert len(world.dialled) == dialled
        assert reason in world.reasons()
        assert gate.cells == 1
        switch.reason = ""
        go()
        assert (await line()).startswith("fresh HTTP/1.1 200")
    await gate.close()


class Away(MemoryTable):
    down = False

    def get(self, key: str) -> bytes | None:
        if self.down:
            raise DependencyFault("postgres", "gone")
        return super().get(key)


def test_cells_ask_the_records_and_refuse_when_they_cannot_be_read() -> None:
    """Of the server it is about and of no other; gates of an older configuration as well."""

    async def test() -> None:
        table, at, severed = Away(), [0.0], list[str]()
        known = Containments(table, monotonic=lambda: at[0])
        known.refresh()

        class Gate(EgressGate):
            def sever(self) -> None:
                severed.append(self.server)

        cells = Cells((), gate=Gate)
        server: Any = SimpleNamespace(security=SimpleNamespace(egress=EgressSettings()), environment=dict, cwd=None)
        cells.launcher("files", server)
        before = cells.gates["files"]
        cells.launcher("files", server)
        cells.launcher("notes", server)
        assert await cells.gates["files"]._barred() == "contained.unknown"  # no gateway tells it otherwise yet
        quiet = SimpleNamespace(end=lambda *_: 0)
        house: Any = SimpleNamespace(containments=known, upstreams=Upstreams([]), revocations=SimpleNamespace())
        obey(house, SimpleNamespace(flights=quiet, suspensions=quiet), cells)  # type: ignore[arg-type]  # as far as used
        known.on_change = lambda added, gone: house.on_contained()
        assert await cells.gates["files"]._barred() == ""
        record = Standing("cut_egress", "files")
        table.put(RECORD + record.id, record.dump())
        tell(table)
        known.refresh()
        assert sorted(severed) == ["files", "files"]
        assert [await gate._barred() for gate in (before, cells.gates["files"])] == ["contained.cut"] * 2
        assert await cells.gates["notes"]._barred() == ""
        table.down = True
        at[0] += 2
        assert await cells.gates["notes"]._barred() == "contained.unknown"
        table.down = False
        table.swap(RECORD + record.id, record.dump(), None)
        tell(table)
        assert [await gate._barred() for gate in (cells.gates["notes"], cells.gates["files"])] == [""] * 2

    asyncio.run(test())


@pytest.fixture
def recorder() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    server.daemon_threads = True
    server.seen, server.extra, server.refusing = [], (), False  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_to_a_remote_server_nothing_is_sent_and_nothing_stays_open(recorder: http.server.ThreadingHTTPServer) -> None:
    async def test() -> None:
        upstreams = Upstreams([HttpUpstream("one", f"http://127.0.0.1:{recorder.server_port}/mcp")])
        assert (await upstreams.describe("one")).tools
        upstreams.cut(frozenset({"one"}))
        seen = len(recorder.seen)  # type: ignore[attr-defined]
        with pytest.raises(UpstreamFault, match="cut off"):
            await upstreams.describe("one")
        another = HttpUpstream("one", f"http://127.0.0.1:{recorder.server_port}/mcp")
        upstreams.replace([another])  # configured anew, it is cut off all the same
        with pytest.raises(UpstreamFault, match="cut off"):
            await upstreams.describe("one")
        assert len(recorder.seen) == seen  # type: ignore[attr-defined]
        upstreams.cut(frozenset())
        assert (await upstreams.describe("one")).tools
        await upstreams.close()

    asyncio.run(test())


def test_a_conversation_under_way_ends(recorder: http.server.ThreadingHTTPServer) -> None:
    """An answer that is still being waited for is not waited for any more."""

    async def test() -> None:
        upstream = HttpUpstream("one", f"http://127.0.0.1:{recorder.server_port}/mcp")
        body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"slow"}}'
        head = b"POST /mcp HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        waiting = asyncio.create_task(upstream._exchange.pool.post(head + body))
        await asyncio.sleep(0.3)
        began = time.monotonic()
        upstream.sever(True)
        with pytest.raises(UpstreamFault):
            await waiting
        assert time.monotonic() - began < 5
        await upstream.close()

    asyncio.run(test())
