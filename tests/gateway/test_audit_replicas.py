"""Two gateways of one storage: a log each, found again, proven, and one statement over both."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.running import ISSUER, Running, running
from gateway.test_sessions_shared import Second, free_port
from limen.adapters.sqlite import open_tables
from limen.cli.main import app


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running]]:
    """Both have answered alice and refused bob; statements over their logs are made every five seconds."""
    directory, ports = tmp_path_factory.mktemp("logs"), (free_port(), free_port())
    listen = {"url": f"http://127.0.0.1:{ports[0]}", "trusted_proxies": ["127.0.0.1"]}
    audit = {"witness": 5, "retention": {"days": 1}, "deleters": 2}
    with running(
        directory, port=ports[0], approved=("one",), tools=("echo", "danger"), listen=listen, audit=audit
    ) as first:
        config = json.loads(first.config.read_text())
        config["listen"] = {**listen, "bind": f"127.0.0.1:{ports[1]}"}
        config["audit"] = {**audit, "path": "limen-state/audit-2", "key": "limen-state/audit.key"}
        second = Second(ports[1], directory, first.recorder)
        second.config.write_text(json.dumps(config))
        second.config.chmod(0o600)
        second.start()
        try:
            for gateway in (first, second):
                assert gateway.call("echo", first.token("alice"))[0] == 200
                assert b"ran danger" not in json.dumps(gateway.call("danger", first.token("bob"))).encode()
            yield first, second
        finally:
            if second.process.poll() is None:
                second.stop()


def audit(gateway: Running, *arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, ["-c", str(gateway.config), "audit", *arguments])
    assert done.exit_code == status, (done.output, done.stderr, done.exception)
    return done.stdout


def found(gateway: Running, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    answer = json.loads(audit(gateway, "query", "--json", *arguments, status=status))
    records: list[dict[str, Any]] = answer["records"]
    return records


def log_path(gateway: Running) -> Path:
    return gateway.directory / "limen-state" / ("audit-2" if isinstance(gateway, Second) else "audit")


def test_a_record_is_found_and_convinces_with_the_key_alone_i2(pair: tuple[Running, Running], tmp_path: Path) -> None:
    for gateway in pair:
        gateway.until(lambda gateway=gateway: found(gateway, "--caller", "alice"), 30)
        one = found(gateway, "--caller", "bob", "--decision", "deny", "--since", "1h")[0]
        assert (one["tool"], one["type"], one["log says"]) == ("danger", "call.refused", "the same")
        assert audit(gateway, "query", "--caller", "bob", "--decision", "deny", "--count").strip() == "1"
        gateway.until(lambda gateway=gateway: "proof" in found(gateway, "--caller", "bob", "--proof")[0])
        key = audit(gateway, "key").strip()
        (tmp_path / "proof").write_text(found(gateway, "--caller", "bob", "--proof")[0]["proof"])
        shown = json.loads(audit(gateway, "verify-proof", str(tmp_path / "proof"), "--key", key, "--json"))
        assert json.loads(shown["record"])["sub"] == "bob"
        audit(gateway, "prove", one["id"], "--out", str(tmp_path / "again"))
        audit(gateway, "verify-proof", str(tmp_path / "again"), "--key", key)
        other = audit(next(each for each in pair if each is not gateway), "key").strip()
        audit(gateway, "verify-proof", str(tmp_path / "again"), "--key", other, status=1)
        grown = json.loads(audit(gateway, "prove", "0", "--since", "1"))
        assert grown["from"] == 1
        about = [
            json.loads(text) for text in audit(gateway, "export", "--person", "alice", "--issuer", ISSUER).splitlines()
        ]
        assert "call.intent" in {row["type"] for row in about}
        assert all(row["record"]["sub"] == "alice" for row in about if row["type"] == "call.intent")
        audit(gateway, "index", "check")
    names = {audit(gateway, "key").split("+")[0] for gateway in pair}
    assert len(names) == 2, "no two logs have one name"


def test_op_02_an_index_that_says_something_else_is_shown_to(pair: tuple[Running, Running]) -> None:
    gateway = pair[0]
    gateway.until(lambda: found(gateway, "--caller", "bob"))
    database = sqlite3.connect(gateway.directory / "limen-state" / "audit-index.db", timeout=10)
    with database:
        hidden = database.execute(
            "SELECT id, tool FROM limen_event WHERE tool IS NOT NULL"
            " AND caller = (SELECT number FROM limen_text WHERE text = 'bob')"
        ).fetchone()
        database.execute(
            "UPDATE limen_event SET tool = (SELECT number FROM limen_text WHERE text = 'echo') WHERE id = ?",
            hidden[:1],
        )
    wrong = found(gateway, "--caller", "bob", "--decision", "deny", status=1)[0]
    assert (wrong["tool"], wrong["log says"]) == ("echo", "something else")
    assert '"danger"' in wrong["record"]
    assert json.loads(audit(gateway, "index", "check", "--json", status=1))["different"]
    gateway.call("echo", gateway.token("carol"))
    gateway.until(lambda: found(gateway, "--caller", "carol"))  # the newest row of all could be one to come
    with database:
        database.execute("DELETE FROM limen_event WHERE id = ?", hidden[:1])
    assert json.loads(audit(gateway, "index", "check", "--json", status=1))["missing"]
    database.close()
    audit(gateway, "index", "rebuild")
    audit(gateway, "index", "check")
    assert found(gateway, "--caller", "bob")[0]["tool"] == "danger"


def test_op_02_one_statement_over_both_logs_finds_the_one_that_was_set_back(
    pair: tuple[Running, Running], tmp_path: Path
) -> None:
    first, second = pair
    table = open_tables(first.directory / "limen-state" / "limen.db", ("logs",))["logs"]

    def witnessed() -> list[str]:
        note = table.get("witness") or b""
        return [name for name in (audit(one, "key").split("+")[0] for one in pair) if f'"{name}+'.encode() in note]

    first.until(lambda: len(witnessed()) == 2, 40)
    note, key = tmp_path / "witness.note", (first.directory / "limen-state" / "audit.key.pub").read_text().strip()
    note.write_bytes(table.get("witness") or b"")
    logs = [str(log_path(one)) for one in pair]
    both = ["verify", "--directory", logs[0], "--directory", logs[1], "--witness", str(note), "--key", key]
    first.until(lambda: "NOT" not in audit(first, *both))
    assert audit(first, *both).count("verified") == 2
    audit(first, "verify", "--directory", logs[0], "--witness", str(note), "--key", key, status=1)  # one is not given
    assert "witnessed" in {json.loads(text)["t"] for one in pair for text in audit(one, "tail", "--json").splitlines()}
    audit(first, "witness", "--out", str(tmp_path / "own.note"))

    older = tmp_path / "older"
    shutil.copytree(logs[1], older)
    second.stop()
    time.sleep(0.1)
    audit(first, *both[:4], str(older), *both[5:])
    (tmp_path / "later.note").write_bytes(note.read_bytes())
    audit(first, "witness", "--directory", logs[0], "--directory", logs[1], "--out", str(tmp_path / "later.note"))
    later = [*both[:4], str(older), "--witness", str(tmp_path / "later.note"), "--key", key]
    told = audit(first, *later, status=1)
    assert "rolled back" in told
    assert told.count("verified") == 1, "the other one is sound"
    second.start()


def test_a_hold_and_two_people_before_anything_goes(pair: tuple[Running, Running]) -> None:
    gateway = pair[0]
    hold = json.loads(audit(gateway, "hold", "add", "caller", "bob", "--reason", "case 7", "--by", "counsel", "--json"))
    assert json.loads(audit(gateway, "hold", "list", "--json"))[0]["id"] == hold["id"]
    assert json.loads(audit(gateway, "prune", "--dry-run", "--json"))["records"] == 0
    audit(gateway, "prune", "--by", "ann", status=2)
    audit(gateway, "prune", "--by", "ann", "--reason", "old", status=1)  # nothing is old enough
    audit(gateway, "hold", "release", hold["id"], "--by", "ann", "--reason", "closed")
    assert json.loads(audit(gateway, "hold", "list", "--json"))[0]["lifting"] == ["ann"]
    audit(gateway, "hold", "release", hold["id"], "--by", "bob", "--reason", "closed")
    assert json.loads(audit(gateway, "hold", "list", "--json")) == []
    audit(gateway, "hold", "release", hold["id"], "--by", "bob", "--reason", "closed", status=1)
    audit(gateway, "hold", "add", "caller", "--reason", "x", status=2)
    audit(gateway, "hold", "add", "all", status=2)
    # Whichever replica looks first writes down what commands did.
    gateway.until(lambda: any('"lifted"' in audit(one, "tail", "--json", "-n", "100") for one in pair))
    names = {row["log"] for row in json.loads(audit(gateway, "logs", "--json"))}
    assert len(names) == 2
