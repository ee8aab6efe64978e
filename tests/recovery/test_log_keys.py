"""The key that signs the log is replaced while records are written; whoever has the first key can still verify it."""

import shutil
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import limen.audit.ledger
from limen import opening
from limen.adapters.keys import FileSigner
from limen.audit.ledger import Ledger
from limen.audit.note import NoteError, VerifierKey, open_checkpoint, sign_checkpoint
from limen.audit.prune import pruning
from limen.audit.pruned import Gone, Pruned, known_pruned, sign_pruned
from limen.audit.publish import Publisher
from limen.audit.signed import SignedRecords, Untrusted
from limen.audit.succession import hand_over, place, read_succession, successions, trusted
from limen.audit.tiles import ENTRIES, tile_path
from limen.audit.verify import verify
from limen.cli.main import app
from limen.config.load import load_config
from limen.core.faults import ConfigFault, DependencyFault
from limen.opening import log_key, open_log_signer, open_signer, replace_log_key, settle_log_key


def key(tmp_path: Path, name: str) -> FileSigner:
    return FileSigner.open(tmp_path / f"{name}.key", "limen")


def key_of(signer: FileSigner) -> VerifierKey:
    return VerifierKey(signer.name, signer.public_key)


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


def test_a_key_that_was_replaced_excuses_no_missing_record(log: Path, tmp_path: Path) -> None:
    """OP-02: who stole a former key could have records missing "on purpose", those from before its end as well."""
    known = trusted(log, key_of(key(tmp_path, "c")))
    pruned = Pruned((Gone(0, 1, 1.0, ("ann",), "old"),))
    for name in ("a", "b"):
        (log / "pruned").write_bytes(sign_pruned(key(tmp_path, name), pruned))
        with pytest.raises(NoteError, match="not signed by"):
            known_pruned(log, known)
        assert "not signed by" in verify(log, key(tmp_path, "a").verifier_key).problem
    (log / "pruned").write_bytes(sign_pruned(key(tmp_path, "c"), pruned))
    assert known_pruned(log, known) == pruned


def test_what_a_key_removed_in_its_time_stays_removed(tmp_path: Path) -> None:
    """The note counts as the former key left it, through several changes of keys, and as nothing else."""
    ledger = Ledger.open(tmp_path / "log", key(tmp_path, "a"), fsync_interval=0.01)
    written(ledger, 600)
    notes = [sign_pruned(key(tmp_path, "a"), Pruned((Gone(0, last, 1.0, ("ann",), "old"),))) for last in (1, 2)]
    (tmp_path / "log" / "pruned").write_bytes(notes[0])
    ledger.succeed(key(tmp_path, "b"), "planned")
    ledger.succeed(key(tmp_path, "c"), "planned")
    ledger.close_now()
    (tmp_path / "log" / tile_path(ENTRIES, 0)).unlink()
    report = verify(tmp_path / "log", key(tmp_path, "a").verifier_key)
    assert (report.ok, report.pruned) == (True, 256)
    Ledger.open(tmp_path / "log", key(tmp_path, "c"), fsync_interval=0.01).close_now()
    (tmp_path / "log" / "pruned").write_bytes(notes[1])
    with pytest.raises(DependencyFault, match="not signed by"):
        Ledger.open(tmp_path / "log", key(tmp_path, "c"), fsync_interval=0.01)


@pytest.mark.parametrize("count", [0, 200, 300])
def test_who_stole_a_former_key_cannot_write_another_past(log: Path, tmp_path: Path, count: int) -> None:
    """OP-02: a shorter log of other records, signed by a key that was replaced, with the true chain beside it."""
    other = Ledger.open(tmp_path / "other", key(tmp_path, "a"), fsync_interval=0.01)
    for number in range(count):
        other.append(b'{"forged":%d}' % number)
    other.close_now()
    shutil.copytree(log / "keys", tmp_path / "other" / "keys")
    for name in ("a", "b", "c"):
        assert "replaced at record 300" in verify(tmp_path / "other", key(tmp_path, name).verifier_key).problem
    with pytest.raises(Untrusted, match="replaced"):
        SignedRecords(tmp_path / "other", key(tmp_path, "c").verifier_key)
    with pytest.raises(DependencyFault, match="replaced at record 300"):
        Ledger.open(tmp_path / "other", key(tmp_path, "c"))


def test_a_log_that_was_set_back_behind_its_first_change_of_keys_is_not_opened(tmp_path: Path) -> None:
    """OP-02: the directory as it was before, or an empty one, would be signed by the former key again."""
    config = load_config(_configured(tmp_path)).config
    ledger = Ledger.open(config.audit.path, open_log_signer(config), fsync_interval=0.01)
    written(ledger, 3)
    shutil.copytree(config.audit.path, tmp_path / "before")
    replace_log_key(config, ledger, "emergency")
    ledger.close_now()
    Ledger.open(config.audit.path, open_log_signer(config)).close_now()
    shutil.rmtree(config.audit.path)
    with pytest.raises(ConfigFault, match="set back or emptied"):
        open_log_signer(config)
    shutil.copytree(tmp_path / "before", config.audit.path)
    with pytest.raises(ConfigFault, match="set back or emptied"):
        open_log_signer(config)


def test_commands_hold_our_own_log_to_the_key_that_signs_it_now(tmp_path: Path) -> None:
    """Not to the first one, with which a thief of it could begin another chain; nor need that one still be there."""
    path = _configured(tmp_path)
    path.chmod(0o600)
    config = load_config(path).config
    verifying = ["-c", str(path), "audit", "verify", "--json"]
    ledger = Ledger.open(config.audit.path, open_log_signer(config), fsync_interval=0.01)
    written(ledger, 3)
    ledger.close_now()
    assert CliRunner().invoke(app, verifying).exit_code == 0
    shutil.copytree(config.audit.path, tmp_path / "before")
    ledger = Ledger.open(config.audit.path, open_log_signer(config), fsync_interval=0.01)
    replace_log_key(config, ledger, "planned")
    ledger.close_now()
    for former in (config.audit.key, config.audit.key.with_name(f"{config.audit.key.name}.pub")):
        former.unlink()
    assert CliRunner().invoke(app, verifying).exit_code == 0
    shutil.rmtree(config.audit.path)
    shutil.copytree(tmp_path / "before", config.audit.path)
    assert CliRunner().invoke(app, verifying).exit_code == 1


def test_a_key_is_not_replaced_while_records_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The former key's note about them would be believed by nobody."""
    monkeypatch.setattr(opening, "_PATIENCE", 0.1)
    config = load_config(_configured(tmp_path)).config
    ledger = Ledger.open(config.audit.path, open_log_signer(config), fsync_interval=0.01)
    with pruning(config.audit.path), pytest.raises(DependencyFault, match="removing old records"):
        replace_log_key(config, ledger, "planned")
    assert not successions(config.audit.path)
    replace_log_key(config, ledger, "planned")
    ledger.close_now()
    assert len(successions(config.audit.path)) == 1


def test_a_change_that_the_disk_delays_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said to have failed and done all the same, the log would go on under a key nobody kept."""
    ledger = Ledger.open(tmp_path / "log", key(tmp_path, "a"), fsync_interval=0.01)
    written(ledger, 3)
    begun, succeed, asked = threading.Event(), Publisher.succeed, limen.audit.ledger._Successor

    class Impatient(threading.Event):
        """Has waited long enough as soon as the change was begun."""

        def wait(self, timeout: float | None = None) -> bool:
            return super().wait() if timeout is None else not begun.wait(60)

    def slow(self: Publisher, signer: FileSigner, why: str) -> None:
        begun.set()
        time.sleep(0.2)
        succeed(self, signer, why)

    monkeypatch.setattr(Publisher, "succeed", slow)
    monkeypatch.setattr(limen.audit.ledger, "_Successor", lambda signer, why, done: asked(signer, why, Impatient()))
    ledger.succeed(key(tmp_path, "b"), "planned")
    assert len(successions(tmp_path / "log")) == 1
    ledger.close_now()


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
    known = trusted(log, key_of(key(tmp_path, "c")))
    known.earlier(sign_checkpoint(former, 300, bytes(32)))  # as far as it went, for who kept it
    with pytest.raises(NoteError, match="replaced at record 300"):
        known.earlier(sign_checkpoint(former, 301, bytes(32)))
    with pytest.raises(NoteError, match="replaced at record 300"):
        known.present(sign_checkpoint(former, 300, bytes(32)))
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
    note = hand_over(thief, owner, 5, bytes(32), 1.0, "planned")
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
    root = open_checkpoint((copy / "checkpoint").read_bytes(), key_of(key(tmp_path, "a"))).root
    (copy / place(1)).write_bytes(hand_over(key(tmp_path, "a"), key(tmp_path, "b"), 10, root, 1.0, "planned"))
    assert verify(copy, key(tmp_path, "b").verifier_key).ok
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
