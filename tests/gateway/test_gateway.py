"""Attacks on the running gateway, each with its honest twin. The server behind keeps every byte it is sent."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.running import META, Running, running, written

LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
OLD = {"MCP_Protocol_Version": "2025-11-25"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("gateway"), extra=("unapproved",)) as started:
        yield started


def records(gateway: Running) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.limen("audit", "tail", "--json", "-n", "200").splitlines()]


def test_an_honest_call_goes_through(gateway: Running) -> None:
    status, body = gateway.call("echo", gateway.token())
    assert status == 200
    assert body["result"]["content"][0]["text"] == "ran echo"


@pytest.mark.requirement("AU-05", "AU-14")
@pytest.mark.parametrize("tool", ["danger", "unapproved", "no-such-tool"])
def test_denied_unapproved_and_unknown_tools_look_alike_and_are_not_called(gateway: Running, tool: str) -> None:
    before = gateway.calls_seen()
    status, body = gateway.call(tool, gateway.token())
    assert (status, body["error"]["code"], body["error"]["message"]) == (200, -32602, "Unknown name")
    assert gateway.calls_seen() == before


@pytest.mark.requirement("AU-05")
def test_lists_show_exactly_what_could_be_called(gateway: Running) -> None:
    token = gateway.token()
    session = gateway.session(token)
    _, _, body = gateway.post(LIST, token, Mcp_Session_Id=session, **OLD)
    assert [tool["name"] for tool in body["result"]["tools"]] == ["echo", "slow"]
    poor = gateway.token(scope="other")
    _, _, body = gateway.post(LIST, poor, Mcp_Session_Id=gateway.session(poor), **OLD)
    assert body["result"]["tools"] == []


@pytest.mark.requirement("AUTH-05", "AU-03")
@pytest.mark.parametrize(
    "claims",
    [
        {"server": "two"},
        {"iss": "https://other.example"},
        {"exp": int(time.time()) - 120},
        {"aud": ["http://127.0.0.1/mcp/one"]},
        {"cnf": {"jkt": "x"}},
    ],
)
def test_tokens_that_are_not_for_this_route_now(gateway: Running, claims: dict[str, Any]) -> None:
    before = gateway.calls_seen()
    params = {"name": "echo", "arguments": {}, "_meta": META}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "echo"}
    status, answered, _ = gateway.post(message, gateway.token(**claims), **headers)
    assert status == 401
    assert 'error="invalid_token"' in answered["www-authenticate"]
    assert (
        f"http://127.0.0.1:{gateway.port}/.well-known/oauth-protected-resource/mcp/one" in answered["www-authenticate"]
    )
    assert gateway.calls_seen() == before


@pytest.mark.requirement("AU-01", "SES-01", "AUTH-17")
def test_no_token_no_answer_on_any_method(gateway: Running) -> None:
    session = gateway.session(gateway.token())
    for method in ("tools/list", "ping", "resources/list"):
        status, answered, _ = gateway.post({**LIST, "method": method}, None, Mcp_Session_Id=session, **OLD)
        assert status == 401
        assert "error=" not in answered["www-authenticate"]


@pytest.mark.requirement("AU-04")
def test_missing_scope_names_what_is_missing(gateway: Running) -> None:
    status, body = gateway.call("echo", gateway.token(scope="other"))
    assert (status, body["error"]["data"]["scopes"]) == (403, ["use"])


@pytest.mark.requirement("SES-04", "AU-06")
def test_another_callers_session_answers_like_an_unknown_one(gateway: Running) -> None:
    alice, mallory = gateway.token("alice"), gateway.token("mallory")
    session = gateway.session(alice)
    assert gateway.post(LIST, alice, Mcp_Session_Id=session, **OLD)[0] == 200
    stolen = gateway.post(LIST, mallory, Mcp_Session_Id=session, **OLD)
    unknown = gateway.post(LIST, mallory, Mcp_Session_Id="A" * 43, **OLD)
    for answer in (stolen, unknown):
        answer[2]["error"].pop("data")
    assert stolen[0] == 404
    assert (stolen[0], stolen[2]) == (unknown[0], unknown[2])
    other_client = gateway.token("alice", client_id="other")
    assert gateway.post(LIST, other_client, Mcp_Session_Id=session, **OLD)[0] == 404
    elsewhere = gateway.token("alice", server="two")
    assert gateway.post(LIST, elsewhere, "two", Mcp_Session_Id=session, **OLD)[0] == 404


@pytest.mark.requirement("AUTH-07", "AUTH-08", "AUTH-19", "AU-02")
def test_the_callers_token_never_reaches_the_server(gateway: Running) -> None:
    token = gateway.token("taint")
    cookies = {"Cookie": f"session={token}", "X_Api_Key": token, "Proxy_Authorization": f"Bearer {token}"}
    assert gateway.call("echo", token, **cookies)[0] == 200
    signature = token.rsplit(".", 1)[1]
    for headers, body in gateway.recorder.seen:
        assert signature not in headers
        assert signature.encode() not in body
    log = b"".join(written(gateway.directory / "limen-state").values())
    assert signature.encode() not in log


def test_every_call_is_in_the_log_with_what_was_decided(gateway: Running) -> None:
    gateway.call("echo", gateway.token("auditor"))
    gateway.call("danger", gateway.token("auditor"))
    time.sleep(0.3)
    mine = [record for record in records(gateway) if record.get("sub") == "auditor"]
    kinds = [record["t"] for record in mine]
    assert kinds == ["authenticated", "intent", "outcome", "authenticated", "refusal"]  # two tokens
    assert mine[1]["digest"]
    assert mine[1]["rules"]
    assert mine[4]["reason"] == "policy.not_visible"
    assert any(record["t"] == "start" for record in records(gateway))
    assert json.loads(gateway.limen("audit", "verify", "--json"))["ok"] is True


def test_killed_between_intent_and_answer_the_intent_is_there(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        before = gateway.calls_seen()

        def call() -> None:
            with pytest.raises(OSError):
                gateway.call("slow", gateway.token("victim"))

        thread = threading.Thread(target=call)
        thread.start()
        while gateway.calls_seen() == before:
            time.sleep(0.02)
        gateway.stop(signal.SIGKILL)
        thread.join(30)
        intents = [record for record in records(gateway) if record.get("sub") == "victim"]
        assert [record["t"] for record in intents] == ["authenticated", "intent"]
        gateway.start()
        assert gateway.call("echo", gateway.token())[0] == 200
        time.sleep(1.5)
        assert json.loads(gateway.limen("audit", "verify", "--json"))["ok"] is True


def test_a_log_that_cannot_be_written_stops_calls_not_the_gateway(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        import resource

        size = sum(path.stat().st_size for path in (tmp_path / "limen-state" / "audit").rglob("*") if path.is_file())
        soft, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
        before = gateway.calls_seen()
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (max(1, size // 8), hard))
        status, body = gateway.call("echo", gateway.token())
        assert status == 503
        assert body["error"]["message"] == "Temporarily unavailable"
        assert gateway.calls_seen() == before
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (soft, hard))
        for _ in range(50):
            time.sleep(0.2)
            if gateway.call("echo", gateway.token())[0] == 200:
                break
        else:
            pytest.fail("calls did not come back with the disk")
