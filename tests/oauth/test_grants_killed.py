"""kill -9 at any write loses no grant, and leaves no half-ended one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Any

import pytest

from limen.adapters.sqlite import SqliteTable
from oauth.granting import SERVER, World, redemption, renewal

TESTS = Path(__file__).resolve().parent.parent


class Later:
    """The real clock, some seconds on."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.now = ahead

    def __call__(self) -> float:
        return time() + self.now


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
    return World(SqliteTable(place, "oauth"), clock=Later(**more))  # type: ignore[arg-type]


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
