"""J4: a backup of a running gateway, and the gateway again from nothing but that file."""

import json
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import launched
from gateway.running import ISSUER, KEY, META, Running, running
from launched import free_port
from limen.adapters.sealed_stream import NotSealed, SealedReader, SealedWriter
from limen.archive import Packer, unpacked
from limen.backup import Backup
from limen.config.load import load_config
from limen.core.faults import ConfigFault
from limen.restore import Opened, restore
from limen.storage import State
from recovery.load import calling

SECRET = "correct horse battery"
CHEAP = 14


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, Any]]]:
    """A gateway that is running, and what it had when its backup was made."""
    jwks = json.dumps({"keys": [KEY.as_dict(private=False)]})
    settings = {
        "identity": {"issuers": [{"issuer": ISSUER, "jwks": jwks}], "api_keys": True},
        "limits": {"caller": {"rate": 1000}},
    }
    with running(tmp_path_factory.mktemp("origin"), approved=("one",), tools=("echo",), **settings) as gateway:
        had: dict[str, Any] = {"token": gateway.token(), "session": gateway.session(gateway.token())}
        had["key"] = json.loads(
            gateway.limen("keys", "api", "create", "nightly", "--server", "one", "--scope", "use", "--json")
        )["key"]
        gateway.limen("keys", "rotate", "log")
        gateway.limen("revoke", "user", "mallory")
        state = State.open(load_config(gateway.config).config)
        state.consents.put("ann/desk", b"{}")
        state.close()
        had["first"] = (gateway.directory / "limen-state" / "audit.key.pub").read_text().strip()
        yield gateway, had


@pytest.fixture(scope="module")
def backup(made: tuple[Running, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made under load: nothing may fail."""
    goal = tmp_path_factory.mktemp("safe") / "monday.backup"
    with calling(made[0], 10) as load:
        Backup(load_config(made[0].config), cost=CHEAP).create(goal, SECRET)
    assert load.failed == {}
    return goal


def test_a_gateway_from_nothing_but_its_backup_j4(
    made: tuple[Running, dict[str, Any]], backup: Path, tmp_path: Path
) -> None:
    origin, had = made
    assert origin.call("echo", origin.token("later"))[0] == 200
    time.sleep(1.2)
    later = (origin.directory / "limen-state" / "audit" / "checkpoint").read_bytes()
    goal = tmp_path / "limen"
    with Opened(backup, SECRET) as opened:
        done = restore(opened, goal, by="ann")
    assert done["api_keys_revoked"] == 1
    assert goal.stat().st_mode & 0o777 == 0o700
    assert not [path for path in goal.rglob("*") if path.stat().st_mode & 0o077 and path.suffix != ".pub"]
    again = Running(origin.port, goal, origin.recorder)
    origin.stop()
    try:
        again.start()
        time.sleep(1.1)
        assert again.call("echo", again.token())[0] == 200  # the approved tool, with a token issued since
        assert again.call("echo", had["token"])[0] == 401  # revoked or not since the backup: nobody knows
        assert _by_key(again, had["key"]) == 401
        assert _listed(again, had["session"]) == 404
        assert again.call("echo", again.token("mallory"))[0] == 401
        reasons = {one["reason"]: one["detail"] for one in again.records("refusal")}
        assert "restored from a backup" in reasons["identity.revoked"] or "mallory" in reasons["identity.revoked"]
        again.until(lambda: json.loads(again.limen("audit", "verify", "--json", "--key", had["first"]))["ok"])
        (told,) = again.records("restored", 4000)
        assert (told["by"], told["size"]) == ("ann", done["records"])
        (tmp_path / "later").write_bytes(later)
        argv = ["audit", "verify", "--json", "--key", had["first"], "--checkpoint", str(tmp_path / "later")]
        compared = launched.limen("-c", str(again.config), *argv)
        assert compared.returncode == 1  # who remembers a later checkpoint is told that records are missing
    finally:
        if again.process.poll() is None:
            again.stop()
        origin.start()


def test_what_was_issued_is_kept_only_when_asked(backup: Path, tmp_path: Path) -> None:
    with Opened(backup, SECRET) as opened:
        done = restore(opened, tmp_path / "kept", by="ann", keep_issued=True)
    assert done["api_keys_revoked"] == 0 and not done["issued_before_refused"]
    rows = json.loads(_limen(tmp_path / "kept", "keys", "api", "list", "--json"))
    assert [row["state"] for row in rows] == ["active"]
    with Opened(backup, SECRET) as opened:
        restore(opened, tmp_path / "refused", by="ann")
    for name, consents in (("kept", ["ann/desk"]), ("refused", [])):  # revoked or not since: people are asked again
        state = State.open(load_config(tmp_path / name / "limen.yaml").config)
        assert [place for place, _ in state.consents.scan("")] == consents
        state.close()


def test_without_keys_nothing_starts_until_they_are_put_back(
    made: tuple[Running, dict[str, Any]], tmp_path: Path
) -> None:
    origin, had = made
    Backup(load_config(origin.config), keys=False, cost=CHEAP).create(tmp_path / "bare.backup", SECRET)
    with Opened(tmp_path / "bare.backup", SECRET) as opened:
        assert not [name for name in opened.manifest["entries"] if name.endswith(".key") or "-keys/" in name]
        assert restore(opened, tmp_path / "bare", by="ann")["log_key"] == ""
    refused = launched.limen("-c", str(tmp_path / "bare" / "limen.yaml"), "serve", "--port", str(free_port()))
    assert refused.returncode == 2 and "restore it" in refused.stderr
    state = origin.directory / "limen-state"
    for name in ("audit.key", "audit.key.pub", "audit-log.key", "audit-log.key.pub"):
        shutil.copy(state / name, tmp_path / "bare" / "limen-state" / name)
    assert json.loads(_limen(tmp_path / "bare", "audit", "verify", "--key", had["first"], "--json"))["ok"]


@pytest.mark.parametrize("where", ["header", "first", "middle", "last", "cut", "more", "passphrase"])
def test_a_file_that_is_not_as_it_was_written_is_refused_before_anything_is_written(
    backup: Path, tmp_path: Path, where: str
) -> None:
    data, secret = bytearray(backup.read_bytes()), SECRET
    if where in ("header", "first", "middle", "last"):
        data[{"header": 20, "first": 60, "middle": len(data) // 2, "last": len(data) - 1}[where]] ^= 1
    elif where == "cut":
        del data[-1000:]
    elif where == "more":
        data += b"x"
    else:
        secret = "another passphrase"
    (tmp_path / "bad").write_bytes(data)
    if where in ("middle", "cut"):  # the program too
        environment = {"LIMEN_BACKUP_PASSPHRASE": secret, "PATH": ""}
        argv = ["backup", "restore", str(tmp_path / "bad"), "--into", str(tmp_path / "out")]
        done = launched.limen(*argv, env=environment)
        assert done.returncode == 2 and "changed or cut off" in done.stderr
    with pytest.raises(NotSealed):
        Opened(tmp_path / "bad", secret)
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_pieces_cannot_be_left_out_exchanged_or_repeated(tmp_path: Path) -> None:
    with (tmp_path / "whole").open("wb") as sink:
        sealed = SealedWriter(sink, SECRET, CHEAP)
        sealed.write(bytes(5 << 19))  # two pieces and a half
        sealed.close()
    data = (tmp_path / "whole").read_bytes()
    head, piece = data[:39], (1 << 20) + 16
    one, two, three = (data[39 + piece * number : 39 + piece * (number + 1)] for number in range(3))
    with (tmp_path / "whole").open("rb") as source:
        reader = SealedReader(source, SECRET, "whole")
        assert reader.read(5 << 19) == bytes(5 << 19)
        reader.finish()
    for number, parts in enumerate(([one, two], [one], [two, one, three], [one, two, two, three], [one, three])):
        (tmp_path / f"{number}").write_bytes(head + b"".join(parts))
        with (tmp_path / f"{number}").open("rb") as source, pytest.raises(NotSealed):
            reader = SealedReader(source, SECRET, "x")
            reader.read(5 << 19)
            reader.finish()


@pytest.mark.parametrize(
    "name",
    [
        "files/../../evil",
        "files//etc/evil",
        "files/a/../../../evil",
        "files/..",
        "/evil",
        "files/a\0b",
        "table/../x",
        "evil",
    ],
)
def test_zip_slip_an_entry_that_leads_out_is_refused_under_the_right_passphrase(tmp_path: Path, name: str) -> None:
    with (tmp_path / "evil.backup").open("wb") as sink:
        sealed = SealedWriter(sink, SECRET, CHEAP)
        raw = name.encode()
        sealed.write(struct.pack(">H", len(raw)) + raw + struct.pack(">I", 1) + b"x" + struct.pack(">I", 0) + bytes(32))
        sealed.close()
    with pytest.raises(NotSealed, match="may not be there"):
        Opened(tmp_path / "evil.backup", SECRET)
    with (tmp_path / "evil.backup").open("rb") as source, pytest.raises(NotSealed):
        list(unpacked(SealedReader(source, SECRET, "x"), "x"))


def test_places_of_the_manifest_do_not_lead_out_either(backup: Path, tmp_path: Path) -> None:
    with Opened(backup, SECRET) as opened:
        opened.manifest["places"]["audit"] = "../../outside"
        with pytest.raises(NotSealed, match="outside"):
            restore(opened, tmp_path / "out", by="ann")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["relative", "absolute", "missing"])
def test_the_name_of_the_configuration_does_not_either(backup: Path, tmp_path: Path, where: str) -> None:
    victim = tmp_path / "authorized_keys"
    victim.write_text("mine")
    name = {"relative": "../authorized_keys", "absolute": str(victim), "missing": "other.yaml"}[where]
    with Opened(backup, SECRET) as opened:
        opened.manifest["config"] = name
        with pytest.raises(NotSealed, match="no configuration" if where == "missing" else "outside"):
            restore(opened, tmp_path / "out", by="ann")
    assert victim.read_text() == "mine"
    assert [one.name for one in tmp_path.iterdir()] == ["authorized_keys"]


def test_entries_the_manifest_does_not_list_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "odd.backup").open("wb") as sink:
        packer = Packer(SealedWriter(sink, SECRET, CHEAP))
        packer.add("files/limen.yaml", [b"x"])
        packer.listed.clear()
        packer.finish({})
    with pytest.raises(NotSealed, match="other entries"):
        Opened(tmp_path / "odd.backup", SECRET)


def test_nothing_is_overwritten(made: tuple[Running, dict[str, Any]], backup: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="already"):
        Backup(load_config(made[0].config), cost=CHEAP).create(backup, SECRET)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with Opened(backup, SECRET) as opened, pytest.raises(ConfigFault, match="not an empty directory"):
        restore(opened, tmp_path / "full", by="ann")
    with pytest.raises(ConfigFault, match="12 characters"):
        Backup(load_config(made[0].config), cost=CHEAP).create(tmp_path / "weak.backup", "short")


_KILLED = """
import os, sys
from pathlib import Path
from limen.config.load import load_config
from limen.backup import Backup
from limen.restore import Opened, restore
what, source, goal, step = sys.argv[1:]
seen = []
def progress(*told):
    seen.append(told)
    if len(seen) == int(step):
        os.kill(os.getpid(), 9)
if what == "create":
    Backup(load_config(source), cost=14).create(Path(goal), "correct horse battery", progress)
else:
    with Opened(Path(source), "correct horse battery") as opened:
        restore(opened, Path(goal), by="ann", progress=progress)
"""


@pytest.mark.parametrize("step", [1, 12, 25])
def test_killed_while_it_is_made_or_restored_leaves_nothing_that_starts(
    made: tuple[Running, dict[str, Any]], backup: Path, tmp_path: Path, step: int
) -> None:
    for what, source, goal in (("create", made[0].config, tmp_path / "b"), ("restore", backup, tmp_path / "r")):
        argv = [sys.executable, "-c", _KILLED, what, str(source), str(goal), str(step)]
        assert subprocess.run(argv, timeout=60).returncode == -signal.SIGKILL
        assert not goal.exists()
        assert not [*tmp_path.rglob("limen.yaml")]
    with Opened(backup, SECRET) as opened:  # and the next attempt is not in its way
        restore(opened, tmp_path / "r", by="ann")
    assert (tmp_path / "r" / "limen.yaml").exists()


def test_a_writer_does_not_disturb_the_snapshot(tmp_path: Path) -> None:
    """Rows are those of one moment, over files and tables, whatever is written meanwhile."""
    from limen.adapters.snapshots import snapshot
    from limen.adapters.sqlite import open_tables

    tables = open_tables(tmp_path / "limen.db", ["marks", "sessions"])
    for number in range(100):
        tables["marks"].put(f"{number:03d}", b"before")
        tables["sessions"].put(f"{number:03d}", b"before")
    with snapshot(tmp_path / "limen.db", ["marks", "sessions"]) as rows:
        for number in range(200):
            tables["marks"].put(f"{number:03d}", b"after")
            tables["sessions"].put(f"{number:03d}", b"after")
        for name in tables:
            assert [(key, value) for key, value, _ in rows(name)] == [(f"{n:03d}", b"before") for n in range(100)]


def _by_key(gateway: Running, key: str) -> int:
    params = {"name": "echo", "arguments": {}, "_meta": META}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    mirrored = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "echo"}
    status: int = gateway.post(message, None, **mirrored, X_API_Key=key)[0]
    return status


def _listed(gateway: Running, session: str) -> int:
    message = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
    headers = {"Mcp_Session_Id": session, "MCP_Protocol_Version": "2025-11-25"}
    status: int = gateway.post(message, gateway.token(), **headers)[0]
    return status


def _limen(directory: Path, *arguments: str) -> str:
    return launched.limen("-c", str(directory / "limen.yaml"), *arguments, check=True).stdout
