"""Configured headers and nothing else; none that could speak the protocol."""

from __future__ import annotations

import asyncio
import time

import pytest

from limen.core.call import Approved, Caller, Context, Grant, Presented, UpstreamCredential
from limen.core.chain import Chain
from limen.core.faults import ConfigFault
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
