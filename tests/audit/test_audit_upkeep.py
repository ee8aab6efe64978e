"""What a gateway does for its log by itself; and what destroying a person's key does to it."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from limen.adapters.keys import FileSigner
from limen.audit.events import read_event
from limen.audit.index import Query, row_of
from limen.audit.ledger import Ledger
from limen.audit.note import VerifierKey, parse_verifier_key
from limen.audit.proofs import Prover, check_proof, read_proof
from limen.audit.pruned import Gone, Pruned, sign_pruned
from limen.audit.read import read
from limen.audit.verify import verify
from limen.cli.main import app
from limen.config.load import load_config
from limen.config.model import Config
from limen.core.events import Event
from limen.core.faults import DependencyFault
from limen.core.ports import owner_of
from limen.logbook import Logbook
from limen.opening import open_log_signer, open_signer, open_vault
from limen.storage import State, open_index
from limen.watching import Watcher

DAY = 86_400.0


class Home:
    """A configuration, its state, and a log of forty days whose last record was written now."""

    def __init__(self, directory: Path, **audit: Any) -> None:
        path = directory / "limen.yaml"
        path.write_text(json.dumps({"audit": audit}))
        path.chmod(0o600)
        self.path = path
        self.config: Config = load_config(path).config
        self.state, self.signer = State.open(self.config), open_signer(self.config)
        self.said, self.told = list[str](), list[tuple[str, Mapping[str, Any]]]()
        self.logbook = Logbook(self.config, self.signer, open_log_signer(self.config), self.state, self.said.append)

    def fill(self, count: int = 1024) -> None:
        ledger = Ledger.open(self.config.audit.path, self.logbook.signer, fsync_interval=60)
        now = time.time()
        for number in range(count):
            at = now - (count - 1 - number) * 40 * DAY / count
            ledger.append(orjson.dumps({"t": "intent", "ts": at, "sub": "alice", "number": number}))
        ledger.close_now()
        self.state.cursors.put(f"watch/{self.logbook.signer.name}/index", str(count).encode())

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        self.told.append((event, fields))

    @property
    def key(self) -> VerifierKey:
        return parse_verifier_key(self.logbook.signer.verifier_key)

    def turn(self) -> None:
        """Its duties once."""
        self.logbook.turn(self.record)


def test_what_is_too_old_goes_from_the_log_and_from_its_index_by_itself(tmp_path: Path) -> None:
    home = Home(tmp_path, retention={"days": 15})
    home.fill()
    index = open_index(home.config)
    index.add([row_of(read_event("limen", number, raw)) for number, raw in read(home.config.audit.path)])
    home.turn()
    assert [event for event, _ in home.told] == ["witnessed", "pruned"]
    assert home.told[1][1]["ranges"] == [[0, 512]]
    assert [number for number, _ in read(home.config.audit.path)] == list(range(512, 1024))
    assert index.count(Query(caller="alice")) == 512
    report = verify(home.config.audit.path, home.signer.verifier_key)
    assert (report.ok, report.pruned) == (True, 512), report.problem
    assert home.said == []
    index.close()


@pytest.mark.parametrize("audit", [{}, {"retention": {"days": 15}, "deleters": 2}])
def test_nothing_goes_by_itself_without_a_bound_or_where_two_must_agree(tmp_path: Path, audit: dict[str, Any]) -> None:
    home = Home(tmp_path, **audit)
    home.fill()
    home.turn()
    assert [event for event, _ in home.told] == ["witnessed"]
    assert len(list(read(home.config.audit.path))) == 1024


def test_op_02_a_log_that_was_set_back_is_told_of_once_and_nothing_is_removed(tmp_path: Path) -> None:
    home = Home(tmp_path, retention={"days": 15}, deleters=2)
    home.fill(300)
    shutil.copytree(home.config.audit.path, tmp_path / "older")
    home.fill(600)
    home.turn()
    shutil.rmtree(home.config.audit.path)
    shutil.copytree(tmp_path / "older", home.config.audit.path)
    again = Home(tmp_path, retention={"days": 15}, witness=5)
    again.turn()
    assert [event for event, _ in again.told] == ["tampered"]
    assert "rolled back" in again.said[0]
    assert len(again.said) == 1
    assert len(list(read(again.config.audit.path))) == 300


def test_op_02_a_gateway_whose_name_was_taken_stops(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.fill(10)
    other = Home(tmp_path)
    with pytest.raises(DependencyFault, match="took the log's name"):
        asyncio.run(asyncio.wait_for(home.logbook.run(home.record), 20))
    other.turn()
    assert other.said == []


def test_who_begins_to_watch_a_pruned_log_begins_where_it_begins(tmp_path: Path) -> None:
    home = Home(tmp_path, retention={"days": 15})
    home.fill()
    home.turn()
    seen = list[int]()

    class Seer:
        name = "late"

        def see(self, event: Event) -> None:
            seen.append(event.index)

        def settle(self, now: float) -> None:
            pass

    async def watched() -> None:
        watcher = Watcher(home.config.audit.path, home.key, [Seer()], home.state.cursors, home.said.append, home.record)
        task = asyncio.create_task(watcher.run())
        while len(seen) < 512:
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(watched(), 30))
    assert seen == list(range(512, 1024))


def test_i2_proofs_stay_valid_when_a_persons_key_is_destroyed(tmp_path: Path) -> None:
    """What was sealed for a person is gone for good; that it was recorded, when, and unchanged, is not."""
    home = Home(tmp_path)
    vault, owner = open_vault(home.config, home.state), owner_of("https://id.example", "alice")
    sealed = vault.seal(owner, "audit/1", b'{"query":"planted-argument-71c2"}')
    other = vault.seal(owner_of("https://id.example", "bob"), "audit/2", b"{}")
    ledger = Ledger.open(home.config.audit.path, home.logbook.signer, fsync_interval=60)
    for who, box in (("alice", sealed), ("bob", other)):
        ledger.append(orjson.dumps({"t": "intent", "ts": 1.0, "sub": who, "sealed": box.hex()}))
    ledger.close_now()
    key = parse_verifier_key(home.signer.verifier_key)
    before = Prover(home.config.audit.path, key).prove(0).text()
    assert b"planted-argument" in vault.open(owner, "audit/1", sealed)

    shred = ["vault", "shred", "alice", "--issuer", "https://id.example", "--yes", "--reason", "asked to"]
    done = CliRunner().invoke(app, ["-c", str(home.path), *shred])
    assert done.exit_code == 0, done.output

    with pytest.raises(DependencyFault):
        open_vault(home.config, home.state).open(owner, "audit/1", sealed)
    assert open_vault(home.config, home.state).open(owner_of("https://id.example", "bob"), "audit/2", other) == b"{}"
    assert verify(home.config.audit.path, home.signer.verifier_key).ok
    for proof in (read_proof(before), Prover(home.config.audit.path, key).prove(0)):
        assert check_proof(proof, key).size == 2
        assert b"planted-argument" not in proof.record
    shown = CliRunner().invoke(app, ["-c", str(home.path), "audit", "export", "--person", "alice", "--proof"])
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [row["id"] for row in rows] == ["limen:0"]


@pytest.mark.parametrize("signed", [False, True])
def test_op_02_a_note_that_excuses_missing_records_is_found_at_once(tmp_path: Path, signed: bool) -> None:
    home = Home(tmp_path, deleters=2)
    home.fill()
    home.turn()
    thief = FileSigner.open(tmp_path / "thief.key", "limen")
    note = sign_pruned(home.logbook.signer if signed else thief, Pruned((Gone(0, 1, 1.0, ("ann",), "old"),)))
    (home.config.audit.path / "pruned").write_bytes(note)
    home.turn()
    assert [event for event, _ in home.told] == (["witnessed"] if signed else ["witnessed", "tampered"])
    assert home.said == ([] if signed else [f"log: not signed by the key {home.key.name}+{home.key.id.hex()}"])


@pytest.mark.parametrize("back", ["older", "gone"])
def test_op_02_a_statement_that_is_set_back_is_found(tmp_path: Path, back: str) -> None:
    """Whoever sets a log back must set back what was stated of it as well: running replicas remember."""
    home = Home(tmp_path, deleters=2, witness=5)
    home.fill(300)
    home.turn()
    older = home.state.logs.get("witness")
    home.logbook._witnessed = -1e9
    home.turn()
    home.turn()
    assert [event for event, _ in home.told] == ["witnessed", "witnessed"]
    newest = home.state.logs.get("witness")
    home.state.logs.swap("witness", newest, older if back == "older" else None)
    home.turn()
    assert [event for event, _ in home.told] == ["witnessed", "witnessed", "tampered"]
    assert "set back" in home.said[0] if back == "older" else "gone" in home.said[0]
    home.state.logs.swap("witness", home.state.logs.get("witness"), newest)
    home.turn()
    assert home.said[1:] == ["log: kept up again"]


def test_what_is_exported_of_a_person_commands_no_terminal(tmp_path: Path) -> None:
    """The other half: the words themselves are all there."""
    home, agent = Home(tmp_path), "desk\u009b2J\u202e\x1b]0;x\x07"
    ledger = Ledger.open(home.config.audit.path, home.logbook.signer, fsync_interval=60)
    ledger.append(orjson.dumps({"t": "intent", "ts": 1.0, "sub": "alice", "agent": agent}))
    ledger.close_now()
    found = CliRunner().invoke(app, ["-c", str(home.path), "audit", "export", "--person", "alice"])
    assert found.exit_code == 0, found.output
    assert found.stdout.isascii()
    assert "\x1b" not in found.stdout
    assert json.loads(found.stdout)["record"]["agent"] == agent
