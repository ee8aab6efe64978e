"""`limen clients`: what is shown, what never is, and that a removed client is gone at once."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from limen.cli.main import app
from limen.config.load import load_config
from limen.storage import State
from oauth.client_rig import Rig, json_visit, read, refused, run

SECRET = "correct-horse-battery-staple"


def written(place: Path, **clients: Any) -> Path:
    known = {"web": {"name": "Web", "redirect_uris": ["https://app.example.com/cb"],
    "auth_method": "client_secret_basic",
                     "secret": "${env:WEB_SECRET}"}}  # fmt: skip
    config = {
        "mcpServers": {"files": {"url": "http://127.0.0.1:9/mcp"}},
        "oauth": {"provider": {"issuer": "https://id.example", "client_id": "x"}, "clients": {"known": known,
        "registration": True, **clients}},
        "policy": {"rules": [{"allow": "*", "call": "files/*"}]},
    }  # fmt: skip
    path = place / "limen.yaml"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    return path


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEB_SECRET", SECRET)
    return written(tmp_path)


def limen(config: Path, *arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["-c", str(config), "clients", *arguments])
    assert result.exit_code == status, (result.output, result.stderr, result.exception)
    return result


def registered(config: Path, **more: Any) -> tuple[Rig, dict[str, Any], State]:
    state = State.open(load_config(config).config)
    rig = Rig(table=state.oauth, registration=True)
    rig.at = time.time()
    body = {"redirect_uris": ["http://127.0.0.1/cb"], "client_name": "C1aude \u202eevil", **more}
    return rig, read(run(rig.registration.register(json_visit(body)))), state


def test_clients_are_listed_shown_and_removed(config: Path) -> None:
    rig, made, state = registered(config)
    listed = json.loads(limen(config, "list", "--json").stdout)
    assert [(row["id"], row["source"]) for row in listed] == [("web", "configured"), (made["client_id"], "registered")]
    assert "name_disguised" in listed[1]["warnings"]
    for text in (
        limen(config, "list").stdout,
        limen(config, "show", "reg_").stdout,
        limen(config, "list", "--json").stdout,
    ):
        assert made["client_secret"] not in text
        assert SECRET not in text
        assert "\u202e" not in text
    shown = json.loads(limen(config, "show", made["client_id"][:9], "--json").stdout)
    assert (shown["address"], shown["used"], shown["accepted"]) == ("192.0.2.7", None, True)
    gone = json.loads(limen(config, "remove", made["client_id"], "--by", "carol", "--json").stdout)
    assert gone["id"] == made["client_id"]
    refused(lambda: run(rig.clients.find(made["client_id"])), "invalid_client")
    told = [json.loads(value) for _, value in state.told.scan("")]
    assert [(one["event"], one["client"], one["by"]) for one in told] == [
        ("oauth.client_removed", made["client_id"], "carol")
    ]
    limen(config, "remove", made["client_id"], status=1)
    limen(config, "show", "nobody", status=1)


def test_what_is_written_down_is_removed_where_it_is_written(config: Path) -> None:
    assert "configuration file" in limen(config, "remove", "web", status=1).stderr


def test_without_an_authorization_server(tmp_path: Path) -> None:
    path = tmp_path / "limen.yaml"
    path.write_text(json.dumps({"mcpServers": {"files": {"url": "http://127.0.0.1:9/mcp"}}}))
    assert "no `oauth`" in limen(path, "list", status=2).stderr


def test_a_client_that_cannot_be_one_is_found_when_the_file_is_read(tmp_path: Path) -> None:
    bad = {"bad": {"name": "Bad", "redirect_uris": ["javascript:alert(1)"]}}
    told = limen(written(tmp_path, known=bad), "list", status=2).stderr
    assert "redirect_uris" in told
    assert "alert" not in told
