"""Honest servers over HTTP: the official SDK in both eras, and our raw server where bytes are looked at."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from limen.core.call import Era
from limen.core.faults import ConfigFault, InvariantFault, UpstreamError, UpstreamFault
from limen.gateway.upstreams import HttpUpstream
from upstreams.minted import ACCEPT, TOKEN, Heard, call, permit
from upstreams.raw_server import Asked, RawServer, echo

SERVER = Path(__file__).with_name("sdk_server.py")
BOTH = pytest.mark.parametrize("era", [Era.MODERN, Era.HANDSHAKE])


@pytest.fixture(scope="module", params=["json", "sse"])
def sdk(request: pytest.FixtureRequest) -> Iterator[str]:
    process = subprocess.Popen([sys.executable, str(SERVER), request.param], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.wait()


@BOTH
def test_the_sdk_is_read_and_called(sdk: str, era: Era) -> None:
    async def scenario() -> None:
        upstream = HttpUpstream("up", sdk, era=era)
        told = await upstream.describe()
        assert told.revision == upstream.revision == ("2026-07-28" if era is Era.MODERN else "2025-11-25")
        assert told.instructions == "Be kind."
        assert {tool["name"] for tool in told.tools} >= {"echo", "fail"}
        assert told.prompts[0]["name"] == "hail"
        assert told.resources[0]["uri"] == "note://one"
        assert told.templates[0]["uriTemplate"] == "user://{name}"
        heard = Heard()
        result = await upstream.forward(await permit(), heard)
        assert result["content"][0]["text"] == "echo hi"
        assert result["structuredContent"] == {"result": "echo hi"}
        assert (await upstream.forward(await permit(call(name="fail", arguments=b"{}")), heard))["isError"]
        prompt = await permit(call("prompts/get", "hail", b'{"name":"Ada"}'), kind="prompt")
        assert (await upstream.forward(prompt, heard))["messages"][0]["content"]["text"] == "Hail Ada"
        read = await permit(call("resources/read", "user://ada", b""), kind="template", approved="user://{name}")
        assert (await upstream.forward(read, heard))["contents"][0]["text"] == "user ada"
        with pytest.raises(UpstreamError):
            await upstream.forward(await permit(call("resources/read", "gone://x", b""), kind="resource"), heard)
        await upstream.close()

    asyncio.run(scenario())


def test_the_sdk_reports_progress_and_asks(sdk: str) -> None:
    async def scenario(streams: bool) -> None:
        for era in (Era.MODERN, Era.HANDSHAKE) if streams else (Era.MODERN,):
            upstream, heard = HttpUpstream("up", sdk, era=era), Heard(ACCEPT)
            counting = call(name="count", arguments=b"{}", progress_token="mine")
            await upstream.forward(await permit(counting), heard)
            expected = [("mine", step) for step in (1, 2, 3)] if streams else []
            assert [(note["progressToken"], note["progress"]) for _, note in heard.notes] == expected
            name = "greet_modern" if era is Era.MODERN else "greet"
            result = await upstream.forward(await permit(call(name=name, arguments=b"{}")), heard)
            assert result["content"][0]["text"] == "hello Ada"
            assert len(heard.asked) == 1
            ((_, asked),) = heard.asked[0].items()
            assert asked["method"] == "elicitation/create"
            assert asked["params"]["message"] == "Who are you?"
            await upstream.close()

    asyncio.run(scenario(_streams(sdk)))


def _streams(url: str) -> bool:
    """Whether this SDK server answers initialize with an event stream."""
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
        b'"clientInfo":{"name":"t","version":"0"}}}'
    )
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
        return bool(answer.headers["content-type"].startswith("text/event-stream"))


def test_a_modern_client_gets_the_request_for_input_itself(sdk: str) -> None:
    async def scenario() -> None:
        upstream, heard = HttpUpstream("up", sdk), Heard(era=Era.MODERN)
        result = await upstream.forward(await permit(call(name="greet_modern", arguments=b"{}")), heard)
        assert result["resultType"] == "input_required"
        assert not heard.asked
        (key,) = result["inputRequests"]
        answers = b'{"%b":{"action":"accept","content":{"name":"Bo"}}}' % key.encode()
        again = call(name="greet_modern", arguments=b"{}", input_responses=answers)
        result = await upstream.forward(await permit(again, state=result["requestState"]), heard)
        assert result["content"][0]["text"] == "hello Bo"
        await upstream.close()

    asyncio.run(scenario())


@pytest.mark.requirement("AUTH-07", "AUTH-08", "AU-02", "HTTP-13", "HTTP-27")
@BOTH
def test_only_rendered_bytes_and_the_credential_are_sent(era: Era) -> None:
    async def scenario() -> None:
        async with RawServer(echo, modern=era is Era.MODERN, session="s") as server:
            upstream = HttpUpstream("up", server.url, describe_headers=(("x-api-key", "ours"),))
            await upstream.describe()
            asked = call(name="naïve", param_headers=(("mcp-param-x", TOKEN),), client=TOKEN, session=TOKEN)
            allowed = await permit(asked, headers=(("x-api-key", "static"),))
            await upstream.forward(allowed, Heard(), (("Mcp-Param-Region", "eu"),))
            await upstream.close()
        assert TOKEN.encode() not in server.raw
        assert b"earer" not in server.raw
        sent = next(asked for asked in server.asked if asked.method == "tools/call")
        names = [line.partition(b":")[0].lower() for line in sent.head.split(b"\r\n")[1:-2]]
        assert len(names) == len(set(names))
        expected = {b"host", b"user-agent", b"content-type", b"accept", b"accept-encoding", b"mcp-protocol-version",
                    b"x-api-key", b"content-length"}  # fmt: skip
        if era is Era.MODERN:
            assert set(names) == expected | {b"mcp-method", b"mcp-name", b"mcp-param-region"}
            assert sent.header("mcp-name") == "=?base64?bmHDr3Zl?="
            assert sent.header("mcp-protocol-version") == "2026-07-28"
        else:
            assert set(names) == expected | {b"mcp-session-id"}
            assert sent.header("mcp-protocol-version") == "2025-11-25"
        assert sent.header("x-api-key") == "static"
        assert {asked.header("x-api-key") for asked in server.asked} == {"ours", "static"}

    asyncio.run(scenario())


@pytest.mark.requirement("HTTP-27")
def test_headers_that_cannot_be_sent_are_our_bug() -> None:
    async def scenario() -> None:
        async with RawServer(echo) as server:
            upstream = HttpUpstream("up", server.url, headers_allowed=frozenset({"x-key"}))
            await upstream.forward(await permit(headers=(("x-key", "v"),)), Heard())
            for headers in ((("x-other", "v"),), (("x-key", "v\r\nhost: evil"),), (("x-key", ""),)):
                with pytest.raises(InvariantFault):
                    await upstream.forward(await permit(headers=headers), Heard())
            for extra in ((("authorization", "x"),), (("mcp-param-a", "x\r\ny: z"),), (("mcp-param-a b", "x"),)):
                with pytest.raises(InvariantFault):
                    await upstream.forward(await permit(), Heard(), extra)
            assert server.methods().count("tools/call") == 1
            await upstream.close()

    asyncio.run(scenario())


def test_one_connection_is_kept_and_many_are_bounded() -> None:
    async def scenario() -> None:
        async def slow(asked: Asked) -> None:
            await asyncio.sleep(0.01)
            await echo(asked)

        async with RawServer(slow) as server:
            upstream, heard, allowed = HttpUpstream("up", server.url, size=4), Heard(), await permit()
            for _ in range(5):
                await upstream.forward(allowed, heard)
            assert server.connections == 1
            await asyncio.gather(*(upstream.forward(allowed, heard) for _ in range(40)))
            assert server.connections == 4
            await upstream.close()
            with pytest.raises(UpstreamFault):
                await upstream.forward(allowed, heard)

    asyncio.run(scenario())


@pytest.mark.requirement("SES-09", "SES-10")
def test_sessions_belong_to_one_caller_and_one_session() -> None:
    async def scenario() -> None:
        async with RawServer(echo, modern=False, session="sid") as server:
            upstream, heard = HttpUpstream("up", server.url), Heard()
            used: dict[tuple[str, str], set[str | None]] = {}
            for _ in range(2):
                for subject in ("alice", "bob"):
                    for session in ("", "one", "two"):
                        await upstream.forward(await permit(subject=subject, session=session), heard)
                        sent = [asked for asked in server.asked if asked.method == "tools/call"][-1]
                        used.setdefault((subject, session), set()).add(sent.header("mcp-session-id"))
            assert all(len(ids) == 1 for ids in used.values())
            assert len({identity for ids in used.values() for identity in ids}) == 6
            assert server.sessions == 6
            await upstream.end_session("one")
            await asyncio.sleep(0.05)
            assert server.methods().count("DELETE") == 2
            await upstream.forward(await permit(session="one"), heard)
            assert server.sessions == 7
            await upstream.close()
            assert server.methods().count("DELETE") == 7

    asyncio.run(scenario())


def test_concurrent_first_calls_share_one_handshake() -> None:
    async def scenario() -> None:
        async with RawServer(echo, modern=False, session="sid") as server:
            upstream, allowed = HttpUpstream("up", server.url), await permit()
            await asyncio.gather(*(upstream.forward(allowed, Heard()) for _ in range(10)))
            assert server.sessions == 1
            assert server.methods().count("server/discover") == 1
            await upstream.close()

    asyncio.run(scenario())


def test_a_server_without_sessions_is_greeted_once() -> None:
    async def scenario() -> None:
        async with RawServer(echo, modern=False) as server:
            upstream = HttpUpstream("up", server.url)
            for subject in ("alice", "bob", "carol"):
                await upstream.forward(await permit(subject=subject), Heard())
            assert server.sessions == 1
            await upstream.close()
            assert "DELETE" not in server.methods()

    asyncio.run(scenario())


@pytest.mark.requirement("SES-09")
def test_an_ended_session_is_opened_again_once() -> None:
    async def scenario(dead: int) -> int:
        async def forgetful(asked: Asked) -> None:
            if int((asked.header("mcp-session-id") or "-0").split("-")[1]) <= dead:
                await asked.reply({"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "gone"}}, 404)
            else:
                await echo(asked)

        async with RawServer(forgetful, modern=False, session="sid") as server:
            upstream = HttpUpstream("up", server.url)
            try:
                await upstream.forward(await permit(), Heard())
            finally:
                assert server.methods().count("tools/call") == min(dead + 1, 2)
                await upstream.close()
            return server.sessions

    assert asyncio.run(scenario(1)) == 2
    with pytest.raises(UpstreamFault):
        asyncio.run(scenario(9))


@pytest.mark.requirement("HTTP-12")
@BOTH
def test_cancelling_reaches_the_server(era: Era) -> None:
    async def scenario() -> None:
        started = asyncio.Event()

        async def never(asked: Asked) -> None:
            started.set()
            if era is Era.MODERN:
                await asked.stream()
            await asyncio.sleep(0.2 if era is Era.MODERN else 0)
            if era is Era.MODERN:
                await asked.event(b": still here\n")
                await asyncio.sleep(0.1)
                await asked.event(b": still here\n")

        async with RawServer(never, modern=era is Era.MODERN, session="s") as server:
            upstream = HttpUpstream("up", server.url)
            task = asyncio.ensure_future(upstream.forward(await permit(), Heard()))
            await started.wait()
            server.gone.clear()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(5):
                await server.gone.wait()
            sent = next(asked.json["id"] for asked in server.asked if asked.method == "tools/call")
            await asyncio.sleep(0.05)
            told = [asked.json["params"]["requestId"] for asked in server.asked if "cancelled" in asked.method]
            assert told == ([] if era is Era.MODERN else [sent])
            await upstream.close()

    asyncio.run(scenario())


@pytest.mark.requirement("AUTH-20")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_is_verified() -> None:
    authority, stranger = trustme.CA(), trustme.CA()

    def context(ca: trustme.CA, name: str) -> ssl.SSLContext:
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert(name).configure_cert(made)
        return made

    async def reach(tls: ssl.SSLContext) -> dict[str, Any]:
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        async with RawServer(echo, tls=tls) as server:
            upstream = HttpUpstream("up", server.url, tls=trusting)
            try:
                return await upstream.forward(await permit(), Heard())
            finally:
                await upstream.close()
                assert bool(server.asked) is (tls is honest)

    honest = context(authority, "localhost")
    assert asyncio.run(reach(honest))["content"]
    for evil in (context(authority, "other.example"), context(stranger, "localhost")):
        with pytest.raises(UpstreamFault):
            asyncio.run(reach(evil))
    old = context(authority, "localhost")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_1
    with pytest.raises(UpstreamFault):
        asyncio.run(reach(old))


def test_a_context_that_does_not_verify_is_refused() -> None:
    lax = ssl.create_default_context()
    lax.check_hostname = False
    with pytest.raises(ConfigFault):
        HttpUpstream("up", "https://localhost/mcp", tls=lax)
    lax.verify_mode = ssl.CERT_NONE
    with pytest.raises(ConfigFault):
        HttpUpstream("up", "https://localhost/mcp", tls=lax)


@pytest.mark.requirement("AUTH-20")
@pytest.mark.parametrize(
    "url",
    ["http://example.com/mcp", "ftp://localhost/", "http://user:pw@localhost/", "https://", "http://localhost/#x",
     "http://localhost/a b", "http://localhost:99999/", "http://127.0.0.1.example/", "http://0.0.0.0/",
     "http://localhost/\r\nx: y", "http://[::1", "http:\\\\localhost/", "http://10.0.0.1/mcp"],
)  # fmt: skip
def test_urls_that_are_not_safe_are_refused(url: str) -> None:
    with pytest.raises(ConfigFault):
        HttpUpstream("up", url)


def test_safe_urls_are_taken() -> None:
    for url in ("http://localhost:1/mcp?x=1", "http://127.0.0.9/", "http://[::1]:8/mcp", "https://example.com/mcp"):
        HttpUpstream("up", url)
