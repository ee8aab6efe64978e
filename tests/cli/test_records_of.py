"""A call is found by the index, read from the log in any case, and found without an index as well."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.inhouse import Inhouse, lived
from limen.audit import read as reading
from limen.cli.main import app
from limen.storage import index_path


@pytest.fixture
def inhouse(tmp_path: Path) -> Inhouse:
    async def work(house: Inhouse) -> None:
        await house.call(arguments={"text": "first"})  # its record is joined by that of the sign-in
        for number in range(5):
            await house.call(arguments={"text": f"call-{number}"})

    made = lived(tmp_path, work, "audit: {parameters: redacted}\n")
    assert command(made, "audit", "index", "rebuild")[0] == 0
    return made


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From which record on the log was read, each time it was."""
    found, read = list[int](), reading.read

    def noted(directory: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
        found.append(start)
        return read(directory, start)

    monkeypatch.setattr(reading, "read", noted)
    return found


def command(inhouse: Inhouse, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["-c", str(inhouse.file), *arguments])
    return result.exit_code, result.output


def changed(inhouse: Inhouse, statement: str) -> None:
    with sqlite3.connect(index_path(inhouse.config.audit.path)) as database:
        database.execute(statement)
    database.close()


def explained(inhouse: Inhouse, ref: str) -> list[Any]:
    status, said = command(inhouse, "risk", "explain", ref, "--json")
    assert status == 0, said
    return json.loads(said[said.index("[") :])  # type: ignore[no-any-return]


def size(inhouse: Inhouse) -> int:
    return sum(1 for _ in reading.read(inhouse.config.audit.path))


def test_only_what_the_index_names_is_read(inhouse: Inhouse, starts: list[int]) -> None:
    ref, last = inhouse.of("call.intent")[3].ref, size(inhouse)
    starts.clear()
    assert [one["t"] for one in explained(inhouse, ref)] == ["intent", "outcome"]
    assert command(inhouse, "audit", "parameters", ref, "--reason", "test") == (0, '{"text":"call-2"}\n')
    assert starts == [last, last], "what is behind the index, and nothing before it"


def test_what_the_index_does_not_hold_yet_is_found(inhouse: Inhouse, starts: list[int]) -> None:
    intent = inhouse.of("call.intent")[5]
    changed(inhouse, f"DELETE FROM limen_event WHERE id & {(1 << 40) - 1} >= {intent.index}")
    starts.clear()
    assert [one["t"] for one in explained(inhouse, intent.ref)] == ["intent", "outcome"]
    assert starts == [intent.index]


def test_an_index_that_hides_a_call_or_says_something_else_hides_nothing(inhouse: Inhouse, starts: list[int]) -> None:
    """The attack: whoever can write the index takes a call out of it, and gives another one's name to a record."""
    hidden, false, honest = (event.ref for event in inhouse.of("call.intent")[1:4])
    other = inhouse.of("call.outcome")[0].index
    changed(inhouse, f"DELETE FROM limen_event WHERE ref = '{hidden}'")
    starts.clear()
    assert [one["t"] for one in explained(inhouse, hidden)] == ["intent", "outcome"]
    assert starts[-1] == 0, "the whole log"
    changed(inhouse, f"UPDATE limen_event SET tool = NULL WHERE ref = '{false}'")
    status, said = command(inhouse, "audit", "parameters", false, "--reason", "test")
    assert (status, '{"text":"call-1"}' in said, "index check" in said) == (0, True, True)
    assert all(not one["event"].endswith(f":{other}") for one in explained(inhouse, false))
    assert [one["t"] for one in explained(inhouse, honest)] == ["intent", "outcome"]


def test_a_damaged_index_or_none_is_in_nobodys_way(inhouse: Inhouse) -> None:
    ref = inhouse.of("call.intent")[0].ref
    for name in ("", "-wal", "-shm"):
        path = index_path(inhouse.config.audit.path)
        path.with_name(path.name + name).unlink(missing_ok=True)
    index_path(inhouse.config.audit.path).write_bytes(b"no database" * 1000)
    status, said = command(inhouse, "risk", "explain", ref)
    assert (status, "reading the whole log" in said) == (0, True)
    assert command(inhouse, "risk", "explain", "0" * 16)[0] == 1
    inhouse.file.write_text(inhouse.file.read_text().replace("audit: {", "audit: {index: false, "))
    assert "intent" in json.dumps(explained(inhouse, ref))
    assert "warning" not in command(inhouse, "risk", "explain", ref)[1]


def test_a_long_count_says_how_far_it_goes(inhouse: Inhouse, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("audit", "query", "--type", "call.intent", "--count")
    assert command(inhouse, *asked) == (0, "6\n")
    monkeypatch.setattr("limen.audit.index.SOON", -1.0)
    monkeypatch.setattr("limen.audit.index._FIRST", 1)
    status, said = command(inhouse, *asked)
    assert (status, said.startswith("at least 2: counted back to "), "--exact" in said) == (0, True, True)
    assert json.loads(command(inhouse, *asked, "--json")[1])["exact"] is False
    assert command(inhouse, *asked, "--exact") == (0, "6\n")
    status, said = command(inhouse, "audit", "query", "--type", "call.intent", "--limit", "4")
    assert (status, "looked as far as" in said, "--after" in said) == (0, True, True)
    assert command(inhouse, "audit", "query", "--type", "call.intent", "--exact")[1].count("call.intent") == 6


def test_the_check_names_rows_that_are_missing_different_or_too_many(inhouse: Inhouse) -> None:
    """The attack on each; the honest twin before it."""
    assert command(inhouse, "audit", "index", "check")[0] == 0
    first, second = (event.index for event in inhouse.of("call.intent")[1:3])
    number = f"id & {(1 << 40) - 1}"
    changed(inhouse, f"DELETE FROM limen_event WHERE {number} = {first}")
    changed(inhouse, f"UPDATE limen_event SET risk = 1 WHERE {number} = {second}")
    changed(inhouse, "INSERT INTO limen_event (id, at, severity, risk) SELECT max(id) + 700, 1, 0, 0 FROM limen_event")
    beyond = size(inhouse) - 1 + 700
    status, said = command(inhouse, "audit", "index", "check", "--json")
    wrong = json.loads(said)
    assert (status, wrong["missing"], wrong["different"], wrong["surplus"]) == (1, [first], [second], [beyond])
