"""Two gateway processes against one limit (A12, C8), a Redis that dies and comes back, a replica that is killed."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.running import Running, running
from stores import Server, new_postgres, new_redis

LIMITS = {
    "rate": 1000, "burst": 1000,
    "caller": {"rate": 1000, "burst": 1000, "concurrency": 6, "daily": {"calls": 40}},
    "tools": {"one/echo": {"daily": {"calls": 30}}},
}  # fmt: skip


@dataclass
class Pair:
    """Two replicas with one PostgreSQL and one Redis."""

    one: Running
    other: Running
    redis: Server

    def calls(self, tool: str, subject: str, number: int, server: str = "one") -> list[int]:
        """The status of calls that go to one and the other in turn."""
        both = [(gateway, gateway.token(subject, server)) for gateway in (self.one, self.other)]
        return [both[turn % 2][0].call(tool, both[turn % 2][1], server)[0] for turn in range(number)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    url, database = new_postgres()
    redis_url, redis = new_redis()
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    settings: Any = {
        "storage": {"kind": "postgres", "url": url, "redis": {"url": redis_url}},
        "audit": {"path": "audit", "key": str(first / "audit.key")},
        "limits": LIMITS,
    }
    with running(first, tools=("echo", "slow"), **settings) as one:
        servers = json.loads(one.config.read_text())["mcpServers"]
        with running(second, approved=(), mcpServers=servers, **settings) as other:
            yield Pair(one, other, redis)
    redis.kill()
    database.kill()


def test_two_replicas_admit_what_one_limit_allows(pair: Pair) -> None:
    """The pattern has 30 calls a day for all callers together, whichever door they take."""
    codes = [code for turn in range(8) for code in pair.calls("echo", f"u{turn}", 6)]
    assert set(codes) == {200, 429}
    assert codes.count(200) == 30
    assert pair.calls("echo", "u9", 2, "two") == [200, 200]  # another tool is another limit


def test_a_budget_of_a_day_is_one_for_both(pair: Pair) -> None:
    codes = pair.calls("echo", "daily", 60, "two")
    assert 36 <= codes.count(200) <= 40  # never more; what a replica took and did not use is missing
    assert codes[-1] == 429
    status, headers, _ = post(pair.one, pair.one.token("daily", "two"), "two")
    assert status == 429
    assert 1 <= int(headers["retry-after"]) <= 86_400
    assert pair.calls("echo", "another", 2, "two") == [200, 200]
    pair.one.process.send_signal(signal.SIGHUP)
    pair.one.until(lambda: "configuration taken over" in pair.one.log)
    assert pair.calls("echo", "daily", 2, "two") == [429, 429]  # a reload empties no bucket and fills none


def post(gateway: Running, token: str, server: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    from gateway.running import META

    params = {"name": "echo", "arguments": {}, "_meta": META}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    mirrored = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "echo"}
    return gateway.post(message, token, server, **mirrored)


def test_without_redis_calls_are_refused_and_well_again_by_themselves(pair: Pair) -> None:
    assert pair.calls("echo", "carol", 2, "two") == [200, 200]
    pair.redis.kill()
    time.sleep(1.2)  # a slice may be used for a second
    assert pair.calls("echo", "carol", 4, "two") == [503] * 4
    for gateway in (pair.one, pair.other):
        gateway.until(lambda gateway=gateway: "calls that need them are refused until it answers" in gateway.log, 5)
    refused = [one for one in pair.one.records("refusal") if one["sub"] == "carol"]
    assert (refused[-1]["reason"], refused[-1]["guard"]) == ("fault.dependency", "Limit")
    assert "redis" in refused[-1]["detail"]
    pair.redis.start()
    time.sleep(0.5)
    assert pair.calls("echo", "carol", 4, "two") == [200] * 4
    for gateway in (pair.one, pair.other):
        gateway.until(lambda gateway=gateway: "limits: works again" in gateway.log, 5)


def test_a_killed_replica_frees_the_places_of_its_calls(pair: Pair) -> None:
    """Last: one replica does not live to see the end of it. Six calls of a caller may be under way."""
    one, other = pair.one, pair.other
    here, there = one.token("dave", "two"), other.token("dave", "two")

    def slow() -> None:
        try:
            one.call("slow", here, "two")
        except OSError:  # it is killed
            return

    for _ in range(6):
        threading.Thread(target=slow, daemon=True).start()
    time.sleep(3)  # asking meanwhile would take one of the places
    status, body = other.call("echo", there, "two")
    assert (status, body["error"]["data"]["retry_after"]) == (429, 1)
    assert other.call("echo", other.token("erin", "two"), "two")[0] == 200
    one.process.send_signal(signal.SIGKILL)
    one.process.wait(10)
    started = time.monotonic()
    while other.call("echo", there, "two")[0] == 429:
        assert time.monotonic() - started < 30
        time.sleep(0.2)
    assert other.call("echo", there, "two")[0] == 200
