"""Remove records on purpose, so that everybody can see later that it was on purpose.

First the signed note says which bundles go, by whom and why; only then are files removed. Killed in between, the log is
sound, and the next round removes what is left. Where two people must agree, the first one's wish is kept, exactly, for
the second: what is removed is what both saw, less whatever a hold covers by then.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from limen.audit.holds import Holds
from limen.audit.note import NoteError, VerifierKey
from limen.audit.pruned import Gone, Pruned, known_pruned, sign_pruned
from limen.audit.publish import write_apart
from limen.audit.read import PRUNED, load
from limen.audit.retention import Held, Plan, RetentionSettings, joined, plan, unheld
from limen.audit.succession import signed, trusted
from limen.audit.tiles import ENTRIES, WIDTH, tile_path
from limen.core.faults import DependencyFault
from limen.core.ports import Signer, Table

_NOTE_ROOM: Final = 60_000  # bytes of a note of at most 64 KiB
_WISH: Final = "prune/"
_WISH_KEPT: Final = 7 * 86_400.0
_FOLLOWERS: Final = ("watch", "follow")
_LOOK: Final = 0.05  # seconds between looks whether another process is done


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants removed, until enough others agree."""

    log: str
    by: tuple[str, ...]
    reason: str
    at: float
    ranges: tuple[tuple[int, int], ...]


class Pruning:
    """Removes old records of one log. One at a time, also across processes."""

    def __init__(
        self, directory: Path, signer: Signer, settings: RetentionSettings, logs: Table, cursors: Table
    ) -> None:
        self._directory, self._signer, self._settings = directory, signer, settings
        self._logs, self._cursors = logs, cursors
        self._key = VerifierKey(signer.name, signer.public_key)

    @property
    def log(self) -> str:
        """The log's name."""
        return self._signer.name

    def plan(self, now: float) -> Plan:
        """What may go now. Raises DependencyFault: whatever cannot be read keeps everything."""
        signed, pruned = self._signed(), self._pruned()
        holds = Holds(self._logs).every()
        return plan(self._directory, signed, self._settings, holds, self.read_to(), pruned, now)

    def wish(self, by: str, reason: str, now: float, people: int) -> tuple[Wish, Plan | None]:
        """One of `people` who must agree wants what may go now to be removed. The plan, once all of them do: what all
        of them saw and may still go. Raises DependencyFault."""
        while True:
            raw, may = self._logs.get(_WISH + self._signer.name), self.plan(now)
            before = None if raw is None else _wish(raw)
            if before is None:
                wish = Wish(self._signer.name, (by,), reason, now, may.ranges)
            else:
                people_so_far = tuple(dict.fromkeys((*before.by, by)))
                wish = Wish(before.log, people_so_far, before.reason, before.at, before.ranges)
                may = may.within(before.ranges)
            agreed = len(wish.by) >= people
            kept = None if agreed else orjson.dumps(asdict(wish))
            if raw is None and agreed:
                return wish, may
            if self._logs.swap(_WISH + self._signer.name, raw, kept, wish.at + _WISH_KEPT):
                return wish, may if agreed else None

    def remove(
        self,
        ranges: Sequence[tuple[int, int]],
        by: Sequence[str],
        reason: str,
        now: float,
        told: Callable[[Mapping[str, Any]], None],
    ) -> list[tuple[int, int]]:
        """Remove these bundles; returns those that are gone. `told` puts it on record, before anything else is done.

        What is held by now stays, whenever these ranges were planned. Raises DependencyFault; what was removed by then
        is under the note, and the rest is removed by the next round.
        """
        with pruning(self._directory):
            pruned = self._pruned()
            if trusted(self._directory, self._key).current != self._key:
                raise DependencyFault("audit", "the key that signs the log was replaced: try again")
            ranges = unheld(self._directory, ranges, Holds(self._logs).every())
            taken = list[tuple[int, int]]()
            for first, last in ranges:
                try:
                    more = pruned.with_more(Gone(first, last, now, tuple(by), reason[:200]))
                except ValueError:
                    continue  # another process was faster
                if len(sign_pruned(self._signer, more)) > _NOTE_ROOM:
                    break
                pruned = more
                taken.append((first, last))
            if taken:
                told({"first": taken[0][0] * WIDTH, "ranges": [[a * WIDTH, b * WIDTH] for a, b in taken],
                      "records": sum(b - a for a, b in taken) * WIDTH, "by": [*by], "reason": reason})  # fmt: skip
                self._write(sign_pruned(self._signer, pruned))
            self.finish(pruned)
            return joined(
                index
                for first, last in taken
                for index in range(first, last)
                if not (self._directory / tile_path(ENTRIES, index)).exists()
            )

    def finish(self, pruned: Pruned | None = None) -> None:
        """Remove whatever the note names, is still there and is not held, also by a hold of this very moment. Raises
        DependencyFault."""
        held = Held(self._directory)
        try:
            for gone in (self._pruned() if pruned is None else pruned).gone:
                for index in range(gone.first, gone.last):
                    path = self._directory / tile_path(ENTRIES, index)
                    if path.exists() and not held.by(index, Holds(self._logs).every()):
                        self._unlink(index, path)
        except OSError as fault:
            raise DependencyFault("audit", f"old records could not be removed: {fault}") from None

    def _unlink(self, index: int, path: Path) -> None:
        """Without its hashes a removed bundle would take the log with it."""
        if len(load(self._directory, tile_path(0, index)) or b"") != WIDTH * 32:
            raise DependencyFault("audit", f"bundle {index} is kept: its hashes are not there", retryable=False)
        path.unlink()

    def read_to(self) -> dict[str, int]:
        """How far each follower has read this log. Raises DependencyFault for what is no number."""
        found = dict[str, int]()
        for kind in _FOLLOWERS:
            prefix = f"{kind}/{self._signer.name}/"
            for key, raw in self._cursors.scan(prefix):
                if "/" in key.removeprefix(prefix):
                    continue  # of a replica, whose log has our name and a suffix
                if not raw.isdigit():
                    raise DependencyFault("table", f"how far {key} has read is not a number", retryable=False)
                found[key.removeprefix(prefix)] = int(raw)
        return found

    def _signed(self) -> int:
        try:
            return signed(self._directory, self._key).checkpoint.size
        except NoteError as fault:
            raise DependencyFault("audit", f"the checkpoint must not be believed: {fault}", retryable=False) from None

    def _pruned(self) -> Pruned:
        try:
            return known_pruned(self._directory, trusted(self._directory, self._key))
        except NoteError as fault:
            text = f"the note about removed records must not be believed: {fault}"
            raise DependencyFault("audit", text, retryable=False) from None

    def _write(self, note: bytes) -> None:
        try:
            write_apart(self._directory, PRUNED, note)
        except OSError as fault:
            raise DependencyFault("audit", f"the note about removed records: {fault}") from None


@contextmanager
def pruning(directory: Path, patience: float = 0.0) -> Iterator[None]:
    """Nobody else removes records of this log, or changes who may. Waits so many seconds for whoever does. Raises
    DependencyFault."""
    ends = time.monotonic() + patience
    try:
        handle = os.open(directory / f"{PRUNED}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as fault:
        raise DependencyFault("audit", f"old records could not be removed: {fault}") from None
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= ends:
                    raise DependencyFault("audit", "another process is removing old records") from None
                time.sleep(_LOOK)
        yield
    finally:
        os.close(handle)


def _wish(raw: bytes) -> Wish:
    try:
        data: Any = orjson.loads(raw)
        ranges = tuple((int(first), int(last)) for first, last in data["ranges"])
        return Wish(data["log"], tuple(data["by"]), data["reason"], data["at"], ranges)
    except (ValueError, TypeError, KeyError):
        raise DependencyFault("table", "what somebody wanted removed cannot be read", retryable=False) from None
