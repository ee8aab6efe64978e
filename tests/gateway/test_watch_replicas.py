"""What one replica sees, all act upon: containment by a playbook, its rollback, and risk (I7, J1, J2)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from gateway.test_containment_replicas import Pair, replicas
from incidents.response import approve

BOOK = """
playbook: bulk
title: Somebody reads everything
on: {event: [alert], rule: [bulk]}
then: [{do: open_incident, title: Bulk read}, {do: lock_caller, for: 3600}]
"""
RULE = {
    "id": "bulk", "title": "{subject} reads everything", "severity": "high", "group": ["issuer", "subject"],
    "match": {"type": "call.intent", "where": {"subject": {"one_of": ["mallory", "victor"]}}},
    "count": {"at_least": 5, "within": 60},
}  # fmt: skip
LURE = {
    "server": "one", "name": "export_all", "description": "All customers.", "input_schema": {"type": "object"},
    "shown_to": {"subjects": ["mallet"]},
}  # fmt: skip
SLOW = 15.0  # seconds, on a machine that is busy with other things


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    place = tmp_path_factory.mktemp("watched")
    book = place / "bulk.yaml"
    book.write_text(BOOK)
    book.chmod(0o600)
    with replicas(
        place, lambda gateway: approve(gateway, str(book)), incidents={"playbooks": [str(book)], "share": 1.0},
        alerts={"rules": [RULE]}, decoys={"tools": [LURE]},
    ) as found:  # fmt: skip
        for gateway in (found.one, found.other):
            found.until(200, gateway, time.monotonic(), SLOW)
        yield found


def test_a_playbook_of_one_stops_calls_of_the_other_and_of_one_that_starts_later(pair: Pair) -> None:
    assert pair.status(pair.other, "mallory") == 200
    for _ in range(5):
        pair.status(pair.one, "mallory")
    pair.other.until(lambda: pair.status(pair.other, "mallory") == 401, SLOW)
    assert pair.status(pair.one, "mallory") == 401
    assert {pair.status(gateway, "bob") for gateway in (pair.one, pair.other)} == {200}
    pair.other.stop()
    pair.other.start()
    assert pair.status(pair.other, "mallory") == 401, "from its first call on"
    (run,) = json.loads(pair.other.limen("playbook", "runs", "--json"))
    pair.other.limen("playbook", "rollback", run["id"], "--by", "ann", "--reason", "it was a migration")
    for gateway in (pair.one, pair.other):
        gateway.until(lambda gateway=gateway: pair.status(gateway, "mallory") == 200, SLOW)  # type: ignore[misc]
    incidents = json.loads(pair.one.limen("incident", "list", "--json"))  # the alert's of the other replica may be one
    assert run["applied"] in [incident["containments"] for incident in incidents]


def test_a_suspicion_of_one_raises_the_risk_on_the_other_i7(pair: Pair) -> None:
    assert pair.status(pair.other, "mallet") == 200
    pair.one.call("export_all", pair.one.token("mallet"))
    pair.other.until(lambda: pair.status(pair.other, "mallet") == 403, SLOW)
    assert pair.other.records("refusal")[-1]["reason"] == "threat.blocked"
    assert pair.status(pair.other, "bob") == 200
    pair.one.limen("risk", "clear", "caller:mallet", "--by", "ann", "--reason", "a test")
    pair.other.until(lambda: pair.status(pair.other, "mallet") == 200, SLOW)
