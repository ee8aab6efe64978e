"""The filter of system calls in a cell: an allow-list shipped as data, assembled to classic BPF (seccomp(2), BPF(4)).

What is not on the list answers ENOSYS, so that a C library falls back where it can. A call of another architecture
(32-bit x86 on a 64-bit kernel) ends the process: its numbers mean other things. A few calls are looked at closer; a
filter sees registers only, never what they point to, so a call whose danger lies behind a pointer is not on the list.
"""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from limen.core.faults import ConfigFault

ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*, linux/audit.h
_X32: Final = 0x40000000  # x86_64 numbers from here on are those of the x32 ABI
_LOAD, _AND, _EQUAL, _LESS_NOT, _ABOVE, _ANY, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x25, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_ALL: Final = 0xFFFFFFFF

_NAMESPACES: Final = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET
_SET_ID: Final = 0o6000  # a file made with these in a granted directory would be somebody's key outside
_CREATES: Final = 0o100 | 0o20000000  # O_CREAT, __O_TMPFILE
_TTY: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing into a terminal


@dataclass(frozen=True, slots=True)
class Demand:
    """The low 32 bits of an argument, under `mask`, must (`among`) or must not be one of `values`; else `error`.

    `when`: asked only where that argument has one of those bits.
    """

    argument: int
    values: tuple[int, ...] = (0,)
    mask: int = _ALL
    among: bool = True
    error: int = errno.EPERM
    when: tuple[int, int] | None = None


_FAMILY: Final = errno.EAFNOSUPPORT
_NO_SET_ID: Final = {position: (Demand(position, mask=_SET_ID),) for position in (1, 2)}
_FIFO_OR_FILE: Final = (0, 0o010000, 0o100000, 0o140000)
DEMANDS: Final[Mapping[str, tuple[Demand, ...]]] = {
    "socket": (  # unix, IPv4, IPv6; stream, datagram, sequenced packets; the default protocol, TCP, UDP
        Demand(0, (1, 2, 10), error=_FAMILY),
        Demand(1, (1, 2, 5), mask=0xF, error=_FAMILY),
        Demand(2, (0, 6, 17), error=_FAMILY),
    ),
    "socketpair": (Demand(0, (1,), error=_FAMILY),),
    "clone": (Demand(0, mask=_NAMESPACES),),
    "ioctl": (Demand(1, _TTY, among=False),),
    "personality": (Demand(0, (0, _ALL)),),
    "chmod": _NO_SET_ID[1],
    "fchmod": _NO_SET_ID[1],
    "fchmodat": _NO_SET_ID[2],
    "fchmodat2": _NO_SET_ID[2],
    "creat": _NO_SET_ID[1],
    "open": (Demand(2, mask=_SET_ID, when=(1, _CREATES)),),
    "openat": (Demand(3, mask=_SET_ID, when=(2, _CREATES)),),
    "mknod": (Demand(1, _FIFO_OR_FILE, mask=0o170000), *_NO_SET_ID[1]),
    "mknodat": (Demand(2, _FIFO_OR_FILE, mask=0o170000), *_NO_SET_ID[2]),
}

_Step = tuple[int, int, int, int]


@cache
def table() -> dict[str, Any]:
    """The shipped data: names by group, what is refused on purpose, numbers by architecture."""
    found: dict[str, Any] = json.loads(files("limen.sandbox").joinpath("syscalls.json").read_text("utf-8"))
    return found


def allowed() -> tuple[str, ...]:
    """Every name on the list."""
    return tuple(name for group in table()["allow"].values() for name in group.split())


@cache
def program(machine: str) -> bytes:
    """The filter as an array of struct sock_filter. `machine` is what uname(2) says. Raises ConfigFault."""
    if machine not in ARCHITECTURES:
        raise ConfigFault(f"there is no system call filter for {machine}; there is one for {', '.join(ARCHITECTURES)}")
    numbers: dict[str, int] = table()["numbers"][machine]
    names = [name for name in allowed() if name in numbers]  # some calls exist on one architecture only
    steps: list[_Step] = [
        (_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, ARCHITECTURES[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER),
        (_LESS_NOT, 0, 1, _X32), _fail(errno.ENOSYS),
    ]  # fmt: skip
    for name in names:
        if name in DEMANDS:
            block = [step for demand in DEMANDS[name] for step in _demand(demand)] + [(_RETURN, 0, 0, _ALLOW)]
            steps += [(_EQUAL, 0, len(block), numbers[name]), *block]
    for low, high in _ranges(numbers[name] for name in names if name not in DEMANDS):
        steps += [(_LESS_NOT, 1, 0, low), _fail(errno.ENOSYS), (_ABOVE, 1, 0, high), (_RETURN, 0, 0, _ALLOW)]
    steps.append(_fail(errno.ENOSYS))
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def _fail(number: int) -> _Step:
    return _RETURN, 0, 0, _ERRNO | number


def _demand(demand: Demand) -> list[_Step]:
    """Leads past its own end where the demand is met."""
    tests: list[_Step] = [(_LOAD, 0, 0, _ARGUMENTS + 8 * demand.argument)]
    if demand.mask != _ALL:
        tests.append((_AND, 0, 0, demand.mask))
    left = len(demand.values)
    for value in demand.values:
        left -= 1
        # One that matches skips the other comparisons, and the refusal or the step over it.
        tests.append((_EQUAL, left + 1, 0, value) if demand.among else (_EQUAL, left, 0 if left else 1, value))
    tests.append(_fail(demand.error))
    if demand.when is not None:
        argument, bits = demand.when
        return [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument), (_ANY, 0, len(tests), bits), *tests]
    return tests


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    ordered = sorted(numbers)
    low = before = ordered[0]
    for number in ordered[1:]:
        if number != before + 1:
            yield low, before
            low = number
        before = number
    yield low, before
