"""A8, OA-77, OA-78: opaque tokens, against made-up answers and a certified provider."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.memory import MemoryTable
from limen.adapters.http import HttpFetch
from limen.core.call import Presented
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Refuse, Verdict
from limen.identity.authenticate import Authenticate
from limen.identity.dpop import Proofs
from limen.identity.issuers import IdentitySettings, Issuers, IssuerSettings
from limen.identity.settings import DpopSettings, IntrospectionSettings
from minting import ISSUER, NOW, RESOURCE, Clock, Key, World, b64, caller, context, good_claims, reason
from provider import Provider, running_provider
from proving import Door, Holder

ASK = {"client_id": "limen", "client_secret": "s", "endpoint": f"{ISSUER}/introspect"}
TOKEN, INVALID = "0paque-token", "identity.invalid"
KEY = Key()


def world(**changes: Any) -> World:
    return World(KEY, introspection=IntrospectionSettings(**{**ASK, **changes}))


def active(**changes: Any) -> dict[str, Any]:
    return {"active": True, "token_type": "Bearer", **good_claims(**changes)}


def asked(answer: Any, token: str = TOKEN, **place: str) -> Verdict:
    one = world()
    one.fetch.answers[token] = answer
    return one.judge(token, **place)


def test_active_token_is_a_caller_a8() -> None:
    one = world()
    one.fetch.answers[TOKEN] = active(cnf=None)
    alice = caller(one.judge(TOKEN))
    assert (alice.issuer, alice.subject, alice.client, alice.scopes) == (ISSUER, "alice", "app", {"read", "call"})
    assert TOKEN not in repr(alice) and not alice.machine
    form = {"token": TOKEN, "token_type_hint": "access_token"}
    assert one.fetch.forms == [(f"{ISSUER}/introspect", form, "limen", "s")]
    assert caller(one.judge(KEY.token())) and len(one.fetch.forms) == 1  # a JWT is not asked about


@pytest.mark.requirement("AUTH-06", "OA-78")
@pytest.mark.parametrize(
    "changes",
    [
        {"active": False},
        {"active": 1},
        {"active": "true"},
        {"active": None},
        {"token_type": None},
        {"token_type": "refresh_token"},  # OA-78
        {"token_type": "N_A"},
        {"token_type": ["Bearer"]},
        {"token_type": None, "typ": "Refresh"},
        {"token_type": "DPoP"},  # bound, and we are not told to what
        {"iss": "https://evil.example"},
        {"iss": f"{ISSUER}/"},
        {"token_use": "refresh"},
        {"sub": None, "client_id": None},
        {"sub": ""},
        {"sub": ["alice"]},
        {"exp": None},
        {"exp": str(NOW + 10)},
        {"nbf": NOW + 100},
        {"client_id": "a", "azp": "b"},
        {"cnf": {"jwk": {}}},
        {"cnf": {}},
    ],
)
def test_answers_that_are_no_yes(changes: dict[str, Any]) -> None:
    answer = {name: value for name, value in {**active(), **changes}.items() if value is not None}
    assert reason(asked(answer)) == INVALID


@pytest.mark.requirement("AUTH-06", "AU-03")
def test_audience_and_expiry_count_as_for_a_jwt() -> None:
    assert reason(asked(active(aud=None))) == "identity.audience"
    assert reason(asked(active(aud=["a", RESOURCE]))) == "identity.audience"
    assert reason(asked(active(), route="fin", resource="https://gw.example/fin/mcp")) == "identity.audience"
    assert reason(asked(active(exp=NOW - 31, iat=NOW - 60))) == "identity.expired"
    assert caller(asked(active(aud=[RESOURCE])))
    for kind in ({"token_type": "bearer"}, {"token_use": "access_token"}, {"iss": None}):
        assert caller(asked({name: value for name, value in {**active(), **kind}.items() if value is not None}))


@pytest.mark.parametrize("answer", [b"", b"[]", b"nonsense", b'"x"', b'{"active":true,"active":false}', b"\xff"])
def test_what_is_not_an_answer_is_a_fault(answer: bytes) -> None:
    with pytest.raises(DependencyFault):
        asked(answer)


@pytest.mark.requirement("OA-77")
def test_outage_lets_nobody_in_oa77() -> None:
    one = world()
    one.fetch.answers[TOKEN] = active()
    assert caller(one.judge(TOKEN))
    one.fetch.down = True
    assert caller(one.judge(TOKEN))  # a yes of this minute
    one.clock.now += 60
    with pytest.raises(DependencyFault):
        one.judge(TOKEN)
    with pytest.raises(DependencyFault):
        one.judge("another")


@pytest.mark.requirement("OA-77", "OA-75")
def test_revocation_is_noticed_within_the_bound_oa77() -> None:
    one = world(cache=20)
    one.fetch.answers[TOKEN] = active()
    assert caller(one.judge(TOKEN))
    one.fetch.answers[TOKEN] = {"active": False}
    one.clock.now += 19
    assert caller(one.judge(TOKEN))
    one.clock.now += 1
    assert reason(one.judge(TOKEN)) == INVALID
    one.fetch.answers[TOKEN] = active()
    assert reason(one.judge(TOKEN)) == INVALID  # a no is remembered for a moment
    one.clock.now += 5
    assert caller(one.judge(TOKEN))
    one.fetch.answers[TOKEN] = {"active": False}
    one.guard.revoke_all()
    assert reason(one.judge(TOKEN)) == INVALID
    never = world(cache=0)
    never.fetch.answers[TOKEN] = active()
    assert caller(never.judge(TOKEN)) and caller(never.judge(TOKEN)) and len(never.fetch.forms) == 2


def test_yes_ends_with_the_token() -> None:
    one = world()
    one.fetch.answers[TOKEN] = active(exp=NOW + 10, iat=NOW)
    assert caller(one.judge(TOKEN))
    one.clock.now += 40
    assert reason(one.judge(TOKEN)) == "identity.expired" and len(one.fetch.forms) == 1


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_one_question_for_many_who_ask_at_once() -> None:
    async def story() -> None:
        one = world()
        one.fetch.wait = 0.02
        one.fetch.answers[TOKEN] = active()
        tasks = [asyncio.create_task(one.ask(TOKEN)) for _ in range(20)]
        await asyncio.sleep(0.005)
        tasks[0].cancel()  # whoever gives up does not take the answer with him
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert all(isinstance(answer, Pass) for answer in answers[1:]) and len(one.fetch.forms) == 1

    run(story())


def test_flood_of_made_up_tokens_is_bounded() -> None:
    async def story() -> None:
        one = world()
        one.fetch.wait = 0.2
        tasks = [asyncio.create_task(one.ask(f"junk-{at}")) for at in range(600)]
        await asyncio.sleep(0.05)
        assert len(one.fetch.forms) <= 16  # at the issuer at any moment
        refused = [task for task in tasks if task.done() and isinstance(task.exception(), DependencyFault)]
        assert len(refused) == 600 - 512
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(story())


def test_memory_is_bounded() -> None:
    async def story() -> None:
        one = world()
        opaque = one.guard._verifier._opaque
        assert opaque is not None
        opaque._capacity = 5
        for at in range(20):
            assert reason(await one.ask(f"junk-{at}")) == INVALID
        assert len(opaque._known) == 5

    run(story())


@pytest.mark.requirement("AUTH-06")
@pytest.mark.parametrize("token", ["a.b", "a.b.c.d", "a" * 16_385, "eyJ.", "Limen_x"])
def test_not_a_jwt_is_asked_about_or_refused_and_never_both(token: str) -> None:
    one = world()
    assert reason(one.judge(token)) == INVALID
    assert len(one.fetch.forms) == (len(token) < 16_384)
    assert reason(one.judge(f"limen_{'0' * 12}_{'0' * 72}")) == INVALID  # a key of ours is not shown to the issuer
    assert len(one.fetch.forms) == (len(token) < 16_384)
    without = World(KEY)
    assert reason(without.judge(token)) == INVALID and without.fetch.forms == []


def test_forged_jwt_is_not_asked_about() -> None:
    one = world()
    forged = KEY.token().rpartition(".")[0] + "." + b64(bytes(64))
    one.fetch.answers[forged] = active()
    assert reason(one.judge(forged)) == INVALID and one.fetch.forms == []


def test_bound_opaque_token_needs_its_proof() -> None:
    alice, settings = Holder(), IntrospectionSettings(**ASK)
    door = Door(KEY, introspection=settings)
    door.world.fetch.answers[TOKEN] = active(cnf=alice.cnf)
    assert reason(door.judge(f"Bearer {TOKEN}")) == "identity.binding"
    assert reason(door.judge(f"DPoP {TOKEN}")) == "identity.proof"
    assert reason(door.judge(f"DPoP {TOKEN}", Holder().proof(TOKEN))) == "identity.proof"
    assert reason(door.judge(f"DPoP {TOKEN}", alice.proof(TOKEN))) == "passed"
    assert len(door.world.fetch.forms) == 1


@pytest.mark.parametrize("metadata", [{"introspection_endpoint": "http://evil.example/i"}, {}])
def test_endpoint_that_is_not_to_be_used(metadata: dict[str, str]) -> None:
    one = world(endpoint=None)
    one.fetch.documents[f"{ISSUER}/.well-known/oauth-authorization-server"] = {"issuer": ISSUER, **metadata}
    with pytest.raises(DependencyFault):
        one.judge(TOKEN)
    assert one.fetch.forms == []


def test_settings() -> None:
    with pytest.raises(ValidationError, match="https"):
        IssuerSettings(issuer=ISSUER, introspection={**ASK, "endpoint": "http://id.example/i"})
    for bad in ({"cache": 61}, {"client_secret": ""}, {"client_id": ""}, {"x": 1}):
        with pytest.raises(ValidationError):
            IntrospectionSettings(**{**ASK, **bad})
    two = tuple(IssuerSettings(issuer=f"{ISSUER}/{at}", introspection=ASK) for at in range(2))
    with pytest.raises(ValidationError, match="one issuer"):
        IdentitySettings(issuers=two)
    assert "'s'" not in repr(IdentitySettings(issuers=two[:1]))


# a certified provider

JWT, OPAQUE = "https://gw.example/hr/mcp", "https://gw.example/fin/mcp"
SECRET = "p&ss+word: 100%"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider({JWT: "hr:read", OPAQUE: "fin:read"}, opaque=[OPAQUE]) as running:
        yield running


class Real:
    """The guard in front of the real provider."""

    def __init__(self, provider: Provider, secret: str = SECRET) -> None:
        self.clock = Clock(time.time())
        ask = IntrospectionSettings(client_id="limen", client_secret=secret)
        settings = IdentitySettings(issuers=(IssuerSettings(issuer=provider.issuer, introspection=ask),))
        self.issuers = Issuers(settings, HttpFetch(), self.clock)
        proofs = Proofs(DpopSettings(), 30, MemoryTable(), self.clock)
        self.guard = Authenticate(self.issuers, {"hr": JWT, "fin": OPAQUE}, settings, proofs=proofs)

    async def ask(self, value: str, *proofs: str, route: str = "fin", resource: str = OPAQUE) -> Verdict:
        raw = tuple(proof.encode() for proof in proofs)
        answer = self.guard.check(
            context(Presented((value.encode(),), resource, method="POST", proofs=raw), route=route)
        )
        return answer if isinstance(answer, Pass | Refuse) else await answer


def test_opaque_token_of_the_real_provider_until_it_is_revoked_a8(provider: Provider) -> None:
    async def story() -> None:
        real = Real(provider)
        token = await asyncio.to_thread(provider.token, OPAQUE, "fin:read", "bob")
        assert "." not in token
        bob = caller(await real.ask(f"Bearer {token}"))
        assert (bob.issuer, bob.subject, bob.client) == (provider.issuer, "bob", "client")
        assert bob.scopes == {"fin:read"} and bob.expires > time.time()
        assert reason(await real.ask(f"Bearer {token}", route="hr", resource=JWT)) == "identity.audience"
        assert reason(await real.ask(f"Bearer {token}x")) == INVALID
        await asyncio.to_thread(provider.revoke, token)
        real.clock.now += 60
        assert reason(await real.ask(f"Bearer {token}")) == INVALID

    run(story())


def test_wrong_secret_of_ours_lets_nobody_in(provider: Provider) -> None:
    async def story() -> None:
        token = await asyncio.to_thread(provider.token, OPAQUE, "fin:read")
        with pytest.raises(DependencyFault, match="status 401"):
            await Real(provider, "wrong").ask(f"Bearer {token}")

    run(story())


def test_dpop_bound_tokens_of_the_real_provider_b6_b7(provider: Provider) -> None:
    """Both kinds of token, bound by the provider to a key that this test holds."""
    alice, thief = Holder(), Holder()

    def at_provider(url: str) -> str:
        return alice.proof("", htu=url, iat=int(time.time()), ath=None)

    async def story() -> None:
        real = Real(provider)
        for route, resource, scope in (("hr", JWT, "hr:read"), ("fin", OPAQUE, "fin:read")):
            answer = await asyncio.to_thread(provider.tokens, resource, scope, "alice", at_provider)
            token, place = answer["access_token"], {"route": route, "resource": resource}
            assert answer["token_type"] == "DPoP"
            fresh = {"htu": resource, "iat": int(time.time())}
            proof = alice.proof(token, **fresh)
            assert caller(await real.ask(f"DPoP {token}", proof, **place)).subject == "alice"
            assert reason(await real.ask(f"DPoP {token}", proof, **place)) == "identity.proof"
            assert reason(await real.ask(f"DPoP {token}", thief.proof(token, **fresh), **place)) == "identity.proof"
            assert reason(await real.ask(f"Bearer {token}", alice.proof(token, **fresh), **place)) == "identity.binding"
            assert caller(await real.ask(f"DPoP {token}", alice.proof(token, **fresh), **place))

    run(story())


def test_client_credentials_of_the_real_provider_a15(provider: Provider) -> None:
    async def story() -> None:
        real = Real(provider)
        for route, resource, scope in (("hr", JWT, "hr:read"), ("fin", OPAQUE, "fin:read")):
            token = await asyncio.to_thread(provider.machine_token, resource, scope)
            robot = caller(await real.ask(f"Bearer {token}", route=route, resource=resource))
            assert robot.machine and robot.client == "robot" and robot.scopes == {scope}
            person = await asyncio.to_thread(provider.token, resource, scope)
            assert not caller(await real.ask(f"Bearer {person}", route=route, resource=resource)).machine

    run(story())


# workload identities: issuers like any other, with an audience of their own

KUBERNETES = {
    "sub": "system:serviceaccount:batch:nightly",
    "aud": ["limen"],
    "kubernetes.io": {"namespace": "batch", "serviceaccount": {"name": "nightly", "uid": "u"}},
    "client_id": None,
    "scope": None,
}


def test_kubernetes_service_account_a15() -> None:
    """Projected service account tokens have no typ and an audience that was asked for when the volume was mounted."""
    cluster = World(KEY, audience="limen", token_types=("",))
    nightly = caller(cluster.judge(KEY.token({"typ": None}, **KUBERNETES)))
    assert nightly.machine and nightly.subject == "system:serviceaccount:batch:nightly" and "batch" in nightly.claims
    other = {**KUBERNETES, "aud": ["https://kubernetes.default.svc"]}
    assert reason(cluster.judge(KEY.token({"typ": None}, **other))) == "identity.audience"


def test_spiffe_svid_a15() -> None:
    mesh = World(KEY, audience="spiffe://example.org/limen", token_types=("JWT", "JOSE"))
    svid = {"sub": "spiffe://example.org/ns/batch/nightly", "client_id": None, "scope": None, "jti": None}
    nightly = caller(mesh.judge(KEY.token({"typ": "JWT"}, aud="spiffe://example.org/limen", **svid)))
    assert nightly.machine and nightly.subject.startswith("spiffe://")
    assert (
        reason(mesh.judge(KEY.token({"typ": "JWT"}, aud="spiffe://example.org/other", **svid))) == "identity.audience"
    )


def test_machine_is_not_claimed_by_a_person() -> None:
    assert not caller(World(KEY).judge(KEY.token(machine=True, sub="alice"))).machine
    assert caller(World(KEY).judge(KEY.token(sub="app"))).machine
