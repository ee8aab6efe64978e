"""Another server's token endpoint: found safely, asked as the client we are, left alone when it is in trouble."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from credentials.authority import Authority
from limen.core.faults import DependencyFault
from limen.core.ports import Fetched
from limen.credentials.endpoint import Denied, Endpoint, metadata_urls
from limen.credentials.settings import OwnClient, Server
from minting import NOW, Clock, Key

CLIENT = {"id": "li:men", "secret": "s&cret+1"}
FORM = {"grant_type": "client_credentials", "scope": "use", "audience": "", "resource": ("https://a", "https://b")}


def endpoint(authority: Authority, clock: Clock | None = None, client: Any = None, **settings: Any) -> Endpoint:
    where = settings or {"issuer": authority.issuer}
    return Endpoint(Server(**where, client=OwnClient(**(client or CLIENT))), authority, clock or Clock())


def run(made: Endpoint, form: Any = FORM) -> Any:
    return asyncio.run(made.token(form))


@pytest.mark.parametrize("send", ["header", "body"])
def test_secret_is_sent_as_configured_and_special_characters_survive(send: str) -> None:
    authority = Authority()
    made = endpoint(authority, client={**CLIENT, "send": send})
    granted = run(made)
    assert authority.read(granted.access)["sub"] == "li:men"
    assert granted.expires == NOW + 300
    assert "audience" not in authority.asked[0]
    assert authority.asked[0]["resource"] == "https://a"
    assert granted.access not in repr(granted)


@pytest.mark.requirement("OA-86")
@pytest.mark.parametrize("algorithm", ["ES256", "PS256", "RS256", "EdDSA"])
def test_private_key_jwt_is_what_rfc_7523_asks_for_oa86(algorithm: str) -> None:
    key, seen = Key(algorithm), []

    class Asserted(Authority):
        def _client(self, form: Any, headers: Any) -> str:
            assert "authorization" not in headers
            assert form["client_assertion_type"].endswith("jwt-bearer")
            header = jwt.get_unverified_header(form["client_assertion"])
            assert (header["alg"], header["kid"]) == (algorithm, "k9")
            claims = jwt.decode(
                form["client_assertion"], key.private.public_key(), [algorithm], audience=f"{self.issuer}/token",
                options={"require": ["exp", "iat", "jti", "iss", "sub"], "verify_exp": False, "verify_nbf": False,
                         "verify_iat": False},
            )  # fmt: skip
            assert claims["iss"] == claims["sub"] == "limen"
            assert claims["exp"] - claims["iat"] <= 120
            seen.append(claims["jti"])
            return "limen"

    pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    client = {"id": "limen", "key": pem, "key_id": "k9", **({"algorithm": "RS256"} if algorithm == "RS256" else {})}
    made = endpoint(Asserted(), client=client)
    run(made)
    run(made)
    assert len(set(seen)) == 2  # never the same assertion twice


def test_metadata_is_looked_for_where_the_protocol_says_and_remembered() -> None:
    assert metadata_urls("https://as.example/t/1") == (
        "https://as.example/.well-known/oauth-authorization-server/t/1",
        "https://as.example/.well-known/openid-configuration/t/1",
        "https://as.example/t/1/.well-known/openid-configuration",
    )
    authority, clock = Authority(), Clock()
    made = endpoint(authority, clock)

    async def many() -> None:
        authority.delay = 0.01
        await asyncio.gather(*(made.token(FORM) for _ in range(5)))

    asyncio.run(many())
    assert authority.paths == ["/.well-known/oauth-authorization-server"]


@pytest.mark.requirement("OA-87", "OA-47")
@pytest.mark.parametrize(
    "document",
    [{"issuer": "https://other.example"}, {"issuer": "https://as.example/"}, {"issuer": None},
     {"token_endpoint": "https://evil.example/token"}, {"token_endpoint": "http://as.example/token"},
     {"token_endpoint": "https://as.example:444/token"}, {"token_endpoint": "file:///etc/passwd"},
     {"token_endpoint": "javascript:alert(1)"}, {"token_endpoint": "$(cmd)"}, {"token_endpoint": None},
     {"token_endpoint": "https://as.example@evil.example/token"}, {"token_endpoint": "https://[bad/token"}],
    ids=str,
)  # fmt: skip
def test_metadata_of_another_or_with_an_endpoint_elsewhere_gets_no_secret_oa47_oa87(document: dict[str, Any]) -> None:
    authority = Authority()
    authority.metadata |= document
    with pytest.raises(DependencyFault):
        run(endpoint(authority))
    assert not authority.asked


def test_an_endpoint_that_is_written_down_is_not_looked_up() -> None:
    authority = Authority()
    run(endpoint(authority, token_endpoint="https://as.example/token"))
    assert not authority.paths


@pytest.mark.parametrize(("headers", "away"), [({"retry-after": "120"}, 120.0), ({}, 1.0), ({"retry-after": "x"}, 1.0)])
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_in_trouble_is_left_alone_as_long_as_it_asks(
    headers: dict[str, str], away: float, status: int
) -> None:
    authority, clock = Authority(), Clock()
    made = endpoint(authority, clock)
    run(made)
    authority.fail = Fetched(status, headers, b"{}")
    with pytest.raises(DependencyFault) as caught:
        run(made)
    assert caught.value.retry_after == away
    authority.fail = None
    clock.now += away - 0.1
    with pytest.raises(DependencyFault):
        run(made)
    assert len(authority.asked) == 1  # not even asked
    clock.now += 0.2
    run(made)


def test_failures_in_a_row_keep_away_for_longer_and_success_forgets_them() -> None:
    authority, clock = Authority(), Clock()
    made = endpoint(authority, clock)
    pauses = []
    authority.fail = DependencyFault("fetch", "no answer")
    for _ in range(8):
        with pytest.raises(DependencyFault) as caught:
            run(made)
        pauses.append(caught.value.retry_after)
        clock.now += caught.value.retry_after
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    authority.fail = None
    run(made)
    authority.fail = DependencyFault("fetch", "no answer")
    with pytest.raises(DependencyFault) as caught:
        run(made)
    assert caught.value.retry_after == 1


def test_our_own_fault_is_told_apart_from_a_refusal() -> None:
    authority = Authority()
    with pytest.raises(DependencyFault, match="invalid_client") as caught:
        run(endpoint(authority, client={"id": "limen", "secret": "wrong"}))
    assert not caught.value.retryable
    made = endpoint(authority)
    with pytest.raises(Denied) as denied:
        run(made, {"grant_type": "refresh_token", "refresh_token": "x"})
    assert denied.value.code == "invalid_grant"
    run(made)  # a refusal keeps nobody away


ANSWERS: list[Any] = [
    b"", b"[]", b"not json", {"token_type": "Bearer"}, {"access_token": "a", "token_type": "mac"},
    {"access_token": "", "token_type": "Bearer"}, {"access_token": 5, "token_type": "Bearer"},
    {"access_token": "a\r\nx-evil: 1", "token_type": "Bearer"}, {"access_token": "a b", "token_type": "Bearer"},
    {"access_token": "\u00e4", "token_type": "Bearer"}, {"access_token": "a" * 40_000, "token_type": "Bearer"},
    {"access_token": "a"}, {"access_token": ["a"], "token_type": "Bearer"},
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda one: str(one)[:40])
def test_an_answer_that_is_no_token_is_a_fault(answer: Any) -> None:
    authority = Authority()
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    made = endpoint(authority, token_endpoint="https://as.example/token")
    authority.fail = Fetched(200, {}, body)
    with pytest.raises(DependencyFault):
        run(made)


@pytest.mark.parametrize(
    ("told", "good"), [(None, 60), (True, 60), (-5, 60), ("300", 300), (1e308, 86_400), ("x", 60), (12.5, 12.5)]
)
def test_how_long_a_token_is_good_for(told: Any, good: float) -> None:
    authority = Authority()
    authority.more = {"expires_in": told}
    assert run(endpoint(authority)).expires == NOW + good


@pytest.mark.requirement("OA-89")
def test_an_error_text_cannot_reach_the_log_as_more_than_a_line_oa89() -> None:
    authority = Authority()
    made = endpoint(authority, token_endpoint="https://as.example/token")
    evil = {"error": "invalid_grant\r\nfake: 1", "error_description": "\x1b[2J<script>" + "x" * 5000}
    authority.fail = Fetched(400, {}, json.dumps(evil).encode())
    with pytest.raises(Denied) as denied:
        run(made)
    assert str(denied.value).isprintable()
    assert len(str(denied.value)) < 1000
