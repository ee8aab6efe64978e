"""Keys come and go: rotation, outages, floods of unknown keys, hostile JWK sets and metadata."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from pydantic import ValidationError

from limen.core.call import Caller, Presented
from limen.core.chain import Chain
from limen.core.faults import DependencyFault
from limen.core.verdict import Refusal, Verdict
from limen.identity.discovery import metadata_urls
from limen.identity.issuers import IdentitySettings, Issuers, IssuerSettings
from limen.identity.keys import AlgorithmList, read_key_set
from minting import ISSUER, NOW, RESOURCE, Clock, FakeFetch, Key, World, caller, context, dump, reason

OLD, NEW, OTHER = Key(kid="old"), Key(kid="new"), Key(kid="other")
RSA = Key("RS256", kid="rsa")
INVALID = "identity.invalid"


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_rotation_under_load_fetches_once() -> None:
    async def story() -> None:
        world = World(OLD)
        await world.issuers.warm()
        world.clock.now += 11
        world.fetch.publish(NEW, OLD)
        world.fetch.calls.clear()
        world.fetch.wait = 0.02
        tokens = [NEW.token(jti=f"t-{number}") for number in range(100)]
        answers = await asyncio.gather(
            *(world.ask(token) for token in tokens), *(world.ask(OLD.token()) for _ in range(20))
        )
        assert all(caller(one) for one in answers)
        assert len(world.fetch.calls) == 1

    run(story())


def test_cold_start_under_load_fetches_once() -> None:
    async def story() -> None:
        world = World(OLD)
        world.fetch.wait = 0.02
        answers = await asyncio.gather(*(world.ask(OLD.token(jti=f"t-{number}")) for number in range(50)))
        assert all(caller(one) for one in answers)
        assert len(world.fetch.calls) == 1

    run(story())


def test_one_caller_that_gives_up_does_not_take_the_fetch_with_it() -> None:
    async def story() -> None:
        world = World(OLD)
        world.fetch.wait = 0.02
        impatient = asyncio.create_task(world.ask(OLD.token()))
        patient = asyncio.create_task(world.ask(OLD.token(jti="t-2")))
        await asyncio.sleep(0.005)
        impatient.cancel()
        assert caller(await patient)
        assert len(world.fetch.calls) == 1

    run(story())


def test_flood_of_unknown_keys_is_rate_limited_and_harms_nobody() -> None:
    """OA-50"""

    async def story() -> None:
        world = World(OLD)
        await world.issuers.warm()
        world.fetch.calls.clear()
        for number in range(300):
            world.clock.now = NOW + number / 10
            assert reason(await world.ask(OTHER.token({"kid": f"random-{number}"}))) == INVALID
            assert caller(await world.ask(OLD.token()))
        assert len(world.fetch.calls) <= 3

    run(story())


def test_token_that_would_be_refused_anyway_causes_no_fetch() -> None:
    async def story() -> None:
        world = World(OLD)
        await world.issuers.warm()
        world.clock.now += 11
        world.fetch.calls.clear()
        for token in (
            NEW.token(aud="x"),
            NEW.token(exp=NOW - 99, iat=NOW - 199),
            NEW.token({"typ": "dpop+jwt"}),
            NEW.token(iss="x"),
        ):
            assert reason(await world.ask(token)) == INVALID
        assert world.fetch.calls == []

    run(story())


@pytest.mark.requirement("OA-75")
def test_retired_key_is_refused_after_the_refresh_even_if_remembered() -> None:
    """OA-75"""

    async def story() -> None:
        world = World(OLD, NEW)
        token = OLD.token(exp=NOW + 80_000)
        assert caller(await world.ask(token))
        assert caller(await world.ask(token))
        world.fetch.publish(NEW)
        world.clock.now += 901
        assert caller(await world.ask(token))  # stale while the refresh runs
        await asyncio.sleep(0.01)
        assert reason(await world.ask(token)) == INVALID

    run(story())


def test_gateway_that_slept_reads_the_keys_before_it_trusts_them() -> None:
    async def story() -> None:
        world = World(OLD, NEW)
        token = OLD.token(exp=NOW + 80_000)
        assert caller(await world.ask(token))
        world.fetch.publish(NEW)
        world.clock.now += 2000
        assert reason(await world.ask(token)) == INVALID

    run(story())


def test_same_kid_with_new_key_material() -> None:
    async def story() -> None:
        world = World(OLD)
        token = OLD.token(exp=NOW + 80_000)
        assert caller(await world.ask(token))
        world.fetch.publish(Key(kid="old"))
        world.clock.now += 2000
        assert reason(await world.ask(token)) == INVALID

    run(story())


def test_outage_known_keys_work_until_their_age_forbids_it() -> None:
    async def story() -> None:
        world = World(OLD)
        far = NOW + 90_000
        token = OLD.token(iat=NOW + 5000, exp=far)
        await world.issuers.warm()
        world.fetch.down = True
        world.clock.now = NOW + 6000
        assert caller(await world.ask(token))
        with pytest.raises(DependencyFault):  # may be a good key that cannot be looked up now
            await world.ask(NEW.token(iat=NOW + 5000, exp=far))
        assert ISSUER in world.issuers.problems()
        world.clock.now = NOW + 86_399
        assert caller(await world.ask(token))
        world.clock.now = NOW + 86_401
        with pytest.raises(DependencyFault):
            await world.ask(token)
        world.fetch.down = False
        world.clock.now += 11
        assert caller(await world.ask(token))
        assert world.issuers.problems() == {}

    run(story())


def test_provider_never_reached_is_unavailable_through_the_chain() -> None:
    async def story() -> None:
        world = World(OLD)
        world.fetch.down = True
        assert ISSUER in await world.issuers.warm()
        chain = Chain([world.guard], [Caller])
        asked = context(Presented((f"Bearer {OLD.token()}".encode(),), RESOURCE))
        answer = await chain.run(asked)
        assert isinstance(answer, tuple) and isinstance(answer[0], Refusal)
        assert answer[0].reason.id == "fault.dependency" and answer[0].reason.status == 503
        assert len(world.fetch.calls) == 1  # asked again within the interval: no second try

    run(story())


def test_bad_answer_keeps_the_old_keys() -> None:
    async def story() -> None:
        world = World(OLD)
        token = OLD.token(exp=NOW + 80_000)
        assert caller(await world.ask(token))
        for bad in (
            b"<html>",
            b'{"keys":{}}',
            b'{"keys":[],"keys":[]}',
            {"keys": [OLD.jwk] * 65},
            b"[" + b" " * (512 << 10) + b"]",
        ):
            world.fetch.documents[f"{ISSUER}/jwks"] = bad
            world.clock.now += 2000
            assert caller(await world.ask(token))
            assert ISSUER in world.issuers.problems()

    run(story())


def test_clock_that_is_set_back_asks_for_the_keys_again() -> None:
    async def story() -> None:
        world = World(OLD, clock=Clock(NOW))
        await world.issuers.warm()
        world.clock.now = NOW - 30
        issuer = world.issuers.find(ISSUER)
        assert issuer is not None
        assert issuer.usable()
        issuer.due = 0.0
        world.clock.now = NOW - 7200
        assert not issuer.usable()
        await issuer.renew()
        assert issuer.usable()

    run(story())


def test_two_issuers_with_the_same_kid_never_share_keys() -> None:
    """A3"""

    async def story() -> None:
        other = "https://other.example"
        issuers = tuple(IssuerSettings(issuer=name, jwks_uri=f"{name}/jwks") for name in (ISSUER, other))
        world = World(OLD, issuers=issuers)
        theirs = Key(kid="old")
        world.fetch.publish(theirs, url=f"{other}/jwks")
        assert caller(await world.ask(OLD.token())).issuer == ISSUER
        assert caller(await world.ask(theirs.token(iss=other))).issuer == other
        assert reason(await world.ask(theirs.token())) == INVALID
        assert reason(await world.ask(OLD.token(iss=other))) == INVALID
        world.clock.now += 11
        world.fetch.publish(OLD, NEW, url=f"{other}/jwks")  # a kid only the other one publishes
        assert reason(await world.ask(NEW.token())) == INVALID
        world.fetch.documents.pop(f"{other}/jwks")
        world.fetch.down = True
        assert caller(await world.ask(OLD.token(jti="t-9")))  # one provider's outage is not the other's

    run(story())


def usable(*keys: Any) -> list[str | None]:
    return [key.kid for key in read_key_set(dump({"keys": list(keys)})).keys]


def test_which_published_keys_count() -> None:
    """OA-50"""
    good = RSA.jwk
    symmetric = {"kty": "oct", "k": "c2VjcmV0", "kid": "oct", "alg": "HS256"}
    assert usable(good, symmetric, OLD.jwk) == ["rsa", "old"]
    assert usable(Key("EdDSA", kid="ed").jwk, Key("ES384", kid="384").jwk, Key("ES512", kid="512").jwk) == [
        "ed",
        "384",
        "512",
    ]
    private = {**OLD.jwk, "d": "AAAA"}
    bad: list[Any] = [
        private,
        Key("RS256", bits=1024).jwk,
        Key("ES256K").jwk,
        {**good, "use": "enc"},
        {**good, "key_ops": ["encrypt"]},
        {**good, "key_ops": "verify"},
        {**good, "alg": "HS256"},
        {**good, "alg": "ES256"},
        {**good, "alg": None},
        {**good, "kid": 7},
        {**good, "kid": "x" * 257},
        {**good, "e": "AQ"},
        {**good, "e": "AQABAQAB"},
        {**good, "n": good["n"] + "="},
        {**good, "n": "_" * 1366 + "w" * 5462},
        {**good, "kty": "rsa"},
        {**good, "kty": ["RSA"]},
        {**OLD.jwk, "x": "AAAA"},
        {**OLD.jwk, "y": OLD.jwk["x"]},
        {**OLD.jwk, "crv": "P-384"},
        {"kty": "EC"},
        {},
        None,
        "key",
    ]
    assert usable(*bad) == []
    assert usable(*[{**good, "kid": f"k{n}"} for n in range(64)])[-1] == "k63"
    with pytest.raises(ValueError, match="more than 64"):
        usable(*[good] * 65)


def test_large_rsa_keys_work_up_to_the_bound() -> None:
    big = Key("RS256", kid="big", bits=4096)
    assert caller(World(big).judge(big.token()))


def test_keys_given_in_the_configuration_need_no_network() -> None:
    inline = IssuerSettings(issuer=ISSUER, jwks=dump({"keys": [OLD.jwk]}).decode())
    world = World(issuers=(inline,))
    world.fetch.down = True
    world.clock.now += 50
    assert caller(world.judge(OLD.token()))
    assert reason(world.judge(NEW.token())) == INVALID
    assert world.fetch.calls == []


def discovering(issuer: str, documents: dict[str, Any]) -> tuple[FakeFetch, Issuers]:
    fetch = FakeFetch(documents)
    return fetch, Issuers(IdentitySettings(issuers=(IssuerSettings(issuer=issuer),)), fetch, Clock())


def test_discovery_places() -> None:
    assert metadata_urls("https://id.example") == (
        "https://id.example/.well-known/oauth-authorization-server",
        "https://id.example/.well-known/openid-configuration",
    )
    assert metadata_urls("https://id.example/t1/") == (
        "https://id.example/.well-known/oauth-authorization-server/t1",
        "https://id.example/.well-known/openid-configuration/t1",
        "https://id.example/t1/.well-known/openid-configuration",
    )


@pytest.mark.parametrize("place", [0, 1, 2])
def test_discovery_takes_the_first_place_that_answers(place: int) -> None:
    issuer, keys = "https://id.example/t1", "https://keys.example/t1"
    document = {"issuer": issuer, "jwks_uri": keys}
    fetch, issuers = discovering(issuer, {metadata_urls(issuer)[place]: document, keys: {"keys": [OLD.jwk]}})
    assert asyncio.run(issuers.warm()) == {}
    assert fetch.calls == [*metadata_urls(issuer)[: place + 1], keys]


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": ISSUER + "/", "jwks_uri": "https://id.example/jwks"},
        {"issuer": "https://evil.example", "jwks_uri": "https://id.example/jwks"},
        {"jwks_uri": "https://id.example/jwks"},
        {"issuer": ISSUER},
        {"issuer": ISSUER, "jwks_uri": 7},
        {"issuer": ISSUER, "jwks_uri": "http://id.example/jwks"},
        {"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"},
        {"issuer": ISSUER, "jwks_uri": "http://127.0.0.1/jwks"},
        {"issuer": ISSUER, "jwks_uri": "https://localhost/jwks"},
        {"issuer": ISSUER, "jwks_uri": "https://user@id.example/jwks"},
        {"issuer": ISSUER, "jwks_uri": "https://id.example/jwks\r\nX: y"},
        b'{"issuer":"https://evil.example","issuer":"https://id.example","jwks_uri":"https://id.example/jwks"}',
        [],
    ],
)
def test_metadata_that_is_not_to_be_used(document: Any) -> None:
    served = dict.fromkeys(metadata_urls(ISSUER), document)
    fetch, issuers = discovering(ISSUER, {**served, "https://id.example/jwks": {"keys": [OLD.jwk]}})
    assert ISSUER in asyncio.run(issuers.warm())
    assert set(fetch.calls) <= set(served)


def test_empty_key_set_is_reported() -> None:
    world = World()
    assert asyncio.run(world.issuers.warm()) == {ISSUER: "publishes no usable key"}


@pytest.mark.requirement("AUTH-20")
@pytest.mark.parametrize(
    "settings",
    [
        {"algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"algorithms": []},
        {"issuer": "http://id.example"},
        {"issuer": "https://id.example?x=1"},
        {"issuer": "https://id.example#f"},
        {"issuer": "https://u:p@id.example"},
        {"issuer": "id.example"},
        {"issuer": "https://id.example:99999"},
        {"jwks_uri": "http://id.example/jwks"},
        {"jwks": "{}"},
        {"jwks": '{"keys":[]}'},
        {"token_types": []},
        {"token_types": ["dpop+jwt"]},
        {"token_types": ["application/logout+jwt"]},
        {"audience": ""},
        {"surprise": 1},
    ],
)
def test_settings_that_would_be_unsafe(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        IssuerSettings(**{"issuer": ISSUER, **settings})
    assert IssuerSettings(issuer=ISSUER) and IssuerSettings(issuer="http://127.0.0.1:9/x", jwks_uri="http://[::1]/k")


def test_settings_of_the_room() -> None:
    one = IssuerSettings(issuer=ISSUER)
    for bad in ({"leeway": 61}, {"leeway": -1}, {"leeway": True}, {"issuers": (one, one)}, {"max_token_lifetime": 0}):
        with pytest.raises(ValidationError):
            IdentitySettings(**bad)
    assert not IdentitySettings().unsafe_anonymous
    with pytest.raises(ValueError, match="asymmetric"):
        AlgorithmList(["HS256"])


def test_close_stops_a_fetch() -> None:
    async def story() -> None:
        world = World(OLD)
        world.fetch.wait = 60
        asked: asyncio.Task[Verdict] = asyncio.create_task(world.ask(OLD.token()))
        await asyncio.sleep(0.01)
        begin = time.monotonic()
        await world.issuers.close()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert time.monotonic() - begin < 30

    run(story())
