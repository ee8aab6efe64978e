"""Followers in the configuration: secrets by reference only, whole paths, names told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from limen.config.load import load_config
from limen.config.model import loosened
from limen.core.faults import ConfigFault

HOOK = {"name": "hook", "kind": "webhook", "url": "https://siem.example/in"}
SYSLOG = {"name": "log", "kind": "syslog", "address": "siem.example:514", "transport": "tcp"}


def loaded(home: Path, *followers: dict[str, Any]) -> Any:
    path = home / "limen.yaml"
    path.write_bytes(orjson.dumps({"version": 1, "audit": {"followers": followers}}))
    path.chmod(0o600)
    return load_config(path, {"KEY": "k" * 32}).config


def test_secrets_come_by_reference_and_stay_wrapped(tmp_path: Path) -> None:
    otlp = {"name": "otel", "kind": "otlp", "url": "https://otel.example", "headers": {"api-key": "${env:KEY}"}}
    config = loaded(tmp_path, {**HOOK, "secret": "${env:KEY}"}, otlp)
    hook, otel = config.audit.followers
    assert hook.secret.get_secret_value() == otel.headers["api-key"].get_secret_value() == "k" * 32
    assert "kkk" not in repr(config)
    for inline in ({**HOOK, "secret": "k" * 32}, {**otlp, "headers": {"api-key": "k" * 32}}):
        with pytest.raises(ConfigFault, match="must not stand in the file"):
            loaded(tmp_path, inline)


def test_paths_are_from_the_files_directory(tmp_path: Path) -> None:
    file = loaded(tmp_path, {"name": "file", "kind": "file", "path": "out/x.jsonl"}).audit.followers[0]
    assert file.path == tmp_path / "out" / "x.jsonl"


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    file = {"name": "file", "kind": "file", "path": "x"}
    with pytest.raises(ConfigFault, match="a name of its own"):
        loaded(tmp_path, file, {**file, "path": "y"})


def test_plain_text_to_another_machine_is_an_unsafe_switch(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="without TLS"):
        loaded(tmp_path, SYSLOG)
    assert list(loosened(loaded(tmp_path, {**SYSLOG, "unsafe_plain": True}))) == ["audit.followers[0].unsafe_plain"]


def test_metrics_are_on_loopback_only(tmp_path: Path) -> None:
    path = tmp_path / "limen.yaml"
    path.write_text('{"version": 1, "audit": {"metrics": {"bind": "0.0.0.0:9464"}}}')
    path.chmod(0o600)
    with pytest.raises(ConfigFault, match="loopback"):
        load_config(path, {})
