"""A follower's file: JSON lines, synced for each batch, rotated by size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from limen.audit.export import Entry
from limen.audit.lines import render
from limen.core.faults import DependencyFault


class FileSink:
    """Implements export.Sink. Path is the newest file, path.1 the one before; the oldest beyond `keep` is deleted."""

    def __init__(self, path: Path, form: str, rotate: int, keep: int) -> None:
        self._path, self._form, self._rotate, self._keep = path, form, rotate, keep

    def send(self, entries: Sequence[Entry]) -> None:
        """All of it on disk, or DependencyFault and none of it left behind where the disk allows that."""
        data = b"".join(render(self._form, entry) + b"\n" for entry in entries)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                before = os.fstat(handle).st_size
                if before and os.pread(handle, 1, before - 1) != b"\n":
                    data = b"\n" + data  # whoever wrote last was killed: the torn line ends here, and is sent again
                self._write(handle, data, before)
            finally:
                os.close(handle)
            if before + len(data) >= self._rotate:
                self._turn()
        except OSError as fault:
            raise DependencyFault("file", f"{self._path}: {fault.strerror or fault}") from None

    def _write(self, handle: int, data: bytes, before: int) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, before)
            raise

    def _turn(self) -> None:
        """Rename path to path.1, that to path.2 and so on. A crash in between leaves a gap in the numbers, no loss."""
        for number in range(self._keep, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                os.replace(older, self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self._path if not number else self._path.with_name(f"{self._path.name}.{number}")

    def close(self) -> None:
        """Nothing is held open."""
