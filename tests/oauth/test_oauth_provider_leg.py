"""What is believed of an identity provider: its metadata, its keys, its ID tokens. One thing is wrong at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from limen.core.faults import DependencyFault
from limen.oauth.fresh import Fresh
from limen.oauth.provider_metadata import read_server
from limen.oauth.settings import ProviderSettings
from minting import Clock, Key
from oauth.idp_simulator import ISSUER
from oauth.proving_keys import certificate, pem
from oauth.ways import VERIFIER, Answer, World

ENTRA = "https://login.microsoftonline.com/11111111-aaaa-4bbb-8ccc-000000000001/v2.0"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refused(world: World, answer: Answer, field: str) -> bool:
    """Whether nobody got in, nothing is left, and the operator was told which field it was."""
    assert not world.neighbours.codes and not world.neighbours.kept and world.rows("") == []
    assert "code" not in answer.query and "id.example" not in answer.text
    return field == world.neighbours.noted[-1]["field"]


@pytest.mark.parametrize(
    ("claims", "field"),
    [
        ({"aud": "another"}, "aud"),
        ({"aud": None}, "aud"),
        ({"aud": ["limen", "another"]}, "aud"),
        ({"aud": ["limen", "limen"]}, "aud"),
        ({"azp": "another"}, "azp"),
        ({"nonce": "n" * 43}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"nonce": ["a"]}, "nonce"),
        ({"exp": 1_900_000_000 - 61}, "exp"),
        ({"exp": None}, "exp"),
        ({"exp": "9999999999"}, "exp"),
        ({"exp": True}, "exp"),
        ({"iat": 1_900_000_000 + 61}, "iat"),
        ({"iat": None}, "iat"),
        ({"nbf": 1_900_000_000 + 61}, "nbf"),
        ({"auth_time": 1_900_000_000 + 61}, "auth_time"),
        ({"auth_time": -1}, "auth_time"),
        ({"at_hash": "A" * 22}, "at_hash"),
        ({"iss": "https://id.example/"}, "iss"),
        ({"iss": "https://ID.example"}, "iss"),
        ({"iss": "https://evil.example"}, "iss"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": "alice\u0000"}, "sub"),
        ({"sub": "a" * 256}, "sub"),
        ({"groups": ["staff", 7]}, "groups"),
        ({"hasgroups": True, "groups": None}, "groups"),
        ({"_claim_names": {"groups": "src1"}, "groups": None}, "groups"),
        ({"_claim_names": {"roles": "src1"}}, "roles"),
        ({"acr": 1}, "acr"),
    ],
)
def test_an_id_token_with_one_thing_wrong_signs_nobody_in(world: World, claims: dict[str, Any], field: str) -> None:
    world.idp.claims = claims
    answer = world.browser().sign_in()
    assert refused(world, answer, field) and answer.query["error"] == "server_error"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["limen"]},
        {"azp": "limen"},
        {"exp": 1_900_000_000 - 59},
        {"iat": 1_900_000_000 + 59},
        {"at_hash": None, "auth_time": None, "acr": None, "amr": None, "groups": None, "name": None},
        {"groups": "staff"},
    ],
)
def test_honest_id_tokens_with_a_minute_between_the_clocks(world: World, claims: dict[str, Any]) -> None:
    world.idp.claims = claims
    assert "code" in world.browser().sign_in().query


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "PS256", "EdDSA"])
def test_every_usual_algorithm(world: World, algorithm: str) -> None:
    world.idp.key = Key(algorithm, kid="idp-1")
    world.idp.published = [world.idp.key.jwk]
    assert "code" in world.browser().sign_in().query


def test_algorithms_are_ours_to_choose(tmp_path: Path) -> None:
    world = World(tmp_path, algorithms=("RS256",))
    assert refused(world, world.browser().sign_in(), "alg")


@pytest.mark.parametrize("forged", ["none", "hmac", "stripped", "other key", "own jwk", "five parts", "not there"])
def test_a_token_nobody_signed(world: World, forged: str) -> None:
    """A client secret is no key, and the token brings none along (RFC 8725)."""
    honest = world.idp.id_token

    def forge(grant: Any) -> str:
        header, payload, signature = honest(grant).split(".")
        stranger = Key("ES256", kid="idp-1")
        if forged == "none":
            return f"{Key('ES256').sign({'alg': 'none'}, b'{}').split('.')[0]}.{payload}."
        if forged == "hmac":
            return stranger.sign({"alg": "HS256", "typ": "JWT"}, b"{}").split(".")[0] + f".{payload}.{signature}"
        if forged == "other key":
            world.idp.key, mine = stranger, world.idp.key
            token = honest(grant)
            world.idp.key = mine
            return token
        if forged == "own jwk":
            head = stranger.sign(stranger.header(jwk=stranger.jwk, typ="JWT"), b"{}").split(".")[0]
            return f"{head}.{payload}.{signature}"
        return {"stripped": f"{header}.{payload}.", "five parts": "a.b.c.d.e", "not there": ""}[forged]

    world.idp.id_token = forge  # type: ignore[method-assign]
    answer = world.browser().sign_in()
    field = {"other key": "signature", "hmac": "alg"}.get(forged, "id_token")
    assert refused(world, answer, field), world.neighbours.noted[-1]


@pytest.mark.requirement("OA-50")
def test_keys_are_picked_up_when_they_rotate(world: World) -> None:
    """OA-50: the new one at once, the old one until it is gone, and strangers' names cause no storm."""
    assert "code" in world.browser().sign_in().query
    world.idp.key = Key("ES256", kid="idp-2")
    world.idp.published = [world.idp.key.jwk, *world.idp.published]
    world.clock.now += 11
    assert "code" in world.browser().sign_in().query
    before = len([url for url in world.idp.gets if url.endswith("/jwks")])
    world.idp.key = Key("ES256", kid="unknown")
    for _ in range(5):
        answer = world.browser().sign_in()
        assert answer.query["error"] == "server_error" and world.neighbours.noted[-1]["field"] == "kid"
    assert len([url for url in world.idp.gets if url.endswith("/jwks")]) <= before + 1
    assert len(world.neighbours.codes) == 2


def test_keys_that_are_weak_or_secret_verify_nothing(world: World) -> None:
    for weak in (Key("RS256", kid="idp-1", bits=1024), Key("ES256", kid="idp-1", d="AAAA")):
        world.idp.key, world.idp.published = weak, [weak.jwk]
        world.clock.now += 1000
        assert world.browser().sign_in().query["error"] == "server_error"
        assert world.neighbours.noted[-1]["field"] == "kid"


@pytest.mark.requirement("OA-47")
@pytest.mark.parametrize(
    ("metadata", "member"),
    [
        ({"issuer": "https://id.example/"}, "issuer"),
        ({"issuer": "https://evil.example"}, "issuer"),
        ({"authorization_endpoint": "javascript:alert(1)//https://id.example"}, "authorization_endpoint"),
        ({"authorization_endpoint": "file:///etc/passwd"}, "authorization_endpoint"),
        ({"authorization_endpoint": "$(touch x)"}, "authorization_endpoint"),
        ({"authorization_endpoint": "https://user@id.example/auth"}, "authorization_endpoint"),
        ({"authorization_endpoint": "https://id.example/auth#x"}, "authorization_endpoint"),
        ({"authorization_endpoint": None}, "authorization_endpoint"),
        ({"token_endpoint": "http://id.example/token"}, "token_endpoint"),
        ({"token_endpoint": "https://127.0.0.1/token"}, "token_endpoint"),
        ({"token_endpoint": "https://id.example\\@evil.example/token"}, "token_endpoint"),
        ({"jwks_uri": "http://169.254.169.254/jwks"}, "jwks_uri"),
        ({"jwks_uri": ["https://id.example/jwks"]}, "jwks_uri"),
        ({"code_challenge_methods_supported": ["plain"]}, "code_challenge_methods_supported"),
        ({"response_types_supported": ["id_token"]}, "response_types_supported"),
    ],
)
def test_oa_47_metadata_of_another_or_with_a_bad_endpoint_leads_nowhere(
    world: World, metadata: dict[str, Any], member: str
) -> None:
    """OA-47: nobody is sent there, and the operator hears which member it was."""
    world.idp.metadata = metadata
    browser = world.browser()
    answer = browser.answer(browser.ask(), "allow")
    assert answer.status == 503 and not answer.link and not world.rows("state/")
    assert f"{member}:" in world.neighbours.noted[-1]["detail"]


@pytest.mark.requirement("OA-47")
def test_oa_47_honest_twins_of_metadata(world: World) -> None:
    """OA-47: endpoints elsewhere, a query, and what some providers do not say."""
    world.idp.metadata = {
        "authorization_endpoint": "https://login.example/auth?tenant=a",
        "code_challenge_methods_supported": None,
        "authorization_response_iss_parameter_supported": None,
    }
    browser = world.browser()
    onward = browser.allow(browser.ask())
    assert onward.startswith("https://login.example/auth?tenant=a&response_type=code&")
    answer = browser.open(world.idp.authorize(onward, iss=None))
    assert "code" in answer.query and VERIFIER not in onward


def test_metadata_on_loopback_may_stay_there() -> None:
    text = (
        '{"issuer":"http://127.0.0.1:9","authorization_endpoint":"http://127.0.0.1:9/a",'
        '"token_endpoint":"http://127.0.0.1:9/t","jwks_uri":"http://127.0.0.1:9/j"}'
    )
    assert read_server("http://127.0.0.1:9", text.encode()).token == "http://127.0.0.1:9/t"
    for bad in (
        text.replace("127.0.0.1:9/t", "192.0.2.1/t"),
        text.replace('"jwks_uri"', '"token_endpoint"'),
        "[]",
        "{",
    ):
        with pytest.raises(ValueError, match=r"token_endpoint|issuer|JSON"):
            read_server("http://127.0.0.1:9", bad.encode())


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ({"token_type": "mac"}, "token_type"),
        ({"token_type": None}, "token_type"),
        ({"access_token": None}, "access_token"),
        ({"access_token": 7}, "access_token"),
        ({"id_token": None}, "id_token"),
        ({"id_token": {"sub": "alice"}}, "id_token"),
        ({"error": "invalid_grant"}, "invalid_grant"),
    ],
)
def test_a_token_response_with_one_thing_wrong(world: World, answer: dict[str, Any], field: str) -> None:
    world.idp.answer = answer
    assert refused(world, world.browser().sign_in(), field)


def test_a_refused_client_is_the_operators_to_hear(world: World) -> None:
    world.idp.token_status = 401
    answer = world.browser().sign_in()
    assert answer.query["error"] == "server_error" and "invalid_client" not in answer.location
    assert world.neighbours.noted[-1]["field"] == "invalid_client"
    world.idp.token_status = 503
    assert world.browser().sign_in().query["error"] == "temporarily_unavailable"


@pytest.mark.parametrize(
    "settings",
    [
        {"issuer": "http://id.example"},
        {"issuer": "https://id.example/?x=1"},
        {"issuer": "javascript:alert(1)"},
        {"scopes": ("openid profile",)},
        {"algorithms": ("HS256",)},
        {"algorithms": ("none",)},
        {"kind": "entra"},
        {"kind": "entra", "issuer": "https://login.microsoftonline.com/common/v2.0"},
        {"resource": "not a URL"},
        {"kind": "entra", "issuer": ENTRA, "resource": "https://api.example"},
        {"kind": "entra", "issuer": ENTRA, "algorithms": ("ES256",)},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ProviderSettings.model_validate({"issuer": "https://id.example", "client_id": "limen", **settings})


def test_honest_settings_of_each_kind() -> None:
    """Twins of those above. Entra signs with RS256 and nothing else."""
    entra = ProviderSettings.model_validate({"kind": "entra", "issuer": ENTRA, "client_id": "limen"})
    generic = ProviderSettings.model_validate(
        {"issuer": ISSUER, "client_id": "limen", "resource": "https://api.example"}
    )
    assert (entra.signed_with, generic.signed_with) == (("RS256",), ("RS256", "ES256", "PS256", "EdDSA"))


def test_many_who_ask_at_once_are_one_request() -> None:
    async def run() -> None:
        clock, calls = Clock(), 0

        async def load() -> int:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0.01)
            if calls in (2, 3):
                raise DependencyFault("fetch", "down")
            return calls

        fresh = Fresh(load, clock, good=100, stale=1000, apart=10)
        asking = [asyncio.create_task(fresh.get()) for _ in range(10)]
        asking[0].cancel()
        assert {await one for one in asking[1:]} == {1} and calls == 1
        assert await fresh.get(anew=True) == 1 and calls == 1  # too soon
        clock.now += 101
        assert await fresh.get() == 1 and calls == 2  # down: what it said last is good a while
        clock.now += 900
        with pytest.raises(DependencyFault, match="down"):
            await fresh.get()
        clock.now += 11
        assert await fresh.get() == 4

    asyncio.run(run())


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "PS256"])
def test_a_client_with_a_key_signs_for_one_endpoint_once(tmp_path: Path, algorithm: str) -> None:
    """RFC 7523: what another library verifies; and nothing that could be shown again elsewhere."""
    private = Key(algorithm).private
    world = World(tmp_path, client_secret=None, client_key=pem(private), client_key_id="k-7")
    world.idp._authenticated = lambda form, headers: form["client_id"] == "limen"  # type: ignore[method-assign]
    browser = world.browser()
    for _ in range(2):
        assert "code" in browser.sign_in().query
    seen = []
    for form in world.idp.forms:
        assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        assert "client_secret" not in form and not any(world.idp.authorization)
        token, options = form["client_assertion"], {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
        claims = jwt.decode(
            token, private.public_key(), [algorithm], options, audience="https://id.example/token", issuer="limen"
        )
        assert claims["sub"] == "limen" and claims["exp"] - claims["iat"] == 60 and claims["iat"] == world.clock()
        assert jwt.get_unverified_header(token)["kid"] == "k-7"
        seen.append(claims["jti"])
    assert len(set(seen)) == 2


@pytest.mark.parametrize("wrong", ["both", "weak", "garbage", "foreign certificate", "no key", "public", "curve"])
def test_client_keys_that_cannot_work_are_refused(wrong: str) -> None:
    good, other = Key("RS256").private, Key("RS256").private
    public = good.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    given: dict[str, Any] = {
        "both": {"client_secret": "a secret", "client_key": pem(good)},
        "weak": {"client_key": pem(Key("RS256", bits=1024).private)},
        "garbage": {"client_key": "-----BEGIN PRIVATE KEY-----"},
        "foreign certificate": {
            "client_key": pem(good), "client_certificate": certificate(other).public_bytes(Encoding.PEM).decode(),
        },
        "no key": {"client_certificate": certificate(good).public_bytes(Encoding.PEM).decode()},
        "public": {"client_key": public},
        "curve": {"client_key": pem(Key("ES384").private)},
    }[wrong]  # fmt: skip
    with pytest.raises(ValidationError) as error:
        ProviderSettings.model_validate({"issuer": "https://id.example", "client_id": "limen", **given})
    assert "PRIVATE" not in str(error.value)
