"""Data keys of tenants in files: implements `detection.protect.KeyStore` for one machine.

A directory of mode 0700 holds `kek`, one AES-256 key a line with its number, newest last, and one file for each tenant,
all 0600. Whoever can read the directory can reveal everything, so one that others can use is refused, not repaired. A
destroyed tenant's file is overwritten before it is replaced; copies in backups and on worn flash cells stay behind, so
back the directory up apart from the data, or keep the key-encryption key in a key service.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from limen.core.faults import ConfigFault, DependencyFault

_TRIES: Final = 100
_MOST: Final = 1 << 20
_NONCE: Final = 12


class FileKeyStore:
    """Key-encryption keys and wrapped data keys in one directory."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory and a first key if there is none.

        Raises ConfigFault if others can use the directory or the key cannot be read, DependencyFault if the disk fails.
        """
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = directory.stat()
            if about.st_mode & 0o077 or about.st_uid not in (0, os.geteuid()):
                raise ConfigFault("others can use the directory of the data keys; make it 0700", str(directory))
            with self._locked():
                if not (directory / "kek").exists():
                    self._write("kek", line(1))
            self._keks()
        except OSError as fault:
            raise DependencyFault("data keys", f"{directory}: {fault.strerror or fault}") from fault

    def wrap(self, key: bytes, context: bytes) -> bytes:
        number, kek = max(self._keks().items())
        nonce = secrets.token_bytes(_NONCE)
        return number.to_bytes(4, "big") + nonce + AESGCM(kek).encrypt(nonce, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        kek = self._keks().get(int.from_bytes(wrapped[:4], "big"))
        if kek is None or len(wrapped) < 4 + _NONCE + 16:
            raise DependencyFault("data keys", "a data key is wrapped by a key that is not held", retryable=False)
        try:
            return AESGCM(kek).decrypt(wrapped[4 : 4 + _NONCE], wrapped[4 + _NONCE :], context)
        except InvalidTag as fault:
            raise DependencyFault("data keys", "a wrapped data key was changed", retryable=False) from fault

    def read(self, tenant: str) -> bytes | None:
        try:
            return self._read(_name(tenant))
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise DependencyFault("data keys", fault.strerror or str(fault)) from fault

    def swap(self, tenant: str, old: bytes | None, new: bytes) -> bool:
        try:
            with self._locked():
                if self.read(tenant) != old:
                    return False
                self._write(_name(tenant), new)
        except OSError as fault:
            raise DependencyFault("data keys", fault.strerror or str(fault)) from fault
        return True

    def rotate(self) -> None:
        """Add a key-encryption key. Older ones still unwrap, until `Protector.rewrap` has gone over all tenants."""
        try:
            with self._locked():
                self._write("kek", self._read("kek") + line(max(self._keks()) + 1))
        except OSError as fault:
            raise DependencyFault("data keys", fault.strerror or str(fault)) from fault

    def retire(self) -> None:
        """Drop all key-encryption keys but the newest. What was not rewrapped before is lost."""
        try:
            with self._locked():
                self._write("kek", self._read("kek").splitlines(keepends=True)[-1])
        except OSError as fault:
            raise DependencyFault("data keys", fault.strerror or str(fault)) from fault

    def __repr__(self) -> str:
        return f"FileKeyStore({str(self._directory)!r})"

    def _keks(self) -> dict[int, bytes]:
        try:
            lines = self._read("kek").decode("ascii").split("\n")
            keys = {
                int(line.split(":")[0]): base64.b64decode(line.split(":")[1], validate=True) for line in lines if line
            }
        except OSError as fault:
            raise DependencyFault("data keys", fault.strerror or str(fault)) from fault
        except (ValueError, IndexError) as fault:
            raise ConfigFault("the key-encryption key cannot be read", str(self._directory / "kek")) from fault
        if not keys or any(len(key) != 32 for key in keys.values()):
            raise ConfigFault("the key-encryption key has not 32 bytes", str(self._directory / "kek"))
        return keys

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
            raise DependencyFault("data keys", "the file keeps changing")
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


def _name(tenant: str) -> str:
    """Tenants are named by others: only a digest of the name touches the disk."""
    return hashlib.sha256(b"limen tenant\x00" + tenant.encode("utf-8", "surrogatepass")).hexdigest()


def line(number: int, key: bytes | None = None) -> bytes:
    """One key of the file, a new one unless given."""
    return f"{number}:{base64.b64encode(key or secrets.token_bytes(32)).decode()}\n".encode()
