"""The official client signs in through Limen: a real provider behind it, a real browser in front of the pages."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.shared.auth import OAuthToken

from browser import chromium
from oauth.signing_in import HOST, Scene, published, scene, waiting_client


@pytest.fixture
def registering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with scene(tmp_path, monkeypatch) as made:
        yield made


def at_the_provider(page: Any, name: str = "alice") -> None:
    """Type a name and a password, and agree to what the provider asks."""
    page.fill("input[name=login]", name)
    page.fill("input[name=password]", "any")
    page.click("button[type=submit]")
    page.click("button[type=submit]")


def agreeing(scene: Scene, name: str, user: str = "alice") -> Callable[[str], None]:
    """A person without scripts who says yes, after a look at who asks."""

    def person(url: str) -> None:
        with chromium() as browser:
            page = browser.new_context(java_script_enabled=False).new_page()
            page.goto(url)
            assert name in page.inner_text("main")
            page.get_by_role("button", name="Allow").click()
            page.wait_for_url(f"{scene.provider.issuer}/**")
            at_the_provider(page, user)
            page.wait_for_url(f"{scene.redirect}*")

    return person


def nobody(url: str) -> None:
    raise AssertionError(f"a person was asked again: {url}")


def test_a_client_registers_signs_in_and_calls(registering: Scene) -> None:
    """The official client, nothing but the server's address given: registration, consent, sign-in, call, and the same
    tokens again in its next run, also after the gateway was killed."""
    assert registering.connect(agreeing(registering, "Notes for Linux")) == "ran echo"
    assert registering.connect(nobody) == "ran echo"
    registering.gateway.stop(signal.SIGKILL)
    registering.gateway.start()
    assert registering.connect(nobody) == "ran echo"
    tokens, client = registering.kept.tokens, registering.kept.client
    assert tokens is not None
    assert client is not None
    form = {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token, "client_id": client.client_id}
    renewed = httpx2.post(f"{registering.base}/oauth/token", data=form, trust_env=False)
    assert renewed.status_code == 200, renewed.text
    assert renewed.json()["refresh_token"] != tokens.refresh_token
    registering.kept.tokens = OAuthToken.model_validate(renewed.json())
    assert registering.connect(nobody) == "ran echo"
    steps = json.loads(registering.gateway.limen("signins", "list", "--json"))
    assert [step["outcome"] for step in steps if step["user"]]
    (sent,) = {head for head, body in registering.gateway.recorder.seen if b"ran" in body} or {""}
    assert "authorization" not in sent.lower()


def test_a_client_with_a_document_signs_in_and_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its Client ID Metadata Document, with nothing registered; who says no is not asked at the provider."""
    with waiting_client() as waiting:
        redirect = f"http://127.0.0.1:{waiting.server_port}/callback"
        with published(tmp_path, monkeypatch, redirect) as (address, server):
            clients = {"documents": {"inside_hosts": [HOST]}}
            with scene(tmp_path, monkeypatch, clients=clients, waiting=waiting) as made:
                with pytest.raises(BaseExceptionGroup) as refused:
                    made.connect(partial(declining, made), document=address)
                assert "access_denied" in repr(refused.value.exceptions)
                assert made.connect(agreeing(made, "Notes for the Web"), document=address) == "ran echo"
                assert server.asked >= 1
                rows = json.loads(made.gateway.limen("consents", "list", "--json"))
                assert [(row["client"], row["user"], row["server"]) for row in rows] == [(address, "alice", "one")]


def declining(scene: Scene, url: str) -> None:
    with chromium() as browser:
        page = browser.new_context().new_page()
        page.goto(url)
        page.get_by_role("button", name="Deny").click()
        page.wait_for_url(f"{scene.redirect}*")
