"""A file of records a sink would not take, each with the reason, beside the log that still holds them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from limen.core.faults import DependencyFault


class DeadLetters:
    """JSON lines, mode 0600, one a record, on disk before `put` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, about: Mapping[str, Any], raw: bytes) -> None:
        """Raises DependencyFault when it could not be kept; at worst a torn last line is left, never a lost one."""
        line = orjson.dumps({**about, "record": raw.decode("utf-8", "backslashreplace")}) + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(self._path, flags, 0o600)
            try:
                if os.write(handle, line) != len(line):
                    os.write(handle, b"\n")
                    raise OSError("the disk took only a part")
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as fault:
            raise DependencyFault("dead letters", f"{self._path}: {fault.strerror or fault}") from None
