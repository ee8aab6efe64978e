"""Entra ID and B2C: tokens of both versions pass (A1), and what people mistake for them does not (A3, AU-03)."""

from __future__ import annotations

from typing import Any

import pytest
from entra import API, APP_URI, B2C, CLIENT, OID, PARTNER, STRANGER, TENANT, V1, V2, Entra

from limen.identity.issuers import IdentitySettings, IssuerSettings
from minting import RESOURCE

INVALID, AUDIENCE = "identity.invalid", "identity.audience"


@pytest.fixture(scope="module")
def sim() -> Entra:
    return Entra()


def test_delegated_v2_token_of_each_listed_tenant_passes(sim: Entra) -> None:
    world = sim.world()
    for tenant in (TENANT, PARTNER):
        alice = world.caller(sim.v2(tenant, roles=["Reader"], amr=["pwd", "mfa"]))
        assert (alice.issuer, alice.subject, alice.client) == (V2.format(tid=tenant), "pairwise-1", CLIENT)
        assert alice.scopes == {"Files.Read"} and alice.roles == {"Reader"} and alice.mfa and not alice.machine


def test_delegated_v1_token_passes_where_the_issuer_is_v1(sim: Entra) -> None:
    world = sim.world(V1, APP_URI)
    assert world.caller(sim.v1()).client == CLIENT
    both = sim.world(V1, (APP_URI, API))
    assert both.caller(sim.v1(aud=API)) and both.caller(sim.v1())
    assert world.refusal(sim.v1(aud=API))[0] == AUDIENCE


@pytest.mark.requirement("AU-03", "OA-67")
def test_any_tenant_of_the_world_is_not_every_tenant_listed(sim: Entra) -> None:
    """AU-03, OA-67: Entra signs for every tenant with the same keys; only the list keeps the others out."""
    world = sim.world()
    assert world.caller(sim.v2(PARTNER))
    assert world.refusal(sim.v2(STRANGER)) == (INVALID, "unknown issuer")
    single = sim.world(V2.format(tid=TENANT))
    assert single.caller(sim.v2()) and single.refusal(sim.v2(PARTNER)) == (INVALID, "unknown issuer")


@pytest.mark.parametrize("alias", ["common", "organizations", "consumers", "{tenantid}", TENANT.upper(), TENANT + "x"])
def test_issuer_spelled_as_an_alias_is_unknown(sim: Entra, alias: str) -> None:
    assert sim.world().refusal(sim.v2(iss=V2.format(tid=alias))) == (INVALID, "unknown issuer")


def test_tenant_claim_must_be_the_issuers_own(sim: Entra) -> None:
    """A3: `iss` of one listed tenant and `tid` of another, or none, is neither's token."""
    world = sim.world()
    for tid in (PARTNER, STRANGER, TENANT.upper(), None, [TENANT]):
        assert world.refusal(sim.v2(tid=tid)) == (INVALID, "tid does not agree with the issuer")
    assert world.caller(sim.v2(tid=TENANT))


@pytest.mark.parametrize("version", ["1.0", "3.0", 2.0, None])
def test_version_must_agree_with_the_issuer(sim: Entra, version: Any) -> None:
    """A v1 token under a v2 issuer name, and the reverse, is made by nobody honest."""
    assert sim.world().refusal(sim.v2(ver=version)) == (INVALID, "ver does not agree with the issuer")
    assert sim.world().refusal(sim.v1(iss=V2.format(tid=TENANT), aud=API))[0] == INVALID
    assert sim.world(V1, API).refusal(sim.v2(iss=V1.format(tid=TENANT)))[0] == INVALID
    assert sim.world().refusal(sim.v1(aud=API)) == (INVALID, "unknown issuer")


def test_key_of_another_tenant_under_the_same_name(sim: Entra) -> None:
    """A3: keys carry the issuer they sign for. PARTNER's own key verifies nothing of TENANT, thief's nothing at all."""
    world = sim.world()
    assert world.caller(sim.v2(PARTNER, key=sim.own))
    assert world.refusal(sim.v2(TENANT, key=sim.own))[0] == INVALID
    assert world.refusal(sim.v2(TENANT, key=sim.thief)) == (INVALID, "the signature does not hold")


@pytest.mark.requirement("AUTH-05", "OA-66")
@pytest.mark.parametrize("audience", [None, APP_URI, CLIENT, "https://graph.microsoft.com", [API, CLIENT], API.upper()])
def test_audience_of_another_registration_or_none(sim: Entra, audience: Any) -> None:
    """A2, OA-66"""
    assert sim.world().refusal(sim.v2(aud=audience))[0] == AUDIENCE


def test_registration_for_each_route(sim: Entra) -> None:
    """A2, OA-76, AU-03: a client id says nothing of the route, so each route can have its own."""
    other = "88888888-aaaa-4bbb-8ccc-000000000008"
    world = sim.world(audience=None, audiences={RESOURCE: API, "https://gw.example/fin/mcp": other})
    assert world.caller(sim.v2()) and world.refusal(sim.v2(aud=other))[0] == AUDIENCE
    swapped = sim.world(audience=None, audiences={"https://gw.example/fin/mcp": API})
    assert swapped.refusal(sim.v2())[0] == AUDIENCE


def test_graph_token_is_not_for_us(sim: Entra) -> None:
    """The most common mistake: a client sends the token it got for Microsoft Graph."""
    reason, detail = sim.world().refusal(sim.graph())
    assert reason == INVALID and "nonce" in detail
    plain = sim.v2(aud="00000003-0000-0000-c000-000000000000", scp="User.Read")
    assert sim.world().refusal(plain)[0] == AUDIENCE


@pytest.mark.requirement("OA-78")
def test_id_token_of_our_own_registration_is_no_access_token(sim: Entra) -> None:
    """OA-78: same issuer, same keys, same audience, and roles even."""
    for changes in ({}, {"roles": ["Admin"]}, {"roles": ["Admin"], "azp": CLIENT}, {"scp": "Files.Read"}):
        assert sim.world().refusal(sim.id_token(**changes))[0] == INVALID
    assert sim.world().caller(sim.v2(roles=["Admin"]))


def test_application_is_a_machine_and_only_with_a_role(sim: Entra) -> None:
    """A15: any application of the tenant gets a token for us by asking; an administrator gives it the role."""
    world = sim.world()
    daemon = world.caller(sim.app())
    assert daemon.machine and daemon.subject == CLIENT and not daemon.scopes
    assert world.caller(sim.app(idtyp=None)).machine  # `idtyp` is an optional claim: no scp says the same
    assert not world.caller(sim.v2(idtyp="user")).machine
    for changes in (
        {"roles": None},
        {"roles": []},
        {"azpacr": ["1"]},
        {"idtyp": ["app"], "roles": None},
        {"azpacr": "0"},
        {"scp": "Files.Read"},
        {"idtyp": "user"},
    ):
        assert world.refusal(sim.app(**changes))[0] == INVALID
    people = sim.world(machines=False)
    assert people.caller(sim.v2()) and people.refusal(sim.app())[0] == INVALID


def test_object_id_as_the_subject(sim: Entra) -> None:
    world = sim.world(subject="oid")
    assert world.caller(sim.v2()).subject == f"{OID}@{TENANT}"
    assert world.caller(sim.v2(PARTNER)).subject == f"{OID}@{PARTNER}"  # the same id in two tenants is two people
    for oid in (None, "", 7, "a\0"):
        assert world.refusal(sim.v2(oid=oid))[0] == INVALID


@pytest.mark.parametrize(
    "claims",
    [
        {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph.example/x"}}},
        {"hasgroups": True},
        {"_claim_names": {"roles": "src1"}},
    ],
)
def test_overage_is_refused_rather_than_read_as_no_groups(sim: Entra, claims: dict[str, Any]) -> None:
    """A deny rule about a group would not hold for whoever is in more than 200."""
    assert "overage" in sim.world().refusal(sim.v2(**claims))[1]
    assert sim.world().caller(sim.v2(groups=["g1", "g2"])).groups == {"g1", "g2"}
    if "roles" not in str(claims):
        assert sim.world(groups_claim="").caller(sim.v2(**claims)).groups == frozenset()


def test_authentication_contexts(sim: Entra) -> None:
    assert sim.world().caller(sim.v2(acrs=["c1", "c25"])).contexts == {"c1", "c25"}
    assert sim.world().refusal(sim.v2(acrs=[1]))[0] == INVALID


def test_only_rs256(sim: Entra) -> None:
    other = sim.shared.sign(sim.shared.header(alg="PS256", typ="JWT"), sim.claims_v2(), "PS256")
    assert sim.world().refusal(other) == (INVALID, "algorithm not accepted from this issuer")
    with pytest.raises(ValueError, match="RS256 only"):
        IssuerSettings(issuer=V2.format(tid=TENANT), kind="entra", audience=API, algorithms=("ES256",))


def test_b2c_user_flow_must_be_listed(sim: Entra) -> None:
    world = sim.world(B2C, policies=["B2C_1_in"])
    assert world.caller(sim.b2c()).scopes == {"Files.Read"}
    assert world.caller(sim.b2c(tfp=None, acr="B2C_1_in")).acr == "B2C_1_in"
    for changes in (
        {"tfp": "B2C_1_reset"},
        {"tfp": None},
        {"tfp": "b2c_1_in"},
        {"tfp": ["B2C_1_in"]},
        {"tfp": "x", "acr": "B2C_1_in"},
    ):
        assert world.refusal(sim.b2c(**changes)) == (INVALID, "from a user flow that is not listed")
    assert world.refusal(sim.b2c(STRANGER)) == (INVALID, "unknown issuer")
    assert world.refusal(sim.b2c(scp=None))[0] == INVALID


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"issuer": "https://login.microsoftonline.com/common/v2.0"}, "lower-case GUID"),
        ({"issuer": V2.format(tid=TENANT) + "/x"}, "lower-case GUID"),
        ({"issuer": V2}, "tenants"),
        ({"issuer": V2, "tenants": ["common"]}, "lower-case GUIDs"),
        ({"issuer": V2, "tenants": [TENANT, TENANT]}, "each once"),
        ({"issuer": V2.format(tid=TENANT), "tenants": [TENANT]}, "tenants"),
        ({"issuer": V2.format(tid=TENANT), "audience": APP_URI}, "client id"),
        ({"issuer": V2.format(tid=TENANT), "audience": None}, "client id"),
        ({"issuer": V1.format(tid=TENANT), "audience": "https://graph.microsoft.com/"}, "Graph"),
        ({"issuer": B2C.format(tid=TENANT)}, "policies"),
        ({"issuer": V2.format(tid=TENANT), "policies": ["p"]}, "B2C"),
        ({"issuer": B2C.format(tid=TENANT), "policies": ["p"], "subject": "oid"}, "oid"),
        ({"issuer": V2.format(tid=TENANT), "kind": "azure"}, "kind"),
    ],
)
def test_settings_that_would_trust_too_much_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IssuerSettings.model_validate({"kind": "entra", "audience": API, **settings})


def test_the_same_tenant_twice_and_where_clients_sign_in() -> None:
    one = {"kind": "entra", "audience": API, "issuer": V2.format(tid=TENANT)}
    many = {"kind": "entra", "audience": API, "issuer": V2, "tenants": [TENANT, PARTNER]}
    with pytest.raises(ValueError, match="twice"):
        IdentitySettings.model_validate({"issuers": [one, many]})
    old = {"kind": "entra", "issuer": V1, "tenants": [TENANT]}
    settings = IdentitySettings.model_validate({"issuers": [old, many]})
    # v1 issuer names are no place to sign in at; a tenant is named once.
    assert settings.authorization_servers == (V2.format(tid=TENANT), V2.format(tid=PARTNER))
    assert settings == IdentitySettings.model_validate({"issuers": [old, many]})
