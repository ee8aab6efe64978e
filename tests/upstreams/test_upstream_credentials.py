"""Credentials that change from call to call: sessions outlive them, nothing goes to another place, and a 401 is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from limen.core.call import UpstreamCredential
from limen.core.faults import DependencyFault, UpstreamError, UpstreamFault
from limen.gateway.upstreams import HttpUpstream
from upstreams.minted import Heard, permit
from upstreams.raw_server import Asked, RawServer, echo


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def calling(upstream: HttpUpstream, token: str, **more: Any) -> Any:
    return await upstream.forward(await permit(headers=bearer(token), **more), Heard())


@pytest.mark.parametrize("kept", ["s", None])
def test_a_session_goes_on_with_the_renewed_credential_of_its_account(kept: str | None) -> None:
    async def scenario() -> None:
        async with RawServer(echo, modern=False, session=kept) as server:
            upstream = HttpUpstream("up", server.url)
            for token in ("one", "two", "three"):
                await calling(upstream, token, account="exchange\nalice")
            sent = [asked for asked in server.asked if asked.method == "tools/call"]
            assert [asked.header("authorization") for asked in sent] == ["Bearer one", "Bearer two", "Bearer three"]
            assert server.methods().count("initialize") == 1
            assert len({asked.header("mcp-session-id") for asked in sent}) == 1
            await upstream.close()
            if kept:
                assert server.asked[-1].verb == "DELETE"
                assert server.asked[-1].header("authorization") == "Bearer three"

    asyncio.run(scenario())


@pytest.mark.parametrize("kept", ["s", None])
def test_another_account_gets_a_session_of_its_own(kept: str | None) -> None:
    async def scenario() -> None:
        async with RawServer(echo, modern=False, session=kept) as server:
            upstream = HttpUpstream("up", server.url)
            await calling(upstream, "one", account="exchange\nalice")
            await calling(upstream, "two", account="exchange\nbob", subject="bob")
            await calling(upstream, "three", account="minted\nalice")  # the same caller, configured otherwise
            assert server.methods().count("initialize") == 3
            first = [asked.header("authorization") for asked in server.asked if asked.method == "initialize"]
            assert first == ["Bearer one", "Bearer two", "Bearer three"]
            await upstream.close()

    asyncio.run(scenario())


def test_calls_of_one_session_at_once_each_carry_their_own_token_b7() -> None:
    async def scenario() -> None:
        arrived = asyncio.Event()

        async def slow(asked: Asked) -> None:
            if asked.header("authorization") == "Bearer one":
                arrived.set()
                await asyncio.sleep(0.1)
            await echo(asked)

        async with RawServer(slow, modern=False, session="s") as server:
            upstream = HttpUpstream("up", server.url)
            first = asyncio.ensure_future(calling(upstream, "one", account="minted\nalice"))
            await arrived.wait()
            await calling(upstream, "two", account="minted\nalice")
            await first
            sent = [asked.header("authorization") for asked in server.asked if asked.method == "tools/call"]
            assert sent == ["Bearer one", "Bearer two"]
            await upstream.close()

    asyncio.run(scenario())


def test_a_token_for_one_place_is_not_sent_to_another_b1() -> None:
    async def scenario() -> None:
        async with RawServer(echo) as server:
            upstream = HttpUpstream("up", server.url)
            with pytest.raises(UpstreamFault, match="configured anew"):
                await calling(upstream, "canary", place="https://before.example/mcp")
            assert b"canary" not in server.raw
            assert not server.asked
            await calling(upstream, "right", place=server.url)
            await upstream.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("status", "body"),
    [(401, {"error": "invalid_token"}), (401, {"jsonrpc": "2.0", "id": None, "error": {"code": 401, "message": "no"}}),
     (403, {"error": "insufficient_scope"})],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("modern", [True, False])
def test_what_a_server_says_of_the_credential_is_told(status: int, body: Any, modern: bool) -> None:
    async def scenario() -> None:
        async def refuse(asked: Asked) -> None:
            lines = ('www-authenticate: Bearer error="invalid_token", scope="files"', "www-authenticate: Basic")
            await asked.reply(body, status, *lines)

        async with RawServer(refuse, modern=modern, session="s") as server:
            upstream = HttpUpstream("up", server.url)
            with pytest.raises(UpstreamFault) as caught:
                await calling(upstream, "one")
            assert caught.value.status == status
            assert caught.value.challenge == 'Bearer error="invalid_token", scope="files"'
            assert server.methods().count("tools/call") == 1  # never sent twice
            await upstream.close()

    asyncio.run(scenario())


def test_a_refusal_by_the_server_in_its_own_words_stays_one() -> None:
    async def scenario() -> None:
        async with RawServer(lambda asked: asked.error(403, 403)) as server:
            upstream = HttpUpstream("up", server.url)
            with pytest.raises(UpstreamError):
                await calling(upstream, "one")
            await upstream.close()

    asyncio.run(scenario())


def test_one_callers_bad_token_does_not_settle_the_era_for_all() -> None:
    async def scenario() -> None:
        async def guarded(asked: Asked) -> bool:
            if asked.header("authorization") != "Bearer good":
                await asked.reply({"error": "invalid_token"}, 401)
                return True
            return await RawServer.protocol(server, asked)

        async with RawServer(echo) as server:
            server.protocol = guarded  # type: ignore[method-assign]
            upstream = HttpUpstream("up", server.url)
            with pytest.raises(UpstreamFault):
                await calling(upstream, "bad")
            assert upstream.revision == ""
            await calling(upstream, "good")
            assert upstream.revision == "2026-07-28"
            await upstream.close()

    asyncio.run(scenario())


def test_it_is_read_with_a_credential_of_our_own() -> None:
    async def scenario() -> None:
        async with RawServer(echo) as server:
            upstream = HttpUpstream("up", server.url, describe_headers=(("x-key", "k"),))
            tokens = iter(["first", "second"])

            async def own() -> UpstreamCredential:
                return UpstreamCredential((("x-key", "k"), *bearer(next(tokens))), "own", "own", server.url)

            upstream.own_credential = own
            await upstream.describe()
            await upstream.describe()
            seen = {(asked.header("authorization"), asked.header("x-key")) for asked in server.asked}
            assert seen == {("Bearer first", "k"), ("Bearer second", "k")}

            async def down() -> UpstreamCredential:
                raise DependencyFault("credentials", "no answer")

            upstream.own_credential = down
            count = len(server.asked)
            with pytest.raises(UpstreamFault, match="no credential"):
                await upstream.describe()
            with pytest.raises(UpstreamFault, match="no credential"):
                await upstream.listen(lambda: None)
            assert len(server.asked) == count
            await upstream.close()

    asyncio.run(scenario())
