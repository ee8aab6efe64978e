"""`limen behavior`: what is usual for somebody, in words, and how it is forgotten (I4)."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

import launched
from limen.adapters.sqlite import open_tables
from limen.detection.behavior import Behavior
from limen.detection.behavior_settings import BehaviorSettings
from simulation.measures import events_of
from simulation.organisations import build, calls


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state with what some weeks of two people left behind."""
    directory = tmp_path_factory.mktemp("usual")
    path = directory / "limen.yaml"
    path.write_text(json.dumps({"mcpServers": {"hr": {"url": "http://127.0.0.1:9/mcp"}}}))
    path.chmod(0o600)
    (directory / "limen-state").mkdir(mode=0o700)
    table = open_tables(directory / "limen-state" / "limen.db", ("behavior",))["behavior"]
    behaviour = Behavior(table, BehaviorSettings(), lambda signal: None, "limen")
    for day in calls(build("startup", 1, 24, people=2), 1, 0, 24):
        for event in events_of(day, [], 0, "limen"):
            behaviour.see(event)
    behaviour.close()
    table.close()
    return path


def limen(config: Path, *arguments: str, status: int = 0) -> Any:
    done = launched.limen("-c", str(config), *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_who_is_known_and_what_is_usual(config: Path) -> None:
    rows = json.loads(limen(config, "behavior", "list", "--json"))
    assert {"caller", "client", "server", "tool"} == {row["kind"] for row in rows}
    said = limen(config, "behavior", "show", "startup-0000")
    assert "calls a day:" in said and "hours:" in said and "tools: startup-" in said
    told = json.loads(limen(config, "behavior", "show", "startup-0000", "--json"))[0]
    assert told["judged"] is True and told["calls"] > 100


def test_who_is_unknown_and_what_is_wrong(config: Path) -> None:
    limen(config, "behavior", "show", "nobody", status=1)
    limen(config, "behavior", "show", "startup-0000", "--kind", "x", status=2)


def test_forgetting_leaves_the_others(config: Path) -> None:
    gone = json.loads(limen(config, "behavior", "forget", "startup-0001", "--reason", "left", "--json"))
    assert [one["kind"] for one in gone] == ["caller"]
    limen(config, "behavior", "show", "startup-0001", status=1)
    limen(config, "behavior", "show", "startup-0000")
    table = open_tables(config.parent / "limen-state" / "limen.db", ("told",))["told"]
    told = [orjson.loads(raw) for _, raw in table.scan("")]
    assert [(one["event"], one["reason"]) for one in told] == [("behavior.forgotten", "left")]
    table.close()
