"""Exchanges a file for another of the same place, mode and owner: whoever reads sees the old or the new one, whole."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from limen.audit.folders import sync_folder
from limen.core.faults import DependencyFault


def replace_file(path: Path, data: bytes, expected: bytes | None, *, mode: int = 0o600) -> None:
    """Write `data` where `expected` is now (None: where nothing is). A symbolic link stays, its target is exchanged.

    On disk when it returns. Raises DependencyFault, also when the file is not as expected any more.
    """
    goal = Path(os.path.realpath(path))
    draft = goal.with_name(f".{goal.name}.{secrets.token_hex(6)}.limen")
    try:
        before = goal.stat() if expected is not None else None
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                if before is not None and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(handle, before.st_uid, before.st_gid)
                os.fchmod(handle, stat.S_IMODE(before.st_mode) if before is not None else mode)
                stream.write(data)
                stream.flush()
                os.fsync(handle)
            if (goal.read_bytes() if goal.exists() else None) != expected:
                raise DependencyFault("file", f"{path}: was changed meanwhile by another program; try again")
            draft.replace(goal)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(goal.parent)
    except OSError as error:
        raise DependencyFault("file", f"{path}: {error.strerror or error}") from None


def remove_file(path: Path) -> None:
    """Delete it, if it is there. Raises DependencyFault."""
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise DependencyFault("file", f"{path}: {error.strerror or error}") from None
