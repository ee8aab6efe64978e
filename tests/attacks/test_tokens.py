"""Forged, borrowed and malformed access tokens. Every attack stands next to an honest twin that passes."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from limen.core.verdict import Refuse
from limen.identity.keys import decode_base64url
from limen.identity.metadata import challenge
from minting import ALGORITHMS, ISSUER, NOW, RESOURCE, Key, World, b64, caller, dump, good_claims, reason

KEYS = {algorithm: Key(algorithm, kid=algorithm) for algorithm in ALGORITHMS}
EC, RSA = KEYS["ES256"], KEYS["RS256"]
INVALID, AUDIENCE, EXPIRED = "identity.invalid", "identity.audience", "identity.expired"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture(scope="module")
def world() -> World:
    return World(*KEYS.values())


def respelled(token: str) -> str:
    """The same bytes with another last character: only unused bits differ."""
    return token[:-1] + ALPHABET[ALPHABET.index(token[-1]) ^ 1]


@pytest.mark.requirement("OA-60", "OA-61", "OA-62", "OA-63")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_honest_token_of_each_algorithm(world: World, algorithm: str) -> None:
    """The honest twin of OA-60 to OA-63."""
    alice = caller(world.judge(KEYS[algorithm].token()))
    assert (alice.issuer, alice.subject, alice.client, alice.token_id) == (ISSUER, "alice", "app", "t-1")
    assert alice.scopes == {"read", "call"} and alice.expires == NOW + 300


@pytest.mark.requirement("AUTH-04", "OA-60", "OA-72")
@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 7, ["ES256"], "HS256", "ES256K"])
def test_algorithm_none_and_unknown(world: World, algorithm: Any) -> None:
    """OA-60, OA-72 (ES256K)"""
    head = EC.header(alg=algorithm) if algorithm is not None else {"typ": "at+jwt", "kid": EC.kid}
    honest = EC.token().split(".")
    body = f"{b64(dump(head))}.{honest[1]}"
    for signature in ("", honest[2], b64(EC.signature(body.encode()))):
        assert reason(world.judge(f"{body}.{signature}")) == INVALID


@pytest.mark.requirement("AUTH-04", "OA-61")
def test_hmac_with_the_public_key_as_secret(world: World) -> None:
    """OA-61"""
    public = RSA.private.public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    for secret in (
        public.public_bytes(serialization.Encoding.PEM, spki),
        public.public_bytes(serialization.Encoding.DER, spki),
        RSA.jwk["n"].encode(),
        dump(RSA.jwk),
        b"",
    ):
        for size in ("256", "512"):
            message = f"{b64(dump(RSA.header(alg='HS' + size)))}.{b64(dump(good_claims()))}"
            mac = hmac.new(secret, message.encode(), getattr(hashlib, f"sha{size}")).digest()
            assert reason(world.judge(f"{message}.{b64(mac)}")) == INVALID


@pytest.mark.requirement("OA-61", "OA-72")
def test_algorithm_must_match_the_key(world: World) -> None:
    """OA-61, OA-72: keys, curves and algorithms are not exchanged for each other."""
    assert caller(world.judge(RSA.token()))
    # The RS256 key can make a perfect PS256 signature, but its own `alg` says otherwise.
    assert reason(world.judge(RSA.sign(RSA.header(alg="PS256"), good_claims(), "PS256"))) == INVALID
    assert reason(world.judge(EC.sign(EC.header(alg="EdDSA"), good_claims()))) == INVALID
    assert reason(world.judge(EC.sign(EC.header(kid="RS256"), good_claims()))) == INVALID
    other_curve = Key("ES384", kid="384")
    narrow = World(other_curve, EC)
    assert reason(narrow.judge(other_curve.token())) == INVALID  # not in the issuer's list
    assert caller(World(other_curve, algorithms=("ES384",)).judge(other_curve.token()))


@pytest.mark.requirement("OA-62")
@pytest.mark.parametrize(
    "kid",
    [
        "../../dev/null",
        "' OR 1=1 --",
        "https://evil.example/k",
        "x" * 64_000,
        "x" * 257,
        ["ES256"],
        {"a": 1},
        1,
        "",
        True,
    ],
)
def test_kid_injection(world: World, kid: Any) -> None:
    """OA-62"""
    assert reason(world.judge(EC.token({"kid": kid}))) == INVALID


@pytest.mark.requirement("OA-62")
def test_kid_null_is_not_absent(world: World) -> None:
    """OA-62"""
    assert reason(world.judge(EC.sign({**EC.header(), "kid": None}, good_claims()))) == INVALID


@pytest.mark.requirement("OA-62")
def test_kid_absent_needs_a_single_fitting_key() -> None:
    """OA-62"""
    twin = Key("ES256", kid="other")
    assert caller(World(EC, RSA).judge(EC.token({"kid": None})))
    assert reason(World(EC, twin).judge(EC.token({"kid": None}))) == INVALID
    assert caller(World(EC, twin).judge(EC.token()))


@pytest.mark.requirement("OA-63")
@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c"])
def test_key_brought_along_by_the_token(world: World, name: str) -> None:
    """OA-63"""
    thief = Key("ES256", kid="ES256")
    value = {"jwk": thief.jwk, "x5c": ["MIIB"]}.get(name, "https://evil.example/jwks")
    assert reason(world.judge(thief.token({name: value}))) == INVALID
    assert reason(world.judge(EC.token({name: value}))) == INVALID  # even with the right signature
    assert caller(world.judge(EC.token({"x5t": "abc", "unknown": {"a": 1}})))  # RFC 7515 section 4: ignored


@pytest.mark.requirement("OA-64")
@pytest.mark.parametrize("crit", [["unknown"], ["b64"], [], "exp", {"a": 1}, ["exp"], [1]])
def test_critical_header(world: World, crit: Any) -> None:
    """OA-64"""
    assert reason(world.judge(EC.token({"crit": crit, "b64": False, "exp": 1}))) == INVALID
    assert reason(world.judge(EC.token({"crit": crit}))) == INVALID
    assert reason(world.judge(EC.token({"b64": True}))) == INVALID


@pytest.mark.requirement("OA-65")
def test_type_of_token() -> None:
    """OA-65"""
    lax, strict = World(EC), World(EC, require_at_jwt=True)
    for kind in ("at+jwt", "application/at+jwt", "AT+JWT"):
        assert caller(lax.judge(EC.token({"typ": kind})))
        assert caller(strict.judge(EC.token({"typ": kind})))
    assert caller(lax.judge(EC.token({"typ": "JWT"})))
    assert reason(strict.judge(EC.token({"typ": "JWT"}))) == INVALID
    for kind in (
        "logout+jwt",
        "oauth-id-jag+jwt",
        "dpop+jwt",
        "secevent+jwt",
        "id_token",
        "JWE",
        "",
        5,
        ["at+jwt"],
        None,
    ):
        assert reason(lax.judge(EC.token({"typ": kind}))) == INVALID
        assert reason(strict.judge(EC.token({"typ": kind}))) == INVALID
    assert caller(World(EC, token_types=("JWT", "")).judge(EC.token({"typ": None})))


@pytest.mark.requirement("OA-65", "OA-78")
@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "n"},
        {"at_hash": "h"},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
        {"typ": "ID"},
        {"typ": "Refresh"},
        {"token_use": "id"},
    ],
)
def test_other_tokens_of_the_same_issuer(world: World, claims: dict[str, Any]) -> None:
    """OA-65, OA-78"""
    assert reason(world.judge(EC.token({"typ": "JWT"}, **claims))) == INVALID
    assert caller(world.judge(EC.token({"typ": "JWT"}, typ="Bearer", token_use="access")))


@pytest.mark.requirement("AUTH-05", "OA-66", "AU-03")
@pytest.mark.parametrize(
    "audience",
    [
        None,
        "",
        [],
        7,
        True,
        {"aud": RESOURCE},
        RESOURCE + "/",
        RESOURCE[:-1],
        RESOURCE + "/x",
        RESOURCE.upper(),
        RESOURCE.replace("https", "http"),
        RESOURCE.replace("gw.example", "gw.example:443"),
        " " + RESOURCE,
        "https://gw.example/fin/mcp",
        [RESOURCE, "https://evil.example"],
        ["https://evil.example", RESOURCE],
        [RESOURCE, RESOURCE],
        [[RESOURCE]],
        [None],
        [7],
        "app",
    ],
)
def test_audience(world: World, audience: Any) -> None:
    """OA-66, AU-03"""
    assert reason(world.judge(EC.token(aud=audience))) == AUDIENCE


@pytest.mark.requirement("AUTH-05", "OA-66")
def test_audience_honest_forms(world: World) -> None:
    """The honest twin of OA-66."""
    assert caller(world.judge(EC.token(aud=RESOURCE)))
    assert caller(world.judge(EC.token(aud=[RESOURCE])))
    fixed = World(EC, audience="api://limen")
    assert caller(fixed.judge(EC.token(aud="api://limen")))
    assert caller(fixed.judge(EC.token(aud=RESOURCE)))
    assert reason(fixed.judge(EC.token(aud=["api://limen", RESOURCE]))) == AUDIENCE


@pytest.mark.requirement("AUTH-05", "OA-66", "AU-03")
@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([RESOURCE, RESOURCE + "/", "https://gw.example/fin/mcp", "", "app"]) | st.text(max_size=9))
)
def test_audience_lists_are_taken_only_when_they_name_us_alone(audience: list[str]) -> None:
    """OA-66"""
    answer = reason(ONE_WORLD.judge(EC.token(aud=audience)))
    assert answer == ("passed" if audience == [RESOURCE] else AUDIENCE)


ONE_WORLD = World(EC)


@pytest.mark.requirement("AUTH-05", "OA-76", "AU-03")
def test_token_for_a_sibling_route(world: World) -> None:
    """OA-76, AU-03"""
    finance = "https://gw.example/fin/mcp"
    token = EC.token()
    assert caller(world.judge(token))
    assert reason(world.judge(token, route="fin", resource=finance)) == AUDIENCE
    assert caller(world.judge(EC.token(aud=finance), route="fin", resource=finance))
    assert reason(world.judge(token, route="fin")) == AUDIENCE  # route and address disagree
    assert reason(world.judge(EC.token(aud=finance), route="fin")) == AUDIENCE
    assert reason(world.judge(token, route="unknown")) == AUDIENCE
    assert reason(world.judge(token, route="", resource="")) == AUDIENCE


@pytest.mark.requirement("OA-67", "AU-03")
@pytest.mark.parametrize(
    "issuer",
    [ISSUER + "/", ISSUER.upper(), "https://id.example.evil", "https://other.example", "https://іd.example", None, 7],
)
def test_issuer(world: World, issuer: Any) -> None:
    """OA-67, AU-03"""
    assert reason(world.judge(EC.token(iss=issuer))) == INVALID
    assert reason(world.judge(EC.token(iss=[ISSUER]))) == INVALID


@pytest.mark.requirement("OA-68")
@pytest.mark.parametrize(
    "expiry",
    [None, float(NOW + 9), str(NOW + 9), -1, 1e308, (NOW + 300) * 1000, True, NOW + 86_400 + 3600, 10**30, [NOW]],
)
def test_expiry_that_is_none(world: World, expiry: Any) -> None:
    """OA-68"""
    assert reason(world.judge(EC.token(exp=expiry))) == INVALID
    assert reason(world.judge(EC.token(exp=expiry, iat=None))) == INVALID


@pytest.mark.requirement("OA-68")
@pytest.mark.parametrize("name", ["nbf", "iat", "auth_time"])
def test_other_times(world: World, name: str) -> None:
    """OA-68"""
    assert caller(world.judge(EC.token(**{name: NOW + 29})))
    for value in (NOW + 31, str(NOW), float(NOW), True, -5, 1e308, [NOW]):
        assert reason(world.judge(EC.token(**{name: value}))) == INVALID


@pytest.mark.requirement("AUTH-09", "OA-68")
def test_time_passes_and_clocks_differ() -> None:
    """OA-68 and its honest twin: 30 s of skew."""
    world = World(EC)
    token = EC.token()
    for shift, expected in (
        (-31, INVALID),
        (-29, "passed"),
        (0, "passed"),
        (329, "passed"),
        (330, EXPIRED),
        (9000, EXPIRED),
    ):
        world.clock.now = NOW + shift
        assert reason(world.judge(token)) == expected
    world.clock.now = NOW + 329
    assert caller(world.judge(token))  # remembered ...
    world.clock.now = NOW + 330
    assert reason(world.judge(token)) == EXPIRED  # ... but not beyond its life


@pytest.mark.requirement("OA-68")
def test_lifetime_is_capped() -> None:
    """OA-68"""
    world = World(EC, max_token_lifetime=3600)
    assert caller(world.judge(EC.token(exp=NOW + 3600)))
    assert reason(world.judge(EC.token(exp=NOW + 3601))) == INVALID
    assert reason(world.judge(EC.token(exp=NOW + 100, iat=NOW - 3600))) == INVALID
    assert reason(world.judge(EC.token(exp=NOW + 4000, iat=None))) == INVALID
    assert reason(world.judge(EC.token(exp=NOW, iat=NOW))) == INVALID
    assert caller(world.judge(EC.token(iat=None)))


@pytest.mark.requirement("OA-69")
@pytest.mark.parametrize("subject", [None, "", 7, ["alice"], "admin\0", "a\nb", "a\x7f", "a‮b", "a\u200bb", "x" * 256])
def test_subject(world: World, subject: Any) -> None:
    """OA-69"""
    assert reason(world.judge(EC.token(sub=subject))) == INVALID


@pytest.mark.requirement("OA-69")
def test_subject_in_other_scripts(world: World) -> None:
    """The honest twin of OA-69."""
    assert caller(world.judge(EC.token(sub="Zoë 東京|auth0"))).subject == "Zoë 東京|auth0"


@pytest.mark.requirement("OA-70")
@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"scope": "a b"}, {"a", "b"}),
        ({"scope": ""}, set()),
        ({"scope": None}, set()),
        ({"scope": None, "scp": "a b"}, {"a", "b"}),
        ({"scope": None, "scp": ["a", "b"]}, {"a", "b"}),
        ({"scope": "a b", "scp": ["b", "c"]}, {"b"}),
        ({"scope": "a", "scp": []}, set()),
    ],
)
def test_scopes(world: World, claims: dict[str, Any], expected: set[str]) -> None:
    """OA-70: where two claims disagree, the least."""
    assert caller(world.judge(EC.token(**claims))).scopes == expected


@pytest.mark.requirement("OA-70")
@pytest.mark.parametrize(
    "claims",
    [{"scope": ["a"]}, {"scope": 1}, {"scope": "a  b"}, {"scope": 'a"b'}, {"scp": ["a b"]}, {"scp": [1]}, {"scp": {}}],
)
def test_scopes_of_the_wrong_kind(world: World, claims: dict[str, Any]) -> None:
    """OA-70"""
    assert reason(world.judge(EC.token(**claims))) == INVALID


@pytest.mark.requirement("OA-71")
def test_repeated_members(world: World) -> None:
    """OA-71"""
    head, claims = dump(EC.header()), dump(good_claims())
    assert caller(world.judge(EC.sign(head, claims)))
    for repeated in (b'"aud":"x",', b'"sub":"root",', b'"AUD":"x",', b'"sub\\u0000":"root",', b'"exp":1,'):
        assert reason(world.judge(EC.sign(head, claims[:1] + repeated + claims[1:]))) == INVALID
    assert reason(world.judge(EC.sign(b'{"alg":"none",' + head[1:], claims))) == INVALID
    assert reason(world.judge(EC.sign(b'{"kid":"RS256",' + head[1:], claims))) == INVALID


@pytest.mark.requirement("OA-72")
def test_signature_and_segment_tricks(world: World) -> None:
    """OA-72"""
    token = EC.token()
    head, body, signature = token.split(".")
    raw = EC.private.sign(f"{head}.{body}".encode(), ECDSA(hashes.SHA256()))
    tricks = [
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{body}.{signature}.",
        f"{head}.{body}.{signature}.{signature}.{signature}",
        f".{body}.{signature}",
        f"{head}..{signature}",
        f"{head}.{body}.{signature}=",
        f"{head}.{body}.{signature}==",
        f"{head}=.{body}.{signature}",
        f"{head}.{body}.{signature[:10]}\n{signature[10:]}",
        f"{head}.{body}.{signature[:-2]}",
        f"{head}.{body}.{signature}A",
        f"{head}.{body}.{signature.replace(signature[0], '+', 1)}",
        f"{head}.{body}.{signature.replace(signature[0], '/', 1)}",
        f"{head}.{b64(dump(good_claims(sub='root')))}.{signature}",
        f"{head}.{body}.{b64(bytes(64))}",
        f"{head}.{body}.{b64(raw)}",
        f"{head}.{body}.{b64(encode_dss_signature(1, 1))}",
        respelled(token),
        "opaque",
        "..",
    ]
    for trick in tricks:
        assert reason(world.judge(trick)) == INVALID, trick
    assert caller(world.judge(token))


@pytest.mark.requirement("OA-72")
@given(st.binary(min_size=1, max_size=40), st.text("AZaz09-_+/=\n.", min_size=1, max_size=3))
def test_base64url_has_one_spelling(data: bytes, noise: str) -> None:
    """OA-72"""
    text = b64(data)
    assert decode_base64url(text) == data
    for other in {respelled(text), text + noise, noise + text, text + "=" * (-len(text) % 4)} - {text}:
        try:
            assert b64(decode_base64url(other)) == other
        except ValueError:
            continue
    assert decode_base64url("AA") == b"\0"
    for wrong in ("", "A", "AB", "AA==", "AAB", "A A", "AA\n"):
        with pytest.raises(ValueError):
            decode_base64url(wrong)


@pytest.mark.requirement("OA-73")
def test_size_bombs(world: World) -> None:
    """OA-73"""
    assert caller(world.judge(EC.token(note="x" * 8000)))
    many = {f"c{index}": 1 for index in range(10_000)}
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    for claims in ({"note": "x" * 1_000_000}, {"note": "x" * 12_500}, many, {"note": deep}, {"groups": [["a"]]}):
        assert reason(world.judge(EC.token(**claims))) == INVALID
    assert reason(world.judge(EC.token({"note": "x" * 8200}))) == INVALID
    assert reason(world.judge(EC.sign(b"[" * 3000, good_claims()))) == INVALID


@pytest.mark.requirement("OA-74")
def test_encrypted_tokens(world: World) -> None:
    """OA-74"""
    for head in (
        {"alg": "RSA-OAEP", "enc": "A256GCM"},
        {"alg": "dir", "enc": "A256GCM", "zip": "DEF"},
        {"alg": "PBES2-HS256+A128KW", "enc": "A128CBC-HS256", "p2c": 2**31 - 1, "p2s": "AAAA"},
    ):
        assert reason(world.judge(".".join([b64(dump(head)), "AAAA", "AAAA", "AAAA", "AAAA"]))) == INVALID
    assert reason(world.judge(EC.token({"enc": "A256GCM"}))) == INVALID
    assert reason(world.judge(EC.token({"zip": "DEF"}))) == INVALID


@pytest.mark.requirement("AU-19", "OA-85")
def test_token_bound_to_a_key_is_no_bearer_token(world: World) -> None:
    thumb = b64(hashlib.sha256(b"a key").digest())
    for cnf in ({"jkt": thumb}, {"x5t#S256": thumb}, {"jkt": thumb, "x5t#S256": thumb}):
        for _ in range(2):  # the second time the token is remembered
            assert reason(world.judge(EC.token(cnf=cnf))) == "identity.binding"
    unprovable = ({"jkt": "x"}, {"x5t#S256": "x"}, {}, "x", [], {"jkt": None}, {"jkt": thumb + "="}, {"jkt": [thumb]})
    for cnf in (*unprovable, {"jwk": EC.jwk}, {"kid": "k"}, {"jkt": thumb, "kid": "k"}, {"x5t": thumb}):
        assert reason(world.judge(EC.token(cnf=cnf))) == INVALID
    claims = {**good_claims(), "cnf": None}
    assert reason(world.judge(EC.sign(EC.header(), claims))) == INVALID


@pytest.mark.parametrize(
    ("claims", "passes"),
    [
        ({"groups": ["a", "b"]}, True),
        ({"groups": "a"}, True),
        ({"groups": ["a", 1]}, False),
        ({"groups": {"a": 1}}, False),
        ({"groups": ["a\0"]}, False),
        ({"hasgroups": True}, False),
        ({"_claim_names": {"groups": "src1"}}, False),
        ({"roles": 5}, False),
        ({"amr": {"mfa": 1}}, False),
        ({"acr": 1}, False),
        ({"jti": 7}, False),
        ({"jti": ""}, False),
        ({"azp": "app"}, True),
        ({"azp": "other"}, False),
        ({"client_id": 7}, False),
    ],
)
def test_claims_of_the_wrong_kind(world: World, claims: dict[str, Any], passes: bool) -> None:
    assert reason(world.judge(EC.token(**claims))) == ("passed" if passes else INVALID)


@pytest.mark.requirement("OA-79")
@pytest.mark.parametrize(
    "form",
    [
        b"Bearer  %s",
        b"Bearer\t%s",
        b"Bearer %s ",
        b" Bearer %s",
        b"Bearer%s",
        b"Basic %s",
        b"Token %s",
        b"Bearer %s, Bearer %s",
        b"Bearer %s\0",
        b"Bearer %s\n",
        b"Bearer %s\r\nX: y",
        b"Bearer \0%s",
        b'Bearer token="%s"',
        b"Bearer ",
        b"Bearer",
        b"",
        b"\xff\xfe",
    ],
)
def test_header_forms(world: World, form: bytes) -> None:
    """OA-79"""
    assert reason(world.judge(form.replace(b"%s", EC.token().encode()))) == INVALID


@pytest.mark.requirement("OA-79", "AUTH-10")
def test_header_honest_forms_and_repetition(world: World) -> None:
    """OA-79 and its honest twin."""
    token = EC.token()
    for scheme in ("Bearer", "bearer", "BEARER", "bEaReR"):
        assert caller(world.judge(f"{scheme} {token}".encode()))
    assert reason(world.judge()) == "identity.missing"
    assert reason(world.judge(token, token)) == "identity.ambiguous"
    assert reason(world.judge(token, b"Basic YTpi")) == "identity.ambiguous"


def test_client_learns_nothing_from_the_answer(world: World) -> None:
    attacks = [EC.token(aud="x"), EC.token(exp=NOW - 100, iat=NOW - 200), EC.token(sub=None), EC.token() + "A", "junk"]
    verdicts = [world.judge(attack) for attack in attacks]
    assert all(isinstance(one, Refuse) for one in verdicts)
    seen = {
        (
            one.reason.status,
            one.reason.code,
            one.reason.public,
            dict(one.public) == {},
            challenge(one.reason.id, "https://gw/m"),
        )
        for one in verdicts
        if isinstance(one, Refuse)
    }
    assert len(seen) == 1


def test_a_forged_token_is_reported_as_forged_not_as_expired(world: World) -> None:
    thief = Key("ES256", kid="ES256")
    assert reason(world.judge(thief.token(exp=NOW - 100, iat=NOW - 200))) == INVALID
    assert reason(world.judge(thief.token(aud="x"))) == INVALID
    assert reason(world.judge(EC.token(exp=NOW - 100, iat=NOW - 200))) == EXPIRED


def test_no_detail_or_token_leaks_through_repr(world: World) -> None:
    token = EC.token(aud="x")
    verdict = world.judge(token)
    assert token not in repr(verdict) and token.split(".")[2] not in json.dumps(getattr(verdict, "detail", ""))


def test_independent_library_agrees_on_the_honest_token() -> None:
    token = EC.token()
    claims = jwt.decode(
        token,
        EC.private.public_key(),
        algorithms=["ES256"],
        audience=RESOURCE,
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims["sub"] == caller(ONE_WORLD.judge(token)).subject
