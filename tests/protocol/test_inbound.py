"""The admission ladder: each rung refuses its attack and passes the honest twin."""

import base64
import json
from typing import Any

import pytest
from mcp.shared.inbound import encode_header_value
from mcp_types import methods as sdk

from limen.core.call import Call, Era, Peer
from limen.core.verdict import Refuse
from limen.posture import ADMIT
from limen.posture import METHODS as ROUTES
from limen.protocol.inbound import Draft, Endpoint, admit, decode_header
from limen.protocol.methods import METHODS, SUPPORTED
from limen.protocol.naming import Bundle

ENDPOINT = Endpoint(
    "files", "http://127.0.0.1:8300/mcp/files", frozenset({"http://127.0.0.1:8300"}), frozenset({"127.0.0.1:8300"})
)
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def climb(body: Any, drop: tuple[str, ...] = (), endpoint: Endpoint = ENDPOINT, **headers: Any) -> Call | Refuse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    base: dict[str, Any] = {
        "host": "127.0.0.1:8300",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
    }
    base.update({name.replace("_", "-"): value for name, value in headers.items()})
    lists = {name: value if isinstance(value, list) else [value] for name, value in base.items() if name not in drop}
    return admit(Draft(raw, lists, endpoint, Peer("http")), ADMIT)


def old(method: str = "tools/call", **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def new(method: str = "tools/call", **params: Any) -> dict[str, Any]:
    return old(method, _meta=META, **params)


NEW = {"mcp_protocol_version": "2026-07-28", "mcp_method": "tools/call", "mcp_name": "echo"}
CALL_OLD, CALL_NEW = old(name="echo", arguments={"b": 1, "a": 2}), new(name="echo", arguments={"b": 1, "a": 2})


def test_honest_calls_of_both_eras_are_admitted() -> None:
    before = climb(CALL_OLD, mcp_protocol_version="2025-11-25", mcp_session_id="s")
    assert isinstance(before, Call)
    assert (before.method, before.server, before.name, before.session) == ("tools/call", "files", "echo", "s")
    assert (before.era, before.arguments) == (Era.HANDSHAKE, b'{"a":2,"b":1}')
    after = climb(CALL_NEW, **NEW)
    assert isinstance(after, Call)
    assert (after.era, after.revision, after.client) == (Era.MODERN, "2026-07-28", "t/0")
    assert after.session is None


@pytest.mark.requirement("HTTP-01")
@pytest.mark.parametrize(
    ("reason", "headers"),
    [
        ("wire.origin", {"host": "evil.example"}),
        ("wire.origin", {"host": ["127.0.0.1:8300", "127.0.0.1:8300"]}),
        ("wire.origin", {"origin": "http://evil.example"}),
        ("wire.origin", {"origin": "null"}),
        ("wire.origin", {"origin": "http://127.0.0.1:8300.evil.example"}),
        ("wire.media_type", {"content_type": "text/plain"}),
        ("wire.media_type", {"content_type": "application/x-www-form-urlencoded"}),
        ("wire.media_type", {"content_type": "application/json; charset=utf-7"}),
        ("wire.media_type", {"content_type": ["application/json", "text/plain"]}),
        ("wire.media_type", {"content_encoding": "gzip"}),
        ("wire.not_acceptable", {"accept": "text/html"}),
        ("wire.revision", {"mcp_protocol_version": "2099-01-01"}),
        ("wire.header_mismatch", {"mcp_protocol_version": ["2025-11-25", "2024-11-05"]}),
    ],
)
def test_headers_that_are_refused(reason: str, headers: dict[str, Any]) -> None:
    refused = climb(CALL_OLD, **{"mcp_protocol_version": "2025-11-25", **headers})
    assert isinstance(refused, Refuse)
    assert refused.reason.id == reason


@pytest.mark.requirement("HTTP-14", "HTTP-18", "HTTP-19")
@pytest.mark.parametrize(
    "headers",
    [
        {"mcp_name": "other"},
        {"mcp_name": ["echo", "other"]},
        {"mcp_name": "=?base64?" + base64.b64encode(b"other").decode() + "?="},
        {"mcp_name": "=?base64?%%%?="},
        {"mcp_name": "=?base64?ZWNobx==?="},
        {"mcp_method": "tools/list"},
        {"mcp_method": "Tools/Call"},
        {"mcp_protocol_version": "2025-11-25"},
    ],
)
def test_headers_that_disagree_with_the_body(headers: dict[str, Any]) -> None:
    refused = climb(CALL_NEW, **{**NEW, **headers})
    assert isinstance(refused, Refuse)
    assert refused.reason.id == "wire.header_mismatch"


@pytest.mark.requirement("HTTP-13", "HTTP-18")
@pytest.mark.parametrize("missing", ["mcp-name", "mcp-method", "mcp-protocol-version"])
def test_a_missing_mirror_is_a_mismatch(missing: str) -> None:
    refused = climb(CALL_NEW, drop=(missing,), **NEW)
    assert isinstance(refused, Refuse)
    assert refused.reason.id == "wire.header_mismatch"


@pytest.mark.requirement("HTTP-20")
@pytest.mark.parametrize("name", ["echo", "naïve", " edge ", "=?base64?x?=", "日本"])
def test_mirrored_names_are_decoded_like_the_sdk_encodes_them(name: str) -> None:
    assert decode_header(encode_header_value(name)) == name


@pytest.mark.requirement("HTTP-21")
def test_old_revisions_may_mirror_but_not_contradict() -> None:
    call = climb(CALL_OLD, mcp_protocol_version="2025-11-25", mcp_name="echo", mcp_method="tools/call")
    assert isinstance(call, Call)
    for headers in ({"mcp_name": "other"}, {"mcp_method": "tools/list"}, {"mcp_name": "=?base64?%%%?="}):
        assert isinstance(climb(CALL_OLD, mcp_protocol_version="2025-11-25", **headers), Refuse)


BODIES = {
    "batch": [CALL_OLD],
    "string": "x",
    "null": None,
    "no version": {"id": 1, "method": "ping"},
    "version 1.0": {"jsonrpc": "1.0", "id": 1, "method": "ping"},
    "no method": {"jsonrpc": "2.0", "id": 1},
    "method is a number": {"jsonrpc": "2.0", "id": 1, "method": 7},
    "method with NUL": old("tools/call\0", name="echo"),
    "method with space": old("tools/call ", name="echo"),
    "other case": old("TOOLS/CALL", name="echo"),
    "look-alike": old("t\u043eols/call", name="echo"),
    "reserved": old("rpc.discover"),
    "unknown": old("x/y"),
    "tasks": old("tasks/list"),
    "id null": {**CALL_OLD, "id": None},
    "id object": {**CALL_OLD, "id": {}},
    "id boolean": {**CALL_OLD, "id": True},
    "id float": {**CALL_OLD, "id": 1.5},
    "id too large": {**CALL_OLD, "id": 2**63},
    "id too long": {**CALL_OLD, "id": "x" * 129},
    "id with CRLF": {**CALL_OLD, "id": "a\r\nb"},
    "params array": {**CALL_OLD, "params": []},
    "name is a list": old(name=["echo"]),
    "name with NUL": old(name="echo\0"),
    "arguments string": old(name="echo", arguments="x"),
    "request and response": {**CALL_OLD, "result": {}},
    "unknown member": {**CALL_OLD, "extra": 1},
    "no id on a request": {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "echo"}},
    "id on a notification": old("notifications/initialized"),
    "progress token object": old(name="echo", _meta={"progressToken": {}}),
    "result and error": {"jsonrpc": "2.0", "id": "1", "result": {}, "error": {}},
}


@pytest.mark.requirement("HTTP-07")
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_bodies_that_are_refused(body: Any) -> None:
    assert isinstance(climb(body, mcp_protocol_version="2025-11-25"), Refuse)


@pytest.mark.requirement("HTTP-31")
@pytest.mark.parametrize("key", sorted(META)[:1] + sorted(META)[2:])
def test_self_contained_requests_carry_their_envelope(key: str) -> None:
    meta = {name: value for name, value in META.items() if name != key}
    refused = climb(old(name="echo", _meta=meta), **NEW)
    assert isinstance(refused, Refuse)
    assert refused.reason.id == "wire.params"


@pytest.mark.requirement("HTTP-07")
def test_nobody_posts_responses_in_the_modern_era() -> None:
    answer = {"jsonrpc": "2.0", "id": "q", "result": {}}
    assert isinstance(climb(answer, mcp_protocol_version="2026-07-28"), Refuse)
    assert isinstance(climb(answer, mcp_protocol_version="2025-11-25"), Call)


def test_names_on_the_bundle_name_their_server() -> None:
    bundle = Endpoint("", "http://127.0.0.1:8300/mcp", ENDPOINT.origins, ENDPOINT.hosts, Bundle(["files", "git"]))
    call = climb(old(name="files__read__all"), endpoint=bundle, mcp_protocol_version="2025-11-25")
    assert isinstance(call, Call)
    assert (call.route, call.server, call.name) == ("", "files", "read__all")


def test_every_method_of_the_sdk_has_a_row_or_is_left_out_on_purpose() -> None:
    ours = {name for name, row in METHODS.items() if row.request}
    theirs = {method for method, revision in sdk.CLIENT_REQUESTS if revision in SUPPORTED}
    assert ours == theirs
    for method, row in METHODS.items():
        table = sdk.CLIENT_REQUESTS if row.request else sdk.CLIENT_NOTIFICATIONS
        eras = {Era.MODERN if revision == "2026-07-28" else Era.HANDSHAKE for name, revision in table if name == method}
        assert eras == row.eras, method
    assert set(ROUTES) - {""} == set(METHODS) - {"resources/subscribe", "resources/unsubscribe"}
