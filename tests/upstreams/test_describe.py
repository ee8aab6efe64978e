"""What is read besides definitions: as whom a server was asked, and what is at the other end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trustme

from limen.core.announce import Announcement
from limen.core.faults import ConfigFault, InvariantFault, UpstreamFault
from limen.gateway.fingerprint import difference, fingerprint
from limen.gateway.upstream_faces import OTHERS, OWN
from limen.gateway.upstream_identity import Programs, of_url
from limen.gateway.upstream_target import target
from limen.gateway.upstreams import HttpUpstream, StdioUpstream, Unheard, Upstreams
from upstreams.minted import Heard, call, permit
from upstreams.raw_server import Asked, RawServer, echo

HERE = Path(__file__).parent


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(work())  # type: ignore[arg-type]


# faces


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("face", OTHERS)
def test_another_face_shows_in_everything_a_server_sees(face: Any, modern: bool) -> None:
    async def work() -> None:
        async with RawServer(echo, modern=modern, session="s") as server:
            upstream = HttpUpstream("up", server.url, describe_headers=(("Authorization", "Bearer ours"),))
            own = await upstream.describe()
            mine, server.asked = server.asked, []
            other = await upstream.describe(face)
            assert fingerprint(own) == fingerprint(other)
            for asked in (*mine, *server.asked):
                assert asked.header("user-agent") == (OWN if asked in mine else face).agent
                assert asked.header("authorization") == "Bearer ours"
            hello = next(asked.json for asked in server.asked if asked.method in ("initialize", "server/discover"))
            said = json.dumps(hello)
            assert json.dumps(face.name) in said if modern else True
            assert "limen" not in said
            if not modern:
                first = next(asked.json for asked in server.asked if asked.method == "initialize")
                assert first["params"]["clientInfo"] == dict(face.client)
                assert set(first["params"]["capabilities"]) == {"elicitation"} | (face.words - {"form", "url"})
            assert server.asked[0].connection not in {asked.connection for asked in mine}
            if not modern:
                assert server.asked[-1].verb == "DELETE"  # its session is not left behind
            await upstream.close()

    run(work)


def test_lists_are_asked_for_in_another_order() -> None:
    async def handler(asked: Asked) -> None:
        if asked.method == "server/discover":
            capabilities: dict[str, Any] = {"tools": {}, "prompts": {}, "resources": {}}
            hello = {"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "serverInfo": {}}
            await asked.result({"resultType": "complete", **hello})
        else:
            member = {"resources/templates/list": "resourceTemplates"}.get(asked.method, asked.method.split("/")[0])
            await asked.result({"resultType": "complete", member: []})

    async def work() -> None:
        async with RawServer(handler) as server:
            server.protocol = no_protocol  # type: ignore[method-assign]
            upstream = HttpUpstream("up", server.url)
            await upstream.describe()
            first, server.asked = server.methods(), []
            await upstream.describe(OTHERS[0])
            assert server.methods()[1:] == first[1:][::-1]
            await upstream.close()

    run(work)


async def no_protocol(_: Asked) -> bool:
    return False


def test_a_face_cannot_smuggle_a_header() -> None:
    where = target("up", "http://localhost:1/mcp", None)
    assert b"user-agent: node\r\n" in where.as_agent("node").line
    for agent in ("a\r\nx-evil: 1", "", " a", "é"):
        with pytest.raises(InvariantFault):
            where.as_agent(agent)


# streams of changes


def test_a_server_without_a_stream_says_so_once() -> None:
    async def refuse(asked: Asked) -> None:
        if asked.method == "subscriptions/listen":
            await asked.error(-32601, 404)
        else:
            await asked.reply(b"", 405)

    async def work() -> None:
        for modern in (True, False):
            async with RawServer(refuse, modern=modern) as server:
                upstream = HttpUpstream("up", server.url)
                with pytest.raises(Unheard):
                    await upstream.listen(lambda: None)
                await upstream.close()

    run(work)


@pytest.mark.requirement("HTTP-10", "SES-13")
def test_what_else_comes_on_the_stream_goes_no_further() -> None:
    opened: list[int] = []
    changed: list[str] = []

    async def stream(asked: Asked) -> None:
        if asked.verb == "POST":
            await (asked.accept() if "result" in asked.json else asked.error(-32600, 400))
            return
        await asked.stream()
        await asked.event({"jsonrpc": "2.0", "id": "p", "method": "ping"})
        await asked.event({"jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage", "params": {}})
        await asked.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info"}})
        await asked.event({"jsonrpc": "2.0", "method": "notifications/prompts/list_changed"})
        await asked.end()

    async def work() -> None:
        async with RawServer(stream, modern=False, session="s") as server:
            upstream = HttpUpstream("up", server.url)
            upstream.on_change = changed.append
            async with asyncio.timeout(5):
                await upstream.listen(lambda: opened.append(1))
            await asyncio.sleep(0.05)
            answers = [asked.json for asked in server.asked if "id" in asked.json and "method" not in asked.json]
            assert answers[0] == {"jsonrpc": "2.0", "id": "p", "result": {}}
            assert answers[1]["error"]["code"] == -32601
            assert upstream.oddities["notification dropped"] == 1
            await upstream.close()

    run(work)
    assert opened == [1]
    assert changed == ["up"]


@pytest.mark.parametrize("event", [b"data: [1]\n\n", b"data: {\n\n"])
def test_garbage_on_the_stream_ends_it(event: bytes) -> None:
    async def stream(asked: Asked) -> None:
        await asked.stream()
        await asked.event(event)

    async def work() -> None:
        async with RawServer(stream) as server:
            upstream = HttpUpstream("up", server.url)
            with pytest.raises(UpstreamFault):
                await upstream.listen(lambda: None)
            await upstream.close()

    run(work)


def test_a_subscription_of_ours_does_not_take_log_messages_from_a_call() -> None:
    async def work() -> None:
        upstream = StdioUpstream("up", [sys.executable, str(HERE / "sdk_server.py"), "stdio"])
        told = await upstream.describe()
        assert told.revision == "2026-07-28"
        heard, opened = Heard(), asyncio.Event()
        listening = asyncio.create_task(upstream.listen(opened.set))
        await asyncio.wait_for(opened.wait(), 5)
        counting = call(name="count", arguments=b"{}", progress_token="mine")
        await upstream.forward(await permit(counting), heard)
        assert [note["progressToken"] for _, note in heard.notes] == ["mine"] * 3
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await upstream.close()

    run(work)


# identity


def test_a_program_is_known_by_its_content(tmp_path: Path) -> None:
    script, data = tmp_path / "server.py", tmp_path / "notes.db"
    shutil.copy(HERE / "evil_stdio.py", script)
    data.write_text("one")
    argv = [sys.executable, str(script), "old", str(data), "hunter2"]
    shown = [*argv[:-1], "(secret)"]

    async def read() -> Announcement:
        upstream = StdioUpstream("up", argv, shown=shown)
        try:
            return await upstream.describe()
        finally:
            await upstream.close()

    first = asyncio.run(read()).identity
    assert first["executable"] == "sha256:" + sha256(Path(sys.executable).resolve().read_bytes()).hexdigest()
    assert first[f"file {script}"] == "sha256:" + sha256(script.read_bytes()).hexdigest()
    assert json.loads(first["argv"]) == shown
    assert "hunter2" not in str(first)
    data.write_text("two")
    assert asyncio.run(read()).identity == first  # what it works on may change, what it is may not
    script.write_text(script.read_text() + "\n# another program\n")
    changed = asyncio.run(read()).identity
    assert {name for name in first if first[name] != changed[name]} == {f"file {script}"}


def test_a_changed_program_is_seen_without_a_restart_and_an_unchanged_one_is_read_once(tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    programs = Programs()

    def executable(command: str, env: dict[str, str]) -> str:
        return programs.of_command([command], [command], env, str(tmp_path))["executable"]

    before = executable(str(program), {})
    assert executable("server", {"PATH": str(tmp_path)}) == executable("./server", {}) == before
    assert executable("server", {"PATH": "/nowhere"}) == "not found"
    (tmp_path / "link").symlink_to(program)
    assert executable("./link", {}) == before
    program.write_text("#!/bin/sh\ncurl evil.example\n")
    assert executable(str(program), {}) != before
    program.chmod(0o111)
    if os.geteuid():
        assert "cannot be read" in executable(str(program), {})


def test_an_address_is_known_without_its_query_and_by_who_vouches_for_it() -> None:
    authority = trustme.CA(organization_name="Honest Authority")
    leaf = authority.issue_cert("localhost")
    import ssl

    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    leaf.configure_cert(serving)
    authority.configure_trust(trusting)

    async def work() -> None:
        async with RawServer(echo, tls=serving) as server:
            upstream = HttpUpstream("up", f"{server.url}?tenant=7", tls=trusting)
            identity = (await upstream.describe()).identity
            assert identity == {"url": server.url, "tls_issuer": "Honest Authority"}
            await upstream.close()

    run(work)
    assert of_url("http://localhost:1/a?b", None) == {"url": "http://localhost:1/a"}
    named = {"issuer": ((("commonName", "Root X1"),),)}
    assert of_url("https://a.example", named)["tls_issuer"] == "Root X1"


# servers that are exchanged


def test_a_call_judged_before_is_not_sent_to_the_server_that_came_after() -> None:
    async def work() -> None:
        async with RawServer(echo) as before, RawServer(echo) as after:
            first = HttpUpstream("up", before.url, describe_headers=(("Authorization", "Bearer first"),))
            second = HttpUpstream("up", after.url, describe_headers=(("Authorization", "Bearer second"),))
            servers = Upstreams([first])
            judged = await permit(headers=(("authorization", "Bearer first"),))
            await servers.forward(judged, Heard())
            servers.replace([second])
            with pytest.raises(UpstreamFault, match="configured anew"):
                await servers.forward(judged, Heard())
            assert not after.asked
            await servers.forward(await permit(headers=(("authorization", "Bearer second"),)), Heard())
            assert b"Bearer first" not in after.raw
            await servers.close()

    run(work)


def test_servers_that_left_finish_their_calls_first() -> None:
    release = asyncio.Event()

    async def slow(asked: Asked) -> None:
        await release.wait()
        await echo(asked)

    async def work() -> None:
        async with RawServer(slow) as server:
            servers = Upstreams([HttpUpstream("up", server.url)])
            running = asyncio.create_task(servers.forward(await permit(), Heard()))
            await asyncio.sleep(0.1)
            servers.replace([])
            await asyncio.sleep(0.1)
            with pytest.raises(UpstreamFault, match="not configured"):
                await servers.forward(await permit(), Heard())
            release.set()
            assert (await running)["content"]
            await asyncio.sleep(0.05)
            assert server.gone.is_set()
            await servers.close()

    run(work)


# fingerprints


def tool(name: str, text: str = "") -> dict[str, Any]:
    return {"name": name, "description": text}


def test_order_and_spelling_of_json_make_no_difference_and_content_does() -> None:
    one = Announcement("up", "", tools=(tool("a"), tool("b")), prompts=(tool("a"),))
    other = Announcement(
        "up", "", info={"log": 1}, tools=({"description": "", "name": "b"}, tool("a")), prompts=(tool("a"),)
    )
    assert fingerprint(one) == fingerprint(other)
    assert difference(fingerprint(one), fingerprint(other)) == ""
    for changed in (
        Announcement("up", "", tools=(tool("a"), tool("b"))),
        Announcement("up", "", tools=(tool("a"), tool("b"), tool("b")), prompts=(tool("a"),)),
        Announcement("up", "", tools=(tool("a"), tool("b", "x")), prompts=(tool("a"),)),
        Announcement("up", "", instructions="x", tools=(tool("a"), tool("b")), prompts=(tool("a"),)),
    ):
        assert fingerprint(changed) != fingerprint(one)
        assert difference(fingerprint(one), fingerprint(changed))


def test_a_difference_is_safe_to_print_and_bounded() -> None:
    evil = Announcement("up", "", tools=tuple(tool(f"\x1b[2J{number}" + "A" * 10_000) for number in range(1000)))
    text = difference(fingerprint(Announcement("up", "")), fingerprint(evil))
    assert text.isprintable()
    assert len(text) < 2000
    assert text.endswith("and 995 more")
    odd = Announcement("up", "", tools=(None, 7, [], {"name": 3}, {"name": float("nan")}))
    assert len(fingerprint(odd)) == 5


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigFault):
        HttpUpstream("up", "http://far.example/mcp")
