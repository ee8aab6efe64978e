"""The first stage of a cell: a program of its own, between the gateway and bubblewrap. Never imported by Limen.

    python -I -S stage.py FD

It reads what to do from the socket FD (four bytes of length, then a marshalled object), becomes somebody harmless,
opens every path that shall appear inside and binds it below /tmp of a mount namespace of its own, sets the limits where
they count for this cell alone, and turns into bubblewrap. What goes wrong is said on the socket, which closes when
bubblewrap runs.

The order matters. A mount needs the privilege it is made with, so root mounts before it stops being root; a limit on
processes counts per user namespace, so it is set inside one (kernel 5.14); and nothing is imported after the change of
user, because the new one may not be able to read this interpreter. Few modules are imported, and those in C where there
is a choice (json and socket take 15 ms to import, all the rest here 5).
"""

from __future__ import annotations

import _socket
import ctypes
import marshal
import os
import resource
import struct
import sys

TYPE_CHECKING = False  # as typing has it, which would take 5 ms to import
if TYPE_CHECKING:
    from typing import Any

STAGING = "/tmp"  # noqa: S108 - a private mount, over whatever is there
NEWNS, NEWUSER = 0x00020000, 0x10000000
MS_BIND, MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 0x1000, 0x4000, 1 << 18, 2, 4
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
OPENAT2, LANDLOCK_CREATE, LANDLOCK_RESTRICT = 437, 444, 446  # the same number on every architecture
NO_MAGIC_LINKS, NO_SYMLINKS = 0x02, 0x04
SCOPES, SCOPES_ABI = 0x3, 6  # abstract sockets and signals stay inside (Landlock, Linux 6.12)
LARGEST = 1 << 22

libc = ctypes.CDLL(None, use_errno=True)


def must(result: int, what: str) -> int:
    """Raise OSError where a call of the C library failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def receive(control: _socket.socket) -> dict[str, Any]:
    """The order, from the gateway alone: marshal is for those one trusts."""

    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = control.recv(count - len(data))
            if not more:
                raise OSError("the gateway is gone")
            data += more
        return data

    size = struct.unpack("!I", exactly(4))[0]
    if size > LARGEST:
        raise OSError("the order is too large")
    order: dict[str, Any] = marshal.loads(exactly(size))  # noqa: S302 - it comes from the gateway
    return order


def opened(path: str, exact: bool) -> int:
    """The path, held open so that what was checked is what is bound. `exact`: no part of it is a symbolic link."""
    if not exact:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    how = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC, 0, NO_SYMLINKS | NO_MAGIC_LINKS)
    found = libc.syscall(OPENAT2, -100, os.fsencode(path), how, len(how))
    if found < 0 and ctypes.get_errno() == 40:  # ELOOP
        raise OSError(f"{path} is or goes through a symbolic link: grant {os.path.realpath(path)} instead")
    return must(found, path)


def bind(mounts: list[tuple[str, bool, bool]], files: dict[str, str]) -> None:
    """Everything that shall appear inside, by number below STAGING; small files of ours by name."""
    must(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount namespace")
    held = [opened(path, exact) for path, exact, _ in mounts]  # before STAGING covers some of them
    options = b"mode=0755,size=1m"
    must(libc.mount(b"tmpfs", STAGING.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options), "staging")
    for number, handle in enumerate(held):
        place, source = f"{STAGING}/{number}", f"/proc/self/fd/{handle}"
        if os.path.isdir(source):
            os.mkdir(place, 0o755)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL, 0o644))
        must(libc.mount(source.encode(), place.encode(), None, MS_BIND | MS_REC, None), mounts[number][0])
        os.close(handle)
    for name, text in files.items():
        with open(f"{STAGING}/{name}", "w", encoding="utf-8") as sink:
            os.fchmod(sink.fileno(), 0o644)
            sink.write(text)


def check_grants(mounts: list[tuple[str, bool, bool]]) -> None:
    """Whoever we are by now may use what was granted. Otherwise the server would fail later, and say less about it."""
    for number, (path, exact, write) in enumerate(mounts):
        place = f"{STAGING}/{number}"
        folder = os.X_OK if os.path.isdir(place) else 0
        if exact and not os.access(place, os.R_OK | folder):
            raise OSError(f"{path}: the user {os.getuid()} of this cell may not read it")
        if exact and write and not os.access(place, os.W_OK | folder):
            raise OSError(f"{path}: the user {os.getuid()} of this cell may not write it: chown it to that user")


def become(user: int) -> None:
    """Somebody else, for good. Root's own capabilities and groups go with it."""
    for number in (0, 1, 2):
        os.fchown(number, user, user)  # so that /dev/stdout can be opened inside
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if os.getresuid() != (user, user, user) or os.getresgid() != (user, user, user):
        raise OSError("could not stop being root")
    must(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")  # else /proc/self stays root's, uid_map with it


def own_namespace(flags: int, user: int, group: int) -> None:
    """A user namespace of this cell, in which the one user there is keeps its number."""
    if flags:
        must(libc.unshare(flags), "user namespace")
    with open("/proc/self/uid_map") as source:
        mapped = bool(source.read().strip())
    if not mapped:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as sink:
                sink.write(text)


def hand_over(control: _socket.socket, sockets: list[Any]) -> None:
    """Give the gateway the sockets on which the cell's connections arrive, and wait until it says go."""
    numbers = struct.pack(f"{len(sockets)}i", *(one.fileno() for one in sockets))
    control.sendmsg([b"sockets"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)])
    for one in sockets:
        one.close()
    if control.recv(16) != b"go":
        raise OSError("the gateway did not say go")


def scoped() -> None:
    """A second line where the kernel has it: no signal and no abstract socket reaches out of here."""
    if libc.syscall(LANDLOCK_CREATE, None, 0, 1) < SCOPES_ABI:
        return
    attributes = struct.pack("QQQ", 0, 0, SCOPES)
    rules = must(libc.syscall(LANDLOCK_CREATE, attributes, len(attributes), 0), "landlock")
    must(libc.syscall(LANDLOCK_RESTRICT, rules, 0), "landlock")
    os.close(rules)


def filter_of(program: bytes) -> int:
    """The system call filter in a file without a name, for bubblewrap to read."""
    handle = os.memfd_create("filter", 0)
    os.write(handle, program)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def network(path: str) -> Any:
    """The module that makes the cell's network, loaded while this interpreter can still be read."""
    from importlib.util import module_from_spec, spec_from_file_location

    description = spec_from_file_location("stage_network", path)
    assert description is not None
    assert description.loader is not None
    module = module_from_spec(description)
    description.loader.exec_module(module)
    return module


def run(control: _socket.socket) -> None:
    """Do what is ordered. Returns only by an exception."""
    order = receive(control)
    enter = network(order["network"]).enter if order["ports"] else None
    root = os.getuid() == 0
    os.chdir("/")
    os.umask(0o022)
    if root:
        must(libc.unshare(NEWNS), "mount namespace (root without CAP_SYS_ADMIN?)")
        bind(order["mounts"], order["files"])
        become(order["user"])
    if os.getuid() == 0:
        raise OSError("refused: the program would run as root")
    user, group = os.getuid(), os.getgid()  # in a namespace without a map everybody is 65534
    sockets = enter(tuple(order["ports"])) if enter else []
    own_namespace(0 if enter else NEWUSER if root else NEWUSER | NEWNS, user, group)
    if not root:
        if enter:
            must(libc.unshare(NEWNS), "mount namespace")
        bind(order["mounts"], order["files"])
    check_grants(order["mounts"])
    if sockets:
        hand_over(control, sockets)
    must(libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0), "parent")
    if os.getppid() != order["parent"]:
        raise OSError("the gateway is gone")
    handle = filter_of(order["filter"])
    with open("/proc/self/oom_score_adj", "w") as sink:
        sink.write("500")
    for name, value in order["limits"].items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))
    must(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    scoped()
    program = order["program"]
    os.execve(program[0], [program[0], "--seccomp", str(handle), *program[1:]], order["env"])  # noqa: S606


def main() -> None:
    """Status 126: it could not be done, and the socket says why."""
    control = _socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(control.fileno(), False)
    try:
        run(control)
    except Exception as error:  # noqa: BLE001 - whatever it is, nothing was started and the gateway is told
        text = error.args[0] if len(error.args) == 1 else getattr(error, "strerror", None)
        control.sendall(str(text or error or type(error).__name__).encode())
        os._exit(126)


if __name__ == "__main__":
    main()
