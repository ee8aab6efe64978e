"""Accounts as a configuration asks for them, and what a client of the gateway is told."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from connections_material import config_of
from credentials.account_kit import ALICE, BASE, PROVIDER, URL, Sealing, World
from credentials.test_user_source import context, verdict
from limen.adapters.sqlite import open_tables
from limen.connections import Connections, endpoints
from limen.core.call import Call, Caller, Era, Presented
from limen.core.reasons import REASONS
from limen.core.verdict import Refusal, Refuse
from limen.credentials.upstream_client import Granted, Identity
from limen.credentials.user_grants import Linked
from limen.gateway.app import Gateway
from limen.protocol.outbound import Reply
from oauth.connect_desk import Desk, Notes


def build(directory: Path, **credential: Any) -> tuple[Connections | None, World, World]:
    public, private = World(), World()
    tables = open_tables(directory / "limen.db", ("oauth", "vault"))
    config = config_of(directory, BASE, PROVIDER, URL, credential)
    record = lambda event, fields: None  # noqa: E731
    built = Connections.build(config, tables["vault"], tables["oauth"], Sealing(), public, private, record)
    return built, public, private


def test_only_servers_with_accounts_of_people_get_a_source(tmp_path: Path) -> None:
    built, _, _ = build(tmp_path)
    assert built is not None
    assert set(built.sources) == {"notes"}
    pages = built.pages(None, Desk(), Notes(), None)  # type: ignore[arg-type]
    assert set(endpoints(pages)) == {b"/oauth/connected", b"/oauth/client"}


def test_without_any_there_is_nothing(tmp_path: Path) -> None:
    tables = open_tables(tmp_path / "limen.db", ("oauth", "vault"))
    config = config_of(tmp_path, BASE, PROVIDER, URL, None)
    world = World()
    assert Connections.build(config, tables["vault"], tables["oauth"], Sealing(), world, world, print) is None


@pytest.mark.requirement("OA-48")
def test_private_networks_are_for_servers_the_operator_put_there_oa48(tmp_path: Path) -> None:
    async def asked(**credential: Any) -> tuple[list[str], list[str]]:
        built, public, private = build(tmp_path, **credential)
        assert built is not None
        place = built.sources["notes"]._place
        await built.linking._discovery.find(place)
        return public.asked, private.asked

    async def run() -> None:
        public, private = await asked()
        assert public
        assert not private
        public, private = await asked(private=True, hosts=["as.example"])
        assert private
        assert not public

    asyncio.run(run())


def test_headers_of_the_configuration_are_for_reading_and_the_persons_token_for_calls(tmp_path: Path) -> None:
    async def run() -> None:
        built, world, _ = build(tmp_path)
        assert built is not None
        granted = Granted("access-canary", "", 3600.0, None)
        await built.grants.keep(
            Linked(ALICE, "", "notes", world.issuer, URL, f"{world.issuer}/token", "", Identity("c"), (), granted)
        )
        answer = await verdict(built.sources["notes"], context(Caller(PROVIDER, "alice")))
        assert not isinstance(answer, Refuse)
        sent = dict(answer.facts[0].headers)  # type: ignore[attr-defined]
        assert sent == {"authorization": "Bearer access-canary", "x-route": "blue"}
        await built.close()

    asyncio.run(run())


def test_the_gateway_tells_a_client_in_the_words_of_its_era_eli02(tmp_path: Path) -> None:
    asked = {"connect": f"{BASE}/oauth/connect/notes?handle=x", "elicitation": {"id": "e", "message": "Connect."}}
    refusal = Refusal(REASONS["credentials.connect"], "ref", "AttachCredential", "", asked)

    async def decide(call: Call, presented: Presented) -> tuple[Refusal, None]:
        return refusal, None

    async def run() -> None:
        kept = SimpleNamespace(sessions=SimpleNamespace(on_end=None), states=None, handles=None)
        gateway = Gateway(SimpleNamespace(decide=decide), kept, lambda server: False, {})  # type: ignore[arg-type]
        for era, revision, expected in ((Era.MODERN, "2026-07-28", "result"), (Era.HANDSHAKE, "2025-11-25", "error")):
            call = Call("tools/call", "notes", "notes", era, revision, 3, "add")
            answer = await gateway.handle(call, Presented(), None)  # type: ignore[arg-type]
            assert isinstance(answer, Reply)
            assert answer.status == 200
            assert expected in orjson.loads(answer.body)

    asyncio.run(run())


def test_a_token_that_is_there_costs_microseconds(tmp_path: Path) -> None:
    """Against a dictionary look-up in the same run: no store, no key, no await."""

    async def run() -> None:
        built, world, _ = build(tmp_path)
        assert built is not None
        granted = Granted("access-canary", "", 3600.0, None)
        await built.grants.keep(
            Linked(ALICE, "", "notes", world.issuer, URL, f"{world.issuer}/token", "", Identity("c"), (), granted)
        )
        source, asked = built.sources["notes"], context(Caller(PROVIDER, "alice"))
        await verdict(source, asked)
        known = {("issuer", f"{number}"): number for number in range(100)}

        def best(work: Any) -> float:
            found = []
            for _ in range(20):
                began = time.perf_counter()
                for _ in range(200):
                    work()
                found.append((time.perf_counter() - began) / 200)
            return min(found)

        ratio = best(lambda: source.credential(asked)) / best(lambda: known[("issuer", "7")])
        assert ratio < 60, ratio

    asyncio.run(run())
