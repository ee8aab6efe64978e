"""Files of keys in a directory that is ours alone: one that others can use is refused, not repaired."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from limen.core.faults import ConfigFault, DependencyFault

_TRIES: Final = 100
_MOST: Final = 1 << 20


class PrivateFiles:
    """Files of mode 0600 in a directory of mode 0700, replaced whole. `what` names them in faults."""

    def __init__(self, directory: Path, what: str) -> None:
        """Makes the directory. Raises ConfigFault if others can use it, DependencyFault if the disk fails."""
        self._directory, self._what = directory, what
        with self._fault():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = directory.stat()
        if about.st_mode & 0o077 or about.st_uid not in (0, os.geteuid()):
            raise ConfigFault(f"others can use the directory of the {what}; make it 0700", str(directory))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._directory)!r})"

    @contextmanager
    def _fault(self) -> Iterator[None]:
        """Whatever the disk does is a fault of it."""
        try:
            yield
        except OSError as fault:
            raise DependencyFault(self._what, f"{self._directory}: {fault.strerror or fault}") from fault

    def _read(self, name: str) -> bytes:
        """A file that is ours alone. Judged when open, so that it cannot be exchanged in between."""
        path = self._directory / name
        for _ in range(_TRIES):
            with open(
                path, "rb", opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
            ) as stream:
                about = os.fstat(stream.fileno())
                if not stat.S_ISREG(about.st_mode) or about.st_mode & 0o077 or about.st_uid not in (0, os.geteuid()):
                    raise ConfigFault("others can use this file; it must be a regular file of mode 0600", str(path))
                content = stream.read(_MOST + 1)
                if os.fstat(stream.fileno()).st_nlink:
                    break
            # Replaced while it was read: the former bytes may have been overwritten under our eyes.
        else:
            raise DependencyFault(self._what, "the file keeps changing")
        if len(content) > _MOST:
            raise ConfigFault("the file is too large", str(path))
        return content

    def _write(self, name: str, content: bytes) -> None:
        """The whole file or none of it; what stood there is overwritten afterwards. Held under the lock."""
        path = self._directory / name
        draft = self._directory / f".{name}.{secrets.token_hex(8)}"
        former = os.open(path, os.O_WRONLY | os.O_NOFOLLOW) if path.exists() else None
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(handle)
            os.replace(draft, path)
            if former is not None:
                os.pwrite(former, bytes(os.fstat(former).st_size), 0)
                os.fsync(former)
        finally:
            if former is not None:
                os.close(former)
        folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, among threads and processes."""
        handle = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
