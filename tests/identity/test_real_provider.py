"""A certified provider end to end: discovery, real access tokens, rotation at run time."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from limen.adapters.http import HttpFetch
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Refuse, Verdict
from limen.identity.authenticate import TokenVerifier
from limen.identity.issuers import IdentitySettings, Issuers, IssuerSettings
from minting import Clock, caller, reason
from provider import Provider, running_provider

HR, FINANCE = "https://gw.example/hr/mcp", "https://gw.example/fin/mcp"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running_provider({HR: "hr:read hr:call", FINANCE: "fin:read"}) as running:
        yield running


async def ask(verifier: TokenVerifier, token: str, resource: str) -> Verdict:
    answer = verifier.verify(f"Bearer {token}".encode(), resource)
    return answer if isinstance(answer, Pass | Refuse) else await answer


def trusting(provider: Provider, clock: Clock) -> tuple[Issuers, TokenVerifier]:
    settings = IdentitySettings(issuers=(IssuerSettings(issuer=provider.issuer, require_at_jwt=True),))
    issuers = Issuers(settings, HttpFetch(), clock)
    return issuers, TokenVerifier(issuers, settings)


def test_token_of_the_real_provider_is_accepted_only_for_its_resource(provider: Provider) -> None:
    async def run() -> None:
        issuers, verifier = trusting(provider, Clock(time.time()))
        tokens = await asyncio.to_thread(provider.tokens, HR, "hr:read", "bob")
        token = tokens["access_token"]
        alice = caller(await ask(verifier, token, HR))
        assert (alice.issuer, alice.subject, alice.client) == (provider.issuer, "bob", "client")
        assert alice.scopes == {"hr:read"} and alice.groups == {"staff"} and alice.token_id
        assert isinstance(verifier.verify(f"Bearer {token}".encode(), HR), Pass)  # at once from now on
        assert reason(await ask(verifier, token, FINANCE)) == "identity.audience"
        other = await asyncio.to_thread(provider.token, FINANCE, "fin:read")
        assert reason(await ask(verifier, other, HR)) == "identity.audience"
        assert reason(await ask(verifier, tokens["id_token"], HR)) == "identity.invalid"
        assert issuers.problems() == {}

    asyncio.run(run())


def test_unknown_resource_gets_no_token(provider: Provider) -> None:
    with pytest.raises(RuntimeError, match="invalid_target"):
        provider.token("https://elsewhere.example/mcp", "hr:read")


def test_rotation_at_run_time_and_a_retired_key(provider: Provider) -> None:
    async def run() -> None:
        clock = Clock(time.time())
        _, verifier = trusting(provider, clock)
        old = await asyncio.to_thread(provider.token, HR, "hr:read")
        assert isinstance(await ask(verifier, old, HR), Pass)

        await asyncio.to_thread(provider.rotate)
        clock.now += 11  # past the refetch interval
        new = await asyncio.to_thread(provider.token, HR, "hr:read")
        assert isinstance(await ask(verifier, new, HR), Pass)
        assert isinstance(await ask(verifier, old, HR), Pass)  # still published

        await asyncio.to_thread(provider.retire)
        clock.now += 11
        await asyncio.to_thread(provider.rotate)
        newest = await asyncio.to_thread(provider.token, HR, "hr:read")
        assert isinstance(await ask(verifier, newest, HR), Pass)  # fetched anew because of the unknown key
        assert reason(await ask(verifier, old, HR)) == "identity.invalid"  # although it had been remembered
        assert isinstance(await ask(verifier, new, HR), Pass)

    asyncio.run(run())


def test_provider_that_is_gone_means_unavailable_not_accepted(provider: Provider) -> None:
    async def run() -> None:
        clock = Clock(time.time())
        with_issuer = IssuerSettings(issuer="http://127.0.0.1:9", require_at_jwt=True)
        settings = IdentitySettings(issuers=(with_issuer,))
        issuers = Issuers(settings, HttpFetch(), clock)
        assert "http://127.0.0.1:9" in await issuers.warm()
        with pytest.raises(DependencyFault):
            one = issuers.find("http://127.0.0.1:9")
            assert one is not None
            await one.renew()

    asyncio.run(run())
