"""Connected accounts: refreshed once for everybody, never lost, ended together, and nowhere in clear."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from credentials.account_kit import ALICE, BOB, URL, House
from limen.core.faults import DependencyFault
from limen.credentials.connection import key_of, read
from limen.credentials.discovery import Place
from limen.credentials.upstream_client import Identity
from limen.credentials.user_grants import LEASE, MARGIN, Account, end_connection


@pytest.mark.requirement("CLI-09")
def test_connected_and_used_until_it_expires_b3(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        first = await house.grants.held(ALICE, "notes")
        assert first is not None
        assert first.access.startswith("access-canary")
        assert await house.grants.held(BOB, "notes") is None
        house.clock += 3600 - MARGIN - 1
        again = await house.grants.held(ALICE, "notes")
        assert again is not None
        assert again.access == first.access
        house.clock += 3
        renewed = await house.grants.held(ALICE, "notes")
        assert renewed is not None
        assert renewed.access != first.access
        assert [form["resource"] for form in house.world.forms] == [URL, URL]  # CLI-09: on every leg

    asyncio.run(run())


@pytest.mark.requirement("OA-92")
def test_nothing_of_it_is_in_clear_oa92_auth19(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path, client=Identity("ours", "client_secret_basic", "secret-canary"))
        house.place = dataclasses.replace(house.place)
        await house.connect()
        house.clock += 4000
        held = await house.grants.held(ALICE, "notes")
        assert held is not None
        assert b"canary" not in house.everything()
        assert "canary" not in repr(held)
        assert b"canary" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())

    asyncio.run(run())


def test_a_record_opens_for_its_owner_and_place_only_b4(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        raw = house.tables["vault"].get(key_of(ALICE, "notes"))
        assert raw is not None
        moved = dataclasses.replace(read(raw), subject="bob")
        house.tables["vault"].put(key_of(BOB, "notes"), moved.dump())
        with pytest.raises(DependencyFault):
            await house.grants.held(BOB, "notes")
        house.tables["vault"].put(key_of(ALICE, "notes"), raw[:-9] + b"}")
        with pytest.raises(DependencyFault):
            await house.grants.held(ALICE, "notes")

    asyncio.run(run())


@pytest.mark.parametrize("replicas", [1, 3])
def test_twenty_calls_on_an_expired_token_are_one_refresh_b3(tmp_path: Path, replicas: int) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        house.clock += 4000
        house.world.slow = 0.05
        others = [House(tmp_path, house.world, now=lambda: house.clock) for _ in range(replicas - 1)]
        every = [house, *others]
        held = await asyncio.gather(*(every[n % replicas].grants.held(ALICE, "notes") for n in range(20)))
        assert len({one.access for one in held if one is not None}) == 1
        assert None not in held
        refreshes = [form for form in house.world.forms if form["grant_type"] == "refresh_token"]
        assert len(refreshes) == 1

    asyncio.run(run())


def test_a_caller_who_gives_up_stops_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        house.clock += 4000
        house.world.slow = 0.1
        waiting = [asyncio.create_task(house.grants.held(ALICE, "notes")) for _ in range(2)]
        await asyncio.sleep(0.05)
        waiting[0].cancel()
        assert await waiting[1] is not None
        assert len(house.world.forms) == 2

    asyncio.run(run())


def test_refused_refresh_token_ends_the_connection(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        house.clock += 4000
        house.world.refuse = "invalid_grant"
        assert await house.grants.held(ALICE, "notes") is None
        assert house.tables["vault"].get(key_of(ALICE, "notes")) is None
        assert house.named("disconnected")[0]["sub"] == "alice"

    asyncio.run(run())


@pytest.mark.parametrize("trouble", ["down", "invalid_client", "slow_down"])
def test_trouble_elsewhere_loses_no_grant_and_is_not_hammered(tmp_path: Path, trouble: str) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        house.clock += 4000
        house.world.down, house.world.refuse = trouble == "down", "" if trouble == "down" else trouble
        for _ in range(5):
            with pytest.raises(DependencyFault):
                await house.grants.held(ALICE, "notes")
        assert len([url for url in house.world.asked if url.endswith("/token")]) == 2  # the code, and once since
        house.world.down, house.world.refuse = False, ""
        house.clock += MARGIN + 1
        assert await house.grants.held(ALICE, "notes") is not None

    asyncio.run(run())


def test_a_token_still_good_is_used_while_it_cannot_be_renewed(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        house.clock += 3600 - MARGIN + 10
        house.world.down = True
        with pytest.raises(DependencyFault):
            await house.grants.held(ALICE, "notes")
        assert await house.grants.held(ALICE, "notes") is not None

    asyncio.run(run())


def test_a_replica_that_died_leaves_its_lease_and_no_hole(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        house.clock += 4000
        key = key_of(ALICE, "notes")
        raw = house.tables["vault"].get(key)
        assert raw is not None
        dead = dataclasses.replace(read(raw), lease="dead", lease_until=house.clock + LEASE)
        house.tables["vault"].put(key, dead.dump())
        waiting = asyncio.create_task(house.grants.held(ALICE, "notes"))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        house.clock += LEASE + 1
        assert await waiting is not None

    asyncio.run(run())


def test_who_overslept_the_lease_still_writes_the_newest_token(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        house.clock += 4000
        house.world.slow = 0.3
        slow = asyncio.create_task(house.grants.held(ALICE, "notes"))
        await asyncio.sleep(0.1)
        house.clock += LEASE + 1  # the lease is over, another replica takes it
        other = House(tmp_path, house.world, now=lambda: house.clock)
        late = await other.grants.held(ALICE, "notes")
        first = await slow
        assert first is not None
        assert late is not None
        kept = await house.grants.held(ALICE, "notes")
        assert kept is not None
        _, refresh, _ = house.grants._opened(kept.connection)
        assert refresh in house.world.refreshes  # what is kept is what the authorization server knows

    asyncio.run(run())


def test_ended_at_once_everywhere_and_told_where_it_came_from_rfc7009(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        id = read(house.tables["vault"].get(key_of(ALICE, "notes")) or b"").id
        # As the command does it: without any key.
        assert end_connection(house.tables["vault"], "0" * 12, "test", house.record, house.clock) is None
        assert end_connection(house.tables["vault"], "", "test", house.record, house.clock) is None
        assert end_connection(house.tables["vault"], id, "test", house.record, house.clock) is not None
        assert await House(tmp_path, house.world).grants.held(ALICE, "notes") is None
        house.world.down = True
        assert await house.grants.tell() == 0
        house.world.down = False
        assert await house.grants.tell() == 1
        assert await house.grants.tell() == 0
        assert [token.split("-")[0] for token in house.world.revoked] == ["refresh", "access"]

    asyncio.run(run())


def test_what_arrives_after_the_end_is_given_back(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        house.clock += 4000
        house.world.slow = 0.2
        waiting = asyncio.create_task(house.grants.held(ALICE, "notes"))
        await asyncio.sleep(0.1)
        id = read(house.tables["vault"].get(key_of(ALICE, "notes")) or b"").id
        await house.grants.end(id, "test")
        assert await waiting is None
        house.world.slow = 0
        assert await house.grants.tell() == 2
        assert house.world.refreshes <= set(house.world.revoked)

    asyncio.run(run())


@pytest.mark.requirement("CLI-10")
def test_a_token_goes_to_no_other_server_under_its_name_cli10_rfc8707(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        await house.connect()
        for place, client in (
            (Place("notes", "https://evil.example/mcp"), None),
            (Place("notes", URL, issuer="https://other.example"), None),
            (Place("notes", URL), Identity("another")),
        ):
            raw = house.tables["vault"].get(key_of(ALICE, "notes"))
            assert raw is not None
            house.accounts["notes"] = Account(place, house.world, client)
            assert await house.grants.held(ALICE, "notes") is None
            house.tables["vault"].put(key_of(ALICE, "notes"), raw)
        house.accounts["notes"] = Account(Place("notes", URL), house.world)
        assert await house.grants.held(ALICE, "notes") is not None

    asyncio.run(run())


@pytest.mark.requirement("CLI-21")
def test_no_refresh_token_means_asking_again_cli21(tmp_path: Path) -> None:
    async def run() -> None:
        house = House(tmp_path)
        granted = house.world.token

        def token(form):  # type: ignore[no-untyped-def]
            answer = granted(form)
            return answer._replace(body=answer.body.replace(b'"refresh_token"', b'"not_one"'))

        house.world.token = token  # type: ignore[method-assign]
        await house.connect()
        assert await house.grants.held(ALICE, "notes") is not None
        house.clock += 3601
        assert await house.grants.held(ALICE, "notes") is None

    asyncio.run(run())
