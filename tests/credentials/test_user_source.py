"""What a call gets: the caller's own token at once, or the way to connect one, in the words of the client's era."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from mcp_types import ElicitationRequiredErrorData, ElicitRequestURLParams

from credentials.account_kit import ALICE, BASE, BROWSER, PROVIDER, URL, House
from limen.core.call import Approved, Call, Caller, Context, Era, Grant, Presented, Session, UpstreamCredential
from limen.core.faults import ConfigFault
from limen.core.verdict import Pass, Refusal, Refuse
from limen.credentials.discovery import Place
from limen.credentials.user_source import AGAIN, BELIEVED, UserSource, persons
from limen.gateway.connecting import KEY, told, without_ours
from limen.protocol.outbound import Reply, error_message

BOTH = {"elicitation": {"form": {}, "url": {}}}


def context(
    caller: Caller | None = None,
    era: Era = Era.MODERN,
    declared: Any = BOTH,
    revision: str = "",
    responses: bytes = b"",
) -> Context:
    spoken = revision or ("2026-07-28" if era is Era.MODERN else "2025-11-25")
    asked = Call(
        "tools/call", "notes", "notes", era, spoken, 7, "add",
        b"{}", capabilities=orjson.dumps(declared) if era is Era.MODERN else b"{}", input_responses=responses,
    )  # fmt: skip
    facts = (
        caller or Caller(PROVIDER, "alice", "client"),
        Session("s", capabilities=orjson.dumps(declared)),
        Approved("notes", "tool", "add", "d", b"{}"),
        Grant((), "p"),
    )
    return Context(asked, Presented((b"Bearer caller-canary",)), time.monotonic() + 60, "ref").having(facts)


def source_of(house: House, **more: Any) -> UserSource:
    return UserSource(
        house.place, house.grants, house.linking, persons(PROVIDER, BASE), now=lambda: house.clock, **more
    )


async def verdict(source: UserSource, asked: Context | None = None) -> Pass | Refuse:
    answer = source.credential(asked or context())
    found = answer if isinstance(answer, Pass | Refuse) else await answer
    assert isinstance(found, Pass | Refuse)
    return found


def headers(passed: Pass | Refuse) -> dict[str, str]:
    assert isinstance(passed, Pass), passed
    (fact,) = passed.facts
    assert isinstance(fact, UpstreamCredential)
    return dict(fact.headers)


def test_a_call_without_a_connection_is_told_where_to_connect_and_with_one_passes_b2(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        source = source_of(house)
        refused = await verdict(source)
        assert isinstance(refused, Refuse)
        assert refused.reason.id == "credentials.connect"
        assert refused.public["connect"].startswith(f"{BASE}/oauth/connect/notes?handle=")
        await house.connect()
        sent = headers(await verdict(source))
        assert list(sent) == ["authorization"]
        assert sent["authorization"].startswith("Bearer access-canary")
        assert isinstance(source.credential(context()), Pass)  # from memory, without waiting
        stranger = await verdict(source, context(Caller(PROVIDER, "bob", "client")))
        assert isinstance(stranger, Refuse)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("caller", "accepted"),
    [
        (Caller(PROVIDER, "alice", "client"), True),
        (Caller(BASE, "alice", "other client", claims=f'{{"idp":"{PROVIDER}"}}'), True),  # signed in through us
        (Caller(BASE, "alice", "client", claims='{"idp":"https://before.example"}'), False),  # when it was another
        (Caller(BASE, "alice", "client"), False),
        (Caller("https://other-idp.example", "alice", "client"), False),
        (Caller(PROVIDER, "alice", "client", machine=True), False),
        (Caller("local", "alice"), False),
    ],
)
@pytest.mark.requirement("ELI-04")
def test_accounts_belong_to_people_of_the_provider_eli04_eli12(tmp_path: Path, caller: Caller, accepted: bool) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        found = await verdict(source_of(house), context(caller))
        assert isinstance(found, Pass) is accepted
        assert accepted or (isinstance(found, Refuse) and found.reason.id == "credentials.person")

    asyncio.run(run())


def test_configured_headers_go_along_and_never_two_of_one_name(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        fixed = [("X-Api-Key", "k"), ("authorization", "Bearer for-reading-only")]
        sent = headers(await verdict(source_of(house, fixed=fixed)))
        assert sent["x-api-key"] == "k"
        assert "canary" in sent["authorization"]
        named = headers(await verdict(source_of(house, header="X-Token")))
        assert named["x-token"].startswith("access-canary")

    asyncio.run(run())


def test_a_token_that_would_start_another_header_is_never_sent(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        source = source_of(house)
        with pytest.raises(ConfigFault):
            source._headers("a\r\nx-admin: 1")

    asyncio.run(run())


def test_the_end_of_a_connection_is_noticed_within_a_second(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        source = source_of(house)
        await house.connect()
        assert isinstance(await verdict(source), Pass)
        connection = await house.grants.find(ALICE, "notes")
        assert connection is not None
        await house.grants.end(connection.id, "test")
        await asyncio.sleep(BELIEVED + 0.05)
        assert isinstance(await verdict(source), Refuse)
        await house.connect()
        assert isinstance(await verdict(source), Pass)
        source.forget(Caller(PROVIDER, "alice"))
        looking = source.credential(context())
        assert not isinstance(looking, Pass | Refuse)
        assert isinstance(await looking, Pass)

    asyncio.run(run())


def test_a_calling_loop_makes_one_link_and_not_one_each(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        source = source_of(house)
        refused = [await verdict(source) for _ in range(20)]
        assert len({one.public["connect"] for one in refused if isinstance(one, Refuse)}) == 1
        assert len(list(house.tables["oauth"].scan("connect/"))) == 1

    asyncio.run(run())


async def stepped(house: House, source: UserSource) -> None:
    """The person follows the link of the refusal."""
    refused = await verdict(source)
    assert isinstance(refused, Refuse)
    assert refused.reason.id == "credentials.connect", refused
    handle = refused.public["connect"].partition("handle=")[2]
    id = house.linking.opened("notes", handle)
    assert isinstance(id, str)
    shown = await house.linking.recognised(id, ALICE.issuer, ALICE.subject, "", BROWSER)
    assert not isinstance(shown, Refuse)
    url = await house.linking.approved("notes", shown.id, shown.token, BROWSER)
    assert isinstance(url, str)
    house.world.scope = "read write"
    await house.linking.finished(house.world.authorize(url), BROWSER)


@pytest.mark.requirement("CLI-20", "OA-95")
def test_missing_scopes_are_asked_for_once_with_what_was_granted_oa95_cli20(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        source = source_of(house)
        await house.connect()
        alice = Caller(PROVIDER, "alice", "client")
        assert isinstance(await verdict(source), Pass)
        source.rejected(alice, 403, 'Bearer error="insufficient_scope", scope="write"')
        await stepped(house, source)
        asked = house.world.forms[-1]
        assert asked["grant_type"] == "authorization_code"
        connection = await house.grants.find(ALICE, "notes")
        assert connection is not None
        assert connection.asked == ("read", "write")
        assert isinstance(await verdict(source), Pass)  # the honest twin
        # A server that is never satisfied: refused, and nobody is sent round again.
        source.rejected(alice, 403, 'Bearer error="insufficient_scope", scope="write admin"')
        refused = await verdict(source)
        assert isinstance(refused, Refuse)
        assert refused.reason.id == "credentials.refused"

    asyncio.run(run())


@pytest.mark.requirement("OA-33")
def test_an_operators_scopes_are_the_whole_of_it_oa33(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path, place=Place("notes", URL, scopes=("read",)))
        source = source_of(house)
        await house.connect()
        assert isinstance(await verdict(source), Pass)
        source.rejected(Caller(PROVIDER, "alice"), 403, 'Bearer error="insufficient_scope", scope="admin"')
        refused = await verdict(source)
        assert isinstance(refused, Refuse)
        assert refused.reason.id == "credentials.refused"

    asyncio.run(run())


@pytest.mark.requirement("OA-95")
def test_a_token_that_is_not_taken_is_renewed_then_asked_for_then_left_alone_oa95(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        source, alice = source_of(house), Caller(PROVIDER, "alice")
        await house.connect()

        async def refused() -> str:
            token = headers(await verdict(source))["authorization"]
            source.rejected(alice, 401, 'Bearer error="invalid_token"')
            return token

        assert await refused() != await refused()  # renewed, once
        await stepped(house, source)  # not taken either: the person is asked once more
        assert house.named("disconnected")
        for _ in range(10):
            await refused()
        asked = [form["grant_type"] for form in house.world.forms]
        assert asked.count("refresh_token") == 2
        assert asked.count("authorization_code") == 2
        house.clock += AGAIN + 1
        assert await refused() != await refused()

    asyncio.run(run())


def test_a_token_that_expired_at_the_server_is_renewed_and_that_is_all(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        source = source_of(house)
        await house.connect()
        first = headers(await verdict(source))
        source.rejected(Caller(PROVIDER, "alice"), 401, "")
        second = headers(await verdict(source))
        assert second != first
        assert headers(await verdict(source)) == second

    asyncio.run(run())


def test_other_rejections_change_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        source = source_of(house)
        await house.connect()
        await verdict(source)
        for status, challenge in ((403, ""), (403, 'Bearer error="insufficient_scope"'), (404, "")):
            source.rejected(Caller(PROVIDER, "alice"), status, challenge)
            assert isinstance(await verdict(source), Pass)
        source.rejected(Caller(PROVIDER, "never seen"), 401, "")
        assert len(house.world.forms) == 1

    asyncio.run(run())


def said(refused: Refuse, asked: Context) -> Any:
    refusal = Refusal(refused.reason, "ref", "AttachCredential", refused.detail, refused.public)
    answer = told(asked.call, refusal, {"name": "limen"})
    return orjson.loads(answer.body) if isinstance(answer, Reply) else orjson.loads(error_message(answer, 7))


@pytest.mark.parametrize(
    ("asked", "shape"),
    [
        (context(), "input_required"),
        (context(era=Era.HANDSHAKE), -32042),
        (context(declared={}), 403),
        (context(declared={"elicitation": {}}), 403),
        (context(declared={"elicitation": {"form": {}}}), 403),
        (context(declared={"elicitation": {"url": True}}), 403),
        (context(era=Era.HANDSHAKE, declared={"elicitation": {}}), 403),
        (context(era=Era.HANDSHAKE, revision="2025-06-18"), 403),
    ],
)
@pytest.mark.requirement("ELI-02", "ELI-08")
def test_each_era_is_told_in_its_own_words_eli02_eli03_eli15(tmp_path: Path, asked: Context, shape: Any) -> None:
    async def run() -> None:
        house = House(tmp_path)
        refused = await verdict(source_of(house), asked)
        assert isinstance(refused, Refuse)
        url, message = refused.public["connect"], said(refused, asked)
        assert message["id"] == 7
        if shape == "input_required":
            request = message["result"]["inputRequests"][KEY]
            assert message["result"]["resultType"] == shape
            assert request["method"] == "elicitation/create"
            assert set(request["params"]) == {"mode", "message", "url"}  # no elicitationId in 2026-07-28
            assert ElicitRequestURLParams.model_validate(request["params"]).url == url
        elif shape == -32042:
            assert message["error"]["code"] == shape
            data = ElicitationRequiredErrorData.model_validate(message["error"]["data"])
            assert data.elicitations[0].url == url
            assert data.elicitations[0].elicitation_id
        else:
            assert message["error"]["code"] == shape
            assert message["error"]["data"]["connect"] == url
        # ELI-08: the URL tells nothing about anybody
        assert "alice" not in url

    asyncio.run(run())


def test_what_a_client_answers_us_is_not_passed_on_to_the_server() -> None:
    ours, theirs = {"action": "accept"}, {"action": "accept", "content": {"a": 1}}
    assert without_ours(orjson.dumps({KEY: ours})) == b""
    assert orjson.loads(without_ours(orjson.dumps({KEY: ours, "q": theirs}))) == {"q": theirs}
    kept = orjson.dumps({"q": theirs})
    assert without_ours(kept) is kept
