"""Attacks on connecting an account at a server behind us: mix-up, phishing, replay, wrong browsers, lying servers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from credentials.account_kit import ALICE, BASE, BOB, BROWSER, ISSUER, URL, House, World, reply
from limen.core.faults import DependencyFault
from limen.core.verdict import Refuse
from limen.credentials.discovery import Place
from limen.credentials.linking import Made, Shown
from limen.credentials.upstream_client import Identity

OTHER = "0" * 64


def refused(answer: object, reason: str) -> None:
    assert isinstance(answer, Refuse), answer
    assert answer.reason.id == f"credentials.{reason}"


def linked(house: House) -> bool:
    return any(house.tables["vault"].scan("connection/"))


@pytest.mark.parametrize(
    "iss", [f"{ISSUER}/", "https://AS.example", "https://evil.example", "https://as.example:443", "", None]
)
@pytest.mark.requirement("CLI-06", "CLI-07", "OA-28")
def test_mix_up_by_issuer_oa28_cli06_cli07(tmp_path: Path, iss: str | None) -> None:
    async def run() -> None:
        house = House(tmp_path)
        answer = house.world.authorize(await house.way())
        if iss is None:
            del answer["iss"]
        else:
            answer["iss"] = iss
        refused(await house.linking.finished(answer, BROWSER), "link")
        assert house.world.forms == []  # the code went nowhere
        assert not linked(house)
        assert house.named("connect_mix_up")

    asyncio.run(run())


@pytest.mark.requirement("OA-28")
def test_issuer_that_is_not_announced_may_be_missing_and_may_not_be_wrong_oa28(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        quiet = house.world.metadata(authorization_response_iss_parameter_supported=None)
        house.world.documents[f"{ISSUER}/.well-known/oauth-authorization-server"] = reply(quiet)
        wrong = house.world.authorize(await house.way())
        refused(await house.linking.finished({**wrong, "iss": "https://evil.example"}, BROWSER), "link")
        fine = house.world.authorize(await house.way())
        del fine["iss"]
        assert isinstance(await house.linking.finished(fine, BROWSER), Made)

    asyncio.run(run())


@pytest.mark.requirement("CLI-08")
def test_errors_of_another_issuer_are_not_acted_on_cli08(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        state = house.world.authorize(await house.way())["state"]
        answer = {"state": state, "error": "access_denied", "error_description": "<script>", "iss": "https://evil"}
        found = await house.linking.finished(answer, BROWSER)
        refused(found, "link")
        assert isinstance(found, Refuse)
        assert "script" not in found.detail

    asyncio.run(run())


@pytest.mark.requirement("OA-30")
def test_the_code_goes_to_the_token_endpoint_of_the_record_oa30(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        answer = house.world.authorize(await house.way())
        # Meanwhile the server's metadata names another token endpoint of the same host.
        swapped = house.world.metadata(token_endpoint=f"{ISSUER}/evil")
        house.world.documents[f"{ISSUER}/.well-known/oauth-authorization-server"] = reply(swapped)
        house.clock += 301
        made = await house.linking.finished({**answer, "token_endpoint": "https://evil.example"}, BROWSER)
        assert isinstance(made, Made)
        assert [form["endpoint"] for form in house.world.forms] == [f"{ISSUER}/token"]

    asyncio.run(run())


@pytest.mark.requirement("OA-29")
def test_an_error_and_a_code_together_oa29(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        answer = house.world.authorize(await house.way())
        refused(await house.linking.finished({**answer, "error": "access_denied"}, BROWSER), "link")
        assert house.world.forms == []
        denied = house.world.authorize(await house.way())
        del denied["code"]
        refused(await house.linking.finished({**denied, "error": "access_denied"}, BROWSER), "declined")

    asyncio.run(run())


@pytest.mark.parametrize("state", ["", "x", None])
@pytest.mark.requirement("CLI-12")
def test_state_is_exact_cli12(tmp_path: Path, state: str | None) -> None:
    async def run() -> None:
        house = House(tmp_path)
        answer = house.world.authorize(await house.way())
        changed = {name: value for name, value in {**answer, "state": state}.items() if value is not None}
        refused(await house.linking.finished(changed, BROWSER), "link")
        cut = {**answer, "state": answer["state"][:-1]}
        refused(await house.linking.finished(cut, BROWSER), "link")
        assert isinstance(await house.linking.finished(answer, BROWSER), Made)

    asyncio.run(run())


@pytest.mark.requirement("OA-10")
def test_twenty_answers_at_once_are_one_connection_oa10(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        answer = house.world.authorize(await house.way())
        made = await asyncio.gather(*(house.linking.finished(answer, BROWSER) for _ in range(20)))
        assert sum(isinstance(one, Made) for one in made) == 1
        assert len(house.world.forms) == 1

    asyncio.run(run())


@pytest.mark.requirement("OA-02")
def test_the_answer_in_another_browser_burns_it_oa02(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        for browser in (OTHER, ""):
            answer = house.world.authorize(await house.way())
            refused(await house.linking.finished(answer, browser), "stranger")
            refused(await house.linking.finished(answer, BROWSER), "link")
        assert not linked(house)
        assert house.world.forms == []

    asyncio.run(run())


@pytest.mark.requirement("ELI-10", "OA-02")
def test_a_link_sent_to_somebody_else_links_nothing_eli10_oa02(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        _, url = house.linking.offer(ALICE, "notes", ())
        handle = parse_qs(urlsplit(url).query)["handle"][0]
        id = house.linking.opened("notes", handle)
        assert isinstance(id, str)
        refused(await house.linking.recognised(id, BOB.issuer, BOB.subject, "Bob", BROWSER), "stranger")
        refused(house.linking.opened("notes", handle), "link")  # and Alice's link is gone
        assert house.named("connect_by_another")[0]["came_sub"] == "bob"
        same_subject = await house.shown(by=type(ALICE)("https://other-idp.example", "alice"))
        refused(same_subject, "stranger")
        assert isinstance(await house.shown(), Shown)  # the honest twin

    asyncio.run(run())


@pytest.mark.requirement("OA-25")
def test_a_handle_is_for_its_server_and_known_whole_oa25(tmp_path: Path) -> None:
    house = House(tmp_path)
    _, url = house.linking.offer(ALICE, "notes", ())
    handle = parse_qs(urlsplit(url).query)["handle"][0]
    for server, text in (("other", handle), ("notes", handle[:-1]), ("notes", ""), ("notes", handle + "x")):
        refused(house.linking.opened(server, text), "link")
    assert len(handle) >= 43
    assert handle.encode() not in house.everything()
    assert isinstance(house.linking.opened("notes", handle), str)


@pytest.mark.requirement("OA-03", "OA-25")
def test_no_click_without_the_page_and_its_browser_oa03_oa25(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        shown = await house.shown()
        assert isinstance(shown, Shown)
        for token, browser in (("", BROWSER), ("x" * 43, BROWSER), (shown.token, OTHER), (shown.token, "")):
            refused(await house.linking.approved("notes", shown.id, token, browser), "stranger")
        refused(await house.linking.approved("other", shown.id, shown.token, BROWSER), "link")
        refused(await house.linking.declined("notes", shown.id, "x", BROWSER), "stranger")
        urls = await asyncio.gather(
            *(house.linking.approved("notes", shown.id, shown.token, BROWSER) for _ in range(20))
        )
        assert sum(isinstance(url, str) for url in urls) == 1  # used up by the first click

    asyncio.run(run())


@pytest.mark.requirement("OA-01")
def test_nobody_clicks_before_the_sign_in_oa01(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        _, url = house.linking.offer(ALICE, "notes", ())
        id = house.linking.opened("notes", parse_qs(urlsplit(url).query)["handle"][0])
        assert isinstance(id, str)
        refused(await house.linking.approved("notes", id, "", BROWSER), "link")
        refused(await house.linking.approved("notes", id, "", ""), "link")
        assert not list(house.tables["oauth"].scan("connecting/"))

    asyncio.run(run())


def test_saying_no_ends_it(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        shown = await house.shown()
        assert isinstance(shown, Shown)
        refused(await house.linking.declined("notes", shown.id, shown.token, BROWSER), "declined")
        refused(await house.linking.approved("notes", shown.id, shown.token, BROWSER), "link")

    asyncio.run(run())


@pytest.mark.requirement("CLI-05", "CLI-09", "CLI-13")
def test_each_way_has_its_own_state_and_verifier_and_says_the_resource_cli05_cli09(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        asked = [parse_qs(urlsplit(await house.way()).query) for _ in range(2)]
        for name in ("state", "code_challenge"):
            assert asked[0][name] != asked[1][name]
        assert asked[0]["resource"] == [URL]
        assert asked[0]["code_challenge_method"] == ["S256"]
        assert asked[0]["redirect_uri"] == [f"{BASE}/oauth/connected"]
        assert asked[0]["client_id"] == [f"{BASE}/oauth/client"]
        assert asked[0]["state"][0].encode() not in house.everything()

    asyncio.run(run())


@pytest.mark.requirement("CLI-14", "CLI-16", "OA-87")
def test_what_is_registered_at_one_is_not_used_at_another_oa87_cli14(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)

        def without_documents(issuer: str) -> None:
            told = {f"{name}_endpoint": f"{issuer}/{name}" for name in ("token", "register", "revoke")}
            told["authorization_endpoint"], told["registration_endpoint"] = (
                f"{issuer}/authorize",
                told.pop("register_endpoint"),
            )
            metadata = house.world.metadata(issuer=issuer, client_id_metadata_document_supported=None, **told)
            metadata.pop("revocation_endpoint")
            metadata.pop("revoke_endpoint")
            house.world.documents[f"{issuer}/.well-known/oauth-authorization-server"] = reply(metadata)

        without_documents(ISSUER)
        first = parse_qs(urlsplit(await house.way()).query)["client_id"]
        again = parse_qs(urlsplit(await house.way()).query)["client_id"]
        assert first == again == ["client-1"]
        assert house.world.registered[0]["application_type"] == "web"  # CLI-16
        assert house.world.registered[0]["redirect_uris"] == [f"{BASE}/oauth/connected"]

        without_documents("https://second.example")
        prm = "https://mcp.example/.well-known/oauth-protected-resource/tools/mcp"
        house.world.documents[prm] = reply(house.world.resource(authorization_servers=["https://second.example"]))
        place = Place("notes", URL, issuer="https://second.example")
        other = House(tmp_path, house.world, place)
        assert parse_qs(urlsplit(await other.way()).query)["client_id"] == ["client-2"]

    asyncio.run(run())


@pytest.mark.requirement("CLI-18")
def test_what_an_operator_wrote_down_goes_first_and_nobody_invents_a_client_cli18(tmp_path: Path) -> None:
    async def run() -> None:
        configured = House(tmp_path, client=Identity("ours", "client_secret_post", "s"))
        assert parse_qs(urlsplit(await configured.way()).query)["client_id"] == ["ours"]
        house = House(tmp_path)
        told = house.world.metadata(client_id_metadata_document_supported=None, registration_endpoint=None)
        house.world.documents[f"{ISSUER}/.well-known/oauth-authorization-server"] = reply(told)
        shown = await house.shown()
        assert isinstance(shown, Shown)
        with pytest.raises(DependencyFault, match="client"):
            await house.linking.approved("notes", shown.id, shown.token, BROWSER)
        # Nothing was used up: the same page works once the server does.
        house.world.documents.clear()
        house.clock += 301
        assert isinstance(await house.linking.approved("notes", shown.id, shown.token, BROWSER), str)

    asyncio.run(run())


@pytest.mark.parametrize(
    "token",
    [
        {"access_token": "a b", "token_type": "Bearer"},
        {"access_token": "a\r\nx-admin: 1", "token_type": "Bearer"},
        {"access_token": "", "token_type": "Bearer"},
        {"access_token": 7, "token_type": "Bearer"},
        {"access_token": "a", "token_type": "DPoP"},
        {"access_token": "a"},
        {"access_token": "a", "token_type": "Bearer", "refresh_token": {"x": 1}},
        [],
    ],
)
def test_tokens_that_cannot_be_sent_are_not_kept(tmp_path: Path, token: object) -> None:
    async def run() -> None:
        world = World()
        house = House(tmp_path, world)
        answer = world.authorize(await house.way())
        world.documents[f"{ISSUER}/token"] = reply(token)
        with pytest.raises(DependencyFault):
            await house.linking.finished(answer, BROWSER)
        assert not linked(house)

    asyncio.run(run())


def test_a_server_that_asks_for_ever_new_scopes_leaves_one_link(tmp_path: Path) -> None:
    house = House(tmp_path)
    urls = [house.linking.offer(ALICE, "notes", (f"scope-{number}",))[1] for number in range(20)]
    assert len(set(urls)) == 20
    assert len(list(house.tables["oauth"].scan("connect/"))) == 1
    assert isinstance(house.linking.opened("notes", urls[-1].partition("handle=")[2]), str)


def test_an_error_with_status_200_is_an_error(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        answer = house.world.authorize(await house.way())
        house.world.documents[f"{ISSUER}/token"] = reply({"error": "bad_verification_code"})
        refused(await house.linking.finished(answer, BROWSER), "unusable")

    asyncio.run(run())


def test_a_client_that_is_not_known_any_more_is_registered_anew(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        told = house.world.metadata(client_id_metadata_document_supported=None)
        house.world.documents[f"{ISSUER}/.well-known/oauth-authorization-server"] = reply(told)
        answer = house.world.authorize(await house.way())
        house.world.refuse = "invalid_client"
        refused(await house.linking.finished(answer, BROWSER), "unusable")
        house.world.refuse = ""
        await house.connect()
        assert len(house.world.registered) == 2

    asyncio.run(run())
