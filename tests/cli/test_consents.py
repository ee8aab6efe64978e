"""`limen consents`: found, shown, ended, told to the log, and safe to print (OA-83, OA-94)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from limen.cli.main import app
from limen.config.load import load_config
from limen.oauth.consent import Consents
from limen.oauth.model import User
from limen.oauth.settings import ConsentSettings
from limen.storage import State
from oauth.asking_scene import ASKED, CLIENT, asked, client

ALICE, BOB = User("https://login.example", "alice", "Alice"), User("https://login.example", "bob", "Bob\x1b[2J")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "limen.yaml"
    path.write_text(json.dumps({"mcpServers": {"files": {"url": "http://127.0.0.1:9/mcp"}}}))
    path.chmod(0o600)
    return path


def ledger(config: Path) -> Consents:
    state = State.open(load_config(config).config)
    return Consents(state.consents, lambda event, fields: None, ConsentSettings(), time.time)


@pytest.fixture
def given(config: Path) -> tuple[str, str]:
    """One of Alice's for `files`, one of Bob's for all servers, to a client with a nasty name."""
    kept = ledger(config)
    evil = client(id="c-1", name="x\x1b[2J\u202ey", source="registered")
    everywhere = asked(client="c-1", route="", resource="https://limen.example/mcp")
    return kept.give(ALICE, ASKED, CLIENT), kept.give(BOB, everywhere, evil)


def limen(config: Path, *arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["-c", str(config), "consents", *arguments])
    assert result.exit_code == status, (result.output, result.stderr, result.exception)
    return result


def answer(config: Path, *arguments: str) -> Any:
    return json.loads(limen(config, *arguments, "--json").stdout)


def told(config: Path) -> list[dict[str, Any]]:
    return [orjson.loads(raw) for _, raw in State.open(load_config(config).config).told.scan("")]


def test_list_and_its_filters(config: Path, given: tuple[str, str]) -> None:
    assert [row["id"] for row in answer(config, "list")] == list(given)
    assert [row["user"] for row in answer(config, "list", "--user", "bob")] == ["bob"]
    assert [row["server"] for row in answer(config, "list", "--server", "files")] == ["files"]
    assert [row["user"] for row in answer(config, "list", "--server", "*")] == ["bob"]
    assert [row["client"] for row in answer(config, "list", "--client", "c-1")] == ["c-1"]
    assert answer(config, "list", "--user", "nobody") == []
    assert "no server or bundle named 'fils'" in limen(config, "list", "--server", "fils", status=2).stderr
    text = limen(config, "list").stdout
    assert given[0][:16] in text
    assert "\x1b" not in text


def test_show_names_everything_that_was_agreed_to(config: Path, given: tuple[str, str]) -> None:
    row = answer(config, "show", given[0][:8])
    assert (row["redirect_uri"], row["resource"]) == (ASKED.redirect_uri, ASKED.resource)
    assert row["scopes"] == ["files.read", "files.write", "offline_access"]
    text = limen(config, "show", given[1]).stdout
    assert "\\u{1b}[2J" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "no such consent" in limen(config, "show", "zz", status=1).stderr
    assert "name one" in limen(config, "show", "", status=1).stderr


def test_revoked_by_id_it_ends_and_is_told(config: Path, given: tuple[str, str]) -> None:
    """OA-83: what was issued under it is refused from its next refresh on."""
    done = limen(config, "revoke", given[0][:12], "--by", "carol", "--reason", "lost laptop")
    assert done.stdout == f"revoked: {given[0][:16]}, alice to {CLIENT.id} on files\n"
    assert not ledger(config).holds(given[0])
    assert ledger(config).holds(given[1])
    ((event),) = told(config)
    assert (event["event"], event["change"], event["id"]) == ("consent", "revoke", given[0])
    assert (event["by"], event["reason"], event["subject"]) == ("carol", "lost laptop", "alice")
    assert time.time() - event["at"] < 60
    limen(config, "revoke", given[0], status=1)


def test_revoked_by_what_they_have_in_common(config: Path, given: tuple[str, str]) -> None:
    rows = answer(config, "revoke", "--client", "c-1")
    assert [row["id"] for row in rows] == [given[1]]
    assert [row["id"] for row in answer(config, "list")] == [given[0]]
    assert "no such consent" in limen(config, "revoke", "--user", "nobody", status=1).stderr


@pytest.mark.parametrize("arguments", [(), ("abc", "--user", "alice")])
def test_nothing_and_too_much_are_misuse(config: Path, given: tuple[str, str], arguments: tuple[str, ...]) -> None:
    assert "by its id, or several" in limen(config, "revoke", *arguments, status=2).stderr
    assert len(answer(config, "list")) == 2
