"""Records that conclusions are drawn from: exactly those that were signed, or none (I2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from limen.adapters.keys import FileSigner
from limen.audit.attestation import Attestation, read_attestation, sign
from limen.audit.ledger import Ledger
from limen.audit.note import NoteError, VerifierKey, sign_note
from limen.audit.read import CHECKPOINT
from limen.audit.signed import SignedRecords, Untrusted

RECORDS = [f'{{"n":{number},"pad":"{"x" * (number % 7)}"}}'.encode() for number in range(600)]
STATEMENT = Attestation("ann", 1.5, "q1", "p" * 64, "c" * 64, "r" * 64, 600, "0" * 64, 0.0, 2.0, 3)


@pytest.fixture
def signer(tmp_path: Path) -> FileSigner:
    return FileSigner.open(tmp_path / "key", "log.example/audit")


@pytest.fixture
def log(tmp_path: Path, signer: FileSigner) -> Path:
    ledger = Ledger.open(tmp_path / "log", signer, fsync_interval=3600.0)
    for record in RECORDS:
        ledger.append(record)
    ledger.close_now()
    return tmp_path / "log"


def test_an_honest_log_is_read_whole(log: Path, signer: FileSigner) -> None:
    records = SignedRecords(log, signer.verifier_key)
    assert (records.size, list(records), records.later) == (600, RECORDS, 0)
    assert list(records) == RECORDS  # and again


def test_an_empty_log_is_sound(tmp_path: Path, signer: FileSigner) -> None:
    Ledger.open(tmp_path / "log", signer).close_now()
    assert list(SignedRecords(tmp_path / "log", signer.verifier_key)) == []


@pytest.mark.parametrize("place", [0, 100, 255, 256, 511, 512, 599])
def test_one_changed_record_spoils_all(log: Path, signer: FileSigner, place: int) -> None:
    old, new = RECORDS[place], RECORDS[place].replace(b'"n":', b'"m":')
    changed = 0
    for path in log.rglob("*"):
        if path.is_file() and old in (data := path.read_bytes()):
            path.write_bytes(data.replace(old, new))
            changed += 1
    assert changed
    with pytest.raises(Untrusted, match="not those that were signed"):
        list(SignedRecords(log, signer.verifier_key))


def test_records_in_another_order_or_missing_are_not_believed(log: Path, signer: FileSigner) -> None:
    bundles = sorted(path for path in (log / "tile" / "entries").rglob("*") if path.is_file())
    first, second = bundles[0].read_bytes(), bundles[1].read_bytes()
    bundles[0].write_bytes(second)
    bundles[1].write_bytes(first)
    with pytest.raises(Untrusted, match="not those that were signed"):
        list(SignedRecords(log, signer.verifier_key))
    bundles[0].unlink()
    with pytest.raises(Untrusted, match="records from 0 on are missing"):
        list(SignedRecords(log, signer.verifier_key))


def test_only_our_checkpoint_counts(log: Path, signer: FileSigner, tmp_path: Path) -> None:
    other = FileSigner.open(tmp_path / "other", "log.example/audit")
    for key in (other.verifier_key, "nonsense"):
        with pytest.raises(Untrusted, match="must not be believed"):
            SignedRecords(log, key)
    (log / CHECKPOINT).write_bytes((log / CHECKPOINT).read_bytes().replace(b"\n600\n", b"\n599\n"))
    with pytest.raises(Untrusted, match="must not be believed"):
        SignedRecords(log, signer.verifier_key)


def test_an_attestation_says_what_was_signed_and_nothing_else(signer: FileSigner) -> None:
    key = VerifierKey(signer.name, signer.public_key)
    note = sign(signer, STATEMENT)
    assert read_attestation(note, key) == STATEMENT
    text = note.decode().partition("\n\n")[0]
    for forged in (
        note.replace(b'"by":"ann"', b'"by":"bob"'),
        sign_note(signer, f"{text}\nmore\n"),
        sign_note(signer, "limen.catalog/decision/1\n{}\n"),
        sign_note(signer, "limen.access/review/1\n{}\n"),
        sign_note(signer, text.replace('"changes":3', '"changes":true') + "\n"),
        sign_note(signer, text.replace('"changes":3', '"changes": 3') + "\n"),
        sign_note(signer, text.replace('"by":"ann",', "") + "\n"),
        b"",
    ):
        with pytest.raises(NoteError):
            read_attestation(forged, key)
