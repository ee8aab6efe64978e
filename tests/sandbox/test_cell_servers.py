"""G1, the honest half: real servers do their work in a cell, and the gateway runs them there by default."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launched import free_port
from limen.adapters.bubblewrap import Bubblewrap
from limen.core.cell import CellSpec, Property
from limen.core.faults import UpstreamFault
from limen.gateway.cells import Cells
from limen.gateway.upstream_process import STDERR_KEPT
from limen.sandbox.launch import Plan
from sandbox.cells_kit import HOSTILE, ISOLATOR, configured, inside, needs_bubblewrap, until, upstream_of
from upstreams.minted import Heard, call, permit

pytestmark = needs_bubblewrap
SCRIPTS = Path(sys.executable).parent
SDK = Path(__file__).parents[1] / "upstreams" / "sdk_server.py"


def asked(config: Any, *calls: tuple[str, dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Tools of a server in its cell, and the text each call answered."""

    async def work() -> tuple[list[str], list[str]]:
        upstream = upstream_of("real", config, Cells((), ISOLATOR))
        try:
            tools = [tool["name"] for tool in (await upstream.describe()).tools]
            texts = []
            for name, arguments in calls:
                made = await permit(call(name=name, arguments=json.dumps(arguments).encode()))
                result = await upstream.forward(made, Heard())
                texts.append("".join(block["text"] for block in result["content"]))
            return tools, texts
        finally:
            await upstream.close()

    return asyncio.run(work())


def test_a_real_time_server() -> None:
    tools, (text,) = asked(
        configured([str(SCRIPTS / "mcp-server-time")]), ("get_current_time", {"timezone": "Asia/Seoul"})
    )
    assert "get_current_time" in tools
    assert "+09:00" in text


def test_a_real_git_server_on_a_granted_repository(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    repository, other = tmp_path / "repository", tmp_path / "other"
    for one in (repository, other):
        subprocess.run(["git", "init", "-q", "-b", "main", str(one)], check=True, timeout=30)
    argv = [str(SCRIPTS / "mcp-server-git"), "--repository", str(repository)]
    config = configured(argv, directories=[{"path": str(repository)}])
    _, (text, outside) = asked(
        config, ("git_status", {"repo_path": str(repository)}), ("git_status", {"repo_path": str(other)})
    )
    assert "On branch main" in text
    assert "On branch" not in outside


def test_a_server_on_the_official_sdk() -> None:
    _, (text,) = asked(configured([sys.executable, str(SDK), "stdio"]), ("echo", {"text": "hi"}))
    assert text == "echo hi"


def test_g1_without_bubblewrap_nothing_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    cells = Cells((), Bubblewrap())
    events: list[dict[str, Any]] = []
    cells.record = lambda server, event: events.append(event)
    mark = tmp_path / "ran"
    config = configured([sys.executable, "-c", f"open({str(mark)!r}, 'w')"])
    with pytest.raises(UpstreamFault, match="install bubblewrap"):
        asyncio.run(upstream_of("x", config, cells).describe())
    assert not mark.exists()
    assert events[0]["event"] == "refused"
    trusted = configured([sys.executable, "-c", f"open({str(mark)!r}, 'w')"], unsafe_no_sandbox=True)
    with pytest.raises(UpstreamFault):  # it runs, and is no MCP server
        asyncio.run(upstream_of("x", trusted, cells).describe())
    assert mark.exists()


def test_g1_one_property_that_does_not_hold_refuses_every_start() -> None:
    class Half(Bubblewrap):
        async def _try(self) -> tuple[Property, ...]:
            kept = list(await Bubblewrap._try(self))
            return (*kept, Property("system call filter", False, "does not hold", "use another kernel"))

    async def work() -> None:
        await upstream_of("x", configured([sys.executable, str(HOSTILE)]), Cells((), Half())).describe()

    with pytest.raises(UpstreamFault, match="cannot be confined: system call filter"):
        asyncio.run(work())


def test_the_self_test_finds_every_property_here() -> None:
    found = asyncio.run(ISOLATOR.properties())
    assert [one for one in found if one.needed and not one.holds] == []
    assert {"read-only root", "no network", "limits inside", "system call filter"} <= {one.name for one in found}


def test_g7_what_a_server_complains_about_holds_no_secret_and_has_an_end() -> None:
    async def work() -> bytes:
        async with inside(env={"API_KEY": "key-canary"}) as cell:
            code = "import os, sys\nfor _ in range(999): sys.stderr.write('no ' + os.environ['API_KEY'] + chr(10))"
            await cell.run(code + "\nsys.stderr.flush(); found = 1")
            await until(lambda: b"(secret)" in cell.upstream.stderr)
            return cell.upstream.stderr

    said = asyncio.run(work())
    assert b"no (secret)\n" in said
    assert b"key-canary" not in said
    assert len(said) <= STDERR_KEPT


def test_a_command_that_does_not_exist_is_said_so() -> None:
    with pytest.raises(UpstreamFault, match="is not found"):
        asked(configured(["/nowhere/at-all"]))


STAND_IN = '''
import ctypes, fcntl, os, socket, struct
def enter(ports):
    """As the module that makes a cell's network: a namespace of its own, its loopback up, listeners in it."""
    assert ctypes.CDLL(None).unshare(0x10000000 | 0x40000000) == 0
    with socket.socket() as one:
        fcntl.ioctl(one, 0x8914, struct.pack("16sH14x", b"lo", 1))
    return [socket.create_server(("127.0.0.1", port)) for port in ports]
'''


def test_g5_the_seam_sockets_are_handed_over_before_the_cell_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the network: what connects inside arrives at the gateway, and not before it said go."""
    module = tmp_path / "stage_network.py"
    module.write_text(STAND_IN)
    import limen.adapters.bubblewrap as adapter

    ordered = adapter._order_of
    monkeypatch.setattr(adapter, "_order_of", lambda spec: {**ordered(spec), "network": str(module)})
    steps: list[str] = []

    async def attend(spec: CellSpec, sockets: Any) -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"from the gateway")
            writer.close()

        steps.append("attended")
        for one in sockets:
            assert one.getsockname()[1] in spec.ports
            servers.append(await asyncio.start_server(serve, sock=one))
        return lambda: steps.append("closed")

    servers: list[asyncio.Server] = []
    isolator = Bubblewrap()

    async def work() -> Any:
        async with inside() as cell:
            spec = await _spec(cell.upstream)
            networked = await isolator.start(CellSpec(**{**_fields(spec), "ports": (443, 8443), "attend": attend}))
            try:
                code = "import socket\nconnect = lambda p: socket.create_connection(('127.0.0.1', p), 5)\n"
                code += "found = [connect(port).recv(99).decode() for port in (443, 8443)]"
                message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"arguments": {"code": code}}}
                out = networked.process.stdin, networked.process.stdout
                assert out[0] is not None
                assert out[1] is not None
                out[0].write(json.dumps(message).encode() + b"\n")
                line = await asyncio.to_thread(_line, out[1])
                return json.loads(json.loads(line)["result"]["content"][0]["text"])
            finally:
                networked.end()
                await asyncio.to_thread(networked.process.communicate)
                for server in servers:
                    server.close()

    assert asyncio.run(work()) == {"found": ["from the gateway", "from the gateway"]}
    assert steps == ["attended", "closed"]


def _line(stream: Any) -> bytes:
    data = b""
    while not data.endswith(b"\n") and (more := stream.read(65536)):
        data += more
    return data


def _fields(spec: CellSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in CellSpec.__dataclass_fields__}


async def _spec(upstream: Any) -> CellSpec:
    """What the isolator is asked to start for this server."""
    caught: list[CellSpec] = []

    class Catch:
        name = "bubblewrap"

        async def start(self, spec: CellSpec) -> Any:
            caught.append(spec)
            raise UpstreamFault("x", "caught")

    argv = [sys.executable, "-I", "-S", str(HOSTILE)]
    with pytest.raises(UpstreamFault):
        await Cells((), Catch()).launcher("x", configured(argv))(Plan(tuple(argv)))  # type: ignore[arg-type]
    return caught[0]


def test_g5_a_cell_with_ports_is_refused_where_nothing_filters_them() -> None:
    async def work() -> None:
        async with inside() as cell:
            spec = await _spec(cell.upstream)
            await ISOLATOR.start(CellSpec(**{**_fields(spec), "ports": (443,)}))

    with pytest.raises(UpstreamFault, match="nothing here filters it"):
        asyncio.run(work())


def test_the_gateway_runs_a_command_in_a_cell_and_tells_its_log(tmp_path: Path) -> None:
    """The real program, its CLI and its log: nothing in the configuration mentions a sandbox."""
    config = {
        "version": 1,
        "listen": {"url": f"http://127.0.0.1:{free_port()}"},
        "identity": {"unsafe_anonymous": True},
        "mcpServers": {"hostile": {"command": sys.executable, "args": ["-I", "-S", str(HOSTILE)]}},
    }
    (tmp_path / "limen.yaml").write_text(json.dumps(config))
    (tmp_path / "limen.yaml").chmod(0o600)
    program = [sys.executable, "-m", "limen", "-c", str(tmp_path / "limen.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    rows = subprocess.run([*program, "posture", "--json"], capture_output=True, env=environment, timeout=60, check=True)
    (row,) = [row for row in json.loads(rows.stdout) if row["guard"] == "sandbox"]
    assert row["state"] == "enforced"
    gone = subprocess.run([*program, "servers", "status"], capture_output=True, env=environment, timeout=60)
    assert gone.returncode == 1
    gateway = subprocess.Popen(
        [*program, "stdio", "hostile"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    try:
        told = tmp_path / "limen-state" / "cells.json"
        asyncio.run(until(lambda: told.exists() and json.loads(told.read_text())["servers"][0]["running"], 60))
        done = subprocess.run(
            [*program, "servers", "status", "--json"], capture_output=True, env=environment, timeout=60
        )
        (row,) = json.loads(done.stdout)["servers"]
        assert (row["server"], row["running"], row["starts"]) == ("hostile", True, 1)
        assert row["memory"] > 1_000_000
        assert row["processes"] >= 2
    finally:
        gateway.communicate(b"", timeout=60)
    assert not told.exists()
    log = b"".join(path.read_bytes() for path in (tmp_path / "limen-state" / "audit").rglob("*") if path.is_file())
    assert b'"t":"cell"' in log
    assert b'"event":"start"' in log
    assert b'"event":"exit"' in log
