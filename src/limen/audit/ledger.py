"""The append-only record of what was asked and decided: a C2SP tlog-tiles log with signed checkpoints.

    directory/
      checkpoint                    signed tree head (c2sp.org/tlog-checkpoint)
      tile/<L>/<N>[.p/<W>]          hashes, 256 to a tile
      tile/entries/<N>[.p/<W>]      records, 256 to a bundle
      journal/<N>                   the bundle being filled; moved to tile/entries/<N> when full
      lock, draft, lost/            one writer; a file being written; what a power failure tore apart

Life of a record: `append` hashes it and writes it, length first, with one `os.write` to the journal; once it returns, a
killed process loses nothing. `defer` leaves the record to the next `append`, or to the thread. That thread, asleep
while nothing is pending, syncs the journal within `fsync_interval` of the first unsynced record (at once if `durable`
is awaited; all who wait share one sync), then writes tiles and signs a checkpoint. Kill it at any byte: the journal is
whole but for a record whose `append` never returned, and tiles and checkpoint are made again from the journal when the
ledger is next opened (see `recover`).

What each kind of loss means. A killed process: what was handed to `defer` within the interval. A power failure: records
that were not awaited with `durable` and are younger than the interval. Someone who can write the files, without the
key: any change at or below the signed checkpoint is found by `verify`; records after the last checkpoint (the
interval's worth) can be changed unseen; and the directory as a whole can be put back to an older state with its then
valid checkpoint, which only somebody who remembers a newer checkpoint can notice (`verify(..., at_least=...)`). Someone
with the key can rewrite everything that nobody remembers a checkpoint of.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from limen.audit.folders import make_folder, sync_folder
from limen.audit.journal import FOLDER, Journal, Mark, Segment
from limen.audit.note import NoteError
from limen.audit.publish import Publisher
from limen.audit.recover import recover
from limen.audit.tiles import frame
from limen.audit.waiters import Waiter, settle
from limen.core.faults import DependencyFault
from limen.core.ports import Signer

_MOST_DEFERRED: Final = 4096
_PATIENCE: Final = 30.0  # seconds a change of keys may take
_RETRY: Final = 0.25  # seconds between attempts of the thread while the disk refuses


@dataclass(slots=True)
class _Successor:
    """A key that is to sign from now on. `trouble`: why it does not."""

    signer: Signer
    why: str
    done: threading.Event
    trouble: str = ""


class Ledger:
    """One writer of one directory. `append` may be called from any thread; `recovered` tells what opening repaired."""

    def __init__(
        self, directory: Path, lock: int, journal: Journal, publisher: Publisher, interval: float, signing: float
    ) -> None:
        self._directory, self._lock_file = directory, lock
        self._journal, self._publisher, self._interval, self._signing = journal, publisher, interval, signing
        self._lock = threading.Lock()
        self._state = threading.Condition(self._lock)
        self._leaves: list[bytes] = []  # of records that are written
        self._frames: list[bytes] = []  # records that are not, and their leaves
        self._frame_leaves: list[bytes] = []
        self._due: float | None = None  # when the next checkpoint is to be signed
        self._sync_due: float | None = None  # when what was written is to be on disk
        self._urgent = False
        self._closing = False
        self._successor: _Successor | None = None
        self._synced = 0
        self._waiters: list[Waiter] = []
        self._broken = ""  # for good: this process may not write any more
        self._unpublished = ""  # until a checkpoint can be signed again
        self._unwritable = ""  # until a record can be written again
        self.recovered = ""
        self._thread = threading.Thread(target=self._run, name="limen-ledger", daemon=True)

    @classmethod
    def open(
        cls, directory: Path, signer: Signer, *, fsync_interval: float = 0.05, checkpoint_interval: float | None = None
    ) -> Ledger:
        """Lock, check every record against the signed checkpoint, repair what a crash left, sign the present state.

        Records are on disk within `fsync_interval`, under a signed checkpoint within `checkpoint_interval` (by default
        the same); both in seconds. Reads all records: about a second for each million small ones. Raises
        DependencyFault: another writer, records that do not match the checkpoint, another key, a failing disk.
        """
        directory = directory.absolute()
        lock = lock_directory(directory)
        journal: Journal | None = None
        try:
            found = recover(directory, signer)
            journal = found.journal
            publisher = Publisher(directory, signer, found.tree, found.unwritten, found.note)
            signing = fsync_interval if checkpoint_interval is None else checkpoint_interval
            ledger = cls(directory, lock, journal, publisher, fsync_interval, signing)
            ledger.recovered = "; ".join(found.told)
            ledger._publish()
        except (OSError, NoteError, DependencyFault) as fault:
            if journal is not None:
                journal.close()
            os.close(lock)
            if isinstance(fault, DependencyFault):
                raise
            raise DependencyFault("audit", f"the ledger is not opened: {fault}") from fault
        ledger._thread.start()
        return ledger

    @property
    def name(self) -> str:
        """What the log is called; also the name of the key that signs it."""
        return self._publisher.name

    @property
    def size(self) -> int:
        """How many records there are, on disk or not yet."""
        return self._journal.size

    @property
    def healthy(self) -> bool:
        """Would a record be taken now, as far as is known? Recovers by itself when the disk does."""
        return not (self._broken or self._unpublished or self._unwritable)

    @property
    def checkpoint(self) -> bytes:
        """The last signed checkpoint: give it to somebody else, and the log cannot be set back behind it unnoticed."""
        return self._publisher.last

    def append(self, record: bytes) -> int:
        """Write one record of 1 to 65535 bytes; returns its index. It survives the death of this process.

        Raises ValueError for its length, and DependencyFault when it was not written; then nothing of it remains, and
        the caller must refuse what it wanted to record.
        """
        framed = frame(record)
        leaf = sha256(b"\x00" + record).digest()
        with self._lock:
            if self._broken or self._unpublished:
                raise DependencyFault("audit", self._broken or self._unpublished)
            self._frames.append(framed)
            self._frame_leaves.append(leaf)
            try:
                self._flush()
            except OSError as fault:
                del self._frames[-1], self._frame_leaves[-1]
                self._wake()
                raise DependencyFault("audit", self._unwritable) from fault
            if self._due is None or self._sync_due is None:
                self._wake()
            return self._journal.size - 1

    def defer(self, record: bytes) -> None:
        """Take one record that may wait for the next write: at most the interval. For what follows a record already
        written, such as the outcome of a call. Order is kept; once taken, it is lost only with the process.

        Raises ValueError for its length, and DependencyFault when it is not taken.
        """
        framed = frame(record)
        leaf = sha256(b"\x00" + record).digest()
        with self._lock:
            if self._broken or self._unpublished or self._unwritable or len(self._frames) >= _MOST_DEFERRED:
                raise DependencyFault("audit", self._broken or self._unpublished or self._unwritable or "overloaded")
            self._frames.append(framed)
            self._frame_leaves.append(leaf)
            if self._due is None or self._sync_due is None:
                self._wake()

    def _flush(self) -> None:
        """Write everything taken so far. Called with the lock held. Raises OSError; what is left is tried again."""
        while self._frames:
            try:
                count = self._journal.write(self._frames)
            except OSError as fault:
                self._unwritable = f"a record could not be written: {fault}"
                raise
            self._leaves += self._frame_leaves[:count]
            del self._frames[:count], self._frame_leaves[:count]
            self._unwritable = ""

    async def durable(self, index: int) -> None:
        """Returns when record `index` is on disk. Raises DependencyFault if that fails, ValueError if there is none."""
        if index < self._synced:
            return
        loop = asyncio.get_running_loop()
        with self._state:
            if not 0 <= index < self._journal.size:
                raise ValueError(f"there is no record {index}")
            if index < self._synced:
                return
            if self._broken:
                raise DependencyFault("audit", self._broken)
            waiter = Waiter(index, loop, loop.create_future())
            self._waiters.append(waiter)
            if not self._urgent:
                self._urgent = True
                self._state.notify()
        await waiter.done

    def succeed(self, signer: Signer, why: str) -> None:
        """Have another key sign from now on; the present one signs the log as it is, and the note that says so (see
        `succession`). Records are taken meanwhile. Waits for the disk: not for an event loop.

        Raises DependencyFault; then the present key goes on.
        """
        asked = _Successor(signer, why, threading.Event())
        with self._state:
            if self._broken or self._successor is not None:
                raise DependencyFault("audit", self._broken or "its key is being replaced already")
            self._successor, self._due = asked, time.monotonic()
            self._state.notify()
        if not asked.done.wait(_PATIENCE):
            with self._state:
                begun, self._successor = self._successor is not asked, None
            if begun:
                asked.done.wait()  # what was begun ends one way or the other, and only then may anybody say which
            else:
                asked.trouble = "the disk was too slow"
        if asked.trouble:
            raise DependencyFault("audit", f"the key was not replaced: {asked.trouble}")

    async def close(self) -> None:
        """Sync, sign a last checkpoint, let go of the directory. Raises DependencyFault if that last part fails."""
        await asyncio.to_thread(self.close_now)

    def close_now(self) -> None:
        """`close` for code without an event loop. Closing twice is nothing."""
        with self._state:
            if self._closing:
                return
            self._closing = True
            self._state.notify()
        self._thread.join()
        with self._state:
            trouble = self._broken or self._unpublished or (self._unwritable if self._frames else "")
            self._broken = "the ledger is closed"
            self._journal.close()
            os.close(self._lock_file)
        if trouble:
            raise DependencyFault("audit", trouble)

    def _wake(self) -> None:
        """Have the thread look within the interval. Called with the lock held."""
        now = time.monotonic()
        if self._sync_due is None:
            self._sync_due = now + self._interval
            self._state.notify()
        if self._due is None:
            self._due = now + self._signing
            self._state.notify()

    # From here on: the thread's own work.

    def _run(self) -> None:
        try:
            while self._wait():
                self._turn()
            self._turn(last=True)
        finally:
            # Also reached by a mistake of ours: without this thread nothing becomes durable, so nothing is taken.
            with self._state:
                if not self._closing:
                    self._broken = self._broken or "the ledger's thread ended"
                waiters, self._waiters = self._waiters, []
            settle(waiters, self._broken or "the ledger was closed before the record was on disk")

    def _wait(self) -> bool:
        """Sleep until there is something to do. False when closing."""
        with self._state:
            while not self._closing:
                dues = [due for due in (self._due, self._sync_due) if due is not None]
                left = min(dues) - time.monotonic() if dues else None
                if self._urgent or (left is not None and left <= 0):
                    return True
                self._state.wait(left)
        return False

    def _turn(self, *, last: bool = False) -> None:
        """Sync for those who wait; publish when it is time."""
        if self._broken:
            with self._state:
                self._due, self._sync_due, self._urgent = None, None, False
            return
        try:
            if not last and (self._due is None or self._due > time.monotonic()):
                self._sync()
                return
            self._publish()
            self._hand_over()
        except (OSError, DependencyFault, NoteError) as fault:
            self._retry(f"no checkpoint could be made: {fault}")
            return
        self._unpublished = ""
        if self._unwritable:
            self._probe()

    def _probe(self) -> None:
        """Nobody appends to a ledger that says it is unhealthy, so find out whether it still is."""
        try:
            self._publisher.probe()
        except OSError:
            self._retry("")
        else:
            self._unwritable = ""

    def _retry(self, unpublished: str) -> None:
        with self._state:
            self._unpublished = unpublished
            self._due = time.monotonic() + _RETRY

    def _sync(self, *, take: bool = False) -> Mark:
        """Put what has been written on disk and tell those who wait. With `take`, hand the leaves to the publisher."""
        with self._state:
            try:
                self._flush()
            except OSError:
                self._due = time.monotonic() + _RETRY  # `healthy` tells; what is written already is synced all the same
            mark = self._journal.mark()
            self._urgent, self._sync_due = False, None
            leaves: list[bytes] = []
            if take:
                self._due = time.monotonic() + _RETRY if self._frames else None
                leaves, self._leaves = self._leaves, leaves
        try:
            for handle in mark.handles:
                os.fdatasync(handle)
            if mark.new_names:
                sync_folder(self._directory / FOLDER)
        except OSError as fault:
            # After a failed sync the kernel may call lost pages clean, so a second try proves nothing.
            with self._state:
                self._broken = f"records may not have reached the disk, restart to check them: {fault}"
                waiters, self._waiters = self._waiters, []
            settle(waiters, self._broken)
            raise
        self._publisher.absorb(leaves)
        with self._state:
            self._synced = mark.size
            waiters = [waiter for waiter in self._waiters if waiter.index < mark.size]
            self._waiters = [waiter for waiter in self._waiters if waiter.index >= mark.size]
        settle(waiters, "")
        return mark

    def _publish(self) -> None:
        """Sync, write tiles, sign. The same size is not signed twice."""
        mark = self._sync(take=True)
        if mark.size != self._publisher.size:
            self._publisher.publish(mark, self._moved, self._yield)

    def _hand_over(self) -> None:
        with self._state:
            asked, self._successor = self._successor, None
        if asked is None:
            return
        try:
            self._publish()  # all that was written before it was asked for is the former key's
            self._publisher.succeed(asked.signer, asked.why)
        except (OSError, DependencyFault, NoteError) as fault:
            asked.trouble = str(fault)
            raise
        finally:
            asked.done.set()

    def _moved(self, segment: Segment) -> None:
        with self._state:
            self._journal.moved(segment)

    def _yield(self) -> None:
        """Between two files of a checkpoint: those who wait for a record do not wait for the checkpoint."""
        if self._urgent:
            self._sync()


def lock_directory(directory: Path) -> int:
    """One writer: the kernel frees the lock when the process ends, however it ends, or the returned descriptor is
    closed. Raises DependencyFault."""
    try:
        make_folder(directory)
        handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
    except BlockingIOError as fault:
        raise DependencyFault("audit", f"another process writes the ledger in {directory}") from fault
    except OSError as fault:
        raise DependencyFault("audit", f"the ledger is not opened: {fault}") from fault
    return handle
