"""The consent page in a real Chromium: what a person can do there, and what other sites cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from browser import chromium
from limen.oauth.style import STYLE
from oauth.asking_scene import Other, Scene, asked, client, other, scene

ALLOW, DENY = "Allow", "Deny"


@pytest.fixture(scope="module")
def program() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def browser(program: Any) -> Iterator[Any]:
    yield program
    for context in program.contexts:
        context.close()


@pytest.fixture
def place() -> Iterator[Scene]:
    with scene() as found:
        yield found


@pytest.fixture
def away() -> Iterator[Other]:
    with other() as found:
        yield found


def visit(browser: Any, place: Scene, transaction: str = "t1", **options: Any) -> Any:
    """The page in a browser of a person's own."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(20_000)
    page.goto(f"{place.issuer}/oauth/authorize?transaction={transaction}")
    return page


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


# what a person can do


@pytest.mark.requirement("AS-31", "OA-91")
def test_allowing_without_scripts_leads_on_to_another_origin_as31(browser: Any, place: Scene, away: Other) -> None:
    """The form's answer goes on across origins under the page's own policy; loopback takes `__Host-` cookies; nobody
    is told where the person came from (OA-91)."""
    place.onward = f"http://localhost:{away.port}/cb?code=c&state=s"
    page = visit(browser, place, java_script_enabled=False)
    (cookie,) = page.context.cookies()
    assert cookie["name"] == "__Host-limen-browser"
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")
    press(page, ALLOW)
    page.wait_for_url("**/cb*")
    (decision,) = place.answers
    assert (decision.approved, decision.scopes) == (True, ("files.read", "files.write", "offline_access"))
    assert decision.browser == place.asking.browser(place.visits[-1])
    assert place.visits[-1].header("origin") == "null"
    assert place.visits[-1].header("sec-fetch-site") == "same-origin"
    ((method, path, headers),) = [seen for seen in away.seen if seen[1] != "/favicon.ico"]
    assert (method, path) == ("GET", "/cb?code=c&state=s")
    assert "referer" not in headers
    assert {one["name"] for one in page.context.cookies()} == {"__Host-limen-browser", "state"}
    assert not place.notes.alerts()


def test_denying_is_as_easy(browser: Any, place: Scene) -> None:
    page = visit(browser, place, java_script_enabled=False)
    boxes = [page.get_by_role("button", name=name, exact=True).bounding_box() for name in (DENY, ALLOW)]
    assert boxes[0]["width"] == pytest.approx(boxes[1]["width"], abs=1)
    assert boxes[0]["height"] == pytest.approx(boxes[1]["height"], abs=1)
    press(page, DENY)
    page.get_by_role("heading", name="Done").wait_for()
    assert [one.approved for one in place.answers] == [False]


def test_keyboard_alone_is_enough_and_focus_can_be_seen(browser: Any, place: Scene) -> None:
    page = visit(browser, place)
    walked = []
    for _ in range(4):
        page.keyboard.press("Tab")
        walked.append(page.evaluate("document.activeElement.name + ' ' + document.activeElement.value"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
        if len(walked) == 1:
            page.keyboard.press("Space")  # leave this one out
    assert walked == ["scope.1 on", "scope.2 on", "decision deny", "decision allow"]
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Done").wait_for()
    assert [(one.approved, one.scopes) for one in place.answers] == [(True, ("files.read", "offline_access"))]


def test_enter_by_accident_denies(browser: Any, place: Scene) -> None:
    page = visit(browser, place)
    page.get_by_label("files.write").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Done").wait_for()
    assert [one.approved for one in place.answers] == [False]


def test_screen_readers_find_their_way(browser: Any, place: Scene) -> None:
    """Language, one main landmark with a name, headings in order, every control named and described."""
    place.client, place.asked = client(source="registered", id="c-1"), asked(redirect_uri="http://127.0.0.1:4545/cb")
    page = visit(browser, place)
    tree = page.locator("body").aria_snapshot()
    title = "Allow an application that calls itself “Example Desktop” to use the server “files” as you?"
    assert f'main "{title}"' in tree
    assert f'heading "{title}" [level=1]' in tree
    for line in (
        'heading "Before you allow this" [level=2]', 'heading "Who is asking" [level=2]', 'button "Deny"',
        'heading "What it could do" [level=2]', 'heading "What happens next" [level=2]', 'button "Allow"',
        'group "Permissions it asks for"', 'checkbox "files.write" [checked]', "- alert:",
    ):  # fmt: skip
        assert line in tree, tree
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.title() == "Allow access? – Limen"
    unnamed = "[...document.querySelectorAll('input:not([type=hidden])')].filter(one => !one.labels.length).length"
    assert page.evaluate(unnamed) == 0
    described = "document.getElementById(document.getElementById('s1').getAttribute('aria-describedby')).innerText"
    assert page.evaluate(described)
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(one => one.tagName)")
    assert levels[0] == "H1"
    assert levels.count("H1") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(browser: Any, place: Scene, scheme: str) -> None:
    """All rules of axe-core (WCAG 2.2 and best practices): question with warnings, end, error, and the way on."""
    place.client = client(source="registered", id="c-1", name="Cla\u202eude", warnings=("lookalike:Claude",))
    place.asked = asked(redirect_uri="http://127.0.0.1:4545/cb", route="")

    def trouble() -> list[str]:
        found = Axe().run(page).response
        return [f"{one['id']}: {node['html'][:120]}" for one in found["violations"] for node in one["nodes"]]

    page = visit(browser, place, color_scheme=scheme, bypass_csp=True)
    page.wait_for_function("document.getAnimations().length === 0")  # the buttons fade in
    assert trouble() == []
    press(page, ALLOW)
    page.get_by_role("heading", name="Done").wait_for()
    assert trouble() == []
    page.reload()
    page.get_by_role("heading", name="This did not work").wait_for()
    assert trouble() == []
    onward = place.asking.leave("https://login.example/authorize?state=x")
    page.set_content(onward.body.decode())
    assert trouble() == []
    page.set_content("<p style='color:#777;background:#777'>x</p><img src=x>")  # it would find something
    assert trouble()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_screens_and_large_print_need_no_sideways_scrolling(browser: Any, place: Scene, scheme: str) -> None:
    """320 CSS pixels are 1280 at 400 % (WCAG 1.4.10), with the longest words strangers can send."""
    place.client = client(name="W" * 300, id=f"https://{'a' * 63}.example/{'b' * 400}")
    place.asked = asked(redirect_uri=f"https://{'c' * 63}.{'d' * 63}.example/{'e' * 900}", scopes=("f" * 200, "g"))
    page = visit(browser, place, viewport={"width": 320, "height": 640}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.get_by_role("button", name=ALLOW).bounding_box()["height"] >= 24  # WCAG 2.5.8
    paper = page.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(25, 29, 35)")


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [0, 1])
def test_every_text_stands_out_from_what_is_behind_it(theme: int) -> None:
    """WCAG 1.4.3: 4.5 to 1 for text."""
    blocks = re.findall(r":root\{([^}]*)\}", STYLE)
    colours = dict(re.findall(r"--(\w+):(#[0-9a-f]{3,6})", blocks[theme]))
    pairs = [(one, paper) for one in ("ink", "soft", "accent", "bad") for paper in ("paper", "card")]
    for text, paper in (*pairs, ("on", "accent"), ("ink", "warn"), ("bad", "code")):
        low, high = sorted((_luminance(colours[text]), _luminance(colours[paper])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, paper)


# what other sites cannot


@pytest.mark.requirement("AS-29", "OA-07")
@pytest.mark.parametrize("host", ["127.0.0.1", "evil.test"])
def test_no_other_page_can_hold_this_one_oa07_as29(browser: Any, place: Scene, away: Other, host: str) -> None:
    """OA-07, AS-29: neither another site nor another port of the same machine, in whatever element."""
    url = f"{place.issuer}/oauth/authorize?transaction=framed"
    away.pages["/evil"] = (
        f'<iframe src="{url}"></iframe><object data="{url}"></object><embed src="{url}">'
        f'<iframe sandbox="allow-forms" src="{url}"></iframe>'
    )
    page = browser.new_context().new_page()
    page.goto(f"http://{host}:{away.port}/evil")
    page.wait_for_load_state("networkidle")
    for frame in page.frames[1:]:
        assert frame.get_by_role("button").count() == 0
    assert sorted(one.header("sec-fetch-dest") for one in place.visits) == ["embed", "iframe", "iframe", "object"]
    assert place.notes.alerts() == ["consent.forged sec-fetch-dest"] * 4
    press(visit(browser, place), ALLOW)  # its honest twin


@pytest.mark.requirement("OA-07")
def test_a_page_that_opens_this_one_cannot_reach_into_it_oa07(browser: Any, place: Scene, away: Other) -> None:
    """OA-07: a window opened by another site is cut off from it, so it cannot be moved under a click."""
    away.pages["/evil"] = "<title>evil</title>"
    page = browser.new_context().new_page()
    page.goto(f"http://127.0.0.1:{away.port}/evil")
    with page.expect_popup() as opened:
        page.evaluate(f"window.held = window.open('{place.issuer}/oauth/authorize?transaction=p'); 0")
    opened.value.get_by_role("button", name=ALLOW).wait_for()
    page.wait_for_function("window.held.closed")  # to its opener only
    assert opened.value.evaluate("window.opener") is None
    press(opened.value, DENY)
    opened.value.get_by_role("heading", name="Done").wait_for()


@pytest.mark.requirement("OA-07")
def test_quick_second_click_does_not_reach_the_buttons_oa07(browser: Any, place: Scene) -> None:
    """OA-07: the first of two clicks brings the page up; the second must not answer it."""
    page = visit(browser, place)
    hit = """milliseconds => {
        const button = document.querySelector('button.yes')
        const shown = button.cloneNode(true)  // its animation begins when it is put there
        button.replaceWith(shown)
        shown.scrollIntoView()
        const waiting = shown.getAnimations()[0]
        waiting.pause()
        waiting.currentTime = milliseconds
        const box = shown.getBoundingClientRect()
        return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === shown
    }"""
    assert [page.evaluate(hit, milliseconds) for milliseconds in (0, 600, 699.9)] == [False, False, True]


@pytest.mark.requirement("AS-28", "OA-03")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "evil.test"])
def test_forms_of_other_sites_are_refused_in_the_browser_oa03_as28(
    browser: Any, place: Scene, away: Other, host: str
) -> None:
    """OA-03, AS-28: even one that knows every value of the victim's own form; another port is another site, too."""
    page = visit(browser, place)
    fields = page.evaluate(
        "[...document.forms[0].elements].filter(one => one.type === 'hidden').map(one => one.outerHTML)"
    )
    away.pages["/evil"] = (
        f'<form method="post" action="{place.issuer}/oauth/consent">{"".join(fields)}'
        '<input type="hidden" name="decision" value="allow"></form><script>document.forms[0].submit()</script>'
    )
    evil = page.context.new_page()
    evil.goto(f"http://{host}:{away.port}/evil")
    evil.get_by_role("heading", name="This did not work").wait_for()
    assert evil.get_by_role("alert").inner_text().startswith("This does not belong")
    assert not place.answers
    assert place.notes.alerts() == ["consent.forged sec-fetch-site"]
    press(page, ALLOW)  # the person's own
    page.get_by_role("heading", name="Done").wait_for()
    assert len(place.answers) == 1


@pytest.mark.requirement("OA-02", "OA-03")
def test_attackers_own_transaction_in_the_victims_browser_oa02_oa03(browser: Any, place: Scene) -> None:
    """OA-02, OA-03: his form, put into the victim's page by whatever means, does not fit the victim's cookie."""
    theirs = visit(browser, place, "attackers")
    fields = theirs.evaluate("[...document.forms[0].elements].map(one => [one.name, one.value])")
    page = visit(browser, place)
    page.evaluate(
        """fields => { for (const [name, value] of fields) {
        const found = document.forms[0].querySelector(`input[name="${name}"]`); if (found) found.value = value } }""",
        fields,
    )
    press(page, ALLOW)
    page.get_by_role("heading", name="This did not work").wait_for()
    assert place.notes.alerts() == ["consent.forged csrf"]
    assert not place.answers


@pytest.mark.requirement("AS-28")
def test_an_answer_sent_again_is_refused_as28(browser: Any, place: Scene) -> None:
    page = visit(browser, place)
    press(page, ALLOW)
    page.get_by_role("heading", name="Done").wait_for()
    page.reload()
    page.get_by_role("heading", name="This did not work").wait_for()
    assert len(place.answers) == 1


HOSTILE = (
    "<script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>", '"><svg onload=window.pwned=1>',
    "' autofocus onfocus=window.pwned=1 x='", "</style><script>window.pwned=1</script>", "javascript:window.pwned=1",
    "</title><iframe srcdoc='<script>parent.pwned=1</script>'>", "&#60;script&#62;window.pwned=1&#60;/script&#62;",
)  # fmt: skip


@pytest.mark.requirement("OA-08", "OA-27")
def test_markup_of_strangers_is_text_oa08_oa27(browser: Any, place: Scene) -> None:
    """OA-08, OA-27: in every value a stranger chooses, scripts switched on."""
    page = browser.new_context().new_page()
    for text in HOSTILE:
        place.client = client(name=text, id=f"https://app.example/{text}", uri=text, warnings=(text,))
        scope = re.sub(r'[\s"\\]', "", text)
        place.asked = asked(redirect_uri=f"https://app.example/{text}", state=text, scopes=(scope, "b"), resource=text)
        page.goto(f"{place.issuer}/oauth/authorize?transaction=t1")
        assert page.evaluate("window.pwned") is None
        assert page.locator("script, img, svg, iframe, object, embed, [onload], [onerror], [onfocus]").count() == 0
        assert page.locator("style").count() == 1
        assert page.locator("h1 bdi").first.inner_text() == text
        assert page.evaluate("document.activeElement.tagName") == "BODY"
    press(page, ALLOW)
    page.get_by_role("heading", name="Done").wait_for()
    assert place.answers[-1].scopes == (scope, "b")
