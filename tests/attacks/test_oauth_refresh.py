"""Attacks on refresh tokens, revocation and introspection, each with its honest twin."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from limen.adapters.sqlite import SqliteTable
from oauth.granting import (
    ALICE,
    APP,
    OTHER,
    REFUSED,
    RESOURCE,
    SERVER,
    LockedTable,
    RealClock,
    World,
    answer,
    asked,
    renewal,
    visit,
)  # fmt: skip


@pytest.fixture
def world() -> World:
    return World()


# refresh tokens


@pytest.mark.requirement("AS-09", "OA-80")
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


@pytest.mark.requirement("OA-80")
def test_refresh_replay_oa80(world: World) -> None:
    """OA-80: after the time to try again the old one ends the family, the newest included."""
    old = world.signed_in()["refresh_token"]
    new = world.refresh(old)[1]["refresh_token"]
    world.clock.now += world.settings.retry
    assert world.refresh(old) == REFUSED
    assert world.ended
    assert world.refresh(new) == REFUSED


@pytest.mark.requirement("OA-80")
def test_refresh_replay_two_generations_back_oa80(world: World) -> None:
    """OA-80: at once, however quick it comes."""
    oldest = world.signed_in()["refresh_token"]
    older = world.refresh(oldest)[1]["refresh_token"]
    world.refresh(older)
    assert world.refresh(oldest) == REFUSED
    assert world.ended


@pytest.mark.requirement("OA-80")
def test_retry_gets_the_same_successor_oa80(world: World) -> None:
    """OA-80, honest twin: an answer that got lost costs no sign-in."""
    old = world.signed_in()["refresh_token"]
    first = world.refresh(old)[1]
    world.clock.now += world.settings.retry - 1
    second = world.refresh(old)[1]
    assert first["refresh_token"] == second["refresh_token"]
    assert world.refresh(second["refresh_token"])[0] == 200


@pytest.mark.requirement("OA-80")
def test_successor_used_ends_the_time_to_try_again_oa80(world: World) -> None:
    """OA-80: once the successor was used its client has it, and the old one is a thief's."""
    old = world.signed_in()["refresh_token"]
    new = world.refresh(old)[1]["refresh_token"]
    assert world.refresh(new)[0] == 200
    assert world.refresh(old) == REFUSED
    assert world.ended


@pytest.mark.requirement("OA-80")
def test_made_up_token_of_a_known_family_ends_nothing_oa80(world: World) -> None:
    """OA-80: the family's id stands in every access token; with it alone nobody is signed out."""
    given = world.signed_in()
    token = given["refresh_token"]
    family, proof, last = token.split(".")
    for forged in (f"{family}.{last}.{last}", f"{family}.{proof[::-1]}.{last}", f"{family}..", family, f"{token}x" * 9):
        assert world.refresh(forged) == REFUSED
    assert len(world.live) == 1
    assert world.refresh(token)[0] == 200


@pytest.mark.requirement("OA-81")
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
    assert world.refresh(token, client, **wrong) == REFUSED
    assert world.refresh(token, client)[0] == 200


@pytest.mark.requirement("OA-81", "OA-86")
def test_refresh_without_client_authentication_oa81_oa86(world: World) -> None:
    """OA-81 OA-86: nothing, a wrong or an empty secret, the secret of another: 401."""
    token = world.signed_in(SERVER)["refresh_token"]
    for secret in (None, "", "wrong"):
        assert world.refresh(token, SERVER, client_secret=secret)[0] == 401
    assert world.refresh(token, client_id=None)[0] == 401
    reply = asyncio.run(world.grants.token(visit(renewal(token, SERVER, client_secret="x"))))
    assert dict(reply.all_headers)["www-authenticate"].startswith("Basic")
    assert world.refresh(token, SERVER)[0] == 200


@pytest.mark.requirement("OA-86")
def test_secret_in_the_query_oa86(world: World) -> None:
    """OA-86: nothing is read from a URL."""
    form = renewal(world.signed_in(SERVER)["refresh_token"], SERVER, client_secret=None)
    asked = replace(visit(form), query="client_secret=s3cret")
    assert answer(asyncio.run(world.grants.token(asked)))[1]["error"] == "invalid_request"


@pytest.mark.requirement("OA-81")
def test_refresh_for_another_resource_oa81(world: World) -> None:
    """OA-81"""
    token = world.signed_in()["refresh_token"]
    assert world.refresh(token, resource="https://gw.example/mcp/fin")[1]["error"] == "invalid_target"
    assert world.refresh(token, resource=RESOURCE)[0] == 200


@pytest.mark.requirement("OA-82")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_twenty_parallel_refreshes_are_one_chain_oa82(kind: str, tmp_path: Any) -> None:
    """OA-82: all are answered with one successor; no second chain begins."""
    table = SqliteTable(tmp_path / "state.db", "oauth") if kind == "sqlite" else None
    world = World(table, clock=None if table is None else RealClock())
    answers = world.many(20, renewal(world.signed_in()["refresh_token"]))
    assert {status for status, _ in answers} == {200}
    assert len({document["refresh_token"] for _, document in answers}) == 1
    assert len(world.live) == 1
    assert world.refresh(answers[0][1]["refresh_token"])[0] == 200


@pytest.mark.requirement("AS-09", "OA-82")
def test_twenty_parallel_refreshes_without_a_time_to_try_again_oa82() -> None:
    """OA-82 AS-09: with `retry: 0` one succeeds, and the family ends: a refresh token was used twice."""
    world = World(retry=0)
    answers = world.many(20, renewal(world.signed_in()["refresh_token"]))
    assert sum(status == 200 for status, _ in answers) <= 1
    assert world.ended


@pytest.mark.requirement("OA-83")
def test_refresh_after_consent_was_withdrawn_oa83(world: World) -> None:
    """OA-83: and the grant ends."""
    token = world.signed_in()["refresh_token"]
    world.withdrawn.add("consent-1")
    assert world.refresh(token) == REFUSED
    assert world.ended
    world.withdrawn.clear()
    assert world.refresh(token) == REFUSED


@pytest.mark.requirement("OA-83")
def test_withdrawing_a_consent_ends_its_grants_at_once_oa83(world: World) -> None:
    """OA-83: and no other."""
    world.signed_in()
    kept = world.redeem(world.grants.code(asked(), ALICE, "consent-2"))[1]
    assert len(world.grants.withdraw("consent-1")) == 1
    assert len(world.live) == 1
    assert world.refresh(kept["refresh_token"])[0] == 200


@pytest.mark.requirement("OA-83")
@pytest.mark.parametrize("who", ["alice", "app"])
def test_refresh_after_the_user_or_client_was_revoked_oa83(world: World, who: str) -> None:
    """OA-83: until it is taken back."""
    token, code = world.signed_in()["refresh_token"], world.code()
    world.locked_out.add(who)
    assert world.refresh(token) == REFUSED
    assert world.redeem(code) == REFUSED
    world.locked_out.clear()
    assert world.refresh(token)[0] == 200


@pytest.mark.requirement("OA-44", "OA-83")
def test_refresh_and_code_after_the_client_changed_oa44_oa83(world: World) -> None:
    """OA-44: what a person agreed to was another document."""
    token, code = world.signed_in()["refresh_token"], world.code()
    world.clients.clients["app"] = replace(APP, digest="d-flipped")
    assert world.refresh(token) == REFUSED
    assert world.redeem(code) == REFUSED
    world.clients.clients["app"] = APP
    assert world.refresh(token)[0] == 200


def test_nothing_lives_for_ever(world: World) -> None:
    """Absolute and idle end of a grant."""
    token = world.signed_in()["refresh_token"]
    world.clock.now += world.settings.refresh
    assert world.refresh(token) == REFUSED
    token, began = world.signed_in()["refresh_token"], world.clock.now
    while world.clock.now < began + world.settings.grant - 2:
        world.clock.now = min(world.clock.now + 1_000_000, began + world.settings.grant - 2)
        document = world.refresh(token)[1]
        token = document["refresh_token"]
    assert document["expires_in"] <= 2
    world.clock.now += 2
    assert world.refresh(token) == REFUSED


def test_a_grant_ends_whatever_clock_the_database_has() -> None:
    """Its end stands in it as well."""
    world = World(LockedTable(lambda: 0.0))
    token = world.signed_in()["refresh_token"]
    world.clock.now += world.settings.grant
    assert world.refresh(token) == REFUSED


# revocation and introspection


@pytest.mark.requirement("OA-84")
def test_revocation_by_a_foreign_client_oa84(world: World) -> None:
    """OA-84: 200, and nothing happens."""
    given = world.signed_in()
    for token in (given["refresh_token"], given["access_token"], "nonsense", "a.b.c", "lr_x.y.z"):
        assert world.ask("revoke", token=token, client_id=OTHER.id) == (200, {})
    assert not world.revoked
    assert world.refresh(given["refresh_token"])[0] == 200


@pytest.mark.requirement("OA-84")
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
    assert world.refresh(given["refresh_token"]) == REFUSED
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
