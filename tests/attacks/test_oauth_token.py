"""Attacks on authorization codes and on the endpoint that takes them, each with its honest twin."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from limen.adapters.sqlite import SqliteTable
from limen.core.faults import InvariantFault
from limen.oauth.web import Visit
from oauth.granting import (
    ALICE,
    APP,
    ISSUER,
    OTHER,
    REDIRECT,
    REFUSED,
    RESOURCE,
    SERVER,
    VERIFIER,
    LockedTable,
    RealClock,
    World,
    answer,
    asked,
    redemption,
    renewal,
    visit,
)


@pytest.fixture
def world() -> World:
    return World()


def challenge_of(verifier: str) -> str:
    return urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()


# codes


@pytest.mark.requirement("AS-40", "OA-22")
@pytest.mark.parametrize(
    "verifier", [None, "", "w" * 64, "v" * 42, "v" * 129, "v" * 63 + "!", "v" * 63 + "é", VERIFIER + " "]
)
def test_verifier_missing_wrong_or_no_verifier_oa22(world: World, verifier: str | None) -> None:
    """OA-22 AS-40: refused, and the code is burnt: the right verifier is too late."""
    code = world.code()
    assert world.redeem(code, code_verifier=verifier) == REFUSED
    assert world.redeem(code) == REFUSED
    assert not world.live


@pytest.mark.requirement("OA-22")
@pytest.mark.parametrize("verifier", ["a" * 42, "a" * 129, "a" * 60 + "/+=", "a" * 60 + " b"])
def test_verifier_that_fits_but_is_none_oa22(world: World, verifier: str) -> None:
    """OA-22: its hash is the challenge, and it is still no verifier (RFC 7636 section 4.1)."""
    assert world.redeem(world.code(challenge=challenge_of(verifier)), code_verifier=verifier) == REFUSED


@pytest.mark.requirement("OA-22")
def test_right_verifier_and_the_lengths_it_may_have_oa22() -> None:
    """OA-22, honest twin."""
    for verifier in (VERIFIER, "a" * 43, "~._-" * 32):
        world = World()
        status, document = world.redeem(world.code(challenge=challenge_of(verifier)), code_verifier=verifier)
        assert status == 200
        assert document["token_type"] == "Bearer"


@pytest.mark.requirement("OA-23")
@pytest.mark.parametrize("challenge", ["", VERIFIER[:43] + "=", "short", "x" * 44])
def test_no_code_without_a_challenge_oa23(world: World, challenge: str) -> None:
    """OA-23: there is no code that a verifier could be left out of."""
    with pytest.raises(InvariantFault):
        world.code(challenge=challenge)


@pytest.mark.requirement("OA-23")
def test_plain_verifier_of_an_s256_challenge_oa23(world: World) -> None:
    """OA-23: the challenge itself is no verifier."""
    assert world.redeem(world.code(), code_verifier=asked().challenge) == REFUSED


@pytest.mark.requirement("OA-24")
@pytest.mark.parametrize("client", [APP, SERVER])
def test_replayed_code_ends_what_it_made_oa24(world: World, client: Any) -> None:
    """OA-24: the second use is refused, and ends refresh and access tokens of the first."""
    code = world.code(client)
    first = world.redeem(code, client)[1]
    assert len(world.live) == 1
    assert world.redeem(code, client) == REFUSED
    assert world.ended
    assert world.refresh(first["refresh_token"], client) == REFUSED
    assert [note["outcome"] for note in world.steps.notes] == ["ok", "invalid_grant", "invalid_grant"]
    assert ("grant", "its code was used again") in [(event, fields.get("why")) for event, fields in world.events]


@pytest.mark.requirement("OA-24")
def test_replayed_code_with_a_wrong_verifier_or_by_another_client_oa24(world: World) -> None:
    """OA-24: who presents a code that was used, however, shows that it leaked."""
    for wrong in ({"code_verifier": "w" * 64}, {"client_id": OTHER.id}):
        code = world.code()
        assert world.redeem(code)[0] == 200
        assert world.redeem(code, **wrong) == REFUSED
        assert world.ended


@pytest.mark.requirement("OA-24")
def test_replay_after_the_configuration_was_read_again_oa24(world: World) -> None:
    """OA-24: the same process, though everything in it is new."""
    world.build(process="one")
    code = world.code()
    world.redeem(code)
    world.build(process="one")
    assert world.redeem(code) == REFUSED
    assert world.ended


def test_the_operator_reads_what_was_wrong(world: World) -> None:
    """And the client does not: its answer is the same each time."""
    wrong: list[dict[str, Any]] = [{"code_verifier": "w" * 64}, {"redirect_uri": "x"}, {"client_id": OTHER.id}]
    assert [world.redeem(world.code(), **one) for one in wrong] == [REFUSED] * 3
    assert world.redeem("lc_unknown") == REFUSED
    assert [note["field"] for note in world.steps.notes] == ["code_verifier", "redirect_uri", "client_id", "code"]


@pytest.mark.requirement("OA-24")
def test_a_code_is_remembered_longer_than_it_is_good_oa24(world: World) -> None:
    """OA-24: found in a log an hour later, it still ends what was made with it."""
    code = world.code()
    world.redeem(code)
    world.clock.now += 3600
    assert world.redeem(code) == REFUSED
    assert world.ended


@pytest.mark.requirement("OA-24")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_twenty_parallel_redemptions_oa24(kind: str, tmp_path: Any) -> None:
    """OA-24: exactly one success; the same client asking twice at once is not signed out."""
    table = SqliteTable(tmp_path / "state.db", "oauth") if kind == "sqlite" else None
    world = World(table, clock=None if table is None else RealClock())
    code = world.code()
    answers = world.many(20, redemption(code))
    assert sorted(status for status, _ in answers) == [200] + [400] * 19
    assert len(world.live) == 1
    (given,) = (document for status, document in answers if status == 200)
    assert world.refresh(given["refresh_token"])[0] == 200


@pytest.mark.requirement("OA-24")
def test_twenty_parallel_redemptions_at_two_replicas_oa24(tmp_path: Any) -> None:
    """OA-24: also where two processes share the table."""
    table = SqliteTable(tmp_path / "state.db", "oauth")
    one = World(table, alone=False, clock=RealClock())
    two = World(SqliteTable(tmp_path / "state.db", "oauth"), alone=False, clock=RealClock())
    answers = one.many(20, redemption(one.code()), one.grants, two.grants)
    assert sorted(status for status, _ in answers) == [200] + [400] * 19
    assert len(one.live) == 1


@pytest.mark.requirement("OA-24")
def test_replay_at_another_replica_oa24() -> None:
    """OA-24: after the time two clocks may differ, the other replica ends it as this one would."""
    one = World(alone=False)
    two = World(one.table, alone=False, clock=one.clock)
    code = one.code()
    one.redeem(code)
    one.clock.now += 2
    assert two.redeem(code) == REFUSED
    assert not one.live
    assert [kind for kind, _, _ in two.revoked] == ["grant"]


@pytest.mark.requirement("OA-24", "OA-25")
def test_parallel_thief_without_the_verifier_oa24(world: World) -> None:
    """OA-24 OA-25: whoever comes first, the thief gets nothing."""
    code = world.code()

    async def both() -> list[Any]:
        wrong = redemption(code, code_verifier="w" * 64)
        asked = [world.grants.token(visit(wrong if at % 2 else redemption(code))) for at in range(20)]
        return await asyncio.gather(*asked)

    answers = [answer(one) for one in asyncio.run(both())]
    assert all(one == REFUSED for one in answers[1::2])
    assert not world.live  # the code was in two hands


@pytest.mark.requirement("OA-14", "OA-25")
@pytest.mark.parametrize(
    "wrong",
    [
        {"client_id": OTHER.id},
        {"client_id": SERVER.id, "client_secret": "s3cret"},
        {"redirect_uri": "http://127.0.0.1:7777/cb/"},
        {"redirect_uri": "https://evil.example/cb"},
        {"redirect_uri": REDIRECT.upper()},
    ],
)
def test_injected_code_of_another_client_or_redirect_oa25(world: World, wrong: dict[str, str]) -> None:
    """OA-25: refused and burnt."""
    code = world.code()
    assert world.redeem(code, **wrong) == REFUSED
    assert world.redeem(code) == REFUSED


@pytest.mark.requirement("AS-42", "OA-25", "OA-32")
def test_code_for_one_resource_gives_no_token_for_another_oa25_oa32(world: World) -> None:
    """OA-25 OA-32 AS-42: resource at authorize and at token agree."""
    code = world.code()
    for other in ("https://gw.example/mcp/fin", RESOURCE + "/", RESOURCE.upper(), "https://evil.example"):
        status, document = world.redeem(code, resource=other)
        assert (status, document["error"]) == (400, "invalid_target")
    twice = "&".join(f"{name}={value}" for name, value in (*redemption(code).items(), ("resource", RESOURCE)))
    assert answer(asyncio.run(world.grants.token(visit(twice))))[1]["error"] == "invalid_request"
    assert world.redeem(code, resource=None)[0] == 200  # left out: the one that was granted


@pytest.mark.requirement("OA-26")
@pytest.mark.parametrize("late", [60, 61, 90])
def test_expired_code_oa26(world: World, late: int) -> None:
    """OA-26"""
    code = world.code()
    world.clock.now += late
    assert world.redeem(code) == REFUSED


@pytest.mark.requirement("OA-26")
def test_code_that_a_slow_clock_still_keeps_oa26() -> None:
    """OA-26: its end stands in it as well; the database's clock does not decide alone."""
    world = World(LockedTable(lambda: 0.0))
    code = world.code()
    world.clock.now += 60
    assert world.redeem(code) == REFUSED


@pytest.mark.requirement("OA-26")
def test_code_in_its_last_second_oa26(world: World) -> None:
    """OA-26, honest twin."""
    code = world.code()
    world.clock.now += 59
    assert world.redeem(code)[0] == 200


@pytest.mark.requirement("OA-26")
def test_code_in_another_spelling_oa26(world: World) -> None:
    """OA-26: no other text is this code, and trying them does not burn it."""
    code = world.code()
    other = next(letter for letter in code[3:] if letter.swapcase() != letter)
    for wrong in (f"{code} ", f" {code}", code.replace(other, other.swapcase(), 1), f"{code}=", f"{code}\n", code[:-1]):
        assert world.redeem(wrong) == REFUSED
    assert world.redeem(code)[0] == 200


@pytest.mark.requirement("OA-31")
def test_client_gets_tokens_of_ours_and_none_of_the_provider_oa31(world: World) -> None:
    """OA-31: there is nothing else in the answer."""
    document = world.signed_in()
    assert set(document) == {"access_token", "token_type", "expires_in", "scope", "refresh_token"}
    claims = world.mint.read(document["access_token"])
    assert claims is not None
    assert claims["iss"] == ISSUER
    assert (claims["idp"], claims["aud"]) == (ALICE.issuer, RESOURCE)


# scopes


@pytest.mark.requirement("OA-33")
@pytest.mark.parametrize(
    "wider", ["read write admin", "*", "admin", "READ", "read  write", "read\twrite", "read\u00e9"]
)
def test_wider_scope_oa33(world: World, wider: str) -> None:
    """OA-33: at the code and at a refresh, never more than what was agreed to."""
    assert world.redeem(world.code(), scope=wider)[1]["error"] == "invalid_scope"
    token = world.signed_in()["refresh_token"]
    assert world.refresh(token, scope=wider)[1]["error"] == "invalid_scope"
    assert world.refresh(token)[1]["scope"] == "read write"  # nothing was used up


@pytest.mark.requirement("OA-33")
def test_five_thousand_scopes_oa33(world: World) -> None:
    """OA-33"""
    token = world.signed_in()["refresh_token"]
    many = " ".join(f"s{number}" for number in range(5000))
    assert world.refresh(token, scope=many)[1]["error"] == "invalid_scope"


@pytest.mark.requirement("AS-43", "OA-33")
def test_narrower_scope_is_granted_and_does_not_narrow_what_follows_oa33(world: World) -> None:
    """OA-33 AS-43, honest twin."""
    given = world.signed_in(scope="read")
    assert given["scope"] == "read"
    again = world.refresh(given["refresh_token"], scope="write")[1]
    assert again["scope"] == "write"
    assert world.refresh(again["refresh_token"])[1]["scope"] == "read write"


# the endpoint


@pytest.mark.requirement("OA-88")
def test_flood_is_slowed_and_answers_are_uniform_oa88(world: World) -> None:
    """OA-88: what is guessed wrong is answered in the same bytes, and not for long; another address is served."""
    statuses = []
    for number in range(300):
        status, document = world.refresh(f"lr_{number}.x.y")
        statuses.append(status)
        if status == 400:
            assert document == REFUSED[1]
    assert statuses[:200] == [400] * 200
    assert set(statuses[200:]) == {429}
    code = world.code()
    elsewhere = replace(visit(redemption(code)), address="192.0.2.8")
    assert asyncio.run(world.grants.token(elsewhere)).status == 200
    world.clock.now += 1
    assert world.redeem(world.code())[0] == 200
    reply = [asyncio.run(world.grants.token(visit(renewal("x")))) for _ in range(30)][-1]
    assert int(dict(reply.all_headers)["retry-after"]) >= 1


@pytest.mark.requirement("OA-90", "OA-91")
@pytest.mark.parametrize("endpoint", ["token", "revoke", "introspect", "jwks"])
def test_no_script_of_another_site_reads_an_answer_oa90_oa91(world: World, endpoint: str) -> None:
    """OA-90 OA-91: no CORS but for the public keys, without credentials; no caching but for them."""
    made = world.signed_in(SERVER)
    form = {**redemption(world.code()), "token": made["access_token"]} if endpoint != "jwks" else {}
    asked: Visit = visit(form, endpoint, origin="https://evil.example")
    asked = asked if endpoint != "jwks" else replace(asked, method="GET")
    headers = dict(asyncio.run(getattr(world.grants, endpoint)(asked)).all_headers)
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-credentials" not in headers
    assert headers.get("access-control-allow-origin") == ("*" if endpoint == "jwks" else None)
    assert headers["cache-control"] == ("public, max-age=60" if endpoint == "jwks" else "no-store")


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "password", "username": "a", "password": "b"}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
        ({"grant_type": "implicit"}, "unsupported_grant_type"),
        ({"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": "x"}, "unsupported_grant_type"),
        ({"grant_type": "authorization_code"}, "invalid_request"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
    ],
)
def test_other_grants_and_missing_parameters(world: World, form: dict[str, str], error: str) -> None:
    assert world.ask(client_id=APP.id, **form) == (400, {"error": error, **world_description(error, form)})


def world_description(error: str, form: dict[str, str]) -> dict[str, str]:
    if error != "invalid_request":
        return {}
    missing = {"authorization_code": "code", "refresh_token": "refresh_token"}.get(form.get("grant_type", ""))
    return {"error_description": f"{missing or 'grant_type'} is missing"}


def test_forms_only(world: World) -> None:
    """Other methods and bodies, and a client that may not have what it asks for."""
    good = visit(redemption(world.code()))
    for wrong in (
        replace(good, method="GET"),
        replace(good, method="OPTIONS"),
        replace(good, headers={"content-type": ("application/json",)}),
        replace(good, body=good.body + b"&code=x"),
        replace(good, body=good.body + b"&x=%00"),
    ):
        reply = asyncio.run(world.grants.token(wrong))
        assert reply.status in (400, 405)
        assert answer(reply)[1]["error"] == "invalid_request"
    world.clients.clients["app"] = replace(APP, grant_types=frozenset({"refresh_token"}))
    assert answer(asyncio.run(world.grants.token(good)))[1]["error"] == "unauthorized_client"
    world.clients.clients["app"] = replace(APP, grant_types=frozenset({"authorization_code"}))
    status, document = answer(asyncio.run(world.grants.token(good)))
    assert status == 200
    assert "refresh_token" not in document


@pytest.mark.requirement("OA-88")
def test_one_grant_fills_no_list_of_revoked_tokens_oa88(world: World) -> None:
    """OA-88: every revoked token is a record all gateways read. Ten of one grant are, then the grant itself ends."""
    given = world.signed_in()
    for _ in range(10):
        assert world.ask("revoke", token=given["access_token"], client_id=APP.id)[0] == 200
        given = world.refresh(given["refresh_token"])[1]
    assert [kind for kind, _, _ in world.revoked] == ["token"] * 10
    assert world.live
    world.ask("revoke", token=given["access_token"], client_id=APP.id)
    assert world.revoked[-1][0] == "grant"
    assert not world.live
    assert len(world.revoked) == 11


@pytest.mark.requirement("OA-76", "OA-84")
@pytest.mark.parametrize("changes", [{"sid": None}, {"jti": None}, {"client_id": None}, {"sid": 5}])
def test_tokens_for_servers_behind_us_are_no_access_tokens_oa76(world: World, changes: dict[str, Any]) -> None:
    """OA-76: signed with the same keys, by the same issuer: neither live here nor anybody's to end."""
    given = world.signed_in(SERVER)["access_token"]
    known = world.mint.read(given)
    assert known is not None
    minted = {name: one for name, one in {**known, "aud": "https://behind.example", **changes}.items() if one}
    token = world.signer.sign("at+jwt", minted)
    secret = {"client_id": SERVER.id, "client_secret": "s3cret"}
    assert world.ask("introspect", token=token, **secret) == (200, {"active": False})
    assert world.ask("revoke", token=token, **secret) == (200, {})
    assert not world.revoked
    assert world.ask("introspect", token=given, **secret)[1]["active"]
