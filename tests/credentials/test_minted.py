"""Tokens of our own: read by PyJWT as a server would, with our published keys and nothing else."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from dataclasses import replace
from hashlib import sha256
from typing import Any

import jwt
import pytest

from credentials.authority import UP, Keys, asking
from limen.core.call import Caller, Context, UpstreamCredential
from limen.core.verdict import Pass
from limen.credentials.minted import EachCall, MintedToken
from limen.credentials.settings import Minted
from limen.credentials.sources import Remembered

OWN = "https://limen.example"
ALICE = Caller(
    OWN, "alice", "editor", token_id="t1", acr="high", amr=frozenset({"pwd", "otp"}), auth_time=1_700_000_000,
    claims='{"idp":"https://idp.example"}',
)  # fmt: skip


def minted(context: Context, **settings: Any) -> str:
    keys = settings.pop("keys", None) or Keys()
    token = MintedToken(Minted.model_validate({"kind": "minted", **settings}), UP, OWN, keys)
    verdict = EachCall(token, UP, (("x-key", "k"),)).credential(context)
    assert isinstance(verdict, Pass)
    (credential,) = verdict.facts
    assert isinstance(credential, UpstreamCredential)
    assert credential.headers[0] == ("x-key", "k")
    return dict(credential.headers)["authorization"].removeprefix("Bearer ")


def read(token: str, keys: Keys, audience: str = UP) -> dict[str, Any]:
    """As a server that trusts Limen's keys: PyJWT, from the JWK set, everything required."""
    header = jwt.get_unverified_header(token)
    assert header["typ"] == "at+jwt"
    (key,) = [one for one in jwt.PyJWKSet.from_json(keys.key_set().decode()).keys if one.key_id == header["kid"]]
    claims: dict[str, Any] = jwt.decode(
        token, key, ["ES256"], audience=audience, issuer=OWN,
        options={"require": ["exp", "iat", "sub", "jti", "client_id"], "strict_aud": True},
    )  # fmt: skip
    return claims


def test_a_server_verifies_it_with_our_keys_and_reads_who_for_what_b2_b7() -> None:
    keys = Keys()
    claims = read(minted(asking(ALICE), keys=keys), keys)
    assert {name: claims[name] for name in ("sub", "idp", "client_id", "act", "scope", "acr", "amr", "auth_time")} == {
        "sub": "alice", "idp": "https://idp.example", "client_id": "editor", "act": {"sub": "editor"},
        "scope": "tool:echo", "acr": "high", "amr": ["otp", "pwd"], "auth_time": 1_700_000_000,
    }  # fmt: skip
    assert claims["exp"] - claims["iat"] == 120
    assert "limen_session" not in claims


def digest(method: str, name: str, arguments: Any) -> str:
    """As the documentation tells a server's author to compute it."""
    text = json.dumps(
        {"method": method, "name": name, "arguments": arguments}, sort_keys=True, separators=(",", ":"),
        ensure_ascii=False,
    )  # fmt: skip
    return urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode()


def test_it_is_good_for_this_call_and_no_other_b7() -> None:
    keys = Keys()
    claims = read(minted(asking(ALICE), keys=keys), keys)
    assert claims["limen_call"] == digest("tools/call", "echo", {"text": "hi"})
    for other in (asking(ALICE, tool="danger"), asking(ALICE, arguments=b'{"text":"ho"}')):
        assert read(minted(other, keys=keys), keys)["limen_call"] != claims["limen_call"]
    bundled = read(minted(asking(ALICE, shown="up__echo"), keys=keys), keys)
    assert bundled["limen_call"] == claims["limen_call"]  # the server never hears of the bundle's name
    jtis = {read(minted(asking(ALICE), keys=keys), keys)["jti"] for _ in range(20)}
    assert len(jtis) == 20


def test_the_digest_is_of_what_the_server_gets_not_of_what_was_covered() -> None:
    keys = Keys()
    claims = read(minted(asking(ALICE, protected=b'{"text":"TOKEN-1"}'), keys=keys), keys)
    assert claims["limen_call"] == digest("tools/call", "echo", {"text": "TOKEN-1"})


def test_a_session_binds_it_as_well() -> None:
    keys = Keys()
    one, two = (read(minted(asking(ALICE, session=name), keys=keys), keys) for name in ("s1", "s2"))
    assert one["limen_session"] != two["limen_session"]
    assert "s1" not in json.dumps(one)


@pytest.mark.parametrize(
    ("context", "scope"),
    [(asking(ALICE), "files:read files:list"), (asking(ALICE, tool="other"), "tool:other"),
     (asking(ALICE, tool="a b\"c"), "tool:a%20b%22c"), (asking(ALICE, kind="prompt"), "prompt:echo"),
     (asking(ALICE, tool="file:///x?y", kind="resource"), "resource:file:///x?y"), (asking(ALICE, tool="none"), "")],
    ids=lambda one: one if isinstance(one, str) else "",
)  # fmt: skip
def test_scope_is_what_this_tool_needs_and_no_more(context: Context, scope: str) -> None:
    keys = Keys()
    settings = {"scopes": {"echo": ["files:read", "files:list"], "none": []}}
    assert read(minted(context, keys=keys, **settings), keys)["scope"] == scope


ACTS = [
    ("{}", {"sub": "editor"}),
    ('{"act":{"sub":"agent"}}', {"sub": "editor", "act": {"sub": "agent"}}),
    ('{"act":{"sub":"a","act":{"sub":"b"}}}', {"sub": "editor", "act": {"sub": "a", "act": {"sub": "b"}}}),
    ('{"act":{"sub":"a","act":{"sub":"b","act":{"sub":"c","act":{"sub":"d"}}}}}', {"sub": "editor"}),
    ('{"act":"root"}', {"sub": "editor"}),
    ('{"act":{"sub":5}}', {"sub": "editor"}),
    ('{"act":{"sub":"a","act":[]}}', {"sub": "editor"}),
]


@pytest.mark.parametrize(("claims", "act"), ACTS, ids=[one[0] for one in ACTS])
def test_chain_of_actors_is_kept_and_bounded(claims: str, act: Any) -> None:
    keys = Keys()
    assert read(minted(asking(replace(ALICE, claims=claims)), keys=keys), keys)["act"] == act


def test_a_program_acts_for_itself() -> None:
    keys = Keys()
    robot = Caller("https://as.example", "robot", "robot", machine=True, token_id="t")
    claims = read(minted(asking(robot), keys=keys), keys)
    assert "act" not in claims
    assert (claims["sub"], claims["client_id"], claims["idp"]) == ("robot", "robot", "https://as.example")


def test_people_of_two_issuers_with_one_name_are_told_apart() -> None:
    keys = Keys()
    one, two = (
        read(minted(asking(replace(ALICE, issuer=name, claims='{"idp":"https://forged"}')), keys=keys), keys)
        for name in ("https://a.example", "https://b.example")
    )
    assert (one["idp"], two["idp"]) == ("https://a.example", "https://b.example")  # their own word does not count


def test_kept_for_the_caller_where_it_is_not_bound_to_a_call() -> None:
    async def run() -> None:
        keys = Keys()
        settings = Minted.model_validate({"kind": "minted", "bind": "caller", "audience": "urn:up", "lifetime": 600})
        source = Remembered(MintedToken(settings, UP, OWN, keys), UP)

        async def token(context: Context) -> str:
            verdict = source.credential(context)
            verdict = verdict if isinstance(verdict, Pass) else await verdict  # type: ignore[misc]
            assert isinstance(verdict, Pass)
            return str(verdict.facts[0].headers[0][1])  # type: ignore[attr-defined]

        first = await token(asking(ALICE))
        assert await token(asking(ALICE, arguments=b"{}")) == first
        assert await token(asking(ALICE, tool="other")) != first  # another scope
        claims = read(first.removeprefix("Bearer "), keys, "urn:up")
        assert "limen_call" not in claims

    asyncio.run(run())


def test_what_reads_a_server_is_limen_itself() -> None:
    keys = Keys()
    token = MintedToken(Minted.model_validate({"kind": "minted"}), UP, OWN, keys)
    claims = read(token.own().header[1].removeprefix("Bearer "), keys)
    assert (claims["sub"], claims["scope"], claims.get("act")) == (OWN, "describe", None)
