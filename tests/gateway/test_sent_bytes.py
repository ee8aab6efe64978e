"""I1: `out` of a record is the number of bytes of the result its caller was given, whatever way it went."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.inhouse import ANN, Inhouse, lived
from limen.core.call import Call, Era, Peer
from limen.core.faults import DependencyFault
from limen.core.verdict import Refusal
from limen.gateway.app import Gateway
from limen.gateway.cells import Cells
from limen.gateway.containment import obey
from limen.protocol.outbound import Reply

LINK = {"type": "resource_link", "uri": "file:///other", "name": "other"}
PLAIN = {"content": [{"type": "text", "text": "hello"}], "resultType": "complete"}
ANSWERS: dict[str, dict[str, Any]] = {
    "text": PLAIN,
    "failed": {"content": [{"type": "text", "text": "no such file"}], "isError": True},
    "links": {"content": [LINK, {"type": "text", "text": "see there, ä and \U0001f600"}]},
    "large": {"content": [{"type": "text", "text": "a b c d " * 25_000}]},
}
ECHO = Call(
    "tools/call", "up", "up", Era.MODERN, "2026-07-28", "one", "echo", b'{"text":"x"}', peer=Peer("stdio")
)  # fmt: skip


def through(inhouse: Inhouse) -> Gateway:
    """The gateway in front of this house."""
    gateway = Gateway(inhouse.house.engine, inhouse.house.continuity, lambda server: False, {})
    obey(inhouse.house, gateway, Cells())
    return gateway


async def ask(gateway: Gateway, call: Call) -> dict[str, Any]:
    """The message its client gets."""
    outlet: Any = None
    reply = await gateway.handle(call, ANN, outlet)
    assert isinstance(reply, Reply) and reply.status == 200, reply
    message: dict[str, Any] = orjson.loads(reply.body)
    assert (message["jsonrpc"], message["id"]) == ("2.0", call.id)
    assert reply.body.endswith(orjson.dumps(message["result"]) + b"}")  # nothing else is in it
    return message


async def opened(gateway: Gateway) -> str:
    """A session of the handshake era."""
    first = Call(
        "initialize", "up", "up", Era.HANDSHAKE, "", 1, peer=Peer("stdio"),
        rest=b'{"capabilities":{},"clientInfo":{"name":"desk"},"protocolVersion":"2025-11-25"}',
    )  # fmt: skip
    outlet: Any = None
    reply = await gateway.handle(first, ANN, outlet)
    assert isinstance(reply, Reply)
    return dict(reply.headers)[b"mcp-session-id"].decode()


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("way", ["modern", "handshake", "bundle"])
def test_I1_the_bytes_that_are_counted_are_those_that_are_sent(
    tmp_path: Path, way: str, answer: dict[str, Any]
) -> None:
    """I1: both eras, a bundle that writes URIs in its own words, a tool that failed, and much of it."""
    given: list[dict[str, Any]] = []

    async def work(inhouse: Inhouse) -> None:
        inhouse.behind.answer, gateway, call = answer, through(inhouse), ECHO
        if way == "handshake":
            call = replace(ECHO, era=Era.HANDSHAKE, revision="2025-11-25", session=await opened(gateway))
        elif way == "bundle":
            call = replace(ECHO, route="")
        given.append((await ask(gateway, call))["result"])

    record = lived(tmp_path, work).of("call.outcome")[0].record
    assert record["out"] == len(orjson.dumps(given[0]))
    assert record.get("isError", False) is answer.get("isError", False)
    assert ("resultType" in given[0]) is (way != "handshake")
    if answer is ANSWERS["links"]:
        assert (given[0]["content"][0]["uri"] == LINK["uri"]) is (way != "bundle")


def test_I1_what_cannot_be_rendered_is_not_sent_and_is_an_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1: a state that cannot be sealed is a refusal with an outcome of its own; the next call goes through."""
    asks = {
        "resultType": "input_required", "requestState": "mine",
        "inputRequests": {"name": {"method": "elicitation/create", "params": {
            "mode": "form", "message": "Who?",
            "requestedSchema": {"type": "object", "properties": {"who": {"type": "string"}}},
        }}},
    }  # fmt: skip
    given: list[Any] = []

    async def work(inhouse: Inhouse) -> None:
        gateway, outlet = through(inhouse), None
        call = replace(ECHO, capabilities=b'{"elicitation":{"form":{}}}')
        inhouse.behind.answer = asks
        with monkeypatch.context() as broken:

            def seal(*_: Any) -> str:
                raise DependencyFault("handles", "no keys")

            broken.setattr(gateway._states, "seal", seal)
            refused: Any = outlet
            given.append(await gateway.handle(call, ANN, refused))
        given.append((await ask(gateway, call))["result"])

    refused, asked = lived(tmp_path, work).of("call.outcome")
    assert isinstance(given[0], Refusal)
    assert (given[0].reason.id, given[0].guard) == ("fault.dependency", "render") == (refused.reason, "render")
    assert "out" not in refused.record
    assert given[1]["resultType"] == "input_required" and given[1]["requestState"] != "mine"
    assert asked.record["out"] == len(orjson.dumps(given[1]))
