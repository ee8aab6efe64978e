"""The page and its answer without a browser: what is shown, what is bound to what, what is refused and recorded."""

from __future__ import annotations

import re
from typing import Any

import pytest

from limen.core.faults import ConfigFault, DependencyFault
from limen.oauth.asking import COOKIE, MOST_SCOPES, Asking, Decision
from limen.oauth.model import Ability
from limen.oauth.own_page import origin_of
from limen.oauth.page import WARNINGS
from limen.oauth.shown import disguised, duration, host_of, shown
from limen.oauth.web import OAuthError, Reply, Visit
from oauth.asking_read import Read, answer, arrive, cookie_of
from oauth.asking_scene import ABILITIES, ASKED, CLIENT, KEY, Notes, asked, asking, client


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def ours(notes: Notes) -> Asking:
    return asking(notes)


@pytest.fixture
def shown_page(ours: Asking) -> Reply:
    return ours.page(arrive(), "t1", ASKED, CLIENT)


# what the person sees


@pytest.mark.requirement("AS-20", "AS-25", "AS-26", "AS-27")
def test_page_names_who_asks_for_what_and_where_it_goes_as20_as25_as26_as27(shown_page: Reply) -> None:
    """AS-20, AS-25, AS-26, AS-27."""
    text = Read(shown_page).text
    for words in (
        "Example Desktop", "Unverified", "app.example", "https://app.example/cb", "https://app.example/client.json",
        "https://limen.example/mcp/files", "files.read", "Read the files of your team.", "offline_access",
        "openid profile", "login.example", "90 days",
    ):  # fmt: skip
        assert words in text


def test_page_says_what_the_client_could_do_gravest_first(shown_page: Reply) -> None:
    text = Read(shown_page).text
    places = [text.index(words) for words in ("delete or overwrite", "nobody has classified", "change or create")]
    assert places == sorted(places)
    assert "delete_tree" in text
    assert "read_11 and 3 more" in text
    assert "read_12" not in text


def test_effects_nobody_knows_count_as_unclassified(notes: Notes) -> None:
    ours = asking(notes, can=lambda route, scopes: [Ability("files", "odd", "sparkling")])
    assert "1 tool that can do things nobody has classified" in Read(ours.page(arrive(), "t", ASKED, CLIENT)).text


def test_what_it_could_do_is_asked_of_this_route_and_these_scopes(notes: Notes) -> None:
    seen: list[Any] = []
    ours = asking(notes, can=lambda route, scopes: seen.append((route, scopes)) or ())
    assert "no tool it could call is approved" in Read(ours.page(arrive(), "t", ASKED, CLIENT)).text
    assert seen == [("files", ASKED.scopes)]


def test_no_question_is_asked_while_its_answer_would_be_a_guess(notes: Notes) -> None:
    def down(route: str, scopes: Any) -> Any:
        raise DependencyFault("catalog", "down")

    with pytest.raises(DependencyFault):
        asking(notes, can=down).page(arrive(), "t", ASKED, CLIENT)


VOUCHED = {
    "administrator of this gateway registered it": client(source="configured", id="desk", verified=True),
    "administrator of this gateway trusts app.example": client(verified=True),
    "Nobody here has checked it": client(),
    "It chose its name itself": client(source="registered", id="c-1"),
    "It registered itself, and the administrator": client(source="registered", id="c-1", verified=True),
}


@pytest.mark.requirement("OA-08")
@pytest.mark.parametrize("words", VOUCHED)
def test_page_says_who_vouches_for_the_client_oa08(ours: Asking, words: str) -> None:
    about = VOUCHED[words]
    text = Read(ours.page(arrive(), "t", asked(client=about.id), about)).text
    assert words in text
    trusted = about.verified or about.source == "configured"
    assert ("Verified" in text, "Unverified" in text) == (trusted, not trusted)


@pytest.mark.requirement("AS-19", "OA-45")
@pytest.mark.parametrize("uri", ["http://127.0.0.1:4545/cb", "http://[::1]:1/cb", "http://localhost:1/cb"])
def test_loopback_has_a_warning_of_its_own_oa45(ours: Asking, uri: str) -> None:
    text = Read(ours.page(arrive(), "t", asked(redirect_uri=uri), CLIENT)).text
    assert WARNINGS["loopback_only"] in text
    assert "a program on this computer" in text
    assert uri in text


def test_warnings_stand_in_words_and_unknown_ones_as_they_are(ours: Asking) -> None:
    about = client(warnings=("everywhere", "zig<zag"), name="Ex\u0430mple")
    read = Read(ours.page(arrive(), "t", asked(redirect_uri="com.app:/cb", route=""), about))
    for id in ("everywhere", "private_scheme", "name_disguised"):
        assert read.text.count(WARNINGS[id]) == 1
    assert "zig<zag" in read.text
    assert [members for tag, members in read.tags if members.get("role") == "alert"]
    assert not [members for tag, members in Read(ours.page(arrive(), "t", ASKED, CLIENT)).tags if "role" in members]


@pytest.mark.requirement("AS-20")
def test_international_names_show_as_they_are_resolved_as20(ours: Asking) -> None:
    """AS-20: punycode, with a warning; nothing is cut."""
    long = f"https://{'a' * 60}.{'b' * 60}.example/{'c' * 2000}"
    text = Read(ours.page(arrive(), "t", asked(redirect_uri="https://\u0430pple.example/cb"), CLIENT)).text
    assert "xn--pple-43d.example" in text
    assert "\u0430" not in text
    assert WARNINGS["international"] in text
    assert long in Read(ours.page(arrive(), "t", asked(redirect_uri=long), CLIENT)).text


def test_device_has_a_warning_and_no_address(ours: Asking) -> None:
    text = Read(ours.page(arrive(), "t", asked(redirect_uri=""), CLIENT, device="handle")).text
    assert WARNINGS["device"] in text
    assert "Access is handed to" not in text
    assert "handle" not in text


@pytest.mark.requirement("OA-08")
def test_every_warning_of_a_client_has_words_oa08(ours: Asking) -> None:
    ids = ("localhost", "foreign_redirect", "foreign_page", "name_disguised", "lookalike:Cla<b>ude", "unverified")
    read = Read(ours.page(arrive(), "t", ASKED, client(warnings=ids)))
    for id in ids[:-1]:
        assert WARNINGS[id.partition(":")[0]] in read.text
        assert id not in read.text
    assert "Cla<b>ude" in read.text
    assert WARNINGS["unverified"] not in read.text  # the mark says so
    assert WARNINGS["unverified"] in Read(ours.page(arrive(), "t", ASKED, client(warnings=ids, verified=True))).text


NAMES = {
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>": "</title><img src=x onerror=alert(1)>",
    "\"' onfocus=alert(1) autofocus x='": "\"' onfocus=alert(1) autofocus x='",
    "Claude\u202eEvil": "ClaudeU+202EEvil",
    "Cla\u200bude": "ClaU+200Bude",
    "Cla\u3164ude": "ClaU+3164ude",
    "two\nlines\x00\x1b[2J": "twoU+000AlinesU+0000U+001B[2J",
    "&lt;b&gt;": "&lt;b&gt;",
    "a" + "\u0301" * 40: "a\u0301\u0301U+0301",
    "tag\U000e0041s": "tagU+E0041s",
}


@pytest.mark.requirement("OA-08")
@pytest.mark.parametrize("name", NAMES)
def test_names_show_as_text_and_disguises_show_oa08(ours: Asking, name: str) -> None:
    """OA-08: markup is text, and characters that hide or turn others show as their code points."""
    before = [tag for tag, _ in Read(ours.page(arrive(), "t", ASKED, CLIENT)).tags]
    read = Read(ours.page(arrive(), "t", ASKED, client(name=name)))
    assert NAMES[name] in read.text
    extra = {"span", "ul", "li", "div", "h2"}  # code points and a warning
    assert sorted(tag for tag, _ in read.tags if tag not in extra) == sorted(t for t in before if t not in extra)


@pytest.mark.requirement("OA-08")
def test_a_long_name_is_cut_and_says_so_oa08(ours: Asking) -> None:
    text = Read(ours.page(arrive(), "t", ASKED, client(name="N" * 2048))).text
    assert "N" * 80 + "… 1968 characters more" in text
    assert "N" * 81 not in text


def test_display_of_texts() -> None:
    assert shown("plain & simple") == "<bdi>plain &amp; simple</bdi>"
    assert not disguised("Café Münster 東京")
    assert disguised("Gооgle")
    assert [duration(seconds) for seconds in (1, 90, 3600, 7_776_000)] == ["1 second", "1 minute", "1 hour", "90 days"]
    assert [host_of(uri) for uri in ("com.app:/cb", "http://[::1]:9/x", "https://h:x/", "https://A.Example/")] == [
        "", "[::1]:9", "", "a.example",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Limen.Example:443", "https://limen.example"), ("http://h:80", "http://h"),
        ("https://h:80", "https://h:80"), ("http://[::1]:8300", "http://[::1]:8300"),
    ],
)  # fmt: skip
def test_origins_as_browsers_write_them(url: str, origin: str) -> None:
    assert origin_of(url) == origin


# headers


@pytest.mark.requirement("AS-29", "OA-07", "OA-91")
def test_every_page_forbids_frames_scripts_and_caches_oa07_oa91_as29(ours: Asking, shown_page: Reply) -> None:
    """OA-07, OA-91, AS-29: as headers, on the question, the answers and the errors."""
    replies = [
        shown_page, ours.leave("https://login.example/"), ours.done("Done", "ok"), ours.error(OAuthError("x", "y")),
    ]  # fmt: skip
    for reply in replies:
        headers = dict(reply.all_headers)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "frame-ancestors 'none'" in policy
        assert "base-uri 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert "script" not in {tag for tag, _ in Read(reply).tags}


@pytest.mark.requirement("AS-30", "AS-31", "OA-05")
def test_cookie_is_a_host_cookie_of_one_size_oa05_as30_as31(ours: Asking) -> None:
    """OA-05, AS-30, AS-31: and a browser that has one is given no other."""
    cookies = [ours.page(arrive(), f"t{number}", ASKED, CLIENT).headers[-1][1] for number in range(50)]
    assert len(set(cookies)) == 50
    assert {len(one) for one in cookies} == {len(cookies[0])}
    shape = rf"{COOKIE}=[A-Za-z0-9_-]{{43}}\.[A-Za-z0-9_-]{{43}}; Path=/; Secure; HttpOnly; SameSite=Lax"
    assert all(re.fullmatch(shape, one) for one in cookies)
    again = ours.page(arrive(cookie=cookies[0].partition(";")[0]), "t9", ASKED, CLIENT)
    assert "set-cookie" not in dict(again.headers)


@pytest.mark.requirement("AS-30")
def test_a_connection_others_can_read_is_not_asked_over_as30(ours: Asking) -> None:
    with pytest.raises(OAuthError, match="TLS"):
        ours.page(Visit("GET", "/oauth/authorize", secure=False), "t", ASKED, CLIENT)


# the answer


def test_the_answer_of_the_page_counts(ours: Asking, notes: Notes, shown_page: Reply) -> None:
    form = Read(shown_page).form
    decision = ours.decided(answer({**form, "decision": "allow"}, cookie_of(shown_page)))
    browser = ours.browser(arrive(cookie=cookie_of(shown_page)))
    assert decision == Decision("t1", True, browser, ASKED.scopes)
    assert len(browser) == 64
    assert [(leg, outcome) for leg, outcome, _ in notes.steps] == [("consent", "ok"), ("consent", "ok")]
    assert not notes.events


def test_denying_counts_and_gives_nothing(ours: Asking, notes: Notes, shown_page: Reply) -> None:
    form = Read(shown_page).form
    decision = ours.decided(answer({**form, "decision": "deny"}, cookie_of(shown_page)))
    assert (decision.approved, decision.scopes) == (False, ())
    assert notes.steps[-1][1] == "access_denied"


def test_what_was_unticked_is_left_out_and_what_is_needed_stays(ours: Asking, shown_page: Reply) -> None:
    form = Read(shown_page).form
    assert {name for name in form if name.startswith("scope.")} == {"scope.1", "scope.2"}
    del form["scope.1"]
    decision = ours.decided(answer({**form, "decision": "allow"}, cookie_of(shown_page)))
    assert decision.scopes == ("files.read", "offline_access")


@pytest.mark.requirement("OA-10")
def test_several_pages_in_one_browser_are_answered_in_any_order_oa10(ours: Asking, shown_page: Reply) -> None:
    cookie = cookie_of(shown_page)
    second = ours.page(arrive(cookie=cookie), "t2", ASKED, CLIENT)
    for page, transaction in ((second, "t2"), (shown_page, "t1")):
        decision = ours.decided(answer({**Read(page).form, "decision": "allow"}, cookie))
        assert decision.transaction == transaction


@pytest.mark.parametrize("sent", [{"origin": ("https://limen.example",)}, {"origin": ()}, {"origin": ("null",)}])
def test_browsers_that_say_more_or_less_are_believed(ours: Asking, shown_page: Reply, sent: Any) -> None:
    form = {**Read(shown_page).form, "decision": "allow"}
    assert ours.decided(answer(form, cookie_of(shown_page), **sent)).approved


def test_old_browsers_without_fetch_metadata(ours: Asking, shown_page: Reply) -> None:
    form = {**Read(shown_page).form, "decision": "allow"}
    old: dict[str, tuple[str, ...]] = {"sec_fetch_site": (), "sec_fetch_dest": ()}
    cookie = cookie_of(shown_page)
    assert ours.decided(answer(form, cookie, **old, origin=("https://limen.example",))).approved
    with pytest.raises(OAuthError):
        ours.decided(answer(form, cookie, **old, origin=("null",)))


def test_a_key_of_another_size_is_refused(notes: Notes) -> None:
    with pytest.raises(ConfigFault):
        asking(notes, key=KEY[:31])


def test_replicas_with_the_same_key_take_each_others_answers(shown_page: Reply) -> None:
    form = {**Read(shown_page).form, "decision": "allow"}
    assert asking(Notes()).decided(answer(form, cookie_of(shown_page))).approved


@pytest.mark.requirement("OA-33")
def test_more_scopes_than_a_person_reads_are_refused_oa33(ours: Asking) -> None:
    many = tuple(f"s{number}" for number in range(MOST_SCOPES + 1))
    with pytest.raises(OAuthError) as caught:
        ours.page(arrive(), "t", asked(scopes=many), CLIENT)
    assert caught.value.code == "invalid_scope"
    page = ours.page(arrive(), "t", asked(scopes=many[1:]), CLIENT)
    decision = ours.decided(answer({**Read(page).form, "decision": "allow"}, cookie_of(page)))
    assert decision.scopes == many[1:]


# onward and errors


@pytest.mark.parametrize("url", ["https://login.example/a?b=c&d=e", "http://127.0.0.1:5/cb?code=1", "com.app:/cb?x=1"])
def test_leaving_goes_on_by_itself_and_by_a_link(ours: Asking, url: str) -> None:
    reply = ours.leave(url, ("a=1", "b=2"))
    assert dict(reply.headers)["refresh"] == f"0; url={url}"
    assert [value for name, value in reply.headers if name == "set-cookie"] == ["a=1", "b=2"]
    assert ("a", url) in [(tag, members.get("href")) for tag, members in Read(reply).tags]


@pytest.mark.requirement("OA-89")
@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "vbscript:x", "blob:x", "file:///etc/passwd",
        "https://a.example/\r\nset-cookie: x=1", 'https://a.example/"><script>', "https://a.example/ x", "/relative",
        "", "https://a.example/\u0430",
    ],
)  # fmt: skip
def test_there_is_no_way_on_to_what_runs_here_oa89(ours: Asking, url: str) -> None:
    with pytest.raises(OAuthError) as caught:
        ours.leave(url)
    assert url not in caught.value.description or not url


@pytest.mark.requirement("OA-27", "OA-89")
def test_errors_are_pages_that_quote_nothing_as_markup_oa89(ours: Asking) -> None:
    """OA-27, OA-89: what a stranger sent may be quoted, never obeyed; the detail stays here."""
    error = OAuthError("access_denied", "<img src=x onerror=alert(1)>\r\nx", status=403, detail="secret detail")
    reply = ours.error(error)
    assert reply.status == 403
    read = Read(reply)
    assert "<img src=x onerror=alert(1)>" in read.text
    assert "img" not in {tag for tag, _ in read.tags}
    assert "secret detail" not in reply.body.decode()
    assert ("p", {"role": "alert"}) in read.tags
    assert ABILITIES
