"""Several replicas, each with a log of its own name; one signed statement over all finds the one that was set back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from limen.adapters.keys import FileSigner
from limen.adapters.sqlite import open_tables
from limen.audit.ledger import Ledger
from limen.audit.logs import LIVE, Head, Logs, head_of, key_of
from limen.audit.note import NoteError, VerifierKey, parse_verifier_key
from limen.audit.witness import RolledBack, Seen, Statement, advance, read_statement, sign_statement
from limen.core.faults import ConfigFault, DependencyFault
from limen.core.ports import Table

NOW = 1_800_000_000.0


class Replicas:
    """Replicas that share a key and a table."""

    def __init__(self, home: Path) -> None:
        self.home, self.signer = home, FileSigner.open(home / "key", "limen")
        self.table: Table = open_tables(home / "limen.db", ("logs",))["logs"]
        self.logs = Logs(self.table)
        self.key = parse_verifier_key(self.signer.verifier_key)

    def enter(self, name: str, host: str = "host", now: float = NOW, signer: FileSigner | None = None) -> Head:
        key = VerifierKey("limen", (signer or self.signer).public_key)
        return self.logs.enter(self.home / name, key, key, host, now)

    def grow(self, head: Head, directory: str, count: int, text: bytes = b"x") -> None:
        ledger = Ledger.open(self.home / directory, self.signer.named(head.name), fsync_interval=60)
        for number in range(count):
            ledger.append(b'{"t":"%s","number":%d}' % (text, number))
        ledger.close_now()

    def heads(self, last: Statement | None, **directories: Head) -> list[Head]:
        found = []
        for directory, head in directories.items():
            seen = last.seen(head.name) if last is not None else None
            key = key_of(self.home / directory, self.key)
            found.append(head_of(self.home / directory, key, 0 if seen is None else seen.size))
        return found


@pytest.fixture
def replicas(tmp_path: Path) -> Replicas:
    return Replicas(tmp_path)


def test_each_log_has_a_name_of_its_own_and_keeps_it(replicas: Replicas) -> None:
    one, two = replicas.enter("a"), replicas.enter("b")
    assert one.name == "limen"
    assert two.name.startswith("limen/")
    replicas.grow(two, "b", 3)
    assert replicas.enter("b", now=NOW + 1).name == two.name, "also when it starts again at once"
    replicas.grow(replicas.enter("b"), "b", 2)
    assert key_of(replicas.home / "b", replicas.key).name == two.name
    shutil.rmtree(replicas.home / "a")
    assert replicas.enter("a").name not in (one.name, two.name), "a log that begins anew is not the one that was lost"
    assert len(replicas.logs.every()) == 3


def test_op_02_another_key_under_one_storage_is_no_replica(replicas: Replicas, tmp_path: Path) -> None:
    replicas.enter("a")
    stranger = FileSigner.open(tmp_path / "stranger", "limen")
    with pytest.raises(ConfigFault, match="another key"):
        replicas.enter("b", signer=stranger)
    assert replicas.enter("b", signer=stranger, now=NOW + LIVE + 1).name != "limen"


def test_op_02_a_copy_of_a_log_is_not_written_beside_it(replicas: Replicas) -> None:
    one = replicas.enter("a")
    replicas.grow(one, "a", 3)
    shutil.copytree(replicas.home / "a", replicas.home / "copy")
    with pytest.raises(ConfigFault, match="copy"):
        replicas.enter("copy")
    with pytest.raises(ConfigFault, match="copy"):
        replicas.enter("a", host="elsewhere")
    moved = replicas.enter("copy", now=NOW + LIVE + 1)
    assert moved.name == one.name, "a log that was moved goes on under its name"
    with pytest.raises(DependencyFault, match="took the log's name"):
        replicas.logs.tell(one, replicas.home / "a", 0, NOW)
    replicas.logs.leave(one)
    assert replicas.logs.every()[0].at, "who lost the name does not close it for the other"
    replicas.logs.leave(moved)
    assert replicas.logs.every()[0].at == 0


def test_a_second_start_in_one_directory_takes_nothing_from_the_first(replicas: Replicas) -> None:
    one = replicas.enter("a")
    ledger = Ledger.open(replicas.home / "a", replicas.signer.named(one.name), fsync_interval=60)
    with pytest.raises(DependencyFault, match="another process writes"):
        replicas.enter("a")
    replicas.logs.tell(one, replicas.home / "a", 0, NOW)
    ledger.close_now()


def test_statements_follow_logs_that_grow(replicas: Replicas) -> None:
    one, two = replicas.enter("a"), replicas.enter("b")
    note, last = b"", None
    for turn in range(4):
        replicas.grow(one, "a", 300)
        replicas.grow(two, "b", 7 * turn + 1)
        last = advance(note, replicas.key, replicas.heads(last, a=one, b=two), NOW + turn)
        note = sign_statement(replicas.signer, last)
        assert read_statement(note, replicas.key) == last
    assert last is not None
    assert (last.number, {name: seen.size for name, seen in last.logs}) == (3, {"limen": 1200, two.name: 46})


def test_op_02_a_log_that_was_set_back_is_found(replicas: Replicas) -> None:
    one, two = replicas.enter("a"), replicas.enter("b")
    replicas.grow(one, "a", 300)
    shutil.copytree(replicas.home / "a", replicas.home / "older")
    replicas.grow(one, "a", 300)
    replicas.grow(two, "b", 5)
    last = advance(b"", replicas.key, replicas.heads(None, a=one, b=two), NOW)
    note = sign_statement(replicas.signer, last)
    shutil.rmtree(replicas.home / "a")
    shutil.copytree(replicas.home / "older", replicas.home / "a")
    with pytest.raises(RolledBack, match="limen was rolled back: 600"):
        advance(note, replicas.key, replicas.heads(last, a=one, b=two), NOW)
    replicas.grow(one, "a", 400, b"forged")  # with the key, and longer than it was
    with pytest.raises(RolledBack, match="rewritten"):
        advance(note, replicas.key, replicas.heads(last, a=one, b=two), NOW)
    later = advance(note, replicas.key, replicas.heads(last, b=two), NOW)
    assert later.seen("limen") == last.seen("limen"), "a log nobody tells of stays in the statement"


def test_op_02_statements_are_signed_chained_and_well_made(replicas: Replicas, tmp_path: Path) -> None:
    one = replicas.enter("a")
    replicas.grow(one, "a", 3)
    last = advance(b"", replicas.key, replicas.heads(None, a=one), NOW)
    note = sign_statement(replicas.signer, last)
    stranger = FileSigner.open(tmp_path / "stranger", "limen")
    with pytest.raises(NoteError, match="not signed by"):
        advance(sign_statement(stranger, last), replicas.key, [], NOW)
    with pytest.raises(NoteError, match="verify"):
        read_statement(note.replace(b'"size":3', b'"size":2'), replicas.key)
    with pytest.raises(NoteError, match="no statement"):
        read_statement((replicas.home / "a/checkpoint").read_bytes(), replicas.key)
    twice = Statement(0, "", NOW, (last.logs[0], last.logs[0]))
    with pytest.raises(NoteError, match="well made"):
        read_statement(sign_statement(replicas.signer, twice), replicas.key)
    other = FileSigner.open(tmp_path / "other", "limen").verifier_key
    forged = Head(one.name, other, other, "", "", "", 0.0, b"x")
    with pytest.raises(NoteError):
        advance(note, replicas.key, [forged], NOW)
    following = advance(note, replicas.key, [], NOW)
    assert (following.number, len(following.previous)) == (1, 64)


def test_a_head_that_is_behind_the_statement_waits(replicas: Replicas) -> None:
    """Heads and statements are made by different replicas: neither waits for the other, and nothing is believed."""
    one = replicas.enter("a")
    replicas.grow(one, "a", 10)
    told = replicas.logs.tell(one, replicas.home / "a", 0, NOW)
    last = advance(b"", replicas.key, [told], NOW)
    note = sign_statement(replicas.signer, last)
    replicas.grow(one, "a", 10)
    early = replicas.logs.tell(told, replicas.home / "a", 5, NOW)  # proves from 5, the statement says 10
    assert advance(note, replicas.key, [early], NOW).seen("limen") == last.seen("limen")
    now = replicas.logs.tell(told, replicas.home / "a", 10, NOW)
    seen = advance(note, replicas.key, [now], NOW).seen("limen")
    assert isinstance(seen, Seen)
    assert seen.size == 20
