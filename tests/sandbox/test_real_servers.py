"""H2 with G1 and G5: servers people use, from their registries, installed as `limen servers install` does and started
from the store, verified, offline, each in a cell of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from mcp import Client, StdioServerParameters

from egress.cells import PUBLIC, World, needs_namespaces
from limen.adapters.egress_proxy import EgressGate, open_as_configured
from limen.config.load import load_config
from limen.core.announce import Announcement
from limen.core.faults import UpstreamError
from limen.gateway.cells import Cells, private_paths
from limen.gateway.run import connect
from sandbox.cells_kit import needs_bubblewrap
from upstreams.minted import Heard, call, permit

pytestmark = [needs_bubblewrap, needs_namespaces, pytest.mark.timeout(400)]  # six installations from registries
UNREACHABLE = (
    "ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT", "NameResolutionError", "NewConnectionError",
    "Connection refused", "Connection to", "ConnectTimeoutError",
)  # fmt: skip
NPM = ("files", "everything")


@dataclass
class Installed:
    """A configuration whose servers were installed, or why they could not be."""

    config: Path
    folder: Path
    said: Mapping[str, tuple[int, str]]

    def need(self, name: str) -> None:
        if name in NPM and shutil.which("npm") is None:
            pytest.skip("npm is missing: install npm and nodejs")
        status, text = self.said[name]
        if status == 3 and any(sign in text for sign in UNREACHABLE):
            pytest.skip("the package registry cannot be reached")
        assert status == 0, text

    def cells(self, world: World | None = None) -> Cells:
        """With a world, names and connections lead into it."""
        loaded = load_config(self.config).config
        gate = EgressGate if world is None else partial(EgressGate, lookup=world.lookup, dial=world.dial)
        cells = Cells(private_paths(loaded), gate=gate)
        cells.egress = [].append if world is None else world.events.append
        cells.barred = lambda server: open_as_configured()
        return cells

    async def use(
        self, name: str, *calls: tuple[str, dict[str, Any]], cells: Cells | None = None
    ) -> tuple[Announcement, list[str]]:
        """What the server announces, and the text it answers to each call; of an error its message."""
        self.need(name)
        upstreams = connect(load_config(self.config).config, cells=cells or self.cells())
        upstream = upstreams.by_name[name]
        texts = []
        try:
            said = await upstreams.describe(name)
            for tool, arguments in calls:
                asked = replace(call(name=tool, arguments=json.dumps(arguments).encode()), server=name)
                made = await permit(asked, server=name)
                try:
                    result = await upstream.forward(made, Heard())
                    texts.append("".join(block.get("text", "") for block in result["content"]))
                except UpstreamError as error:
                    texts.append(str(error))
            return said, texts
        finally:
            await upstreams.close()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("real")
    repository, database, files = (folder / name for name in ("repository", "database", "files"))
    for one in (database, files):
        one.mkdir()
        one.chmod(0o777)  # whoever the cell's user is
    subprocess.run(["git", "init", "-q", "-b", "main", str(repository)], check=True, timeout=30)
    (files / "note.txt").write_text("a note")
    servers = {
        "time": entry("uvx", "mcp-server-time"),
        "git": entry("uvx", "mcp-server-git", "--repository", str(repository), directories=[{"path": str(repository)}]),
        "fetch": entry("uvx", "mcp-server-fetch", egress=["plain.test:80"]),
        # Its last release is older than version 2 of the SDK it wants any version of.
        "sqlite": entry(
            "uvx",
            "--with",
            "mcp<2",
            "mcp-server-sqlite",
            "--db-path",
            str(database / "x.db"),
            directories=[{"path": str(database), "write": True}],
        ),
        "files": entry(
            "npx",
            "-y",
            "@modelcontextprotocol/server-filesystem",
            str(files),
            directories=[{"path": str(files), "write": True}],
        ),
        "everything": entry("npx", "-y", "@modelcontextprotocol/server-everything"),
    }
    config = folder / "limen.yaml"
    config.write_text(yaml.safe_dump({"mcpServers": servers, "identity": {"unsafe_anonymous": True}}))
    config.chmod(0o600)
    with ThreadPoolExecutor(len(servers)) as pool:
        said = dict(zip(servers, pool.map(partial(install, config), servers), strict=True))
    return Installed(config, folder, said)


def entry(command: str, *args: str, **security: Any) -> dict[str, Any]:
    return {"command": command, "args": list(args), "security": security}


SOURCE = str(Path(__file__).parents[2] / "src")


def limen(config: Path, *arguments: str) -> tuple[int, str]:
    argv = [sys.executable, "-m", "limen", "-c", str(config), *arguments]
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=240, check=False)
    return done.returncode, done.stdout + done.stderr


def install(config: Path, name: str) -> tuple[int, str]:
    return limen(config, "servers", "install", name)


Use = Callable[..., tuple[Announcement, list[str]]]


@pytest.fixture
def use(installed: Installed) -> Use:
    return lambda *arguments, **more: asyncio.run(installed.use(*arguments, **more))


def test_time(use: Use) -> None:
    said, (text,) = use("time", ("get_current_time", {"timezone": "Asia/Seoul"}))
    assert "+09:00" in text
    assert said.identity["artifact"].startswith("sha256-")


def test_time_the_whole_way(installed: Installed) -> None:
    """As people use it: installed, approved, and called by the official client through `limen stdio`."""
    installed.need("time")
    document = yaml.safe_load(installed.config.read_text())
    document["mcpServers"] = {"time": document["mcpServers"]["time"]}  # a gateway starts all it has
    document["policy"] = {"rules": [{"allow": "anyone", "call": "time/*"}]}
    config = installed.folder / "time.yaml"
    config.write_text(yaml.safe_dump(document))
    config.chmod(0o600)
    status, said = limen(config, "tools", "approve", "time", "--all", "--yes", "--reason", "read it")
    assert status == 0, said
    argv = ["-m", "limen", "-c", str(config), "stdio", "time"]
    offer = StdioServerParameters(command=sys.executable, args=argv, env={**os.environ, "PYTHONPATH": SOURCE})

    async def talk() -> tuple[set[str], str]:
        async with Client(offer) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            answer = await client.call_tool("get_current_time", {"timezone": "Asia/Seoul"})
            return names, "".join(getattr(block, "text", "") for block in answer.content)

    names, text = asyncio.run(talk())
    assert "get_current_time" in names
    assert "+09:00" in text
    _, log = limen(config, "audit", "tail", "--json", "-n", "200")
    records = [json.loads(row) for row in log.splitlines() if row.startswith("{")]
    starts = [one for one in records if one["t"] == "cell" and one["event"] == "start"]
    assert starts
    assert {one["server"] for one in starts} >= {"time"}
    assert any(one["t"] == "intent" for one in records)


def test_git_sees_its_repository_and_no_other(use: Use, installed: Installed) -> None:
    other = installed.folder / "other"
    subprocess.run(["git", "init", "-q", "-b", "main", str(other)], check=True, timeout=30)
    repository = str(installed.folder / "repository")
    _, (text, outside) = use(
        "git", ("git_status", {"repo_path": repository}), ("git_status", {"repo_path": str(other)})
    )
    assert "On branch main" in text
    assert "On branch" not in outside


def test_fetch_reaches_its_one_host(installed: Installed, tmp_path: Path) -> None:
    """G5: the allowed host answers; another, the metadata service and a private address do not. Trap 8: it would
    install packages from npm if it saw node."""
    world = World(tmp_path, {"plain.test": [PUBLIC], "evil.test": [PUBLIC]})
    cells = installed.cells(world)
    urls = ["http://plain.test/page", "http://evil.test/", "http://169.254.169.254/latest", "http://10.0.0.1/"]

    async def work() -> list[str]:
        async with world.serve(PUBLIC, 80):
            calls = [("fetch", {"url": url, "raw": True}) for url in urls]
            return (await installed.use("fetch", *calls, cells=cells))[1]

    allowed, *refused = asyncio.run(work())
    assert "hello from /page" in allowed
    assert not any("hello from" in text for text in refused)
    assert {address for address, _ in world.dialled} == {PUBLIC}
    assert "evil.test" not in world.asked
    counted = cells.gates["fetch"].counters
    assert counted["allowed"] >= 1
    assert counted["refused"] >= 1
    (state,) = cells.states([{"server": "fetch"}])
    assert state["egress"]["received"] > 0


def test_sqlite_keeps_a_database_where_it_may_write(use: Use, installed: Installed) -> None:
    calls = [
        ("create_table", {"query": "CREATE TABLE t (x TEXT)"}),
        ("write_query", {"query": "INSERT INTO t VALUES ('kept')"}),
        ("read_query", {"query": "SELECT x FROM t"}),
        ("read_query", {"query": "SELECT x FROM u"}),
    ]
    _, texts = use("sqlite", *calls)
    assert "kept" in texts[2]
    assert "no such table" in texts[3]
    assert (installed.folder / "database" / "x.db").stat().st_size > 0


def test_filesystem_reads_and_writes_its_directory_and_nothing_else(use: Use, installed: Installed) -> None:
    files = installed.folder / "files"
    calls = [
        ("read_text_file", {"path": str(files / "note.txt")}),
        ("write_file", {"path": str(files / "new.txt"), "content": "new"}),
        ("read_text_file", {"path": str(installed.config)}),
    ]
    _, (note, _, outside) = use("files", *calls)
    assert note == "a note"
    assert (files / "new.txt").read_text() == "new"
    assert "unsafe_anonymous" not in outside


def test_everything_echoes(use: Use) -> None:
    said, (text, _) = use("everything", ("echo", {"message": "through the cell"}), ("get-env", {}))
    assert "through the cell" in text
    assert {"echo", "get-env"} <= {tool["name"] for tool in said.tools}


def test_everything_tells_an_environment_without_secrets(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own tool prints the environment it runs in: nothing of the gateway's is there."""
    monkeypatch.setenv("GATEWAY_SECRET", "gateway-canary-9d1e")
    _, (text,) = use("everything", ("get-env", {}))
    assert set(json.loads(text)) <= {"PATH", "HOME", "TMPDIR", "LANG", "PWD", "SHLVL", "_"}
    assert "gateway-canary" not in text
