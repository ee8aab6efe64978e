"""Attacks on the seams: what one part of the sign-in hands to the next, in the running gateway."""

from __future__ import annotations

import json
import re
import signal
import time
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from oauth.joined_visitor import Visitor
from oauth.signing_in import SECRET, Scene, scene


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    patch = pytest.MonkeyPatch()
    with scene(tmp_path_factory.mktemp("joined"), patch, vault={}) as found:
        yield found
    patch.undo()


def visitor(made: Scene) -> Visitor:
    found = Visitor(made)
    found.register()
    return found


@pytest.mark.requirement("OA-92")
def test_no_secret_is_in_any_file_oa92(made: Scene) -> None:
    """OA-92: after sign-ins that go well and wrong, no code, token, cookie, verifier, CSRF value or secret is in the
    records, the log, or what the operator is told; not even encoded."""
    person = visitor(made)
    given = person.signed_in()
    assert made.gateway.call("echo", given["access_token"])[0] == 200
    form = {"grant_type": "refresh_token", "refresh_token": given["refresh_token"], "client_id": person.client_id}
    renewed = person.tokens(form).json()
    person.tokens({**form, "client_id": "somebody"})
    code = person.code(person.back(person.left()))
    assert person.redeem(code, code_verifier="w" * 60).status_code == 400
    assert person.redeem(code).status_code == 400
    away = person.left()
    stranger = Visitor(made)
    stranger.seen, stranger.verifier = person.seen, person.verifier
    assert stranger.back(away).status_code == 403  # another browser
    person.click({**person.form(person.page()), "csrf": person.seen["verifier"]})
    person.send("GET", "/oauth/callback", params={"code": code, "state": "s" * 43})
    person.send("POST", "/oauth/revoke", data={"token": renewed["access_token"], "client_id": person.client_id})
    person.register(token_endpoint_auth_method="client_secret_basic")
    person.send("POST", "/oauth/token", data={"grant_type": "authorization_code"}, auth=(person.client_id, "no"))
    made.gateway.call("echo", f"{renewed['access_token'][:-4]}AAAA")
    made.gateway.limen("signins", "list", "--json")
    made.gateway.stop(signal.SIGTERM)
    wanted = {**person.seen, "provider's secret": SECRET, "no secret": person.client_id}
    found, read = [], 0
    for place in made.gateway.directory.rglob("*"):
        if place.is_file():
            data, read = place.read_bytes(), read + 1
            for name, secret in wanted.items():
                raw = secret.encode()
                if raw in data or b64encode(raw)[:-4] in data:
                    found.append((name, place.name))
    made.gateway.start()
    assert read > 5
    assert len(wanted) > 20
    assert {name for name, _ in found} == {"no secret"}  # what is there is found


def put(made: Scene, **oauth: Any) -> dict[str, Any]:
    """Change what the file says under `oauth`, and have it read again."""
    config: dict[str, Any] = json.loads(made.gateway.config.read_text())
    config["oauth"].update(oauth)
    made.gateway.config.write_text(json.dumps(config))
    before = len(made.gateway.records("reload"))
    made.gateway.process.send_signal(signal.SIGHUP)
    made.gateway.until(lambda: made.gateway.process.poll() is not None or len(made.gateway.records("reload")) > before)
    return config


def test_clients_that_cannot_be_do_not_stop_the_gateway(made: Scene) -> None:
    """What only the authorization server finds wrong in a file is found before anything of the file is in force."""
    person = visitor(made)
    good = json.loads(made.gateway.config.read_text())["oauth"]["clients"]
    broken = {"name": "Broken", "redirect_uris": [f"{made.base}/oauth/callback"]}  # a code would come back to us
    put(made, clients={**good, "known": {"broken": broken}})
    assert made.gateway.process.poll() is None, made.gateway.log
    assert made.gateway.records("reload")[-1]["ok"] is False
    assert person.signed_in()["access_token"]
    put(made, clients=good)
    assert made.gateway.records("reload")[-1]["ok"] is True
    assert person.signed_in()["access_token"]


@pytest.mark.requirement("OA-83")
def test_a_person_locked_out_by_their_provider_is_out_oa83(made: Scene) -> None:
    """OA-83: an operator names people as the provider does; tokens of ours that are out end with that."""
    given = visitor(made).signed_in()
    assert made.gateway.call("echo", given["access_token"])[0] == 200
    made.gateway.limen("revoke", "user", "alice", "--issuer", "https://other.example")
    time.sleep(1.2)
    assert made.gateway.call("echo", given["access_token"])[0] == 200
    row = json.loads(made.gateway.limen("revoke", "user", "alice", "--issuer", made.provider.issuer, "--json"))
    made.gateway.until(lambda: made.gateway.call("echo", given["access_token"])[0] == 401, 5)
    made.gateway.limen("revoke", "undo", row["id"])
    made.gateway.until(lambda: made.gateway.call("echo", given["access_token"])[0] == 200, 5)


@pytest.mark.requirement("OA-02", "OA-03", "OA-09")
def test_nothing_of_one_way_fits_into_another_oa02_oa03_oa09(made: Scene) -> None:
    """OA-02 OA-03 OA-09: two tabs, two clients, two browsers: forms, cookies and answers of the provider are good for
    their own way alone, and once."""
    person, other = visitor(made), visitor(made)
    one, two = person.page("one"), person.page("two")
    first, second = person.form(one), person.form(two)
    for name in ("transaction", "offered", "csrf"):
        if first[name] != second[name]:
            assert person.click({**first, name: second[name]}).status_code == 403
    assert other.click(first).status_code == 403  # another browser's form
    away, again = person.onward(person.click(first)), person.onward(person.click(second))
    place, later = made.provider.come_back(away), made.provider.come_back(again)
    code, state = (re.search(rf"[?&]{name}=([^&]+)", place) for name in ("code", "state"))
    assert code is not None
    assert state is not None
    mixed = re.sub(r"([?&]code=)[^&]+", rf"\g<1>{code[1]}", later)  # the code of one tab under the state of the other
    assert person.come(mixed).headers.get("location", "").count("code=") == 0
    assert other.come(place).status_code == 403  # and that is the end of it
    assert person.come(place).status_code == 403
    done = person.back(person.left("two"))
    tokens = person.redeem(person.code(done)).json()
    assert made.gateway.call("echo", tokens["access_token"], "two")[0] == 200
    assert made.gateway.call("echo", tokens["access_token"], "one")[0] == 401


def test_a_click_twice_is_one_way(made: Scene) -> None:
    """The back button: the second answer takes the place of the first, whose way leads nowhere any more."""
    person = visitor(made)
    form = person.form(person.page())
    first, second = (person.onward(person.click(form)) for _ in range(2))
    assert person.back(first).status_code == 400
    assert "code=" in person.back(second).headers["location"]
    assert person.click(form).status_code == 400
