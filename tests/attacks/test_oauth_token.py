"""Attacks on codes, refresh tokens and the endpoints that take them (oauth-attacks C and F), each with its honest twin."""

from __future__ import annotations

import asyncio
from dataclasses import replace
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
    RESOURCE,
    SERVER,
    VERIFIER,
    World,
    answer,
    asked,
    redemption,
    renewal,
    visit,
)

GRANT = (400, {"error": "invalid_grant", "error_description": "not valid, or not any more"})


@pytest.fixture
def world() -> World:
    return World()


def ended(world: World) -> bool:
    """Whether every grant is over, and its access tokens with it."""
    return not world.live and {kind for kind, _, _ in world.revoked} == {"grant"}


# codes


@pytest.mark.parametrize(
    "verifier", [None, "", "w" * 64, "v" * 42, "v" * 129, "v" * 63 + "!", "v" * 63 + "é", VERIFIER + " "]
)
def test_verifier_missing_wrong_or_no_verifier_oa22(world: World, verifier: str | None) -> None:
    """OA-22 AS-40: refused, and the code is burnt: the right verifier is too late."""
    code = world.code()
    assert world.redeem(code, code_verifier=verifier) == GRANT
    assert world.redeem(code) == GRANT
    assert not world.live


def test_right_verifier_and_the_lengths_it_may_have_oa22() -> None:
    """OA-22, honest twin."""
    from base64 import urlsafe_b64encode
    from hashlib import sha256

    for verifier in (VERIFIER, "a" * 43, "~._-" * 32):
        world = World()
        challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        status, document = world.redeem(world.code(challenge=challenge), code_verifier=verifier)
        assert status == 200
        assert document["token_type"] == "Bearer"


@pytest.mark.parametrize("challenge", ["", VERIFIER[:43] + "=", "short", "x" * 44])
def test_no_code_without_a_challenge_oa23(world: World, challenge: str) -> None:
    """OA-23: there is no code that a verifier could be left out of."""
    with pytest.raises(InvariantFault):
        world.code(challenge=challenge)


def test_plain_verifier_of_an_s256_challenge_oa23(world: World) -> None:
    """OA-23: the challenge itself is no verifier."""
    assert world.redeem(world.code(), code_verifier=asked().challenge) == GRANT


@pytest.mark.parametrize("client", [APP, SERVER])
def test_replayed_code_ends_what_it_made_oa24(world: World, client: Any) -> None:
    """OA-24: the second use is refused, and ends refresh and access tokens of the first."""
    code = world.code(client)
    first = world.redeem(code, client)[1]
    assert len(world.live) == 1
    assert world.redeem(code, client) == GRANT
    assert ended(world)
    assert world.refresh(first["refresh_token"], client) == GRANT
    assert [note["outcome"] for note in world.steps.notes] == ["ok", "invalid_grant", "invalid_grant"]
    assert ("grant", "its code was used again") in [(event, fields.get("why")) for event, fields in world.events]


def test_replayed_code_with_a_wrong_verifier_or_by_another_client_oa24(world: World) -> None:
    """OA-24: who presents a code that was used, however, shows that it leaked."""
    for wrong in ({"code_verifier": "w" * 64}, {"client_id": OTHER.id}):
        code = world.code()
        assert world.redeem(code)[0] == 200
        assert world.redeem(code, **wrong) == GRANT
        assert ended(world)


def test_a_code_is_remembered_longer_than_it_is_good_oa24(world: World) -> None:
    """OA-24: found in a log an hour later, it still ends what was made with it."""
    code = world.code()
    world.redeem(code)
    world.clock.now += 3600
    assert world.redeem(code) == GRANT
    assert ended(world)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_twenty_parallel_redemptions_oa24(kind: str, tmp_path: Any) -> None:
    """OA-24: exactly one success; the same client asking twice at once is not signed out."""
    table = SqliteTable(tmp_path / "state.db", "oauth") if kind == "sqlite" else None
    world = World(table, clock=None if table is None else Now())
    code = world.code()
    answers = world.many(20, redemption(code))
    assert sorted(status for status, _ in answers) == [200] + [400] * 19
    assert len(world.live) == 1
    (given,) = (document for status, document in answers if status == 200)
    assert world.refresh(given["refresh_token"])[0] == 200


def test_twenty_parallel_redemptions_at_two_replicas_oa24(tmp_path: Any) -> None:
    """OA-24: also where two processes share the table."""
    table = SqliteTable(tmp_path / "state.db", "oauth")
    one = World(table, alone=False, clock=Now())
    two = World(SqliteTable(tmp_path / "state.db", "oauth"), alone=False, clock=Now())
    answers = one.many(20, redemption(one.code()), one.grants, two.grants)
    assert sorted(status for status, _ in answers) == [200] + [400] * 19
    assert len(one.live) == 1


def test_replay_at_another_replica_oa24() -> None:
    """OA-24: after the time two clocks may differ, the other replica ends it as this one would."""
    one = World(alone=False)
    two = World(one.table, alone=False, clock=one.clock)
    code = one.code()
    one.redeem(code)
    one.clock.now += 2
    assert two.redeem(code) == GRANT
    assert not one.live
    assert [kind for kind, _, _ in two.revoked] == ["grant"]


def test_parallel_thief_without_the_verifier_oa24(world: World) -> None:
    """OA-24 OA-25: whoever comes first, the thief gets nothing."""
    code = world.code()

    async def both() -> list[Any]:
        wrong = redemption(code, code_verifier="w" * 64)
        asked = [world.grants.token(visit(wrong if at % 2 else redemption(code))) for at in range(20)]
        return await asyncio.gather(*asked)

    answers = [answer(one) for one in asyncio.run(both())]
    assert all(one == GRANT for one in answers[1::2])
    assert not world.live  # the code was in two hands


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
    assert world.redeem(code, **wrong) == GRANT
    assert world.redeem(code) == GRANT


def test_code_for_one_resource_gives_no_token_for_another_oa25_oa32(world: World) -> None:
    """OA-25 OA-32 AS-42: resource at authorize and at token agree."""
    code = world.code()
    for other in ("https://gw.example/mcp/fin", RESOURCE + "/", RESOURCE.upper(), "https://evil.example"):
        status, document = world.redeem(code, resource=other)
        assert (status, document["error"]) == (400, "invalid_target")
    twice = "&".join(f"{name}={value}" for name, value in (*redemption(code).items(), ("resource", RESOURCE)))
    assert answer(asyncio.run(world.grants.token(visit(twice))))[1]["error"] == "invalid_request"
    assert world.redeem(code, resource=None)[0] == 200  # left out: the one that was granted


@pytest.mark.parametrize("late", [60, 61, 90])
def test_expired_code_oa26(world: World, late: int) -> None:
    """OA-26"""
    code = world.code()
    world.clock.now += late
    assert world.redeem(code) == GRANT


def test_code_in_its_last_second_oa26(world: World) -> None:
    """OA-26, honest twin."""
    code = world.code()
    world.clock.now += 59
    assert world.redeem(code)[0] == 200


def test_code_in_another_spelling_oa26(world: World) -> None:
    """OA-26: no other text is this code, and trying them does not burn it."""
    code = world.code()
    other = next(letter for letter in code[3:] if letter.swapcase() != letter)
    for wrong in (f"{code} ", f" {code}", code.replace(other, other.swapcase(), 1), f"{code}=", f"{code}\n", code[:-1]):
        assert world.redeem(wrong) == GRANT
    assert world.redeem(code)[0] == 200


def test_client_gets_tokens_of_ours_and_none_of_the_provider_oa31(world: World) -> None:
    """OA-31: there is nothing else in the answer."""
    document = world.signed_in()
    assert set(document) == {"access_token", "token_type", "expires_in", "scope", "refresh_token"}
    claims = world.mint.read(document["access_token"])
    assert claims is not None
    assert claims["iss"] == ISSUER
    assert (claims["idp"], claims["aud"]) == (ALICE.issuer, RESOURCE)


# scopes


@pytest.mark.parametrize(
    "wider", ["read write admin", "*", "admin", "READ", "read  write", "read\twrite", "read\u00e9"]
)
def test_wider_scope_oa33(world: World, wider: str) -> None:
    """OA-33: at the code and at a refresh, never more than what was agreed to."""
    assert world.redeem(world.code(), scope=wider)[1]["error"] == "invalid_scope"
    token = world.signed_in()["refresh_token"]
    assert world.refresh(token, scope=wider)[1]["error"] == "invalid_scope"
    assert world.refresh(token)[1]["scope"] == "read write"  # nothing was used up


def test_five_thousand_scopes_oa33(world: World) -> None:
    """OA-33"""
    token = world.signed_in()["refresh_token"]
    many = " ".join(f"s{number}" for number in range(5000))
    assert world.refresh(token, scope=many)[1]["error"] == "invalid_scope"


def test_narrower_scope_is_granted_and_does_not_narrow_what_follows_oa33(world: World) -> None:
    """OA-33 AS-43, honest twin."""
    given = world.signed_in(scope="read")
    assert given["scope"] == "read"
    again = world.refresh(given["refresh_token"], scope="write")[1]
    assert again["scope"] == "write"
    assert world.refresh(again["refresh_token"])[1]["scope"] == "read write"


# refresh tokens


def test_rotation_as09(world: World) -> None:
    """AS-09, honest twin of OA-80: each refresh token is used once and leads on."""
    seen = {token := world.signed_in()["refresh_token"]}
    for _ in range(5):
        world.clock.now += 600
        status, document = world.refresh(token)
        assert status == 200
        token = document["refresh_token"]
        assert token not in seen
        seen.add(token)


def test_refresh_replay_oa80(world: World) -> None:
    """OA-80: after the time to try again the old one ends the family, the newest included."""
    old = world.signed_in()["refresh_token"]
    new = world.refresh(old)[1]["refresh_token"]
    world.clock.now += world.settings.retry
    assert world.refresh(old) == GRANT
    assert ended(world)
    assert world.refresh(new) == GRANT


def test_refresh_replay_two_generations_back_oa80(world: World) -> None:
    """OA-80: at once, however quick it comes."""
    oldest = world.signed_in()["refresh_token"]
    older = world.refresh(oldest)[1]["refresh_token"]
    world.refresh(older)
    assert world.refresh(oldest) == GRANT
    assert ended(world)


def test_retry_gets_the_same_successor_oa80(world: World) -> None:
    """OA-80, honest twin: an answer that got lost costs no sign-in."""
    old = world.signed_in()["refresh_token"]
    first = world.refresh(old)[1]
    world.clock.now += world.settings.retry - 1
    second = world.refresh(old)[1]
    assert first["refresh_token"] == second["refresh_token"]
    assert world.refresh(second["refresh_token"])[0] == 200


def test_successor_used_ends_the_time_to_try_again_oa80(world: World) -> None:
    """OA-80: once the successor was used its client has it, and the old one is a thief's."""
    old = world.signed_in()["refresh_token"]
    new = world.refresh(old)[1]["refresh_token"]
    assert world.refresh(new)[0] == 200
    assert world.refresh(old) == GRANT
    assert ended(world)


def test_made_up_token_of_a_known_family_ends_nothing_oa80(world: World) -> None:
    """OA-80: the family's id stands in every access token; with it alone nobody is signed out."""
    given = world.signed_in()
    token = given["refresh_token"]
    family, proof, last = token.split(".")
    for forged in (f"{family}.{last}.{last}", f"{family}.{proof[::-1]}.{last}", f"{family}..", family, f"{token}x" * 9):
        assert world.refresh(forged) == GRANT
    assert len(world.live) == 1
    assert world.refresh(token)[0] == 200


@pytest.mark.parametrize(
    ("client", "wrong"),
    [
        (APP, {"client_id": OTHER.id}),
        (SERVER, {"client_id": APP.id, "client_secret": None}),
        (APP, {"client_id": SERVER.id, "client_secret": "s3cret"}),
    ],
)
def test_refresh_by_another_client_oa81(world: World, client: Any, wrong: dict[str, Any]) -> None:
    """OA-81"""
    token = world.signed_in(client)["refresh_token"]
    assert world.refresh(token, client, **wrong) == GRANT
    assert world.refresh(token, client)[0] == 200


def test_refresh_without_client_authentication_oa81_oa86(world: World) -> None:
    """OA-81 OA-86: nothing, a wrong or an empty secret, the secret of another: 401."""
    token = world.signed_in(SERVER)["refresh_token"]
    for secret in (None, "", "wrong"):
        assert world.refresh(token, SERVER, client_secret=secret)[0] == 401
    assert world.refresh(token, client_id=None)[0] == 401
    reply = asyncio.run(world.grants.token(visit(renewal(token, SERVER, client_secret="x"))))
    assert dict(reply.all_headers)["www-authenticate"].startswith("Basic")
    assert world.refresh(token, SERVER)[0] == 200


def test_secret_in_the_query_oa86(world: World) -> None:
    """OA-86: nothing is read from a URL."""
    form = renewal(world.signed_in(SERVER)["refresh_token"], SERVER, client_secret=None)
    asked = replace(visit(form), query="client_secret=s3cret")
    assert answer(asyncio.run(world.grants.token(asked)))[1]["error"] == "invalid_request"


def test_refresh_for_another_resource_oa81(world: World) -> None:
    """OA-81"""
    token = world.signed_in()["refresh_token"]
    assert world.refresh(token, resource="https://gw.example/mcp/fin")[1]["error"] == "invalid_target"
    assert world.refresh(token, resource=RESOURCE)[0] == 200


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_twenty_parallel_refreshes_are_one_chain_oa82(kind: str, tmp_path: Any) -> None:
    """OA-82: all are answered with one successor; no second chain begins."""
    table = SqliteTable(tmp_path / "state.db", "oauth") if kind == "sqlite" else None
    world = World(table, clock=None if table is None else Now())
    answers = world.many(20, renewal(world.signed_in()["refresh_token"]))
    assert {status for status, _ in answers} == {200}
    assert len({document["refresh_token"] for _, document in answers}) == 1
    assert len(world.live) == 1
    assert world.refresh(answers[0][1]["refresh_token"])[0] == 200


def test_twenty_parallel_refreshes_without_a_time_to_try_again_oa82() -> None:
    """OA-82 AS-09: with `retry: 0` one succeeds, and the family ends: a refresh token was used twice."""
    world = World(retry=0)
    answers = world.many(20, renewal(world.signed_in()["refresh_token"]))
    assert sum(status == 200 for status, _ in answers) <= 1
    assert ended(world)


def test_refresh_after_consent_was_withdrawn_oa83(world: World) -> None:
    """OA-83: and the grant ends."""
    token = world.signed_in()["refresh_token"]
    world.withdrawn.add("consent-1")
    assert world.refresh(token) == GRANT
    assert ended(world)
    world.withdrawn.clear()
    assert world.refresh(token) == GRANT


def test_withdrawing_a_consent_ends_its_grants_at_once_oa83(world: World) -> None:
    """OA-83: and no other."""
    world.signed_in()
    kept = world.redeem(world.grants.code(asked(), ALICE, "consent-2"))[1]
    assert len(world.grants.withdraw("consent-1")) == 1
    assert len(world.live) == 1
    assert world.refresh(kept["refresh_token"])[0] == 200


@pytest.mark.parametrize("who", ["alice", "app"])
def test_refresh_after_the_user_or_client_was_revoked_oa83(world: World, who: str) -> None:
    """OA-83: until it is taken back."""
    token, code = world.signed_in()["refresh_token"], world.code()
    world.locked_out.add(who)
    assert world.refresh(token) == GRANT
    assert world.redeem(code) == GRANT
    world.locked_out.clear()
    assert world.refresh(token)[0] == 200


def test_refresh_and_code_after_the_client_changed_oa44_oa83(world: World) -> None:
    """OA-44: what a person agreed to was another document."""
    token, code = world.signed_in()["refresh_token"], world.code()
    world.clients.clients["app"] = replace(APP, digest="d-flipped")
    assert world.refresh(token) == GRANT
    assert world.redeem(code) == GRANT
    world.clients.clients["app"] = APP
    assert world.refresh(token)[0] == 200


def test_nothing_lives_for_ever(world: World) -> None:
    """Absolute and idle end of a grant."""
    token = world.signed_in()["refresh_token"]
    world.clock.now += world.settings.refresh
    assert world.refresh(token) == GRANT
    token, began = world.signed_in()["refresh_token"], world.clock.now
    while world.clock.now < began + world.settings.grant - 2:
        world.clock.now = min(world.clock.now + 1_000_000, began + world.settings.grant - 2)
        document = world.refresh(token)[1]
        token = document["refresh_token"]
    assert document["expires_in"] <= 2
    world.clock.now += 2
    assert world.refresh(token) == GRANT


# revocation and introspection


def test_revocation_by_a_foreign_client_oa84(world: World) -> None:
    """OA-84: 200, and nothing happens."""
    given = world.signed_in()
    for token in (given["refresh_token"], given["access_token"], "nonsense", "a.b.c", "lr_x.y.z"):
        assert world.ask("revoke", token=token, client_id=OTHER.id) == (200, {})
    assert not world.revoked
    assert world.refresh(given["refresh_token"])[0] == 200


def test_revocation_by_its_own_client_oa84(world: World) -> None:
    """OA-84, honest twin: an access token alone, or the whole grant."""
    given = world.signed_in()
    claims = world.mint.read(given["access_token"])
    assert claims is not None
    assert world.ask("revoke", token=given["access_token"], client_id=APP.id) == (200, {})
    assert [(kind, name) for kind, name, _ in world.revoked] == [("token", claims["jti"])]
    assert world.revoked[0][2] > claims["exp"]
    assert world.ask("revoke", token=given["refresh_token"], client_id=APP.id) == (200, {})
    assert world.revoked[1][:2] == ("grant", claims["sid"])
    assert world.refresh(given["refresh_token"]) == GRANT
    assert world.ask("revoke", token=given["refresh_token"], client_id=APP.id) == (200, {})


def test_introspection_tells_a_client_about_its_own_tokens_only(world: World) -> None:
    """Uniform `inactive` for everything else, and nothing for public clients."""
    mine, theirs = world.signed_in(SERVER), world.signed_in()
    me = {"client_id": SERVER.id, "client_secret": "s3cret"}
    told = world.ask("introspect", token=mine["access_token"], **me)[1]
    assert (told["active"], told["sub"], told["aud"], told["scope"]) == (True, "alice", RESOURCE, "read write")
    assert world.ask("introspect", token=mine["refresh_token"], **me)[1]["active"]
    foreign = (theirs["access_token"], theirs["refresh_token"], "nonsense", mine["access_token"][:-3] + "AAA")
    assert all(world.ask("introspect", token=one, **me) == (200, {"active": False}) for one in foreign)
    assert world.ask("introspect", token=mine["access_token"], client_id=APP.id)[0] == 401
    world.ask("revoke", token=mine["refresh_token"], **me)
    for token in (mine["access_token"], mine["refresh_token"]):
        assert world.ask("introspect", token=token, **me) == (200, {"active": False})


def test_introspection_of_what_is_over(world: World) -> None:
    me = {"client_id": SERVER.id, "client_secret": "s3cret"}
    given = world.signed_in(SERVER)
    claims = world.mint.read(given["access_token"])
    assert claims is not None
    world.locked_out.add(claims["jti"])
    assert world.ask("introspect", token=given["access_token"], **me)[1] == {"active": False}
    world.locked_out.clear()
    world.clock.now += world.settings.access
    assert world.ask("introspect", token=given["access_token"], **me)[1] == {"active": False}


# the endpoint


def test_flood_is_slowed_and_answers_are_uniform_oa88(world: World) -> None:
    """OA-88: what is guessed wrong is answered in the same bytes, and not for long; another address is served."""
    statuses = []
    for number in range(300):
        status, document = world.refresh(f"lr_{number}.x.y")
        statuses.append(status)
        if status == 400:
            assert document == GRANT[1]
    assert statuses[:200] == [400] * 200
    assert set(statuses[200:]) == {429}
    code = world.code()
    elsewhere = replace(visit(redemption(code)), address="192.0.2.8")
    assert asyncio.run(world.grants.token(elsewhere)).status == 200
    world.clock.now += 1
    assert world.redeem(world.code())[0] == 200
    reply = [asyncio.run(world.grants.token(visit(renewal("x")))) for _ in range(30)][-1]
    assert int(dict(reply.all_headers)["retry-after"]) >= 1


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


class Now:
    """The real clock, for tables that have one of their own."""

    now = 0.0

    def __call__(self) -> float:
        import time

        return time.time() + self.now
