"""RFC 8693, the server's side: a server behind us gets a token for another one, and nothing it did not have."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from contracts.memory import MemoryTable
from credentials.authority import EXCHANGE, TYPES, Keys
from limen.credentials.exchange_grant import ExchangeGrant, NotExchanged, Server
from limen.credentials.settings import Minted
from limen.gateway.front import spoken_of
from limen.identity.revoked import Revocation, is_revoked, revoke
from minting import Key

OWN, HERE, THERE, OTHER = "https://limen.example", "https://a.example", "https://b.example", "https://c.example"


def grant(keys: Keys, ended: Any = lambda claims: False) -> ExchangeGrant:
    def server(name: str, audience: str, **more: Any) -> Server:
        return Server(name, audience, Minted.model_validate({"kind": "minted", **more}))

    servers = (
        server("a", HERE, exchange={"server-a": ["b"]}),
        server("b", THERE, lifetime=60, exchange={"server-b": ["a"]}),
        server("c", OTHER),
    )
    return ExchangeGrant(OWN, servers, keys, ended)


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {"iss": OWN, "aud": HERE, "sub": "alice", "idp": "https://idp.example", "client_id": "editor", "iat": now,
            "exp": now + 120, "jti": "j1", "scope": "tool:echo files:read", "act": {"sub": "editor"},
            "limen_call": "bound"}  # fmt: skip
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def form(token: str, **changes: Any) -> dict[str, str]:
    made = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": f"{TYPES}access_token",
            "audience": THERE}  # fmt: skip
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def read(token: str, keys: Keys) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, keys.key.private.public_key(), ["ES256"], audience=THERE, issuer=OWN)
    return found


@pytest.mark.parametrize("parameter", ["audience", "resource"])
def test_the_person_stays_and_the_chain_grows(parameter: str) -> None:
    keys = Keys()
    asked = form(keys.sign("at+jwt", claims()), **{"audience": None, parameter: THERE})
    answer = grant(keys).exchange(asked, "server-a")
    assert (answer["token_type"], answer["issued_token_type"]) == ("Bearer", f"{TYPES}access_token")
    got = read(answer["access_token"], keys)
    assert {name: got[name] for name in ("sub", "idp", "client_id", "scope", "act")} == {
        "sub": "alice", "idp": "https://idp.example", "client_id": "server-a", "scope": "tool:echo files:read",
        "act": {"sub": "server-a", "act": {"sub": "editor"}},
    }  # fmt: skip
    assert "limen_call" not in got  # it was good for a call that is none of this server's
    assert got["exp"] - got["iat"] == answer["expires_in"] <= 60
    assert got["jti"] != "j1"


def test_it_does_not_outlive_the_token_it_is_made_from() -> None:
    keys = Keys()
    until = int(time.time()) + 20
    answer = grant(keys).exchange(form(keys.sign("at+jwt", claims(exp=until))), "server-a")
    assert read(answer["access_token"], keys)["exp"] == until


@pytest.mark.requirement("OA-33")
@pytest.mark.parametrize(("scope", "good"), [("files:read", True), ("", True), ("files:write", False), ("*", False)])
def test_scope_may_be_narrowed_and_never_widened_oa33(scope: str, good: bool) -> None:
    keys = Keys()
    asked = form(keys.sign("at+jwt", claims()), scope=scope)
    if good:
        assert read(grant(keys).exchange(asked, "server-a")["access_token"], keys)["scope"] == scope
    else:
        with pytest.raises(NotExchanged, match="invalid_scope"):
            grant(keys).exchange(asked, "server-a")


def long(count: int) -> dict[str, Any]:
    chain: dict[str, Any] = {"sub": "0"}
    for number in range(1, count):
        chain = {"sub": str(number), "act": chain}
    return chain


def test_the_chain_ends_somewhere() -> None:
    keys = Keys()
    grant(keys).exchange(form(keys.sign("at+jwt", claims(act=long(3)))), "server-a")
    for act in (long(4), {"sub": 5}, "root", {"sub": "a", "act": {"nobody": 1}}):
        with pytest.raises(NotExchanged, match="invalid_request"):
            grant(keys).exchange(form(keys.sign("at+jwt", claims(act=act))), "server-a")


TOKENS: list[tuple[str, dict[str, Any]]] = [
    ("JWT", {}), ("oauth-id-jag+jwt", {}), ("at+jwt", {"iss": "https://other.example"}), ("at+jwt", {"exp": 5}),
    ("at+jwt", {"exp": None}), ("at+jwt", {"exp": "9999999999"}), ("at+jwt", {"aud": [HERE, THERE]}),
    ("at+jwt", {"aud": "https://limen.example/mcp/a"}), ("at+jwt", {"aud": THERE}), ("at+jwt", {"aud": OTHER}),
    ("at+jwt", {"sub": None}), ("at+jwt", {"jti": None}), ("at+jwt", {"aud": None}), ("at+jwt", {"exp": True}),
]  # fmt: skip


@pytest.mark.requirement("OA-76")
@pytest.mark.parametrize(("typ", "changes"), TOKENS, ids=str)
def test_a_token_that_is_none_or_for_another_server_is_refused_oa76(typ: str, changes: dict[str, Any]) -> None:
    keys = Keys()
    with pytest.raises(NotExchanged, match="invalid_grant"):
        grant(keys).exchange(form(keys.sign(typ, claims(**changes))), "server-a")


@pytest.mark.requirement("OA-60", "OA-61", "OA-75")
def test_forged_and_revoked_tokens_are_refused_oa60_oa61_oa75() -> None:
    keys, stranger = Keys(), Key("ES256", kid="k1")
    forged = [
        jwt.encode(claims(), stranger.private, "ES256", {"typ": "at+jwt", "kid": keys.key.kid}),
        jwt.encode(claims(), None, "none", {"typ": "at+jwt"}),
        jwt.encode(claims(), "x" * 64, "HS256", {"typ": "at+jwt", "kid": keys.key.kid}),
        "", "a.b.c", "x" * 20_000,
    ]  # fmt: skip
    for token in forged:
        with pytest.raises(NotExchanged):
            grant(keys).exchange(form(token), "server-a")
    good = keys.sign("at+jwt", claims())
    with pytest.raises(NotExchanged, match="revoked"):
        grant(keys, lambda claims: claims["jti"] == "j1").exchange(form(good), "server-a")
    grant(keys).exchange(form(good), "server-a")


@pytest.mark.parametrize("client", ["server-b", "editor", "", "server-A"])
def test_only_the_server_the_token_was_made_for_may_exchange_it(client: str) -> None:
    keys = Keys()
    with pytest.raises(NotExchanged, match="invalid_grant"):
        grant(keys).exchange(form(keys.sign("at+jwt", claims())), client)


@pytest.mark.requirement("OA-32")
@pytest.mark.parametrize(
    "target",
    [{"audience": OTHER}, {"audience": HERE}, {"audience": "https://evil.example"}, {"audience": None},
     {"audience": THERE, "resource": OTHER}, {"audience": f"{THERE}/"}, {"audience": "b"}],
    ids=str,
)  # fmt: skip
def test_only_servers_it_is_configured_to_reach_oa32(target: dict[str, Any]) -> None:
    keys = Keys()
    with pytest.raises(NotExchanged, match="invalid_target"):
        grant(keys).exchange(form(keys.sign("at+jwt", claims()), **target), "server-a")


@pytest.mark.parametrize(
    "changes",
    [{"subject_token_type": f"{TYPES}id_token"}, {"subject_token_type": None}, {"actor_token": "x"},
     {"requested_token_type": f"{TYPES}refresh_token"}, {"act": "x"}],
    ids=str,
)  # fmt: skip
def test_what_is_not_understood_is_refused(changes: dict[str, Any]) -> None:
    keys = Keys()
    with pytest.raises(NotExchanged, match="invalid_request"):
        grant(keys).exchange(form(keys.sign("at+jwt", claims()), **changes), "server-a")


@pytest.mark.requirement("OA-83")
@pytest.mark.parametrize(
    ("kind", "name", "issuer", "over"),
    [("user", "alice", "", True), ("user", "alice", OWN, True), ("user", "alice", "https://idp.example", True),
     ("user", "alice", "https://other.example", False), ("client", "editor", "", True), ("token", "j1", OWN, True),
     ("client", "before", "", True), ("client", "server-b", "", False), ("token", "j2", "", False)],
)  # fmt: skip
def test_who_is_locked_out_is_exchanged_no_further_oa83(kind: str, name: str, issuer: str, over: bool) -> None:
    """OA-83: a minted token ends with the person, by any name of theirs, and with every client that acts in it."""
    table, keys = MemoryTable(), Keys()
    token = keys.sign("at+jwt", claims(act={"sub": "editor", "act": {"sub": "before"}}))
    made = grant(keys, lambda found: is_revoked(table, spoken_of(found, OWN)))
    assert made.exchange(form(token), "server-a")
    revoke(table, Revocation(kind, name, issuer))
    if over:
        with pytest.raises(NotExchanged, match="revoked"):
            made.exchange(form(token), "server-a")
    else:
        assert made.exchange(form(token), "server-a")


def test_every_exchange_is_in_the_log() -> None:
    keys, told = Keys(), list[Any]()
    servers = (Server("a", HERE, Minted.model_validate({"kind": "minted", "exchange": {"server-a": ["a"]}})),)
    made = ExchangeGrant(OWN, servers, keys, record=lambda event, fields: told.append((event, dict(fields))))
    answer = made.exchange(form(keys.sign("at+jwt", claims()), audience=HERE), "server-a")
    ((event, fields),) = told
    assert (event, fields["client_id"], fields["sub"], fields["aud"]) == ("exchange", "server-a", "alice", HERE)
    assert fields["of"] == "j1"
    assert answer["access_token"] not in str(told)
