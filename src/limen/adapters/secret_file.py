"""A 32-byte secret in a file of its own: made on first use, refused when others could have read it."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from limen.core.faults import ConfigFault, DependencyFault

SIZE: Final = 32


def secret_file(path: Path) -> bytes:
    """The secret in `path`. Raises ConfigFault for a file others may use or of another size, DependencyFault when the
    disk fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        if not path.exists():
            with open(fresh, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as stream:
                stream.write(secrets.token_bytes(SIZE))
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.link(fresh, path)  # whole or not at all, and the first of two processes wins
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as stream:
            about, data = os.fstat(stream.fileno()), stream.read(SIZE + 1)
    except OSError as fault:
        raise DependencyFault("secret file", f"{path}: {fault.strerror or fault}") from fault
    if not stat.S_ISREG(about.st_mode) or about.st_mode & 0o077 or len(data) != SIZE:
        raise ConfigFault(f"not a file of {SIZE} bytes that its owner alone may use (chmod 600)", str(path))
    return data
