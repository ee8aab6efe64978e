"""The way to a certified OpenID provider and back, over HTTP, and to Entra ID as it answers on loopback."""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from entra_provider import TENANT, EntraProvider, running_entra
from minting import Key
from oauth.loopback import LoopbackExchange
from oauth.proving_keys import certificate, pem
from oauth.ways import GATEWAY, HR, World
from provider import Provider, running_provider

BACK = f"{GATEWAY}/oauth/callback"
SECRET = "p&ss+word: 100%"  # form-encoded before it is put into Basic credentials


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider({HR: "hr:read"}, callback=BACK) as running:
        yield running


@pytest.fixture
def entra() -> Iterator[EntraProvider]:
    with running_entra(redirect_uris=[BACK]) as tenant:
        yield tenant


def way_back(url: str) -> str:
    return f"/oauth/callback?{urlsplit(url).query}"


@pytest.mark.requirement("AS-01", "AS-38")
def test_signing_in_at_the_real_provider(tmp_path: Path, provider: Provider) -> None:
    """Honest twin of everything: and a key that is rotated in between is found."""
    settings = {"issuer": provider.issuer, "client_id": "gateway", "client_secret": SECRET, "scopes": ("openid",)}
    world = World(tmp_path, exchange=LoopbackExchange(), clock=time.time, **settings)
    browser = world.browser()
    for sub in ("alice", "bob"):
        answer = browser.open(way_back(provider.come_back(browser.allow(browser.ask()), sub)))
        asked, user, _ = world.neighbours.codes[answer.query["code"]]
        assert (user.issuer, user.subject, asked.scopes) == (provider.issuer, sub, ("hr:read",))
        provider.rotate()
        world.provider._published._keys.clear()
    assert world.neighbours.kept[0][1].access


def test_the_real_provider_knows_us_by_our_secret_and_our_verifier(tmp_path: Path, provider: Provider) -> None:
    settings = {"issuer": provider.issuer, "client_id": "gateway", "client_secret": "another", "scopes": ("openid",)}
    world = World(tmp_path, exchange=LoopbackExchange(), clock=time.time, **settings)
    browser = world.browser()
    back = way_back(provider.come_back(browser.allow(browser.ask())))
    assert browser.open(back).query["error"] == "server_error"
    assert world.neighbours.noted[-1]["field"] == "invalid_client" and not world.neighbours.codes


def test_the_real_provider_signs_in_anew_where_a_client_wants_that(tmp_path: Path, provider: Provider) -> None:
    settings = {"issuer": provider.issuer, "client_id": "gateway", "client_secret": SECRET, "scopes": ("openid",)}
    world = World(tmp_path, exchange=LoopbackExchange(), clock=time.time, **settings)
    browser = world.browser()
    onward = browser.allow(browser.ask(prompt="login", max_age="60"))
    assert dict(parse_qsl(urlsplit(onward).query))["prompt"] == "login"
    answer = browser.open(way_back(provider.come_back(onward)))
    assert world.neighbours.codes[answer.query["code"]][1].auth_time


def test_entra_gets_no_resource_and_its_own_scopes(tmp_path: Path, entra: EntraProvider) -> None:
    """A name of ours becomes `api://CLIENT/NAME`; what a client asked of us stays here (AADSTS9010010, 900144)."""
    own = entra.offered[entra.app_uri][0]
    settings = entra.settings(scopes=("openid", "profile", own), refresh=True)
    world = World(tmp_path, exchange=LoopbackExchange(), clock=time.time, **settings)
    browser = world.browser()
    onward = browser.allow(browser.ask(acr_values="urn:mfa"))
    answer = browser.open(way_back(entra.follow(onward)))
    _, user, _ = world.neighbours.codes[answer.query["code"]]
    assert user.subject.endswith(f"@{TENANT}") and len(user.subject) == 73 and user.name == "Alice"
    sent = [seen.form for seen in entra.seen if "scope" in seen.form]
    assert {form["scope"] for form in sent} == {f"openid profile {entra.app_uri}/{own} offline_access"}
    assert len(sent) == 2 and not any("resource" in form or "acr_values" in form for form in sent)
    tokens = world.neighbours.kept[0][1]
    assert tokens.refresh and " ".join(tokens.scopes) == sent[0]["scope"]  # what they are renewed under


def test_entra_knows_us_by_our_certificate(tmp_path: Path, entra: EntraProvider) -> None:
    key = Key("RS256").private
    shown = certificate(key)
    settings = entra.settings(
        client_key=pem(key), client_certificate=shown.public_bytes(Encoding.PEM).decode(), client_secret=None
    )
    world = World(tmp_path, exchange=LoopbackExchange(), clock=time.time, **settings)
    browser = world.browser()
    for known, field in (([key.public_key()], None), ([Key("RS256").private.public_key()], "AADSTS700027")):
        entra.client_keys = known
        answer = browser.open(way_back(entra.follow(browser.allow(browser.ask()))))
        assert ("code" in answer.query) == (field is None)
        assert field is None or world.neighbours.noted[-1]["field"] == field
    header = jwt.get_unverified_header(entra.seen[-1].form["client_assertion"])
    print_of = urlsafe_b64encode(shown.fingerprint(hashes.SHA256())).rstrip(b"=").decode()
    assert (header["alg"], header["x5t#S256"]) == ("PS256", print_of)


def test_entras_own_codes_reach_the_operator(tmp_path: Path, entra: EntraProvider) -> None:
    world = World(tmp_path, exchange=LoopbackExchange(), clock=time.time, **entra.settings(client_secret="another"))
    browser = world.browser()
    answer = browser.open(way_back(entra.follow(browser.allow(browser.ask()))))
    assert answer.query["error"] == "server_error" and "AADSTS" not in answer.location
    assert world.neighbours.noted[-1]["field"] == "AADSTS7000215"
    entra.consented = False
    answer = browser.open(way_back(entra.follow(browser.allow(browser.ask()))))
    assert answer.query["error"] == "access_denied" and world.neighbours.noted[-1]["field"] == "AADSTS65004"


def test_another_tenant_or_version_is_nobody(tmp_path: Path, entra: EntraProvider) -> None:
    world = World(tmp_path, exchange=LoopbackExchange(), clock=time.time, **entra.settings())
    browser = world.browser()
    wrong = ({"tid": TENANT.replace("1", "2")}, {"ver": "1.0"}, {"oid": None}, {"_claim_names": {"groups": "src1"}})
    for claims in wrong:
        entra.claims["alice"] = claims
        answer = browser.open(way_back(entra.follow(browser.allow(browser.ask()))))
        assert answer.query["error"] == "server_error" and not world.neighbours.codes
    assert [note["field"] for note in world.neighbours.noted if note["leg"] == "callback"] == [
        "tid", "ver", "oid", "groups",
    ]  # fmt: skip
