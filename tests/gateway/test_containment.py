"""Containment (J1) with real gateway processes: each action, the ways around it, its honest twin, and its release."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp_types import PromptReference, ToolListChangedNotification

from gateway.hands import SLACK, WITHIN, Operator
from gateway.running import ISSUER, KEY, META, Running, running
from gateway.test_revocation import stream
from gateway.twins import Twins, twins

CLOSED = "Denied: the operator has closed this for now"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    def reading(started: Running) -> None:
        started.limen("tools", "list", "--refresh")
        for server in ("one", "two"):
            started.limen("tools", "approve", server, "extra", "--effect", "read", "--reason", "test")

    directory = tmp_path_factory.mktemp("contained")
    issuer = {"issuer": ISSUER, "jwks": json.dumps({"keys": [KEY.as_dict(private=False)]})}
    identity = {"issuers": [issuer], "api_keys": True}
    with running(directory, ("extra",), prepare=reading, tools=("echo", "slow"), identity=identity) as started:
        yield started


@pytest.fixture
def operator(gateway: Running) -> Iterator[Operator]:
    operator = Operator(gateway)
    yield operator
    operator.release_all()
    settled(gateway)


def settled(gateway: Running) -> None:
    for server in ("one", "two"):
        gateway.until(lambda server=server: gateway.call("echo", gateway.token("zoe", server), server)[0] == 200, 5)


def until(status: int, gateway: Running, tool: str, token: str, server: str = "one") -> tuple[float, str]:
    """Seconds until calls end like this, and what is said."""
    since = time.monotonic()
    while True:
        got, body = gateway.call(tool, token, server)
        passed = time.monotonic() - since
        if got == status:
            return passed, body.get("error", {}).get("message", "")
        assert passed < WITHIN + SLACK, f"{got} after {passed:.2f} s"
        time.sleep(0.02)


def ask(gateway: Running, method: str, token: str, server: str = "one", **headers: str) -> tuple[int, Any]:
    message = {"jsonrpc": "2.0", "id": 3, "method": method, "params": {"_meta": META}}
    mirrored = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": method}
    status, _, body = gateway.post(message, token, server, **{**mirrored, **headers})
    return status, body


def listed(gateway: Running, token: str, server: str = "one") -> set[str]:
    status, body = ask(gateway, "tools/list", token, server)
    assert status == 200, body
    return {tool["name"] for tool in body["result"]["tools"]}


def bundle_token(gateway: Running, subject: str = "alice") -> str:
    return gateway.token(subject, "", aud=f"http://127.0.0.1:{gateway.port}/mcp")


def test_a_quarantined_tool_is_neither_called_nor_listed_by_any_of_its_names(
    gateway: Running, operator: Operator
) -> None:
    """Lists that were cached for this very caller do not go on showing it; its neighbours stay; release restores."""
    token, everywhere = gateway.token(), bundle_token(gateway)
    before, both = listed(gateway, token), listed(gateway, everywhere, "")
    assert {"echo", "slow", "extra"} == before
    assert {"one__echo", "two__echo"} <= both
    assert gateway.call("one__echo", everywhere, "")[0] == 200
    applied = operator.contain("quarantine_tool", "one/echo")
    passed, said = until(403, gateway, "echo", token)
    assert (passed < WITHIN + SLACK, said) == (True, CLOSED)
    seen = gateway.calls_seen()
    assert gateway.call("one__echo", everywhere, "")[0] == 403
    for spelling in ("Echo", "echo ", "ECHO", "one/echo", "ｅcho"):
        assert gateway.post(
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": spelling, "arguments": {}}},
            token, Mcp_Session_Id=gateway.session(token), MCP_Protocol_Version="2025-11-25",
        )[2]["error"]  # fmt: skip
    assert gateway.calls_seen() == seen
    assert listed(gateway, token) == before - {"echo"}
    assert listed(gateway, everywhere, "") == both - {"one__echo"}
    assert gateway.call("two__echo", everywhere, "")[0] == gateway.call("extra", token)[0] == 200
    operator.release(applied)
    until(200, gateway, "echo", token)
    assert (listed(gateway, token), listed(gateway, everywhere, "")) == (before, both)


def test_who_may_not_see_a_tool_does_not_learn_that_it_is_contained(gateway: Running, operator: Operator) -> None:
    token = gateway.token()
    plain = gateway.call("danger", token)
    operator.contain("quarantine_tool", "one/danger")
    operator.contain("quarantine_tool", "one/nothing")
    operator.contain("quarantine_tool", "one/echo")
    until(403, gateway, "echo", token)
    hidden = gateway.call("danger", token)
    assert (hidden[0], hidden[1]["error"]["message"]) == (plain[0], plain[1]["error"]["message"])
    assert gateway.call("nothing", token)[1]["error"]["message"] == plain[1]["error"]["message"]


def test_a_quarantined_server_is_closed_whatever_is_asked_and_what_is_under_way_ends(
    gateway: Running, operator: Operator
) -> None:
    """A session opened before, another token of anybody's, lists, streams, a call that waits; not the server beside."""
    token, everywhere = gateway.token(), bundle_token(gateway)
    session = gateway.session(token)
    ended: list[float] = []
    going: list[float] = []
    mine = stream(gateway, token, ended)
    assert mine.is_alive()
    answers: list[Any] = []
    slow = threading.Thread(target=lambda: answers.append(gateway.call("slow", token)), daemon=True)
    other = threading.Thread(
        target=lambda: going.append(gateway.call("slow", gateway.token("bob", "two"), "two")[0]), daemon=True
    )
    slow.start()
    other.start()
    time.sleep(0.5)
    since = time.monotonic()
    applied = operator.contain("quarantine_server", "one")
    mine.join(20)
    slow.join(20)
    assert ended[0] - since < WITHIN + SLACK
    assert (answers[0][0], answers[0][1]["error"]["message"]) == (403, CLOSED)
    for who in ("alice", "bob"):
        for method in ("tools/list", "resources/list", "prompts/list", "server/discover", "subscriptions/listen"):
            assert ask(gateway, method, gateway.token(who))[0] == 403, method
    asked = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    assert gateway.post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": asked}, token)[0] == 403
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert gateway.post(ping, token, Mcp_Session_Id=session)[0] == 403
    assert gateway.call("one__extra", everywhere, "")[0] == 403
    assert not {name for name in listed(gateway, everywhere, "") if name.startswith("one__")}
    assert (
        gateway.call("two__echo", everywhere, "")[0]
        == gateway.call("echo", gateway.token("bob", "two"), "two")[0]
        == 200
    )
    assert (other.is_alive(), going) == (True, [])
    operator.release(applied)
    until(200, gateway, "echo", token)
    assert gateway.post(ping, token, Mcp_Session_Id=session)[0] == 200  # as it was
    found = [one for one in audit(gateway) if one.get("detail") == "ended under way"]
    assert {(one["reason"], one["guard"]) for one in found} == {("incidents.contained", "Contained")}


def test_read_only_lets_reading_pass(gateway: Running, operator: Operator) -> None:
    token, two = gateway.token(), gateway.token("alice", "two")
    applied = operator.contain("read_only", "one")
    assert until(403, gateway, "echo", token)[1] == CLOSED  # nobody said what it does
    assert gateway.call("extra", token)[0] == gateway.call("echo", two, "two")[0] == 200
    assert listed(gateway, token) == {"extra"}
    operator.contain("read_only")
    until(403, gateway, "echo", two, "two")
    assert gateway.call("extra", two, "two")[0] == 200
    operator.release(applied)
    assert gateway.call("echo", token)[0] == 403


def test_stop_all_by_every_door(gateway: Running, operator: Operator) -> None:
    """OP: every route, API keys, streams, and the standard-input surface of another process."""
    token, key = gateway.token(), api_key(gateway)
    assert gateway.call("echo", None, X_API_Key=key)[0] == 200
    ended: list[float] = []
    stream(gateway, token, ended)
    since = time.monotonic()
    applied = operator.contain("stop_all")
    assert until(403, gateway, "echo", token)[1] == CLOSED
    gateway.until(lambda: ended, 20)
    assert ended[0] - since < WITHIN + SLACK
    assert gateway.call("echo", None, X_API_Key=key)[0] == 403
    assert ask(gateway, "tools/list", bundle_token(gateway), "")[0] == 403
    operator.release(applied)
    until(200, gateway, "echo", token)
    assert gateway.call("echo", None, X_API_Key=key)[0] == 200


def test_a_local_client_is_stopped_as_well(gateway: Running) -> None:
    """Standard input and output: another process, which reads the same records."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
    argv = [sys.executable, "-m", "limen", "-c", str(gateway.config), "stdio", "one"]

    def said() -> Any:
        line = json.dumps(message) + "\n"
        done = subprocess.run(argv, input=line, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    gateway.stop()
    try:
        operator = Operator(gateway)
        applied = operator.contain("stop_all")
        assert said()["error"]["message"] == CLOSED
        operator.release(applied)
        assert "result" in said()
    finally:
        gateway.start()


def api_key(gateway: Running) -> str:
    made = json.loads(gateway.limen("keys", "api", "create", "robot", "--server", "one", "--scope", "use", "--json"))
    return str(made["key"])


@pytest.mark.parametrize(
    ("kind", "value", "claims"),
    [
        ("lock_caller", "mallory", {"subject": "mallory"}),
        ("block_client", "bad-app", {"client_id": "bad-app"}),
        ("revoke_token", "t-9", {"jti": "t-9"}),
    ],
)
def test_a_contained_caller_has_no_other_token(
    gateway: Running, operator: Operator, kind: str, value: str, claims: dict[str, Any]
) -> None:
    bad = gateway.token(**claims)
    assert gateway.call("echo", bad)[0] == 200
    applied = operator.contain(kind, value)
    assert until(401, gateway, "echo", bad)[0] < WITHIN + SLACK
    assert gateway.call("echo", gateway.token(**claims, amr=["pwd"]))[0] == 401
    assert gateway.call("echo", gateway.token("bob", jti="t-1"))[0] == 200
    operator.release(applied)
    until(200, gateway, "echo", bad)


def test_a_second_is_enough(gateway: Running, operator: Operator) -> None:
    """What is promised. A busy machine may be late sometimes; a gateway that looks too seldom is late each time."""

    def taken(number: int) -> float:
        token = gateway.token(f"trent-{number}")
        assert gateway.call("echo", token)[0] == 200
        operator.contain("lock_caller", f"trent-{number}")
        return until(401, gateway, "echo", token)[0]

    assert any(taken(number) < WITHIN for number in range(10))


@pytest.mark.parametrize("command", ["contain", "revoke"])
def test_a_session_ends_by_the_name_the_log_shows(gateway: Running, operator: Operator, command: str) -> None:
    token = gateway.token("gina")
    session, other = gateway.session(token), gateway.session(token)
    listing = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}

    def status(id: str) -> int:
        return gateway.post(listing, token, Mcp_Session_Id=id, MCP_Protocol_Version="2025-11-25")[0]

    assert status(session) == 200
    named = [one["session"] for one in audit(gateway) if one["t"] == "local" and one.get("sub") == "gina"][-1]
    assert len(named) == 16
    if command == "contain":
        applied = operator.contain("end_session", named)
    else:
        made = json.loads(gateway.limen("revoke", "session", named, "--json"))
    gateway.until(lambda: status(session) == 404, 3)
    assert status(other) == 200
    if command == "contain":
        operator.release(applied)
    else:
        gateway.limen("revoke", "undo", made["id"])
    gateway.until(lambda: status(session) == 200, 3)


def test_a_remote_server_that_is_cut_off_hears_nothing_of_us(gateway: Running, operator: Operator) -> None:
    token, two = gateway.token(), gateway.token("alice", "two")
    applied = operator.contain("cut_egress", "one")
    assert until(403, gateway, "echo", token)[1] == CLOSED
    seen = gateway.calls_seen()
    assert gateway.call("echo", two, "two")[0] == 200
    assert gateway.calls_seen() == seen + 1
    operator.release(applied)
    until(200, gateway, "echo", token)


def test_what_was_said_to_be_contained_stays_so_whatever_is_killed(gateway: Running) -> None:
    """Kill -9 of the gateway right after the command said so, and a start: it never serves what is contained."""
    token = gateway.token()
    applied = json.loads(gateway.limen("contain", "quarantine-tool", "one/echo", "--reason", "leaks", "--json"))
    gateway.process.send_signal(signal.SIGKILL)
    gateway.process.wait(10)
    gateway.start()
    assert gateway.call("echo", token)[0] == 403
    assert gateway.call("extra", token)[0] == 200
    listing = json.loads(gateway.limen("contain", "list", "--json"))
    assert [one["id"] for one in listing] == [applied["id"]]
    gateway.limen("contain", "release", applied["id"], "--by", "ann", "--reason", "mended")
    until(200, gateway, "echo", token)
    told = [(one["t"], one["by"], one["reason"]) for one in audit(gateway) if one.get("id") == applied["id"]]
    assert [one[0::2] for one in told[-2:]] == [("contained", "leaks"), ("released", "mended")]
    refused = [one for one in audit(gateway) if one.get("reason") == "incidents.contained"]
    assert "leaks" in refused[-1]["detail"]
    assert applied["id"] in refused[-1]["detail"]


def audit(gateway: Running) -> list[dict[str, Any]]:
    return [json.loads(one) for one in gateway.limen("audit", "tail", "--json", "-n", "400").splitlines()]


# prompts, resources, completion, questions; with the official client


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    with twins(tmp_path_factory.mktemp("twins")) as started:
        yield started


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_nothing_of_a_quarantined_server_is_left_in_a_bundle(both: Twins, mode: str) -> None:
    """Tools, prompts, resources, templates and completion; who listens is told; the twin keeps all of it."""
    operator = Operator(both)

    async def reach(client: Client, server: str) -> int:
        """How many of five ways lead there."""
        ways = (
            lambda: client.call_tool(f"{server}__who", {}),
            lambda: client.get_prompt(f"{server}__hail", {"name": "ada"}),
            lambda: client.read_resource(f"limen+{server}:note://same"),
            lambda: client.read_resource(f"limen+{server}:user://ada/card"),
            lambda: client.complete(
                PromptReference(type="ref/prompt", name=f"{server}__hail"), {"name": "name", "value": "a"}
            ),
        )
        passed = 0
        for way in ways:
            try:
                await way()
                passed += 1
            except MCPError as error:
                assert CLOSED in str(error) or "403" in str(error), error
        return passed

    async def names(client: Client) -> set[str]:
        found = [one.name for one in (await client.list_tools()).tools]
        found += [one.name for one in (await client.list_prompts()).prompts]
        found += [str(one.uri) for one in (await client.list_resources()).resources]
        return {name for name in found if "one" in name.partition("__")[0].partition(":")[0]}

    heard: list[str] = []

    async def hear(message: Any) -> None:
        if isinstance(getattr(message, "root", message), ToolListChangedNotification):
            heard.append("tools")

    async def reaches(client: Any, wanted: tuple[int, int]) -> bool:
        since = time.monotonic()
        while (await reach(client, "one"), await reach(client, "two")) != wanted:
            if time.monotonic() - since > WITHIN + SLACK:
                return False
            await asyncio.sleep(0.1)
        return True

    async def scenario() -> None:
        async with both.client("team", mode, message_handler=hear) as client:
            assert (await reach(client, "one"), await reach(client, "two")) == (5, 5)
            assert len(await names(client)) >= 3
            heard.clear()
            applied = await asyncio.to_thread(operator.contain, "quarantine_server", "one")
            assert await reaches(client, (0, 5))
            assert await names(client) == set()
            assert mode == "auto" or heard
            await asyncio.to_thread(operator.release, applied)
            assert await reaches(client, (5, 5))

    asyncio.run(scenario())
