"""Whole ways through a running gateway with a real provider: what ends, what is killed, who is who, devices, clients
that registered themselves."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest

from browser import chromium
from oauth.scripted import Person, Program, claims
from oauth.signing_in import Scene, scene

REDIRECT = "http://127.0.0.1:9/callback"  # nothing listens there: the code is read from the redirect
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
KNOWN = {
    "notes": {"name": "Notes", "redirect_uris": [REDIRECT]},
    "tasks": {"name": "Tasks", "redirect_uris": [REDIRECT]},
    "screen": {"name": "Meeting room screen", "grants": [DEVICE, "refresh_token"]},
}
EVERYBODY = {"rules": [{"allow": "anyone", "call": "*/*", "scopes": ["use"]}]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with pytest.MonkeyPatch.context() as patch:
        clients = {"registration": True, "known": KNOWN}
        more: dict[str, Any] = {"oauth": {"tokens": {"device": True}}, "policy": EVERYBODY, "approved": ("one",)}
        with scene(tmp_path_factory.mktemp("ways"), patch, clients=clients, tools=("echo",), **more) as found:
            yield found


def somebody(made: Scene, name: str) -> Person:
    """With a browser of their own, who is `name` at the provider."""
    return Person(partial(made.provider.come_back, sub=name))


def program(made: Scene, client: str = "notes", **more: str) -> Program:
    return Program(made.base, client, REDIRECT, f"{made.base}/mcp/one", **more)


def signed_in(made: Scene, name: str, client: str = "notes") -> tuple[Program, dict[str, Any]]:
    """A client that has its tokens, and works with them."""
    app = program(made, client)
    answer = app.redeem(somebody(made, name).authorize(app.url()))
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    assert claims(tokens["access_token"])["sub"] == name
    assert works(made, tokens)
    return app, tokens


def works(made: Scene, tokens: dict[str, Any]) -> bool:
    """Whether a call with the access token runs; all that may be said otherwise is that the token is none."""
    status, body = made.gateway.call("echo", tokens["access_token"])
    assert status in (200, 401), (status, body)
    return status == 200


def is_over(made: Scene, app: Program, tokens: dict[str, Any]) -> None:
    """At once no call runs with the access token any more; the refresh token is none either."""
    made.gateway.until(lambda: not works(made, tokens), 5)
    again = app.refresh(tokens["refresh_token"])
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")


def consents(made: Scene, user: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(made.gateway.limen("consents", "list", "--user", user, "--json"))
    return found


@pytest.mark.timeout(90)
def test_revoking_a_consent_ends_what_was_issued_under_it(made: Scene) -> None:
    """And nothing else: neither the same person's other client nor somebody else's consent to the same."""
    app, tokens = signed_in(made, "ann")
    other, others = signed_in(made, "ann", "tasks")
    _, bens = signed_in(made, "ben")
    (row,) = (one for one in consents(made, "ann") if one["client"] == "notes")
    made.gateway.limen("consents", "revoke", row["id"], "--reason", "lost laptop")
    is_over(made, app, tokens)
    assert works(made, others)
    assert works(made, bens)
    assert other.refresh(others["refresh_token"]).status_code == 200
    _, after = signed_in(made, "ann")  # who agrees again is in again, and the old grant stays ended
    assert works(made, after)
    assert app.refresh(tokens["refresh_token"]).status_code == 400


@pytest.mark.timeout(90)
def test_revoking_a_user_ends_every_token_of_theirs(made: Scene) -> None:
    app, tokens = signed_in(made, "cleo")
    _, others = signed_in(made, "dan")
    made.gateway.limen("revoke", "user", "cleo", "--reason", "left")
    is_over(made, app, tokens)
    assert works(made, others)


@pytest.mark.timeout(90)
def test_a_client_ends_its_own_grant_and_no_other(made: Scene) -> None:
    """RFC 7009. Another client that has the token ends nothing with it."""
    app, tokens = signed_in(made, "ann")
    assert program(made, "tasks").post("/oauth/revoke", token=tokens["refresh_token"]).status_code in (200, 400)
    assert works(made, tokens)
    renewed = app.refresh(tokens["refresh_token"])
    assert renewed.status_code == 200
    assert app.post("/oauth/revoke", token=renewed.json()["refresh_token"]).status_code == 200
    is_over(made, app, renewed.json())
    assert not works(made, tokens)


@pytest.mark.timeout(90)
def test_two_people_in_one_browser_agree_each_for_themselves(made: Scene) -> None:
    """Whoever sits down after somebody else is asked, and gets nothing of the first."""
    person, app = somebody(made, "eve"), program(made)
    eves = app.redeem(person.authorize(app.url())).json()
    person.signs_in = partial(made.provider.come_back, sub="finn")  # the same browser, with all its cookies
    page = person.ask("GET", app.url())
    assert "Notes" in page.text  # asked all the same
    finns = app.redeem(person.come_back(person.signs_in(person.agree(page)))).json()
    assert [claims(one["access_token"])["sub"] for one in (eves, finns)] == ["eve", "finn"]
    (of_eve,), (of_finn,) = consents(made, "eve"), consents(made, "finn")
    assert of_eve["id"] != of_finn["id"]
    made.gateway.limen("consents", "revoke", of_eve["id"])
    is_over(made, app, eves)
    assert works(made, finns)


@pytest.mark.timeout(90)
def test_killed_between_consent_and_callback_the_sign_in_goes_on(made: Scene) -> None:
    """And it ends once: the same way back again brings no second code."""
    person, app = somebody(made, "gus"), program(made)
    back = person.signs_in(person.agree(person.ask("GET", app.url())))
    made.gateway.stop(signal.SIGKILL)
    made.gateway.start()
    came = person.come_back(back)
    again = person.ask("GET", back)
    assert not again.is_redirect or "code=" not in again.headers["location"]
    tokens = app.redeem(came).json()
    assert works(made, tokens)
    assert len(consents(made, "gus")) == 1


@pytest.mark.timeout(90)
def test_killed_between_callback_and_token_the_code_is_good_once(made: Scene) -> None:
    person, app = somebody(made, "hal"), program(made)
    came = person.authorize(app.url())
    made.gateway.stop(signal.SIGKILL)
    made.gateway.start()
    first = app.redeem(came)
    assert first.status_code == 200, first.text
    assert works(made, first.json())
    assert len(consents(made, "hal")) == 1
    made.gateway.stop(signal.SIGKILL)
    made.gateway.start()
    made_of_it = [first.json()]  # who spent it died: its client may ask once more, for tokens in the place of those

    def spent() -> bool:
        again = app.redeem(came)
        if again.status_code == 200:
            made_of_it.append(again.json())
        return again.status_code == 400

    made.gateway.until(spent)  # and then it is a replay, which ends everything
    assert len(made_of_it) <= 2
    for tokens in made_of_it:
        is_over(made, app, tokens)
    _, begun_again = signed_in(made, "hal")
    assert works(made, begun_again)


@pytest.mark.timeout(120)
def test_a_device_is_connected_in_a_real_browser(made: Scene) -> None:
    """RFC 8628 with Chromium, no scripts: a wrong code, the right one, consent, sign-in; the device gets its tokens."""
    device = Program(made.base, "screen")
    asked = device.post("/oauth/device_authorization", resource=f"{made.base}/mcp/one").json()
    poll = partial(device.post, "/oauth/token", grant_type=DEVICE, device_code=asked["device_code"])
    assert poll().json()["error"] == "authorization_pending"
    with chromium() as browser:
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto(asked["verification_uri"])
        page.fill("input[name=user_code]", "BBBB-BBBB")
        page.get_by_role("button", name="Continue").click()
        page.get_by_role("alert").wait_for()
        page.fill("input[name=user_code]", asked["user_code"].lower())
        page.get_by_role("button", name="Continue").click()
        shown = page.inner_text("main")
        assert "Meeting room screen" in shown
        assert "Never go on with a code that somebody sent you" in shown
        page.get_by_role("button", name="Allow").click()
        page.wait_for_url(f"{made.provider.issuer}/**")
        page.fill("input[name=login]", "ida")
        page.fill("input[name=password]", "any")
        page.click("button[type=submit]")
        page.click("button[type=submit]")
        page.get_by_role("heading", name="The device is connected").wait_for()
    got = poll()
    for _ in range(3):  # it may have polled too early
        if got.status_code == 200:
            break
        assert got.json()["error"] == "slow_down", got.text
        time.sleep(5.1)
        got = poll()
    tokens = got.json()
    assert claims(tokens["access_token"])["sub"] == "ida"
    assert works(made, tokens)
    assert poll().json()["error"] in ("invalid_grant", "expired_token")


@pytest.mark.timeout(90)
def test_a_client_that_registered_proves_itself_and_manages_itself(made: Scene) -> None:
    """RFC 7591 with a secret, sent with HTTP Basic; RFC 7592; and without the secret nobody is this client."""
    asked = {"client_name": "Reports", "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "client_secret_basic"}
    with httpx2.Client(timeout=30, trust_env=False) as web:
        given = web.post(f"{made.base}/oauth/register", json=asked).json()
        app = program(made, given["client_id"], secret=given["client_secret"])
        came = somebody(made, "joe").authorize(app.url())
        thief = program(made, given["client_id"], verifier=app.verifier)
        assert (thief.redeem(came).status_code, thief.redeem(came).json()["error"]) == (401, "invalid_client")
        thief.secret = "not the secret"
        assert thief.redeem(came).status_code == 401
        tokens = app.redeem(came).json()
        assert works(made, tokens)
        assert thief.refresh(tokens["refresh_token"]).status_code == 401
        told = app.post("/oauth/introspect", token=tokens["access_token"]).json()
        assert (told["active"], told["sub"]) == (True, "joe")

        place, own = given["registration_client_uri"], {"authorization": f"Bearer {given['registration_access_token']}"}
        assert web.get(place).status_code == 401
        assert web.get(place, headers={"authorization": f"Bearer {tokens['access_token']}"}).status_code == 401
        read = web.get(place, headers=own).json()
        assert read["client_name"] == "Reports"
        assert "client_secret" not in read
        changed = {**asked, "client_id": given["client_id"], "client_name": "Reports 2"}
        assert web.put(place, headers=own, json=changed).json()["client_name"] == "Reports 2"
        page = somebody(made, "joe").ask("GET", app.url())
        assert "Reports 2" in page.text
        assert web.delete(place, headers=own).status_code == 204
        assert web.get(place, headers=own).status_code == 401
    refused = somebody(made, "joe").ask("GET", app.url())
    assert refused.status_code in (400, 401)
    assert app.refresh(tokens["refresh_token"]).status_code == 401


def test_an_answer_for_another_browser_is_worth_nothing(made: Scene) -> None:
    """A stranger who gets somebody to open the way back gets no code with their name on it."""
    attacker, victim, app = somebody(made, "mallory"), somebody(made, "vic"), program(made)
    onward = attacker.agree(attacker.ask("GET", app.url()))
    back = victim.signs_in(onward)
    assert parse_qsl(urlsplit(back).query)
    answer = victim.ask("GET", back)
    assert answer.status_code == 403
    assert not consents(made, "vic")
    assert not attacker.ask("GET", back).headers.get("location", "").startswith(REDIRECT + "?code")
