"""The guard: where a caller comes from, what is remembered, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from limen.core.call import Caller, Presented
from limen.core.chain import Chain
from limen.core.verdict import Pass, Refuse, Verdict
from limen.identity.authenticate import Authenticate, TokenVerifier
from limen.identity.issuers import IdentitySettings
from minting import NOW, RESOURCE, Key, World, caller, context, reason

KEY = Key()


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_claims_become_facts() -> None:
    claims = {
        "groups": ["dev", "ops"],
        "roles": ["admin"],
        "amr": ["pwd", "mfa"],
        "acr": "urn:loa:2",
        "auth_time": NOW - 60,
        "client_id": None,
        "azp": "app2",
        "tid": "t1",
        "nested": {"b": 1, "a": 2},
    }
    alice = caller(World(KEY).judge(KEY.token(**claims)))
    assert alice.groups == {"dev", "ops"} and alice.roles == {"admin"} and alice.mfa
    assert (alice.acr, alice.auth_time, alice.client) == ("urn:loa:2", NOW - 60, "app2")
    assert alice.claims == '{"nested":{"a":2,"b":1},"tid":"t1"}'
    assert KEY.token(**claims).split(".")[2] not in repr(alice)


def test_token_without_jti_gets_a_digest_for_an_id() -> None:
    world = World(KEY)
    one, two = (caller(world.judge(KEY.token(jti=None, n=n))).token_id for n in (1, 2))
    assert one != two and len(one) == len(two) == 32


def test_claim_names_are_configurable() -> None:
    nested = {
        "realm_access": {"roles": ["r"]},
        "https://x.example/groups": ["g"],
        "permissions": ["p:1", "p:2"],
        "scope": "s",
    }
    world = World(
        KEY, roles_claim="realm_access.roles", groups_claim="https://x.example/groups", scope_claim="permissions"
    )
    alice = caller(world.judge(KEY.token(**nested)))
    assert (alice.roles, alice.groups, alice.scopes) == ({"r"}, {"g"}, {"p:1", "p:2"})
    none = caller(World(KEY, groups_claim="").judge(KEY.token(groups=["g"], hasgroups=True)))
    assert none.groups == frozenset()


def test_guard_stands_first_and_proves_the_caller() -> None:
    world = World(KEY)
    chain = Chain([world.guard], [Caller])
    world.judge()

    async def story() -> None:
        answer = await chain.run(context(Presented((f"Bearer {KEY.token()}".encode(),), RESOURCE)))
        assert not isinstance(answer, tuple)
        assert answer.get(Caller).subject == "alice"

    run(story())


def ask(world: World, presented: Presented, transport: str = "http") -> Verdict:
    answer = world.guard.check(context(presented, transport=transport))
    assert isinstance(answer, Pass | Refuse)
    return answer


def test_local_user_of_a_stdio_client() -> None:
    """A14: the operating-system user, and nobody who comes over a network or brings another credential."""
    world = World(KEY)
    alice = caller(ask(world, Presented(local_user="alice"), "stdio"))
    assert (alice.issuer, alice.subject, alice.expires) == ("local", "alice", 0.0)
    assert reason(ask(world, Presented(local_user="alice"), "http")) == "identity.ambiguous"
    both = Presented((f"Bearer {KEY.token()}".encode(),), RESOURCE, "alice")
    assert reason(ask(world, both, "stdio")) == "identity.ambiguous"
    for more in ({"proofs": (b"x",)}, {"api_keys": (b"x",)}):
        assert reason(ask(world, Presented(local_user="alice", **more), "stdio")) == "identity.ambiguous"
    assert reason(ask(world, Presented(), "stdio")) == "identity.missing"


def test_anonymous_only_where_asked_for() -> None:
    assert reason(ask(World(KEY), Presented(resource=RESOURCE))) == "identity.missing"
    world = World(KEY, unsafe_anonymous=True)
    assert caller(ask(world, Presented(resource=RESOURCE))).issuer == "anonymous"
    assert reason(ask(world, Presented((b"Bearer junk",), RESOURCE))) == "identity.invalid"  # a bad token is no token


def test_no_issuer_configured_means_no_token_is_good() -> None:
    world = World(KEY, issuers=())
    assert reason(world.judge(KEY.token())) == "identity.invalid"


def test_remembered_token_is_answered_at_once_for_its_resource_only() -> None:
    world = World(KEY)
    token = KEY.token()
    first = world.judge(token)
    value = f"Bearer {token}".encode()
    assert ask(world, Presented((value,), RESOURCE)) is first
    finance = context(Presented((value,), "https://gw.example/fin/mcp"), "fin")
    answer = world.guard.check(finance)
    assert isinstance(answer, Refuse) and answer.reason.id == "identity.audience"


def test_memory_is_bounded_and_can_be_dropped() -> None:
    async def story() -> None:
        world = World(KEY)
        await world.issuers.warm()
        verifier = TokenVerifier(world.issuers, world.settings, capacity=5)
        values = [f"Bearer {KEY.token(jti=f't-{n}')}".encode() for n in range(20)]
        for value in values:
            assert isinstance(verifier.verify(value, RESOURCE), Pass)
        assert len(verifier._verified) == 5
        again = verifier.verify(values[-1], RESOURCE)
        assert again is verifier.verify(values[-1], RESOURCE)
        verifier.revoke_all()
        assert len(verifier._verified) == 0
        assert verifier.verify(values[-1], RESOURCE) is not again
        for junk in (b"Bearer junk", b"Bearer " + KEY.token(aud="x").encode()):
            assert isinstance(verifier.verify(junk, RESOURCE), Refuse)
        assert len(verifier._verified) == 1  # what was refused takes no room

    run(story())


def test_verification_that_began_before_a_revocation_is_not_remembered() -> None:
    async def story() -> None:
        world = World(KEY)
        world.fetch.wait = 0.02
        verifier = TokenVerifier(world.issuers, world.settings)
        answer = verifier.verify(f"Bearer {KEY.token()}".encode(), RESOURCE)
        assert not isinstance(answer, Pass | Refuse)
        asked = asyncio.ensure_future(answer)
        await asyncio.sleep(0.005)
        verifier.revoke_all()
        assert isinstance(await asked, Pass)
        assert not verifier._verified

    run(story())


def test_route_without_a_resource_is_closed() -> None:
    world = World(KEY)
    guard = Authenticate(world.issuers, {"hr": ""}, IdentitySettings())
    answer = guard.check(context(Presented((f"Bearer {KEY.token(aud='')}".encode(),), "")))
    assert isinstance(answer, Refuse) and answer.reason.id == "identity.audience"
