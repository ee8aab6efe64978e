"""kill -9 at any write loses no grant, and leaves no half-ended one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from limen.adapters.sqlite import SqliteTable
from limen.core.faults import DependencyFault
from minting import Clock
from oauth.granting import SERVER, LockedTable, RealClock, World, redemption, renewal

TESTS = Path(__file__).resolve().parent.parent


def survives(place: Path, number: int, when: str, form: Mapping[str, str]) -> bool:
    """Whether another process, to be killed at its n-th write, had answered by then."""
    paths = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    done = subprocess.run(
        [sys.executable, "-m", "oauth.killed_endpoint", str(place), str(number), when, json.dumps(form)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == 0


def world_at(place: Path, **more: Any) -> World:
    return World(SqliteTable(place, "oauth"), clock=RealClock(**more))


@pytest.mark.requirement("AS-01")
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_redeeming_a_code_the_client_retries_and_gets_in(tmp_path: Path, when: str) -> None:
    place, number = tmp_path / "state.db", 0
    while True:
        number += 1
        code = world_at(place).code()
        lived = survives(place, number, when, redemption(code))
        again = world_at(place)
        if lived:
            break
        status, document = again.redeem(code)
        assert status == 200, (number, document)
        assert again.refresh(document["refresh_token"])[0] == 200
        assert again.redeem(code)[0] == 400  # and once only
    assert number == 3  # a family, a spent code


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_refreshing_the_client_retries_and_gets_in(tmp_path: Path, when: str) -> None:
    place = tmp_path / "state.db"
    for client in (None, SERVER):
        who = {} if client is None else {"client": client}
        token = world_at(place).signed_in(**who)["refresh_token"]
        assert not survives(place, 1, when, renewal(token, **who))
        again = world_at(place)
        status, document = again.refresh(token, **who)
        assert status == 200
        assert again.refresh(document["refresh_token"], **who)[0] == 200


def test_killed_after_the_last_write_the_first_grant_is_nobodys(tmp_path: Path) -> None:
    """What the dead process made but could not hand out ends when its client is given another."""
    place = tmp_path / "state.db"
    code = world_at(place).code()
    assert not survives(place, 2, "after", redemption(code))
    again = world_at(place)
    (orphan,) = again.live
    assert again.redeem(code)[0] == 200
    assert orphan not in again.live
    assert [name for kind, name, _ in again.revoked] == [orphan]


class Failing(LockedTable):
    """A database that is lost at the n-th write, with it done or not."""

    left, written = 0, False

    def put(self, key: str, value: bytes, expires: float | None = None) -> None:
        self.fail(lambda: LockedTable.put(self, key, value, expires))

    def swap(self, key: str, old: bytes | None, new: bytes | None, expires: float | None = None) -> bool:
        return bool(self.fail(lambda: LockedTable.swap(self, key, old, new, expires)))

    def fail(self, write: Callable[[], Any]) -> Any:
        self.left -= 1
        if self.left != 0:
            return write()
        if self.written:
            write()
        raise DependencyFault("table", "the connection is gone")


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("number", [1, 2])
def test_database_that_fails_in_between_costs_no_grant(number: int, written: bool) -> None:
    """Refused, recorded, and the client that asks again gets in; what was made meanwhile is nobody's and ends."""
    clock = Clock()
    table = Failing(clock)
    world = World(table, clock=clock, alone=False)
    code = world.code()
    table.left, table.written = number, written
    with pytest.raises(DependencyFault):
        world.redeem(code)
    assert world.steps.notes[-1]["outcome"] == "temporarily_unavailable"
    status, document = world.redeem(code)
    assert status == 200
    table.left = 1
    with pytest.raises(DependencyFault):
        world.refresh(document["refresh_token"])
    status, again = world.refresh(document["refresh_token"])
    assert status == 200
    assert world.refresh(again["refresh_token"])[0] == 200
    assert world.redeem(code)[0] == 400  # and once only
    assert not [one for one in world.live if one in again["refresh_token"]]


def test_replay_long_after_a_kill_is_a_replay(tmp_path: Path) -> None:
    """Honest clients ask again at once."""
    place = tmp_path / "state.db"
    code = world_at(place).code()
    assert not survives(place, 2, "after", redemption(code))
    late = world_at(place, ahead=11)
    assert late.redeem(code)[0] == 400
    assert not late.live


def test_killed_while_a_grant_is_ended_it_is_ended_by_whoever_comes_next(tmp_path: Path) -> None:
    place = tmp_path / "state.db"
    old = world_at(place).signed_in()["refresh_token"]
    world_at(place).refresh(old)
    new = world_at(place).refresh(old)[1]["refresh_token"]
    world_at(place).refresh(new)
    assert not survives(place, 1, "after", renewal(old))  # a replay: the family is ended, its tokens are not told of
    again = world_at(place)
    assert not again.live
    assert again.refresh(new)[0] == 400
    assert [kind for kind, _, _ in again.revoked] == ["grant"]
