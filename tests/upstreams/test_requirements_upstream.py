"""Rules for whoever speaks to servers: what is sent, and what of theirs is obeyed (rows of tests/requirements.py)."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import pytest

from limen.core.call import Era
from limen.gateway.upstream_events import RETRY_LONGEST, EventBuffer
from limen.gateway.upstreams import HttpUpstream, StdioUpstream
from upstreams.minted import ACCEPT, TOKEN, Heard, call, permit
from upstreams.raw_server import Asked, RawServer, echo


@pytest.mark.requirement("HTTP-06", "HTTP-13", "HTTP-18", "AUTH-16", "SES-09")
@pytest.mark.parametrize("era", [Era.MODERN, Era.HANDSHAKE], ids=str)
def test_each_message_is_a_post_of_its_own_that_says_what_it_is(era: Era) -> None:
    async def scenario() -> None:
        modern = era is Era.MODERN
        async with RawServer(echo, modern=modern, session="sid") as server:
            upstream = HttpUpstream("up", server.url, describe_headers=(("authorization", "Bearer ours"),))
            await upstream.describe()
            for subject in ("alice", "bob"):
                allowed = await permit(call(client=TOKEN, session=TOKEN), subject=subject, session=subject)
                await upstream.forward(allowed, Heard())
            await upstream.end_session("alice")
            await upstream.close()
        assert {asked.path for asked in server.asked} == {"/mcp"}  # no token in a URL
        posts = [asked for asked in server.asked if asked.verb == "POST"]
        assert len(posts) > 3
        initialized = False
        for asked in posts:
            assert isinstance(json.loads(asked.body), dict)
            accept = {part.strip() for part in (asked.header("accept") or "").split(",")}
            assert accept == {"application/json", "text/event-stream"}
            revision, probe = asked.header("mcp-protocol-version"), asked.method == "server/discover"
            if modern or probe:
                assert (
                    revision == asked.json["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
                )
                assert asked.header("mcp-method") == asked.method
                assert asked.header("mcp-name") == asked.json["params"].get("name")
            elif asked.method != "initialize":
                assert revision == "2025-11-25"
                assert (asked.header("mcp-session-id") or "").startswith("sid-")
                initialized = True
        assert initialized is not modern
        if modern:
            assert all(asked.header("mcp-session-id") is None for asked in server.asked)

    asyncio.run(scenario())


@pytest.mark.requirement("HTTP-34")
def test_a_stream_is_not_opened_again_sooner_than_its_server_wants() -> None:
    async def scenario(retry: bytes) -> float:
        ended: list[float] = []
        opened: list[float] = []

        async def stream(asked: Asked) -> None:
            if asked.verb != "GET":
                await asked.reply({"jsonrpc": "2.0", "id": asked.json.get("id"), "result": {}})
                return
            opened.append(time.monotonic())
            await asked.stream()
            await asked.event(retry + b"data: \n\n")
            await asked.end()
            ended.append(time.monotonic())

        async with RawServer(stream, modern=False, session="s") as server:
            upstream = HttpUpstream("up", server.url)
            for _ in range(2):
                await upstream.listen(lambda: None)
            await upstream.close()
        return opened[1] - ended[0]

    assert asyncio.run(scenario(b"retry: 700\n")) >= 0.7
    assert asyncio.run(scenario(b"")) < asyncio.run(scenario(b"retry: 1500\n"))


@pytest.mark.requirement("HTTP-34")
@pytest.mark.parametrize(
    ("line", "wait"),
    [
        (b"retry: 250", 250), (b"retry:250", 250), (b"retry: 0", 0), (b"retry: 9" + b"9" * 4000, RETRY_LONGEST),
        (b"retry: -1", 0), (b"retry: 1e3", 0), (b"retry: 1 2", 0), (b"retry:", 0), (b"retry", 0), (b"RETRY: 5", 0),
    ],
)  # fmt: skip
def test_how_long_a_server_may_ask_for(line: bytes, wait: int) -> None:
    events = EventBuffer()
    events.feed(line + b"\ndata: x\n\n")
    assert (events.next(), events.retry) == (b"x", wait)


ASKS = """
import json, sys, threading
heard = []
def send(**message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\\n"); sys.stdout.flush()
def answer(number):
    send(id=number, result={"resultType": "complete", "content": [{"type": "text", "text": json.dumps(heard)}]})
for line in sys.stdin:
    message = json.loads(line)
    number, method = message.get("id"), message.get("method")
    if method == "server/discover":
        send(id=number, result={"resultType": "complete", "supportedVersions": ["2026-07-28"],
                                "capabilities": {"tools": {}}, "serverInfo": {"name": "asks", "version": "0"}})
    elif method == "tools/call":
        form = {"message": "Name?", "requestedSchema": {"type": "object"}}
        for asked in (("elicitation/create", form), ("ping", {}), ("roots/list", {}), ("tools/call", {"name": "echo"})):
            send(id=f"q{number}", method=asked[0], params=asked[1])
        threading.Timer(0.3, answer, (number,)).start()
    elif method is None:
        heard.append(message)
"""


@pytest.mark.requirement("STD-02")
def test_a_process_of_the_new_era_cannot_ask() -> None:
    async def scenario() -> None:
        upstream, heard = StdioUpstream("up", [sys.executable, "-c", ASKS]), Heard(ACCEPT, era=Era.MODERN)
        try:
            result = await upstream.forward(await permit(call(era=Era.MODERN)), heard)
            assert upstream.revision == "2026-07-28"
            assert result["content"][0]["text"] == "[]"  # it was not even answered
            assert heard.asked == []
            assert sum(upstream.oddities.values()) >= 4
        finally:
            await upstream.close()

    asyncio.run(scenario())
