"""The simulated Entra tenant: it signs people in, and it refuses what the service refuses."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import jwt
import pytest

from entra_provider import CLAIMS, EntraProvider, running_entra

CALLBACK = "http://127.0.0.1:9/oauth/callback"
VERIFIER = "v" * 43


@pytest.fixture(scope="module")
def entra() -> Iterator[EntraProvider]:
    with running_entra(downstream={"api://downstream": ["Orders.Read"]}) as tenant:
        yield tenant


def ask(entra: EntraProvider, **changes: Any) -> str:
    challenge = urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
    honest = {
        "client_id": entra.client_id, "response_type": "code", "redirect_uri": CALLBACK, "state": "s",
        "scope": f"openid offline_access {entra.app_uri}/access_as_user", "nonce": "n", "code_challenge": challenge,
        "code_challenge_method": "S256",
    }  # fmt: skip
    query = {name: value for name, value in {**honest, **changes}.items() if value is not None}
    return f"{entra.root}/oauth2/v2.0/authorize?{urlencode(query)}"


def redeem(entra: EntraProvider, **changes: Any) -> httpx2.Response:
    honest = {
        "grant_type": "authorization_code", "client_id": entra.client_id, "client_secret": entra.client_secret,
        "redirect_uri": CALLBACK, "code_verifier": VERIFIER, "scope": f"openid offline_access {entra.app_uri}/.default",
    }  # fmt: skip
    form = {name: value for name, value in {**honest, **changes}.items() if value is not None}
    return httpx2.post(f"{entra.root}/oauth2/v2.0/token", data=form, trust_env=False)


def code(entra: EntraProvider) -> str:
    return parse_qs(urlsplit(entra.follow(ask(entra))).query)["code"][0]


def test_signs_in_refreshes_and_acts_on_behalf(entra: EntraProvider) -> None:
    first = redeem(entra, code=code(entra)).json()
    claims = jwt.decode(first["id_token"], options={"verify_signature": False})
    assert claims["nonce"] == "n" and claims["aud"] == entra.client_id and claims["iss"] == entra.issuer
    again = redeem(entra, grant_type="refresh_token", refresh_token=first["refresh_token"]).json()
    assert jwt.decode(again["access_token"], options={"verify_signature": False})["scp"] == "access_as_user"
    more = {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "requested_token_use": "on_behalf_of",
        "assertion": again["access_token"], "scope": "api://downstream/.default",
    }  # fmt: skip
    other = redeem(entra, **more).json()
    assert jwt.decode(other["access_token"], options={"verify_signature": False})["aud"] == "downstream"
    entra.challenge = CLAIMS
    refused = redeem(entra, **more)
    entra.challenge = ""
    assert refused.status_code == 400 and refused.json()["claims"] == CLAIMS
    assert refused.json()["error"] == "interaction_required" and refused.json()["error_codes"] == [50076]


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"resource": "https://gw.example/mcp/hr"}, 9010010),
        ({"scope": None}, 900144),
        ({"scope": None, "resource": "https://gw.example/mcp/hr"}, 901002),
        ({"scope": "api://77777777-aaaa-4bbb-8ccc-000000000007/unknown"}, 650053),
        ({"prompt": "none"}, 50058),
    ],
)
def test_refuses_at_the_client_address(entra: EntraProvider, changes: dict[str, Any], number: int) -> None:
    back = parse_qs(urlsplit(entra.follow(ask(entra, **changes))).query)
    assert back["error_description"][0].startswith(f"AADSTS{number}:") and back["state"] == ["s"]


@pytest.mark.parametrize(
    ("changes", "number"), [({"redirect_uri": "https://evil.example/cb"}, 50011), ({"client_id": "x"}, 700016)]
)
def test_refuses_on_a_page_of_its_own(entra: EntraProvider, changes: dict[str, Any], number: int) -> None:
    page = httpx2.get(ask(entra, **changes), trust_env=False)
    assert page.status_code == 200 and f"AADSTS{number}:" in page.text


@pytest.mark.parametrize(
    ("changes", "status", "number"),
    [
        ({"client_secret": "wrong"}, 401, 7000215),
        ({"client_secret": None}, 401, 7000218),
        ({"code": "dummy"}, 400, 9002313),
        ({"code": "1.dummy"}, 400, 70008),
        ({"scope": None}, 400, 900144),
        ({"resource": "https://gw.example/mcp/hr"}, 400, 9010010),
        ({"code_verifier": "w" * 43}, 400, 501481),
        ({"redirect_uri": CALLBACK + "/"}, 400, 500112),
    ],
)
def test_refuses_to_redeem(entra: EntraProvider, changes: dict[str, Any], status: int, number: int) -> None:
    answer = redeem(entra, **{"code": code(entra), **changes})
    assert (answer.status_code, answer.json()["error_codes"]) == (status, [number])
