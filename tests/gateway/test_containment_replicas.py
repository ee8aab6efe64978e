"""Containment on two replicas (J1): issued at one, in force at the other, whatever else is down meanwhile.

Tests allow for a slow machine; what was measured stands in docs/containment.md (`python -m
gateway.test_containment_replicas` prints it anew).
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.hands import SLACK, WITHIN, Operator
from gateway.running import Running, running
from limen.incidents.actions import Applied
from stores import Server, new_postgres, new_redis

STOPS = {
    "quarantine_tool": ("one/echo", 403), "quarantine_server": ("one", 403), "read_only": ("one", 403),
    "cut_egress": ("one", 403), "stop_all": ("*", 403), "lock_caller": ("alice", 401), "block_client": ("client", 401),
    "revoke_token": ("t-1", 401),
}  # fmt: skip


@dataclass
class Pair:
    """Two replicas with one PostgreSQL and one Redis. The operator works at the first one's side."""

    one: Running
    other: Running
    database: Server
    redis: Server
    operator: Operator

    def status(self, gateway: Running, subject: str = "alice", **claims: Any) -> int:
        return gateway.call("echo", gateway.token(subject, jti="t-1", **claims))[0]

    def until(self, status: int, gateway: Running, since: float, seconds: float = WITHIN + SLACK) -> float:
        """Seconds from `since` until calls end like this, and go on to do so."""
        token = gateway.token("alice", jti="t-1")
        while True:
            asked = time.monotonic()
            got = gateway.call("echo", token)[0]
            if got == status:
                assert {gateway.call("echo", token)[0] for _ in range(3)} == {status}
                return asked - since
            assert asked - since < seconds, f"{got} after {asked - since:.2f} s"

    def contain(self, kind: str) -> tuple[Applied, float]:
        """And when the operator asked for it."""
        since = time.monotonic()
        return self.operator.contain(kind, STOPS[kind][0]), since


@contextlib.contextmanager
def replicas(directory: Path, prepare: Callable[[Running], None] = lambda gateway: None, **more: Any) -> Iterator[Pair]:
    url, database = new_postgres()
    redis_url, redis = new_redis()
    first, second = directory / "first", directory / "second"
    first.mkdir()
    second.mkdir()
    settings: Any = {
        "storage": {"kind": "postgres", "url": url, "redis": {"url": redis_url}},
        "audit": {"path": "audit", "key": str(first / "audit.key")},
        "limits": {"rate": 5000, "burst": 5000, "caller": {"rate": 5000, "burst": 5000}},
        **more,
    }
    with running(first, approved=("one",), tools=("echo",), prepare=prepare, **settings) as one:
        servers = json.loads(one.config.read_text())["mcpServers"]
        with running(second, approved=(), mcpServers=servers, **settings) as other:
            yield Pair(one, other, database, redis, Operator(one))
    redis.kill()
    database.kill()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with replicas(tmp_path_factory.mktemp("replicas")) as found:
        yield found


@pytest.fixture(autouse=True)
def ready(pair: Pair) -> None:
    pair.operator.release_all()
    for gateway in (pair.one, pair.other):
        pair.until(200, gateway, time.monotonic(), 15)


@pytest.mark.parametrize("kind", STOPS)
def test_each_action_stops_calls_at_both_and_its_release_lets_them_pass(pair: Pair, kind: str) -> None:
    applied, since = pair.contain(kind)
    assert pair.until(STOPS[kind][1], pair.other, since) < WITHIN + SLACK
    assert pair.until(STOPS[kind][1], pair.one, since) < WITHIN + SLACK
    pair.operator.release(applied)
    pair.until(200, pair.other, time.monotonic())
    pair.until(200, pair.one, time.monotonic())


def while_redis_restarts(pair: Pair) -> None:
    """Kill it, and start it a moment later. Meanwhile nobody hears anything: polling or refusing has to do."""
    pair.redis.kill()
    pair.redis.start()


def test_while_redis_is_down_or_restarts(pair: Pair) -> None:
    """The bus and the counters are gone: calls end with 503, or with what contains them, and never with 200."""
    pair.redis.kill()
    applied, since = pair.contain("quarantine_server")
    token = pair.other.token("alice", jti="t-1")
    time.sleep(WITHIN)
    found = {pair.other.call("echo", token)[0] for _ in range(10)}
    assert found <= {403, 503}
    pair.redis.start()
    seen = set[int]()
    while time.monotonic() - since < 4:
        seen.add(pair.other.call("echo", token)[0])
    assert 200 not in seen
    assert 403 in seen
    pair.operator.release(applied)
    pair.until(200, pair.other, time.monotonic(), 10)


def test_with_the_bus_down_replicas_look_by_themselves(pair: Pair) -> None:
    """Redis hangs: it takes connections and says nothing. Nobody is woken, and the operator is not kept waiting."""
    pair.redis.pause()
    try:
        applied, since = pair.contain("quarantine_tool")
        assert time.monotonic() - since < 10
        token = pair.other.token("alice", jti="t-1")
        time.sleep(max(0.0, WITHIN - (time.monotonic() - since)))
        assert 200 not in {pair.other.call("echo", token)[0] for _ in range(3)}
    finally:
        pair.redis.resume()
    pair.until(403, pair.other, time.monotonic(), 10)
    pair.operator.release(applied)


def test_without_the_records_everybody_is_refused_and_afterwards_only_whom_it_concerns(pair: Pair) -> None:
    """What was contained before the database went away is contained when it comes back."""
    _, since = pair.contain("lock_caller")
    pair.until(401, pair.other, since)
    assert pair.status(pair.other, "bob") == 200
    pair.database.kill()
    since = time.monotonic()
    time.sleep(WITHIN + 0.5)
    for gateway in (pair.one, pair.other):
        assert {pair.status(gateway, who) for who in ("alice", "bob")} == {503}
    pair.database.start()
    deadline = time.monotonic() + 15
    while pair.status(pair.other, "bob") != 200:
        assert pair.status(pair.other) in (401, 503)
        assert time.monotonic() < deadline
    pair.until(401, pair.other, time.monotonic(), 5)
    pair.until(401, pair.one, time.monotonic(), 15)


def test_across_restarts_of_both(pair: Pair) -> None:
    import signal

    applied, since = pair.contain("quarantine_server")
    for gateway in (pair.one, pair.other):
        gateway.process.send_signal(signal.SIGKILL)
        gateway.process.wait(10)
    for gateway in (pair.one, pair.other):
        gateway.start()
        assert pair.status(gateway) == 403
        assert gateway.call("echo", gateway.token("alice", "two"), "two")[0] != 403
    assert [one.id for one in pair.operator.hands.in_force()] == [applied.id]
    assert since


def test_two_operators_at_once_apply_it_once(pair: Pair) -> None:
    second, found = Operator(pair.other), list[Applied]()
    threads = [threading.Thread(target=lambda one=one: found.append(one.contain("read_only"))) for one in (
        pair.operator, second) for _ in range(4)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 8
    assert {one.id for one in found} == {one.id for one in pair.operator.hands.in_force()}


# measured by hand


def hammer(gateway: Running, passed: list[float], stop: threading.Event) -> None:
    """Call without end; note when the last call that passed was answered."""
    token = gateway.token("alice", jti="t-1")
    while not stop.is_set():
        if gateway.call("echo", token)[0] == 200:
            passed[0] = time.monotonic()


def measure(rounds: int = 20) -> None:
    """From asking for it at one replica to the last call that passed at the other, and the same of its release:
    median, largest, median, largest."""
    with tempfile.TemporaryDirectory() as name, replicas(Path(name)) as pair:

        def row(what: str, kind: str, before: Callable[[], object] = lambda: None) -> None:
            took, back = [], []
            for _ in range(rounds):
                pair.until(200, pair.other, time.monotonic(), 20)
                before()
                passed, stop = [0.0], threading.Event()
                calls = threading.Thread(target=hammer, args=(pair.other, passed, stop))
                calls.start()
                time.sleep(0.3)
                applied, since = pair.contain(kind)
                time.sleep(1.0)
                stop.set()
                calls.join()
                last = max(passed[0], since)
                took.append(last - since)
                since = time.monotonic()
                pair.operator.release(applied)
                back.append(pair.until(200, pair.other, since, 20))
            numbers = [statistics.median(took), max(took), statistics.median(back), max(back)]
            print(what, *(f"{number * 1000:.0f} ms" for number in numbers), sep=" | ", flush=True)

        for kind in STOPS:
            row(kind, kind)
        row("while Redis restarts", "quarantine_server", lambda: while_redis_restarts(pair))
        pair.redis.kill()
        print("Redis down: calls end with", {pair.other.call("echo", pair.other.token())[0] for _ in range(5)})


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
