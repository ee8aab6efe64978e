"""I3 at the running gateway: events arrive, survive kill -9 amid a batch, and a sink that must not be missed
stops calls while it is away."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

import launched
from export.following import Heard, http_server
from gateway.running import Running, running
from launched import free_port

SECRET = "whsec_" + "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IQ=="


class Receiver:
    """What the sink does now: `ok`, `down` (500), or `silent` (no answer)."""

    def __init__(self) -> None:
        self.mode, self.seen = "ok", dict[str, dict[str, Any]]()
        self.doubled = 0

    def answer(self, heard: Heard) -> tuple[int, bytes] | None:
        if self.mode == "down":
            return 500, b""
        for one in orjson.loads(heard.body)["data"]["events"]:
            self.doubled += one["id"] in self.seen
            self.seen[one["id"]] = one["event"]
        return None if self.mode == "silent" else (200, b"")

    def of(self, code: str) -> list[dict[str, Any]]:
        return [one for one in list(self.seen.values()) if one["metadata"]["event_code"] == code]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Receiver, int]]:
    receiver = Receiver()
    os.environ["HOOK_SECRET"] = SECRET
    port = free_port()
    with http_server(receiver.answer) as (url, _):
        hook = {"name": "hook", "kind": "webhook", "url": url, "secret": "${env:HOOK_SECRET}", "batch": 20}
        behind = {"timeout": 2, "when_behind": "refuse", "max_behind": {"seconds": 4}}
        file = {"name": "file", "kind": "file", "path": "out/events.jsonl", "form": "record"}
        audit = {"followers": [{**hook, **behind}, file], "metrics": {"bind": f"127.0.0.1:{port}"}}
        with running(tmp_path_factory.mktemp("export"), approved=("one",), tools=("echo",), audit=audit) as gateway:
            yield gateway, receiver, port
    del os.environ["HOOK_SECRET"]


def standing(gateway: Running) -> tuple[int, dict[str, Any]]:
    """Status of `limen audit followers --json`, and what it says of the webhook."""
    done = launched.limen("-c", str(gateway.config), "audit", "followers", "--json")
    return done.returncode, next(one for one in json.loads(done.stdout) if one["name"] == "hook")


def scrape(port: int, host: str = "", path: str = "/metrics") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_events_arrive_signed_and_provable(scene: tuple[Running, Receiver, int]) -> None:
    gateway, receiver, _ = scene
    token = gateway.token()
    assert gateway.call("echo", token)[0] == 200
    assert "error" in gateway.call("danger", token)[1]
    gateway.until(lambda: receiver.of("call.outcome") and receiver.of("call.refused"))
    start = receiver.of("start")[0]
    assert start["class_uid"] == 3004
    assert receiver.of("call.intent")[0]["actor"]["user"]["uid"] == "alice"
    file = gateway.directory / "out" / "events.jsonl"
    gateway.until(lambda: file.exists() and b"call.refused" in file.read_bytes())
    status, row = standing(gateway)
    assert (status, row["behind"], row["dead_letters"], row["kind"]) == (0, False, 0, "webhook")
    assert SECRET not in gateway.log


def test_metrics_are_for_this_machine_and_for_no_browsers_page(scene: tuple[Running, Receiver, int]) -> None:
    gateway, _, port = scene
    gateway.until(lambda: "limen_calls_total{" in scrape(port)[1])
    samples = [one for family in text_string_to_metric_families(scrape(port)[1]) for one in family.samples]
    names = {one.name for one in samples}
    assert {"limen_log_records", "limen_follower_lag_seconds", "limen_refusals_total"} <= names
    assert "danger" not in scrape(port)[1]  # the name in a refused call is a stranger's
    assert scrape(port, host=f"evil.example:{port}")[0] == 421
    assert scrape(port, path="/other")[0] == 404


def test_kill_9_in_the_middle_of_a_batch_loses_nothing(scene: tuple[Running, Receiver, int]) -> None:
    gateway, receiver, _ = scene
    token = gateway.token("bob")
    receiver.mode = "silent"  # takes all of it and says nothing
    before = len(receiver.seen)
    for _ in range(5):
        gateway.call("echo", token)
    gateway.until(lambda: len(receiver.seen) > before)
    gateway.stop(signal.SIGKILL)
    receiver.mode, receiver.doubled = "ok", 0
    gateway.start()
    gateway.until(lambda: len(receiver.of("start")) == 2)
    gateway.until(lambda: len({one["metadata"]["correlation_uid"] for one in receiver.of("call.intent")
                               if one.get("actor", {}).get("user", {}).get("uid") == "bob"}) == 5)  # fmt: skip
    numbers = sorted(one["metadata"]["sequence"] for one in receiver.seen.values())
    assert numbers == list(range(len(numbers)))  # nothing is missing, and doubles came under their old ids
    assert receiver.doubled > 0


def test_back_pressure_refuses_calls_until_the_sink_is_back(scene: tuple[Running, Receiver, int]) -> None:
    gateway, receiver, _ = scene
    token = gateway.token()
    gateway.until(lambda: gateway.call("echo", token)[0] == 200)  # a slow restart is behind
    receiver.mode = "down"
    assert gateway.call("echo", token)[0] == 200  # within the limit nobody waits
    calls = gateway.calls_seen()
    gateway.until(lambda: gateway.call("echo", token)[0] == 503, 30)
    reached = gateway.calls_seen()
    assert gateway.call("echo", token)[0] == 503
    assert gateway.calls_seen() == reached >= calls
    status, row = standing(gateway)
    assert (status, row["behind"]) == (1, True)
    assert "500" in row["last_error"]
    receiver.mode = "ok"
    gateway.until(lambda: gateway.call("echo", token)[0] == 200, 60)
    gateway.until(lambda: receiver.of("follower.recovered"))
    assert receiver.of("follower.behind")[0]["severity_id"] == 4
    refused = [one["status_code"] for one in receiver.of("call.refused") if one["status_code"] == "fault.audit"]
    assert refused  # on record, like everything else
    gateway.until(lambda: standing(gateway)[0] == 0, 30)  # commands are told once a second


def test_one_that_is_not_configured_any_more_is_shown_and_forgotten(
    scene: tuple[Running, Receiver, int], tmp_path: Path
) -> None:
    gateway, _, _ = scene
    from limen.adapters.sqlite import open_tables

    table = open_tables(gateway.directory / "limen-state" / "limen.db", ("cursors",))["cursors"]
    table.put("follow/limen/old", b"3")
    assert "old (not configured any more" in gateway.limen("audit", "followers")
    assert "forgotten at record 3" in gateway.limen("audit", "followers", "--forget", "old")
    assert "old" not in gateway.limen("audit", "followers")
    with pytest.raises(subprocess.CalledProcessError):
        gateway.limen("audit", "followers", "--forget", "hook")
    table.close()
