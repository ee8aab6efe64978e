"""The provider's tokens of who signed in: sealed, renewed once however many ask, and not lost by dying half way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from contracts.memory import MemoryTable
from credentials.authority import Authority, Box
from limen.adapters.sqlite import open_tables
from limen.core.faults import DependencyFault
from limen.core.ports import Fetched
from limen.credentials.endpoint import Endpoint
from limen.credentials.held import Held
from limen.credentials.settings import OwnClient, Server

IDP = "https://idp.example"
CLIENT = OwnClient.model_validate({"id": "limen", "secret": "s&cret+1"})
OVER = 1000.0  # seconds since the epoch: long past


def replica(authority: Any, table: Any, box: Box) -> Held:
    return Held(table, box, Endpoint(Server(token_endpoint=f"{IDP}/token", client=CLIENT), authority))


def provider() -> Authority:
    authority = Authority(IDP)
    authority.refresh["first"] = "alice"
    return authority


@pytest.fixture
def table(tmp_path: Path) -> Any:
    opened = open_tables(tmp_path / "held.db", ("vault",))["vault"]
    yield opened
    opened.close()


def test_what_is_good_is_given_without_asking_and_nothing_is_in_the_clear(table: Any, tmp_path: Path) -> None:
    authority = provider()
    held = replica(authority, table, Box())
    held.keep(IDP, "alice", "canary-access", "canary-refresh", time.time() + 300, ["openid"], "canary-identity")
    found = asyncio.run(held.find(IDP, "alice"))
    assert found is not None
    assert (found.access, found.refresh, found.identity) == ("canary-access", "canary-refresh", "canary-identity")
    assert not authority.asked
    assert "canary" not in repr(found)
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"canary" not in data
    assert b"alice" not in data
    assert asyncio.run(held.find(IDP, "bob")) is None
    assert asyncio.run(held.find("https://other.example", "alice")) is None
    held.drop(IDP, "alice")
    assert asyncio.run(held.find(IDP, "alice")) is None


def test_a_record_opens_for_its_owner_only() -> None:
    table, box = MemoryTable(), Box()
    held = replica(provider(), table, box)
    held.keep(IDP, "alice", "a", "r", time.time() + 300)
    held.keep(IDP, "bob", "b", "r", time.time() + 300)
    (one, two) = sorted(key for key, _ in table.scan("held/"))
    first, second = table.get(one), table.get(two)
    table.put(one, second)
    table.put(two, first)  # swapped by whoever can write to the database
    for subject in ("alice", "bob"):
        with pytest.raises(InvalidTag):
            asyncio.run(held.find(IDP, subject))


def test_ten_parallel_refreshes_at_two_replicas_are_one_b3(table: Any) -> None:
    authority, box = provider(), Box()
    authority.delay = 0.1
    replicas = [replica(authority, table, box), replica(authority, table, box)]
    replicas[0].keep(IDP, "alice", "old", "first", OVER, ["openid"])

    async def ten() -> list[Any]:
        return await asyncio.gather(*(replicas[at % 2].find(IDP, "alice") for at in range(10)))

    found = asyncio.run(ten())
    assert len({one.access for one in found}) == 1
    assert len(authority.asked) == 1
    assert authority.asked[0]["scope"] == "openid"
    assert found[0].refresh in authority.refresh  # the rotated one was kept
    assert found[0].identity


def test_one_who_gives_up_does_not_lose_the_rotation_for_the_others_b3(table: Any) -> None:
    authority, box = provider(), Box()
    authority.delay = 0.1
    held = replica(authority, table, box)
    held.keep(IDP, "alice", "old", "first", OVER)

    async def run() -> None:
        leaving = asyncio.ensure_future(held.find(IDP, "alice"))
        await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.sleep(0.2)
        found = await held.find(IDP, "alice")
        assert found is not None
        assert len(authority.asked) == 1

    asyncio.run(run())


def test_an_outage_loses_nothing_and_lets_the_next_one_try_at_once(table: Any) -> None:
    authority, box = provider(), Box()
    held = replica(authority, table, box)
    held.keep(IDP, "alice", "old", "first", OVER)
    authority.fail = DependencyFault("fetch", "no answer")
    with pytest.raises(DependencyFault):
        asyncio.run(held.find(IDP, "alice"))
    authority.fail = None
    started = time.monotonic()
    assert asyncio.run(replica(authority, table, box).find(IDP, "alice")) is not None
    assert time.monotonic() - started < 5  # not after the lease


def test_a_provider_that_ended_the_grant_ends_the_record(table: Any) -> None:
    authority, box = provider(), Box()
    authority.refresh.clear()
    held = replica(authority, table, box)
    held.keep(IDP, "alice", "old", "first", OVER)
    assert asyncio.run(held.find(IDP, "alice")) is None
    assert list(table.scan("held/")) == []
    held.keep(IDP, "alice", "old", "", OVER)  # no refresh token was given
    assert asyncio.run(held.find(IDP, "alice")) is None


@pytest.mark.parametrize("ended", [False, True])
def test_a_sign_in_meanwhile_goes_before_what_a_refresh_brings(table: Any, ended: bool) -> None:
    authority, box = provider(), Box()
    authority.delay = 0.1
    held = replica(authority, table, box)
    held.keep(IDP, "alice", "old", "first", OVER)

    async def run() -> Any:
        asking = asyncio.ensure_future(held.find(IDP, "alice"))
        await asyncio.sleep(0.05)
        if ended:
            held.drop(IDP, "alice")
        else:
            held.keep(IDP, "alice", "newest", "newest", time.time() + 300)
        return await asking

    if ended:
        with pytest.raises(DependencyFault):
            asyncio.run(run())
        assert list(table.scan("held/")) == []
    else:
        assert asyncio.run(run()).access == "newest"


CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from credentials.test_held import Plain, replica, IDP
from limen.adapters.sqlite import open_tables
from limen.core.ports import Fetched
import json

when = sys.argv[2]
table = open_tables(Path(sys.argv[1]), ("vault",))["vault"]

class Web:
    async def post(self, url, body, headers):
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        with open(sys.argv[1] + ".rotated", "w") as told:
            told.write("rotated")
        if when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        document = {"access_token": "new", "refresh_token": "second", "token_type": "Bearer", "expires_in": 300}
        return Fetched(200, {}, json.dumps(document).encode())

class Dying:
    def __getattr__(self, name):
        return getattr(table, name)
    def swap(self, key, old, new, expires=None):
        done = table.swap(key, old, new, expires)
        if when == "leased" or (when == "written" and b'"holder":""' in new):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

asyncio.run(replica(Web(), Dying(), Plain()).find(IDP, "alice"))
"""


class Plain:
    """A Sealer two processes share; what is sealed is looked at in other tests."""

    def seal(self, owner: str, place: str, secret: bytes) -> bytes:
        return secret

    def open(self, owner: str, place: str, sealed: bytes) -> bytes:
        return sealed


@pytest.mark.parametrize("when", ["leased", "before", "after", "written"])
def test_kill_9_in_the_middle_of_a_refresh_loses_no_sign_in_b3(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the provider answered and before that was written, the old refresh token is used again: providers that
    rotate allow that for a moment; this one does."""
    path = tmp_path / "held.db"
    table = open_tables(path, ("vault",))["vault"]
    held = replica(None, table, Plain())  # type: ignore[arg-type]
    held.keep(IDP, "alice", "old", "first", OVER)
    died = subprocess.run([sys.executable, "-c", CHILD, str(path), when], timeout=60, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert os.path.exists(f"{path}.rotated") is (when in ("after", "written"))
    used: list[str] = []

    class Web:
        async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
            used.append(body.decode())
            document = {"access_token": "new", "refresh_token": "second", "token_type": "Bearer", "expires_in": 300}
            return Fetched(200, {}, json.dumps(document).encode())

    later = time.time() + (0 if when == "written" else 25)  # the lease of the dead is over
    server = Server(token_endpoint=f"{IDP}/token", client=CLIENT)
    again = Held(table, Plain(), Endpoint(server, Web(), lambda: later), lambda: later)  # type: ignore[arg-type]
    found = asyncio.run(again.find(IDP, "alice"))
    assert found is not None
    assert (found.access, found.refresh) == ("new", "second")
    assert len(used) == (0 if when == "written" else 1)
    assert all("refresh_token=first" in one for one in used)
    table.close()


def test_whoever_waits_for_a_lease_of_the_dead_is_told_and_not_left_hanging(table: Any) -> None:
    box = Plain()
    clock = [time.time()]
    server = Server(token_endpoint=f"{IDP}/token", client=CLIENT)
    held = Held(table, box, Endpoint(server, provider()), lambda: clock[0])
    held.keep(IDP, "alice", "old", "first", OVER)
    key, raw = next(iter(table.scan("held/")))
    document = {**json.loads(raw), "holder": "somebody", "until": clock[0] + 3600.0}
    table.put(key, json.dumps(document).encode())

    async def run() -> None:
        asking = asyncio.ensure_future(held.find(IDP, "alice"))
        await asyncio.sleep(0.15)
        assert not asking.done()
        clock[0] += 30
        with pytest.raises(DependencyFault):
            await asking

    asyncio.run(run())
