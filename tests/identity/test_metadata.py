"""RFC 9728 documents, and challenges read by a parser of RFC 9110 written for this test."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from challenges import read_challenge
from limen.core.faults import ConfigFault, InvariantFault
from limen.core.reasons import REASONS
from limen.identity.metadata import (
    Possession,
    challenge,
    challenges,
    metadata_url,
    protected_resource_metadata,
    well_known_paths,
)

URL = "https://gw.example/.well-known/oauth-protected-resource/hr/mcp"


@pytest.mark.requirement("AUTH-11", "AUTH-18")
def test_missing_token_gets_no_error() -> None:
    assert read_challenge(challenge("identity.missing", URL)) == ("Bearer", {"resource_metadata": URL})
    assert read_challenge(challenge("identity.missing", URL, ["hr:read", "offline_access"])) == (
        "Bearer",
        {"resource_metadata": URL, "scope": "hr:read"},
    )


@pytest.mark.parametrize("reason", ["identity.invalid", "identity.audience", "identity.expired"])
def test_bad_token_always_reads_the_same(reason: str) -> None:
    assert challenge(reason, URL) == challenge("identity.invalid", URL)
    assert read_challenge(challenge(reason, URL))[1]["error"] == "invalid_token"


def test_all_missing_scopes_at_once() -> None:
    _, parameters = read_challenge(challenge("identity.scope", URL, ["hr:read"], {"scopes": ["a", "b", "c", "a"]}))
    assert parameters == {"error": "insufficient_scope", "scope": "a b c", "resource_metadata": URL}


def test_step_up() -> None:
    _, parameters = read_challenge(
        challenge("identity.step_up", URL, (), {"acr_values": ["mfa", "hw"], "max_age": 300})
    )
    assert parameters == {
        "error": "insufficient_user_authentication",
        "acr_values": "mfa hw",
        "max_age": "300",
        "resource_metadata": URL,
    }
    assert "max_age" not in challenge("identity.step_up", URL)
    assert read_challenge(challenge("identity.step_up", URL, (), {"max_age": 0}))[1]["max_age"] == "0"


def test_schemes_that_are_offered_and_the_one_that_was_used() -> None:
    """RFC 9449 section 7.1: what was wrong is said under the scheme that was used."""
    both, only = Possession(("ES256", "EdDSA")), Possession(("ES256",), demands=frozenset({"dpop"}))
    for reason, dpop, used, other in (
        ("identity.invalid", False, "Bearer", "DPoP"),
        ("identity.scope", True, "DPoP", "Bearer"),
        ("identity.missing", False, "Bearer", "DPoP"),
    ):
        first, second = challenges(reason, URL, ["hr:read"], possession=both, dpop=dpop).split(f", {other} ")
        scheme, parameters = read_challenge(first)
        _, offered = read_challenge(f"{other} {second}")
        assert scheme == used and offered["resource_metadata"] == URL and "error" not in offered
        assert ("algs" in parameters) is dpop is not ("algs" in offered)
        expected = {"identity.invalid": "invalid_token", "identity.scope": "insufficient_scope"}
        assert parameters.get("error") == expected.get(reason)
    for reason, error in (("identity.proof", "invalid_dpop_proof"), ("identity.nonce", "use_dpop_nonce")):
        scheme, parameters = read_challenge(challenges(reason, URL, possession=both, dpop=False))
        assert (scheme, parameters["error"], parameters["algs"]) == ("DPoP", error, "ES256 EdDSA")
    for dpop in (True, False):
        scheme, parameters = read_challenge(challenges("identity.binding", URL, possession=only, dpop=dpop))
        assert (scheme, parameters["error"]) == ("DPoP", "invalid_token")
    assert challenges("identity.invalid", URL) == challenge("identity.invalid", URL)


def test_document_says_what_is_demanded() -> None:
    given = Possession(("ES256",), certificates=True, demands=frozenset({"dpop"}))
    document = protected_resource_metadata("https://gw.example", ["https://id.example"], (), given)
    assert document["dpop_signing_alg_values_supported"] == ["ES256"]
    assert document["dpop_bound_access_tokens_required"] and document["tls_client_certificate_bound_access_tokens"]
    plain = protected_resource_metadata("https://gw.example", ["https://id.example"])
    assert not [name for name in plain if "dpop" in name or "tls" in name]


def test_two_credentials() -> None:
    assert read_challenge(challenge("identity.ambiguous", URL))[1]["error"] == "invalid_request"


def test_every_reason_answered_401_has_a_challenge_and_no_other_room_has_one() -> None:
    for reason in REASONS.values():
        if reason.status == 401:
            assert challenge(reason.id, URL).startswith("Bearer ")
        elif not reason.id.startswith("identity."):
            with pytest.raises(InvariantFault):
                challenge(reason.id, URL)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_any_printable_value_survives_quoting(value: str) -> None:
    assert read_challenge(challenge("identity.missing", value))[1]["resource_metadata"] == value


@pytest.mark.requirement("OA-89")
@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x", "a\0", "é", "a\x7f", "a\tb"])
def test_no_header_injection(value: str) -> None:
    with pytest.raises(InvariantFault):
        challenge("identity.missing", value)
    with pytest.raises(InvariantFault):
        challenge("identity.missing", URL, [value])


@pytest.mark.requirement("OA-89")
@pytest.mark.parametrize("scope", ["a b", 'a"', "a\\b", ""])
def test_no_scope_smuggling(scope: str) -> None:
    with pytest.raises(InvariantFault):
        challenge("identity.scope", URL, [scope])


@pytest.mark.requirement("AUTH-01", "AUTH-02", "AUTH-18")
def test_document() -> None:
    issuers = ["https://id.example", "https://id2.example", "https://id.example"]
    assert protected_resource_metadata("https://gw.example/hr/mcp", issuers, ["read", "offline_access", "read"]) == {
        "resource": "https://gw.example/hr/mcp",
        "authorization_servers": ["https://id.example", "https://id2.example"],
        "scopes_supported": ["read"],
        "bearer_methods_supported": ["header"],
    }
    assert "scopes_supported" not in protected_resource_metadata("https://gw.example", issuers, ["offline_access"])
    with pytest.raises(ConfigFault):
        protected_resource_metadata("https://gw.example", [], ["read"])


@pytest.mark.requirement("AUTH-01", "AUTH-03")
def test_well_known_places() -> None:
    assert well_known_paths("/hr/mcp") == (
        "/.well-known/oauth-protected-resource/hr/mcp",
        "/.well-known/oauth-protected-resource",
    )
    assert well_known_paths("/hr/mcp/") == well_known_paths("/hr/mcp")
    assert well_known_paths("/") == well_known_paths("") == ("/.well-known/oauth-protected-resource",)
    assert metadata_url("https://gw.example/hr/mcp") == URL
    assert metadata_url("https://gw.example:8443") == "https://gw.example:8443/.well-known/oauth-protected-resource"
