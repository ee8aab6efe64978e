"""Whole ways where more is shared or somebody else signs people in: two replicas on PostgreSQL, and Entra ID."""

from __future__ import annotations

import json
import signal
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from entra_provider import TENANT, running_entra
from gateway.running import Running, running
from launched import free_port
from oauth.scripted import Person, Program, claims
from oauth.signing_in import SECRET
from provider import Provider, running_provider
from stores import new_postgres

REDIRECT = "http://127.0.0.1:9/callback"
KNOWN = {"notes": {"name": "Notes", "redirect_uris": [REDIRECT]}}
EVERYBODY = {"rules": [{"allow": "anyone", "call": "*/*", "scopes": ["use"]}]}
SHARED = ("token-keys", "vault-keys", "handle-keys", "consent.key")  # beside `storage.path`: see docs/state.md


@dataclass
class Pair:
    """Two replicas behind one address, which is the first one's."""

    one: Running
    other: Running
    provider: Provider

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.one.port}"

    @property
    def doors(self) -> tuple[str, str]:
        return f"127.0.0.1:{self.one.port}", f"127.0.0.1:{self.other.port}"

    def program(self) -> Program:
        return Program(self.base, "notes", REDIRECT, f"{self.base}/mcp/one")

    def person(self, name: str) -> Person:
        return Person(partial(self.provider.come_back, sub=name))

    def calls(self, token: str) -> list[int]:
        host = f"127.0.0.1:{self.one.port}"
        return [gateway.call("echo", token, Host=host)[0] for gateway in (self.one, self.other)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    url, database = new_postgres()
    shared, port, behind = tmp_path_factory.mktemp("shared"), free_port(), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROVIDER_SECRET", SECRET)
        base = f"http://127.0.0.1:{port}"
        with running_provider({}, callback=f"{base}/oauth/callback") as provider:
            signing = {"issuer": provider.issuer, "client_id": "gateway", "client_secret": "${env:PROVIDER_SECRET}"}
            settings: dict[str, Any] = {
                "storage": {"kind": "postgres", "url": url, "path": str(shared / "limen.db")},
                "audit": {"path": "audit", "key": str(shared / "audit.key")},
                "identity": {}, "policy": EVERYBODY,
                "oauth": {"provider": {**signing, "scopes": ["openid"]}, "clients": {"known": KNOWN}},
            }  # fmt: skip
            first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
            with running(first, port=port, approved=("one",), tools=("echo",), **settings) as one:
                settings["mcpServers"] = json.loads(one.config.read_text())["mcpServers"]
                settings["listen"] = {"url": base, "bind": f"127.0.0.1:{behind}"}
                with running(second, port=behind, approved=(), **settings) as other:
                    assert not {name for name in SHARED if not (shared / name).exists()}
                    yield Pair(one, other, provider)
    database.kill()


@pytest.mark.timeout(120)
def test_a_sign_in_goes_from_replica_to_replica(pair: Pair) -> None:
    """Each step at the other door: asked, agreed, back, redeemed, refreshed, called, ended."""
    person, app = pair.person("alice"), pair.program()
    one, other = pair.doors
    person.door = one
    page = person.ask("GET", app.url())
    person.door = other
    back = person.signs_in(person.agree(page))
    person.door = one
    came = person.come_back(back)
    app.door = other
    answer = app.redeem(came)
    assert answer.status_code == 200, answer.text
    assert pair.calls(answer.json()["access_token"]) == [200, 200]
    app.door = one
    renewed = app.refresh(answer.json()["refresh_token"])
    assert renewed.status_code == 200, renewed.text
    assert pair.calls(renewed.json()["access_token"]) == [200, 200]
    app.door = other
    assert app.post("/oauth/revoke", token=renewed.json()["refresh_token"]).status_code == 200
    token = renewed.json()["access_token"]
    pair.one.until(lambda: pair.calls(token) == [401, 401], 5)
    app.door = one
    assert app.refresh(renewed.json()["refresh_token"]).json()["error"] == "invalid_grant"


@pytest.mark.timeout(120)
def test_a_code_at_both_replicas_at_once_is_good_once(pair: Pair) -> None:
    app = pair.program()
    came = pair.person("bob").authorize(app.url())
    answers: list[int] = []

    def redeem(door: str) -> None:
        answers.append(Program(app.base, "notes", REDIRECT, app.resource, verifier=app.verifier, door=door)
                       .redeem(came).status_code)  # fmt: skip

    threads = [threading.Thread(target=redeem, args=(door,)) for door in pair.doors * 10]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [200, *[400] * 19]


@pytest.mark.timeout(120)
def test_a_replica_is_killed_and_the_other_finishes_what_it_began(pair: Pair) -> None:
    person, app = pair.person("carol"), pair.program()
    person.door, app.door = pair.doors[0], pair.doors[1]
    back = person.signs_in(person.agree(person.ask("GET", app.url())))
    pair.one.stop(signal.SIGKILL)
    person.door = pair.doors[1]
    tokens = app.redeem(person.come_back(back)).json()
    host = f"127.0.0.1:{pair.one.port}"
    assert pair.other.call("echo", tokens["access_token"], Host=host)[0] == 200
    pair.one.start()
    assert pair.calls(tokens["access_token"]) == [200, 200]
    rows = json.loads(pair.other.limen("consents", "list", "--user", "carol", "--json"))
    assert len(rows) == 1


@pytest.mark.timeout(90)
def test_a_client_signs_in_at_entra_through_limen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`resource`, which clients send us and Entra refuses (AADSTS9010010), stays here; its scopes are its own."""
    authority, port = trustme.CA(), free_port()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(trusting)
    with running_entra([f"http://127.0.0.1:{port}/oauth/callback"], tls=context) as entra:
        monkeypatch.setenv("PROVIDER_SECRET", entra.client_secret)
        signing = entra.settings(client_secret="${env:PROVIDER_SECRET}")
        oauth = {"provider": signing, "clients": {"known": KNOWN}}
        settings: dict[str, Any] = {"identity": {}, "policy": EVERYBODY, "oauth": oauth}
        with running(tmp_path, port=port, approved=("one",), tools=("echo",), **settings) as gateway:
            base = f"http://127.0.0.1:{port}"
            app = Program(base, "notes", REDIRECT, f"{base}/mcp/one")
            person = Person(partial(entra.follow, verify=trusting))
            tokens = app.redeem(person.authorize(app.url(scope="use"))).json()
            said = claims(tokens["access_token"])
            assert (said["aud"], said["scope"], said["iss"]) == (app.resource, "use", base)
            assert said["sub"].endswith(f"@{TENANT}")
            assert gateway.call("echo", tokens["access_token"])[0] == 200
            assert app.refresh(tokens["refresh_token"]).status_code == 200
            sent = [one.form for one in entra.seen if "scope" in one.form]
            assert len(sent) == 2, sent  # the browser, and the code's redemption
            assert not any("resource" in form for form in sent)
            assert {form["scope"] for form in sent} == {" ".join(signing["scopes"])}
            entra.consented = False  # what Entra says stays with the operator (AADSTS65004)
            blocked = somebody_else(entra, trusting, app)
            assert "error=access_denied" in blocked
            assert "AADSTS" not in blocked


def somebody_else(entra: Any, trusting: ssl.SSLContext, app: Program) -> str:
    """The text of where a sign-in ends that Entra does not finish."""
    person = Person(partial(entra.follow, verify=trusting))
    onward = person.agree(person.ask("GET", app.url()))
    return person.come_back(person.signs_in(onward))
