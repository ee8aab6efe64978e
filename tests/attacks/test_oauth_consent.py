"""Attacks on the question and its answer: none gets an answer counted that its person did not give, each is recorded.

The honest twin of all of them: the answer of the page's own form, in the browser it was shown in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from limen.oauth.asking import COOKIE, Asking
from limen.oauth.web import OAuthError, Reply, Visit
from oauth.asking_read import Read, answer, arrive, cookie_of
from oauth.asking_scene import ASKED, CLIENT, Notes, asked, asking


class Shown:
    """A page in the victim's browser and one in the attacker's, of one replica."""

    def __init__(self) -> None:
        self.notes = Notes()
        self.asking: Asking = asking(self.notes)
        self.page = self.asking.page(arrive(), "victims", ASKED, CLIENT)
        self.evil = self.asking.page(arrive(), "attackers", asked(scopes=(*ASKED.scopes, "admin")), CLIENT)
        self.cookie, self.form = cookie_of(self.page), {**Read(self.page).form, "decision": "allow"}
        self.evil_cookie, self.evil_form = cookie_of(self.evil), {**Read(self.evil).form, "decision": "allow"}

    def refused(self, visit: Visit) -> str:
        """What was wrong, as the operator sees it; the stranger sees one sentence, whatever it was."""
        with pytest.raises(OAuthError) as caught:
            self.asking.decided(visit)
        assert (caught.value.status, caught.value.code) == (403, "access_denied")
        assert self.asking.error(caught.value).status == 403
        assert caught.value.description == (
            "This does not belong to a page that was shown in this browser. Start again from the application."
        )
        kind, event = self.notes.events[-1]
        assert (kind, event["event"], event["severity"]) == ("security", "consent.forged", "high")
        assert self.notes.steps[-1][1] == "access_denied"
        return str(event["field"])


@pytest.fixture
def scene() -> Shown:
    found = Shown()
    assert found.asking.decided(answer(found.form, found.cookie)).approved  # the honest twin
    return found


@pytest.mark.requirement("AS-28", "OA-03")
def test_attackers_form_in_the_victims_browser_oa03_as28(scene: Shown) -> None:
    """OA-03, AS-28: transaction and token of the attacker's own page do not fit the victim's cookie."""
    assert scene.refused(answer(scene.evil_form, scene.cookie)) == "csrf"
    assert scene.asking.decided(answer(scene.evil_form, scene.evil_cookie)).transaction == "attackers"


@pytest.mark.requirement("OA-02")
def test_form_sent_from_another_browser_oa02(scene: Shown) -> None:
    """OA-02: what the attacker read off his own page is of no use without his browser, and the other way round."""
    assert scene.refused(answer(scene.form, scene.evil_cookie)) == "csrf"
    assert scene.refused(answer(scene.form, "")) == "cookie"
    assert scene.asking.browser(arrive()) == ""
    assert scene.asking.browser(arrive(cookie=scene.cookie)) != scene.asking.browser(arrive(cookie=scene.evil_cookie))


@pytest.mark.requirement("AS-28", "OA-03", "OA-94")
@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", "garbage"])
def test_form_of_another_site_oa03_as28(scene: Shown, site: str) -> None:
    """OA-03, AS-28: even with everything else right."""
    assert scene.refused(answer(scene.form, scene.cookie, sec_fetch_site=(site,))) == "sec-fetch-site"


@pytest.mark.requirement("OA-03")
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://limen.example", "https://limen.example:444", "https://LIMEN.example.evil"],
)
def test_form_of_another_origin_oa03(scene: Shown, origin: str) -> None:
    assert scene.refused(answer(scene.form, scene.cookie, origin=(origin,))) == "origin"


@pytest.mark.requirement("OA-03")
def test_null_origin_of_an_unknown_site_oa03(scene: Shown) -> None:
    """A sandboxed frame says `null` as well: it counts only where the browser vouches for the site."""
    assert scene.refused(answer(scene.form, scene.cookie, sec_fetch_site=())) == "origin"


@pytest.mark.requirement("OA-07")
@pytest.mark.parametrize("destination", ["iframe", "frame", "object", "embed", "empty"])
def test_page_and_answer_inside_another_page_oa07(scene: Shown, destination: str) -> None:
    """OA-07: refused before anything is shown, besides the headers that forbid showing it."""
    assert scene.refused(answer(scene.form, scene.cookie, sec_fetch_dest=(destination,))) == "sec-fetch-dest"
    with pytest.raises(OAuthError) as caught:
        scene.asking.page(arrive(sec_fetch_dest=destination), "t", ASKED, CLIENT)
    assert caught.value.status == 403


@pytest.mark.requirement("OA-07")
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_nothing_but_a_form_approves_oa07(scene: Shown, method: str) -> None:
    visit = answer(scene.form, scene.cookie, method)
    with pytest.raises(OAuthError) as caught:
        scene.asking.decided(Visit(method, visit.path, visit.body.decode(), visit.headers))
    assert caught.value.status == 405


CHANGES: dict[str, Callable[[dict[str, str]], Any]] = {
    "transaction": lambda form: form.update(transaction="attackers"),
    "no transaction": lambda form: form.pop("transaction"),
    "more scopes": lambda form: form.update(offered=form["offered"] + " admin"),
    "other order": lambda form: form.update(offered=" ".join(reversed(form["offered"].split()))),
    "needed": lambda form: form.update(needed=form["offered"]),
    "less needed": lambda form: form.pop("needed"),
    "no token": lambda form: form.pop("csrf"),
    "empty token": lambda form: form.update(csrf=""),
    "shorter token": lambda form: form.update(csrf=form["csrf"][:-1]),
    "longer token": lambda form: form.update(csrf=form["csrf"] + "A"),
    "other letters": lambda form: form.update(csrf=form["csrf"].swapcase()),
    "not ASCII": lambda form: form.update(csrf="é" * 43),
}


@pytest.mark.requirement("OA-06", "OA-09", "OA-33")
@pytest.mark.parametrize("change", CHANGES)
def test_answer_about_something_else_than_was_shown_oa06_oa09(scene: Shown, change: str) -> None:
    """OA-06, OA-09, OA-33: transaction and scopes are those of the page, or it is no answer."""
    form = dict(scene.form)
    CHANGES[change](form)
    assert scene.refused(answer(form, scene.cookie)) == "csrf"


STRAY: dict[str, dict[str, str]] = {
    "redirect": {"redirect_uri": "https://evil.example/cb"},
    "scope": {"scope": "admin"},
    "client": {"client_id": "https://evil.example/c"},
    "box": {"scope.3": "on"},
    "far box": {"scope.99": "on"},
    "decision": {"decision": "yes"},
    "no decision": {"decision": ""},
}


@pytest.mark.requirement("OA-09")
@pytest.mark.parametrize("member", STRAY)
def test_members_the_form_does_not_have_oa09(scene: Shown, member: str) -> None:
    """OA-09: nothing a form brings along is taken for what was asked."""
    assert scene.refused(answer({**scene.form, **STRAY[member]}, scene.cookie)) == "form"


@pytest.mark.requirement("OA-13")
def test_parameters_twice_in_the_query_or_unreadable_oa13(scene: Shown) -> None:
    good = answer(scene.form, scene.cookie)
    twice = Visit("POST", good.path, "", good.headers, good.body + b"&decision=allow")
    query = Visit("POST", good.path, "transaction=t", good.headers, good.body)
    for visit in (twice, query, Visit("POST", good.path, "", good.headers, b"\xff")):
        assert scene.refused(visit) == "form"
    assert scene.refused(answer(scene.form, scene.cookie, origin=("null", "null"))) == "form"


@pytest.mark.requirement("AS-32", "OA-06")
def test_no_bit_of_the_cookie_can_be_changed_oa06_as32(scene: Shown) -> None:
    """OA-06, AS-32: edited, truncated or lengthened it is no cookie of ours, and a fresh one is given."""
    name, _, value = scene.cookie.partition("=")
    for index, letter in enumerate(value):
        if index in (42, 86):  # a last letter stands for four bits: its other two are compared as text below
            continue
        changed = f"{name}={value[:index]}{'A' if letter != 'A' else 'B'}{value[index + 1 :]}"
        assert scene.asking.browser(arrive(cookie=changed)) == ""
    for changed in (value[:-1], value[1:], value + "A", value.partition(".")[0], f"{value}; {name}={value}"):
        assert scene.asking.browser(arrive(cookie=f"{name}={changed}")) == ""
    fresh = scene.asking.page(arrive(cookie=f"{name}={value[:-1]}"), "t", ASKED, CLIENT)
    assert cookie_of(fresh).startswith(f"{COOKIE}=")
    assert any(event["event"] == "consent.cookie" for _, event in scene.notes.events)
    assert scene.asking.browser(arrive(cookie=scene.cookie))


@pytest.mark.requirement("OA-06")
def test_other_encodings_of_the_same_bytes_are_not_the_cookie_oa06(scene: Shown) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    value = scene.cookie.partition("=")[2]
    for index in (42, 86):
        for letter in alphabet.replace(value[index], ""):
            changed = value[:index] + letter + value[index + 1 :]
            assert scene.asking.browser(arrive(cookie=f"{COOKIE}={changed}")) == ""


@pytest.mark.requirement("AS-24", "OA-06")
def test_cookie_and_token_of_another_key_oa06_as24(scene: Shown) -> None:
    foreign = asking(Notes(), key=b"k" * 32)
    page: Reply = foreign.page(arrive(), "victims", ASKED, CLIENT)
    form = {**Read(page).form, "decision": "allow"}
    assert scene.refused(answer(form, cookie_of(page))) == "cookie"
    assert scene.refused(answer(form, scene.cookie)) == "csrf"
    assert foreign.decided(answer(form, cookie_of(page))).approved


@pytest.mark.requirement("OA-06")
def test_token_of_one_purpose_is_not_one_of_another_oa06(scene: Shown) -> None:
    """The cookie's MAC in the form, or the form's in the cookie, is neither."""
    number, _, mac = scene.cookie.partition("=")[2].partition(".")
    assert scene.refused(answer({**scene.form, "csrf": mac}, scene.cookie)) == "csrf"
    assert scene.refused(answer(scene.form, f"{COOKIE}={number}.{scene.form['csrf']}")) == "cookie"


@pytest.mark.requirement("OA-88")
def test_a_flood_of_forgeries_does_not_fill_the_log_oa88(scene: Shown) -> None:
    for _ in range(200):
        with pytest.raises(OAuthError):
            scene.asking.decided(answer(scene.form, ""))
    assert len(scene.notes.events) == 60
    assert scene.asking.decided(answer(scene.form, scene.cookie)).approved
