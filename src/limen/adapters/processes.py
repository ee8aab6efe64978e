"""What a tree of processes uses, as /proc tells it (proc(5)). Processes that end while being read are left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from limen.core.cell import Usage

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_MOST: Final = 4096


def tree(pid: int) -> Iterator[int]:
    """A process and everything that descends from it. Orphans of a process namespace descend from its first process."""
    waiting = [pid]
    for _ in range(_MOST):
        if not waiting:
            return
        one = waiting.pop()
        yield one
        try:
            threads = os.listdir(f"/proc/{one}/task")
        except OSError:
            continue
        for thread in threads:
            waiting += [int(child) for child in _read(f"/proc/{one}/task/{thread}/children").split()]


def usage(pid: int) -> Usage | None:
    """All of it together; None when the process is gone. Shared memory counts once for each process that has it."""
    memory = ticks = count = read = written = 0
    for one in tree(pid):
        told = _read(f"/proc/{one}/stat").rpartition(")")[2].split()
        if len(told) < 22:
            continue
        count += 1
        ticks += int(told[11]) + int(told[12])
        memory += int(told[21]) * _PAGE
        for line in _read(f"/proc/{one}/io").splitlines():
            name, _, value = line.partition(": ")
            read += int(value) if name == "rchar" else 0
            written += int(value) if name == "wchar" else 0
    return Usage(memory, ticks / _TICKS, count, read, written) if count else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
