"""Runs inside a cell and tries what must not work there. Prints one JSON object: facts, without judging them.

python -I -S probe.py
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
CALLS = {  # number on x86_64, elsewhere, arguments
    "keyctl": (250, 219, (0, 0, 0)),
    "io_uring": (425, 425, (1, 0)),
    "bpf": (321, 280, (0, 0, 0)),
    "ptrace": (101, 117, (0, 0, 0, 0)),
    "mount": (165, 40, (0, 0, 0, 0, 0)),
}
SOCKETS = {"packet": (17, 3, 0), "netlink": (16, 3, 0), "vsock": (40, 1, 0), "raw": (2, 3, 1)}
PLACES = ("/", "/usr", "/etc", "/dev", "/proc/sys/kernel/core_pattern")


def status(name: str) -> str:
    """A member of /proc/self/status."""
    with open("/proc/self/status") as source:
        return next((line.split()[1] for line in source if line.startswith(f"{name}:")), "")


def number(call: int, *arguments: int) -> int:
    """The error of a system call, 0 when it worked."""
    return 0 if libc.syscall(call, *arguments) >= 0 else ctypes.get_errno()


def refused(call: Callable[..., Any], *arguments: Any) -> int:
    """The error of a call of Python, 0 when it worked."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def errors() -> dict[str, int]:
    """By name, the error of everything that must fail."""
    found = {name: number(x86 if X86 else other, *args) for name, (x86, other, args) in CALLS.items()}
    found["userns"] = refused_child(0x10000000)
    found["tiocsti"] = refused(fcntl.ioctl, 0, 0x5412, b"x")
    for name, kind in SOCKETS.items():
        found[name] = refused(lambda kind=kind: socket.socket(*kind).close())
    return found


def refused_child(flags: int) -> int:
    """The error of unshare(2), in a process that ends at once."""
    pid = os.fork()
    if pid == 0:
        os._exit(min(number(272 if X86 else 97, flags), 255))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def writable() -> list[str]:
    """Places of the system that can be written to."""
    found = []
    for place in PLACES:
        path = os.path.join(place, "limen-probe") if os.path.isdir(place) else place
        if refused(lambda path=path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))) == 0:
            found.append(place)
    return found


def tmp_full() -> bool:
    """Whether /tmp says that it is full, before 64 MiB are in it."""
    for count in range(1024):
        try:
            with open(f"/tmp/probe-{count}", "wb") as sink:  # noqa: S108
                sink.write(b"x" * 60_000)
        except OSError as error:
            return error.errno == errno.ENOSPC
    return False


def forks() -> int:
    """How many processes could be started."""
    children: list[int] = []
    try:
        while len(children) < 100:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            children.append(pid)
    except OSError:
        found = len(children)  # EAGAIN: the limit
    else:
        found = len(children)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return found


def file_size() -> int:
    """The error of a file that is too large."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    path = "/cell/large"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        return refused(os.pwrite, handle, b"x", limit + 1)
    finally:
        os.close(handle)
        os.unlink(path)


def interfaces() -> list[str]:
    """Network interfaces there are."""
    with open("/proc/net/dev") as source:
        return [line.split(":")[0].strip() for line in source if ":" in line]


def environ() -> list[str]:
    """Names in the environment of the first process that are not ours."""
    with open("/proc/1/environ", "rb") as source:
        names = [part.split(b"=")[0].decode(errors="replace") for part in source.read().split(b"\0") if part]
    return [name for name in names if name not in os.environ]


def main() -> None:
    """Everything, in one object."""
    descriptors = sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1]
    report = {
        "uid": os.getuid(),
        "capabilities": {name: int(status(name), 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh")},
        "no_new_privs": int(status("NoNewPrivs")),
        "seccomp": int(status("Seccomp")),
        "pid_one": os.path.exists("/proc/1"),
        "processes": sum(name.isdigit() for name in os.listdir("/proc")),
        "descriptors": descriptors,
        "writable": writable(),
        "interfaces": interfaces(),
        "foreign": environ(),
        "scoped": libc.syscall(444, None, 0, 1) >= 6,
        "errno": errors(),
        "forks_allowed": resource.getrlimit(resource.RLIMIT_NPROC)[0],
        "forks": forks(),
        "file_size": file_size(),
        "tmp_full": tmp_full(),
    }
    json.dump(report, sys.stdout)


main()
