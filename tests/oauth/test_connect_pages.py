"""The pages of connecting an account, as a browser sees them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlencode

import orjson
import pytest

from credentials.account_kit import ALICE, BASE, BOB, House
from limen.oauth.web import Reply, Visit
from oauth.connect_desk import Browser, Site, onward


def link(house: House) -> str:
    return house.linking.offer(ALICE, "notes", ())[1]


async def asked(browser: Browser) -> Reply:
    return await browser.sign_in(await browser.open(link(browser.site.house)), ALICE)


def test_from_the_link_to_the_connection_eli10(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        browser = Browser(Site(house))
        opened = await browser.open(link(house))
        assert opened.status == 302
        assert dict(opened.headers)["location"].startswith("https://idp.example/")  # signing in comes first
        page = await browser.sign_in(opened, ALICE)
        assert page.status == 200
        assert b"as.example" in page.body
        assert b"<code>read</code>" in page.body
        left = await browser.click(page, sec_fetch_site="same-origin", origin=BASE)
        done = await browser.back(f"{BASE}/oauth/connected?{urlencode(house.world.authorize(onward(left)))}")
        assert done.status == 200
        assert b"Connected" in done.body
        assert await house.grants.held(ALICE, "notes") is not None
        steps = [(leg, outcome) for leg, outcome, _ in browser.site.notes.steps]
        assert steps == [("connect", "ok")] * 3
        assert "canary" not in str(browser.site.notes.steps)

    asyncio.run(run())


def test_opening_the_link_starts_nothing_and_uses_nothing_up(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        url = link(house)
        for _ in range(3):
            await Browser(Site(house)).open(url)  # a preview, a scanner, a second tab
        assert not [asked for asked in house.world.asked if "authorize" in asked]
        assert not list(house.tables["oauth"].scan("connecting/"))
        browser = Browser(Site(house))
        assert (await browser.sign_in(await browser.open(url), ALICE)).status == 200

    asyncio.run(run())


@pytest.mark.requirement("ELI-10")
def test_somebody_else_sees_no_page_eli10(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        browser = Browser(Site(house))
        page = await browser.sign_in(await browser.open(link(house)), BOB)
        assert page.status == 403
        assert b"alice" not in page.body.lower()
        assert browser.site.notes.steps[-1][1] == "credentials.stranger"

    asyncio.run(run())


@pytest.mark.requirement("OA-03", "OA-94")
@pytest.mark.parametrize(
    "headers",
    [{"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"}, {"origin": "https://evil.example"},
     {"origin": "null"}],
)  # fmt: skip
def test_a_click_from_another_site_oa03(tmp_path: Path, headers: dict[str, str]) -> None:
    async def run() -> None:
        house = House(tmp_path)
        browser = Browser(Site(house))
        page = await asked(browser)
        assert (await browser.click(page, **headers)).status == 403
        assert (await browser.click(page, sec_fetch_site="same-origin", origin=BASE)).status == 200

    asyncio.run(run())


@pytest.mark.requirement("OA-03", "OA-06")
def test_a_form_in_another_browser_or_sent_twice_oa03_oa06(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        browser = Browser(Site(house))
        page = await asked(browser)
        other = Browser(browser.site)
        assert (await other.click(page)).status == 403
        await other.open(link(house))  # it has a cookie of its own now
        assert (await other.click(page)).status == 403
        assert (await browser.click(page)).status == 200
        assert (await browser.click(page)).status == 400

    asyncio.run(run())


@pytest.mark.requirement("CLI-27", "OA-07")
def test_the_page_says_no_as_easily_and_is_never_framed_oa07(tmp_path: Path) -> None:
    async def run() -> None:
        browser = Browser(Site(House(tmp_path)))
        page = await asked(browser)
        headers = dict(page.all_headers)
        policy = headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "default-src 'none'" in policy
        assert "script" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert b"<script" not in page.body
        assert (await browser.click(page, "deny")).status == 403
        assert (await browser.click(page)).status == 400

    asyncio.run(run())


@pytest.mark.requirement("OA-08", "OA-89")
def test_texts_of_strangers_are_texts_oa08_oa89(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        house.world.challenge = 'Bearer scope="<script>alert(1)</script>"'
        browser = Browser(Site(house))
        page = await browser.sign_in(await browser.open(link(house)), ALICE, '"><img src=x onerror=1>\u202e')
        assert b"<script" not in page.body
        assert b"<img" not in page.body
        assert b"&lt;script&gt;" in page.body
        left = await browser.click(page)
        state = house.world.authorize(onward(left))["state"]
        answer = {"state": state, "error": "access_denied", "iss": house.world.issuer,
                  "error_description": "<script>alert(1)</script>", "error_uri": "javascript:alert(1)"}  # fmt: skip
        shown = await browser.back(f"{BASE}/oauth/connected?{urlencode(answer)}")
        assert shown.status == 403
        assert b"script" not in shown.body

    asyncio.run(run())


@pytest.mark.requirement("OA-29")
@pytest.mark.parametrize("query", ["state=a&state=b", "state=%00", "state=a&code=b&code=c", "", "x=1"])
def test_answers_with_two_readings_oa29(tmp_path: Path, query: str) -> None:
    async def run() -> None:
        browser = Browser(Site(House(tmp_path)))
        assert (await browser.back(f"{BASE}/oauth/connected?{query}")).status == 400

    asyncio.run(run())


def test_trouble_at_the_server_is_for_the_operator(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        browser = Browser(Site(house))
        opened = await browser.open(link(house))
        house.world.down = True
        page = await browser.sign_in(opened, ALICE)
        assert page.status == 502
        assert b"down" not in page.body
        assert "down" in browser.site.notes.steps[-1][2]["detail"]

    asyncio.run(run())


def test_other_methods_and_plain_http(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        pages = Site(house).pages
        assert (await pages.page(Visit("PUT", "/oauth/connect/notes"))).status == 405
        assert (await pages.connected(Visit("POST", "/oauth/connected"))).status == 405
        query = link(house).partition("?")[2]
        plain = Visit("GET", "/oauth/connect/notes", query, secure=False)
        assert (await pages.page(plain)).status == 400

    asyncio.run(run())


@pytest.mark.requirement("CLI-17")
def test_our_own_metadata_document_cli17(tmp_path: Path) -> None:
    async def run() -> None:
        reply = await Site(House(tmp_path)).pages.document(Visit("GET", "/oauth/client"))
        document = orjson.loads(reply.body)
        assert document["client_id"] == f"{BASE}/oauth/client"
        assert document["redirect_uris"] == [f"{BASE}/oauth/connected"]
        assert document["client_name"]
        assert "client_secret" not in document
        assert document["token_endpoint_auth_method"] == "none"

    asyncio.run(run())


@pytest.mark.requirement("OA-88")
def test_who_has_a_link_fills_no_table_with_it_oa88(tmp_path: Path) -> None:
    """OA-88: a link can be opened again and again, and not without end."""

    async def run() -> list[int]:
        house = House(tmp_path)
        site, url = Site(house), link(house)
        return [(await Browser(site).open(url)).status for _ in range(310)]

    statuses = asyncio.run(run())
    assert statuses[:300] == [302] * 300
    assert set(statuses[305:]) == {429}
