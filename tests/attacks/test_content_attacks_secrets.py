"""EX-07: what a server lets slip, by every way it has to say something, is in nothing a client is told and in nothing
that is kept: no log, no audit record, no trace, no error, no database file. The honest words beside it arrive."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult, PromptReference

from gateway.running import Running, running, written
from limen.config.load import load_config
from limen.opening import open_registry

SERVER = Path(__file__).with_name("leaking_stdio.py")
SECRETS = (  # of a known form, and known by heart because the configuration holds it
    "AKIA" + "QX7RNB2KVTZP5WLD",
    "ghp_" + "R7kQz2mVx9TbLw4NcYp8HsJd3FgAe6Uo1iKq",
    "Zk7-planted-header-value-0q9X",
)
TOOLS = ("talk", "ask", "ask_field", "ask_honest", "fail", "die", "raise", "typed")


class Told:
    """Everything one client was told, and what it was asked."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.questions = 0

    async def log(self, params: Any) -> None:
        self.told.append(str(params))

    async def progress(self, done: float, total: float | None, message: str | None) -> None:
        self.told.append(str(message))

    async def answer(self, _: Any, params: Any) -> ElicitResult:
        self.questions += 1
        self.told.append(str(params))
        return ElicitResult(action="accept", content={"go": "yes"})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("leaking")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PLANTED", " ".join(SECRETS))
        monkeypatch.setenv("KNOWN", SECRETS[2])
        server = {
            "command": sys.executable,
            "args": [str(SERVER)],
            "env": {"PLANTED": "${env:PLANTED}", "KNOWN": "${env:KNOWN}"},
            "security": {"unsafe_no_sandbox": True},
        }
        rules = [{"allow": "anyone", "call": "*/*", "operations": ["tool", "prompt", "resource"]}]
        with running(directory, approved=(), mcpServers={"leaky": server}, policy={"rules": rules}) as made:
            registry = open_registry(load_config(made.config).config)
            made.until(lambda: any(kind == "set" for _, kind, _ in registry.names()), 40)
            for entry in registry.entries():
                if entry.pending:
                    registry.approve(entry.server, entry.kind, entry.name, "ann", "looked at it")
            made.until(lambda: asyncio.run(names(made)) >= set(TOOLS))
            yield made


@contextlib.asynccontextmanager
async def connected(gateway: Running, told: Told) -> Any:
    headers = {"Authorization": f"Bearer {gateway.token(server='leaky')}"}
    url = f"http://127.0.0.1:{gateway.port}/mcp/leaky"
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(
            transport, mode="legacy", elicitation_callback=told.answer, logging_callback=told.log
        ) as client:
            yield client


async def names(gateway: Running) -> set[str]:
    async with connected(gateway, Told()) as client:
        return {tool.name for tool in (await client.list_tools()).tools}


def everything(gateway: Running) -> tuple[Told, dict[str, str]]:
    """Use the server in every way; what each way gave."""
    told, gave = Told(), dict[str, str]()

    async def use() -> None:
        async with connected(gateway, told) as client:
            await client.set_logging_level("debug")
            for tool in TOOLS:
                if tool == "die":
                    continue
                try:
                    gave[tool] = str(await client.call_tool(tool, {}, progress_callback=told.progress))
                except MCPError as error:
                    gave[tool] = f"{error!r} {error}"
            for way, asked in {
                "prompt": client.get_prompt("ready", {}),
                "resource": client.read_resource("note://one"),
                "completion": client.complete(
                    PromptReference(type="ref/prompt", name="ready"), {"name": "a", "value": "b"}
                ),
            }.items():
                try:
                    gave[way] = str(await asked)
                except MCPError as error:
                    gave[way] = f"{error!r} {error}"
            try:
                gave["die"] = str(await client.call_tool("die", {}))
            except MCPError as error:
                gave["die"] = f"{error!r} {error}"

    asyncio.run(use())
    return told, gave


@pytest.fixture(scope="module")
def used(gateway: Running) -> tuple[Told, dict[str, str]]:
    return everything(gateway)


def forms(secret: str) -> tuple[str, ...]:
    coded = base64.b64encode(secret.encode()).decode().rstrip("=")
    return (secret, secret[::-1], secret.encode().hex(), coded, coded[:-1])


@pytest.mark.parametrize("secret", SECRETS, ids=["aws", "github", "known"])
def test_what_a_server_lets_slip_reaches_no_client(used: tuple[Told, dict[str, str]], secret: str) -> None:
    """EX-07, EX-01, PI-16: results, errors of both kinds, structured content, prompts, resources, completions, log
    messages, progress, questions, the end of the process."""
    told, gave = used
    assert set(gave) == {*TOOLS, "prompt", "resource", "completion"}
    for way, said in [*gave.items(), *(("message", one) for one in told.told)]:
        assert secret not in said, way


@pytest.mark.parametrize("secret", SECRETS, ids=["aws", "github", "known"])
def test_what_a_server_lets_slip_is_kept_nowhere(
    gateway: Running, used: tuple[Told, dict[str, str]], secret: str
) -> None:
    """EX-07: everything the gateway wrote (log, standard error of the server, audit, database, quarantine), in the form
    it was said and in the usual codes."""
    time.sleep(1.5)
    listed = gateway.limen("audit", "tail", "--json", "-n", "400")
    status = gateway.limen("servers", "status", "--json")
    kept = written(gateway.directory)
    assert kept
    for form in forms(secret):
        for path, content in kept.items():
            assert form.encode() not in content, (path.name, form)
        assert form not in listed
        assert form not in status
    assert gateway.records("outcome")


def test_the_honest_words_beside_it_arrive(used: tuple[Told, dict[str, str]]) -> None:
    """EX-07, honest twin: what is not secret is told, and a question without secrets is asked."""
    told, gave = used
    assert "first" in gave["talk"]
    assert "last" in gave["talk"]
    assert "fine" in gave["typed"]
    assert "Hello." in gave["prompt"]
    assert "A note." in gave["resource"]
    assert "apple" in gave["completion"]
    assert any("an honest line" in one for one in told.told)
    assert "yes" in gave["ask_honest"] or "accept" in gave["ask_honest"]
    assert told.questions == 1
