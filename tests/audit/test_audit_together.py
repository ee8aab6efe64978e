"""A log whose key was replaced, that was pruned, under a name with a suffix: all that reads a log reads this one."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from limen.adapters.keys import FileSigner
from limen.audit.bundle_check import Wrong, check
from limen.audit.evidence import bundle, prove
from limen.audit.ledger import Ledger
from limen.audit.note import VerifierKey, parse_verifier_key, sign_checkpoint
from limen.audit.proofs import Prover, check_proof, read_proof
from limen.audit.prune import Pruning
from limen.audit.retention import RetentionSettings
from limen.audit.signed import SignedRecords
from limen.audit.succession import place
from limen.audit.tree import leaf_hash
from limen.audit.verify import verify
from limen.backup import Backup
from limen.cli.main import app
from limen.config.load import load_config
from limen.logbook import Logbook
from limen.opening import open_log_signer, open_signer, replace_log_key
from limen.restore import Opened, restore
from limen.storage import State

DAY, PASSPHRASE = 86_400.0, "correct horse battery"


class Gateway:
    """What is left of one that wrote 600 records in 40 days, replaced the key of its log, and removed the first 256.

    `key` is the one that is written down on the first day."""

    def __init__(self, directory: Path, suffixed: bool) -> None:
        self.file = directory / "limen.yaml"
        self.file.write_text("audit: {retention: {days: 20}}\nidentity: {unsafe_anonymous: true}\n")
        self.file.chmod(0o600)
        self.config = load_config(self.file).config
        self.state, self.said = State.open(self.config), list[str]()
        base = open_signer(self.config)
        if suffixed:  # another replica was here first
            other = VerifierKey(base.name, base.public_key)
            self.logs = Logbook(self.config, base, base, self.state, self.said.append)._logs
            self.logs.enter(directory / "elsewhere", other, other, "host", time.time())
            self.state.logs.swap("log/limen", self.state.logs.get("log/limen"), None)
            (self.config.audit.path / "id").unlink()
            self.logs.enter(directory / "elsewhere", other, other, "host", time.time())
        book = self.logbook()
        self.log, self.key = book.head.name, base.verifier_key
        ledger, now = Ledger.open(self.config.audit.path, book.signer, fsync_interval=60), time.time()
        for number in range(600):
            if number == 400:
                replace_log_key(self.config, ledger, "planned")
            at = now - (599 - number) * 40 * DAY / 600
            ledger.append(orjson.dumps({"t": "intent", "ts": at, "sub": "ann", "number": number}))
        ledger.close_now()
        self.state.cursors.put(f"watch/{self.log}/index", b"600")
        book.close()

    def logbook(self) -> Logbook:
        base = open_signer(self.config)
        return Logbook(self.config, base, open_log_signer(self.config), self.state, self.said.append)

    def limen(self, *arguments: str, status: int = 0) -> str:
        done = CliRunner().invoke(app, ["-c", str(self.file), *arguments])
        assert done.exit_code == status, (done.output, done.stderr)
        return done.stdout

    @property
    def path(self) -> Path:
        return self.config.audit.path


@pytest.fixture(scope="module", params=[False, True], ids=["first", "suffixed"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    made = Gateway(tmp_path_factory.mktemp("gateway"), request.param)
    assert made.log.startswith("limen/") is request.param
    made.limen("audit", "prune", "--by", "carol")  # with the key that signs now
    return made


def test_the_first_key_verifies_it(gateway: Gateway) -> None:
    """I2, J3: by the command, and record by record."""
    shown = json.loads(gateway.limen("audit", "verify", "--json", "--key", gateway.key))
    assert (shown["ok"], shown["size"], shown["pruned"], shown["log"]) == (True, 600, 256, gateway.log)
    stranger = FileSigner.open(gateway.file.with_name("stranger.key"), "limen").verifier_key
    assert not json.loads(gateway.limen("audit", "verify", "--json", "--key", stranger, status=1))["ok"]


def test_a_record_of_it_is_proven_by_the_key_that_signs_now(gateway: Gateway) -> None:
    gateway.limen("audit", "prove", f"{gateway.log}:300", "--out", str(gateway.file.with_name("proof")))
    now = gateway.limen("audit", "key").strip()
    gateway.limen("audit", "verify-proof", str(gateway.file.with_name("proof")), "--key", now)
    gateway.limen("audit", "prove", "10", status=1)  # removed
    first = VerifierKey(gateway.log, parse_verifier_key(gateway.key).public_key)
    prover = Prover(gateway.path, first)
    assert check_proof(read_proof(prover.prove(599).text()), prover.key).size == 600


def test_it_is_witnessed_from_one_key_to_the_next(gateway: Gateway) -> None:
    """Its own next start goes on, and the statement over all logs follows."""
    told: list[str] = []
    book = gateway.logbook()
    book.turn(lambda event, fields: told.append(event))
    book.close()
    assert (told, gateway.said) == (["witnessed"], [])
    note = gateway.file.with_name("witness.note")
    note.unlink(missing_ok=True)
    gateway.limen("audit", "witness", "--out", str(note))
    shown = gateway.limen("audit", "verify", "--witness", str(note), "--key", gateway.key, "--json")
    assert json.loads(shown)["ok"]


def test_evidence_of_it_is_verified_by_the_first_key(gateway: Gateway) -> None:
    """J5: the notes that lead from that key to the one that signed travel with it, and hold."""
    first = VerifierKey(gateway.log, parse_verifier_key(gateway.key).public_key).text
    proven = prove(gateway.path, first, lambda index, record: index in (256, 300, 599))
    assert [index for index, _, _ in proven.records] == [256, 300, 599]
    assert (proven.pruned, len(proven.chain)) == (256, 1)
    about = {"id": "i1", "title": "Odd", "created": 1.0}
    signer = open_signer(gateway.config)
    made = bundle(signer, about, [proven], {})
    found = check(made, [gateway.key])
    assert (found["records"], found["vouched"]) == (3, [])
    stranger = FileSigner.open(gateway.file.with_name("stranger.key"), "limen")
    assert check(bundle(stranger, about, [proven], {}), [stranger.verifier_key])["vouched"] == [gateway.log]
    unled = replace(proven, chain=())  # nothing leads from that key to the one that signed
    assert check(bundle(signer, about, [unled], {}), [gateway.key])["vouched"] == [gateway.log]


def test_what_the_former_key_signed_afterwards_is_no_evidence(gateway: Gateway) -> None:
    """OP-02: the note says where the former key ended."""
    former = open_signer(gateway.config).named(gateway.log)
    chain = (gateway.path / place(1)).read_bytes()
    proven = prove(gateway.path, former.verifier_key, lambda index, record: False)
    forged = replace(
        proven, key=former.verifier_key, note=sign_checkpoint(former, 401, leaf_hash(b"x")), size=401, chain=(chain,)
    )
    with pytest.raises(Wrong, match="had been replaced"):
        check(
            bundle(open_signer(gateway.config), {"id": "i", "title": "", "created": 1.0}, [forged], {}), [gateway.key]
        )


def test_a_backup_of_it_opens_again(gateway: Gateway, tmp_path: Path) -> None:
    """J4: with the note about removed records, under its name, and its index is filled anew."""
    Backup(load_config(gateway.file), cost=14).create(tmp_path / "b", PASSPHRASE)
    with Opened(tmp_path / "b", PASSPHRASE) as opened:
        restore(opened, tmp_path / "again", by="carol")
    config = load_config(tmp_path / "again" / "limen.yaml").config
    first = VerifierKey(gateway.log, parse_verifier_key(gateway.key).public_key).text
    report = verify(config.audit.path, first)
    assert (report.ok, report.size, report.pruned) == (True, 601, 256), report.problem
    assert len(list(SignedRecords(config.audit.path, first))) == 345
    state = State.open(config)
    assert state.cursors.get(f"watch/{gateway.log}/index") is None
    said: list[str] = []
    book = Logbook(config, open_signer(config), open_log_signer(config), state, said.append)
    assert book.head.name == gateway.log
    ledger = Ledger.open(config.audit.path, book.signer)
    ledger.close_now()
    book.turn(lambda event, fields: None)
    assert said == []
    assert Pruning(config.audit.path, book.signer, RetentionSettings(days=20), state.logs, state.cursors).log
    state.close()
