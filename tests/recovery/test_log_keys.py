"""The key that signs the log is replaced while records are written; whoever has the first key can still verify it."""

import shutil
import threading
import time
from pathlib import Path

import pytest

from limen.adapters.keys import FileSigner
from limen.audit.ledger import Ledger
from limen.audit.note import NoteError, parse_verifier_key, sign_checkpoint
from limen.audit.pruned import Gone, Pruned, known_pruned, sign_pruned
from limen.audit.signed import SignedRecords
from limen.audit.succession import Trusted, hand_over, place, read_succession, successions
from limen.audit.verify import verify
from limen.config.load import load_config
from limen.core.faults import DependencyFault
from limen.opening import log_key, open_log_signer, open_signer, replace_log_key, settle_log_key


def key(tmp_path: Path, name: str) -> FileSigner:
    return FileSigner.open(tmp_path / f"{name}.key", "limen")


def written(ledger: Ledger, count: int) -> None:
    for number in range(count):
        ledger.append(b'{"n":%d}' % number)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of 600 records under three keys, which is closed."""
    ledger = Ledger.open(tmp_path / "log", key(tmp_path, "a"), fsync_interval=0.01)
    written(ledger, 300)
    ledger.succeed(key(tmp_path, "b"), "planned")
    written(ledger, 300)
    ledger.succeed(key(tmp_path, "c"), "emergency")
    ledger.close_now()
    return tmp_path / "log"


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_any_key_of_the_chain_verifies_the_log(log: Path, tmp_path: Path, name: str) -> None:
    text = key(tmp_path, name).verifier_key
    report = verify(log, text)
    assert report.ok, report.problem
    assert report.size == 600
    assert len(list(SignedRecords(log, text))) == 600
    assert [(one.size, one.why) for one in successions(log)] == [(300, "planned"), (600, "emergency")]


def test_a_key_that_was_replaced_excuses_no_record_that_came_later(log: Path, tmp_path: Path) -> None:
    """OP-02: who stole a former key could have the records of the theft missing "on purpose"."""
    trusted = Trusted(log, parse_verifier_key(key(tmp_path, "c").verifier_key))
    early, late = (Pruned((Gone(0, last, 1.0, ("ann",), "old"),)) for last in (1, 2))
    for name, pruned, believed in (("a", early, True), ("a", late, False), ("b", late, True), ("c", late, True)):
        (log / "pruned").write_bytes(sign_pruned(key(tmp_path, name), pruned))
        if believed:
            assert known_pruned(log, trusted) == pruned
        else:
            with pytest.raises(NoteError, match="after 300"):
                known_pruned(log, trusted)


def test_a_key_of_another_log_does_not(log: Path, tmp_path: Path) -> None:
    assert not verify(log, key(tmp_path, "stranger").verifier_key).ok


def test_records_are_taken_while_the_key_is_replaced(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "log", key(tmp_path, "k0"), fsync_interval=0.01)
    stop, failed = threading.Event(), list[Exception]()

    def write() -> None:
        while not stop.is_set():
            try:
                ledger.append(b"x")
                time.sleep(0.0005)
            except DependencyFault as fault:
                failed.append(fault)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 6):
        ledger.succeed(key(tmp_path, f"k{number}"), "planned")
    stop.set()
    for thread in threads:
        thread.join()
    ledger.close_now()
    assert not failed
    assert verify(tmp_path / "log", key(tmp_path, "k0").verifier_key).ok
    assert len(successions(tmp_path / "log")) == 5


def test_the_former_key_signs_nothing_more(log: Path, tmp_path: Path) -> None:
    """OP-02: who stole the former key and rewrites the end of the log is found, as the chain says where it ended."""
    former = key(tmp_path, "a")
    trusted = Trusted(log, parse_verifier_key(key(tmp_path, "c").verifier_key))
    trusted.open(sign_checkpoint(former, 300, bytes(32)))  # as far as it went
    with pytest.raises(NoteError, match="replaced at record 300"):
        trusted.open(sign_checkpoint(former, 301, bytes(32)))
    (log / "checkpoint").write_bytes(sign_checkpoint(former, 600, bytes(32)))
    assert "replaced at record 300" in verify(log, former.verifier_key).problem
    with pytest.raises(DependencyFault, match="was replaced by"):
        Ledger.open(log, former)


def test_an_earlier_checkpoint_by_a_former_key_is_compared(log: Path, tmp_path: Path) -> None:
    text = key(tmp_path, "a").verifier_key
    assert not verify(log, text, at_least=sign_checkpoint(key(tmp_path, "a"), 200, bytes(32))).ok  # another root
    other = Ledger.open(tmp_path / "other", key(tmp_path, "a"), fsync_interval=0.01)
    written(other, 300)
    other.close_now()
    assert verify(log, text, at_least=(tmp_path / "other" / "checkpoint").read_bytes()).ok


@pytest.mark.parametrize("damage", ["dropped", "exchanged", "unsigned", "forged"])
def test_a_damaged_chain_is_found(log: Path, tmp_path: Path, damage: str) -> None:
    first, second = log / place(1), log / place(2)
    if damage == "dropped":
        second.unlink()
    elif damage == "exchanged":
        one, two = first.read_bytes(), second.read_bytes()
        first.write_bytes(two)
        second.write_bytes(one)
    elif damage == "unsigned":
        first.write_bytes(first.read_bytes().rsplit(b"\n", 2)[0] + b"\n")
    else:
        first.write_bytes(first.read_bytes().replace(b"\n300\n", b"\n999\n"))
    assert not verify(log, key(tmp_path, "a").verifier_key).ok


def test_a_thief_without_the_former_key_cannot_hand_over(tmp_path: Path) -> None:
    thief, owner = key(tmp_path, "thief"), key(tmp_path, "owner")
    note = hand_over(thief, owner, 5, 1.0, "planned")
    stolen = note.replace(thief.verifier_key.encode(), owner.verifier_key.encode(), 1)
    with pytest.raises(NoteError):
        read_succession(stolen)
    assert read_succession(note).size == 5


def test_an_interrupted_change_is_finished_by_the_next_start(log: Path, tmp_path: Path) -> None:
    """The note is on disk and the checkpoint is still the former key's: killed in between."""
    copy = tmp_path / "copy"
    ledger = Ledger.open(copy, key(tmp_path, "a"), fsync_interval=0.01)
    written(ledger, 10)
    ledger.close_now()
    (copy / "keys").mkdir()
    (copy / place(1)).write_bytes(hand_over(key(tmp_path, "a"), key(tmp_path, "b"), 10, 1.0, "planned"))
    again = Ledger.open(copy, key(tmp_path, "b"), fsync_interval=0.01)
    written(again, 5)
    again.close_now()
    assert verify(copy, key(tmp_path, "a").verifier_key).size == 15
    shutil.rmtree(copy / "keys")
    assert not verify(copy, key(tmp_path, "a").verifier_key).ok


def test_a_key_that_was_not_put_in_its_place_yet_is_found_and_kept(tmp_path: Path) -> None:
    """Killed between the note and the rename: readers find it, the writer settles it, and nothing destroys it."""
    config = load_config(_configured(tmp_path)).config
    ledger = Ledger.open(config.audit.path, open_log_signer(config), fsync_interval=0.01)
    written(ledger, 3)
    draft = log_key(config).with_name(log_key(config).name + ".next")
    wanted = FileSigner.open(draft, "limen")
    ledger.succeed(wanted, "planned")
    assert open_log_signer(config).verifier_key == wanted.verifier_key
    assert draft.exists()  # who only reads moves nothing
    newest = replace_log_key(config, ledger, "planned").verifier_key
    assert open_log_signer(config).verifier_key == newest
    ledger.close_now()
    settle_log_key(config)
    assert not draft.exists()
    assert verify(config.audit.path, open_signer(config).verifier_key).size == 3


def _configured(tmp_path: Path) -> Path:
    path = tmp_path / "limen.yaml"
    path.write_text("identity: {unsafe_anonymous: true}\n")
    return path
