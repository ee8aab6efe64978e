"""Credentials from a certified provider, for a server on the official SDK that demands tokens of its own audience."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from credentials.authority import asking
from limen.adapters.public_http import PublicHttp
from limen.core.call import Caller
from limen.core.verdict import Refuse
from limen.credentials.endpoint import Endpoint
from limen.credentials.exchanged import Exchanged, OwnToken
from limen.credentials.settings import ClientCredentials, TokenExchange
from limen.credentials.subjects import Subjects
from provider import Provider, running_provider

GATEWAY, UP = "https://gw.example/mcp/up", "https://up.example/mcp"


@pytest.fixture(scope="module")
def idp() -> Iterator[Provider]:
    with running_provider({GATEWAY: "use", UP: "files:read files:write"}) as started:
        yield started


def read(provider: Provider, token: str) -> dict[str, Any]:
    key = jwt.PyJWKClient(f"{provider.issuer}/jwks").get_signing_key_from_jwt(token)
    found: dict[str, Any] = jwt.decode(token, key, ["ES256"], audience=UP, issuer=provider.issuer)
    return found


def exchanging(provider: Provider, secret: str = "p&ss+word: 100%", **more: Any) -> Exchanged:
    settings = TokenExchange.model_validate(
        {"kind": "exchange", "issuer": provider.issuer, "client": {"id": "limen", "secret": secret},
         "scopes": ["files:read"], **more}
    )  # fmt: skip
    return Exchanged(
        settings, UP, Endpoint(settings, PublicHttp(private=True)), Subjects("https://limen.example", "", None)
    )


def test_client_credentials_of_the_real_provider(idp: Provider) -> None:
    settings = ClientCredentials.model_validate(
        {"kind": "client_credentials", "issuer": idp.issuer, "scopes": ["files:read"], "resource": UP,
         "client": {"id": "robot", "secret": "a secret of the robot"}}
    )  # fmt: skip
    got = asyncio.run(OwnToken(settings, Endpoint(settings, PublicHttp(private=True))).own())
    claims = read(idp, got.header[1].removeprefix("Bearer "))
    assert (claims["scope"], claims["client_id"]) == ("files:read", "robot")
    assert abs(got.expires - claims["exp"]) < 30


def test_exchange_at_the_real_provider_for_the_person_who_signed_in_there_b2(idp: Provider) -> None:
    brought = idp.token(GATEWAY, "use", "alice")
    context = asking(Caller(idp.issuer, "alice", "client", token_id="t"), brought)
    got = asyncio.run(exchanging(idp).obtain(context))
    assert not isinstance(got, Refuse)
    token = got.header[1].removeprefix("Bearer ")
    claims = read(idp, token)
    assert (claims["sub"], claims["scope"], claims["aud"]) == ("alice", "files:read", UP)
    assert token != brought
    forged = asking(Caller(idp.issuer, "alice", "client", token_id="t"), brought[:-8] + "AAAAAAAA")
    for refused in (
        asyncio.run(exchanging(idp).obtain(forged)),
        asyncio.run(exchanging(idp, resource=["https://elsewhere.example/"]).obtain(context)),
    ):
        assert isinstance(refused, Refuse)
        assert refused.reason.id == "credentials.refused"
