"""How clients prove who they are. OA-86 (client authentication), OA-87 (another server), OA-88 (guessing)."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey
from mcp.client.auth.extensions.client_credentials import SignedJWTParameters

from limen.core.faults import ConfigFault
from limen.oauth.model import Client
from limen.oauth.web import OAuthError
from oauth.client_rig import CIMD, ISSUER, TOKEN, Rig, document, form_visit, read, refused, run
from oauth.client_rig import json_visit as posted

SECRET = "correct-horse-battery-staple"
KEY = ECKey.generate_key("P-256", {"kid": "k1"})
OTHER = ECKey.generate_key("P-256", {"kid": "k1"})
KIND = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
REDIRECT = ["https://app.example.com/cb"]
KNOWN: dict[str, Any] = {
    "web": {"name": "Web", "redirect_uris": REDIRECT, "auth_method": "client_secret_basic", "secret": SECRET},
    "post": {"name": "Post", "redirect_uris": REDIRECT, "auth_method": "client_secret_post", "secret": SECRET + "2"},
    "open": {"name": "Open", "redirect_uris": REDIRECT},
    "keyed": {
        "name": "Keyed",
        "redirect_uris": REDIRECT,
        "auth_method": "private_key_jwt",
        "jwks": json.dumps({"keys": [KEY.as_dict(private=False)]}),
    },
}


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}


def authenticate(
    rig: Rig, form: dict[str, str], *, query: str = "", address: str = "192.0.2.7", **headers: str
) -> Client:
    visit = form_visit(form, query=query, address=address, **headers)
    found: Client = run(rig.clients.authenticate(visit, form, TOKEN))
    return found


def refusal(rig: Rig, form: dict[str, str], **more: Any) -> OAuthError:
    error = refused(lambda: authenticate(rig, form, **more), "invalid_client")
    assert (error.status, error.description) == (401, "client authentication failed")
    return error


def assertion(rig: Rig, key: Any = KEY, header: dict[str, Any] | None = None, **claims: Any) -> dict[str, str]:
    now = int(rig.at)
    own = {"iss": "keyed", "sub": "keyed", "aud": TOKEN, "exp": now + 60, "iat": now, "jti": "j1", **claims}
    payload = json.dumps({name: value for name, value in own.items() if value is not ...})
    head = {"alg": "ES256", "kid": "k1", "typ": "JWT", **(header or {})}
    made = jws.serialize_compact(
        {k: v for k, v in head.items() if v is not ...}, payload.encode(), key, algorithms=[head["alg"]]
    )
    return {"client_assertion": made, "client_assertion_type": KIND}


def test_each_honest_way() -> None:
    rig = Rig(known=KNOWN)
    assert authenticate(rig, {}, **basic("web", SECRET)).id == "web"
    assert authenticate(rig, {"client_id": "web"}, **basic("web", SECRET)).id == "web"
    assert authenticate(rig, {"client_id": "post", "client_secret": SECRET + "2"}).id == "post"
    assert authenticate(rig, {"client_id": "open"}).id == "open"
    assert authenticate(rig, assertion(rig)).id == "keyed"
    assert authenticate(rig, {"client_id": "keyed", **assertion(rig, jti="j2", aud=[ISSUER])}).id == "keyed"
    assert not rig.notes.steps


def test_credentials_are_form_encoded_inside_basic() -> None:
    """RFC 6749 section 2.3.1."""
    rig = Rig(known={"a%b:c": {**KNOWN["web"], "secret": "p%ss w+rd:16 chars"}})
    assert authenticate(rig, {}, **basic("a%25b%3Ac", "p%25ss+w%2Brd%3A16%20chars")).id == "a%b:c"
    refusal(rig, {}, **basic("a%25b%3Ac", "p%25ss+w+rd%3A16%20chars"))


@pytest.mark.requirement("OA-86", "OA-88")
@pytest.mark.parametrize(
    ("form", "headers"),
    [
        ({}, {}),
        ({"client_id": "nobody"}, {}),
        ({"client_id": "web"}, {}),
        ({"client_id": "web", "client_secret": SECRET}, {}),  # the registered way is Basic
        ({"client_id": "post"}, {}),
        ({"client_id": "post", "client_secret": SECRET}, {}),  # the secret of another client
        ({"client_id": "post", "client_secret": ""}, {}),
        ({"client_id": "post", "client_secret": (SECRET + "2").upper()}, {}),
        ({"client_id": "post", "client_secret": SECRET + "2 "}, {}),
        ({"client_id": "open", "client_secret": SECRET}, {}),  # a public client has none
        ({"client_id": "open", "client_secret": "x"}, {}),
        ({"client_id": "keyed"}, {}),
        ({"client_id": "keyed", "client_secret": SECRET}, {}),
        ({}, basic("open", "")),
        ({}, basic("open", "x")),
        ({}, basic("web", "")),
        ({}, basic("web", SECRET + "2")),
        ({}, basic("post", SECRET + "2")),
        ({}, basic("", SECRET)),
        ({"client_id": "open"}, basic("web", SECRET)),  # two clients at once
        ({"client_id": "web", "client_secret": SECRET}, basic("web", SECRET)),
        ({"client_assertion_type": KIND}, basic("web", SECRET)),
        (
            {
                "client_id": "post",
                "client_secret": SECRET + "2",
                "client_assertion": "a.b.c",
                "client_assertion_type": KIND,
            },
            {},
        ),
        ({"client_id": "post", "client_secret": SECRET + "2", "client_assertion_type": KIND}, {}),
        ({}, {"authorization": "Bearer " + SECRET}),
        ({"client_id": "open"}, {"authorization": "Bearer x"}),
        ({}, {"authorization": "Basic"}),
        ({}, {"authorization": "Basic !!!"}),
        ({}, {"authorization": "Basic d2Vi"}),
        ({}, {"authorization": "Basic \u00e9"}),
        ({}, {"authorization": "Basic /////w=="}),
        ({"client_id": "https://nobody.example/c"}, {}),
        ({"client_id": "x" * 100_000}, {}),
    ],
)
def test_oa_86_every_other_way_ends_in_the_same_words(form: dict[str, str], headers: dict[str, str]) -> None:
    """OA-86, OA-88: nobody learns which clients there are, or what was wrong. The operator does."""
    rig = Rig(known=KNOWN)
    error = refusal(rig, form, **headers)
    assert error.detail != error.description
    assert SECRET not in json.dumps([{**step, "visit": None} for step in rig.notes.steps])
    [step] = rig.notes.steps
    assert step["leg"] == "client"
    assert step["field"] in ("client_id", "authorization", "client_secret", "client_assertion")


@pytest.mark.requirement("OA-86")
def test_oa_86_a_secret_in_the_address_is_refused() -> None:
    """OA-86: it is in the logs of every proxy by now."""
    rig = Rig(known=KNOWN)
    refusal(rig, {"client_id": "post", "client_secret": SECRET + "2"}, query=f"client_secret={SECRET}2")
    refusal(rig, {}, query="a=b", **basic("web", SECRET))


@pytest.mark.requirement("OA-86")
def test_oa_86_secrets_are_compared_as_digests_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """OA-86: every attempt makes one comparison of two digests, of a client that exists or not."""
    import limen.oauth.clients as module

    seen: list[tuple[str, str]] = []
    honest = module.compare_digest

    def compare(one: str, other: str) -> bool:
        seen.append((one, other))
        return honest(one, other)

    monkeypatch.setattr(module, "compare_digest", compare)
    rig = Rig(known=KNOWN)
    refusal(rig, {}, **basic("web", "wrong"))
    refusal(rig, {}, **basic("nobody", "wrong"))
    authenticate(rig, {}, **basic("web", SECRET))
    assert [(len(one), len(other)) for one, other in seen] == [(64, 64)] * 3
    assert SECRET not in repr(rig.clients.known["web"])


@pytest.mark.requirement("OA-88")
def test_oa_88_guessing_is_slowed_down_where_it_comes_from() -> None:
    """OA-88: failures of one network count together, what succeeds does not, and others are not locked out."""
    rig = Rig(known=KNOWN)
    for _ in range(100):
        authenticate(rig, {}, **basic("web", SECRET))
    for number in range(30):
        refusal(rig, {}, address=f"2001:db8::{number:x}", **basic("web", f"guess{number}"))
    late = refused(lambda: authenticate(rig, {}, address="2001:db8::ffff", **basic("web", SECRET)))
    assert (late.code, late.status) == ("temporarily_unavailable", 429)
    assert authenticate(rig, {}, address="2001:db8:0:1::1", **basic("web", SECRET)).id == "web"
    rig.at += 60
    assert authenticate(rig, {}, address="2001:db8::ffff", **basic("web", SECRET)).id == "web"


@pytest.mark.requirement("OA-86", "OA-87")
@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "other"}, {"iss": ...}, {"sub": "open"}, {"sub": ...}, {"sub": "web"}, {"sub": 7},
        {"aud": "https://limen.example.com/oauth/revoke"}, {"aud": "https://other.example/oauth/token"},
        {"aud": ISSUER + "/"},
        {"aud": TOKEN.upper()}, {"aud": [TOKEN, "https://other.example"]}, {"aud": []}, {"aud": [[TOKEN]]},
        {"aud": ...}, {"aud": 7},
        {"exp": ...}, {"exp": 1}, {"exp": 1_800_000_000 - 31}, {"exp": 1_800_000_000 + 331}, {"exp": 1_800_000_060.0},
        {"exp": "1800000060"}, {"exp": True}, {"exp": 10**30}, {"nbf": 1_800_000_031}, {"nbf": "x"},
        {"iat": 1_800_000_031},
        {"jti": ...}, {"jti": ""}, {"jti": 7}, {"jti": "x" * 257}, {"jti": ["a"]},
    ],
)  # fmt: skip
def test_oa_86_proofs_whose_claims_are_wrong(claims: dict[str, Any]) -> None:
    """OA-86, OA-87: a proof is by this client, for this server alone, now, and once."""
    rig = Rig(known=KNOWN)
    refusal(rig, assertion(rig, **claims))
    assert authenticate(rig, assertion(rig)).id == "keyed"  # nothing was used up


@pytest.mark.requirement("OA-86")
@pytest.mark.parametrize(
    "header",
    [{}, {"kid": "k2"}, {"typ": "at+jwt"}, {"typ": "dpop+jwt"}, {"typ": "oauth-id-jag+jwt"},
    {"jku": "https://evil.example/k"}, {"x5u": "https://evil.example"},
     {"jwk": KEY.as_dict(private=False)}, {"crit": ["b64"], "b64": True}, {"kid": "../../dev/null"}, {"kid": 7}],
)  # fmt: skip
def test_oa_86_proofs_whose_header_is_wrong(header: dict[str, Any]) -> None:
    """OA-86: neither another key, nor another kind of token."""
    rig = Rig(known=KNOWN)
    made, head = assertion(rig), json.dumps({"alg": "ES256", "kid": "k1", **header}).encode()
    first = base64.urlsafe_b64encode(head).rstrip(b"=")
    rest = made["client_assertion"].split(".")[1]
    signature = KEY.get_op_key("sign").sign(first + b"." + rest.encode(), ec.ECDSA(hashes.SHA256()))
    raw = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(signature))
    last = base64.urlsafe_b64encode(raw).rstrip(b"=")
    made["client_assertion"] = f"{first.decode()}.{rest}.{last.decode()}"
    if not header:
        assert authenticate(rig, made).id == "keyed"  # so signed it would hold
        return
    refusal(rig, made)


@pytest.mark.requirement("OA-86")
def test_oa_86_keys_and_algorithms_of_others() -> None:
    """OA-86: signed by another key of the same name, with the public key as an HMAC secret, or not at all."""
    rig = Rig(known=KNOWN)
    refusal(rig, assertion(rig, OTHER))
    good = assertion(rig)["client_assertion"].split(".")
    for head in (
        {"alg": "none"},
        {"alg": "HS256", "kid": "k1"},
        {"alg": "RS256", "kid": "k1"},
        {"alg": "ES256K", "kid": "k1"},
    ):
        first = base64.urlsafe_b64encode(json.dumps(head).encode()).rstrip(b"=").decode()
        for last in ("", good[2]):
            refusal(rig, {"client_assertion": f"{first}.{good[1]}.{last}", "client_assertion_type": KIND})
    for text in ("", "a", "a.b", "a.b.c", "a.b.c.d.e", ".".join(good) + "=", "x" * 9000):
        refusal(rig, {"client_assertion": text, "client_assertion_type": KIND})
    refusal(
        rig, {**assertion(rig), "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"}
    )
    refusal(rig, {"client_assertion": assertion(rig)["client_assertion"]})
    refusal(rig, {"client_id": "open", **assertion(rig)})
    assert authenticate(rig, assertion(rig)).id == "keyed"


@pytest.mark.requirement("OA-86")
def test_oa_86_a_proof_is_good_once() -> None:
    """OA-86: of 20 uses at the same moment one succeeds; it is remembered for as long as it could be used."""
    rig = Rig(known=KNOWN)
    form = assertion(rig)

    async def work() -> list[Any]:
        each = (rig.clients.authenticate(form_visit(form, address=f"192.0.2.{n}"), form, TOKEN) for n in range(20))
        return await asyncio.gather(*each, return_exceptions=True)

    assert sum(isinstance(one, Client) for one in run(work())) == 1
    rig.at += 89
    refusal(rig, form)
    assert list(rig.table.scan("assertion/"))
    rig.at += 400
    assert not list(rig.table.scan("assertion/"))


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("kind", ["RS256", "PS256", "ES384", "EdDSA"])
def test_algorithms_that_are_taken(kind: str) -> None:
    key: Any = {
        "RS256": lambda: RSAKey.generate_key(2048), "PS256": lambda: RSAKey.generate_key(2048),
        "ES384": lambda: ECKey.generate_key("P-384"), "EdDSA": lambda: OKPKey.generate_key("Ed25519"),
    }[kind]()  # fmt: skip
    known = {**KNOWN["keyed"], "jwks": json.dumps({"keys": [key.as_dict(private=False)]})}
    rig = Rig(known={"keyed": known})
    assert authenticate(rig, assertion(rig, key, {"alg": kind, "kid": ...})).id == "keyed"


def test_the_official_sdk_signs_what_is_accepted() -> None:
    rig = Rig(known=KNOWN)
    rig.at = time.time()
    pem = KEY.as_pem(private=True).decode()
    signed = SignedJWTParameters(issuer="keyed", subject="keyed", signing_algorithm="ES256", signing_key=pem)
    made = run(signed.create_assertion_provider()(ISSUER))
    assert authenticate(rig, {"client_assertion": made, "client_assertion_type": KIND}).id == "keyed"


JWKS = "https://app.example.com/jwks.json"


def keyed_document(rig: Rig, **more: Any) -> None:
    rig.exchange.put(CIMD, document(token_endpoint_auth_method="private_key_jwt", **more))


def test_a_client_with_a_document_proves_itself_with_its_keys() -> None:
    rig = Rig()
    keyed_document(rig, jwks={"keys": [KEY.as_dict(private=False)]})
    assert authenticate(rig, assertion(rig, iss=CIMD, sub=CIMD)).id == CIMD
    refusal(rig, {"client_id": CIMD})
    refusal(rig, assertion(rig, OTHER, iss=CIMD, sub=CIMD, jti="j2"))


@pytest.mark.requirement("OA-46", "OA-50")
def test_oa_46_keys_elsewhere_are_fetched_by_the_same_careful_way_and_rotate() -> None:
    """OA-46: through the exchange that checks addresses; an unknown key is looked for again, but not all the time."""
    rig = Rig()
    keyed_document(rig, jwks_uri=JWKS)
    rig.exchange.put(JWKS, {"keys": [KEY.as_dict(private=False)]})

    def use(key: Any, kid: str, jti: str) -> dict[str, str]:
        return assertion(rig, key, {"kid": kid}, iss=CIMD, sub=CIMD, jti=jti)

    assert authenticate(rig, use(KEY, "k1", "a")).id == CIMD
    assert authenticate(rig, use(KEY, "k1", "b")).id == CIMD
    assert rig.exchange.asked.count(JWKS) == 1
    fresh = ECKey.generate_key("P-256", {"kid": "k2"})
    rig.exchange.put(JWKS, {"keys": [fresh.as_dict(private=False)]})
    refusal(rig, use(fresh, "k2", "c"))  # just asked
    rig.at += 31
    assert authenticate(rig, use(fresh, "k2", "d")).id == CIMD
    refusal(rig, use(KEY, "k1", "e"))  # rotated away
    assert rig.exchange.asked.count(JWKS) == 2
    for number in range(5):  # OA-50: a flood of unknown keys is not one of fetches
        refusal(rig, use(OTHER, f"x{number}", f"f{number}"))
    assert rig.exchange.asked.count(JWKS) == 2
    rig.exchange.put(JWKS, b"", 503)
    rig.at += 31
    refusal(rig, use(OTHER, "x", "g"))  # asks, in vain; what was known stays in use until it is too old
    assert authenticate(rig, use(fresh, "k2", "h")).id == CIMD
    rig.at += 601
    refusal(rig, use(fresh, "k2", "i"))


@pytest.mark.requirement("OA-50")
@pytest.mark.parametrize(
    "body", [b"", b"[]", {"keys": []}, {"keys": [{"kty": "oct", "k": "QUFB"}]}, {"keys": [KEY.as_dict(private=True)]}]
)
def test_oa_50_key_sets_that_are_none(body: Any) -> None:
    """OA-50: no symmetric keys, no private ones, nothing that is not a key set."""
    rig = Rig()
    keyed_document(rig, jwks_uri=JWKS)
    rig.exchange.put(JWKS, body)
    refusal(rig, assertion(rig, iss=CIMD, sub=CIMD))


@pytest.mark.parametrize(
    "wrong",
    [
        {"redirect_uris": ["https://limen.example.com/x"]}, {"redirect_uris": ["https://login.provider.example/cb"]},
        {"auth_method": "private_key_jwt", "jwks": '{"keys":[]}'},
    ],
)  # fmt: skip
def test_a_client_written_down_wrongly_stops_the_start(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigFault, match=r"oauth\.clients\.known\.bad"):
        Rig(known={"bad": {"name": "Bad", "redirect_uris": REDIRECT, **wrong}})


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": SECRET}, {"auth_method": "client_secret_basic"}, {"auth_method": "client_secret_basic",
        "secret": "short"},
        {"auth_method": "private_key_jwt"}, {"jwks": "{}"}, {"auth_method": "none", "secret": SECRET},
        {"redirect_uris": []},
        {"auth_method": "client_secret_jwt", "secret": SECRET}, {"extra": 1},
        {"redirect_uris": ["javascript:/x"]}, {"redirect_uris": ["https://*.example.com/cb"]},
    ],
)  # fmt: skip
def test_settings_that_contradict_themselves(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as told:
        Rig(known={"bad": {"name": "Bad", "redirect_uris": REDIRECT, **wrong}})
    assert SECRET not in str(told.value)


def test_a_device_that_an_operator_wrote_down_needs_no_address() -> None:
    device = "urn:ietf:params:oauth:grant-type:device_code"
    rig = Rig(known={"tv": {"name": "TV", "grants": [device, "refresh_token"]}})
    client = run(rig.clients.find("tv"))
    assert client.grant_types == {device, "refresh_token"}
    assert (client.redirect_uris, client.warnings) == ((), ())
    for wrong in ({"grants": [device], "redirect_uris": REDIRECT}, {"grants": ["authorization_code"]}, {"grants": []}):
        with pytest.raises(ValueError):
            Rig(known={"tv": {"name": "TV", **wrong}})
    for grants in ([device], ["password"], ["client_credentials"]):
        with pytest.raises(ValueError):
            Rig(known={"tv": {"name": "TV", "grants": grants, "redirect_uris": REDIRECT}})


def test_any_port_of_localhost_only_where_an_operator_says_so() -> None:
    from limen.oauth.redirects import allowed

    for loosened in (False, True):
        rig = Rig(unsafe_localhost_ports=loosened)
        rig.exchange.put(CIMD, document(redirect_uris=["http://localhost/callback", "http://127.0.0.1/callback"]))
        client = run(rig.clients.find(CIMD))
        assert allowed(client, "http://localhost:51004/callback") is loosened
        assert allowed(client, "http://127.0.0.1:51004/callback")
        assert not allowed(client, "http://localhost:51004/other")


@pytest.mark.requirement("OA-15")
def test_a_registered_client_from_registration_to_authentication() -> None:
    """The honest twin of OA-15: a legacy client, with the way it chose."""
    rig = Rig(registration=True)
    for method in ("client_secret_basic", "client_secret_post", "none"):
        body = {"redirect_uris": REDIRECT, "client_name": "Legacy", "token_endpoint_auth_method": method}
        made = read(run(rig.registration.register(posted(body))))
        form = {"client_id": made["client_id"]}
        if method == "client_secret_basic":
            assert authenticate(rig, form, **basic(made["client_id"], made["client_secret"])).source == "registered"
        elif method == "client_secret_post":
            assert authenticate(rig, {**form, "client_secret": made["client_secret"]}).id == made["client_id"]
            refusal(rig, form)
        else:
            assert "client_secret" not in made
            assert authenticate(rig, form).auth_method == "none"
