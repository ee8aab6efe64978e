"""Ed25519 signing key in a file: implements `core.ports.Signer`.

The file holds one line, PRIVATE+KEY+name+hash+key, the encoding of the Go checksum database's note keys, and beside
it `<file>.pub` holds the verifier key name+hash+key that offline verification needs. Whoever can read the key file can
rewrite history unseen, so a file that others can read or write is refused, not repaired.
"""

from __future__ import annotations

import base64
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from limen.audit.note import NoteError, VerifierKey, decode_base64, key_id
from limen.core.faults import ConfigFault, DependencyFault

_PREFIX: Final = "PRIVATE+KEY+"
_MOST: Final = 4096


class FileSigner:
    """A named Ed25519 key. Never shows its secret in `repr`."""

    __slots__ = ("_name", "_private", "_public")

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self._name, self._private = name, private
        self._public = private.public_key().public_bytes_raw()

    @classmethod
    def open(cls, path: Path, name: str, *, create: bool = True) -> FileSigner:
        """The key in `path`, made first if absent and `create`.

        Raises ConfigFault for a file others can use, a malformed key or one of another name, DependencyFault when the
        disk fails.
        """
        try:
            key_id(name, bytes(32))
        except NoteError as fault:
            raise ConfigFault(str(fault), str(path)) from fault
        try:
            if create and not path.exists():
                _create(path, name)
            signer = cls(name, _load(path, name))
            public = path.with_name(path.name + ".pub")
            if create and not public.exists():
                _write_once(public, signer.verifier_key + "\n", 0o644)
        except OSError as fault:
            raise DependencyFault("signing key", f"{path}: {fault.strerror or fault}") from fault
        return signer

    def named(self, name: str) -> FileSigner:
        """The same key for a log of another name: what it signs for one says nothing about the other."""
        return FileSigner(name, self._private)

    @property
    def name(self) -> str:
        return self._name

    @property
    def public_key(self) -> bytes:
        return self._public

    @property
    def verifier_key(self) -> str:
        """name+hash+key, for people and for `limen.audit.verify`."""
        return VerifierKey(self._name, self._public).text

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def __repr__(self) -> str:
        return f"FileSigner({self.verifier_key})"


def _create(path: Path, name: str) -> None:
    """A new key file. When two processes race, one file wins and both go on to read it."""
    private = Ed25519PrivateKey.generate()
    mark = key_id(name, private.public_key().public_bytes_raw()).hex()
    encoded = base64.b64encode(b"\x01" + private.private_bytes_raw()).decode()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_once(path, f"{_PREFIX}{name}+{mark}+{encoded}\n", 0o600)


def _write_once(path: Path, text: str, mode: int) -> None:
    """The whole file or none of it, never over an existing one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(handle)
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()


def _load(path: Path, name: str) -> Ed25519PrivateKey:
    """Judge the opened file, not its name, so that it cannot be exchanged in between. Raises ConfigFault, OSError."""
    with open(path, "rb", opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK)) as stream:
        about = os.fstat(stream.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ConfigFault("the signing key is not a regular file", str(path))
        if about.st_mode & 0o077:
            mode = stat.S_IMODE(about.st_mode)
            raise ConfigFault(f"the signing key has mode {mode:04o}; others may use it, make it 0600", str(path))
        if about.st_uid not in (0, os.geteuid()):
            raise ConfigFault("the signing key belongs to another user", str(path))
        raw = stream.read(_MOST)
    return _parse(raw, name, str(path))


def _parse(raw: bytes, name: str, where: str) -> Ed25519PrivateKey:
    """The key of one PRIVATE+KEY line. Raises ConfigFault; no message ever quotes the line."""
    try:
        line = raw.decode("ascii" if name.isascii() else "utf-8").strip()
        if not line.startswith(_PREFIX):
            raise NoteError("the signing key does not read PRIVATE+KEY+name+hash+key")
        found, mark, encoded = line[len(_PREFIX) :].split("+", 2)
        secret = decode_base64(encoded)
        if len(secret) != 33 or secret[:1] != b"\x01":
            raise NoteError("the signing key is not an Ed25519 key")
        private = Ed25519PrivateKey.from_private_bytes(secret[1:])
        if found != name:
            raise NoteError(f"the signing key is named {found!r}, the configuration says {name!r}")
        if mark != key_id(found, private.public_key().public_bytes_raw()).hex():
            raise NoteError("the signing key's hash does not belong to its name and key")
    except UnicodeDecodeError as fault:
        raise ConfigFault("the signing key is not text", where) from fault
    except NoteError as fault:
        raise ConfigFault(str(fault), where) from fault
    except ValueError as fault:
        raise ConfigFault("the signing key does not read PRIVATE+KEY+name+hash+key", where) from fault
    return private
