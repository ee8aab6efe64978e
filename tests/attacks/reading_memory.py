"""A user without privileges, who starts two processes and tries to read their memory: one as it is, one that hardened
itself. Prints what was found of each as JSON. Started by test_oauth_vault.py."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

from limen.adapters.hardening import harden

SECRET = b"planted-token-" + os.urandom(16)
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
libc = ctypes.CDLL(None, use_errno=True)


def victim(hardened: bool) -> tuple[int, int]:
    """A process that waits; where its secret is in memory."""
    ready, tell = os.pipe()
    secret = ctypes.create_string_buffer(SECRET)
    child = os.fork()
    if child == 0:
        libc.prctl(4, 1, 0, 0, 0)  # as after execution of a program: the change of user took it away
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if hardened:
            harden()
        os.write(tell, b"%d" % ctypes.addressof(secret))
        signal.pause()
    address = int(os.read(ready, 32))
    return child, address


def attempt(child: int, address: int) -> dict[str, object]:
    found: dict[str, object] = {}
    try:
        with open(f"/proc/{child}/mem", "rb") as memory:
            memory.seek(address)
            found["memory"] = memory.read(len(SECRET)) == SECRET
    except PermissionError:
        found["memory"] = False
    for name in ("environ", "maps"):
        try:
            found[name] = bool(Path(f"/proc/{child}/{name}").read_bytes())
        except PermissionError:
            found[name] = False
    attached = libc.ptrace(PTRACE_ATTACH, child, 0, 0) == 0
    found["ptrace"] = attached
    if attached:
        os.waitpid(child, 0)
        libc.ptrace(PTRACE_DETACH, child, 0, 0)
    os.kill(child, signal.SIGABRT)
    found["core"] = os.WCOREDUMP(os.waitpid(child, 0)[1])
    return found


if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
os.chdir(sys.argv[1])  # where a core may be written
print(json.dumps({name: attempt(*victim(name == "hardened")) for name in ("plain", "hardened")}))
