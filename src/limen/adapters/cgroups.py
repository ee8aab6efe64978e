"""Control groups for cells: version 2 where a subtree was delegated to us, version 1 where its directories are ours.

Names begin with `limen-` and our process number: those of a process that no longer exists are removed at start.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import Final

from limen.core.cell import Bounds, Usage

_OURS: Final = re.compile(r"limen-([0-9]+)-[0-9]+")
_OLD: Final = ("memory", "pids", "cpu", "cpuacct")
_PERIOD: Final = 100_000  # microseconds
_UNLIMITED: Final = 2.0**60  # version 1 says no limit by the largest number of pages
_LIMITS_OLD: Final = {  # controller and file; of processors the quota and its period
    "memory": ("memory", "memory.limit_in_bytes"),
    "processes": ("pids", "pids.max"),
    "cpus": ("cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
}
_LIMITS_NEW: Final = {
    "memory": ("memory", "memory.max"),
    "processes": ("pids", "pids.max"),
    "cpus": ("cpu", "cpu.max"),
}
_Write = tuple[str, str, bool]  # file, value, whether the limit counts on it


class Groups:
    """Where groups can be made on this machine. `memory`, `pids` and `cpu` say which of them limit anything."""

    def __init__(self, root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> None:
        self.places: Mapping[str, Path] = {}
        self.unified = False
        self.why = ""
        self._count = 0
        try:
            lines = [line.split(":", 2) for line in own.read_text().splitlines()]
            self._find(root, {name: path for _, names, path in lines for name in names.split(",")})
        except OSError as error:
            self.why = f"control groups cannot be used: {error.strerror}"
        for place in self.places.values():
            _reap(place)

    def _find(self, root: Path, paths: Mapping[str, str]) -> None:
        if (root / "cgroup.controllers").exists():
            self.unified = True
            mine = root / paths.get("", "/").lstrip("/")
            if not os.access(mine / "cgroup.subtree_control", os.W_OK) or mine == root:
                self.why = "no control group was delegated (systemd: Delegate=yes)"
                return
            self._delegate(mine)
            self.places = dict.fromkeys((mine / "cgroup.subtree_control").read_text().split(), mine)
        else:
            found = {name: root / name / paths[name].lstrip("/") for name in _OLD if name in paths}
            self.places = {name: path for name, path in found.items() if os.access(path, os.W_OK) and path.is_dir()}
        if "memory" not in self.places:
            self.why = self.why or "the memory controller is not ours to use"

    def _delegate(self, mine: Path) -> None:
        """A group with children holds no process of its own (cgroups(7)): ours go into a leaf first."""
        leaf = mine / "limen-gateway"
        leaf.mkdir(exist_ok=True)
        for pid in (mine / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(pid)
        offered = (mine / "cgroup.controllers").read_text().split()
        for name in ("memory", "pids", "cpu"):
            if name in offered:
                (mine / "cgroup.subtree_control").write_text(f"+{name}")

    def has(self, name: str) -> bool:
        """Whether this controller limits the cells."""
        return name in self.places

    def make(self, bounds: Bounds) -> Group:
        """A new group with these limits. Raises OSError when a limit cannot be set."""
        self._count += 1
        name = f"limen-{os.getpid()}-{self._count}"
        group = Group({kind: place / name for kind, place in self.places.items()}, self.unified)
        group.make()
        try:
            group.limit(bounds)
        except OSError:
            group.remove()
            raise
        return group


def group_of(pid: int, root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> Group:
    """The group somebody else made for a process, to be read. Raises OSError."""
    lines = [line.split(":", 2) for line in (proc / str(pid) / "cgroup").read_text().splitlines()]
    paths = {name: path.lstrip("/") for _, names, path in lines for name in names.split(",")}
    if (root / "cgroup.controllers").exists():
        mine = root / paths.get("", "")
        return Group(dict.fromkeys((mine / "cgroup.controllers").read_text().split(), mine), unified=True)
    return Group({name: root / name / paths[name] for name in _OLD if name in paths}, unified=False)


class Group:
    """The group of one cell: one directory in version 2, one per controller in version 1."""

    def __init__(self, places: Mapping[str, Path], unified: bool) -> None:
        self.places, self.unified = places, unified

    def make(self) -> None:
        """Raises OSError."""
        for place in set(self.places.values()):
            place.mkdir()

    def limit(self, bounds: Bounds) -> None:
        """Raises OSError."""
        for kind, rows in (_unified if self.unified else _separate)(bounds).items():
            for file, value, needed in rows if kind in self.places else ():
                path = self.places[kind] / file
                if needed or path.exists():
                    path.write_text(value)

    def add(self, pid: int) -> None:
        """Put a process into it, before it starts another. Raises OSError."""
        for place in set(self.places.values()):
            (place / "cgroup.procs").write_text(str(pid))

    def usage(self) -> Usage | None:
        """As far as its controllers tell; None without the memory controller."""
        memory = self._number("memory", "memory.current" if self.unified else "memory.usage_in_bytes")
        if memory is None:
            return None
        if self.unified:
            cpu = self._member("cpu", "cpu.stat", "usage_usec") / 1e6
        else:
            cpu = (self._number("cpuacct", "cpuacct.usage") or 0) / 1e9
        return Usage(memory, cpu, self._number("pids", "pids.current") or 0)

    def bound_hit(self) -> str:
        """ "memory" or "processes" when the kernel refused more of it; else ""."""
        events = ("memory.events", "oom_kill") if self.unified else ("memory.oom_control", "oom_kill")
        if self._member("memory", *events):
            return "memory"
        return "processes" if self._member("pids", "pids.events", "max") else ""

    def remove(self) -> None:
        """Kill what is left in it, and remove it."""
        for place in set(self.places.values()):
            _remove(place)

    def dropped(self, bounds: Bounds) -> list[str]:
        """Limits that are not in force, however they were asked for, each with what is there instead."""
        files = _LIMITS_NEW if self.unified else _LIMITS_OLD
        wanted = {"memory": bounds.memory, "processes": bounds.processes, "cpus": bounds.cpus}
        found = {name: self._limit(*files[name]) for name, value in wanted.items() if value is not None}
        loose = [name for name, value in found.items() if not 0 < value <= float(wanted[name] or 0) * 1.01]
        told = [f"{name} ({'unlimited' if found[name] >= _UNLIMITED else f'{found[name]:g}'})" for name in loose]
        return [*told, *(["swap"] if self._swaps(bounds.memory) else [])]

    def _swaps(self, memory: int) -> bool:
        """Whether more than that would go to swap. Kernels that do not count swap have no such file."""
        file, most = ("memory.swap.max", 0) if self.unified else ("memory.memsw.limit_in_bytes", memory)
        place = self.places.get("memory")
        return place is not None and (place / file).exists() and self._limit("memory", file) > most

    def _limit(self, kind: str, file: str, *more: str) -> float:
        """What the kernel holds it to; infinity for no limit, and where that cannot be read."""
        try:
            words = [word for one in (file, *more) for word in (self.places[kind] / one).read_text().split()]
            value = float(words[0]) / (float(words[1]) if kind == "cpu" else 1)
        except (KeyError, OSError, ValueError, IndexError, ZeroDivisionError):
            return inf
        return value if value >= 0 else inf  # -1 is no limit

    def _number(self, kind: str, file: str) -> int | None:
        try:
            return int((self.places[kind] / file).read_text())
        except (KeyError, OSError, ValueError):
            return None

    def _member(self, kind: str, file: str, name: str) -> int:
        try:
            rows = (self.places[kind] / file).read_text().splitlines()
        except (KeyError, OSError):
            return 0
        return next((int(value) for key, _, value in (row.partition(" ") for row in rows) if key == name), 0)


def _unified(bounds: Bounds) -> dict[str, tuple[_Write, ...]]:
    rows: dict[str, tuple[_Write, ...]] = {
        "memory": (("memory.max", str(bounds.memory), True), ("memory.swap.max", "0", False)),
        "pids": (("pids.max", str(bounds.processes + 2), True),),  # bubblewrap itself is two of them
    }
    if bounds.cpus is not None:
        rows["cpu"] = (("cpu.max", f"{int(bounds.cpus * _PERIOD)} {_PERIOD}", True),)
    return rows


def _separate(bounds: Bounds) -> dict[str, tuple[_Write, ...]]:
    memory = str(bounds.memory)
    rows: dict[str, tuple[_Write, ...]] = {
        "memory": (("memory.limit_in_bytes", memory, True), ("memory.memsw.limit_in_bytes", memory, False)),
        "pids": (("pids.max", str(bounds.processes + 2), True),),
    }
    if bounds.cpus is not None:
        quota = str(int(bounds.cpus * _PERIOD))
        rows["cpu"] = (("cpu.cfs_period_us", str(_PERIOD), True), ("cpu.cfs_quota_us", quota, True))
    return rows


def _remove(place: Path) -> None:
    for _ in range(20):
        for pid in _processes(place):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        try:
            place.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.002)  # what was killed is still leaving
        else:
            return


def _processes(place: Path) -> list[int]:
    try:
        pids = [int(pid) for pid in (place / "cgroup.procs").read_text().split()]
    except OSError:
        return []
    return [pid for pid in pids if pid > 1]  # 0 is one we cannot see, and to kill(2) it is ourselves


def _alive(pid: int) -> bool:
    return Path("/proc", str(pid)).exists()


def _reap(place: Path, alive: Callable[[int], bool] = _alive) -> None:
    """Remove what an earlier run left behind."""
    for child in place.iterdir() if place.is_dir() else ():
        match = _OURS.fullmatch(child.name)
        if match is not None and not alive(int(match[1])):
            _remove(child)
