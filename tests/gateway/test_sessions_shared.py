"""Two real gateways over one storage (C3, C5, C7, C8, B8; AU-06, AU-08, AU-09): one is killed, nothing is lost."""

import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.running import Running, running
from launched import free_port

LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
OLD = {"MCP_Protocol_Version": "2025-11-25"}
HOME, CAFE = "203.0.113.5", "198.51.100.9"


class Second(Running):
    """Has a file of its own."""

    @property
    def config(self) -> Path:
        return self.directory / "second.yaml"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running]]:
    """Behind one public address; only the log is each one's own."""
    directory, ports = tmp_path_factory.mktemp("pair"), (free_port(), free_port())
    listen = {"url": f"http://127.0.0.1:{ports[0]}", "trusted_proxies": ["127.0.0.1"]}
    with running(
        directory, port=ports[0], approved=("one",), tools=("echo", "slow"), extra=("late",), listen=listen
    ) as first:
        config = json.loads(first.config.read_text())
        config["listen"] = {**listen, "bind": f"127.0.0.1:{ports[1]}"}
        config["audit"] = {"path": "limen-state/audit-2", "key": "limen-state/audit.key"}
        second = Second(ports[1], directory, first.recorder)
        path = second.config
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        second.start()
        try:
            yield first, second
        finally:
            second.stop()


def tools(gateway: Running, token: str | None, session: str, **headers: str) -> tuple[int, dict[str, Any]]:
    status, _, body = gateway.post(LIST, token, Mcp_Session_Id=session, **OLD, **headers)
    body.get("error", {}).pop("data", None)  # the reference differs by design
    return status, body


def stream(gateway: Running, token: str, session: str, last: str | None = None) -> tuple[int, bytes, Any]:
    """Open a session's stream: status, its first lines or the whole body, the connection."""
    headers = {
        "Accept": "text/event-stream", "Authorization": f"Bearer {token}", "Mcp-Session-Id": session,
        "MCP-Protocol-Version": "2025-11-25",
    }  # fmt: skip
    if last is not None:
        headers["Last-Event-ID"] = last
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.request("GET", "/mcp/one", headers=headers)
    answer = connection.getresponse()
    if answer.status != 200:
        body = json.loads(answer.read())
        body["error"].pop("data", None)
        return answer.status, json.dumps(body).encode(), connection
    lines = b""
    while not lines.endswith(b"\n\n"):
        lines += answer.readline()
    return answer.status, lines, answer


def wait_for(words: bytes, answer: Any) -> None:
    told = b""
    while words not in told:
        told += answer.readline()
    while answer.readline() != b"\n":
        pass


def event_id(lines: bytes) -> str:
    return lines.split(b"id: ")[1].split(b"\n")[0].decode()


@pytest.mark.requirement("SES-01", "SES-04", "SES-08", "AU-06", "AU-08")
def test_c8_a_session_works_in_every_replica_and_ends_in_every_replica(pair: tuple[Running, Running]) -> None:
    first, second = pair
    alice, mallory = first.token("alice"), first.token("mallory")
    session = first.session(alice)
    assert tools(first, alice, session)[0] == tools(second, alice, session)[0] == 200
    for gateway in pair:
        assert tools(gateway, None, session)[0] == 401  # C3: never authentication
        stolen, unknown = tools(gateway, mallory, session), tools(gateway, mallory, "A" * 43)
        assert stolen == unknown
        assert stolen[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", second.port, timeout=10)
    connection.request("DELETE", "/mcp/one", headers={"Authorization": f"Bearer {alice}", "Mcp-Session-Id": session})
    assert connection.getresponse().status == 204
    assert tools(second, alice, session)[0] == 404
    time.sleep(1.1)
    assert tools(first, alice, session)[0] == 404


@pytest.mark.requirement("AU-14")
def test_c6_more_scopes_need_a_new_session(pair: tuple[Running, Running]) -> None:
    first, _ = pair
    session = first.session(first.token("carol"))
    assert tools(first, first.token("carol"), session)[0] == 200
    raised = first.token("carol", scope="use admin")
    assert tools(first, raised, session)[0] == 404
    assert tools(first, first.token("carol"), session)[0] == 404
    assert tools(first, raised, first.session(raised))[0] == 200


@pytest.mark.requirement("SES-12", "AU-09", "AU-10")
def test_c7_a_stream_is_resumed_by_its_owner_in_any_replica_and_by_nobody_else(pair: tuple[Running, Running]) -> None:
    first, second = pair
    alice, mallory = first.token("alice"), first.token("mallory")
    session, theirs, other = first.session(alice), first.session(mallory), first.session(alice)
    status, lines, _ = stream(first, alice, session)
    assert status == 200
    last = event_id(lines)
    assert stream(second, alice, session, last)[0] == 200
    flipped = ("A" if last[30] != "A" else "B").join((last[:30], last[31:]))
    refused = [
        stream(second, mallory, theirs, last),  # AU-09
        stream(second, alice, other, last),  # the stream of another session of hers
        stream(second, alice, session, flipped),
        stream(second, alice, session, "A" * 90),
        stream(second, alice, session, "0"),
    ]
    assert {answer[:2] for answer in refused} == {(400, refused[0][1])}
    assert stream(second, mallory, session, last)[0] == 404


def test_c7_what_was_missed_is_told_after_resuming(pair: tuple[Running, Running]) -> None:
    first, second = pair
    alice = first.token("alice")
    session = first.session(alice)
    _, lines, _ = stream(first, alice, session)
    first.limen("tools", "approve", "one", "late", "--reason", "test")
    time.sleep(1.5)
    status, lines, answer = stream(second, alice, session, event_id(lines))
    assert status == 200
    wait_for(b"list_changed", answer)
    time.sleep(2.5)  # the stream has been silent for a while when the next change comes
    first.limen("tools", "approve", "one", "danger", "--reason", "test")
    wait_for(b"list_changed", answer)


def test_c6_calls_under_way_end_with_their_session_in_every_replica(pair: tuple[Running, Running]) -> None:
    first, second = pair
    alice = first.token("alice")
    session, other = first.session(alice), first.session(alice)
    answers: dict[str, Any] = {}

    def call(key: str, tool: str) -> None:
        message = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": tool, "arguments": {}}}
        answers[key] = first.post(message, alice, Mcp_Session_Id=key, **OLD)

    slow = threading.Thread(target=call, args=(session, "slow"))
    slow.start()
    first.until(lambda: any(b'"slow"' in body for _, body in first.recorder.seen))
    call(other, "echo")
    connection = http.client.HTTPConnection("127.0.0.1", second.port, timeout=10)
    connection.request("DELETE", "/mcp/one", headers={"Authorization": f"Bearer {alice}", "Mcp-Session-Id": session})
    assert connection.getresponse().status == 204
    slow.join(15)  # the server would take half a minute
    assert answers[session][2]["error"]["message"] == "Cancelled"
    assert "result" in answers[other][2]
    assert tools(first, alice, other)[0] == 200


def test_c5_b8_a_hijacked_session_ends_and_is_told(pair: tuple[Running, Running]) -> None:
    first, _ = pair
    token = first.token("victim")
    home = {"X_Forwarded_For": f"10.9.9.9, {HOME}", "User_Agent": "Desk/1.0"}
    thief = {"X_Forwarded_For": CAFE, "User_Agent": "curl/8"}
    asked = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": asked}
    session = first.post(message, token, **home)[1]["mcp-session-id"]
    assert tools(first, token, session, **home)[0] == 200
    assert tools(first, token, session, **thief)[0] == 200
    assert tools(first, token, session, **home)[0] == 404
    assert tools(first, token, session, **thief)[0] == 404
    status, headers, _ = first.post(message, token, **thief)
    assert status == 401
    assert 'error="insufficient_user_authentication"' in headers["www-authenticate"]
    assert "max_age=" in headers["www-authenticate"]
    fresh = first.token("victim", auth_time=int(time.time()) + 1)
    assert first.post(message, fresh, **home)[0] == 200
    time.sleep(0.3)
    told = {record["event"]: record for record in first.records("security") if record.get("sub") == "victim"}
    assert {"session.hijack", "token.two_networks"} <= told.keys()
    assert told["session.hijack"]["peer"] == HOME
    assert told["session.hijack"]["signals"] == ["network", "concurrent", "agent"]
    text = json.dumps(list(told.values()))
    assert token.rsplit(".", 1)[1] not in text
    assert session not in text


def test_b8_a_burst_of_foreign_tokens_is_told_once(pair: tuple[Running, Running]) -> None:
    first, _ = pair
    for _ in range(12):
        assert first.call("echo", first.token("eve", server="two"))[0] == 401
    time.sleep(0.3)
    told = [record for record in first.records("security") if record["event"] == "token.wrong_audience"]
    assert len(told) == 1


@pytest.mark.requirement("SES-19")
def test_c8_a_replica_is_killed_and_nothing_is_lost(pair: tuple[Running, Running]) -> None:
    first, second = pair
    alice = first.token("alice")
    session = first.session(alice)
    assert tools(first, alice, session)[0] == 200
    _, lines, _ = stream(first, alice, session)
    first.stop(signal.SIGKILL)
    status, body = tools(second, alice, session)
    assert status == 200
    assert "echo" in [tool["name"] for tool in body["result"]["tools"]]
    assert stream(second, alice, session, event_id(lines))[0] == 200
