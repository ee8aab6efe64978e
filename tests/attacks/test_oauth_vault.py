"""Stealing tokens at rest (B4, OA-31, AUTH-19): the database, its backup, another process of the same user, a core."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from limen.adapters.sqlite import SqliteTable
from limen.config.model import Config
from limen.core.faults import ConfigFault, DependencyFault
from limen.core.ports import owner_of
from limen.opening import open_token_keys, open_vault
from limen.storage import State

READER = Path(__file__).with_name("reading_memory.py")


def configured(directory: Path, **vault: object) -> Config:
    directory.mkdir(exist_ok=True)
    return Config.model_validate({"storage": {"path": str(directory / "limen.db")}, "vault": vault})


def forms(secret: bytes) -> list[bytes]:
    """How a secret may hide in a file: as it is, reversed, in hexadecimal, in the three alignments of base64."""
    found = [secret, secret[::-1], secret.hex().encode(), secret.hex().upper().encode()]
    for shift in range(3):
        whole = base64.b64encode(bytes(shift) + secret + bytes(3))
        found += [whole[4:-8], whole[4:-8].replace(b"+", b"-").replace(b"/", b"_")]
    return found


def everything(directory: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


@pytest.mark.requirement("AUTH-19", "OA-31")
def test_oa31_a_dump_of_the_database_reveals_no_token(tmp_path):
    """B4, AUTH-19: 200 sealed tokens, and not one of them in any byte of the files, write-ahead log and all. Nor are
    the data keys that open them, nor the key-encryption keys."""
    config = configured(tmp_path / "state", keys={"kind": "file", "directory": str(tmp_path / "keys")})
    state = State.open(config)
    vault = open_vault(config, state)
    opened: list[bytes] = []
    unwrap = vault._wrap.unwrap
    vault._wrap.unwrap = lambda *given: opened.append(unwrap(*given)) or opened[-1]  # type: ignore[method-assign]
    tokens = [b"planted-%03d-" % number + base64.b64encode(bytes([number]) * 30) for number in range(200)]
    for number, token in enumerate(tokens):
        owner = owner_of("https://id.example", f"user-{number % 25}")
        state.sessions.put(f"token/{number}", vault.seal(owner, "upstream/github", token))
    vault.rotate_all()
    vault._wrap.rotate()
    vault.rewrap()
    dump = everything(tmp_path / "state")
    assert len(dump) > 200 * 60
    leaked = [secret for secret in (*tokens, *opened) for form in forms(secret) if form in dump]
    assert len(opened) >= 50
    assert not leaked
    kek = [line.split(":")[1] for line in (tmp_path / "keys" / "kek").read_text().splitlines()]
    assert not [key for key in kek if any(form in dump for form in forms(base64.b64decode(key)))]
    owner = owner_of("https://id.example", "user-7")
    assert vault.open(owner, "upstream/github", state.sessions.get("token/7") or b"") == tokens[7]
    state.close()


def test_the_search_would_find_a_token_that_is_there(tmp_path):
    """The honest twin of the dump: what is not sealed is found, in each form."""
    table = SqliteTable(tmp_path / "limen.db", "vault")
    for form in forms(b"planted-secret-of-some-length"):
        table.put("x", form)
        assert form in everything(tmp_path)
    table.close()


def test_a_backup_of_the_database_without_its_keys_opens_nothing(tmp_path):
    """Restored apart from its keys it is refused at the start, with a way out; with them it works. Nothing is made."""
    config = configured(tmp_path / "state")
    state = State.open(config)
    sealed = open_vault(config, state).seal("owner", "place", b"planted-secret")
    backup(tmp_path / "state" / "limen.db", tmp_path / "backup.db")
    state.close()

    def restored(name: str) -> tuple[Config, State]:
        found = configured(tmp_path / name)
        (tmp_path / name / "limen.db").write_bytes((tmp_path / "backup.db").read_bytes())
        return found, State.open(found)

    alone, records = restored("alone")
    with pytest.raises(ConfigFault, match="restore it"):
        open_vault(alone, records)
    assert not (tmp_path / "alone" / "vault-keys" / "kek").exists()
    assert b"planted-secret" not in everything(tmp_path / "alone")
    records.close()

    whole, records = restored("whole")
    copied = subprocess.run(
        ["cp", "-a", str(tmp_path / "state" / "vault-keys"), str(tmp_path / "whole" / "vault-keys")], timeout=30
    )
    assert copied.returncode == 0
    assert open_vault(whole, records).open("owner", "place", sealed) == b"planted-secret"
    records.close()


def test_a_database_of_before_a_rotation_opens_with_the_keys_of_today(tmp_path):
    """docs/vault.md: the newest copy of the key opens every database since the last retirement, and no earlier one."""
    config = configured(tmp_path / "state", keys={"kind": "file", "directory": str(tmp_path / "keys")})
    state = State.open(config)
    vault = open_vault(config, state)
    sealed = vault.seal("owner", "place", b"planted-secret")
    backup(tmp_path / "state" / "limen.db", tmp_path / "backup.db")
    vault.rotate_kek()
    vault.rewrap()
    state.close()
    for retired in (False, True):
        if retired:
            state = State.open(config)
            open_vault(config, state).retire()
            state.close()
        name = f"restored-{retired}"
        again = configured(tmp_path / name, keys={"kind": "file", "directory": str(tmp_path / "keys")})
        (tmp_path / name / "limen.db").write_bytes((tmp_path / "backup.db").read_bytes())
        records = State.open(again)
        if retired:
            with pytest.raises(ConfigFault, match="another key-encryption key"):
                open_vault(again, records)
        else:
            assert open_vault(again, records).open("owner", "place", sealed) == b"planted-secret"
        records.close()


def test_kill_9_in_the_middle_of_a_rotation_loses_nothing(tmp_path):
    """B4: a process that replaces keys as fast as it can is killed at any point; every secret opens, and it goes on."""
    config = configured(tmp_path / "state")
    state = State.open(config)
    vault = open_vault(config, state)
    sealed = {str(number): vault.seal(str(number), "place", b"%d" % number) for number in range(12)}
    program = (
        "import sys; from pathlib import Path; from limen.adapters.datakeys import FileKeyStore\n"
        "from limen.adapters.signing_keys import SigningKeys; from limen.adapters.sqlite import SqliteTable\n"
        "from limen.credentials.vault import Vault\n"
        "state = Path(sys.argv[1]); keys = FileKeyStore(state / 'vault-keys', create=False)\n"
        "vault = Vault(SqliteTable(state / 'limen.db', 'vault', shredded=True), keys)\n"
        "tokens = SigningKeys(state / 'token-keys', warming=0)\n"
        "print('ready', flush=True)\n"
        "while True: vault.rotate_kek(); vault.rewrap(); tokens.rotate()\n"
    )
    for wait in (0.02, 0.11, 0.3):
        argv = [sys.executable, "-c", program, str(tmp_path / "state")]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(wait)
            process.kill()
        again = open_vault(config, state)
        assert {again.open(owner, "place", blob) for owner, blob in sealed.items()} == {
            b"%d" % number for number in range(12)
        }
        again.rewrap()
        assert again.status().behind == 0
        open_token_keys(config).sign("at+jwt", {})
    state.close()


def backup(source: Path, target: Path) -> None:
    """As docs/vault.md says: with SQLite's own backup, while Limen runs."""
    with sqlite3.connect(source) as one, sqlite3.connect(target) as other:
        one.backup(other)


def test_a_lost_key_is_never_replaced(tmp_path):
    """B4: no fallback key. The gateway does not start, twice, and leaves everything as it is."""
    config = configured(tmp_path / "state")
    state = State.open(config)
    open_vault(config, state)
    kek = tmp_path / "state" / "vault-keys" / "kek"
    content = kek.read_bytes()
    kek.unlink()
    for _ in range(2):
        with pytest.raises(ConfigFault, match="restore it"):
            open_vault(config, state)
        assert not kek.exists()
    kek.write_bytes(b"1:" + base64.b64encode(bytes(32)) + b"\n")
    kek.chmod(0o600)
    with pytest.raises(ConfigFault, match="another key-encryption key"):
        open_vault(config, state)
    kek.write_bytes(content)
    open_vault(config, state).prove()
    state.close()


def test_a_replica_with_keys_of_its_own_does_not_start(tmp_path):
    """Two replicas that do not share their keys would seal what the other cannot open."""
    database = {"path": str(tmp_path / "limen.db")}
    one, other = (
        Config.model_validate(
            {"storage": database, "vault": {"keys": {"kind": "file", "directory": str(tmp_path / name)}}}
        )
        for name in ("one", "other")
    )
    state = State.open(one)
    open_vault(one, state)
    with pytest.raises(ConfigFault, match="restore it"):
        open_vault(other, state)
    state.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_memory_of_the_gateway_is_closed_to_its_own_user(tmp_path):
    """B4: the same user reads a process that did not harden itself, and of one that did neither memory, map nor
    environment, nor by ptrace, nor in a core."""
    with tempfile.TemporaryDirectory() as cores:
        Path(cores).chmod(0o777)
        argv = [sys.executable, str(READER), cores]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["hardened"] == {"memory": False, "environ": False, "maps": False, "ptrace": False, "core": False}
    assert found["plain"]["memory"]
    assert found["plain"]["environ"]


def test_a_hardened_gateway_still_starts_cells():
    """The other half: children execute programs of their own and are prepared as before."""
    from sandbox.cells_kit import needs_bubblewrap

    if needs_bubblewrap.args[0]:
        pytest.skip("there is no bwrap: install bubblewrap")
    program = (
        "from limen.adapters.hardening import harden\n"
        "assert harden() and harden()\n"
        "from sandbox.cells_kit import run_inside\n"
        "print(run_inside('import resource; found = resource.getrlimit(resource.RLIMIT_CORE)'))\n"
    )
    known = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, env=known)
    assert done.stdout.strip() == "[0, 0]", done.stderr


def test_hardening_leaves_no_core_limit_to_raise():
    program = (
        "import resource; from limen.adapters.hardening import harden; harden()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "(0, 0)", done.stderr


def test_token_keys_are_beside_the_storage_and_ours_alone(tmp_path):
    config = configured(tmp_path / "state")
    open_token_keys(config)
    file = tmp_path / "state" / "token-keys" / "signing"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_no_cell_sees_the_keys(tmp_path):
    """G4: a server that may read a directory with our state in it does not see what opens the vault."""
    from limen.gateway.cells import private_paths

    hidden = private_paths(configured(tmp_path / "state", keys={"kind": "file", "directory": str(tmp_path / "k")}))
    assert {str(tmp_path / "state" / "token-keys"), str(tmp_path / "k")} <= set(hidden)
    assert {str(tmp_path / "state" / name) for name in ("vault-keys", "token-keys", "consent.key")} <= set(
        private_paths(configured(tmp_path / "state"))
    )


def test_a_database_that_is_away_starts_nothing(tmp_path):
    config = configured(tmp_path / "state")
    state = State.open(config)
    state.vault.close()
    with pytest.raises(DependencyFault):
        open_vault(config, state)
    assert not (tmp_path / "state" / "vault-keys").exists()
