"""Key-encryption keys in a file, and data keys of tenants beside them: implements `core.ports.KeyWrap` and
`detection.protect.KeyStore` for one machine, or several that share a directory.

A directory of mode 0700 holds `kek`, one AES-256 key a line with its number, newest last, and one file for each tenant,
all 0600. Whoever can read the directory can reveal everything, so one that others can use is refused, not repaired. A
destroyed tenant's file is overwritten before it is replaced; copies in backups and on worn flash cells stay behind, so
back the directory up apart from the data, or keep the key-encryption key in a key service.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from limen.adapters.kek_ring import KekRing, line, parse
from limen.adapters.private_files import PrivateFiles
from limen.core.faults import ConfigFault


class FileKeyStore(PrivateFiles, KekRing):
    """Key-encryption keys and wrapped data keys in one directory."""

    def __init__(self, directory: Path, *, create: bool = True) -> None:
        """Makes the directory and a first key if there is none and `create`.

        Raises ConfigFault if others can use the directory or the key cannot be read, DependencyFault if the disk fails.
        """
        super().__init__(directory, "data keys")
        with self._fault(), self._locked():
            if not (directory / "kek").exists():
                if not create:
                    raise ConfigFault("the key-encryption key is not there; restore it", str(directory / "kek"))
                self._write("kek", line(1))
        self._keks()

    def read(self, tenant: str) -> bytes | None:
        with self._fault():
            try:
                return self._read(_name(tenant))
            except FileNotFoundError:
                return None

    def swap(self, tenant: str, old: bytes | None, new: bytes) -> bool:
        with self._fault(), self._locked():
            if self.read(tenant) != old:
                return False
            self._write(_name(tenant), new)
        return True

    def rotate(self) -> None:
        """Add a key-encryption key. Older ones still unwrap, until what they wrapped has been wrapped anew."""
        with self._fault(), self._locked():
            self._write("kek", self._read("kek") + line(max(self._keks()) + 1))

    def retire(self) -> None:
        """Drop all key-encryption keys but the newest. What was not rewrapped before is lost."""
        with self._fault(), self._locked():
            self._write("kek", self._read("kek").splitlines(keepends=True)[-1])

    def _keks(self) -> dict[int, bytes]:
        with self._fault():
            return parse(self._read("kek"), str(self._directory / "kek"))


def _name(tenant: str) -> str:
    """Tenants are named by others: only a digest of the name touches the disk."""
    return hashlib.sha256(b"limen tenant\x00" + tenant.encode("utf-8", "surrogatepass")).hexdigest()
