"""What must be seen of a container, from outside and before its program runs, for it to be a cell. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from limen.core.cell import CellSpec, Property
from limen.sandbox.cell import HOME
from limen.sandbox.seccomp import DEMANDS, allowed
from limen.sandbox.seccomp_oci import ARCHITECTURES, Bits, ways

_OWN: Final = frozenset({"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/passwd", "/etc/group"})
_RUN: Final = ("/run/.containerenv", "/run/secrets")
_KERNEL: Final = frozenset({"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"})
_TMP: Final = frozenset({"/tmp", HOME, "/dev/shm"})  # noqa: S108 - the container's own
_REFUSE: Final = ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL")  # any other action lets a call pass
_INSTALL: Final = "optional: apt-get install podman runc (or dnf install podman), for isolate: podman"


class Mounted(NamedTuple):
    """One line of /proc/PID/mountinfo (proc(5)). `options`: of the mount; `kind`: of the file system."""

    target: str
    options: frozenset[str]
    kind: str


class Seen(NamedTuple):
    """`status`: members of /proc/PID/status. `shared`: namespaces that are the gateway's own. `interfaces`: of its
    network. `foreign`: grants behind which another file lies. `dropped`: limits that are not in force.
    `filtered`: linux.seccomp of what the runtime was given; that there is a filter is in `status`."""

    status: Mapping[str, str]
    mounts: Sequence[Mounted]
    shared: Sequence[str]
    interfaces: Sequence[str]
    foreign: Sequence[str]
    dropped: Sequence[str]
    filtered: Mapping[str, Any]


def mounted(mountinfo: str) -> list[Mounted]:
    """Raises ValueError, IndexError for what is no mountinfo."""
    found = []
    for line in mountinfo.splitlines():
        words = line.split(" ")
        kind = words[words.index("-") + 1]
        target = words[4].encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "surrogateescape")
        found.append(Mounted(target, frozenset(words[5].split(",")), kind))
    return found


def faults(spec: CellSpec, seen: Seen) -> list[str]:
    """What of a cell's promises it does not keep; nothing of it may run unless this is empty."""
    status = seen.status
    users = status.get("Uid", "0").split()
    told = [
        (set(users) != {str(spec.user)} or "0" in users, f"it runs as the user {'/'.join(users)}, not {spec.user}"),
        (
            any(int(status.get(f"Cap{one}", "1"), 16) for one in ("Eff", "Prm", "Bnd", "Amb", "Inh")),
            "it has capabilities",
        ),
        (status.get("NoNewPrivs") != "1", "it may gain privileges"),
        (status.get("Seccomp") != "2", "no system call is filtered"),
        (bool(other := widened(seen.filtered)), f"its filter lets more pass: {', '.join(other[:5])}"),
        (list(seen.interfaces) != ["lo"], f"it has a network: {', '.join(seen.interfaces)}"),
        (bool(seen.shared), f"it shares namespaces with this host: {', '.join(seen.shared)}"),
        (bool(seen.foreign), f"something else is mounted instead of {', '.join(seen.foreign)}"),
        (bool(seen.dropped), f"limits are not in force: {', '.join(seen.dropped)}"),
    ]
    return [*(text for wrong, text in told if wrong), *_mounts(spec, seen.mounts)]


def widened(filtered: Mapping[str, Any]) -> list[str]:
    """Calls this filter allows and ours does not, or under fewer conditions. Raises LookupError, TypeError."""
    if filtered.get("defaultAction") != "SCMP_ACT_ERRNO":
        return ["everything"]
    plain = set(allowed()) - set(DEMANDS)
    narrow = {(name, frozenset(bits)) for name, demands in DEMANDS.items() for bits in ways(demands)}
    found = []
    for rule in filtered.get("syscalls") or ():
        bits = frozenset(Bits(one["index"], one["value"], one.get("valueTwo", 0)) for one in rule.get("args") or ())
        masked = all(one["op"] == "SCMP_CMP_MASKED_EQ" for one in rule.get("args") or ())
        for name in () if rule["action"].startswith(_REFUSE) else rule["names"]:
            if not masked or not (name in plain or (name, bits) in narrow):
                found.append(name)
    return found


def _mounts(spec: CellSpec, mounts: Sequence[Mounted]) -> list[str]:
    """A read-only root, and over it what was granted, what the kernel makes, and nothing else."""
    granted = {one.target: one.write for one in spec.mounts}
    root = [one for one in mounts if one.target == "/"]
    found = [] if root and "ro" in root[-1].options else ["its root can be written to"]
    for one in mounts:
        where, writable = one.target, "rw" in one.options
        if where == "/" or where in _TMP:
            continue
        if where in granted:
            if writable and not granted[where]:
                found.append(f"{where} can be written to")
        elif one.kind in _KERNEL:
            if writable and not where.startswith(("/proc", "/dev", "/sys/fs/cgroup")):
                found.append(f"{where} is mounted and can be written to")
        elif writable or not (where in _OWN or where.startswith(_RUN)):
            found.append(f"{where} is mounted and was not granted")
    missing = [target for target in (*granted, *_TMP) if target not in {one.target for one in mounts}]
    return [*found, *(f"{target} is not mounted" for target in missing)]


def engine_properties(path: str, told: Mapping[str, object], machine: str, failed: str = "") -> tuple[Property, ...]:
    """`told`: the member `host` of `podman info --format json`; empty where there is none, and `failed` says why."""
    rows = [Property("podman", bool(path), path or "not found", _INSTALL)]
    if not path:
        return tuple(rows)
    if not told:
        return (*rows, Property("podman answers", False, failed or "it says nothing", "run `podman info`"))
    listed, secure = told.get("cgroupControllers"), told.get("security")
    controllers = set(listed) if isinstance(listed, list) else set()
    security: Mapping[str, object] = secure if isinstance(secure, dict) else {}
    old, rootless = told.get("cgroupVersion") == "v1", security.get("rootless") is not False
    limits = {"memory", "pids"} <= controllers and not (old and rootless)
    found = "rootless podman drops limits on control groups v1" if old and rootless else ", ".join(sorted(controllers))
    runtime = told.get("ociRuntime")
    name = runtime.get("name") if isinstance(runtime, dict) else None
    return (
        *rows,
        Property(
            "podman architecture",
            machine in ARCHITECTURES,
            machine,
            f"there is a filter for {', '.join(ARCHITECTURES)}",
        ),
        Property(
            "podman system call filter", security.get("seccompEnabled") is True, "seccomp", "a podman with seccomp"
        ),
        Property("podman limits", limits, found or "none", "run the gateway as root, or delegate control groups v2"),
        Property("podman runtime", bool(name), str(name or "none"), "apt-get install runc"),
    )
