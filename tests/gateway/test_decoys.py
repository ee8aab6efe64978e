"""I9: decoys and canaries in the running gateway, each with its honest twin, and the suspicion."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from gateway.running import META, Running, running

PLANTED = "pK7vQ2mZx9TbLw4NcYp8HsJd3FgAe6Uo1iKq5RtX"
LURE = {
    "server": "one", "name": "export_all_customers", "description": "All customers with their payment data, as CSV.",
    "input_schema": {"type": "object", "properties": {"format": {"type": "string"}}},
    "shown_to": {"groups": ["staff"], "subjects": ["alice", "mallet"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    decoys = {
        "tools": [LURE, {**LURE, "name": "echo"}],  # the second one is a real tool's name
        "exempt": {"subjects": ["scanner-*"]},
        "canaries": {"backup of the wiki": PLANTED},
    }
    with running(tmp_path_factory.mktemp("decoys"), decoys=decoys) as started:
        yield started


def listed(gateway: Running, subject: str, **claims: Any) -> list[str]:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
    headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/list"}
    _, _, body = gateway.post(message, gateway.token(subject, **claims), "one", **headers)
    names = [one["name"] for one in body["result"]["tools"]]
    assert names == sorted(names)  # a decoy does not stand at the end of a list that is in order
    return names


def called(gateway: Running, event: str, **about: str) -> list[dict[str, Any]]:
    return [
        one for one in gateway.records("security")
        if one["event"] == event and all(one.get(name) == value for name, value in about.items())
    ]  # fmt: skip


def signals(gateway: Running, value: str) -> list[dict[str, Any]]:
    return [one for one in gateway.records("signal") if value in one["value"]]


def test_a_decoy_is_listed_for_those_chosen_alone_i9(gateway: Running) -> None:
    assert listed(gateway, "alice") == ["echo", "export_all_customers", "slow"]
    assert listed(gateway, "erin", groups=["staff"]) == ["echo", "export_all_customers", "slow"]
    assert listed(gateway, "bob") == ["echo", "slow"]
    assert listed(gateway, "scanner-1", groups=["staff"]) == ["echo", "slow"]


def test_whoever_calls_it_reaches_no_server_and_is_a_suspect_i9(gateway: Running) -> None:
    before = gateway.calls_seen()
    status, body = gateway.call("export_all_customers", gateway.token("mallet"))
    real = gateway.call("danger", gateway.token("mallet"))
    assert (status, body["error"]["message"]) == (403, "Denied by policy")
    assert gateway.calls_seen() == before
    assert "decoy" not in json.dumps(body) and set(body["error"]) == set(real[1]["error"])
    found = called(gateway, "decoy.called", sub="mallet")
    assert (found[0]["severity"], found[0]["name"]) == ("critical", "export_all_customers")
    gateway.until(lambda: signals(gateway, "mallet"))
    signal = signals(gateway, "mallet")[0]
    assert (signal["about"], signal["source"], signal["score"]) == ("caller", "decoy", 0.95)


def test_who_guesses_its_name_learns_nothing_and_is_a_suspect_as_well_i9(gateway: Running) -> None:
    unknown = gateway.call("no_such_tool", gateway.token("bob"))
    status, body = gateway.call("export_all_customers", gateway.token("bob"))
    assert (status, body["error"]["message"]) == (unknown[0], unknown[1]["error"]["message"])
    assert called(gateway, "decoy.called", sub="bob")


def test_ordinary_calls_and_exempt_callers_are_no_suspects_i9(gateway: Running) -> None:
    assert gateway.call("echo", gateway.token("ann"))[0] == 200  # a real tool of a decoy's name stays a real tool
    unknown = gateway.call("no_such_tool", gateway.token("scanner-1"))
    status, body = gateway.call("export_all_customers", gateway.token("scanner-1"))
    assert (status, body["error"]["message"]) == (unknown[0], unknown[1]["error"]["message"])
    assert not called(gateway, "decoy.called", sub="ann") and not called(gateway, "decoy.called", sub="scanner-1")
    assert not signals(gateway, "ann") and not signals(gateway, "scanner")


def test_the_official_client_takes_a_list_with_a_decoy_in_it_i9(gateway: Running) -> None:
    async def tools() -> list[str]:
        headers = {"Authorization": f"Bearer {gateway.token('alice')}"}
        async with httpx2.AsyncClient(headers=headers, timeout=20) as http:
            transport = streamable_http_client(f"http://127.0.0.1:{gateway.port}/mcp/one", http_client=http)
            async with Client(transport) as client:
                return sorted(tool.name for tool in (await client.list_tools()).tools)

    assert "export_all_customers" in asyncio.run(tools())


def echo(gateway: Running, subject: str, text: str) -> int:
    params = {"name": "echo", "arguments": {"text": text}, "_meta": META}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "echo"}
    return gateway.post(message, gateway.token(subject), "one", **headers)[0]


def test_a_canary_in_arguments_is_noticed_in_another_form_too_i9(gateway: Running) -> None:
    echo(gateway, "carol", f"found this: {PLANTED.encode().hex()}")
    assert echo(gateway, "dave", "found this: nothing of interest") == 200
    gateway.until(lambda: called(gateway, "decoy.canary", sub="carol"))
    assert called(gateway, "decoy.canary", sub="carol")[0]["where"] == "arguments"
    gateway.until(lambda: signals(gateway, "carol"))
    assert not called(gateway, "decoy.canary", sub="dave")
    raw = gateway.limen("audit", "tail", "--json", "-n", "400")
    assert PLANTED not in raw and PLANTED.encode().hex() not in raw


def test_a_canary_as_a_credential_is_noticed_i9(gateway: Running) -> None:
    assert gateway.call("echo", PLANTED)[0] == 401
    assert gateway.call("echo", "x" * 40)[0] == 401
    found = called(gateway, "decoy.canary", where="credential")
    assert len(found) == 1
    assert found[0]["peer"] == "127.0.0.1"


def test_a_canary_issued_while_it_runs_is_looked_for_within_a_second_i9(gateway: Running) -> None:
    value = json.loads(gateway.limen("decoys", "canary", "shared drive", "--json"))["value"]
    names = {one["name"] for one in json.loads(gateway.limen("decoys", "list", "--json"))}
    assert {"shared drive", "backup of the wiki", "one/export_all_customers"} <= names
    assert value not in gateway.limen("decoys", "list", "--json")

    def noticed() -> bool:
        echo(gateway, "frank", f"see {value}")
        return bool(called(gateway, "decoy.canary", sub="frank"))

    gateway.until(noticed)
    gateway.limen("decoys", "uproot", "shared drive")
    with contextlib.suppress(AssertionError):
        gateway.until(lambda: echo(gateway, "grace", f"see {value}") == 200, 10)
    assert echo(gateway, "grace", f"see {value}") == 200


def test_settings_that_cannot_be_told_are_refused(tmp_path: Path) -> None:
    from limen.config.model import Config

    for decoys in (
        {"tools": [{**LURE, "server": "nobody"}]},
        {"tools": [LURE, LURE]},
        {"tools": [{**LURE, "input_schema": {"type": "string"}}]},
        {"tools": [{**LURE, "input_schema": {"type": "object", "properties": {"a": {"$ref": "http://x"}}}}]},
        {"canaries": {"plain": "aaaa"}},
    ):
        with pytest.raises(ValueError):
            Config.model_validate({"mcpServers": {"one": {"url": "http://127.0.0.1:1/mcp"}}, "decoys": decoys})
