"""storage: where state may be, that its passwords stay out of sight, and what a missing driver says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from limen.config.load import load_config
from limen.core.faults import ConfigFault
from limen.storage import State, driver

ENVIRONMENT = {"DATABASE": "postgresql://limen:hunter2@127.0.0.1/limen", "REDIS": "redis://:hunter2@127.0.0.1/0"}


def loaded(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "limen.yaml"
    path.write_text(f"version: 1\nstorage: {text}\n")
    return load_config(path, ENVIRONMENT).config


def test_urls_are_references_and_never_shown(tmp_path: Path) -> None:
    config = loaded(tmp_path, "{kind: postgres, url: '${env:DATABASE}', redis: {url: '${env:REDIS}'}}")
    assert config.storage.place == ENVIRONMENT["DATABASE"]
    assert config.storage.redis.url.get_secret_value() == ENVIRONMENT["REDIS"]
    for shown in (repr(config), str(config.storage), config.model_dump_json()):
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "{kind: postgres}",
        "{kind: sqlite, url: 'postgresql://127.0.0.1/x'}",
        "{kind: postgres, url: 'mysql://127.0.0.1/x'}",
        "{kind: postgres, url: 'postgresql://db.example/x'}",
        "{kind: postgres, url: 'postgresql://db.example/x?sslmode=require'}",
        "{kind: postgres, url: 'postgresql:///x?host=db.example'}",
        "{redis: {url: 'redis://cache.example/0'}}",
        "{redis: {url: 'http://127.0.0.1'}}",
        "{redis: {}}",
    ],
)
def test_what_is_incomplete_or_leaves_the_machine_in_the_clear_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigFault):
        loaded(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "{kind: postgres, url: 'postgresql://db.example/x?sslmode=verify-full'}",
        "{kind: postgres, url: 'postgresql:///x?host=/run/postgresql'}",
        "{redis: {url: 'rediss://cache.example/0'}}",
    ],
)
def test_honest_twins_are_taken(tmp_path: Path, text: str) -> None:
    assert loaded(tmp_path, text).storage


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "limen.adapters.postgres", raising=False)
    with pytest.raises(ConfigFault, match=r"limen\[postgres\]"):
        driver("postgres")


def test_the_default_needs_no_driver(tmp_path: Path) -> None:
    """Neither library is imported by a gateway that does not use it."""
    import subprocess

    text = (
        "import sys, limen.gateway.run, limen.storage\nassert not {'psycopg', 'redis'} & set(sys.modules), 'imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    state = State.open(loaded(tmp_path, "{kind: sqlite}"))
    assert (state.counter, state.bus, state.remote) == (None, None, False)
    state.close()
