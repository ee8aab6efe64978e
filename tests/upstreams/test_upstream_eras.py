"""Rendering and reading: only what the permit holds goes out; only exactly our answer comes in."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mcp.shared import inbound

from limen.core.call import Era
from limen.core.faults import InvariantFault, UpstreamError, UpstreamFault
from limen.gateway import eras
from limen.gateway.upstream_events import EventBuffer, EventTooLarge
from limen.gateway.upstream_listing import read_all
from limen.gateway.upstreams import HttpUpstream, Upstreams
from limen.protocol.inbound import decode_header
from limen.protocol.jsonrpc import canonical
from upstreams.minted import FORM, TOKEN, Heard, call, permit


@pytest.mark.requirement("HTTP-20")
@given(st.one_of(st.text(), st.text("=?base64 \tAé"), st.text().map(lambda t: f"=?base64?{t}?=")))
def test_header_codec_agrees_with_the_sdk(text: str) -> None:
    assume(text.isprintable() or text == text.strip())  # the SDK also strips what is no blank in HTTP
    assert eras.encode_header_value(text) == inbound.encode_header_value(text)
    assert decode_header(eras.encode_header_value(text)) == text
    assume("\n" not in text)
    try:
        expected = inbound.decode_header_value(text)
    except ValueError:  # the SDK lets this one out for a payload that is not ASCII
        expected = None
    assert decode_header(text) == expected


def rendered(**more: Any) -> dict[str, Any]:
    kind, approved = more.pop("kind", "tool"), more.pop("approved", "")
    modern = more.pop("modern", True)
    state = more.pop("state", None)
    allowed = asyncio.run(permit(call(**more), kind=kind, approved=approved, state=state))
    line = eras.request(5, eras.outgoing(allowed), eras.offered(FORM), modern=modern)
    assert TOKEN.encode() not in line
    value: dict[str, Any] = json.loads(line)
    return value


@pytest.mark.requirement("HTTP-13")
def test_a_tool_call_is_rendered_from_the_judged_call() -> None:
    trace = {"traceparent": "00-a-b-01", "tracestate": "x=1", "baggage": "secret=1"}
    sent = rendered(
        name="shown__echo", approved="echo", progress_token="client", trace=trace, request_state="sealed by us",
        state="s",
        input_responses=b'{"k":{"action":"accept"}}',
    )  # fmt: skip
    assert sent["method"] == "tools/call"
    params = sent["params"]
    assert params["name"] == "echo"  # the server's own name for it
    assert params["arguments"] == {"text": "hi"}
    assert params["requestState"] == "s"
    assert params["inputResponses"] == {"k": {"action": "accept"}}
    meta = params["_meta"]
    assert meta["progressToken"] == 5
    assert meta["traceparent"] == "00-a-b-01"
    assert "baggage" not in meta
    assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
    assert meta["io.modelcontextprotocol/clientCapabilities"] == {"elicitation": {}}
    assert set(params) == {"name", "arguments", "requestState", "inputResponses", "_meta"}


def test_a_handshake_request_carries_no_envelope_and_no_state() -> None:
    sent = rendered(request_state="sealed by us", state="s", input_responses=b"{}", modern=False)
    assert set(sent["params"]) == {"name", "arguments"}


def test_completion_is_rebuilt() -> None:
    rest = {"ref": {"type": "ref/prompt", "name": "other", "evil": 1}, "argument": {"name": "a", "value": "v", "x": 1},
            "context": {"arguments": {"b": "c"}, "x": 1}, "x": 1}  # fmt: skip
    more = {"method": "completion/complete", "rest": canonical(rest), "arguments": b""}
    sent = rendered(name="prompt:hail", approved="hail", kind="prompt", **more)
    assert sent["params"]["ref"] == {"type": "ref/prompt", "name": "hail"}
    assert sent["params"]["argument"] == {"name": "a", "value": "v"}
    assert sent["params"]["context"] == {"arguments": {"b": "c"}}
    sent = rendered(name="template:user://{n}", approved="user://{n}", kind="template", **more)
    assert sent["params"]["ref"] == {"type": "ref/resource", "uri": "user://{n}"}


def test_a_template_read_names_the_requested_uri() -> None:
    sent = rendered(method="resources/read", name="user://ada", approved="user://{n}", kind="template", arguments=b"")
    assert sent["params"]["uri"] == "user://ada"


@pytest.mark.parametrize(
    ("method", "kind"),
    [("tools/list", "tool"), ("sampling/createMessage", "tool"), ("tools/call", "prompt"), ("resources/read", "tool"),
     ("completion/complete", "tool"), ("initialize", "tool")],
)  # fmt: skip
def test_nothing_else_is_ever_rendered(method: str, kind: str) -> None:
    with pytest.raises(InvariantFault):
        rendered(method=method, kind=kind)


def test_forward_takes_a_permit_and_nothing_else() -> None:
    async def scenario() -> None:
        upstreams = Upstreams([HttpUpstream("up", "http://127.0.0.1:9/mcp")])
        allowed = await permit()
        for forged in (allowed.call, {"call": allowed.call}, type("Permit", (), {"call": allowed.call})(), None):
            with pytest.raises(InvariantFault):
                await upstreams.forward(forged, Heard())  # type: ignore[arg-type]
        with pytest.raises(InvariantFault):  # approved for another server than the one called
            await upstreams.by_name["up"].forward(await permit(server="down"), Heard())
        with pytest.raises(UpstreamFault):
            await upstreams.forward(await permit(server="down"), Heard())
        await upstreams.close()

    asyncio.run(scenario())


GOOD = {"jsonrpc": "2.0", "id": 5, "result": {}}


def test_the_answer_is_exactly_ours() -> None:
    assert eras.answer("up", GOOD, 5) == {}
    for change in ({"id": "5"}, {"id": 5.0}, {"id": True}, {"id": None}, {"id": 6}, {"jsonrpc": "1.0"}, {"method": "x"},
                   {"result": []}, {"result": None}, {"error": {"code": 1, "message": ""}}):  # fmt: skip
        with pytest.raises(UpstreamFault):
            eras.answer("up", {**GOOD, **change}, 5)
    for broken in ([GOOD], None, 5, {"jsonrpc": "2.0", "id": 5}, {**GOOD, "result": 1}):
        with pytest.raises(UpstreamFault):
            eras.answer("up", broken, 5)
    with pytest.raises(UpstreamError) as caught:
        eras.answer("up", {"jsonrpc": "2.0", "id": 5, "error": {"code": -1, "message": "x" * 9000}}, 5)
    assert len(caught.value.text) == 2000
    assert "x" not in str(caught.value)


def test_true_is_not_one() -> None:
    with pytest.raises(UpstreamFault):
        eras.answer("up", {**GOOD, "id": True}, 1)


@pytest.mark.requirement("MRTR-01", "MRTR-05")
def test_input_is_asked_for_where_it_may_be() -> None:
    asked = {"resultType": "input_required", "requestState": "s"}
    tool = eras.outgoing(asyncio.run(permit()))
    assert eras.complete("up", tool, {"content": []}, modern=True)
    assert not eras.complete("up", tool, asked, modern=True)
    with pytest.raises(UpstreamFault):
        eras.complete("up", tool, asked, modern=False)
    for other in ({"resultType": "input_required"}, {**asked, "requestState": 5}, {"resultType": "task"}):
        with pytest.raises(UpstreamFault):
            eras.complete("up", tool, other, modern=True)
    rest = canonical({"ref": {"type": "ref/prompt", "name": "hail"}, "argument": {"name": "a", "value": "v"}})
    hint = call(method="completion/complete", name="prompt:hail", rest=rest, arguments=b"")
    completion = eras.outgoing(asyncio.run(permit(hint, kind="prompt", approved="hail")))
    assert eras.complete("up", completion, {"completion": {}}, modern=True)
    with pytest.raises(UpstreamFault):
        eras.complete("up", completion, asked, modern=True)


def events(data: bytes, step: int, limit: int = 1000) -> list[bytes]:
    buffer, found = EventBuffer(limit), []
    for start in range(0, len(data), step):
        buffer.feed(data[start : start + step])
        while (event := buffer.next()) is not None:
            found.append(event)
    return found


STREAM = (
    b"\xef\xbb\xbf: hello\ndata: 1\n\n"
    b"event: message\r\nid: 7\r\ndata:2a\r\ndata: 2b\r\n\r\n"
    b"data: 3\r\r"
    b"event: other\ndata: no\n\n"
    b"data\n\nid: 9\ndata:\n\n"
    b"data: \xe2\x80\xa8\x0b\x0c\x1c\xc2\x85 x\n\n"
    b"retry: 1\n\ndata: cut"
)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 1000])
def test_events_are_split_at_line_ends_only(step: int) -> None:
    assert events(STREAM, step) == [b"1", b"2a\n2b", b"3", b"\xe2\x80\xa8\x0b\x0c\x1c\xc2\x85 x"]


@pytest.mark.requirement("HTTP-32")
@pytest.mark.parametrize(
    "data", [b"data: " + b"A" * 2000, b"data: A\n" * 2000, b"x" * 2000, b": c\n" + b"data: a" * 900]
)
def test_an_endless_event_is_refused(data: bytes) -> None:
    with pytest.raises(EventTooLarge):
        events(data, 64)
    assert len(events(b"data: A\n\n: c\n" * 2000, 64)) == 2000


def test_a_reading_is_bounded() -> None:
    async def listing(pages: Any) -> Any:
        async def ask(method: str, params: dict[str, Any]) -> tuple[dict[str, Any], int]:
            assert method == "tools/list"
            return pages(params.get("cursor")), 1 << 20

        return await read_all("up", "2026-07-28", {"capabilities": {"tools": {}}}, ask)

    honest = {None: {"tools": [1], "nextCursor": "b"}, "b": {"tools": [2]}}
    assert asyncio.run(listing(honest.__getitem__)).tools == (1, 2)
    for pages in (
        lambda cursor: {"tools": [], "nextCursor": "same"},
        lambda cursor: {"tools": [], "nextCursor": str(int(cursor or 0) + 1)},
        lambda cursor: {"tools": [1] * 2001},
        lambda cursor: {"tools": {}},
        lambda cursor: {},
        lambda cursor: {"tools": [], "nextCursor": 5},
    ):
        with pytest.raises(UpstreamFault):
            asyncio.run(listing(pages))


def test_capabilities_are_reduced_to_what_is_understood() -> None:
    told = {
        "elicitation": {"form": {}, "url": {}, "x": {}},
        "sampling": {"tools": {}},
        "experimental": {"x": 1},
        "roots": 1,
    }
    words = eras.offered(told)
    assert words == {"form", "url", "sampling"}
    assert eras.declared(words) == {"elicitation": {"form": {}, "url": {}}, "sampling": {}}
    assert eras.offered({"elicitation": {}}) == {"form"}
    assert eras.offered({"elicitation": True}) == frozenset()
    assert Heard(era=Era.MODERN).capabilities == FORM
