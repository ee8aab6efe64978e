"""The ledger in one process: layout, durability, recovery, refusals. Killed processes: test_audit_kill.py."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from limen.adapters.keys import FileSigner
from limen.audit.ledger import Ledger
from limen.audit.note import VerifierKey, open_checkpoint
from limen.audit.read import follow, read
from limen.audit.tiles import frame, split_bundle
from limen.audit.tree import EMPTY_ROOT, leaf_hash, root_hash
from limen.audit.verify import verify
from limen.core.faults import DependencyFault

NEVER = 3600.0  # an interval no test waits for: only open, durable and close then work


@pytest.fixture
def signer(tmp_path: Path) -> FileSigner:
    return FileSigner.open(tmp_path / "key", "log.example/audit")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def fill(log: Path, signer: FileSigner, records: list[bytes]) -> None:
    ledger = Ledger.open(log, signer, fsync_interval=NEVER)
    for record in records:
        ledger.append(record)
    ledger.close_now()


def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("did not happen")


def files(log: Path) -> list[str]:
    return sorted(str(path.relative_to(log)) for path in (log / "tile").rglob("*") if path.is_file())


def test_append_read_verify(log: Path, signer: FileSigner) -> None:
    records = [b"a", b"b" * 65535, b"\0\0", b"{}"]
    ledger = Ledger.open(log, signer)
    assert [ledger.append(record) for record in records] == [0, 1, 2, 3]
    assert (ledger.size, ledger.healthy, ledger.recovered) == (4, True, "")
    assert list(read(log)) == list(enumerate(records)), "readable while it is written"
    ledger.close_now()
    assert list(read(log, 2)) == [(2, b"\0\0"), (3, b"{}")]
    report = verify(log, signer.verifier_key)
    assert report.ok, report.problem
    assert (report.size, report.root) == (4, root_hash([leaf_hash(record) for record in records]))


@pytest.mark.parametrize("record", [b"", bytes(65536)])
def test_a_record_that_does_not_fit_is_refused(log: Path, signer: FileSigner, record: bytes) -> None:
    ledger = Ledger.open(log, signer)
    with pytest.raises(ValueError):
        ledger.append(record)
    assert ledger.append(b"fits") == 0
    ledger.close_now()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, []),
        (1, ["tile/0/000.p/1", "tile/entries/000.p/1"]),
        (255, ["tile/0/000.p/255", "tile/entries/000.p/255"]),
        (256, ["tile/0/000", "tile/1/000.p/1", "tile/entries/000"]),
        (
            257,
            ["tile/0/000", "tile/0/001.p/1", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/1"],
        ),
    ],
)
def test_layout_at_rest(log: Path, signer: FileSigner, size: int, expected: list[str]) -> None:
    records = [b"r%d" % number for number in range(size)]
    fill(log, signer, records)
    assert files(log) == expected if size else not (log / "tile").exists()
    checkpoint = open_checkpoint((log / "checkpoint").read_bytes(), VerifierKey(signer.name, signer.public_key))
    assert (checkpoint.size, checkpoint.origin) == (size, signer.name)
    assert checkpoint.root == (root_hash([leaf_hash(record) for record in records]) if size else EMPTY_ROOT)
    for index in range(-(-size // 256)):
        width = min(256, size - index * 256)
        suffix = "" if width == 256 else f".p/{width}"
        bundle = (log / f"tile/entries/{index:03d}{suffix}").read_bytes()
        tile = (log / f"tile/0/{index:03d}{suffix}").read_bytes()
        part, used = split_bundle(bundle)
        assert used == len(bundle)
        assert part == records[index * 256 : index * 256 + width]
        assert tile == b"".join(leaf_hash(record) for record in part)
    assert verify(log, signer.verifier_key).ok


def test_many_openings_leave_a_valid_log(log: Path, signer: FileSigner) -> None:
    written: list[bytes] = []
    seen = b""
    for step in (1, 3, 250, 2, 0, 1, 255, 256, 40):
        records = [b"%d of %d" % (number, step) for number in range(step)]
        fill(log, signer, records)
        written += records
        report = verify(log, signer.verifier_key, at_least=seen or None)
        assert report.ok, report.problem
        assert report.size == len(written)
        seen = (log / "checkpoint").read_bytes()
    assert [record for _, record in read(log)] == written
    assert not [name for name in files(log) if name.startswith(("tile/0/000.p", "tile/entries/000.p"))]
    assert [name for name in files(log) if ".p/" in name and "entries" in name] == ["tile/entries/003.p/40"]


def test_checkpoint_comes_by_itself_and_the_thread_sleeps(log: Path, signer: FileSigner) -> None:
    ledger = Ledger.open(log, signer, fsync_interval=0.01)
    key = VerifierKey(signer.name, signer.public_key)
    for size in (1, 2, 3):
        ledger.append(b"one more")
        until(lambda size=size: open_checkpoint((log / "checkpoint").read_bytes(), key).size == size)
        until(lambda: ledger._due is None)
        assert verify(log, signer.verifier_key).ok, "valid at rest while the writer is alive"
    ledger.close_now()


def test_reading_and_verifying_while_written(log: Path, signer: FileSigner) -> None:
    ledger = Ledger.open(log, signer, fsync_interval=0.001)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            ledger.append(b"x" * 50)
            time.sleep(0.0002)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(25):
            report = verify(log, signer.verifier_key)
            assert report.ok, report.problem
            found = [index for index, _ in read(log)]
            assert found == list(range(len(found)))
            assert len(found) >= report.size
    finally:
        stop.set()
        writer.join()
        ledger.close_now()


def test_follow(log: Path, signer: FileSigner) -> None:
    ledger = Ledger.open(log, signer)
    for number in range(300):
        ledger.append(b"%d" % number)

    async def main() -> list[tuple[int, bytes]]:
        seen = []
        async for item in follow(log, 298, poll=0.01):
            seen.append(item)
            if len(seen) == 2:
                ledger.append(b"later")
            if len(seen) == 3:
                break
        return seen

    assert asyncio.run(main()) == [(298, b"298"), (299, b"299"), (300, b"later")]
    ledger.close_now()


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every fdatasync, made slow."""
    calls: list[int] = []
    real = os.fdatasync

    def slow(handle: int) -> None:
        calls.append(handle)
        time.sleep(0.02)
        real(handle)

    monkeypatch.setattr(os, "fdatasync", slow)
    return calls


def test_group_commit(log: Path, signer: FileSigner, syncs: list[int]) -> None:
    ledger = Ledger.open(log, signer, fsync_interval=NEVER)
    syncs.clear()

    async def one(number: int) -> None:
        await asyncio.sleep(number % 5 / 1000)
        index = ledger.append(b"%d" % number)
        await ledger.durable(index)
        assert ledger._synced > index

    async def main() -> None:
        await asyncio.gather(*(one(number) for number in range(200)))
        await ledger.durable(0)

    asyncio.run(main())
    assert 1 <= len(syncs) <= 6, "200 waiters share a few syncs"
    ledger.close_now()
    assert verify(log, signer.verifier_key).ok


def test_durable_waits_for_the_disk(log: Path, signer: FileSigner, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(log, signer, fsync_interval=NEVER)
    gate, real = threading.Event(), os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda handle: (gate.wait(10), real(handle)))

    async def main() -> None:
        waiter = asyncio.ensure_future(ledger.durable(ledger.append(b"one")))
        gone = asyncio.ensure_future(ledger.durable(0))
        await asyncio.sleep(0.05)
        assert not waiter.done()
        gone.cancel()
        gate.set()
        await waiter
        with pytest.raises(ValueError):
            await ledger.durable(1)
        with pytest.raises(ValueError):
            await ledger.durable(-1 + 10)

    asyncio.run(main())
    ledger.close_now()


def test_a_waiter_whose_loop_is_gone_harms_nobody(log: Path, signer: FileSigner, syncs: list[int]) -> None:
    ledger = Ledger.open(log, signer, fsync_interval=NEVER)

    async def leave() -> None:
        task = asyncio.ensure_future(ledger.durable(ledger.append(b"one")))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    asyncio.run(ledger.durable(ledger.append(b"two")))
    assert ledger.healthy
    ledger.close_now()


def test_second_opener_is_refused(log: Path, signer: FileSigner) -> None:
    first = Ledger.open(log, signer)
    with pytest.raises(DependencyFault, match="another"):
        Ledger.open(log, signer)
    first.append(b"still works")
    first.close_now()
    Ledger.open(log, signer).close_now()


def test_closed(log: Path, signer: FileSigner) -> None:
    ledger = Ledger.open(log, signer)
    index = ledger.append(b"one")
    asyncio.run(ledger.close())
    asyncio.run(ledger.close())
    with pytest.raises(DependencyFault):
        ledger.append(b"two")
    asyncio.run(ledger.durable(index))
    assert not ledger.healthy
    assert verify(log, signer.verifier_key).size == 1


def test_torn_at_every_byte(log: Path, signer: FileSigner, tmp_path: Path) -> None:
    """What a kill can leave behind the last checkpoint: any prefix of what was being written."""
    fill(log, signer, [b"signed"] * 254)
    unsigned = [b"", frame(b"one"), frame(b"two!"), frame(b"x" * 300)]
    whole = b"".join(unsigned)
    ends = [len(b"".join(unsigned[: count + 1])) for count in range(4)]
    journal = (log / "journal/000").read_bytes()
    for cut in [*range(12), *range(12, len(whole), 37), len(whole)]:
        copy = tmp_path / f"cut{cut}"
        shutil.copytree(log, copy)
        two = len(unsigned[1] + unsigned[2])
        (copy / "journal/000").write_bytes(journal + whole[: min(cut, two)])
        if cut > two:
            (copy / "journal/001").write_bytes(whole[two:cut])
        ledger = Ledger.open(copy, signer, fsync_interval=NEVER)
        expected = sum(1 for end in ends if end <= cut) - 1
        assert ledger.size == 254 + expected
        assert bool(ledger.recovered) == (cut not in ends), (cut, ledger.recovered)
        assert ledger.append(b"next") == 254 + expected
        ledger.close_now()
        report = verify(copy, signer.verifier_key)
        assert report.ok, report.problem
        assert (report.size, report.tail) == (255 + expected, 0)


class Stopped(OSError):
    """The process may do nothing more to the disk."""


@pytest.mark.parametrize("stop", range(1, 40))
def test_stopped_at_every_step(log: Path, signer: FileSigner, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    """Every system call of the closing round is, in turn, the first that no longer happens."""
    fill(log, signer, [b"old"] * 200)
    ledger = Ledger.open(log, signer, fsync_interval=NEVER)
    for number in range(400):
        ledger.append(b"new %d" % number)
    count = 0

    def stopping(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count >= stop:
                raise Stopped("stopped")
            return real(*args, **named)

        return call

    with monkeypatch.context() as patch:
        for name in ("write", "replace", "rename", "fdatasync", "fsync", "unlink", "rmdir", "mkdir"):
            patch.setattr(os, name, stopping(getattr(os, name)))
        if stop < 25:
            with pytest.raises(DependencyFault):
                ledger.close_now()
        else:
            try:
                ledger.close_now()
            except DependencyFault:
                assert count >= stop
    again = Ledger.open(log, signer)
    assert (again.size, again.recovered) == (600, "")
    again.append(b"on")
    again.close_now()
    report = verify(log, signer.verifier_key)
    assert report.ok, report.problem
    assert report.size == 601
    assert len(list(read(log))) == 601


def test_records_behind_a_gap_are_set_aside(log: Path, signer: FileSigner) -> None:
    """Only a power failure does this: a later file reached the disk whole, an earlier one did not."""
    fill(log, signer, [b"r"] * 10)
    (log / "journal/001").write_bytes(frame(b"later"))
    ledger = Ledger.open(log, signer)
    assert ledger.size == 10
    assert "lost/" in ledger.recovered
    assert (log / "lost/10-1").read_bytes() == frame(b"later")
    ledger.close_now()
    assert verify(log, signer.verifier_key).ok


def flip(path: Path, place: int = 3) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def test_tampered_directories_are_not_opened(log: Path, signer: FileSigner, tmp_path: Path) -> None:
    fill(log, signer, [b"record"] * 300)
    stranger = FileSigner.open(tmp_path / "stranger", signer.name)
    tampering: dict[str, Callable[[Path], object]] = {
        "record in a full bundle": lambda copy: flip(copy / "tile/entries/000"),
        "record in the journal": lambda copy: flip(copy / "journal/001"),
        "length in a full bundle": lambda copy: flip(copy / "tile/entries/000", 1),
        "journal cut": lambda copy: os.truncate(copy / "journal/001", 80),
        "journal cut inside a record": lambda copy: os.truncate(copy / "journal/001", 81),
        "journal gone": lambda copy: (copy / "journal/001").unlink(),
        "bundle gone": lambda copy: (copy / "tile/entries/000").unlink(),
        "bundle extended": lambda copy: (copy / "tile/entries/000").write_bytes(
            (log / "tile/entries/000").read_bytes() + frame(b"x")
        ),
        "checkpoint gone": lambda copy: (copy / "checkpoint").unlink(),
        "checkpoint changed": lambda copy: flip(copy / "checkpoint", 30),
        "strange journal": lambda copy: (copy / "journal/x").write_bytes(b""),
    }
    for name, tamper in tampering.items():
        copy = tmp_path / name
        shutil.copytree(log, copy)
        tamper(copy)
        before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
        with pytest.raises(DependencyFault) as caught:
            Ledger.open(copy, signer)
        assert not caught.value.retryable, name
        assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}, f"{name}: evidence"
        assert not verify(copy, signer.verifier_key).ok or name in {"journal gone", "strange journal"}, name
    with pytest.raises(DependencyFault, match="not signed by"):
        Ledger.open(log, stranger)
    Ledger.open(log, signer).close_now()


def test_hash_tiles_are_repaired_and_told(log: Path, signer: FileSigner) -> None:
    fill(log, signer, [b"record"] * 300)
    flip(log / "tile/0/000")
    (log / "tile/0/001.p/44").unlink()
    ledger = Ledger.open(log, signer)
    assert "tile/0/000 was wrong" in ledger.recovered
    assert "tile/0/001.p/44 was missing" in ledger.recovered
    ledger.close_now()
    assert verify(log, signer.verifier_key).ok


def test_failed_write_is_undone_and_recovers(log: Path, signer: FileSigner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes half a record and then not even the cut that removes it."""
    ledger = Ledger.open(log, signer, fsync_interval=NEVER)
    ledger.append(b"first")
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: real(handle, bytes(data)[: len(data) // 2]))
        patch.setattr(os, "ftruncate", lambda handle, length: (_ for _ in ()).throw(OSError(5, "no")))
        for _ in range(3):
            with pytest.raises(DependencyFault):
                ledger.append(b"lost" * 20)
    assert not ledger.healthy
    assert ledger.append(b"second") == 1
    assert ledger.healthy
    ledger.close_now()
    assert [record for _, record in read(log)] == [b"first", b"second"]
    assert verify(log, signer.verifier_key).ok


def test_failed_sync_is_final(log: Path, signer: FileSigner, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fdatasync the kernel may call the pages clean: a second try would prove nothing."""
    ledger = Ledger.open(log, signer, fsync_interval=NEVER)
    index = ledger.append(b"one")

    def fail(handle: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(DependencyFault, match="restart"):
            asyncio.run(ledger.durable(index))
    with pytest.raises(DependencyFault, match="restart"):
        ledger.append(b"two")
    with pytest.raises(DependencyFault, match="restart"):
        asyncio.run(ledger.durable(index))
    assert not ledger.healthy
    with pytest.raises(DependencyFault):
        ledger.close_now()
    again = Ledger.open(log, signer)
    assert again.size == 1
    again.close_now()


def test_no_checkpoint_no_records_until_it_works_again(
    log: Path, signer: FileSigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(log, signer, fsync_interval=0.001)

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        ledger.append(b"one")
        until(lambda: not ledger.healthy)
        with pytest.raises(DependencyFault, match="No space"):
            ledger.append(b"two")
    until(lambda: ledger.healthy)
    assert ledger.append(b"two") == 1
    ledger.close_now()
    assert verify(log, signer.verifier_key).size == 2


def test_a_signer_that_fails_refuses_records(log: Path, signer: FileSigner) -> None:
    class Remote:
        name, public_key, down = signer.name, signer.public_key, False

        def sign(self, message: bytes) -> bytes:
            if self.down:
                raise DependencyFault("signer", "away")
            return signer.sign(message)

    remote = Remote()
    ledger = Ledger.open(log, remote, fsync_interval=0.001)
    remote.down = True
    ledger.append(b"one")
    until(lambda: not ledger.healthy)
    with pytest.raises(DependencyFault, match="away"):
        ledger.append(b"two")
    remote.down = False
    until(lambda: ledger.healthy)
    ledger.close_now()
    assert verify(log, signer.verifier_key).size == 1


def test_a_disk_that_does_not_keep_up_refuses(log: Path, signer: FileSigner) -> None:
    ledger = Ledger.open(log, signer, fsync_interval=NEVER)
    with pytest.raises(DependencyFault, match="keep up"):
        for _ in range(129 * 256):
            ledger.append(b"x")
    assert ledger.size == 128 * 256
    asyncio.run(ledger.close())
    assert verify(log, signer.verifier_key).size == 128 * 256


def test_a_directory_that_cannot_be_made(tmp_path: Path, signer: FileSigner) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DependencyFault):
        Ledger.open(tmp_path / "file", signer)


def test_modes(log: Path, signer: FileSigner) -> None:
    fill(log, signer, [b"secret"] * 257)
    for path in [log, *log.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
