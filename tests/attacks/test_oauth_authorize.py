"""Attacks on the authorization endpoint and the way to the provider. Each is refused; its honest twin passes here, or
in tests/oauth/test_oauth_flow.py and tests/oauth/test_oauth_provider_leg.py."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
from mcp.client.auth.utils import validate_authorization_response_iss
from mcp.shared.auth import OAuthMetadata

from limen.oauth.metadata import server_metadata
from limen.oauth.settings import OAuthSettings
from limen.oauth.web import Visit, read_form
from oauth.ways import CALLBACK, FINANCE, GATEWAY, HR, OFFERS, Answer, Browser, World, app, request

STATE = "__Host-limen-state-"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def left(browser: Browser) -> str:
    """An honest way up to the provider: where the browser would come back to."""
    return browser.world.idp.authorize(browser.allow(browser.ask()))


def nobody_got_in(world: World) -> bool:
    return not world.neighbours.codes and not world.neighbours.given and not world.neighbours.kept


def without_redirect(answer: Answer) -> bool:
    return not answer.location and not answer.link and answer.status >= 400


# -- A. confused deputy ---------------------------------------------------------------------------------------------


@pytest.mark.requirement("AS-21", "AS-23", "OA-01")
def test_oa_01_a_provider_that_remembers_does_not_replace_our_question(world: World) -> None:
    """OA-01: the attacker's client, the victim's session at the provider. Nothing leaves before a click, for each
    client anew, however often the person agreed to another one."""
    world.clients["evil"] = app("evil", source="registered", redirect_uris=("https://evil.example/cb",))
    victim = world.browser()
    assert "code" in victim.sign_in().query  # honest twin: the same person, another client
    asked = len(world.idp.asked)
    page = victim.ask(client_id="evil", redirect_uri="https://evil.example/cb")
    assert page.status == 200 and not page.location and not page.link
    assert "The evil" in page.text and "https://evil.example/cb" in page.text
    assert len(world.idp.asked) == asked and len(world.neighbours.codes) == 1
    assert victim.answer(page, "deny").query["error"] == "access_denied" and len(world.idp.asked) == asked


@pytest.mark.requirement("OA-04", "OA-45")
@pytest.mark.parametrize("source", ["configured", "metadata", "registered"])
def test_oa_04_who_agreed_before_is_asked_again(world: World, source: str) -> None:
    """OA-04, OA-45: whoever shares the client's id sends a person here who agreed to that client a moment ago. Also a
    client that an operator wrote down gets nothing by that."""
    world.clients["app"] = app("app", source=source)
    person = world.browser()
    assert "code" in person.sign_in().query
    asked, codes = len(world.idp.asked), len(world.neighbours.codes)
    again = person.ask()
    assert again.status == 200 and not again.location and not again.link and "The app" in again.text
    assert len(world.idp.asked) == asked and len(world.neighbours.codes) == codes
    assert "code" in person.open(world.idp.authorize(person.allow(again))).query  # honest twin: asked, and said yes


@pytest.mark.requirement("AS-38", "OA-02")
def test_oa_02_consent_in_one_browser_does_not_count_in_another(world: World) -> None:
    """OA-02: the attacker agrees, stops before the provider and sends its URL to the victim."""
    attacker, victim = world.browser(), world.browser()
    victim.ask()
    onward = attacker.allow(attacker.ask())
    back = world.idp.authorize(onward)  # the victim's session at the provider answers at once
    answer = victim.open(back)
    assert answer.status == 403 and without_redirect(answer) and nobody_got_in(world)
    assert world.neighbours.alerts() == ["signin.other_browser"] and not world.idp.forms
    again = attacker.open(back)  # burnt, for him as well
    assert again.status == 403 and nobody_got_in(world) and not world.idp.forms
    assert not world.rows("state/")


@pytest.mark.requirement("OA-02")
@pytest.mark.parametrize("stolen", ["browser", "state"])
def test_oa_02_one_of_the_two_cookies_is_not_enough(world: World, stolen: str) -> None:
    """OA-02: both are looked at."""
    attacker, victim = world.browser(), world.browser()
    back = left(attacker)
    victim.jar = {name: value for name, value in attacker.jar.items() if name.startswith(f"__Host-limen-{stolen}")}
    assert victim.open(back).status == 403 and nobody_got_in(world)


@pytest.mark.requirement("OA-03")
def test_oa_03_an_answer_of_another_browsers_page_is_none(world: World) -> None:
    """OA-03: the attacker has the victim's browser post what his own page holds."""
    attacker, victim = world.browser(), world.browser()
    page, _ = attacker.ask(), victim.ask()
    answer = victim.answer(page, "allow")
    assert answer.status == 403 and without_redirect(answer)
    assert not [cookie for cookie in answer.cookies if STATE in cookie] and not world.rows("state/")
    assert attacker.allow(page)  # honest twin: the browser that was asked


@pytest.mark.requirement("OA-03")
def test_oa_03_an_answered_page_is_not_answered_by_another_browser(world: World) -> None:
    """OA-03: even if the page's binding were broken, the transaction belongs to who agreed first."""
    browser = world.browser()
    browser.allow(browser.ask())
    (transaction,) = (key.partition("/")[2] for key in world.rows("transaction/"))
    transactions = world.flow._transactions
    assert transactions.agree(transaction, "d" * 64, ("hr:read",)) is None
    assert transactions.end(transaction, browser="d" * 64) is None
    assert transactions.end(transaction, turn=7) is None


@pytest.mark.requirement("OA-09")
def test_oa_09_nothing_that_was_asked_can_be_swapped_afterwards(world: World) -> None:
    """OA-09: what the answer brings along besides the decision is not read."""
    browser = world.browser()
    page = browser.ask()
    form = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page.text))
    more = {"redirect_uri": "https://evil.example/cb", "resource": FINANCE, "scope": "hr:write", "client_id": "evil"}
    posted = browser.open("/oauth/consent", {**form, **more, "decision": "allow", "scopes": "hr:read"})
    back = world.idp.authorize(posted.link) + f"&{urlencode(more)}"
    answer = browser.open(back)
    asked, _, _ = world.neighbours.codes[answer.query["code"]]
    assert answer.location.startswith(f"{CALLBACK}?")
    assert (asked.client, asked.redirect_uri, asked.resource, asked.scopes) == ("app", CALLBACK, HR, ("hr:read",))


@pytest.mark.requirement("AS-35", "AS-36", "AS-37", "OA-10")
def test_oa_10_state_begins_with_consent_and_ends_with_the_first_answer(world: World) -> None:
    """OA-10, AS-35, AS-36, AS-37: fresh, after the click and not before, once, ten minutes."""
    browser = world.browser()
    page = browser.ask()
    assert not world.rows("state/") and not [one for one in page.cookies if STATE in one]
    answer = browser.answer(page, "allow")
    assert len(world.rows("state/")) == 1
    (cookie,) = answer.cookies
    assert cookie.startswith(STATE)
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=600"} <= set(cookie.split("; "))
    state = dict(parse_qsl(urlsplit(answer.link).query))["state"]
    seen = f"{page.text} {page.cookies} {answer.cookies} {world.rows('')}"
    assert state not in seen and len(state) == 43
    back = world.idp.authorize(answer.link)
    assert "code" in browser.open(back).query
    assert browser.open(back).status == 403 and len(world.neighbours.codes) == 1


@pytest.mark.requirement("AS-35", "OA-10")
def test_oa_10_states_are_never_the_same(world: World) -> None:
    """OA-10, AS-35."""
    browser = world.browser()
    page = browser.ask()
    asked = [dict(parse_qsl(urlsplit(browser.allow(page)).query)) for _ in range(10)]
    for name in ("state", "nonce", "code_challenge"):
        assert len({one[name] for one in asked}) == 10 and all(len(one[name]) == 43 for one in asked)
    assert {one["code_challenge_method"] for one in asked} == {"S256"}


@pytest.mark.requirement("AS-39", "OA-10")
def test_oa_10_a_way_that_takes_too_long_is_over(world: World) -> None:
    """OA-10, AS-39."""
    browser = world.browser()
    back = left(browser)
    world.clock.now += 601
    assert browser.open(back).status == 403 and nobody_got_in(world)
    back = left(browser)
    world.clock.now += 590
    assert "code" in browser.open(back).query  # honest twin


@pytest.mark.requirement("AS-39", "OA-10")
def test_oa_10_one_of_many_answers_at_once_counts(world: World) -> None:
    """AS-39: the state is used up by one step that only one can make."""
    browser = world.browser()
    back = left(browser)
    state = read_form(back.partition("?")[2])["state"]
    taken: list[object] = []
    threads = [threading.Thread(target=lambda: taken.append(world.provider._take(state))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(taken) == 20 and len([one for one in taken if one is not None]) == 1


# -- B and C. the request -------------------------------------------------------------------------------------------

LOCAL: list[dict[str, str | None]] = [
    {"client_id": None},
    {"client_id": "unknown"},
    {"redirect_uri": None},
    {"redirect_uri": "https://evil.example/cb"},
    {"redirect_uri": f"{CALLBACK}#x"},
    {"redirect_uri": f"{CALLBACK}/"},
    {"client_id": "fragment", "redirect_uri": f"{CALLBACK}#x"},
    {"redirect_uri": "javascript:alert(1)"},
    {"redirect_uri": "https://app.example.com/cb?" + "x" * 3000},
    {"state": "x" * 13_000},
]


@pytest.mark.requirement("AS-06")
@pytest.mark.parametrize("changes", LOCAL)
def test_nobody_is_sent_to_an_address_that_is_not_the_clients(world: World, changes: dict[str, str | None]) -> None:
    """AS-06: whatever else is wrong or right, a page of our own."""
    world.clients["fragment"] = app("fragment", redirect_uris=(f"{CALLBACK}#x",))
    for more in ({}, {"response_type": "token"}, {"prompt": "none"}):
        answer = world.browser().ask(**{**changes, **more})
        assert without_redirect(answer) and not world.rows("")


@pytest.mark.requirement("OA-13", "OA-32")
@pytest.mark.parametrize("doubled", ["redirect_uri", "client_id", "resource", "code_challenge", "state", "scope"])
def test_a_parameter_that_is_there_twice_is_not_read(world: World, doubled: str) -> None:
    """OA-13, OA-32: nothing in such a request can be relied on (RFC 6749 section 3.1)."""
    values = {"redirect_uri": "https://evil.example/cb", "resource": FINANCE}
    for query in (f"{request()}&{doubled}={quote(values.get(doubled, 'x'))}", f"{doubled}=x&{request()}"):
        answer = world.browser().open(f"/oauth/authorize?{query}")
        assert without_redirect(answer) and not world.rows("")


TOLD: list[tuple[str, dict[str, str | None], str, str]] = [
    ("OA-20", {"code_challenge": None}, "invalid_request", "code_challenge"),
    ("OA-20", {"code_challenge": ""}, "invalid_request", "code_challenge"),
    ("OA-23", {"code_challenge": None, "code_challenge_method": None}, "invalid_request", "code_challenge"),
    ("OA-21", {"code_challenge_method": "plain"}, "invalid_request", "code_challenge_method"),
    ("OA-21", {"code_challenge_method": None}, "invalid_request", "code_challenge_method"),
    ("OA-21", {"code_challenge_method": "s256"}, "invalid_request", "code_challenge_method"),
    ("OA-21", {"code_challenge": "A" * 42}, "invalid_request", "code_challenge"),
    ("OA-21", {"code_challenge": "A" * 44}, "invalid_request", "code_challenge"),
    ("OA-21", {"code_challenge": "A" * 42 + "="}, "invalid_request", "code_challenge"),
    ("OA-32", {"resource": None}, "invalid_target", "resource"),
    ("OA-32", {"resource": "https://elsewhere.example/mcp"}, "invalid_target", "resource"),
    ("OA-32", {"resource": f"{HR}/"}, "invalid_target", "resource"),
    ("OA-32", {"resource": HR.upper()}, "invalid_target", "resource"),
    ("OA-32", {"resource": f"{HR} {FINANCE}"}, "invalid_target", "resource"),
    ("OA-32", {"resource": f"{HR}#x"}, "invalid_target", "resource"),
    ("OA-33", {"scope": "*"}, "invalid_scope", "scope"),
    ("OA-33", {"scope": "admin"}, "invalid_scope", "scope"),
    ("OA-33", {"scope": "hr:read admin"}, "invalid_scope", "scope"),
    ("OA-33", {"scope": "fin:read"}, "invalid_scope", "scope"),
    ("OA-33", {"scope": "hr:read  hr:write"}, "invalid_scope", "scope"),
    ("OA-33", {"scope": "hr:read\thr:write"}, "invalid_scope", "scope"),
    ("OA-33", {"scope": " ".join(["hr:read"] * 1200)}, "invalid_scope", "scope"),
    ("OA-34", {"prompt": "none"}, "interaction_required", "prompt"),
    ("OA-34", {"prompt": "login none"}, "interaction_required", "prompt"),
    ("OA-34", {"prompt": "create"}, "invalid_request", "prompt"),
    ("OA-34", {"max_age": "-1"}, "invalid_request", "max_age"),
    ("OA-34", {"max_age": "1e9"}, "invalid_request", "max_age"),
    ("OA-34", {"max_age": "9" * 10}, "invalid_request", "max_age"),
    ("OA-34", {"acr_values": " ".join(map(str, range(9)))}, "invalid_request", "acr_values"),
    ("OA-34", {"acr_values": "\u0430cr"}, "invalid_request", "acr_values"),
    ("OA-29", {"response_mode": "form_post"}, "invalid_request", "response_mode"),
    ("OA-29", {"response_mode": "fragment"}, "invalid_request", "response_mode"),
    ("OA-29", {"response_type": "token"}, "unsupported_response_type", "response_type"),
    ("OA-29", {"response_type": "code id_token"}, "unsupported_response_type", "response_type"),
    ("OA-29", {"response_type": None}, "invalid_request", "response_type"),
    ("", {"request": "eyJ"}, "request_not_supported", "request"),
    ("", {"request_uri": "https://evil.example/r"}, "request_uri_not_supported", "request_uri"),
    ("", {"registration": "{}"}, "registration_not_supported", "registration"),
    ("", {"authorization_details": "[]"}, "invalid_authorization_details", "authorization_details"),
]


@pytest.mark.requirement("OA-20", "OA-21", "OA-23", "OA-29", "OA-32", "OA-33", "OA-34")
@pytest.mark.parametrize(("attack", "changes", "error", "field"), TOLD)
def test_a_bad_request_is_the_clients_to_hear(
    world: World, attack: str, changes: dict[str, str | None], error: str, field: str
) -> None:
    """OA-20, OA-21, OA-23, OA-29, OA-32, OA-33, OA-34: told with its state and our name, and nobody is asked."""
    answer = world.browser().ask(**changes)
    assert answer.status == 302 and answer.location.startswith(f"{CALLBACK}?"), attack
    told = answer.query
    assert (told["error"], told["state"], told["iss"]) == (error, "client-state", GATEWAY) and "code" not in told
    assert not world.rows("") and not world.idp.gets
    (note,) = world.neighbours.noted
    assert (note["leg"], note["outcome"], note["field"]) == ("authorize", error, field)


@pytest.mark.requirement("OA-20", "OA-21", "OA-32", "OA-33", "OA-34")
def test_honest_twins_of_bad_requests(world: World) -> None:
    """OA-20, OA-21, OA-32, OA-33, OA-34: the same endpoint lets these through."""
    honest: list[dict[str, str | None]] = [
        {},
        {"state": None},
        {"scope": None},
        {"scope": "hr:write hr:read"},
        {"resource": FINANCE, "scope": "fin:read"},
        {"response_mode": "query"},
        {"prompt": "consent"},
        {"prompt": "login consent", "max_age": "0", "acr_values": "urn:mfa phr"},
        {"unknown_parameter": "ignored", "login_hint": "bob"},
    ]
    for changes in honest:
        assert world.browser().ask(**changes).status == 200, changes
    browser = world.browser()
    answer = browser.open(world.idp.authorize(browser.allow(browser.ask(scope=None), "hr:read")))
    assert world.neighbours.codes[answer.query["code"]][0].scopes == ("hr:read",)  # what is offered to who names none


@pytest.mark.requirement("OA-33")
def test_oa_33_a_client_asks_for_no_more_than_it_may(world: World) -> None:
    """OA-33: of what the resource offers, a client may be allowed a part; none named gives no more than that."""
    world.clients["small"] = app("small", scopes=frozenset({"hr:write"}))
    browser = world.browser()
    assert browser.ask(client_id="small").query["error"] == "invalid_scope"
    assert browser.ask(client_id="small", scope="hr:write").status == 200
    page = browser.ask(client_id="small", scope=None)
    assert page.status == 200 and "hr:read" not in page.text


def test_a_client_without_the_grant_gets_no_page(world: World) -> None:
    world.clients["robot"] = app("robot", grant_types=frozenset({"client_credentials"}))
    assert world.browser().ask(client_id="robot").query["error"] == "unauthorized_client"


@pytest.mark.requirement("OA-34")
def test_oa_34_the_provider_hears_what_it_may_and_nothing_else(world: World) -> None:
    """OA-34: hints, tokens and unknown parameters of a client stay here; a stronger sign-in is passed on."""
    injected = {"login_hint": "victim", "id_token_hint": "eyJ", "ui_locales": "de", "claims": "{}", "nonce": "mine",
                "display": "popup", "domain_hint": "evil", "access_type": "offline"}  # fmt: skip
    browser = world.browser()
    page = browser.ask(**injected, prompt="login consent", max_age="300", acr_values="urn:mfa")
    asked = dict(parse_qsl(urlsplit(browser.allow(page)).query))
    assert set(asked) == {
        "response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge",
        "code_challenge_method", "prompt", "max_age", "acr_values",
    }  # fmt: skip
    assert (asked["prompt"], asked["max_age"], asked["acr_values"]) == ("login", "300", "urn:mfa")
    assert asked["nonce"] != "mine" and asked["scope"] == "openid profile" and asked["client_id"] == "limen"
    assert asked["state"] != "client-state" and "resource" not in asked


@pytest.mark.requirement("OA-34")
@pytest.mark.parametrize("signed_in", [None, -400])
def test_oa_34_a_fresh_sign_in_that_was_asked_for_is_checked(world: World, signed_in: int | None) -> None:
    """OA-34: a provider that ignores max_age does not make an old sign-in new."""
    browser = world.browser()
    world.idp.claims["auth_time"] = None if signed_in is None else int(world.clock()) + signed_in
    answer = browser.open(world.idp.authorize(browser.allow(browser.ask(max_age="300"))))
    assert answer.query["error"] == "server_error" and nobody_got_in(world)
    assert world.neighbours.noted[-1]["field"] == "auth_time"
    world.idp.claims["auth_time"] = int(world.clock()) - 300
    assert "code" in browser.open(world.idp.authorize(browser.allow(browser.ask(max_age="300")))).query


# -- C. the way back ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("OA-14", "OA-25")
def test_oa_25_a_code_of_another_sign_in_is_of_no_use(world: World) -> None:
    """OA-25: the attacker's code at the provider, put into the victim's answer. PKCE stops it, and where a provider
    does not check that, the nonce does."""
    attacker, victim = world.browser(), world.browser()
    world.idp.user = "attacker"
    theirs = read_form(left(attacker).partition("?")[2])["code"]
    world.idp.user = "alice"
    answer = victim.open(world.idp.authorize(victim.allow(victim.ask()), code=theirs))
    assert answer.query["error"] == "server_error" and nobody_got_in(world)
    assert world.neighbours.noted[-1]["field"] == "invalid_grant"
    theirs = read_form(left(attacker).partition("?")[2])["code"]
    onward = victim.allow(victim.ask())
    asked = dict(parse_qsl(urlsplit(onward).query))
    world.idp.codes[theirs]["code_challenge"] = asked["code_challenge"]  # a provider without PKCE
    answer = victim.open(world.idp.authorize(onward, code=theirs))
    assert answer.query["error"] == "server_error" and nobody_got_in(world)
    assert world.neighbours.noted[-1]["field"] == "nonce"


@pytest.mark.requirement("OA-26")
def test_oa_26_a_code_that_is_unreadable_or_over(world: World) -> None:
    """OA-26: at the provider it is invalid_grant, whatever it looks like."""
    for code in ("over", "a code", "x" * 9000):
        browser = world.browser()
        answer = browser.open(world.idp.authorize(browser.allow(browser.ask()), code=code))
        assert answer.query["error"] == "server_error" and nobody_got_in(world)
    for code in ("\u00e4", "a\r\nb"):
        browser = world.browser()
        answer = browser.open(world.idp.authorize(browser.allow(browser.ask()), code=code))
        assert without_redirect(answer) and nobody_got_in(world)


@pytest.mark.requirement("AS-38", "OA-27")
@pytest.mark.parametrize("state", [None, "", "x", "x" * 43, '"><script>alert(1)</script>', "a\r\nSet-Cookie: b=c"])
def test_oa_27_a_state_that_is_missing_or_not_ours(world: World, state: str | None) -> None:
    """OA-27: refused, and not shown."""
    browser = world.browser()
    back = world.idp.authorize(browser.allow(browser.ask()), state=state)
    answer = browser.open(back)
    assert answer.status in (400, 403) and without_redirect(answer) and nobody_got_in(world)
    assert "<script>" not in answer.text and "\r" not in str(answer.reply.headers)
    assert not world.idp.forms and world.rows("state/")  # the real one still may come


@pytest.mark.requirement("OA-27")
def test_oa_27_a_state_that_is_there_twice_or_of_another_tab(world: World) -> None:
    """OA-27: the cookies belong to one state each."""
    browser = world.browser()
    first, second = left(browser), left(browser)
    states = [read_form(back.partition("?")[2])["state"] for back in (first, second)]
    doubled = browser.open(f"{first}&state={states[1]}")
    assert doubled.status == 400 and nobody_got_in(world) and len(world.rows("state/")) == 2
    crossed = browser.open(first.replace(states[0], states[1]))  # the code of one in the state of the other
    assert crossed.query["error"] == "server_error" and nobody_got_in(world)
    assert world.neighbours.noted[-1]["field"] == "invalid_grant"


@pytest.mark.requirement("OA-28")
@pytest.mark.parametrize(
    "iss", [None, "https://evil.example", "https://id.example/", "https://ID.example", "http://id.example"]
)
def test_oa_28_mix_up_an_answer_of_another_provider(world: World, iss: str | None) -> None:
    """OA-28: compared as it stands; the code goes nowhere, and nothing of the answer is shown (RFC 9207)."""
    browser = world.browser()
    answer = browser.open(world.idp.authorize(browser.allow(browser.ask()), iss=iss))
    assert answer.status == 400 and without_redirect(answer) and nobody_got_in(world) and not world.idp.forms
    assert world.neighbours.alerts() == ["signin.mix_up"]
    shown = "attacker's words"
    error = {"error": "access_denied", "error_description": shown, "code": None}
    answer = browser.open(world.idp.authorize(browser.allow(browser.ask()), iss=iss, **error))
    assert without_redirect(answer) and shown not in answer.text + str(world.neighbours.noted)


@pytest.mark.requirement("OA-28")
def test_oa_28_mix_up_a_name_that_was_not_announced_must_fit_as_well(world: World) -> None:
    """OA-28, and its honest twins: not announced and absent, not announced and right."""
    world.idp.metadata["authorization_response_iss_parameter_supported"] = None
    browser = world.browser()
    wrong = browser.open(world.idp.authorize(browser.allow(browser.ask()), iss="https://evil.example"))
    assert without_redirect(wrong) and not world.idp.forms
    for iss in (None, "https://id.example"):
        assert "code" in browser.open(world.idp.authorize(browser.allow(browser.ask()), iss=iss)).query


@pytest.mark.requirement("AS-10", "OA-28")
def test_oa_28_mix_up_the_other_way_every_answer_of_ours_names_us(world: World) -> None:
    """OA-28, AS-10: the official client checks each of our answers against our metadata, and takes them."""
    settings = OAuthSettings.model_validate({"provider": {"issuer": "https://id.example", "client_id": "limen"}})
    ours = OAuthMetadata.model_validate(server_metadata(GATEWAY, settings, OFFERS))
    browser = world.browser()
    answers = [
        browser.sign_in(),
        browser.ask(scope="nope"),
        browser.answer(browser.ask(), "deny"),
        browser.open(world.idp.authorize(browser.allow(browser.ask()), code=None, error="access_denied")),
    ]
    for answer in answers:
        assert answer.query["iss"] == GATEWAY
        validate_authorization_response_iss(answer.query["iss"], ours)
        with pytest.raises(Exception, match="iss"):
            validate_authorization_response_iss(None, ours)


@pytest.mark.requirement("OA-29")
def test_oa_29_an_error_and_a_code_in_one_answer(world: World) -> None:
    """OA-29: neither is believed."""
    browser = world.browser()
    answer = browser.open(world.idp.authorize(browser.allow(browser.ask()), error="access_denied"))
    assert answer.status == 400 and without_redirect(answer) and nobody_got_in(world) and not world.idp.forms


@pytest.mark.requirement("OA-29")
def test_oa_29_a_code_twice_or_none(world: World) -> None:
    """OA-29."""
    browser = world.browser()
    assert browser.open(left(browser) + "&code=another").status == 400
    assert without_redirect(browser.open(world.idp.authorize(browser.allow(browser.ask()), code=None)))
    assert nobody_got_in(world) and not world.idp.forms


@pytest.mark.requirement("OA-30")
def test_oa_30_where_the_code_goes_stands_in_the_record(world: World) -> None:
    """OA-30: the provider's metadata changes after the browser left, or its answer names another place."""
    browser = world.browser()
    assert "code" in browser.sign_in().query
    world.clock.now += 800  # the metadata is read anew a hundred seconds from now
    back = left(browser)
    world.idp.metadata.update(token_endpoint="https://evil.example/token", jwks_uri="https://evil.example/jwks")
    world.clock.now += 500
    more = urlencode({"token_endpoint": "https://evil.example/token", "jwks_uri": "https://evil.example/jwks"})
    assert "code" in browser.open(f"{back}&{more}").query
    assert set(world.idp.posted_to) == {"https://id.example/token"}
    assert left(browser) and any(url.endswith("openid-configuration") for url in world.idp.gets[2:])  # it was read anew


@pytest.mark.requirement("OA-30", "OA-87")
def test_oa_30_a_way_that_began_at_another_provider_is_not_finished_here(tmp_path: Path) -> None:
    """OA-30, OA-87: the configuration changed in between; a secret is shown to its own provider only."""
    before = World(tmp_path)
    browser = before.browser()
    back = left(browser)
    after = World(tmp_path, issuer="https://other.example")
    after.provider._table, after.flow._transactions = before.table, before.flow._transactions
    after.asking._key = before.asking._key
    browser.world = after
    assert browser.open(back).query["error"] == "temporarily_unavailable"
    assert nobody_got_in(after) and not after.idp.forms


# -- texts, headers, caches -----------------------------------------------------------------------------------------


@pytest.mark.requirement("OA-89")
def test_oa_89_texts_of_strangers_break_out_of_nothing(world: World) -> None:
    """OA-89: neither the provider's words nor a client's get into a page, a header or a line of the log."""
    evil = '<script>alert(1)</script>\r\nSet-Cookie: a=b\r\n\r\n{"event":"forged"}\u2028'
    browser = world.browser()
    refused = world.idp.authorize(browser.allow(browser.ask()), code=None, error="server_error", error_description=evil)
    answers = [
        browser.open(refused),
        browser.ask(scope=evil),
        browser.ask(client_id=evil),
        browser.ask(redirect_uri=evil),
        browser.open(f"/oauth/callback?{urlencode({'state': evil, 'error': evil, 'error_description': evil})}"),
    ]
    for answer in answers:
        assert "<script>" not in answer.text
        assert all(value.isprintable() for _, value in answer.reply.all_headers)
    for note in world.neighbours.noted:
        assert "\r" not in note.get("detail", "") and "\n" not in note.get("detail", ""), note
    assert "code" in browser.sign_in(state=evil).query  # honest twin: a client's state is its own


@pytest.mark.requirement("OA-90")
def test_oa_90_no_page_of_another_origin_reads_an_authorization(world: World) -> None:
    """OA-90: no CORS on any leg; metadata is for everybody (tests/oauth/test_oauth_metadata.py)."""
    visit = Visit("OPTIONS", "/oauth/authorize", request(), {"origin": ("https://evil.example",)})
    answer = world.visit(visit)
    assert answer.status == 405 and not [name for name, _ in answer.reply.all_headers if "access-control" in name]


@pytest.mark.requirement("OA-91")
def test_oa_91_nothing_on_the_way_is_stored_or_sent_on_as_a_referrer(world: World) -> None:
    """OA-91."""
    browser = world.browser()
    page = browser.ask()
    onward = browser.answer(page, "allow")
    back = browser.open(world.idp.authorize(onward.link))
    for answer in (page, onward, back, browser.ask(scope="nope"), browser.open("/oauth/callback")):
        sent = dict(answer.reply.all_headers)
        assert (sent["cache-control"], sent["referrer-policy"]) == ("no-store", "no-referrer")


@pytest.mark.requirement("OA-49", "OA-93")
def test_oa_93_our_own_addresses_are_the_configurations(world: World) -> None:
    """OA-49, OA-93: whatever a proxy's headers say, the provider sends people to us, and clients hear our name."""
    evil: dict[str, Any] = dict.fromkeys(("host", "x-forwarded-host", "forwarded"), ("evil.example",))
    page = world.visit(Visit("GET", "/oauth/authorize", request(), {**evil, "x-forwarded-proto": ("http",)}))
    browser = world.browser()
    browser.jar = {"__Host-limen-browser": page.cookies[0].partition("=")[2].partition(";")[0]}
    onward = browser.allow(page)
    assert dict(parse_qsl(urlsplit(onward).query))["redirect_uri"] == f"{GATEWAY}/oauth/callback"
    assert browser.open(world.idp.authorize(onward)).query["iss"] == GATEWAY
