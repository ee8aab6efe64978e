"""Directory trees as artifacts: refused where they hold what a package has no use for, digested, and made read-only.

The digest is SHA-256 over one line for every entry, sorted by path: kind, path, and for a file its size and content
digest, for a link where it points. Times, owners and modes besides "may be executed" are not part of it: they differ
between machines, and nothing depends on them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final

from limen.sandbox.packages import NotLaunchable

MAX_FILES: Final = 200_000
MAX_BYTES: Final = 2 << 30
_CHUNK: Final = 1 << 20
Mark = tuple[str, int, int, int, int, int, int]


def walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry below `root` by relative path, with what the file system says of itself. Raises NotLaunchable,
    OSError."""
    pending, seen, size = [""], 0, 0
    while pending:
        folder = pending.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                told = entry.stat(follow_symlinks=False)
                seen, size = seen + 1, size + told.st_size
                if seen > MAX_FILES or size > MAX_BYTES:
                    raise NotLaunchable(f"more than {MAX_FILES} files or {MAX_BYTES >> 20} MiB")
                path = f"{folder}/{entry.name}" if folder else entry.name
                if stat.S_ISDIR(told.st_mode):
                    pending.append(path)
                yield path, told


def digest(root: Path, counts: Callable[[str], bool] = lambda path: True) -> str:
    """ "sha256-<hex>" of what is below `root`, of those paths that count. Raises NotLaunchable for what is neither a
    file of its own, a directory, nor a link that stays inside; OSError."""
    inside = os.path.realpath(root)
    lines: list[tuple[bytes, bytes]] = []
    for path, told in walk(root):
        line = _line(root / path, path, told, inside)
        if counts(path):
            lines.append((os.fsencode(path), line))
    whole = sha256()
    for name, line in sorted(lines):
        whole.update(line + b" " + name + b"\0")
    return f"sha256-{whole.hexdigest()}"


def _line(place: Path, path: str, told: os.stat_result, inside: str) -> bytes:
    mode = told.st_mode
    if stat.S_ISDIR(mode):
        return b"d"
    if stat.S_ISLNK(mode):
        target = os.readlink(place)
        reached = os.path.realpath(place)
        if os.path.isabs(target) or not reached.startswith(inside + os.sep):
            raise NotLaunchable(f"a link leads out of the package: {path[:200]!r}")
        return b"l " + sha256(os.fsencode(target)).hexdigest().encode()
    if not stat.S_ISREG(mode):
        raise NotLaunchable(f"neither a file nor a directory: {path[:200]!r}")
    if mode & (stat.S_ISUID | stat.S_ISGID):
        raise NotLaunchable(f"a file that would run as somebody else: {path[:200]!r}")
    if told.st_nlink != 1:
        raise NotLaunchable(f"a file with a second name elsewhere: {path[:200]!r}")
    kind = b"x" if mode & 0o111 else b"f"
    return b"%s %d %s" % (kind, told.st_size, of_file(place).encode())


def of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of one file, not through a link. Raises OSError."""
    found = sha256()
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as stream:
        while data := stream.read(_CHUNK):
            found.update(data)
    return found.hexdigest()


def marks(root: Path) -> frozenset[Mark]:
    """A picture of the tree that is cheap to take: whoever changes a file changes a time that cannot be set back
    without the right to set the clock. Raises NotLaunchable, OSError."""
    return frozenset(
        (path, told.st_mode, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_dev)
        for path, told in walk(root)
    )


def seal(root: Path) -> None:
    """Nobody writes to it any more: files 0444 or 0555, directories 0555, and on disk. Raises NotLaunchable,
    OSError."""
    folders = [root]
    for path, told in walk(root):
        place = root / path
        if stat.S_ISDIR(told.st_mode):
            folders.append(place)
        elif stat.S_ISREG(told.st_mode):
            handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fchmod(handle, 0o555 if told.st_mode & 0o111 else 0o444)
                os.fsync(handle)
            finally:
                os.close(handle)
    for folder in reversed(folders):
        folder.chmod(0o555)
