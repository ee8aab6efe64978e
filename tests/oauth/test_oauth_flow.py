"""The way of a person from a client's request to its code, and what must not happen on it."""

from __future__ import annotations

import re
from base64 import b64encode
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limen.core.ports import Quota
from limen.oauth.web import Reply, Visit
from oauth.ways import CALLBACK, FINANCE, GATEWAY, HR, Answer, World, app, request


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_honest_person_brings_the_client_a_code(world: World) -> None:
    browser = world.browser()
    page = browser.ask(scope="hr:read hr:write")
    assert page.status == 200 and "hr:write" in page.text
    onward = browser.allow(page, "hr:read hr:write")
    assert urlsplit(onward).netloc == "id.example"
    answer = browser.open(world.idp.authorize(onward))
    assert answer.status == 302 and answer.location.startswith(f"{CALLBACK}?")
    assert {name: answer.query[name] for name in ("state", "iss")} == {"state": "client-state", "iss": GATEWAY}
    asked, user, consent = world.neighbours.codes[answer.query["code"]]
    assert (asked.client, asked.resource, asked.route, asked.redirect_uri) == ("app", HR, "hr", CALLBACK)
    assert asked.scopes == ("hr:read", "hr:write") and consent == "consent-1"
    assert (user.issuer, user.subject, user.name) == ("https://id.example", "alice", "Alice")
    assert (user.groups, user.amr, user.acr) == (("staff",), ("pwd",), "1") and user.auth_time
    assert world.rows("") == [] and list(browser.jar) == ["__Host-limen-browser"]  # nothing of it is left
    assert [note["leg"] for note in world.neighbours.noted] == ["authorize", "provider", "callback", "code"]


@pytest.mark.requirement("OA-09")
def test_scopes_a_person_left_out_are_not_granted_and_none_can_be_put_in(world: World) -> None:
    """OA-09: what was asked is frozen when it is judged."""
    browser = world.browser()
    page = browser.ask(scope="hr:read hr:write")
    answer = browser.open(world.idp.authorize(browser.allow(page, "hr:write")))
    assert world.neighbours.codes[answer.query["code"]][0].scopes == ("hr:write",)
    widened = browser.answer(browser.ask(scope="hr:read"), "allow", "hr:read hr:write")
    assert widened.status == 400 and not widened.link


def test_a_person_who_says_no_is_heard(world: World) -> None:
    browser = world.browser()
    answer = browser.answer(browser.ask(), "deny")
    assert answer.query == {"error": "access_denied", "state": "client-state", "iss": GATEWAY}
    assert world.rows("") == [] and not world.idp.gets


def test_double_click_and_back_button_do_no_harm(world: World) -> None:
    """The last answer of the same browser counts, and the way that began with an earlier one is over."""
    browser = world.browser()
    page = browser.ask()
    first, second = browser.allow(page), browser.allow(page)
    assert len(world.rows("state/")) == 2
    stale = browser.open(world.idp.authorize(first))
    assert stale.status == 400 and "another tab" in stale.text and not world.neighbours.codes
    assert "code" in browser.open(world.idp.authorize(second)).query
    again = browser.answer(page, "allow")
    assert again.status == 400 and "Start again" in again.text
    assert browser.answer(page, "deny").status == 400


def test_saying_no_after_the_back_button_ends_it(world: World) -> None:
    browser = world.browser()
    page = browser.ask()
    onward = browser.allow(page)
    assert browser.answer(page, "deny").query["error"] == "access_denied"
    assert browser.open(world.idp.authorize(onward)).status == 400 and not world.neighbours.codes


def test_an_answer_can_be_repeated_a_few_times_only(world: World) -> None:
    browser = world.browser()
    page = browser.ask()
    assert [browser.answer(page, "allow").status for _ in range(11)] == [200] * 10 + [400]


@pytest.mark.requirement("OA-10")
def test_parallel_tabs_each_come_home(world: World) -> None:
    """Honest twin of OA-10: two clients, one browser, answers in the other order."""
    world.clients["other"] = app("other")
    browser = world.browser()
    pages = [browser.ask(state="one"), browser.ask(client_id="other", state="two")]
    onward = [browser.allow(page) for page in pages]
    answers = [browser.open(world.idp.authorize(url)) for url in reversed(onward)]
    assert [answer.query["state"] for answer in answers] == ["two", "one"]
    assert [world.neighbours.codes[answer.query["code"]][0].client for answer in answers] == ["other", "app"]


@pytest.mark.requirement("AS-22", "OA-01", "OA-06")
def test_two_people_in_one_browser_consent_each_for_themselves(world: World) -> None:
    """Honest twin of OA-01 and OA-06."""
    browser = world.browser()
    browser.sign_in()
    world.idp.user = "bob"
    browser.sign_in(resource=FINANCE, scope="fin:read")
    assert [(user.subject, asked.resource) for user, asked, _ in world.neighbours.given] == [
        ("alice", HR),
        ("bob", FINANCE),
    ]


@pytest.mark.requirement("OA-31")
def test_tokens_of_the_provider_are_kept_and_told_to_nobody(world: World) -> None:
    """OA-31, and that only the places meant for them have them."""
    answer = world.browser().sign_in()
    ((user, tokens),) = world.neighbours.kept
    assert (user.subject, tokens.access, tokens.refresh) == ("alice", "provider-access-alice", "provider-refresh-alice")
    assert tokens.identity.count(".") == 2
    assert tokens.expires == world.clock() + 300
    seen = f"{answer.reply} {world.neighbours.noted} {world.neighbours.recorded} {tokens!r}"
    assert not [one for one in (tokens.access, tokens.refresh, tokens.identity) if one in seen]


def test_a_device_waits_for_the_same_questions(world: World) -> None:
    browser, asked = world.browser(), None
    page = browser.ask()
    asked = world.flow._transactions._read(re.findall(r'value="([\w-]{43})"', page.text)[0])[1]
    assert asked is not None

    def start(device: str) -> Answer:
        headers = {"cookie": ("; ".join(f"{name}={value}" for name, value in browser.jar.items()),)}
        visit = Visit("POST", "/oauth/device", headers=headers)
        return Answer(world.loop.run_until_complete(world.flow.start(visit, asked.asked, app(), device, "WDJB-MJHT")))

    page = start("device-1")
    assert "WDJB-MJHT" in page.text and "device-1" not in page.text
    answer = browser.open(world.idp.authorize(browser.allow(page)))
    assert answer.status == 200 and "device" in answer.text and not world.neighbours.codes
    assert browser.answer(start("device-2"), "deny").text == "refused"
    onward = browser.allow(start("device-3"))
    refused = world.idp.authorize(onward, code=None, error="access_denied")
    assert browser.open(refused).text == "refused"
    assert world.neighbours.devices == [("device-1", "alice"), ("device-2", ""), ("device-3", "")]


def test_other_purposes_come_back_to_whoever_began_them(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []

    async def connect(signed_in: object, visit: Visit) -> Reply:
        told.append((signed_in.about, signed_in.user.subject))  # type: ignore[attr-defined]
        return Reply(200, b"connected")

    world = World(tmp_path, continuations={"connect": connect})
    browser = world.browser()
    browser.ask()  # any page of ours: the browser is known now
    value = browser.jar["__Host-limen-browser"]
    digest = world.asking.browser(Visit("GET", "/", headers={"cookie": (f"__Host-limen-browser={value}",)}))

    def begin() -> str:
        url, cookies = world.loop.run_until_complete(world.provider.begin("connect", "handle-1", digest))
        name, _, value = cookies[0][1].partition(";")[0].partition("=")
        browser.jar[name] = value
        return url

    assert browser.open(world.idp.authorize(begin())).text == "connected"
    assert told == [("handle-1", "alice")] and not world.neighbours.codes
    failed = browser.open(world.idp.authorize(begin(), code=None, error="access_denied"))
    assert failed.status == 400 and "access_denied" in failed.text and len(told) == 1


def test_a_refusal_of_the_provider_reaches_the_client_in_our_words(world: World) -> None:
    browser = world.browser()
    ours = {
        "access_denied": "access_denied",
        "interaction_required": "login_required",
        "invalid_scope": "server_error",
        "temporarily_unavailable": "temporarily_unavailable",
    }
    for error, told in ours.items():
        onward = browser.allow(browser.ask())
        answer = browser.open(world.idp.authorize(onward, code=None, error=error, error_description="its own words"))
        assert answer.status == 302 and answer.query["error"] == told and answer.query["iss"] == GATEWAY
        assert "its own words" not in answer.location
        assert "its own words" in world.neighbours.noted[-1]["detail"]


def test_a_provider_that_is_down_can_be_tried_again(world: World) -> None:
    browser = world.browser()
    page = browser.ask()
    world.idp.down = True
    assert browser.answer(page, "allow").status == 503
    world.idp.down, world.clock.now = False, world.clock.now + 11
    answer = browser.open(world.idp.authorize(browser.allow(page)))
    assert "code" in answer.query
    onward = browser.allow(browser.ask())
    world.idp.down = True
    assert browser.open(world.idp.authorize(onward)).query["error"] == "temporarily_unavailable"


def test_every_leg_to_the_provider_carries_the_same_scopes(tmp_path: Path) -> None:
    """And nothing else of the client's (peers' issues: AADSTS900144)."""
    world = World(tmp_path, scopes=("openid", "profile", "orders"), refresh=True, resource="https://api.example/orders")
    world.browser().sign_in()
    legs = [world.idp.asked[0], *world.idp.forms]
    assert [leg["grant_type"] for leg in legs[1:]] == ["authorization_code"]
    assert {leg["scope"] for leg in legs} == {"openid profile orders offline_access"}
    assert {leg["resource"] for leg in legs} == {"https://api.example/orders"}


def test_tokens_are_renewed_under_what_was_granted(tmp_path: Path) -> None:
    """Not under what was asked and refused; `offline_access` only with a refresh token."""
    world = World(tmp_path, scopes=("openid", "profile", "orders", "admin"), refresh=True)
    for answer, scopes in (
        ({"scope": "profile orders"}, "openid profile orders offline_access"),
        ({"scope": "profile orders", "refresh_token": None}, "openid profile orders"),
        ({}, "openid profile orders admin offline_access"),
    ):
        world.idp.answer = answer
        world.browser().sign_in()
        assert " ".join(world.neighbours.kept[-1][1].scopes) == scopes


@pytest.mark.parametrize(
    ("offered", "secret", "shown"),
    [
        (["client_secret_basic"], "p&ss+word: 100%", "basic"),
        (None, "p&ss+word: 100%", "basic"),
        (["client_secret_post", "private_key_jwt"], "p&ss+word: 100%", "post"),
        (["client_secret_post"], None, "none"),
    ],
)
def test_client_shows_its_secret_as_the_provider_takes_it(
    tmp_path: Path, offered: list[str] | None, secret: str | None, shown: str
) -> None:
    world = World(tmp_path, client_secret=secret)
    world.idp.metadata["token_endpoint_auth_methods_supported"] = offered
    if secret is None:
        world.idp.client_secret = ""
        world.idp._authenticated = lambda form, headers: form["client_id"] == "limen"  # type: ignore[method-assign]
    assert "code" in world.browser().sign_in().query
    form, header = world.idp.forms[0], world.idp.authorization[0]
    assert (header == f"Basic {b64encode(b'limen:p%26ss%2Bword%3A+100%25').decode()}") == (shown == "basic")
    assert ("client_secret" in form) == (shown == "post") and ("client_id" in form) == (shown != "basic")


def test_a_provider_that_takes_no_secret_is_the_operators_to_hear(world: World) -> None:
    world.idp.metadata["token_endpoint_auth_methods_supported"] = ["private_key_jwt"]
    browser = world.browser()
    assert browser.answer(browser.ask(), "allow").status == 503
    assert "token_endpoint_auth_methods_supported" in world.neighbours.noted[-1]["detail"]


@pytest.mark.requirement("OA-29")
def test_the_callback_takes_a_redirect_and_nothing_else(world: World) -> None:
    """OA-29: a form post of another site would bring no cookies, and is not read."""
    browser = world.browser()
    path, _, query = world.idp.authorize(browser.allow(browser.ask())).partition("?")
    assert browser.open(path, dict(parse_qsl(query))).status == 405
    assert browser.open(f"{path}?{query}").status == 302


def test_an_authorization_is_asked_for_with_get_and_answered_with_post(world: World) -> None:
    browser = world.browser()
    assert browser.open("/oauth/authorize", dict(parse_qsl(request()))).status == 405
    assert browser.open("/oauth/consent").status == 405
    assert world.rows("") == []


@pytest.mark.requirement("OA-44")
def test_a_changed_client_gets_no_code(world: World) -> None:
    """OA-44: the person agreed to another one."""
    browser = world.browser()
    onward = browser.allow(browser.ask())
    world.clients["app"] = app(digest="d2")
    answer = browser.open(world.idp.authorize(onward))
    assert answer.status == 400 and "changed" in answer.text and not world.neighbours.codes
    assert world.rows("") == []


@pytest.mark.requirement("AS-07")
def test_where_a_client_may_hear_of_its_mistake(world: World) -> None:
    """AS-07: whoever has a client could use us to send people anywhere, before they did anything."""
    world.clients["stranger"] = app("stranger", source="registered")
    world.clients["vouched"] = app("vouched", source="metadata", verified=True)
    here = "http://127.0.0.1:7777/cb"
    world.clients["local"] = app("local", source="metadata", redirect_uris=(here,))
    browser = world.browser()
    page = browser.ask(client_id="stranger", resource="https://elsewhere.example")
    assert page.status == 400 and not page.location and "invalid_target" in page.text
    told = [browser.ask(client_id=name, resource="https://elsewhere.example") for name in ("app", "vouched")]
    told.append(browser.ask(client_id="local", redirect_uri=here, resource="https://elsewhere.example"))
    assert {answer.query["error"] for answer in told} == {"invalid_target"} and {one.status for one in told} == {302}


@pytest.mark.requirement("OA-88")
def test_too_many_from_one_address_wait_and_others_do_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """OA-88: nobody fills the records."""
    monkeypatch.setattr("limen.oauth.throttle._EACH", Quota(3, 0.05))
    monkeypatch.setattr("limen.oauth.throttle._EVERY", Quota(5, 0.1))
    flood, other, third = (world.browser() for _ in range(3))
    other.address, third.address = "192.0.2.8", "192.0.2.9"
    assert [flood.ask().status for _ in range(5)] == [200, 200, 200, 429, 429]
    assert [other.ask().status for _ in range(3)] == [200, 200, 429]  # all places are taken
    assert third.ask().status == 429 and len(world.rows("transaction/")) == 5
    world.clock.now += 61
    assert flood.ask().status == 200


def test_everything_strangers_leave_behind_is_forgotten(world: World) -> None:
    browser = world.browser()
    browser.allow(browser.ask())
    assert world.rows("")
    world.clock.now += 601
    assert world.rows("") == []


@pytest.mark.requirement("OA-27")
def test_the_clients_state_comes_back_as_it_was(world: World) -> None:
    """OA-27, honest half: whatever it holds, it is one value of the query."""
    odd = '"><script>alert(1)</script>\r\nSet-Cookie: a=b & # \u00e4'
    answer = world.browser().sign_in(state=odd)
    assert answer.query["state"] == odd
    assert "\r" not in answer.location and "<" not in answer.location
    assert parse_qs(urlsplit(answer.location).query)["code"]


def test_replicas_share_a_persons_way(tmp_path: Path) -> None:
    """Asked by one, answered at another, back at a third: what they know is in the table."""
    replicas = [World(tmp_path) for _ in range(3)]
    first = replicas[0]
    for other in replicas[1:]:
        other.table.close()
        other.provider._table, other.flow._transactions._table, other.idp = first.table, first.table, first.idp
        other.provider._exchange = other.provider._published._exchange = first.idp
        other.asking._key = first.asking._key
    browser = first.browser()
    page = browser.ask()
    browser.world = replicas[1]
    onward = browser.allow(page)
    browser.world = replicas[2]
    back = first.idp.authorize(onward)
    assert "code" in browser.open(back).query and len(replicas[2].neighbours.codes) == 1
    browser.world = replicas[1]
    assert browser.open(back).status == 403  # used up everywhere


def test_what_cannot_be_read_is_none(world: World) -> None:
    """Records of another version, or damaged: the person begins again, and nobody gets in."""
    browser = world.browser()
    for prefix, status in (("transaction/", 400), ("state/", 403)):
        for damaged in (b"{", b"[]", b"{}", b"null", b'{"asked":{},"expires":9999999999}'):
            page = browser.ask()
            back = world.idp.authorize(browser.allow(page))
            for key in world.rows(prefix):
                world.table.put(key, damaged)
            assert browser.open(back).status == status
            for key in world.rows(""):
                world.table.swap(key, world.table.get(key), None)
    assert not world.neighbours.codes


def test_records_that_cannot_be_kept_lead_nowhere(world: World) -> None:
    browser = world.browser()
    page = browser.ask()
    back = world.idp.authorize(browser.allow(page))
    world.table.close()
    answers = [browser.ask(), browser.answer(page, "allow"), browser.answer(page, "deny"), browser.open(back)]
    assert [answer.status for answer in answers] == [503] * 4
    assert not any(answer.location or answer.link for answer in answers) and not world.neighbours.codes


_PIECES = st.sampled_from(
    [CALLBACK, HR, FINANCE, GATEWAY, "app", "code", "S256", "hr:read", "client-state", "https://evil.example", "#", "?",
     "&", "=", "%", "%00", "%0d%0a", " ", "\\", "//", "@", "none", "login", "\x00", "\u00e4", "\u202e", "x" * 500]
)  # fmt: skip
_NAMES = ["client_id", "redirect_uri", "response_type", "resource", "scope", "state", "code_challenge", "prompt",
          "code_challenge_method", "response_mode", "max_age", "acr_values", "request", "iss", "error"]  # fmt: skip


@pytest.mark.requirement("AS-06")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(
        st.sampled_from(_NAMES), st.none() | st.lists(_PIECES, max_size=4).map("".join), min_size=1, max_size=5
    ),
    tail=st.lists(_PIECES, max_size=3).map("".join),
)
def test_whatever_is_asked_the_browser_goes_to_the_client_or_nowhere(
    world: World, changes: dict[str, str | None], tail: str
) -> None:
    """AS-06: over requests put together from pieces of honest ones and of attacks."""
    answer = world.browser().open(f"/oauth/authorize?{request(**changes)}{tail}")
    assert answer.status in (200, 302, 400, 414, 429)
    if answer.status == 302:
        assert answer.location.startswith(f"{CALLBACK}?") and answer.query["iss"] == GATEWAY
        assert answer.location.isascii() and answer.location.isprintable() and "code" not in answer.query
    else:
        assert not answer.location and (answer.status != 200 or CALLBACK in answer.text)
