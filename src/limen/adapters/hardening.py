"""Keeps other processes of the same user from reading our memory. Linux only; elsewhere it says that it did nothing."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from typing import Final

from limen.core.faults import DependencyFault

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4


def harden() -> bool:
    """No core dumps, and neither ptrace nor /proc/PID/mem for anybody but root (prctl(2), PR_SET_DUMPABLE).

    Holds for this process, its threads, and children until they execute a program; call it first. Whether it did.
    Raises DependencyFault if the kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 or libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise DependencyFault("process", f"cannot be kept from being read: {os.strerror(ctypes.get_errno())}")
    return True
