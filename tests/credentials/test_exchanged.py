"""One token for another: of the right person, at the right server, and never the same one."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from contracts.memory import MemoryTable
from credentials.authority import BEARER, EXCHANGE, TYPES, UP, Authority, Both, Box, asking
from limen.core.call import Binding, Caller, Context, Presented
from limen.core.faults import DependencyFault
from limen.core.ports import Fetched
from limen.core.verdict import Refuse
from limen.credentials.endpoint import Endpoint
from limen.credentials.exchanged import Exchanged, OnBehalf, OwnToken, Vouched
from limen.credentials.held import Held
from limen.credentials.settings import ClientCredentials, IdJag, OnBehalfOf, TokenExchange
from limen.credentials.sources import Obtained
from limen.credentials.subjects import Subjects

OWN = "https://limen.example"
CLIENT = {"id": "limen", "secret": "s&cret+1"}
TENANT = "https://login.example/11111111-aaaa-4bbb-8ccc-000000000001"


def obtained(how: Any, context: Context) -> Any:
    found = asyncio.run(how.obtain(context))
    if isinstance(found, Refuse):
        return found.reason.id
    assert isinstance(found, Obtained)
    return found.header[1].removeprefix("Bearer ")


def exchanging(authority: Authority, subjects: Subjects | None = None, **settings: Any) -> Exchanged:
    chosen = TokenExchange.model_validate(
        {"kind": "exchange", "issuer": authority.issuer, "client": CLIENT, "scopes": ["api"], **settings}
    )
    return Exchanged(chosen, UP, Endpoint(chosen, authority), subjects or Subjects(OWN, "", None))


def signed_in(authority: Authority, **kept: Any) -> Subjects:
    """Alice signed in at this provider, through us."""
    held = Held(MemoryTable(), Box(), Endpoint(exchanging(authority)._settings, authority))
    given = {"access": authority.sign("alice", "api://limen"), "refresh": "r1", "expires": time.time() + 300, **kept}
    authority.refresh["r1"] = "alice"
    held.keep(authority.issuer, "alice", **given)
    return Subjects(OWN, authority.issuer, held)


def test_client_credentials_are_our_own_whoever_calls_b2() -> None:
    authority = Authority()
    chosen = ClientCredentials.model_validate(
        {"kind": "client_credentials", "issuer": authority.issuer, "client": CLIENT, "scopes": ["a", "b"],
         "resource": UP, "header": "X-Token", "scheme": ""}
    )  # fmt: skip
    how = OwnToken(chosen, Endpoint(chosen, authority))
    found = asyncio.run(how.obtain(asking(token=authority.sign("alice", "api://limen"))))
    assert isinstance(found, Obtained)
    assert found.header[0] == "x-token"
    assert authority.read(found.header[1], UP)["sub"] == "limen"
    assert authority.asked == [{"grant_type": "client_credentials", "scope": "a b", "resource": UP}]


def test_exchange_gives_a_token_for_the_upstream_and_the_same_person_b2() -> None:
    authority = Authority()
    token = authority.sign("alice", "https://gw.example/mcp/up")
    given = obtained(exchanging(authority), asking(token=token))
    claims = authority.read(given, UP)
    assert (claims["sub"], claims["act"], claims["scope"]) == ("alice", {"sub": "limen"}, "api")
    assert given != token
    assert authority.asked == [
        {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": f"{TYPES}access_token", "scope": "api",
         "requested_token_type": f"{TYPES}access_token", "resource": UP}
    ]  # fmt: skip


STRANGERS = [
    Caller("https://other.example", "alice"), Caller("api-key", "alice"), Caller("local", "alice"),
    Caller("https://as.example", "robot", "robot", machine=True),
    Caller("https://as.example", "alice", binding=Binding(jkt="x")), Caller("https://as.example/", "alice"),
]  # fmt: skip


@pytest.mark.requirement("OA-87")
@pytest.mark.parametrize("caller", STRANGERS)
def test_a_token_is_shown_to_nobody_but_its_own_issuer_b1_oa87(caller: Caller) -> None:
    authority = Authority()
    token = authority.sign("alice", "https://gw.example/mcp/up")
    assert obtained(exchanging(authority), asking(caller, token)) == "credentials.refused"
    assert not authority.asked


@pytest.mark.parametrize("values", [(), (b"Basic x",), (b"Bearer a", b"Bearer b"), (b"DPoP abc",), (b"Bearer a b",)])
def test_what_is_not_one_bearer_token_is_not_exchanged(values: tuple[bytes, ...]) -> None:
    authority, context = Authority(), asking()
    context = Context(context.call, Presented(values), context.deadline, "r", context.facts)
    assert obtained(exchanging(authority), context) == "credentials.refused"
    assert not authority.asked


def test_an_exchange_that_echoes_the_callers_token_is_a_fault_b1() -> None:
    authority = Authority()
    token = authority.sign("alice", "https://gw.example/mcp/up")
    authority.more = {"access_token": token}
    with pytest.raises(DependencyFault, match="own token back") as caught:
        obtained(exchanging(authority), asking(token=token))
    assert token not in str(caught.value)


@pytest.mark.parametrize("issued", [f"{TYPES}id_token", f"{TYPES}refresh_token", f"{TYPES}id-jag"])
def test_an_exchange_that_gives_something_else_is_a_fault(issued: str) -> None:
    authority = Authority()
    authority.more = {"issued_token_type": issued}
    with pytest.raises(DependencyFault):
        obtained(exchanging(authority), asking(token=authority.sign("alice", "x")))


def test_refusals_of_the_server_are_refusals_with_a_reason() -> None:
    authority = Authority()
    context = asking(token=authority.sign("alice", "x"))
    assert obtained(exchanging(authority, audience=["denied"]), context) == "credentials.refused"
    expired = asking(token=authority.sign("alice", "x", exp=5))
    assert obtained(exchanging(authority), expired) == "credentials.refused"


# the provider's token, of a person who signed in through us

MINE = Caller(OWN, "alice", "editor", token_id="t1", claims='{"idp":"https://idp.example"}')


def test_who_signed_in_here_is_known_by_the_providers_token_and_ours_goes_nowhere_b1() -> None:
    authority = Authority()
    subjects, ours = signed_in(authority), "limen-access-token-canary"
    mine = replace(MINE, claims='{"idp":"https://as.example"}')
    given = obtained(exchanging(authority, subjects), asking(mine, ours))
    assert authority.read(given, UP)["sub"] == "alice"
    assert ours not in json.dumps(authority.asked)
    assert obtained(exchanging(authority, subjects), asking(replace(mine, subject="bob"))) == "credentials.interaction"
    left = replace(mine, claims='{"idp":"https://before.example"}')  # somebody else, whatever their subject
    assert obtained(exchanging(authority, subjects), asking(left, ours)) == "credentials.interaction"


@pytest.mark.requirement("OA-87")
def test_people_of_another_provider_are_not_shown_to_this_one_oa87() -> None:
    authority, provider = Authority(), Authority("https://idp.example")
    subjects = signed_in(provider)
    assert obtained(exchanging(authority, subjects), asking(MINE)) == "credentials.refused"
    assert not authority.asked
    assert obtained(exchanging(authority, Subjects(OWN, authority.issuer, None)), asking(MINE)) == "credentials.refused"


def test_an_ended_sign_in_asks_the_person_to_sign_in_again() -> None:
    authority = Authority()
    subjects = signed_in(authority, expires=time.time() - 1)
    authority.refresh.clear()  # the provider ended it
    mine = replace(MINE, claims='{"idp":"https://as.example"}')
    assert obtained(exchanging(authority, subjects), asking(mine)) == "credentials.interaction"


# Entra ID: on behalf of


def on_behalf(authority: Authority, subjects: Subjects | None = None, **settings: Any) -> OnBehalf:
    base, _, tenant = authority.issuer.rpartition("/")
    chosen = OnBehalfOf.model_validate(
        {"kind": "on_behalf_of", "tenant": tenant, "authority": base, "client": CLIENT,
         "scopes": ["api://downstream/.default"], **settings}
    )  # fmt: skip
    return OnBehalf(chosen, Endpoint(chosen.server, authority), subjects or Subjects(OWN, "", None))


def entra(**claims: Any) -> tuple[Authority, Context]:
    authority = Authority(TENANT)
    token = authority.sign("alice", **{"audience": "api://limen", **claims})
    return authority, asking(Caller(f"{TENANT}/v2.0", "alice", "editor", token_id="t1"), token)


def test_on_behalf_of_is_asked_for_as_entra_wants_it_b2() -> None:
    authority, context = entra()
    given = obtained(on_behalf(authority), context)
    assert authority.read(given, "api://downstream")["sub"] == "alice"
    (form,) = authority.asked
    assert form.pop("assertion").encode() in context.presented.authorization[0]
    assert form == {
        "grant_type": BEARER, "requested_token_use": "on_behalf_of", "client_id": "limen", "client_secret": "s&cret+1",
        "scope": "api://downstream/.default",
    }  # fmt: skip


@pytest.mark.parametrize(
    "claims",
    [{"audience": "00000003-0000-0000-c000-000000000000"}, {"audience": "https://graph.microsoft.com"},
     {"audience": "api://limen/"}, {"audience": ["api://limen", "api://other"]}],
    ids=str,
)  # fmt: skip
def test_a_token_for_another_application_is_never_relayed(claims: dict[str, Any]) -> None:
    authority, context = entra(**claims)
    assert obtained(on_behalf(authority), context) == "credentials.refused"
    assert not authority.asked


def test_an_applications_token_is_not_exchanged() -> None:
    authority, context = entra(idtyp="app")
    assert obtained(on_behalf(authority), context) == "credentials.refused"  # by Entra
    machine = asking(replace(context.get(Caller), machine=True), "x")
    authority.asked.clear()
    assert obtained(on_behalf(authority), machine) == "credentials.refused"  # and by us, without asking
    assert not authority.asked


def test_conditional_access_reaches_the_client_as_a_claims_challenge() -> None:
    authority, context = entra()
    authority.interaction = '{"access_token":{"capolids":{"essential":true,"values":["c1"]}}}'
    found = asyncio.run(on_behalf(authority).obtain(context))
    assert isinstance(found, Refuse)
    assert (found.reason.id, found.reason.status) == ("credentials.interaction", 401)
    assert found.public == {"claims": authority.interaction}


# enterprise-managed authorization: ID-JAG

AS = "https://auth.up.example"


def vouched(provider: Authority, server: Authority, subjects: Subjects, **settings: Any) -> Vouched:
    chosen = IdJag.model_validate(
        {"kind": "id_jag", "scopes": ["files:read"], "provider": {"issuer": provider.issuer, "client": CLIENT},
         "server": {"issuer": server.issuer, "client": {"id": "limen-there", "secret": "s&cret+1"}}, **settings}
    )  # fmt: skip
    web = Both(provider, server)
    return Vouched(chosen, UP, Endpoint(chosen.provider, web), Endpoint(chosen.server, web), subjects)


def enterprise() -> tuple[Authority, Authority, Subjects]:
    provider, server = Authority("https://idp.example"), Authority(AS)
    server.trusted = provider
    return provider, server, signed_in(provider, identity=provider.sign("alice", "limen", "JWT"))


def test_id_jag_both_legs_on_the_wire_ema_01_to_06() -> None:
    provider, server, subjects = enterprise()
    given = obtained(vouched(provider, server, subjects), asking(MINE))
    claims = server.read(given, UP)
    assert (claims["sub"], claims["scope"]) == ("alice", "files:read")
    (first,), (second,) = provider.asked, server.asked
    assert provider.read(first.pop("subject_token"), "limen")["sub"] == "alice"
    assert first == {
        "grant_type": EXCHANGE, "requested_token_type": f"{TYPES}id-jag", "audience": AS, "resource": UP,
        "scope": "files:read", "subject_token_type": f"{TYPES}id_token",
    }  # fmt: skip
    assertion = second.pop("assertion")
    assert provider.read(assertion, AS)["client_id"] == "limen-there"
    assert second == {"grant_type": BEARER, "scope": "files:read", "resource": UP}


def test_each_exchange_has_an_assertion_of_its_own_ema_04() -> None:
    provider, server, subjects = enterprise()
    how = vouched(provider, server, subjects)
    assert obtained(how, asking(MINE)) != obtained(how, asking(MINE))
    assert len(server.spent) == 2


def test_an_id_token_is_renewed_with_the_sign_in() -> None:
    provider, server, _ = enterprise()
    subjects = signed_in(provider, identity="")  # none was kept
    assert server.read(obtained(vouched(provider, server, subjects), asking(MINE)), UP)["sub"] == "alice"
    assert provider.asked[0]["grant_type"] == "refresh_token"


def assertion(provider: Authority, **changes: Any) -> Fetched:
    token = provider.sign("alice", changes.get("aud", AS), changes.get("typ", "oauth-id-jag+jwt"),
                          resource=changes.get("resource", UP))  # fmt: skip
    document = {"access_token": token, "token_type": "N_A", "issued_token_type": f"{TYPES}id-jag", **changes}
    return Fetched(200, {}, json.dumps(document).encode())


@pytest.mark.requirement("OA-87")
@pytest.mark.parametrize(
    "changes",
    [{"aud": "https://evil.example"}, {"typ": "at+jwt"}, {"typ": "JWT"}, {"resource": "https://other.example/mcp"},
     {"issued_token_type": f"{TYPES}access_token"}, {"token_type": "Bearer"}, {"access_token": "opaque"}],
    ids=str,
)  # fmt: skip
def test_what_is_no_id_jag_for_this_server_is_not_shown_to_it_oa87(changes: dict[str, Any]) -> None:
    provider, server, subjects = enterprise()
    how = vouched(provider, server, subjects)

    async def post(url: str, body: bytes, headers: Any) -> Fetched:
        return assertion(provider, **changes)

    provider.post = post  # type: ignore[method-assign]
    with pytest.raises(DependencyFault):
        obtained(how, asking(MINE))
    assert not server.asked


def test_a_caller_of_another_issuer_gets_no_assertion() -> None:
    provider, server, subjects = enterprise()
    how = vouched(provider, server, subjects)
    for caller in (Caller("https://other.example", "alice"), Caller("https://idp.example", "alice")):
        assert obtained(how, asking(caller, provider.sign("alice", "x"))) == "credentials.refused"
    assert not provider.asked
    assert not server.asked
