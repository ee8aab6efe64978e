"""`limen signins`: the ladder of an attempt, the failing field and the remedy, for people and for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from limen.cli import context as cli_context
from limen.cli.main import app
from limen.config.load import load_config
from limen.oauth.attempts import Attempts
from limen.oauth.settings import RecorderSettings
from limen.oauth.web import Visit
from limen.storage import State

RESOURCE = "http://127.0.0.1:8300/mcp/files"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "limen.yaml"
    path.write_text(json.dumps({"mcpServers": {"files": {"url": "http://127.0.0.1:9/mcp"}}}))
    path.chmod(0o600)
    return path


def recorder(config: Path) -> tuple[Attempts, State]:
    kept = State.open(load_config(config).config)
    return Attempts(kept.attempts, RecorderSettings()), kept


@pytest.fixture
def known(config: Path) -> Path:
    log, kept = recorder(config)
    visit = Visit("GET", "/", headers={"user-agent": ("vscode\x1b[2J",)}, address="192.0.2.7")
    log.note("challenge", "ok", visit=visit, resource=RESOURCE)
    log.note(
        "authorize", "invalid_target", visit=visit, client="app", resource=RESOURCE, field="resource", detail="none"
    )
    log.note("challenge", "ok", visit=Visit("GET", "/", address="192.0.2.8"), resource=f"{RESOURCE}2")
    log.drain()
    kept.close()
    return config


def limen(config: Path, *arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["-c", str(config), "signins", *arguments])
    assert result.exit_code == status, (result.output, result.stderr, result.exception)
    return result


def answer(config: Path, *arguments: str) -> Any:
    return json.loads(limen(config, *arguments, "--json").stdout)


def test_list_tells_them_apart(known: Path) -> None:
    assert sorted((row["state"], row["leg"]) for row in answer(known, "list")) == [
        ("failed", "authorize"), ("open", "challenge"),
    ]  # fmt: skip
    (row,) = answer(known, "list", "--failed")
    assert (row["client"], row["field"], row["address"]) == ("app", "resource", "192.0.2.7")
    assert "<listen.url>/mcp/<server>" in row["remedy"]
    assert answer(known, "list", "--server", "files") == [row]
    assert answer(known, "list", "--client", "app") == [row]
    assert answer(known, "list", "--user", "nobody") == []
    assert "invalid_target" in limen(known, "list").stdout


def test_show_is_a_ladder(known: Path) -> None:
    id = answer(known, "list", "--failed")[0]["id"]
    shown = limen(known, "show", id).stdout
    assert "| challenge" in shown and "x authorize" in shown and "[resource]" in shown and "-> `resource`" in shown
    assert "\x1b" not in shown
    found = answer(known, "show", id)
    assert [step["leg"] for step in found["steps"]] == ["challenge", "authorize"] and found["agent"].startswith(
        "vscode"
    )
    assert answer(known, "show", "last")["id"]
    assert "no attempt" in limen(known, "show", "nothing", status=1).stderr


def test_without_any(config: Path) -> None:
    assert answer(config, "list") == []
    assert "no attempt" in limen(config, "show", "last", status=1).stderr


def test_watch_follows(known: Path) -> None:
    source = str(Path(cli_context.__file__).parents[2])
    argv = [sys.executable, "-m", "limen", "-c", str(known), "signins", "watch", "--failed"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": source})
    log, kept = recorder(known)
    try:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        told, began = b"", time.monotonic()
        while b"secret's *Value*" not in told and time.monotonic() - began < 60:
            log.note("callback", "invalid_client", client="app2", transaction="t", detail="AADSTS7000215: Invalid.")
            log.drain()
            time.sleep(0.5)
            told += process.stdout.read() or b""
    finally:
        process.kill()
        process.wait(10)
        kept.close()
    assert b"app2 ? : callback invalid_client" in told and b"secret's *Value*" in told and b"invalid_target" not in told
