"""Cells by podman: a container of an image that is named by its digest and never pulled here.

A container is made and initialised; then all a cell promises is looked for from outside (sandbox/container.py)
while the program has not begun; only then is it started. Asking is not having: some options are dropped with a
warning (limits, by rootless podman on control groups v1), and podman's own configuration can add to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import platform
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Final

from limen.adapters.cgroups import Group, group_of
from limen.core.cell import CellSpec, Property, Usage
from limen.core.faults import UpstreamFault
from limen.sandbox.cell import HOME
from limen.sandbox.container import Seen, engine_properties, faults, mounted
from limen.sandbox.seccomp_oci import profile

SECONDS: Final = 30.0  # one command of podman
LABEL: Final = "limen.gateway"
_TOLD: Final = 400  # characters of its complaint
_KEPT: Final = (  # how podman finds its store and its user's session; nothing of ours is in them
    "PATH", "HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DBUS_SESSION_BUS_ADDRESS",
    "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF",
)  # fmt: skip
_NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
_NO_SYMLINKS: Final = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW

Popen = subprocess.Popen[bytes]


class PodmanCell:
    """One container. `process` is the keeper of its client; what it uses is told by its control group."""

    def __init__(self, process: Popen, control: socket.socket, made: Made) -> None:
        self.process = process
        self._control, self._made, self._hit = control, made, ""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(made.handle, self._exited)

    def usage(self) -> Usage | None:
        """From its control group; bytes read and written are not told."""
        return self._made.group.usage()

    def exceeded(self) -> str:
        """The control group enforces everything."""
        return ""

    def bound_hit(self) -> str:
        """ "memory" or "processes", as far as the system tells."""
        return self._hit or self._made.group.bound_hit()

    def _exited(self) -> None:
        """Its first process is gone. Podman removes the group soon, and with it what was counted."""
        self._loop.remove_reader(self._made.handle)
        self._hit = self.bound_hit()

    def end(self) -> None:
        """Kill its first process, and with it all that is in the container; podman removes the rest by itself."""
        if self._made.handle < 0:
            return
        self._hit = self.bound_hit()
        if not self._loop.is_closed():
            self._loop.remove_reader(self._made.handle)
        self._made.kill()
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self._control.close()
        self._made.remove()


class Made:
    """A container that was initialised: `handle` is its first process, which has not become the program yet."""

    def __init__(self, engine: str, name: str, pid: int, config: Path) -> None:
        self.engine, self.name, self.pid, self.config = engine, name, pid, config
        self.handle = os.pidfd_open(pid)
        self.group: Group = group_of(pid)

    def kill(self) -> None:
        """May be called once."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        os.close(self.handle)
        self.handle = -1

    def remove(self) -> None:
        """Without waiting for it."""
        _discard(self.engine, self.name)


class Podman:
    """The isolator for servers with `isolate: podman`."""

    name = "podman"

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._found: tuple[Property, ...] | None = None

    async def properties(self) -> tuple[Property, ...]:
        """What podman says of itself and this host. Each container is looked at again before its program runs."""
        if self._found is None:
            self._found = await asyncio.to_thread(self._look)
        return self._found

    async def start(self, spec: CellSpec) -> PodmanCell:
        """Make it, look at it, run it. Raises UpstreamFault."""
        if spec.ports:
            raise UpstreamFault(spec.server, "asks for a network, and nothing filters that of a container")
        broken = [one for one in await self.properties() if one.needed and not one.holds]
        if broken:
            told = "; ".join(f"{one.name}: {one.found} ({one.remedy})" for one in broken)
            raise UpstreamFault(spec.server, f"is not started, because it cannot be confined: {told}")
        engine = str(shutil.which("podman"))
        name = f"limen-{os.getpid()}-{next(self._numbers)}"
        try:
            made = await asyncio.to_thread(_make, engine, name, spec)
        except OSError as error:
            _discard(engine, name)
            raise UpstreamFault(spec.server, f"could not be confined: {error}") from None
        except BaseException:
            _discard(engine, name)
            raise
        try:
            return _keep(spec.server, made)
        except BaseException:
            made.kill()
            made.remove()
            raise

    def _look(self) -> tuple[Property, ...]:
        engine = shutil.which("podman")
        if engine is None:
            return engine_properties("", {}, platform.machine())
        try:
            told = json.loads(_run("self-test", [engine, "info", "--format", "json"]))["host"]
            _reap(engine)
        except (UpstreamFault, ValueError, KeyError) as error:
            return engine_properties(engine, {}, platform.machine(), str(error))
        return engine_properties(engine, told, platform.machine())


def _make(engine: str, name: str, spec: CellSpec) -> Made:
    """Raises UpstreamFault and OSError; then nothing of the program has run."""
    with ExitStack() as stack:
        grants = {one.target: stack.enter_context(_held(one.source)) for one in spec.mounts}
        environment = stack.enter_context(_memory("environment", _environment(spec)))
        calls = stack.enter_context(_memory("filter", profile(platform.machine())))
        argv = [engine, *arguments(name, spec, f"/proc/self/fd/{environment}", f"/proc/{os.getpid()}/fd/{calls}")]
        _run(spec.server, argv, environment, calls)
        _run(spec.server, [engine, "init", name])
        (about,) = json.loads(_run(spec.server, [engine, "inspect", "--type", "container", name]))
        made = Made(engine, name, int(about["State"]["Pid"]), Path(about["OCIConfigPath"]))
        try:
            wrong = faults(spec, _seen(spec, made, grants))
        except (OSError, ValueError, LookupError, TypeError) as error:
            wrong = [f"it cannot be looked at: {error}"]
        if wrong:
            made.kill()
            raise UpstreamFault(spec.server, f"is not started, because podman did not confine it: {'; '.join(wrong)}")
    return made


def _seen(spec: CellSpec, made: Made, grants: Mapping[str, int]) -> Seen:
    """Raises OSError, ValueError, LookupError."""
    place = Path("/proc", str(made.pid))
    rows = (row.partition(":") for row in (place / "status").read_text().splitlines())
    devices = (place / "net" / "dev").read_text().splitlines()[2:]
    own = Path("/proc/self/ns")
    return Seen(
        status={key: value.strip() for key, _, value in rows},
        mounts=mounted((place / "mountinfo").read_text()),
        shared=[one for one in _NAMESPACES if os.readlink(place / "ns" / one) == os.readlink(own / one)],
        interfaces=[row.split(":")[0].strip() for row in devices],
        foreign=[target for target, handle in grants.items() if not _same(place / "root", target, handle)],
        dropped=made.group.dropped(spec.bounds),
        filtered=json.loads(made.config.read_bytes())["linux"].get("seccomp") or {},
    )


def _same(root: Path, target: str, handle: int) -> bool:
    """Whether what lies there is what was held open when it was looked at."""
    try:
        return os.path.samestat(os.stat(f"{root}{target}"), os.fstat(handle))
    except OSError:
        return False


def arguments(name: str, spec: CellSpec, environment: str, calls: str) -> list[str]:
    """Of `podman create`. Nothing here is secret: the environment and the filter are read from files without names."""
    bounds = spec.bounds
    tmpfs = f"rw,size={bounds.tmp},mode=1777,nosuid,nodev"
    soft = {"nofile": bounds.files, "nproc": 4096, "fsize": bounds.file_size, "core": 1, "msgqueue": 0}
    soft |= {"cpu": bounds.cpu_seconds} if bounds.cpu_seconds is not None else {}
    options = [
        "create", "--interactive", "--pull=never", "--name", name, "--label", f"{LABEL}={os.getpid()}",
        "--read-only", "--read-only-tmpfs=false", "--image-volume=ignore", "--systemd=false", "--no-healthcheck",
        "--sdnotify=ignore", "--log-driver=none", "--restart=no", "--no-hosts", "--http-proxy=false",
        "--cap-drop=all", "--security-opt", "no-new-privileges", "--security-opt", f"seccomp={calls}",
        "--network=none", "--ipc=private", "--pid=private", "--uts=private", "--cgroupns=private", "--hostname=cell",
        "--user", f"{spec.user}:{spec.user}", *(("--userns=keep-id",) if os.getuid() else ()),
        "--tmpfs", f"/tmp:{tmpfs}", "--tmpfs", f"{HOME}:{tmpfs}", "--shm-size", str(bounds.tmp),  # noqa: S108
        "--memory", str(bounds.memory), "--memory-swap", str(bounds.memory), "--pids-limit", str(bounds.processes),
        *(("--cpus", str(bounds.cpus)) if bounds.cpus is not None else ()),
        "--workdir", spec.cwd, "--env-file", environment,
    ]  # fmt: skip
    for limit, value in soft.items():
        options += ["--ulimit", f"{limit}={(least := _least(limit, value))}:{least}"]
    for one in spec.mounts:
        if set(one.source) & set(',"\n'):
            raise UpstreamFault(spec.server, f"podman cannot be given a path with a comma or a quote: {one.source!r}")
        mode = "false" if one.write else "true"
        options += [
            "--mount",
            f"type=bind,source={one.source},destination={one.target},ro={mode},bind-propagation=private",
        ]
    program, *rest = spec.argv
    return [*options, *(("--entrypoint", json.dumps([program])) if program else ()), spec.image, *rest]


def _least(limit: str, value: int) -> int:
    """Nobody may be given more than we have ourselves (setrlimit(2)), unless with CAP_SYS_RESOURCE."""
    hard = resource.getrlimit(getattr(resource, f"RLIMIT_{limit.upper()}"))[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def _environment(spec: CellSpec) -> bytes:
    """As podman reads it: one variable a line, nothing quoted. Raises UpstreamFault."""
    for name, value in spec.env.items():
        if "\n" in value or "\r" in value:
            raise UpstreamFault(spec.server, f"podman cannot be given the variable {name}, which has several lines")
    return "".join(f"{name}={value}\n" for name, value in spec.env.items()).encode()


@contextmanager
def _memory(name: str, data: bytes) -> Iterator[int]:
    """A file without a name that holds this."""
    handle = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.write(handle, data)
        os.lseek(handle, 0, os.SEEK_SET)
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _held(path: str) -> Iterator[int]:
    """A granted path, part by part and without following a link. Raises OSError."""
    handle = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        done = ""
        for part in path.strip("/").split("/"):
            following = os.open(part, _NO_SYMLINKS, dir_fd=handle)
            os.close(handle)
            handle, done = following, f"{done}/{part}"
            if stat.S_ISLNK(os.fstat(handle).st_mode):
                raise OSError(f"{done} is a symbolic link: grant {os.path.realpath(path)} instead")
        yield handle
    finally:
        os.close(handle)


def _keep(server: str, made: Made) -> PodmanCell:
    """Raises UpstreamFault."""
    script = str(files("limen.sandbox").joinpath("keeper.py"))
    ours, theirs = socket.socketpair()
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", script, str(theirs.fileno()), made.engine, made.name],
            stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env=_kept(), cwd="/", start_new_session=True,
            close_fds=True, pass_fds=(theirs.fileno(),),
        )  # fmt: skip
    except OSError as error:
        ours.close()
        raise UpstreamFault(server, f"could not be confined: {error}") from None
    finally:
        theirs.close()
    return PodmanCell(process, ours, made)


def _run(server: str, argv: Sequence[str], *handles: int) -> bytes:
    """What one command of podman prints. Raises UpstreamFault."""
    try:
        done = subprocess.run(  # noqa: S603 - our own command line
            argv, stdin=subprocess.DEVNULL, capture_output=True, env=_kept(), cwd="/", timeout=SECONDS, check=False,
            pass_fds=handles,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UpstreamFault(server, f"podman {argv[1]} did not finish in time", timeout=True) from None
    except OSError as error:
        raise UpstreamFault(server, f"podman cannot be run: {error}") from None
    if done.returncode != 0:
        told = done.stderr.decode("utf-8", "replace").strip()[-_TOLD:]
        missing = "; fetch it once with `podman pull`" if "image not known" in told else ""
        raise UpstreamFault(server, f"podman {argv[1]}: {told}{missing}")
    return done.stdout


def _kept() -> dict[str, str]:
    return {name: os.environ[name] for name in _KEPT if name in os.environ}


def _discard(engine: str, name: str) -> None:
    """Have it removed, by a process that does not need us any more."""
    try:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            [engine, "rm", "--force", "--ignore", "--time", "0", name], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_kept(), cwd="/", start_new_session=True,
        )  # fmt: skip
    except OSError:
        return  # it is dead anyway; `_reap` finds it the next time
    threading.Thread(target=process.wait, name=f"remove-{name}", daemon=True).start()


def _reap(engine: str) -> None:
    """Remove what a gateway that no longer exists left behind. Raises UpstreamFault, ValueError."""
    listed = _run("self-test", [engine, "ps", "--all", "--filter", f"label={LABEL}", "--format", "json"])
    for row in json.loads(listed or b"[]") or ():
        owner = str(row.get("Labels", {}).get(LABEL, ""))
        if owner.isdigit() and not Path("/proc", owner).exists():
            for name in row.get("Names", ())[:1]:
                _discard(engine, name)
