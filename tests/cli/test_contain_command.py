"""`limen contain`: what it asks for, what it says, and that two people cannot be left out by another command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from limen.cli.main import app
from limen.config.load import load_config
from limen.incidents.actions import ACTIONS
from limen.storage import State


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return written(tmp_path)


def written(directory: Path, **incidents: Any) -> Path:
    path = directory / "limen.yaml"
    path.write_text(json.dumps({"mcpServers": {"files": {"command": "/bin/true"}}, "incidents": incidents}))
    path.chmod(0o600)
    return path


def limen(config: Path, *arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["-c", str(config), *arguments])
    assert result.exit_code == status, (result.output, result.stderr, result.exception)
    return result


def answer(config: Path, *arguments: str) -> Any:
    return json.loads(limen(config, "contain", *arguments, "--json").stdout)


COMMANDS = {
    "end-session": "0a1b2c3d4e5f6071",
    "lock-caller": "alice",
    "block-client": "app",
    "revoke-token": "t-1",
    "quarantine-tool": "files/rm",
    "quarantine-server": "files",
    "cut-egress": "files",
    "read-only": "files",
    "stop-all": "",
}


def test_every_action_has_its_command() -> None:
    assert {name.replace("-", "_") for name in COMMANDS} | {"revoke_grants"} == set(ACTIONS)


@pytest.mark.parametrize("command", COMMANDS)
def test_contained_listed_released_and_told_to_the_log(config: Path, command: str) -> None:
    value = [COMMANDS[command]] if COMMANDS[command] else []
    made = answer(config, command, *value, "--reason", "odd", "--by", "ann", "--incident", "i-1", "--until", "8h")
    assert (made["action"], made["by"], made["incident"], made["waits"]) == (
        command.replace("-", "_"), "ann", "i-1", False,
    )  # fmt: skip
    rows = answer(config, "list")
    assert [(row["id"], row["until"]) for row in rows] == [(made["id"], made["until"])]
    assert made["id"] in limen(config, "contain", "list").stdout
    released = answer(config, "release", made["id"], "--reason", "false alarm", "--by", "bob")
    assert released["released"] is True
    assert answer(config, "list") == []
    limen(config, "contain", "release", made["id"], "--reason", "x", status=1)
    told = [orjson.loads(raw) for _, raw in State.open(load_config(config).config).told.scan("")]
    assert [(one["event"], one["by"], one["reason"]) for one in told] == [
        ("contained", "ann", "odd"), ("released", "bob", "false alarm"),
    ]  # fmt: skip


def test_what_cannot_be_is_said_in_one_line(config: Path) -> None:
    for arguments in (
        ["stop-all"], ["quarantine-server", "fils", "--reason", "x"], ["quarantine-tool", "rm", "--reason", "x"],
        ["lock-caller", "alice", "--reason", "x", "--until", "yesterday"], ["read-only", "fils", "--reason", "x"],
    ):  # fmt: skip
        assert limen(config, "contain", *arguments, status=2).stderr.count("\n") == 1
    assert answer(config, "list") == []
    said = limen(config, "contain", "quarantine-tool", "files/rn", "--reason", "x").stderr
    assert "nothing of this name is known" in said


def test_two_people(tmp_path: Path) -> None:
    config = written(tmp_path, release_approvers=2, apply_approvers=2)
    first = limen(config, "contain", "stop-all", "--by", "ann", "--reason", "x").stdout
    assert "a second person must agree" in first
    assert answer(config, "list")[0]["waits"] is True
    made = answer(config, "stop-all", "--by", "bob", "--reason", "x")
    assert made["waits"] is False
    assert answer(config, "release", made["id"], "--by", "ann", "--reason", "x")["released"] is False
    assert answer(config, "list")[0]["release_asked_by"] == "ann"
    assert answer(config, "release", made["id"], "--by", "bob", "--reason", "x")["released"] is True


def test_no_other_command_takes_it_back(tmp_path: Path) -> None:
    """One person with `limen revoke` is one person; breaking the glass is another matter, and on record."""
    config = written(tmp_path, release_approvers=2)
    made = answer(config, "lock-caller", "alice", "--reason", "stolen")
    (standing,) = json.loads(limen(config, "revoke", "list", "--json").stdout)
    for arguments in (["undo", standing["id"]], ["user", "alice", "--until", "1s"]):
        assert f"limen contain release {made['id']}" in limen(config, "revoke", *arguments, status=1).stderr
    limen(config, "revoke", "user", "bob")
    answer(config, "release", made["id"], "--reason", "nobody else awake", "--break-glass")
    rows = json.loads(limen(config, "revoke", "list", "--json").stdout)
    assert [row["value"] for row in rows] == ["bob"]
    told = [orjson.loads(raw) for _, raw in State.open(load_config(config).config).told.scan("")]
    assert told[-1]["break_glass"] is True
