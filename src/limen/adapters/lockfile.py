"""`mcp.lock` on disk: read whole, verified with the keys that are trusted, or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from limen.audit.note import NoteError, parse_verifier_key
from limen.catalog.lock import MAX_LOCK, Lock, LockFault, read
from limen.core.faults import ConfigFault

__all__ = ["load_lock", "own_key", "trusted"]


def own_key(signing_key: Path) -> str:
    """The verifier key beside our signing key, as text. Raises ConfigFault when there is none yet."""
    path = signing_key.with_name(signing_key.name + ".pub")
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigFault("there is no such key yet; name the one that signed the lock", str(path)) from None


def trusted(keys: Iterable[str]) -> dict[str, bytes]:
    """Verifier keys (name+hash+key) as `catalog.lock.read` takes them. Raises ConfigFault."""
    found: dict[str, bytes] = {}
    for text in keys:
        try:
            key = parse_verifier_key(text)
        except NoteError as fault:
            raise ConfigFault(str(fault)) from None
        if found.setdefault(key.name, key.public_key) != key.public_key:
            raise ConfigFault(f"two different keys are named {key.name}")
    return found


def load_lock(path: Path, keys: Iterable[str]) -> Lock:
    """The lock in `path`, signed by one of these verifier keys.

    Raises LockFault when it is not authentic, ConfigFault when there is no such file or a key is none.
    """
    known = trusted(keys)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_LOCK + 1)
    except OSError as fault:
        raise ConfigFault(f"the lock cannot be read: {fault.strerror or fault}", str(path)) from None
    if len(data) > MAX_LOCK:
        raise LockFault(f"larger than {MAX_LOCK} bytes", str(path))
    try:
        return read(data, known)
    except LockFault as fault:
        raise LockFault(fault.message, str(path)) from None
