"""Rules of sessions and of self-contained requests at the running gateway (SES, AU: tests/requirements.py)."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import running as kit
from gateway.running import META, Running, running
from gateway.wire import JSON, LIST, NEW, OLD, Patient, ask, bearer, message, on
from limen.core.call import Era

VERSION = {"MCP_Protocol_Version": OLD}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit, "Recorder", Patient)
        extra = ("pause", "late", "later")
        with running(
            tmp_path_factory.mktemp("sessions"), extra=extra, tools=("echo", "pause"), approved=("one",),
            risk={"unsafe_observe": True},  # the same people are attackers in one test and victims in the next
        ) as one:  # fmt: skip
            yield one


def listed(gateway: Running, token: str | None, session: str, **headers: str) -> int:
    return gateway.post(LIST, token, Mcp_Session_Id=session, **{**VERSION, **headers})[0]


def calling(tool: str, number: int = 7) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": tool, "arguments": {}}}


class Stream:
    """A session's stream of changes, read as it comes."""

    def __init__(self, gateway: Running, token: str, session: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        self._connection.connect()
        self._socket = self._connection.sock
        headers = {
            "Accept": "text/event-stream",
            "Mcp-Session-Id": session,
            "MCP-Protocol-Version": OLD,
            **bearer(token),
        }
        self._connection.request("GET", "/mcp/one", headers=headers)
        self.answer = self._connection.getresponse()
        assert self.answer.status == 200
        self.lines: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while line := self.answer.readline():
                self.lines.append(line)
        except (OSError, ValueError, AttributeError):
            return

    def told(self) -> int:
        return sum(b"tools/list_changed" in line for line in self.lines)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(10)
        self._connection.close()


@pytest.mark.requirement("SES-01", "SES-02", "SES-04", "AU-06", "AU-08")
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_session_id_opens_nothing_for_others(gateway: Running, method: str) -> None:
    alice = gateway.token()
    session = gateway.session(alice)
    headers = {**JSON, "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": OLD}
    body = LIST if method == "POST" else None
    issuer = gateway.token(iss="https://other.example")
    for token, status in ((None, 401), ("x", 401), (issuer, 401), (gateway.token("mallory"), 404),
                          (gateway.token(client_id="other"), 404)):  # fmt: skip
        sent = {**headers, **bearer(token), "Mcp-Session-Id": session}
        answered = ask(gateway, method, headers=sent, body=body)
        assert answered[0] == status
        if status == 404:  # as if it had never been
            _, _, unknown = ask(gateway, method, headers={**sent, "Mcp-Session-Id": "A" * 43}, body=body)
            reference = re.compile(rb'"reference":"[0-9a-f]+"')
            assert reference.sub(b"", answered[2]) == reference.sub(b"", unknown)
    assert listed(gateway, alice, session) == 200


@pytest.mark.requirement("SES-03", "SES-05", "SES-06", "AU-07", "AU-08")
def test_session_ids_are_ours_long_and_visible_ascii(gateway: Running) -> None:
    token = gateway.token()
    body, headers = message("initialize", Era.HANDSHAKE)
    chosen = {"Mcp-Session-Id": "A" * 43}
    made = [
        ask(gateway, headers={**headers, **chosen, **bearer(token)}, body=body)[1]["mcp-session-id"] for _ in range(8)
    ]
    assert len({*made, chosen["Mcp-Session-Id"]}) == 9
    assert all(re.fullmatch(r"[\x21-\x7e]{43}", one) for one in made)


@pytest.mark.requirement("SES-06")
@pytest.mark.parametrize("odd", ["a b", "\tx", "\xe9" * 40, "A" * 8000, "a,b", "'; --", "../../etc"])
def test_session_ids_of_another_form_are_refused(gateway: Running, odd: str) -> None:
    token = gateway.token()
    session = gateway.session(token)
    headers = {**JSON, **bearer(token), "MCP-Protocol-Version": OLD}
    for presented in (odd, session + odd, f"{odd} {session}"):
        assert ask(gateway, headers={**headers, "Mcp-Session-Id": presented}, body=LIST)[0] in (400, 404)
    assert listed(gateway, token, session) == 200


@pytest.mark.requirement("SES-07", "SES-14")
def test_a_session_comes_first_and_keeps_what_was_agreed(gateway: Running) -> None:
    token = gateway.token()
    for method in ("tools/list", "tools/call", "ping", "notifications/initialized"):
        body, headers = message(method, Era.HANDSHAKE)
        assert ask(gateway, headers={**headers, **bearer(token)}, body=body)[0] == 400, method
    session = gateway.session(token)
    assert listed(gateway, token, session) == 200
    for other in ("2025-03-26", "2025-06-18", "2099-01-01", "x"):
        assert listed(gateway, token, session, MCP_Protocol_Version=other) == 400
    asked, headers = message("initialize", Era.HANDSHAKE)
    asked["params"]["protocolVersion"] = "1999-01-01"
    status, _, said = ask(gateway, headers={**JSON, **bearer(token)}, body=asked)
    assert (status, json.loads(said)["result"]["protocolVersion"]) == (200, OLD)


@pytest.mark.requirement("SES-08", "AU-08")
def test_an_ended_session_is_gone(gateway: Running) -> None:
    token = gateway.token()
    ended, other = gateway.session(token), gateway.session(token)
    assert ask(gateway, "DELETE", headers={**bearer(token), "Mcp-Session-Id": ended})[0] == 204
    assert listed(gateway, token, ended) == 404
    assert ask(gateway, "DELETE", headers={**bearer(token), "Mcp-Session-Id": ended})[0] == 404
    assert listed(gateway, token, other) == 200


@pytest.mark.requirement("SES-11", "SES-13")
def test_one_stream_of_a_session_is_told_and_not_each(gateway: Running) -> None:
    token = gateway.token()
    session, other = gateway.session(token), gateway.session(token)
    first, apart = Stream(gateway, token, session), Stream(gateway, token, other)
    gateway.until(lambda: first.lines and apart.lines)
    second = Stream(gateway, token, session)
    gateway.until(lambda: second.lines)
    gateway.limen("tools", "approve", "one", "late", "--reason", "test")
    gateway.until(lambda: second.told() and apart.told())
    time.sleep(0.3)
    assert (first.told(), second.told(), apart.told()) == (0, 1, 1)
    second.close()  # the older one is told again
    time.sleep(0.5)
    gateway.limen("tools", "approve", "one", "later", "--reason", "test")
    gateway.until(lambda: first.told() and apart.told() == 2)
    first.close()
    apart.close()
    for stream in (first, second, apart):
        assert not any(b'"result"' in line or b'"error"' in line for line in stream.lines)


@pytest.mark.requirement("AU-10", "SES-04", "SUB-05")
def test_nobody_cancels_the_call_of_somebody_else(gateway: Running) -> None:
    alice, mallory = gateway.token(), gateway.token("mallory")
    session, same, theirs = gateway.session(alice), gateway.session(alice), gateway.session(mallory)
    answers: list[dict[str, Any]] = []

    def call() -> None:
        answers.append(gateway.post(calling("pause"), alice, Mcp_Session_Id=session, **VERSION)[2])

    def cancel(token: str, session: str) -> int:
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
        return gateway.post(note, token, Mcp_Session_Id=session, **VERSION)[0]

    def begin() -> threading.Thread:
        before = len(Patient.begun)
        thread = threading.Thread(target=call)
        thread.start()
        gateway.until(lambda: len(Patient.begun) > before)
        return thread

    thread = begin()
    assert [cancel(mallory, theirs), cancel(mallory, session), cancel(alice, same)] == [202, 404, 202]
    thread.join(20)
    assert answers.pop()["result"]["content"][0]["text"] == "ran pause"
    assert Patient.left[-1] is False
    thread = begin()
    assert cancel(alice, session) == 202
    thread.join(20)
    assert answers.pop()["error"]["message"] == "Cancelled"
    gateway.until(lambda: Patient.left[-1] is True)  # the server was told as well


@pytest.mark.requirement("HTTP-12", "HTTP-33")
@pytest.mark.parametrize(("era", "cancelled"), [(Era.MODERN, True), (Era.HANDSHAKE, False)], ids=str)
def test_what_it_means_that_a_client_leaves(gateway: Running, era: Era, cancelled: bool) -> None:
    """HTTP-12: in the new era the call ends at the server, too. HTTP-33: in the old one it is finished."""
    who = f"leaver {era.value}"
    token = gateway.token(who)
    body, headers = message("tools/call", era)
    body["params"]["name"] = "pause"
    headers |= bearer(token)
    if era is Era.MODERN:
        headers["Mcp-Name"] = "pause"
    else:
        headers["Mcp-Session-Id"] = gateway.session(token)
    Patient.left.clear()
    begun = len(Patient.begun)

    def outcomes() -> list[str]:
        log = [json.loads(line) for line in gateway.limen("audit", "tail", "--json", "-n", "20").splitlines()]
        references = {record["ref"] for record in log if record.get("sub") == who}
        return [record["reason"] for record in log if record["t"] == "outcome" and record["ref"] in references]

    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    connection.request("POST", "/mcp/one", json.dumps(body), headers)
    gateway.until(lambda: len(Patient.begun) > begun)
    connection.close()
    gateway.until(lambda: len(Patient.left) == 1)
    assert Patient.left == [cancelled]
    time.sleep(0.2)
    (outcome,) = outcomes()
    assert (outcome == "call.cancelled") is cancelled


@pytest.mark.requirement("SES-18", "AUTH-17", "HTTP-30")
def test_requests_on_one_connection_know_nothing_of_each_other(gateway: Running) -> None:
    rich, poor = gateway.token(), gateway.token("bob", scope="other")
    session = gateway.session(rich)
    modern, self_contained = message("tools/call", Era.MODERN)
    old, handshake = message("tools/call", Era.HANDSHAKE)
    turns = [
        (modern, {**self_contained, **bearer(rich)}, 200),
        (modern, {**self_contained, **bearer(poor)}, 403),
        (modern, self_contained, 401),
        (old, {**handshake, **bearer(rich)}, 400),  # which session?
        (old, {**handshake, **bearer(rich), "Mcp-Session-Id": session}, 200),
        (old, {**handshake, **bearer(poor), "Mcp-Session-Id": session}, 404),
        (modern, {**self_contained, **bearer(poor), "Mcp-Session-Id": session}, 403),
        (modern, {**self_contained, **bearer(rich), "Mcp-Session-Id": "of nobody", "Last-Event-ID": "9"}, 200),
        (LIST, {**JSON, **bearer(rich), "MCP-Protocol-Version": NEW, "Mcp-Method": "tools/list"}, 400),  # no envelope
        (modern, {**self_contained, **bearer(rich)}, 200),
    ]
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    seen = [on(connection, "POST", "/mcp/one", headers, body) for body, headers, _ in turns * 3]
    connection.close()
    assert [status for status, _, _ in seen] == [status for _, _, status in turns * 3]
    assert not any("mcp-session-id" in headers for _, headers, _ in seen)


@pytest.mark.requirement("SES-20")
def test_lists_depend_on_the_caller_and_nothing_else(gateway: Running) -> None:
    token, poor = gateway.token(), gateway.token("bob", scope="other")

    def lists(token: str) -> list[bytes]:
        found = []
        for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list"):
            body, headers = message(method, Era.MODERN)
            found.append(ask(gateway, headers={**headers, **bearer(token)}, body=body)[2])
        return found

    first = lists(token)
    assert b'"echo"' in first[0]
    for _ in range(10):
        assert gateway.call("echo", token)[0] == 200
        assert gateway.call("nothing", token)[0] == 200
        gateway.session(token)
        assert lists(token) == lists(gateway.token("carol")) == first
        assert lists(poor) != first
    assert b'"tools":[]' in lists(poor)[0]


@pytest.mark.requirement("SES-21", "AU-13")
@pytest.mark.parametrize("name", ["limen", "admin", "root\0", "", "x" * 5000, 5, None, ["admin"], {"sub": "root"}])
def test_what_a_client_calls_itself_decides_nothing(gateway: Running, name: Any) -> None:
    for token, status in ((gateway.token(), 200), (gateway.token("bob", scope="other"), 403)):
        body, headers = message("tools/call", Era.MODERN)
        info = {"name": name, "version": "1", "title": "Administrator"}
        body["params"]["_meta"] = {**META, "io.modelcontextprotocol/clientInfo": info, "sub": "root", "scope": "use"}
        assert ask(gateway, headers={**headers, **bearer(token), "User-Agent": "limen"}, body=body)[0] == status


@pytest.mark.requirement("SES-19")
def test_a_restart_changes_no_answer(gateway: Running) -> None:
    """Last: it starts the gateway anew."""
    token = gateway.token()
    session = gateway.session(token)
    body, headers = message("tools/list", Era.MODERN)
    before = ask(gateway, headers={**headers, **bearer(token)}, body=body)
    assert before[0] == 200
    gateway.stop()
    gateway.start()
    assert ask(gateway, headers={**headers, **bearer(token)}, body=body) == before
    assert gateway.call("echo", token)[0] == 200
    assert listed(gateway, token, session) == 200
