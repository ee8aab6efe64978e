"""Records that may wait for the next write: in order, on disk within the interval, refused when they cannot be kept."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from limen.adapters.keys import FileSigner
from limen.audit.ledger import Ledger
from limen.audit.read import read
from limen.audit.verify import verify
from limen.core.faults import DependencyFault

NEVER = 3600.0


@pytest.fixture
def signer(tmp_path: Path) -> FileSigner:
    return FileSigner.open(tmp_path / "key", "log.example/audit")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def records(log: Path) -> list[bytes]:
    return [record for _, record in read(log)]


def until_size(ledger: Ledger, size: int) -> None:
    for _ in range(2000):
        if ledger.size == size:
            return
        time.sleep(0.005)
    raise AssertionError(f"size {ledger.size}, not {size}")


def test_one_write_carries_what_waited_and_keeps_the_order(
    log: Path, signer: FileSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(log, signer, fsync_interval=NEVER)
    writes = []
    real = os.write

    def counted(handle: int, data: bytes) -> int:
        writes.append(len(data))
        return real(handle, data)

    monkeypatch.setattr("limen.audit.journal.os.write", counted)
    assert ledger.append(b"intent 1") == 0
    ledger.defer(b"outcome 1")
    assert (ledger.size, len(writes)) == (1, 1)
    assert ledger.append(b"intent 2") == 2
    assert len(writes) == 2
    monkeypatch.undo()
    ledger.defer(b"outcome 2")
    ledger.close_now()
    assert records(log) == [b"intent 1", b"outcome 1", b"intent 2", b"outcome 2"]
    assert verify(log, signer.verifier_key).size == 4


def test_without_another_record_the_interval_is_the_longest_wait(log: Path, signer: FileSigner) -> None:
    ledger = Ledger.open(log, signer, fsync_interval=0.05)
    ledger.defer(b"alone")
    until_size(ledger, 1)
    ledger.close_now()
    assert records(log) == [b"alone"]


@pytest.mark.parametrize("waiting", [1, 255, 256, 257, 700])
def test_what_waits_may_be_longer_than_a_file(log: Path, signer: FileSigner, waiting: int) -> None:
    ledger = Ledger.open(log, signer, fsync_interval=NEVER)
    ledger.append(b"first")
    for number in range(waiting):
        ledger.defer(b"%d" % number)
    assert ledger.append(b"last") == waiting + 1
    ledger.close_now()
    assert records(log) == [b"first", *(b"%d" % number for number in range(waiting)), b"last"]
    assert verify(log, signer.verifier_key).size == waiting + 2


def test_a_full_disk_keeps_what_waits_and_refuses_more(
    log: Path, signer: FileSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(log, signer, fsync_interval=NEVER)
    ledger.append(b"before")
    ledger.defer(b"waits")

    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr("limen.audit.journal.os.write", full)
        with pytest.raises(DependencyFault):
            ledger.append(b"refused")
        assert not ledger.healthy
        with pytest.raises(DependencyFault):
            ledger.defer(b"refused too")
    assert ledger.append(b"after") == 2
    assert ledger.healthy
    ledger.close_now()
    assert records(log) == [b"before", b"waits", b"after"]


def test_closing_tells_what_could_not_be_written(
    log: Path, signer: FileSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(log, signer, fsync_interval=NEVER)
    ledger.append(b"before")
    ledger.defer(b"lost with the disk")

    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("limen.audit.journal.os.write", full)
    with pytest.raises(DependencyFault, match="no space"):
        ledger.close_now()
    monkeypatch.undo()
    assert records(log) == [b"before"]


def test_no_more_wait_than_a_bounded_number(log: Path, signer: FileSigner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limen.audit.ledger._MOST_DEFERRED", 3)
    ledger = Ledger.open(log, signer, fsync_interval=NEVER)
    for _ in range(3):
        ledger.defer(b"waits")
    with pytest.raises(DependencyFault):
        ledger.defer(b"one too many")
    ledger.close_now()
    assert len(records(log)) == 3
