"""`limen check`, `posture` and `doctor` say who watches and responds, what of it is loosened, and what waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from limen import posture
from limen.cli.controls import describe
from limen.cli.main import app
from limen.config.load import load_config

CONFIG: dict[str, Any] = {
    "identity": {"issuers": []},
    "risk": {"unsafe_observe": True},
    "incidents": {"playbooks": ["shipped:bulk-read", "nowhere.yaml"], "release_approvers": 2},
    "alerts": {"routes": [{"kind": "slack", "name": "soc", "url": "https://hooks.example/x", "severity": "high"}]},
    "audit": {
        "retention": {"days": 90},
        "followers": [
            {"kind": "file", "name": "spool", "path": "spool.jsonl", "when_behind": "refuse"},
            {"kind": "syslog", "name": "siem", "address": "10.0.0.1:514", "transport": "udp", "unsafe_plain": True},
        ],
    },
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "limen.yaml"
    path.write_text(json.dumps(CONFIG))
    path.chmod(0o600)
    return path


def answer(config: Path, *arguments: str, status: int = 0) -> Any:
    result = CliRunner().invoke(app, ["-c", str(config), *arguments, "--json"])
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def test_every_guard_of_the_posture_is_shown(config: Path) -> None:
    shown = [row["guard"] for row in describe(load_config(config).config)]
    assert {guard.__name__ for guard in (*posture.CALL, *posture.RESULT)} <= set(shown)
    assert len(shown) == len(set(shown))


def test_posture_says_who_follows_watches_and_responds_and_what_is_loosened(config: Path) -> None:
    rows = {row["guard"]: row for row in answer(config, "posture")}
    assert (rows["Weigh"]["state"], rows["Weigh"]["loosened"]) == ("observing", "risk.unsafe_observe")
    assert rows["follower spool"]["state"] == "file, stops calls when behind"
    assert rows["follower spool"]["loosened"] == ""
    assert rows["follower siem"]["loosened"] == "audit.followers[1].unsafe_plain"
    assert rows["retention"]["state"] == "90 days"
    assert rows["release"]["state"] == "two people"
    assert rows["behavior"]["state"] == "on"
    assert rows["playbook shipped:bulk-read"]["state"].startswith("waits")
    assert not config.with_name("limen-state").exists()  # looking makes no file


def test_check_says_where_the_log_goes_and_who_is_told(config: Path) -> None:
    found = answer(config, "check", "--stdio")["watching"]
    assert found["alerts"] == ["soc (slack, from high)"]
    assert found["followers"][0] == "spool (file, stops calls when behind)"
    assert found["playbooks"][0] == "shipped:bulk-read"
    config.write_text("version: 1\n")
    assert "nobody is told" in CliRunner().invoke(app, ["-c", str(config), "check", "--stdio"]).output


def test_doctor_says_what_is_carried_out_and_what_is_not(config: Path) -> None:
    def looked(status: int) -> dict[str, Any]:
        return {row["check"]: row for row in answer(config, "doctor", status=status)}

    answer(config, "playbook", "approve", "shipped:bulk-read", "--by", "ann")
    answer(config, "contain", "stop-all", "--reason", "drill")
    found = looked(1)
    assert found["playbook shipped:bulk-read"] == {
        "check": "playbook shipped:bulk-read",
        "ok": True,
        "found": "in force",
    }
    (wrong,) = [row for name, row in found.items() if "nowhere" in name]
    assert not wrong["ok"]
    assert "stop_all" in found["containment"]["found"]
    assert found["follower siem"]["ok"] is True
    assert found["alert delivery"]["ok"] is True
    config.write_text(json.dumps({**CONFIG, "identity": {"unsafe_anonymous": True}, "incidents": {}}))
    assert all(row["ok"] for row in looked(0).values())
