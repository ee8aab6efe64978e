"""Rules of Streamable HTTP at the running gateway (HTTP rows of tests/requirements.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.running import META, Running, running
from gateway.wire import EVERY, JSON, LIST, NEW, OLD, PING, ask, bearer, message, raw
from limen.core.call import Era

WELL_KNOWN = "/.well-known/oauth-protected-resource/mcp/one"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("http"), tools=("echo",), approved=("one",)) as started:
        yield started


def code(said: bytes) -> int:
    return int(json.loads(said)["error"]["code"])


def call(gateway: Running, **headers: str | None) -> tuple[int, bytes]:
    """An honest modern call with these headers instead; None leaves one out."""
    body, base = message("tools/call", Era.MODERN)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    base = {name: value for name, value in base.items() if name.lower() not in {one.lower() for one in given}}
    sent = {**base, **bearer(gateway.token()), **{name: value for name, value in given.items() if value is not None}}
    status, _, said = ask(gateway, headers=sent, body=body)
    return status, said


@pytest.mark.requirement("HTTP-01", "HTTP-02")
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE", "OPTIONS", "PUT", "PATCH"])
def test_foreign_origins_and_hosts_are_refused_whatever_the_method(gateway: Running, method: str) -> None:
    own = f"http://127.0.0.1:{gateway.port}"
    session = gateway.session(gateway.token())
    headers = {**JSON, "Accept": "application/json", **bearer(gateway.token()), "Mcp-Session-Id": session}
    headers["MCP-Protocol-Version"] = OLD
    for origin in ("https://evil.example", "null", f"{own}.evil.example", f"http://127.0.0.1:{gateway.port + 1}",
                   "http://127.0.0.1", own.replace("http", "https"), f"{own}/", own.upper(), "",
                   f"{own} {own}"):  # fmt: skip
        status, answered, said = ask(gateway, method, headers={**headers, "Origin": origin}, body=LIST)
        assert status == 403, origin
        assert json.loads(said)["id"] is None
        assert not [name for name in answered if name.startswith("access-control-")]
    for host in ("evil.example", f"evil.example:{gateway.port}", "127.0.0.1", "", f"localhost.evil:{gateway.port}"):
        assert ask(gateway, method, headers={**headers, "Host": host}, body=LIST)[0] == 403, host
    honest = ask(gateway, method, headers={**headers, "Origin": own}, body=LIST)[0]
    assert honest == {"POST": 200, "GET": 406, "DELETE": 204}.get(method, 405)


@pytest.mark.requirement("HTTP-04", "AU-01")
def test_what_answers_without_a_credential_is_metadata_and_health(gateway: Running) -> None:
    for path in ("/mcp", "/mcp/one", "/mcp/two"):
        assert ask(gateway, "POST", path, JSON, PING)[0] == 401
    assert ask(gateway, "GET", "/healthz")[2] == b'{"status":"ok"}'
    public = json.loads(ask(gateway, "GET", WELL_KNOWN)[2])
    assert "echo" not in json.dumps(public)
    for path in (
        "/metrics",
        "/admin",
        "/docs",
        "/openapi.json",
        "/register",
        "/token",
        "/.well-known/openid-configuration",
    ):
        assert ask(gateway, "GET", path, bearer(gateway.token()))[0] == 404
    for path in ("/healthz", WELL_KNOWN):
        assert ask(gateway, "POST", path, {**JSON, **bearer(gateway.token())}, PING)[0] == 404


@pytest.mark.requirement("HTTP-07")
@pytest.mark.parametrize(
    "body",
    [
        [LIST], [], [LIST, LIST], {"jsonrpc": "2.0", "id": 1, "result": {}}, {**LIST, "id": None}, {**LIST, "id": 1.5},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x"}}, {**LIST, "id": [1]}, {**LIST, "result": {}},
        "x", 5,
    ],
)  # fmt: skip
def test_a_body_is_one_request_or_notification(gateway: Running, body: Any) -> None:
    headers = {**JSON, **bearer(gateway.token()), "MCP-Protocol-Version": NEW, "Mcp-Method": "tools/list"}
    if isinstance(body, dict) and "params" in body:
        body = {**body, "params": {"_meta": META}}
    status, _, said = ask(gateway, headers=headers, body=body)
    assert (status, code(said)) == (400, -32600)
    honest = {**LIST, "params": {"_meta": META}}
    assert ask(gateway, headers=headers, body=honest)[0] == 200


@pytest.mark.requirement("HTTP-08")
def test_notifications_are_accepted_without_a_word_or_refused(gateway: Running) -> None:
    token = gateway.token()
    session = gateway.session(token)
    accepted = 0
    for method, era in EVERY:
        body, headers = message(method, era)
        if "id" in body:
            continue
        sent = {**headers, **bearer(token)} | ({"Mcp-Session-Id": session} if era is Era.HANDSHAKE else {})
        status, answered, said = ask(gateway, headers=sent, body=body)
        assert (status, said, answered["content-length"]) == (202, b"", "0"), method
        accepted += 1
        assert ask(gateway, headers=headers, body=body)[0] == 401
        assert ask(gateway, headers=sent, body={**body, "id": 1})[0] == 400
        assert ask(gateway, headers={**sent, "Content-Type": "text/plain"}, body=body)[0] == 415
    assert accepted >= 4


@pytest.mark.requirement("HTTP-09", "HTTP-11")
def test_answers_are_json_or_an_event_stream_that_is_not_buffered(gateway: Running) -> None:
    token = gateway.token()
    session = gateway.session(token)
    request = (
        f"GET /mcp/one HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {token}\r\nMCP-Protocol-Version: {OLD}\r\nMcp-Session-Id: {session}\r\n\r\n"
    )
    head = raw(gateway, request.encode()).partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert head[0].startswith(b"http/1.1 200")
    for line in (b"content-type: text/event-stream", b"x-accel-buffering: no", b"cache-control: no-store"):
        assert line in head
    status, answered, _ = ask(gateway, headers={**JSON, **bearer(token), "Mcp-Session-Id": session}, body=PING)
    assert (status, answered["content-type"]) == (200, "application/json")
    assert ask(gateway, headers={**JSON, **bearer(token), "Accept": "text/html"}, body=PING)[0] == 406


@pytest.mark.requirement("HTTP-13", "HTTP-18", "HTTP-19", "HTTP-22")
@pytest.mark.parametrize(
    "headers",
    [
        {"MCP_Protocol_Version": None}, {"Mcp_Method": None}, {"Mcp_Name": None}, {"Mcp_Name": "danger"},
        {"Mcp_Name": "Echo"}, {"Mcp_Name": "echo, echo"}, {"Mcp_Method": "tools/list"}, {"Mcp_Method": "Tools/Call"},
        {"Mcp_Name": "=?base64?ZWNobw?="}, {"Mcp_Name": "=?base64?ZWNobx==?="}, {"Mcp_Name": "=?base64?!!?="},
        {"Mcp_Name": ""}, {"Mcp_Name": "=?BASE64?ZWNobw==?="},
    ],
)  # fmt: skip
def test_headers_that_are_not_the_body_again(gateway: Running, headers: dict[str, str | None]) -> None:
    before = gateway.calls_seen()
    status, said = call(gateway, **headers)
    assert (status, code(said)) == (400, -32020)
    assert gateway.calls_seen() == before


@pytest.mark.requirement("HTTP-19")
@pytest.mark.parametrize("name", ["Mcp-Name", "Mcp-Method", "MCP-Protocol-Version"])
def test_headers_that_come_twice_or_end_early(gateway: Running, name: str) -> None:
    body, headers = message("tools/call", Era.MODERN)
    data = json.dumps(body)
    good = {**headers, **bearer(gateway.token()), "Host": f"127.0.0.1:{gateway.port}", "Content-Length": str(len(data))}
    lines = [f"{key}: {value}" for key, value in good.items()]

    def status(*more: str) -> bytes:
        return raw(gateway, "\r\n".join(["POST /mcp/one HTTP/1.1", *lines, *more, "", data]).encode("latin-1"))[9:12]

    assert status() == b"200"
    assert status(f"{name}: {good[name]}") == b"400"
    assert status(f"{name.upper()}: danger") == b"400"
    assert status(f"{name.replace('-', '_')}: danger") == b"200"  # another header: not read, not passed on
    assert status(f"{name}: a\rb") == b"400"
    assert status(f"{name}: a\0b") == b"400"
    assert not any("danger" in head for head, _ in gateway.recorder.seen)


@pytest.mark.requirement("HTTP-20", "HTTP-29")
def test_spellings_that_mean_the_same(gateway: Running) -> None:
    assert call(gateway, mCp_NaMe="echo", MCP_METHOD="tools/call", mcp_protocol_version=NEW)[0] == 200
    assert call(gateway, Mcp_Name="=?base64?ZWNobw==?=")[0] == 200


@pytest.mark.requirement("HTTP-14", "HTTP-15", "HTTP-16")
def test_revisions_are_known_and_agree(gateway: Running) -> None:
    body, headers = message("tools/call", Era.MODERN)
    sent = {**headers, **bearer(gateway.token())}

    def both(header: Any, inside: Any) -> tuple[int, dict[str, Any]]:
        meta = {**META, "io.modelcontextprotocol/protocolVersion": inside}
        asked = {**body, "params": {**body["params"], "_meta": meta}}
        status, _, said = ask(gateway, headers={**sent, "MCP-Protocol-Version": header}, body=asked)
        return status, json.loads(said).get("error", {})

    assert both(NEW, NEW)[0] == 200
    for header, inside in ((OLD, NEW), (NEW, OLD), ("2099-01-01", NEW), (NEW, "2099-01-01"), (NEW, "2026-07-28 ")):
        status, error = both(header, inside)
        assert (status, error["code"]) == (400, -32020), (header, inside)
    for unknown in ("1900-01-01", "2099-01-01", "DRAFT-2026-v1", "x"):
        status, error = both(unknown, unknown)
        assert (status, error["code"]) == (400, -32022)
        assert NEW in error["data"]["supported"]
    assert both(NEW, 5)[0] == both(NEW, None)[0] == both(OLD, OLD)[0] == 400
    token = gateway.token()
    session = gateway.session(token)
    for odd in ("foo", "", "2025-11-25x"):
        assert gateway.post(LIST, token, Mcp_Session_Id=session, MCP_Protocol_Version=odd)[0] == 400
    assert gateway.post(LIST, token, Mcp_Session_Id=session, MCP_Protocol_Version=OLD)[0] == 200


@pytest.mark.requirement("HTTP-17")
@pytest.mark.parametrize(
    "method", ["x/y", "tools/call2", "tasks/list", "initialize", "ping", "logging/setLevel", "rpc.x"]
)
def test_unknown_methods_are_404(gateway: Running, method: str) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": META}}
    headers = {**JSON, **bearer(gateway.token()), "MCP-Protocol-Version": NEW, "Mcp-Method": method}
    status, _, said = ask(gateway, headers=headers, body=body)
    assert (status, code(said)) == (404, -32601)


@pytest.mark.requirement("HTTP-31", "HTTP-22")
@pytest.mark.parametrize("key", ["protocolVersion", "clientCapabilities"])
@pytest.mark.parametrize("value", [None, 5, [], "x", "absent"])
def test_the_envelope_is_complete(gateway: Running, key: str, value: Any) -> None:
    body, headers = message("tools/call", Era.MODERN)
    meta = {**META, f"io.modelcontextprotocol/{key}": value}
    if value == "absent":
        del meta[f"io.modelcontextprotocol/{key}"]
    body["params"]["_meta"] = meta
    status, _, said = ask(gateway, headers={**headers, **bearer(gateway.token())}, body=body)
    assert (status, code(said)) == (400, -32020 if (key, value) == ("protocolVersion", "x") else -32602)


@pytest.mark.requirement("HTTP-32")
def test_what_comes_in_has_bounds(gateway: Running) -> None:
    host = f"POST /mcp/one HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nContent-Type: application/json\r\n".encode()

    def status(data: bytes) -> int:
        return int(raw(gateway, host + data)[9:12])

    assert status(b"Content-Length: 2\r\n\r\n{}") == 400  # read, and no request
    assert status(b"Content-Length: 4194305\r\n\r\n") == 413
    assert status(b"Content-Length: 99999999999999999999999999\r\n\r\n") in (400, 413)
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    assert status(b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 4 + b"1\r\n \r\n") == 413
    assert status(b"X: " + b"A" * 40_000 + b"\r\n\r\n") == 431
    assert status(b"".join(b"X-%d: y\r\n" % number for number in range(200)) + b"\r\n") == 431
    assert int(raw(gateway, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n")[9:12]) == 431
    deep = b"[" * 200 + b"]" * 200
    body, headers = message("tools/call", Era.MODERN)
    nested = json.dumps(body).replace('"arguments": {}', "").encode()[:-2] + b', "arguments": {"a": ' + deep + b"}}}"
    assert ask(gateway, headers={**headers, **bearer(gateway.token())}, body=nested)[0] == 400


@pytest.mark.requirement("HTTP-32")
@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: +2\r\n\r\n{}",
        b"Content-Length: 0x2\r\n\r\n{}",
        b"Content-Length: 2, 2\r\n\r\n{}",
        b"Content-Length : 2\r\n\r\n{}",
        b"X: a\r\n folded\r\nContent-Length: 2\r\n\r\n{}",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_what_could_be_framed_in_two_ways_ends_the_connection(gateway: Running, framing: bytes) -> None:
    start = f"POST /mcp/one HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nContent-Type: application/json\r\n".encode()
    answer = raw(gateway, start + framing + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer[9:12] == b"400"
    assert b'"status":"ok"' not in answer


@pytest.mark.requirement("HTTP-30")
def test_a_self_contained_request_has_no_session(gateway: Running) -> None:
    body, headers = message("server/discover", Era.MODERN)
    for more in (
        {},
        {"Mcp-Session-Id": "x"},
        {"Last-Event-ID": "1"},
        {"Mcp-Session-Id": gateway.session(gateway.token())},
    ):
        status, answered, _ = ask(gateway, headers={**headers, **bearer(gateway.token("bob")), **more}, body=body)
        assert status == 200
        assert "mcp-session-id" not in answered
    for method in ("PUT", "PATCH", "OPTIONS", "HEAD"):
        status, answered, _ = ask(gateway, method, headers=bearer(gateway.token()))
        assert (status, answered["allow"]) == (405, "POST, GET, DELETE")
