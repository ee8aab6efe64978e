"""`limen demo`: the main job, end to end, on loopback: real servers, the real gateway, the official MCP client.

Each step says what happened and fails the demo when it did not happen as it should.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from limen.cli.demo_issuer import DevelopmentIssuer
from limen.cli.terminal import block, line

START = 45.0  # seconds a part may take to start
DIFF_LINES = 4  # of a change that are shown
DECOY = "export_passwords"  # no server has it


class StepFailed(Exception):
    """A step did not end as it should."""


@dataclass(slots=True)
class Stage:
    """What the demo started, and where."""

    directory: Path
    port: int
    notes_port: int
    issuer: DevelopmentIssuer
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def config(self) -> Path:
        """The configuration the gateway runs from."""
        return self.directory / "limen.yaml"

    def resource(self, server: str) -> str:
        """Address and audience of one server behind the gateway."""
        return f"http://127.0.0.1:{self.port}/mcp/{server}"

    @asynccontextmanager
    async def client(self, server: str, subject: str, scope: str, audience: str = "") -> AsyncIterator[Client]:
        """The official client, signed in as somebody."""
        token = self.issuer.token(subject, self.resource(audience or server), scope)
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
            transport = streamable_http_client(self.resource(server), http_client=http)
            async with Client(transport) as client:
                yield client

    async def limen(self, *arguments: str, status: int = 0) -> str:
        """One command of the CLI, with the exit status it should have; returns what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "limen", "-c", str(self.config), *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        if process.returncode != status:
            raise StepFailed(f"limen {' '.join(arguments)}: {err.decode().strip() or out.decode().strip()}")
        return out.decode()

    def spawn(self, log: str, *argv: str) -> None:
        """Start a process of the demo."""
        with open(self.directory / log, "wb") as sink:
            self.processes.append(subprocess.Popen(argv, stdout=sink, stderr=subprocess.STDOUT))  # noqa: S603

    def end(self) -> None:
        """Stop what was started, the latest first."""
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def configuration(stage: Stage, repository: Path) -> dict[str, Any]:
    """Three servers, one issuer, five rules."""
    tools = Path(sys.executable).parent
    bare = {} if shutil.which("bwrap") else {"unsafe_no_sandbox": True}
    return {
        "version": 1,
        "listen": {"url": f"http://127.0.0.1:{stage.port}"},
        "identity": {"issuers": [{"issuer": stage.issuer.issuer, "require_at_jwt": True}]},
        "mcpServers": {
            "time": {"command": str(tools / "mcp-server-time"), "security": {**bare, "scopes": ["time.read"]}},
            "git": {
                "command": str(tools / "mcp-server-git"),
                "args": ["--repository", str(repository)],
                "security": {**bare, "directories": [{"path": str(repository)}], "scopes": ["git.read"]},
            },
            "notes": {"url": f"http://127.0.0.1:{stage.notes_port}/mcp", "security": {"scopes": ["notes.read"]}},
        },
        "content": {"servers": {"time": {"trusted": True}}},  # the others speak for strangers
        "decoys": {"tools": [{"server": "notes", "name": DECOY, "description": "All passwords of the team, as CSV."}]},
        "policy": {
            "rules": [
                {"allow": "anyone", "call": "time/*", "scopes": ["time.read"]},
                {"allow": "anyone", "call": "git/git_status", "scopes": ["git.read"]},
                {"allow": "anyone", "call": "git/git_log", "scopes": ["git.read"]},
                {"allow": "anyone", "call": "notes/read_note", "scopes": ["notes.read"]},
                {
                    "allow": "user:alice", "call": "notes/publish_note", "scopes": ["notes.read"],
                    "require": ["approval"],
                },
            ]
        },
    }  # fmt: skip


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until somebody listens. Raises StepFailed with the end of the log."""
    for _ in range(int(START / 0.1)):
        if process.poll() is not None:
            break
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.1)
    raise StepFailed("did not start:\n" + tail(log))


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-2000:]


def text_of(result: Any) -> str:
    """The text blocks of a tool result."""
    lines = "\n".join(block.text for block in result.content if block.type == "text").splitlines()
    return "\n".join(one for one in lines if "untrusted-data" not in one)  # the marks are for models


async def refused(client: Client, tool: str, arguments: dict[str, Any]) -> MCPError:
    """Call a tool that must be refused. Raises StepFailed when it is not."""
    try:
        result = await client.call_tool(tool, arguments)
    except MCPError as error:
        return error
    raise StepFailed(f"{tool} should have been refused, but answered: {text_of(result)[:200]}")


def reason_of(error: BaseException) -> str:
    """What went wrong, out of the groups the SDK wraps it in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def check(holds: bool, what: str) -> None:
    """Raises StepFailed."""
    if not holds:
        raise StepFailed(what)


async def approve_definitions(stage: Stage) -> str:
    """Before anybody approved anything, nothing is offered; afterwards exactly what was approved."""
    async with stage.client("time", "alice", "time.read") as client:
        check(not (await client.list_tools()).tools, "tools were offered before anyone approved them")
    for server in ("time", "git", "notes"):
        await stage.limen("tools", "approve", server, "--all", "--reason", "read them")
    await asyncio.sleep(1.0)
    async with stage.client("time", "alice", "time.read") as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
    check("get_current_time" in names, f"approved tools are not offered: {names}")
    return f"nothing was callable until approved; now time offers {', '.join(sorted(names))}"


async def allowed(stage: Stage) -> str:
    """Two real servers over stdio, one over HTTP."""
    async with stage.client("time", "alice", "time.read") as client:
        now = json.loads(text_of(await client.call_tool("get_current_time", {"timezone": "Asia/Seoul"})))
    async with stage.client("git", "alice", "git.read") as client:
        status = text_of(await client.call_tool("git_status", {"repo_path": str(stage.directory / "repository")}))
    check("branch" in status.lower(), f"git answered {status[:200]}")
    async with stage.client("notes", "alice", "notes.read") as client:
        note = text_of(await client.call_tool("read_note", {"title": "plan"}))
    return f"time: {now['datetime']}; git: {status.splitlines()[-1]}; notes: {note}"


async def denied(stage: Stage) -> str:
    """Missing scope, another server's token, a tool no rule allows."""
    async with stage.client("git", "bob", "time.read") as client:
        error = await refused(client, "git_status", {"repo_path": "."})
    check(error.error.code == 403, f"expected 403, got {error.error.code}")
    scopes = (error.error.data or {}).get("scopes")
    async with stage.client("git", "alice", "git.read") as client:
        hidden = await refused(client, "git_reset", {"repo_path": "."})
    check(hidden.error.code == -32602, "a tool that no rule allows must look unknown")
    try:
        async with stage.client("git", "alice", "git.read", audience="time") as client:
            await client.list_tools()
    except Exception as error:  # noqa: BLE001 - the SDK wraps refusals at connection in groups of its own
        return f"no scope: 403, needs {scopes}; git_reset: unknown; a token for time at git: {type(error).__name__}"
    raise StepFailed("a token for another server was accepted")


async def held(stage: Stage) -> str:
    """A rule asks for a person: held, approved once, done once."""
    arguments = {"title": "plan"}
    async with stage.client("notes", "alice", "notes.read") as client:
        error = await refused(client, "publish_note", arguments)
        request = (error.error.data or {}).get("approval")
        check(bool(request), f"no approval was asked for: {error}")
        await stage.limen("approvals", "approve", str(request), "--reason", "looks right")
        done = text_of(await client.call_tool("publish_note", arguments))
        await refused(client, "publish_note", arguments)
    return f"held as {request}; approved; {done} A second time it is held again"


async def changed(stage: Stage) -> str:
    """A rug pull: the server rewrites a description; clients keep the approved one until a person decides."""
    url = f"http://127.0.0.1:{stage.notes_port}/turn-hostile"
    await asyncio.to_thread(lambda: urllib.request.urlopen(url, data=b"", timeout=10).read())
    for _ in range(100):
        entries = json.loads(await stage.limen("tools", "list", "notes", "--json"))["entries"]
        risk = next(one["risk"] for one in entries if (one["kind"], one["name"]) == ("tool", "read_note"))
        if risk:
            break
        await asyncio.sleep(0.2)
    check(risk in ("high", "critical"), f"the change was not noticed, or its risk was not: {risk!r}")
    shown = json.loads(await stage.limen("tools", "diff", "notes", "read_note", "--json", status=1))["lines"]
    lines = [text for text in shown if text.startswith(("  -", "  +"))]
    check("id_rsa" in "".join(lines), f"the diff does not show the change: {shown}")
    before, note = await described(stage)
    check("id_rsa" not in before, "the changed description reached a client")
    await stage.limen("tools", "approve", "notes", "read_note", "--reason", "a mistake")
    await asyncio.sleep(1.0)
    check("id_rsa" in (await described(stage))[0], "what was approved is not served")
    await stage.limen("tools", "rollback", "notes", "read_note", "--reason", "undo it")
    await asyncio.sleep(1.0)
    check((await described(stage))[0] == before, "the rollback did not bring the approved description back")
    story = f"held, risk {risk}; clients still see {before!r} and it works: {note}"
    return "\n".join((story, *lines[:DIFF_LINES], "approved by mistake, rolled back: one command each"))


async def described(stage: Stage) -> tuple[str, str]:
    """The description a client is shown, and what the tool answers."""
    async with stage.client("notes", "alice", "notes.read") as client:
        tools = {tool.name: str(tool.description) for tool in (await client.list_tools()).tools}
        return tools["read_note"], text_of(await client.call_tool("read_note", {"title": "lunch"}))


async def answered(stage: Stage) -> str:
    """Somebody takes the bait: an alert and an incident by themselves, a call stopped and let go, proof of it all."""
    async with stage.client("notes", "mallory", "notes.read") as client:
        await refused(client, DECOY, {})
    for _ in range(50):
        opened = json.loads(await stage.limen("incident", "list", "--json"))
        if noticed := [one for one in opened if "decoy" in one["title"]]:
            break
        await asyncio.sleep(0.2)
    check(bool(noticed), "nobody noticed that a decoy was called")
    incident, why = str(noticed[0]["id"]), ("--reason", "who knows what else is read")
    contained = json.loads(
        await stage.limen("contain", "quarantine-tool", "notes/read_note", "--incident", incident, *why, "--json")
    )
    async with stage.client("notes", "alice", "notes.read") as client:
        stopped = await refused(client, "read_note", {"title": "plan"})
        check(stopped.error.code == 403, f"expected 403, got {stopped.error.code}")
        await stage.limen("contain", "release", contained["id"], "--reason", "only bait was taken")
        await asyncio.sleep(1.0)
        check("gateway" in text_of(await client.call_tool("read_note", {"title": "plan"})), "release changed nothing")
    bundle = str(stage.directory / "evidence.zip")
    await stage.limen("incident", "evidence", incident, "--out", bundle)
    key = (await stage.limen("audit", "key")).strip()
    proven = json.loads(await stage.limen("incident", "verify", bundle, "--key", key, "--json"))["records"]
    story = f"a decoy was called: alert, incident {noticed[0]['title']!r}; read_note stopped, then released"
    return f"{story}; evidence.zip proves it: {proven} records"


async def verified(stage: Stage) -> str:
    """The log proves all of it, with a public key alone."""
    report = json.loads(await stage.limen("audit", "verify", "--json"))
    check(report["ok"] is True, f"verification failed: {report}")
    return f"{report['size']} records verified"


STEPS = (
    ("Approve", approve_definitions),
    ("Allowed", allowed),
    ("Denied", denied),
    ("Held", held),
    ("Changed", changed),
    ("Answered", answered),
    ("Verified", verified),
)


async def play(once: bool, directory: Path) -> int:
    """Set the stage, walk through the steps, and keep serving unless told otherwise."""
    issuer = DevelopmentIssuer()
    await issuer.start()
    stage = Stage(directory, free_port(), free_port(), issuer)
    repository = directory / "repository"
    git = shutil.which("git")
    if git is None:
        raise StepFailed("the demo needs git, for the repository its git server works on")
    subprocess.run([git, "init", "-q", "-b", "main", str(repository)], check=True)  # noqa: S603, ASYNC221
    config = configuration(stage, repository)
    stage.config.write_text(json.dumps({**config, "catalog": {"refresh": 5}}, indent=2))
    stage.config.chmod(0o600)
    failed = 0
    try:
        stage.spawn("notes.log", sys.executable, "-m", "limen.cli.demo_server", str(stage.notes_port))
        await listening(stage.notes_port, stage.processes[0], directory / "notes.log")
        stage.spawn("gateway.log", sys.executable, "-m", "limen", "-c", str(stage.config), "serve")
        await listening(stage.port, stage.processes[1], directory / "gateway.log")
        if shutil.which("bwrap") is None:
            line(
                "WITHOUT A SANDBOX: there is no bwrap, so time and git run as you. Install bubblewrap to confine them."
            )
        line(f"Gateway on http://127.0.0.1:{stage.port}/mcp, development issuer {issuer.issuer} (loopback only)")
        for name, step in STEPS:
            try:
                block(f"  ok    {name:<9} {await step(stage)}".replace("\n", "\n" + " " * 18))
            except Exception as error:  # noqa: BLE001 - a step may fail in any way, and the next ones still tell
                failed += 1
                line(f"  FAIL  {name:<9} {reason_of(error)}")
        line(f"Look at {directory}: limen.yaml, gateway.log, limen-state/audit")
        if not once:
            line("Still serving. Stop with Ctrl-C.")
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
    finally:
        stage.end()
        await issuer.stop()
    return 1 if failed else 0


def run(once: bool) -> int:
    """Exit status 0 only if every step ended as it should."""
    directory = Path(tempfile.mkdtemp(prefix="limen-demo-"))
    try:
        return asyncio.run(play(once, directory))
    except StepFailed as error:
        line(f"  FAIL  {error}")
        return 1
    except KeyboardInterrupt:
        return 0
