"""Keys of sealed handles in a file: implements `identity.handles.Ring` for replicas that share a directory.

The directory and its files are what `FileKeyStore` demands: ours alone, or refused. Rotation may happen in any process
at any time: every process looks again within a second, and at once for a number it does not know.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from limen.adapters.datakeys import FileKeyStore
from limen.adapters.kek_ring import line
from limen.core.faults import DependencyFault

_LOOK: Final = 1.0  # seconds for which the file is not looked at again
_RETRY: Final = 0.05  # the same when an unknown number is asked for: not a way to make us read files
_KEPT: Final = 2  # the key in use, and the one before it for what is still under way
_WARMING: Final = 3.0  # seconds before a new key is used, so that every process knows it by then


class HandleKeys(FileKeyStore):
    """The key ring in `directory`, made with a first key if there is none. Raises as FileKeyStore does."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._ring: dict[int, bytes] = {}
        self._mark: tuple[int, int] = (0, 0)
        self._looked = self._changed = 0.0
        self._look(time.monotonic())

    def current(self) -> tuple[int, bytes]:
        """The key that seals: the newest, once it has been there for a moment."""
        now = time.monotonic()
        if now - self._looked > _LOOK:
            self._look(now)
        numbers = sorted(self._ring)
        warming = len(numbers) > 1 and time.time() - self._changed < _WARMING
        number = numbers[-2] if warming else numbers[-1]
        return number, self._ring[number]

    def find(self, number: int) -> bytes | None:
        """The key of this number, if it is still on the ring."""
        now = time.monotonic()
        if now - self._looked > (_LOOK if number in self._ring else _RETRY):
            self._look(now)
        return self._ring.get(number)

    @property
    def age(self) -> float:
        """Seconds since the newest key was made."""
        self._look(time.monotonic())
        return max(0.0, time.time() - self._changed)

    def renew(self, older_than: float = 0.0) -> bool:
        """Add a key unless the newest is younger than that many seconds; of the older ones only the last stays.
        Whether it did."""
        try:
            with self._locked():
                if time.time() - (self._directory / "kek").stat().st_mtime < older_than:
                    return False  # another process was first
                held = sorted(self._keks().items())[-(_KEPT - 1) :]
                self._write("kek", b"".join(line(number, key) for number, key in held) + line(held[-1][0] + 1))
        except OSError as fault:
            raise DependencyFault("handle keys", fault.strerror or str(fault)) from fault
        self._look(time.monotonic())
        return True

    def replace(self) -> None:
        """One new key and no other: nothing that was sealed before opens any more, here at once and in every process
        within a second. Raises DependencyFault."""
        try:
            with self._locked():
                self._write("kek", line(max(self._keks()) + 1))
        except OSError as fault:
            raise DependencyFault("handle keys", fault.strerror or str(fault)) from fault
        self._look(time.monotonic())

    def _look(self, now: float) -> None:
        try:
            about = (self._directory / "kek").stat()
        except OSError as fault:
            raise DependencyFault("handle keys", fault.strerror or str(fault)) from fault
        mark = (about.st_mtime_ns, about.st_ino)
        if mark != self._mark:
            self._ring, self._mark, self._changed = self._keks(), mark, about.st_mtime
        self._looked = now
