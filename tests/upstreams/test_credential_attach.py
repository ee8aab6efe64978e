"""Configured headers and nothing else; none that could speak the protocol."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from limen.core.call import Approved, Caller, Context, Grant, Presented, UpstreamCredential
from limen.core.chain import Chain
from limen.core.faults import ConfigFault
from limen.core.verdict import Pass, Refuse
from limen.credentials.attach import AttachCredential
from upstreams.minted import TOKEN, Says, call


def attached(guard: AttachCredential, server: str) -> UpstreamCredential:
    facts = (Caller("i", "s"), Approved(server, "tool", "echo", "d", b"{}"), Grant((), "p"))
    chain = Chain([*map(Says, facts), guard], proves=(UpstreamCredential,))
    context = Context(call(), Presented((b"Bearer " + TOKEN.encode(),)), time.monotonic() + 5, "r")
    after = asyncio.run(chain.run(context))
    assert isinstance(after, Context)
    return after.get(UpstreamCredential)


def test_each_server_gets_its_own() -> None:
    guard = AttachCredential({"a": [("Authorization", "Bearer static"), ("X-Api-Key", "k v")], "b": []})
    assert attached(guard, "a").headers == (("authorization", "Bearer static"), ("x-api-key", "k v"))
    assert attached(guard, "b").headers == ()
    assert attached(guard, "never configured").headers == ()
    assert "static" not in repr(attached(guard, "a"))


@pytest.mark.parametrize(
    "name",
    ["Host", "mcp-session-id", "MCP-Protocol-Version", "Mcp-Param-X", "content-length", "Content-Type", "Connection",
     "Transfer-Encoding", "Accept", "accept-encoding", "Upgrade", "TE", "Trailer", "Expect", "Proxy-Authorization",
     "", "a b", "a:b", "a\r\nb", "ä", "x" * 129, "User-Agent", "Keep-Alive"],
)  # fmt: skip
def test_protocol_headers_are_refused(name: str) -> None:
    with pytest.raises(ConfigFault):
        AttachCredential({"a": [(name, "v")]})


@pytest.mark.parametrize("value", ["", " ", "a\r\nX: y", "a\n", "a\0", " a", "a ", "ä", "\x7f", "x" * 8193, "a\x1bb"])
def test_values_cannot_start_another_header(value: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        AttachCredential({"a": [("x-key", value)]})
    assert not value.strip() or len(value) < 3 or value not in str(caught.value)


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(ConfigFault):
        AttachCredential({"a": [("X-Key", "1"), ("x-key", "2")]})


KEY = "x-api-key-canary-0123456789"
CARRIED = [
    {"arguments": b'{"text":"use ' + TOKEN.encode() + b' please"}'},
    {"arguments": b'{"text":"the end of it: ' + TOKEN.encode()[-24:] + b'"}'},
    {"arguments": b'{"k":"' + KEY.encode() + b'"}'},
    {"rest": b'{"x":"' + TOKEN.encode() + b'"}'},
    {"input_responses": b'{"x":"' + TOKEN.encode() + b'"}'},
    {"name": f"file:///{TOKEN}"},
    {"trace": {"traceparent": "00-0-0-01", "tracestate": f"a={TOKEN}"}},
]


@pytest.mark.parametrize("parts", CARRIED, ids=str)
def test_a_call_that_carries_its_own_credential_is_refused_b1(parts: dict[str, Any]) -> None:
    guard = AttachCredential({"a": [("Authorization", "Bearer static")]})
    facts = {type(one): one for one in (Caller("i", "s"), Approved("a", "tool", "echo", "d", b"{}"), Grant((), "p"))}
    presented = Presented((b"Bearer " + TOKEN.encode(),), api_keys=(KEY.encode(),))
    refused = guard.check(Context(call(**parts), presented, time.monotonic() + 5, "r", facts))
    assert isinstance(refused, Refuse)
    assert refused.reason.id == "credentials.exposed"
    assert TOKEN not in refused.detail
    other = Presented((b"Bearer another-token-0123456789-abcdef",))
    assert isinstance(guard.check(Context(call(**parts), other, time.monotonic() + 5, "r", facts)), Pass)
