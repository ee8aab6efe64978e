"""Cells by bubblewrap: namespaces, a filter of system calls, limits, and nothing of the host that was not listed.

A stage of our own (sandbox/stage.py) prepares and becomes bubblewrap. It gets its order over a socket: no secret, no
path of ours and no filter stands on a command line. It is started with an empty environment; bubblewrap, which stays
as the first process inside, with exactly the cell's (its /proc/1/environ can be read there).
"""

from __future__ import annotations

import asyncio
import json
import marshal
import os
import platform
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

from limen.adapters import processes
from limen.adapters.cgroups import Group, Groups
from limen.adapters.programs import find
from limen.core.cell import Bounds, CellSpec, Property, Usage
from limen.core.faults import ConfigFault, Fault, UpstreamFault
from limen.sandbox.cell import HOME, INSIDE, plan
from limen.sandbox.properties import Tried, judge
from limen.sandbox.seccomp import program as filter_program
from limen.sandbox.settings import Limits

START_SECONDS: Final = 10.0
TRIAL_SECONDS: Final = 20.0
_STAGING: Final = "/tmp"  # noqa: S108 - as the stage has it
_SOCKETS: Final = 256
_ANSWER: Final = 64 << 10
_REMEDY: Final = "install bubblewrap (apt-get install bubblewrap, dnf install bubblewrap)"
# Read by the dynamic loader and the C library of bubblewrap itself, which is not confined yet.
_LOADER: Final = (
    "LD_",
    "GLIBC_",
    "GCONV_",
    "LOCPATH",
    "NLSPATH",
    "MALLOC_",
    "RES_OPTIONS",
    "LOCALDOMAIN",
    "HOSTALIASES",
)
_FILES: Final = {
    "passwd": f"cell:x:{INSIDE}:{INSIDE}::{HOME}:/bin/sh\n",
    "group": f"cell:x:{INSIDE}:\n",
    "hosts": "127.0.0.1 localhost cell\n::1 localhost\n",
    "hidden": "",
}

Popen = subprocess.Popen[bytes]


class BubblewrapCell:
    """One cell. Without the memory controller its total is watched from outside."""

    def __init__(self, process: Popen, spec: CellSpec, group: Group | None, watched: bool) -> None:
        self.process = process
        self.closing: Callable[[], None] = lambda: None
        self._bounds, self._group, self._watched = spec.bounds, group, watched
        self._hit = ""

    def usage(self) -> Usage | None:
        """From its control group, and what that does not tell from /proc."""
        counted = self._group.usage() if self._group is not None else None
        seen = processes.usage(self.process.pid)
        if counted is None or seen is None:
            return seen
        return Usage(counted.memory, max(counted.cpu, seen.cpu), seen.processes, seen.read, seen.written)

    def exceeded(self) -> str:
        """The bound it went beyond and nothing else enforces: memory of all its processes together."""
        if self._watched:
            used = processes.usage(self.process.pid)
            if used is not None and used.memory > self._bounds.memory:
                return "memory"
        return ""

    def bound_hit(self) -> str:
        """The bound that ended it, as far as the system tells."""
        return self._hit or (self._group.bound_hit() if self._group is not None else "")

    def end(self) -> None:
        """Kill whatever is left: with bubblewrap its process namespace goes, and all that is in it."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        if self._group is not None:
            self._hit = self.bound_hit()
            self._group.remove()
            self._group = None
        self.closing()
        self.closing = lambda: None


class Bubblewrap:
    """A cell with `ports` and nobody to `attend` to them is refused."""

    name = "bubblewrap"

    def __init__(self, groups: Groups | None = None) -> None:
        self._groups = groups
        self._trial: asyncio.Task[tuple[Property, ...]] | None = None
        self._found: tuple[Property, ...] | None = None

    @property
    def groups(self) -> Groups:
        """The control groups of this machine, looked at when first needed."""
        if self._groups is None:
            self._groups = Groups()
        return self._groups

    async def start(self, spec: CellSpec) -> BubblewrapCell:
        """Run it, once the machine was found to hold what a cell promises. Raises UpstreamFault."""
        broken = [one for one in await self.properties() if one.needed and not one.holds]
        if broken:
            told = "; ".join(f"{one.name}: {one.found} ({one.remedy})" for one in broken)
            raise UpstreamFault(spec.server, f"is not started, because it cannot be confined: {told}")
        return await self._start(spec)

    async def properties(self) -> tuple[Property, ...]:
        """Every property of a sandbox, tried once in a cell that attacks itself; kept for as long as we run."""
        if self._found is None:
            if self._trial is None:
                self._trial = asyncio.ensure_future(self._try())
            self._found = await asyncio.shield(self._trial)
        return self._found

    async def _start(self, spec: CellSpec) -> BubblewrapCell:
        if spec.ports and spec.attend is None:
            raise UpstreamFault(spec.server, "asks for a network, and nothing here filters it")
        if spec.bounds.cpus is not None and not self.groups.has("cpu"):
            raise UpstreamFault(
                spec.server, f"limits.cpus cannot be enforced here: {self.groups.why or 'no cpu group'}"
            )
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            with theirs:
                process = _popen(spec.server, theirs)
            cell = BubblewrapCell(process, spec, None, not self.groups.has("memory"))
            try:
                await self._order(ours, cell, spec)
            except BaseException:
                cell.end()
                process.wait(START_SECONDS)
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe is not None:
                        pipe.close()
                raise
        return cell

    async def _order(self, ours: socket.socket, cell: BubblewrapCell, spec: CellSpec) -> None:
        """Tell the stage what to do, and wait until it has become bubblewrap. Raises UpstreamFault."""
        loop = asyncio.get_running_loop()
        try:
            if self.groups.places:
                cell._group = self.groups.make(spec.bounds)  # the cell is ours to complete
                cell._group.add(cell.process.pid)
            order = marshal.dumps(_order_of(spec))
            async with asyncio.timeout(START_SECONDS):
                await loop.sock_sendall(ours, struct.pack("!I", len(order)) + order)
                answer, sockets = await _answer(ours)
                if answer == b"sockets" and sockets and spec.attend is not None:
                    cell.closing = await spec.attend(spec, sockets)
                    await loop.sock_sendall(ours, b"go")
                    answer, _ = await _answer(ours)
        except TimeoutError:
            raise UpstreamFault(spec.server, "could not be confined in time", timeout=True) from None
        except OSError as error:
            raise UpstreamFault(spec.server, f"could not be confined: {error}") from None
        except ConfigFault as fault:
            raise UpstreamFault(spec.server, str(fault)) from None
        if answer:
            raise UpstreamFault(spec.server, f"could not be confined: {answer.decode(errors='replace')[:500]}")
        _check_user(spec, cell.process.pid)

    async def _try(self) -> tuple[Property, ...]:
        found = Tried(bubblewrap=shutil.which("bwrap") or "", groups=self.groups.why, machine=platform.machine())
        if not found.bubblewrap:
            return judge(found)
        try:
            found = found._replace(said=await self._probe())
        except (Fault, OSError, ValueError, TimeoutError) as error:
            found = found._replace(failed=str(error) or type(error).__name__)
        return judge(found)

    async def _probe(self) -> dict[str, Any]:
        """What a program that tries everything found inside. Raises UpstreamFault, OSError, ValueError."""
        script = str(files("limen.sandbox").joinpath("probe.py"))
        argv = [sys.executable, "-I", "-S", script]
        known = await asyncio.to_thread(find, "self-test", argv, path=os.defpath, cwd="/")
        root, uid = os.getuid() == 0, os.getuid()
        limits = Limits(processes=24, tmp=1 << 20, memory=128 << 20, file_size=64 << 10)
        spec = plan("self-test", known, limits=limits, env={"SELF": "test"}, root=root, uid=uid)
        cell = await self._start(spec)
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                out, err = await asyncio.to_thread(cell.process.communicate, b"")
        finally:
            cell.end()
            cell.process.wait(TRIAL_SECONDS)
        if cell.process.poll() != 0:
            raise ValueError(err.decode(errors="replace").strip()[-400:] or f"status {cell.process.poll()}")
        said: dict[str, Any] = json.loads(out)
        return {**said, "host_uid": spec.user}


def _popen(server: str, theirs: socket.socket) -> Popen:
    """The stage, with pipes, in a session of its own, in the thread that calls: it dies with that thread."""
    script = str(files("limen.sandbox").joinpath("stage.py"))
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", script, str(theirs.fileno())], stdin=pipe, stdout=pipe, stderr=pipe,
            bufsize=0, env={}, cwd="/", start_new_session=True, close_fds=True, pass_fds=(theirs.fileno(),),
        )  # fmt: skip
    except OSError as error:
        raise UpstreamFault(server, f"could not be confined: {error}") from None


def _check_user(spec: CellSpec, pid: int) -> None:
    """Who it runs as, seen from outside: inside, root's number can be called anything. Raises UpstreamFault."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as source:
            told = next(line.split()[1:] for line in source if line.startswith("Uid:"))
    except (OSError, StopIteration):
        return  # it is gone already
    if "0" in told or set(told) != {str(spec.user)}:
        raise UpstreamFault(spec.server, f"would run as the user {'/'.join(told)} instead of {spec.user}")


async def _answer(ours: socket.socket) -> tuple[bytes, list[socket.socket]]:
    """What the stage says next; b"" once it has become bubblewrap. Descriptors come as sockets."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(ours.fileno(), readable)
    try:
        await ready
    finally:
        loop.remove_reader(ours.fileno())
    try:
        data, numbers, _, _ = socket.recv_fds(ours, _ANSWER, _SOCKETS)
    except ConnectionResetError:
        return b"the first stage ended", []
    return data, [socket.socket(fileno=number) for number in numbers]


def _order_of(spec: CellSpec) -> dict[str, Any]:
    """As sandbox/stage.py reads it. Raises ConfigFault, UpstreamFault."""
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise UpstreamFault(spec.server, f"cannot be confined: there is no bubblewrap; {_REMEDY}")
    shown = [mount for mount in spec.mounts if mount.source]
    texts = {**_FILES, **({"resolv.conf": "nameserver 127.0.0.1\n"} if spec.ports else {})}
    early = {name: value for name, value in spec.env.items() if name.startswith(_LOADER)}
    return {
        "parent": os.getpid(),
        "user": spec.user,
        "mounts": [[mount.source, mount.exact, mount.write] for mount in shown],
        "files": texts,
        "ports": list(spec.ports),
        "network": str(files("limen.sandbox").joinpath("stage_network.py")),
        "limits": _limits(spec.bounds),
        "filter": filter_program(platform.machine()),
        "program": [bubblewrap, *arguments(spec, early, list(texts)), "--", *spec.argv],
        "env": {name: value for name, value in spec.env.items() if name not in early},
    }


def _limits(bounds: Bounds) -> dict[str, int]:
    """resource.RLIMIT_*; memory by RLIMIT_DATA: programs that reserve address space and never use it exist (node).
    One byte of core, not none: only that keeps the kernel from starting the host's core dump handler (core(5))."""
    found = {
        "RLIMIT_DATA": bounds.memory, "RLIMIT_NPROC": bounds.processes + 2, "RLIMIT_NOFILE": bounds.files,
        "RLIMIT_FSIZE": bounds.file_size, "RLIMIT_CORE": 1, "RLIMIT_MSGQUEUE": 0, "RLIMIT_MEMLOCK": 64 << 10,
    }  # fmt: skip
    return found | ({"RLIMIT_CPU": bounds.cpu_seconds} if bounds.cpu_seconds is not None else {})


def arguments(spec: CellSpec, early: Mapping[str, str], texts: Sequence[str]) -> list[str]:
    """Bubblewrap's options. What is named first is covered by what comes later, so /tmp is made before paths in it."""
    size = ["--size", str(spec.bounds.tmp)]
    options = [
        "--unshare-user", "--disable-userns", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup",
        *(() if spec.ports else ("--unshare-net",)),
        "--uid", str(INSIDE), "--gid", str(INSIDE), "--hostname", "cell", "--cap-drop", "ALL",
        "--die-with-parent", "--new-session",
        "--perms", "1777", *size, "--tmpfs", "/tmp", *size, "--tmpfs", HOME,  # noqa: S108
    ]  # fmt: skip
    number = 0
    for mount in spec.mounts:
        if mount.source:
            options += ["--bind" if mount.write else "--ro-bind", f"{_STAGING}/{number}", mount.target]
            number += 1
        else:
            options += ["--ro-bind", f"{_STAGING}/hidden", mount.target]
    for path, target in spec.links.items():
        options += ["--symlink", target, path]
    for name in texts:
        if name != "hidden":
            options += ["--ro-bind", f"{_STAGING}/{name}", f"/etc/{name}"]
    options += ["--proc", "/proc", "--dev", "/dev", *size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108
    for name, value in early.items():
        options += ["--setenv", name, value]
    return [*options, "--remount-ro", "/", "--chdir", spec.cwd]
