"""What was withheld is released once, by somebody with a reason; labels are shown with the reads that gave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from limen.cli.main import app
from limen.config.load import load_config
from limen.core.call import Call, Era
from limen.detection.dataflow import Labels, Read
from limen.detection.labels import Label
from limen.inspection import open_quarantine
from limen.storage import State

CONFIG: dict[str, Any] = {
    "mcpServers": {"files": {"url": "http://127.0.0.1:9/mcp"}},
    "identity": {"issuers": [{"issuer": "http://127.0.0.1:9"}]},
    "policy": {"rules": []},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "limen.yaml"
    path.write_text(json.dumps(CONFIG))
    path.chmod(0o600)
    return path


def limen(config: Path, *arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["-c", str(config), *arguments])
    assert result.exit_code == status, (result.output, result.stderr, result.exception)
    return result


def answer(config: Path, *arguments: str) -> Any:
    return json.loads(limen(config, *arguments, "--json").stdout)


def told(config: Path) -> list[dict[str, Any]]:
    """What the log will be given."""
    state = State.open(load_config(config).config)
    try:
        return [json.loads(raw) for _, raw in state.told.scan("")]
    finally:
        state.close()


@pytest.fixture
def withheld(config: Path) -> str:
    settings = load_config(config).config
    state = State.open(settings)
    call = Call(method="tools/call", server="files", route="files", era=Era.MODERN, revision="2026-07-28", name="read")
    content = {"content": [{"type": "text", "text": "evil\x1b[2J"}]}
    id = open_quarantine(settings, state.quarantine).keep(call, "ref-1", content, ("injection.override",))
    state.close()
    return id


def test_an_original_is_released_once_and_the_log_hears_of_it(config: Path, withheld: str) -> None:
    assert [item["id"] for item in answer(config, "quarantine", "list")] == [withheld]
    shown = limen(config, "quarantine", "list").stdout
    assert "injection.override" in shown and "evil" not in shown
    limen(config, "quarantine", "release", withheld, "--by", "ann", status=1)  # without a reason
    released = limen(config, "quarantine", "release", withheld, "--by", "ann", "--reason", "looked at").stdout
    assert "evil" in released and "\x1b" not in released
    limen(config, "quarantine", "release", withheld, "--by", "ann", "--reason", "again", status=1)
    (event,) = told(config)
    assert (event["event"], event["act"], event["by"], event["id"]) == ("quarantine", "released", "ann", withheld)


def test_an_original_is_deleted_unread(config: Path, withheld: str) -> None:
    assert "evil" not in limen(config, "quarantine", "discard", withheld, "--by", "ann", "--reason", "spam").stdout
    limen(config, "quarantine", "release", withheld, "--by", "ann", "--reason", "late", status=1)
    limen(config, "quarantine", "release", "q-unknown", "--by", "ann", "--reason", "x", status=1)
    assert [event["act"] for event in told(config)] == ["discarded"]


def test_labels_are_shown_with_their_reads_and_cleared_with_a_reason(config: Path) -> None:
    state = State.open(load_config(config).config)
    read = Read("files", "tool", "read", "d", frozenset({Label.UNTRUSTED, Label.PRIVATE}), reference="ref-7")
    labels = Labels(state.labels)
    labels.add(("https://id", "ann"), read)
    labels.flush()
    state.close()
    about = answer(config, "labels", "show", "ann", "--issuer", "https://id")
    assert sorted(about["labels"]) == ["private", "untrusted"]
    assert "ref-7" in limen(config, "labels", "show", "ann", "--issuer", "https://id").stdout
    assert "no labels" in limen(config, "labels", "show", "bob", "--issuer", "https://id").stdout
    clearing = ("labels", "clear", "ann", "--issuer", "https://id", "--label", "untrusted", "--by", "eve")
    limen(config, *clearing, status=1)
    limen(config, *clearing, "--reason", "new task")
    assert sorted(answer(config, "labels", "show", "ann", "--issuer", "https://id")["labels"]) == ["private"]
    limen(config, *clearing, "--reason", "again", status=1)
    assert [(event["event"], event["labels"]) for event in told(config)] == [("labels", ["untrusted"])]
    limen(config, "labels", "clear", "ann", "--label", "wrong", "--reason", "x", status=2)
