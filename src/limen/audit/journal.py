"""The files records are written to first: `journal/<n>`, bundle n in its final format, growing at the end.

A journal file is exactly a C2SP entry bundle at every moment, but for a last record that a crash cut short. When it
holds 256 records the next file is begun, and the full one is moved, unchanged, to `tile/entries/<n>` once it is on
disk. So a record is written once and what stands under `tile/` never changes.

Not thread-safe: the ledger calls it under its lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limen.audit.tiles import WIDTH

FOLDER: Final = "journal"
_MOST_FULL: Final = 128  # full files not yet on disk: beyond this the disk does not keep up and records are refused


@dataclass(frozen=True, slots=True)
class Segment:
    """One open journal file."""

    index: int
    handle: int


@dataclass(frozen=True, slots=True)
class Mark:
    """The journal at one moment: what must be synced to have the first `size` records on disk."""

    size: int
    full: tuple[Segment, ...]
    current: Segment | None
    offset: int
    new_names: bool

    @property
    def handles(self) -> tuple[int, ...]:
        ends = () if self.current is None else (self.current.handle,)
        return (*(segment.handle for segment in self.full), *ends)


def journal_path(index: int) -> str:
    """Where bundle `index` grows, below the log's directory."""
    return f"{FOLDER}/{index:03d}"


class Journal:
    """The writing end. `offset` bytes of the current file are whole records; nothing after them is believed."""

    __slots__ = ("_current", "_directory", "_dirty", "_full", "_new_names", "_offset", "size")

    def __init__(self, directory: Path, size: int, full: list[Segment], current: Segment | None, offset: int) -> None:
        self._directory = directory
        self.size = size
        self._full = deque(full)
        self._current = current
        self._offset = offset
        self._dirty = False
        self._new_names = True

    def write(self, framed: Sequence[bytes]) -> int:
        """Append the first of these framed records, with one write as many as this file takes; returns how many.

        All of those or, after OSError, nothing that will be believed.
        """
        current = self._current
        if current is None:
            current = self._begin()
        elif self._dirty:
            self._undo(current)
        room = WIDTH - self.size % WIDTH
        count = min(room, len(framed))
        data = framed[0] if count == 1 else b"".join(framed[:count])
        try:
            written = os.write(current.handle, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, "only part of the records could be written")
        except OSError:
            self._dirty = True
            # If even cutting fails, `_dirty` stays and the next write must cut before it may append.
            with contextlib.suppress(OSError):
                self._undo(current)
            raise
        self._offset += written
        self.size += count
        if count == room:
            self._full.append(current)
            self._current = None
        return count

    def _begin(self) -> Segment:
        """A new file for the next bundle. It must not exist: one that does was not seen by recovery."""
        if len(self._full) >= _MOST_FULL:
            raise OSError(errno.EBUSY, "the disk does not keep up")
        index = self.size // WIDTH
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._current = Segment(index, os.open(self._directory / journal_path(index), flags, 0o600))
        self._offset, self._dirty, self._new_names = 0, False, True
        return self._current

    def _undo(self, current: Segment) -> None:
        os.ftruncate(current.handle, self._offset)
        self._dirty = False

    def mark(self) -> Mark:
        """What to sync now. Its caller syncs the folder when `new_names` says so, or declares the ledger broken."""
        new_names, self._new_names = self._new_names, False
        return Mark(self.size, tuple(self._full), self._current, self._offset, new_names)

    def moved(self, segment: Segment) -> None:
        """The oldest full file now stands under `tile/`: forget and close it."""
        oldest = self._full.popleft()
        os.close(oldest.handle)
        if oldest != segment:
            raise RuntimeError("journal files must be moved in order")

    def close(self) -> None:
        """Close every file; a part of a record that could not be written is cut if the disk allows it."""
        if self._current is not None:
            if self._dirty:
                with contextlib.suppress(OSError):
                    self._undo(self._current)
            os.close(self._current.handle)
            self._current = None
        while self._full:
            os.close(self._full.popleft().handle)
