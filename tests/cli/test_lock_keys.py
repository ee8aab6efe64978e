"""`catalog.lock_keys`: locks that are signed elsewhere, by a key the configuration names, and by no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.catalog_commands import announce, answer, configure, limen, program, shifting, tool
from limen.catalog.lock import LockFault
from limen.catalog.locked import LockedRegistry
from limen.config.load import load_config
from limen.core.faults import ConfigFault
from limen.opening import open_registry

AUDIT = {"name": "release"}


def made(place: Path, name: str) -> Path:
    """The configuration of somebody who approved a tool and signed a lock; every key is named "release"."""
    (place / name).mkdir()
    config = configure(place / name, audit=AUDIT)
    announce(config, tool("take"))
    limen(config, "tools", "approve", "files", "--all", "--reason", "read it", "--by", "ann")
    limen(config, "tools", "lock", "--out", str(config.parent / "mcp.lock"))
    return config


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return made(tmp_path, "release")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return made(tmp_path, "other")


def key_of(config: Path) -> str:
    return limen(config, "audit", "key").stdout.strip()


def runs_from(lock: Path, place: Path, *keys: str) -> Path:
    """The configuration of a gateway that runs from this lock and trusts these keys."""
    return configure(place, audit=AUDIT, catalog={"lock": str(lock), "lock_keys": list(keys)})


def opened(config: Path) -> Any:
    return open_registry(load_config(config).config)


def lock_of(config: Path) -> Path:
    return config.parent / "mcp.lock"


def test_a_lock_signed_by_a_key_that_is_named_is_accepted(release: Path, tmp_path: Path) -> None:
    registry = opened(runs_from(lock_of(release), tmp_path, key_of(release)))
    assert isinstance(registry, LockedRegistry)
    assert registry.lock.key == "release"
    assert [one.name for one in registry.snapshot().approved("files", "tool")] == ["take"]


def test_any_of_several_keys_will_do(release: Path, tmp_path: Path) -> None:
    (tmp_path / "third").mkdir()
    third = configure(tmp_path / "third")
    opened(third)  # makes its key, of another name
    assert opened(runs_from(lock_of(release), tmp_path, key_of(third), key_of(release))).lock.entries


@pytest.mark.parametrize("named", ["nobody", "own", "same name"])
def test_a_lock_signed_by_a_key_that_is_not_named_is_refused(
    release: Path, other: Path, tmp_path: Path, named: str
) -> None:
    """Nobody is named: our own key counts. Ours is named: the foreign one still does not. A foreign key that calls
    itself the same is named: names prove nothing."""
    opened(configure(tmp_path, audit=AUDIT))
    own = key_of(tmp_path / "limen.yaml")
    keys = {"nobody": (), "own": (own,), "same name": (key_of(other),)}[named]
    config = runs_from(lock_of(release), tmp_path, *keys)
    with pytest.raises(LockFault, match="another key that calls itself release"):
        opened(config)
    found = answer(config, "tools", "lock", "--check", status=4)
    assert (found["ok"], found["key"], found["drift"]) == (False, "", [])


def test_our_own_key_is_not_enough_once_others_are_named(release: Path, other: Path) -> None:
    lock, place = lock_of(release), release.parent
    assert opened(runs_from(lock, place)).lock.entries
    with pytest.raises(LockFault):
        opened(runs_from(lock, place, key_of(other)))


def test_the_option_of_the_check_goes_before_the_configuration(release: Path, other: Path, tmp_path: Path) -> None:
    config = runs_from(lock_of(release), tmp_path, key_of(release))
    assert answer(config, "tools", "lock", "--check", "--server", "files", status=3)["key"] == "release"  # nobody home
    assert answer(config, "tools", "lock", "--check", "--key", key_of(other), status=4)["key"] == ""


def test_an_edited_lock_is_refused_whoever_is_named(release: Path, tmp_path: Path) -> None:
    path = lock_of(release)
    path.write_bytes(path.read_bytes().replace(b'"ann"', b'"bob"'))
    config = runs_from(path, tmp_path, key_of(release))
    with pytest.raises(LockFault, match="not the ones that were signed"):
        opened(config)
    answer(config, "tools", "lock", "--check", status=4)


@pytest.mark.parametrize("wrong", ["nonsense", "", "release+00000000+AAAA", "two of one name"])
def test_what_is_no_key_is_an_error_of_the_configuration(
    release: Path, other: Path, tmp_path: Path, wrong: str
) -> None:
    keys = (key_of(release), key_of(other)) if wrong == "two of one name" else (wrong, key_of(release))
    config = runs_from(lock_of(release), tmp_path, *keys)
    with pytest.raises(ConfigFault) as fault:
        opened(config)
    assert not isinstance(fault.value, LockFault)
    limen(config, "tools", "lock", "--check", status=2)


def test_a_pipeline_checks_a_real_server_with_the_named_key_alone(tmp_path: Path) -> None:
    """Signed here, checked there: no key and no state of its own is needed, or made."""
    signer, pipeline = tmp_path / "signer", tmp_path / "pipeline"
    for place in (signer, pipeline):
        place.mkdir()
        shifting(place, take="Takes a note.")
    program("tools", "approve", "notes", "--all", "--reason", "read it", cwd=signer)
    program("tools", "lock", "--out", "../pipeline/mcp.lock", cwd=signer)
    settings = json.loads((pipeline / "limen.yaml").read_text())
    settings["catalog"] = {"lock": "mcp.lock", "lock_keys": [key_of(signer / "limen.yaml")]}
    (pipeline / "limen.yaml").write_text(json.dumps(settings))
    assert program("tools", "lock", "--check", cwd=pipeline).stdout.startswith("same: ")
    assert not (pipeline / "limen-state").exists()
    (pipeline / "tools.json").write_text(json.dumps({"take": "Takes two notes."}))
    program("tools", "lock", "--check", cwd=pipeline, status=1)
