"""What an access token of ours says, read by PyJWT, and that our own front door takes it and nothing like it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import jwt
import pytest

from limen.core.call import Caller, Presented
from limen.core.faults import ConfigFault, DependencyFault
from limen.core.verdict import Pass, Refuse, Verdict
from limen.identity.authenticate import Authenticate
from limen.identity.issuers import OWN_REFRESH, IdentitySettings, Issuers
from limen.oauth.minting import Claims, Mint
from limen.oauth.model import User
from limen.oauth.settings import TokenSettings
from minting import Clock, FakeFetch, Key, caller, context, reason
from oauth.granting import ALICE, APP, ISSUER, KEY, RESOURCE, Signer, World, asked


def oracle(token: str, *keys: Key, audience: str = RESOURCE) -> dict[str, Any]:
    """Verified by another library than the one under test; times are the test's."""
    published = jwt.PyJWKSet.from_dict(json.loads(Signer(*keys).key_set()))
    key = published[jwt.get_unverified_header(token)["kid"]]
    options: Any = {"verify_exp": False, "verify_iat": False, "require": ["exp", "iat", "jti", "sub", "aud", "iss"]}
    found: dict[str, Any] = jwt.decode(
        token, key.key, algorithms=["ES256"], audience=audience, issuer=ISSUER, options=options
    )
    return found


def test_claims_are_those_of_rfc9068() -> None:
    world = World()
    token = world.signed_in()["access_token"]
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": "own", "typ": "at+jwt"}
    claims = oracle(token)
    now = int(world.clock.now)
    (family,) = world.live
    assert claims.pop("jti").startswith(f"{family}.")
    assert claims == {
        "iss": ISSUER, "sub": "alice", "aud": RESOURCE, "client_id": "app", "scope": "read write", "sid": family,
        "iat": now, "exp": now + 600, "auth_time": ALICE.auth_time, "acr": "gold", "amr": ["pwd", "mfa"],
        "groups": ["staff"], "roles": ["admin"], "idp": ALICE.issuer,
    }  # fmt: skip


def test_what_is_not_known_of_a_person_is_left_out() -> None:
    world = World()
    code = world.grants.code(asked(scopes=()), User("https://idp.example", "bob"), "c")
    claims = oracle(world.redeem(code)[1]["access_token"])
    assert not {"auth_time", "acr", "amr", "groups", "roles", "scope", "cnf"} & set(claims)


def test_a_person_cannot_be_named_like_a_claim() -> None:
    """A provider's claim that is read from `sub` or `exp` does not take the place of ours."""
    world = World()
    mint = Mint(ISSUER, world.signer, 600, Claims(groups="sub", roles="exp"), world.clock)
    world.signed_in()
    family = world.families.get(world.live[0])
    assert family is not None
    claims = oracle(mint.access(family, ("read",), "").token)
    assert (claims["sub"], claims["exp"]) == ("alice", int(world.clock.now) + 600)


@pytest.mark.requirement("AS-08")
@pytest.mark.parametrize("setting", [{"access": 901}, {"access": 0}, {"code": 61}, {"retry": 11}, {"refresh": 0}])
def test_lifetimes_have_limits_as08(setting: dict[str, int]) -> None:
    """AS-08: an access token is good for 15 minutes at most, a code for one."""
    with pytest.raises(ValueError):
        TokenSettings(**setting)
    assert TokenSettings().access <= 900


class Gate:
    """Our own front door: tokens of ours, and of nobody else."""

    def __init__(self, world: World, **more: Any) -> None:
        self.world, self.fetch, self.clock = world, FakeFetch(), world.clock
        self.settings = IdentitySettings(**more)
        own = (ISSUER, world.signer.key_set)
        self.issuers = Issuers(self.settings, self.fetch, self.clock, own=own)
        self.guard = Authenticate(self.issuers, {"hr": RESOURCE}, self.settings)

    def judge(self, token: str, resource: str = RESOURCE, route: str = "hr") -> Verdict:
        async def run() -> Verdict:
            asked = context(Presented((f"Bearer {token}".encode(),), resource), route)
            verdict = self.guard.check(asked)
            return verdict if isinstance(verdict, Pass | Refuse) else await verdict

        return asyncio.run(run())


def test_our_own_token_is_taken_without_a_fetch() -> None:
    gate = Gate(World())
    alice = caller(gate.judge(gate.world.signed_in()["access_token"]))
    assert isinstance(alice, Caller)
    assert (alice.issuer, alice.subject, alice.client) == (ISSUER, "alice", "app")
    assert alice.groups == {"staff"}
    assert alice.roles == {"admin"}
    assert alice.amr == {"pwd", "mfa"}
    assert (alice.acr, alice.auth_time, alice.scopes) == ("gold", ALICE.auth_time, {"read", "write"})
    assert not gate.fetch.calls
    assert gate.issuers.problems() == {}


def test_groups_are_where_the_operator_looks_for_them() -> None:
    """Else a rule that forbids a group would not see it."""
    world = World()
    world.mint = Mint(ISSUER, world.signer, 600, Claims("https://x.example/groups", "realm.roles"), world.clock)
    gate = Gate(world, groups_claim="https://x.example/groups", roles_claim="realm.roles")
    world.signed_in()
    family = world.families.get(world.live[0])
    assert family is not None
    alice = caller(gate.judge(world.mint.access(family, ("read",), "").token))
    assert (alice.groups, alice.roles) == ({"staff"}, {"admin"})


@pytest.mark.requirement("OA-78")
def test_refresh_token_or_code_is_no_access_token_oa78() -> None:
    """OA-78"""
    gate = Gate(World())
    given = gate.world.signed_in()
    for other in (given["refresh_token"], gate.world.code()):
        assert reason(gate.judge(other)) == "identity.invalid"
    assert caller(gate.judge(given["access_token"]))


@pytest.mark.requirement("OA-78")
def test_other_things_signed_with_our_keys_are_no_access_tokens_oa78() -> None:
    """OA-78: an id token, an assertion or a session of the same signer."""
    gate = Gate(World())
    claims = {**oracle(gate.world.signed_in()["access_token"])}
    for kind in ("JWT", "id_token", "dpop+jwt", "", "oauth-authz-req+jwt"):
        assert reason(gate.judge(gate.world.signer.sign(kind, claims))) == "identity.invalid"
    assert caller(gate.judge(gate.world.signer.sign("at+jwt", claims)))


@pytest.mark.requirement("AS-42", "OA-76")
def test_token_for_one_resource_opens_no_other_as42() -> None:
    """AS-42 OA-76"""
    gate = Gate(World())
    token = gate.world.redeem(gate.world.code(resource="https://gw.example/mcp/fin"), resource=None)[1]["access_token"]
    assert reason(gate.judge(token)) == "identity.audience"


def test_clock_that_is_a_minute_off_is_forgiven() -> None:
    """Positive control: 60 s of skew."""
    world = World()
    token = world.signed_in()["access_token"]
    gate = Gate(world, leeway=60)
    for skew, good in ((-60, True), (600 + 59, True), (600 + 60, False), (-62, False)):
        gate.clock.now = int(world.clock.now) + skew
        assert (reason(gate.judge(token)) == "passed") is good, skew
        gate.clock.now -= skew


def test_rotated_key_is_known_at_once_and_a_withdrawn_one_within_a_second() -> None:
    world = World()
    gate = Gate(world)
    old = world.signed_in()["access_token"]
    assert caller(gate.judge(old))
    new = Key("ES256", kid="new")
    world.signer.keys.insert(0, new)  # rotated; the old one is published on
    token = world.signed_in()["access_token"]
    assert jwt.get_unverified_header(token)["kid"] == "new"
    assert oracle(token, new, KEY)["sub"] == "alice"
    assert caller(gate.judge(token))  # an unknown key is looked up at once
    assert caller(gate.judge(old))
    own = gate.issuers.find(ISSUER)
    assert own is not None
    assert own.generation == 2
    world.signer.keys.remove(KEY)
    gate.clock.now += OWN_REFRESH
    assert reason(gate.judge(old)) == "identity.invalid"  # though it was remembered
    assert caller(gate.judge(token))


def test_keys_that_cannot_be_read_let_nobody_in() -> None:
    world = World()
    gate = Gate(world)
    token = world.signed_in()["access_token"]
    good, world.signer.key_set = world.signer.key_set, broken  # type: ignore[method-assign]
    gate = Gate.__new__(Gate)
    with pytest.raises(DependencyFault):
        Gate(world)
    world.signer.key_set = good  # type: ignore[method-assign]
    gate = Gate(world)
    assert caller(gate.judge(token))


def broken() -> bytes:
    raise DependencyFault("keys", "unreadable")


def test_provider_tokens_are_taken_only_where_the_provider_is_listed_too() -> None:
    """And our own name is nobody else's."""
    gate = Gate(World())
    assert reason(gate.judge(Key("ES256").token(iss="https://idp.example", aud=RESOURCE))) == "identity.invalid"
    with pytest.raises(ConfigFault, match="our own name"):
        Gate(World(), issuers=[{"issuer": ISSUER}])


def test_mint_recognises_its_own_tokens_only() -> None:
    """What revocation and introspection believe."""
    world = World()
    token = world.signed_in()["access_token"]
    claims = world.mint.read(token)
    assert claims is not None
    stranger = Signer(Key("ES256", kid="own"))
    head, body, signature = token.split(".")
    for other in (
        stranger.sign("at+jwt", dict(claims)),
        world.signer.sign("JWT", dict(claims)),
        world.signer.sign("at+jwt", {**claims, "iss": "https://evil.example"}),
        world.signer.sign("at+jwt", {**claims, "exp": int(world.clock.now)}),
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{signature}.{body}",
        "x" * 20_000,
        "..",
    ):
        assert world.mint.read(other) is None
    world.clock.now += 600
    assert world.mint.read(token) is None


def test_lifetime_of_a_token_ends_with_its_grant() -> None:
    world = World(clock=Clock())
    world.settings = TokenSettings(grant=100)
    world.build()
    document = world.signed_in(replace(APP))
    assert document["expires_in"] == 100
