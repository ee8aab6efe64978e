"""Which properties of a sandbox hold on this machine, from what was tried in one (sandbox/probe.py). Pure."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from limen.core.cell import Property
from limen.sandbox.seccomp import ARCHITECTURES

_USERNS: Final = (
    "allow user namespaces: sysctl user.max_user_namespaces=10000, on Debian kernel.unprivileged_userns_clone=1, on "
    "Ubuntu an AppArmor profile for bwrap; inside a container use isolate: podman on the host, or a pod per server"
)


class Tried(NamedTuple):
    """`bubblewrap`: its path, or ""; `said`: the probe's report; `failed`: why there is none; `groups`: what is wrong
    with control groups, or ""."""

    bubblewrap: str
    groups: str
    machine: str
    said: Mapping[str, Any] | None = None
    failed: str = ""


def _number(said: Mapping[str, Any], name: str) -> int:
    return int(said["errno"][name])


# name, whether it holds, what to do, needed to start anything
_ROWS: Final[tuple[tuple[str, Callable[[Mapping[str, Any]], bool], str, bool], ...]] = (
    ("another user", lambda said: said["uid"] != 0 and said["host_uid"] != 0, "run as another user than root", True),
    ("no capabilities", lambda said: not any(said["capabilities"].values()), "use a current bubblewrap", True),
    ("no new privileges", lambda said: said["no_new_privs"] == 1, "use a current kernel", True),
    (
        "system call filter",
        lambda said: (
            said["seccomp"] == 2
            and all(_number(said, name) == errno.ENOSYS for name in ("keyctl", "io_uring", "bpf", "ptrace", "mount"))
            and _number(said, "tiocsti") == errno.EPERM
            and all(_number(said, name) == errno.EAFNOSUPPORT for name in ("packet", "netlink", "vsock", "raw"))
        ),
        "use a kernel with CONFIG_SECCOMP_FILTER",
        True,
    ),
    ("no nested user namespace", lambda said: _number(said, "userns") != 0, "use bubblewrap 0.8 or newer", True),
    ("own processes", lambda said: said["pid_one"] and said["processes"] <= 3, _USERNS, True),
    ("read-only root", lambda said: not said["writable"], "use a current bubblewrap", True),
    ("bounded temporary files", lambda said: said["tmp_full"], "use a kernel with tmpfs", True),
    ("no network", lambda said: said["interfaces"] in ([], ["lo"]), _USERNS, True),
    ("limits inside", lambda said: said["forks"] <= said["forks_allowed"], "use Linux 5.14 or newer", True),
    ("file size", lambda said: said["file_size"] == errno.EFBIG, "use a current kernel", True),
    ("own environment", lambda said: not said["foreign"], "report this as a fault of Limen", True),
    ("nothing inherited", lambda said: said["descriptors"] == [0, 1, 2], "report this as a fault of Limen", True),
)


def judge(tried: Tried) -> tuple[Property, ...]:
    """One row for each property. Whatever was not tried does not hold."""
    install = "install bubblewrap (apt-get install bubblewrap, dnf install bubblewrap)"
    rows = [
        Property("bubblewrap", bool(tried.bubblewrap), tried.bubblewrap or "not found", install),
        Property(
            "architecture",
            tried.machine in ARCHITECTURES,
            tried.machine,
            f"there is a filter for {', '.join(ARCHITECTURES)}",
        ),
    ]
    said = tried.said
    if said is None:
        why = tried.failed or "not tried"
        remedy = install if not tried.bubblewrap else _USERNS
        rows.append(Property("user namespace", False, why, remedy))
    else:
        rows.append(Property("user namespace", True, "as the user " + str(said["host_uid"])))
        rows += [_row(name, holds, remedy, needed, said) for name, holds, remedy, needed in _ROWS]
        rows.append(
            Property("landlock", said["scoped"], "signals and abstract sockets stay inside" if said["scoped"] else
                     "the kernel is older than 6.12", "optional: a second line", needed=False)
        )  # fmt: skip
    delegate = "delegate a subtree (systemd: Delegate=yes); until then memory is watched, and limits.cpus is refused"
    rows.append(Property("control groups", not tried.groups, tried.groups or "limits by group", delegate, needed=False))
    return tuple(replace(row, remedy="") if row.holds else row for row in rows)


def _row(
    name: str, holds: Callable[[Mapping[str, Any]], bool], remedy: str, needed: bool, said: Mapping[str, Any]
) -> Property:
    try:
        kept = bool(holds(said))
    except (KeyError, TypeError, ValueError) as error:
        return Property(name, False, f"the trial says nothing about it: {error}", remedy, needed)
    return Property(name, kept, "holds" if kept else "does not hold", remedy, needed)
