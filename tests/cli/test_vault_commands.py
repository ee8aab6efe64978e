"""`limen vault`: what keys there are, replacing them while calls run, destroying a person's, each told to the log."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from limen.cli.main import app
from limen.cli.vault import _watched
from limen.config.load import load_config
from limen.core.faults import DependencyFault
from limen.core.ports import owner_of
from limen.opening import open_token_keys, open_vault
from limen.storage import State

ISSUER = "https://id.example"
AZURE = {"kind": "azure_key_vault", "vault": "https://x.vault.azure.net", "key": "k"}
SECRET = "planted-token-71c2"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limen.cli.vault.SETTLE", 0.05)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "limen.yaml"
    path.write_text(json.dumps({"identity": {"issuers": [{"issuer": "http://127.0.0.1:9"}]}}))
    path.chmod(0o600)
    return path


def limen(config: Path, *arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["-c", str(config), "vault", *arguments])
    assert result.exit_code == status, (result.output, result.stderr, result.exception)
    return result


def answer(config: Path, *arguments: str) -> Any:
    return json.loads(limen(config, *arguments, "--json").stdout)


def told(config: Path) -> list[dict[str, Any]]:
    state = State.open(load_config(config).config)
    rows = [json.loads(value) for _, value in state.told.scan("")]
    state.close()
    return [row for row in rows if row["event"] == "vault"]


def sealed(config: Path, *subjects: str) -> dict[str, bytes]:
    loaded = load_config(config).config
    state = State.open(loaded)
    vault = open_vault(loaded, state)
    found = {one: vault.seal(owner_of(ISSUER, one), "place", SECRET.encode()) for one in subjects}
    state.close()
    return found


def opened(config: Path, subject: str, blob: bytes) -> bytes:
    loaded = load_config(config).config
    state = State.open(loaded)
    try:
        return open_vault(loaded, state).open(owner_of(ISSUER, subject), "place", blob)
    finally:
        state.close()


def test_status_of_a_vault_never_used_makes_nothing(config: Path) -> None:
    found = answer(config, "status")
    assert (found["used"], found["owners"], found["token_keys"]) == (False, 0, [])
    assert {path.name for path in (config.parent / "limen-state").iterdir()} & {"vault-keys", "token-keys"} == set()
    assert "not used yet" in limen(config, "status").stdout


def test_status_counts_and_shows_no_key(config: Path) -> None:
    sealed(config, "alice", "bob")
    open_token_keys(load_config(config).config)
    found = answer(config, "status")
    assert (found["keys"], found["owners"], found["data_keys"], found["behind"]) == ("file", 2, 2, 0)
    assert [row["state"] for row in found["token_keys"]] == ["signing"]
    kek = (config.parent / "limen-state" / "vault-keys" / "kek").read_text().split(":")[1].strip()
    shown = limen(config, "status").stdout + json.dumps(found)
    assert kek not in shown
    assert "opens what is there" in shown


def test_every_kind_of_key_is_rotated_and_the_log_is_told(config: Path) -> None:
    blobs = sealed(config, "alice", "bob")
    done = answer(config, "rotate", "--kek", "--data", "--tokens", "--by", "ann", "--reason", "yearly")
    assert (done["rotated"], done["data"], done["rewrapped"]) == (["kek", "data", "tokens"], 3, 3)
    assert (config.parent / "limen-state" / "vault-keys" / "kek").read_text().count("\n") == 2
    assert {opened(config, subject, blob) for subject, blob in blobs.items()} == {SECRET.encode()}
    states = [row["state"] for row in answer(config, "status")["token_keys"]]
    assert states == ["next", "signing"]
    (row,) = told(config)
    assert (row["act"], row["keys"], row["by"], row["reason"]) == ("rotated", done["rotated"], "ann", "yearly")


def test_retired_keys_are_gone_and_secrets_are_not(config: Path) -> None:
    blobs = sealed(config, "alice")
    answer(config, "rotate", "--kek")
    assert answer(config, "rotate", "--kek", "--retire")["retired"] is True
    assert (config.parent / "limen-state" / "vault-keys" / "kek").read_text().startswith("3:")
    assert opened(config, "alice", blobs["alice"]) == SECRET.encode()


def test_rotation_with_retirement_under_callers_loses_nothing(config: Path) -> None:
    """B4: 20 people seal and open through two replicas while an operator rotates everything and retires what was."""
    loaded = load_config(config).config
    sealed(config, "somebody")
    states = [State.open(loaded) for _ in range(2)]
    vaults = [open_vault(loaded, state) for state in states]
    done, trouble, calls = threading.Event(), [], [0] * 20

    def work(number: int) -> None:
        owner = owner_of(ISSUER, str(number))
        try:
            while not done.is_set() or not calls[number]:
                blob = vaults[number % 2].seal(owner, "place", b"%d" % calls[number])
                assert vaults[1 - number % 2].open(owner, "place", blob) == b"%d" % calls[number]
                calls[number] += 1
        except BaseException as error:
            trouble.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for one in threads:
        one.start()
    try:
        answer(config, "rotate", "--kek", "--data", "--tokens", "--retire")
    finally:
        done.set()
        for one in threads:
            one.join(60)
    assert not trouble
    for state in states:
        state.close()
    found = answer(config, "status")
    assert (found["owners"], found["behind"]) == (21, 0)


def test_a_distrusted_token_key_is_gone(config: Path) -> None:
    keys = open_token_keys(load_config(config).config)
    before = keys.published()[0][0].id
    done = answer(config, "rotate", "--tokens", "--distrust", "--reason", "laptop stolen")
    assert [one.id for one, _ in keys.published()] == [done["token_key"]] != [before]


def test_a_person_is_shredded_for_good_and_others_stay(config: Path) -> None:
    blobs = sealed(config, "alice", "bob")
    limen(config, "shred", "alice", "--issuer", ISSUER, status=1)
    limen(config, "shred", "alice", "--issuer", ISSUER, "--yes", status=1)
    assert opened(config, "alice", blobs["alice"]) == SECRET.encode()
    shown = limen(config, "shred", "alice", "--issuer", ISSUER, "--yes", "--reason", "left", "--by", "ann").stdout
    assert "shredded: alice" in shown
    with pytest.raises(DependencyFault):
        opened(config, "alice", blobs["alice"])
    assert opened(config, "bob", blobs["bob"]) == SECRET.encode()
    assert (
        "nothing is sealed"
        in limen(config, "shred", "alice", "--issuer", ISSUER, "--yes", "--reason", "x", status=1).stderr
    )
    (row,) = told(config)
    assert (row["act"], row["subject"], row["issuer"], row["by"], row["reason"]) == (
        "shredded", "alice", ISSUER, "ann", "left",
    )  # fmt: skip


def test_what_makes_no_sense_is_said_so(config: Path) -> None:
    for arguments in ((), ("--retire",), ("--distrust",), ("--data", "--retire"), ("--kek", "--distrust")):
        assert "say which keys" in limen(config, "rotate", *arguments, status=2).stderr


def test_a_lost_key_is_one_clear_line(config: Path) -> None:
    sealed(config, "alice")
    (config.parent / "limen-state" / "vault-keys" / "kek").unlink()
    for arguments in (("status",), ("rotate", "--kek"), ("rewrap",)):
        said = limen(config, *arguments, status=2).stderr
        assert said.count("\n") == 1
        assert "restore it" in said


def test_rewrap_after_a_rotation_elsewhere(config: Path) -> None:
    blobs = sealed(config, "alice")
    loaded = load_config(config).config
    state = State.open(loaded)
    open_vault(loaded, state).rotate_kek()
    state.close()
    assert answer(config, "status")["behind"] == 2
    assert "limen vault rewrap" in limen(config, "status").stdout
    assert answer(config, "rewrap")["rewrapped"] == 2
    assert answer(config, "rewrap")["rewrapped"] == 0
    assert opened(config, "alice", blobs["alice"]) == SECRET.encode()


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"kind": "pkcs11", "module": "/lib/x.so", "token": "t", "pin": "1234"}, "must not stand in the file"),
        ({"kind": "file", "directory": "keys", "pin": "x"}, "pin"),
        ({**AZURE, "vault": "http://x.vault.azure.net", "identity": {"kind": "managed"}}, "https"),
        (AZURE, "identity"),
        ({**AZURE, "identity": {"kind": "secret"}}, "needs tenant"),
        ({**AZURE, "identity": {"kind": "managed", "client_secret": "${env:PATH}"}}, "for kind secret"),
        ({"kind": "vault9000"}, "kind"),
    ],
)
def test_settings_that_cannot_be_are_refused(config: Path, keys: dict[str, Any], found: str) -> None:
    config.write_text(json.dumps({"vault": {"keys": keys}}))
    assert found in limen(config, "status", status=2).stderr


def test_a_missing_library_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    sealed(config, "alice")
    monkeypatch.setitem(sys.modules, "keyring", None)
    monkeypatch.delitem(sys.modules, "limen.adapters.os_keyring", raising=False)
    config.write_text(json.dumps({"vault": {"keys": {"kind": "keyring"}}}))
    assert "pip install 'limen[keyring]'" in limen(config, "status", status=2).stderr


def test_paths_are_from_the_file_and_a_pin_is_never_shown(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMEN_TEST_PIN", "planted-pin-9917")
    keys = {"kind": "pkcs11", "module": "lib/hsm.so", "token": "t", "pin": "${env:LIMEN_TEST_PIN}"}
    config.write_text(json.dumps({"vault": {"keys": keys}}))
    loaded = load_config(config).config.vault.keys
    assert getattr(loaded, "module", None) == config.parent / "lib" / "hsm.so"
    assert "planted-pin-9917" not in repr(loaded)
    said = limen(config, "rewrap", status=2).stderr
    assert "cannot be loaded" in said
    assert "planted-pin-9917" not in said


def test_long_work_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)

    def work(progress: Any) -> int:
        for done in range(1, 5):
            progress(done, 4)
        return 4

    assert _watched("wrapping data keys anew", work) == 4
    assert "wrapping data keys anew" in screen.getvalue()
    assert "100%" in screen.getvalue()
