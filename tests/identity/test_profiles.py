"""Keycloak, Auth0, Okta and Google: what their access tokens look like, and what is signed beside them (A1, OA-78)."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from limen.identity.issuers import IdentitySettings, IssuerSettings
from limen.policy.rules import PolicySettings
from minting import ISSUER, RESOURCE, Key, World, caller, reason

KEY = Key("RS256")
KEYCLOAK, AUTH0 = "https://sso.example/realms/main", "https://acme.eu.auth0.com/"
OKTA = "https://acme.okta.example/oauth2/default"
INVALID, AUDIENCE = "identity.invalid", "identity.audience"


class OfKind(World):
    """A gateway behind one issuer of this kind, whose tokens all start from these claims."""

    def __init__(self, kind: str, issuer: str, typ: str | None, claims: dict[str, Any], **settings: Any) -> None:
        one = IssuerSettings.model_validate(
            {"kind": kind, "issuer": issuer, "jwks_uri": f"{ISSUER}/jwks", "audience": RESOURCE, **settings}
        )
        super().__init__(KEY, issuers=(one,))
        self.typ, self.claims = typ, {"iss": issuer, "client_id": None, **claims}

    def token(self, **changes: Any) -> str:
        return KEY.token({"typ": self.typ}, **{**self.claims, **changes})


@pytest.fixture(scope="module")
def keycloak() -> OfKind:
    claims = {
        "typ": "Bearer", "azp": "app", "scope": "files:read profile", "acr": "1", "sid": "s", "jti": "onrtac:1",
        "realm_access": {"roles": ["user"]}, "resource_access": {"files": {"roles": ["editor"]}, "account": {}},
        "preferred_username": "alice",
    }  # fmt: skip
    return OfKind("keycloak", KEYCLOAK, "JWT", claims)


def test_keycloak_roles_of_realm_and_clients(keycloak: OfKind) -> None:
    alice = caller(keycloak.judge(keycloak.token()))
    assert alice.roles == {"user", "files:editor"} and alice.client == "app" and not alice.machine
    assert alice.scopes == {"files:read", "profile"}
    for wrong in ({"resource_access": ["x"]}, {"resource_access": {"a": "x"}}, {"realm_access": {"roles": [1]}}):
        assert reason(keycloak.judge(keycloak.token(**wrong))) == INVALID


@pytest.mark.requirement("OA-78")
def test_keycloak_signs_more_than_access_tokens(keycloak: OfKind) -> None:
    """OA-78"""
    for kind in ("ID", "Refresh", "Offline", "Logout", "JWT", None, 7, ["Bearer"], {}):
        assert reason(keycloak.judge(keycloak.token(typ=kind))) == INVALID
    assert reason(keycloak.judge(keycloak.token(azp=None))) == INVALID


@pytest.mark.parametrize(
    "audience", [None, "account", [RESOURCE, "account"], ["account", RESOURCE], KEYCLOAK, [RESOURCE, "userinfo"]]
)
def test_keycloak_audience_needs_its_mapper(keycloak: OfKind, audience: Any) -> None:
    """OA-66: without an audience mapper Keycloak names `account`, which is no reason to accept it."""
    assert reason(keycloak.judge(keycloak.token(aud=audience))) == AUDIENCE
    assert caller(keycloak.judge(keycloak.token(aud=[RESOURCE])))


def test_keycloak_service_account(keycloak: OfKind) -> None:
    for changes in ({"client_id": "app"}, {"preferred_username": "service-account-app"}, {"sub": "app"}):
        assert caller(keycloak.judge(keycloak.token(**changes))).machine
    assert not caller(keycloak.judge(keycloak.token(preferred_username="my-service-account-x"))).machine


@pytest.fixture(scope="module")
def auth0() -> OfKind:
    claims = {"sub": "auth0|1", "azp": "app", "scope": "openid read:x", "permissions": ["read:x"]}
    return OfKind("auth0", AUTH0, "JWT", {**claims, "aud": [RESOURCE, f"{AUTH0}userinfo"]})


def test_auth0_names_itself_beside_us_and_nobody_else(auth0: OfKind) -> None:
    """OA-66: with `openid` Auth0 adds its own userinfo endpoint, which opens no other door."""
    alice = caller(auth0.judge(auth0.token()))
    assert alice.roles == {"read:x"} and alice.scopes == {"openid", "read:x"} and not alice.machine
    assert caller(auth0.judge(auth0.token(aud=RESOURCE)))
    info = f"{AUTH0}userinfo"
    for audience in (
        [RESOURCE, "https://evil.example/userinfo"], [info], info, [info, info], [RESOURCE, info, info],
        [RESOURCE, info, "https://evil.example"], ["https://evil.example", info], [RESOURCE, RESOURCE],
    ):  # fmt: skip
        assert reason(auth0.judge(auth0.token(aud=audience))) == AUDIENCE


def test_auth0_issuer_ends_in_a_slash(auth0: OfKind) -> None:
    """OA-67"""
    assert reason(auth0.judge(auth0.token(iss=AUTH0.rstrip("/")))) == INVALID
    with pytest.raises(ValueError, match="slash"):
        IssuerSettings(issuer=AUTH0.rstrip("/"), kind="auth0")


def test_auth0_machine(auth0: OfKind) -> None:
    token = auth0.token(sub="app@clients", gty="client-credentials", aud=RESOURCE)
    assert caller(auth0.judge(token)).machine
    assert caller(auth0.judge(auth0.token(sub="app@clients"))).machine  # `gty` may be left out by configuration


@pytest.fixture(scope="module")
def okta() -> OfKind:
    claims = {"ver": 1, "cid": "app", "uid": "u1", "scp": ["files:read"], "scope": None, "sub": "a@acme.example"}
    return OfKind("okta", OKTA, None, claims)


def test_okta_tokens_have_no_typ_and_a_list_of_scopes(okta: OfKind) -> None:
    alice = caller(okta.judge(okta.token()))
    assert (alice.client, alice.scopes, alice.machine) == ("app", {"files:read"}, False)
    daemon = caller(okta.judge(okta.token(uid=None, sub="app")))
    assert daemon.machine
    for missing in ("cid", "scp", "ver"):  # an id token has none of the first two
        assert reason(okta.judge(okta.token(**{missing: None}))) == INVALID
    assert reason(okta.judge(okta.token(nonce="n"))) == INVALID


@pytest.mark.parametrize(
    ("kind", "issuer", "said"),
    [
        ("okta", "https://acme.okta.example", "org server"),
        ("okta", OKTA + "/", "org server"),
        ("keycloak", KEYCLOAK + "/", "realms"),
        ("keycloak", "https://sso.example/", "realms"),
        ("google", "https://accounts.google.com", "id token"),
        ("generic", "https://accounts.google.com", "id token"),
        ("google", "https://other.example", "id token"),
        ("generic", "https://id.example/{tid}", "tenants"),
        ("generic", "https://sts.windows.net/11111111-aaaa-4bbb-8ccc-000000000001/", "kind entra"),
        ("keycloak", "https://acme.eu.auth0.com/realms/x", "kind auth0"),
        ("generic", "https://acme.okta.com/oauth2/default", "kind okta"),
    ],
)
def test_issuers_that_cannot_be_trusted_as_that_kind(kind: str, issuer: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IssuerSettings.model_validate({"kind": kind, "issuer": issuer})


def test_generic_machine_is_its_own_subject() -> None:
    """RFC 9068 section 2.2"""
    world = World(KEY)
    assert caller(world.judge(KEY.token(sub="app"))).machine
    assert not caller(world.judge(KEY.token())).machine
    people = World(KEY, machines=False)
    assert reason(people.judge(KEY.token(sub="app"))) == INVALID and caller(people.judge(KEY.token()))


# facts


@pytest.mark.parametrize("level", ["medium", "high", "HIGH", "hidden", "unknownFutureValue", "", 3, ["low"], {}])
def test_risky_sign_in_is_refused(level: Any) -> None:
    """A7: what is not known to be harmless is refused, whatever the issuer calls it."""
    assert reason(World(KEY).judge(KEY.token(riskLevel=level))) in ("identity.risk", INVALID)


def test_risk_null_is_not_absent() -> None:
    claims = {"iss": ISSUER, "sub": "a", "aud": RESOURCE, "exp": 1_900_000_300, "riskLevel": None}
    assert reason(World(KEY).judge(KEY.sign(KEY.header(), claims))) == "identity.risk"
    del claims["riskLevel"]
    assert caller(World(KEY).judge(KEY.sign(KEY.header(), claims))).risk == ""


def test_harmless_sign_in_passes_and_levels_can_be_chosen() -> None:
    for level in ("none", "low", "LOW"):
        assert caller(World(KEY).judge(KEY.token(riskLevel=level))).risk == level.lower()
    wide = World(KEY, accepted_risk=("low", "medium"), claims={"risk": "risk.level"})
    assert caller(wide.judge(KEY.token(risk={"level": "Medium"}))).risk == "medium"
    assert reason(wide.judge(KEY.token(risk={"level": "high"}))) == "identity.risk"
    assert caller(wide.judge(KEY.token(riskLevel="high")))  # the operator named another claim


def test_forged_token_is_not_told_that_it_is_risky() -> None:
    thief = Key("RS256")
    assert reason(World(KEY).judge(thief.token(riskLevel="high"))) == INVALID


def test_device_and_named_facts() -> None:
    mapped = World(KEY, claims={"device": "device.state", "department": "dept", "vip": "vip"})
    alice = caller(mapped.judge(KEY.token(device={"state": "compliant"}, dept="hr", vip=True)))
    assert alice.device == "compliant" and alice.facts == (("department", "hr"), ("vip", "true"))
    assert caller(World(KEY).judge(KEY.token(deviceTrustLevel="managed"))).device == "managed"
    for wrong in (["hr"], {"a": 1}, 7, "a\nb", "x" * 300):
        assert reason(mapped.judge(KEY.token(dept=wrong))) == INVALID
    assert caller(mapped.judge(KEY.token())).facts == ()


# scopes that imply others


@pytest.mark.requirement("AUTH-15")
def test_scope_hierarchy_is_closed_and_goes_one_way() -> None:
    """AUTH-15"""
    implied = {"admin": ("write",), "write": ("read",), "other": ("x",)}
    world = World(KEY, scope_implies=implied)
    assert caller(world.judge(KEY.token(scope="admin"))).scopes == {"admin", "write", "read"}
    assert caller(world.judge(KEY.token(scope="read"))).scopes == {"read"}
    assert caller(world.judge(KEY.token(scope="other read"))).scopes == {"other", "x", "read"}
    # Where scope and scp disagree it is what both grant, not what they imply.
    assert caller(world.judge(KEY.token(scope="admin", scp="read"))).scopes == frozenset()


@pytest.mark.parametrize(
    "implied",
    [
        {"a": ["a"]},
        {"a": ["b"], "b": ["c"], "c": ["a"]},
        {"a": ["b c"]},
        {"": ["a"]},
        {f"s{at}": [f"s{at + 1}"] for at in range(100)},
        {f"s{at}": ["x"] for at in range(1001)},
    ],
)
def test_hierarchies_that_make_no_sense_are_refused(implied: dict[str, list[str]]) -> None:
    said = "circle" if "a" in implied and "b c" not in implied["a"] and "" not in implied else "scope_implies"
    with pytest.raises(ValueError, match=said):
        IdentitySettings.model_validate({"scope_implies": implied})


def test_settings_that_were_used_can_be_copied_and_compared() -> None:
    """A reload compares the settings before and after, and copies defaults."""
    written = {"issuers": [{"issuer": OKTA, "kind": "okta"}], "scope_implies": {"a": ["b"]}}
    used, fresh = IdentitySettings.model_validate(written), IdentitySettings.model_validate(written)
    assert used.issuers[0].rules and used.each_issuer and used.facts and used.implied
    assert used == fresh and copy.deepcopy(used) == fresh and used.model_copy(deep=True).implied == used.implied


def test_examples_of_the_documentation_load() -> None:
    text = (Path(__file__).parents[2] / "docs" / "identity.md").read_text()
    found = [yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)]
    examples = [one for one in found if "identity" in one]
    assert len(examples) == 3
    settings = [IdentitySettings.model_validate(one["identity"]) for one in examples]
    assert len(settings[0].each_issuer) == 2 and len(settings[1].each_issuer) == 3
    assert PolicySettings.model_validate(examples[2]["policy"]).rules[0].require == ("mfa", "fresh(600s)", "user")
