"""G3: the filter of system calls, run by an interpreter of classic BPF, for both architectures."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest

from limen.core.faults import ConfigFault
from limen.sandbox.seccomp import ARCHITECTURES, DEMANDS, allowed, program, table

ALLOW, KILL = 0x7FFF0000, 0x80000000
MACHINES = sorted(ARCHITECTURES)


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the kernel would do (struct seccomp_data: number, architecture, instruction pointer, six arguments)."""
    arguments = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *arguments)
    steps = list(struct.iter_unpack("<HBBI", program(machine)))
    value, at = 0, 0
    while True:
        code, yes, no, constant = steps[at]
        at += 1
        if code == 0x20:
            value = struct.unpack_from("<I", data, constant)[0]
        elif code == 0x54:
            value &= constant
        elif code == 0x06:
            return int(constant)
        else:
            holds = {
                0x15: value == constant,
                0x35: value >= constant,
                0x25: value > constant,
                0x45: bool(value & constant),
            }
            at += yes if holds[code] else no


def refused(number: int) -> int:
    return 0x50000 | number


def number(machine: str, name: str) -> int:
    return int(table()["numbers"][machine][name])


@pytest.mark.parametrize("machine", MACHINES)
def test_exactly_what_is_listed_is_allowed(machine: str) -> None:
    numbers = table()["numbers"][machine]
    listed = {numbers[name] for name in allowed() if name in numbers}
    closer = {numbers[name] for name in DEMANDS if name in numbers}
    for call in range(600):
        if call not in closer:
            assert verdict(machine, call) == (ALLOW if call in listed else refused(errno.ENOSYS)), call
    for name in table()["refused"].split():
        if name in numbers:
            assert verdict(machine, numbers[name]) == refused(errno.ENOSYS), name


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architecture_ends_the_process(machine: str) -> None:
    assert verdict(machine, 0, architecture=0x40000003) == KILL  # i386: int 0x80
    if machine == "x86_64":
        assert verdict(machine, 0x40000000) == refused(errno.ENOSYS)  # x32


CALLS: list[tuple[str, tuple[int, ...], Any]] = [
    ("socket", (1, 1, 0), ALLOW), ("socket", (2, 0x80001, 6), ALLOW), ("socket", (10, 2, 17), ALLOW),
    ("socket", (2, 3, 0), errno.EAFNOSUPPORT), ("socket", (16, 2, 0), errno.EAFNOSUPPORT),
    ("socket", (17, 3, 0), errno.EAFNOSUPPORT), ("socket", (40, 1, 0), errno.EAFNOSUPPORT),
    ("socket", (2, 2, 1), errno.EAFNOSUPPORT), ("socket", (2, 1, 132), errno.EAFNOSUPPORT),
    ("socket", ((1 << 32) | 16, 2, 0), errno.EAFNOSUPPORT),  # the kernel takes an int: only the low half counts
    ("socketpair", (1, 1), ALLOW), ("socketpair", (16, 1), errno.EAFNOSUPPORT),
    ("clone", (0x3D0F00,), ALLOW), ("clone", (17,), ALLOW), ("clone", (0x10000011,), errno.EPERM),
    ("clone", (0x20000,), errno.EPERM), ("clone", (0x40000000,), errno.EPERM),
    ("ioctl", (0, 0x5401), ALLOW), ("ioctl", (0, 0x5412), errno.EPERM), ("ioctl", (0, 0x541C), errno.EPERM),
    ("ioctl", (0, (7 << 32) | 0x5412), errno.EPERM),
    ("personality", (0,), ALLOW), ("personality", (0xFFFFFFFF,), ALLOW), ("personality", (0x40000,), errno.EPERM),
    ("fchmod", (3, 0o755), ALLOW), ("fchmod", (3, 0o4755), errno.EPERM), ("fchmodat", (3, 0, 0o2755), errno.EPERM),
    ("openat", (3, 0, 0o100, 0o644), ALLOW), ("openat", (3, 0, 0o100, 0o4755), errno.EPERM),
    ("openat", (3, 0, 0, 0o4755), ALLOW), ("openat", (3, 0, 0o20200000, 0o6755), errno.EPERM),
    ("mknodat", (3, 0, 0o010644), ALLOW), ("mknodat", (3, 0, 0o060660), errno.EPERM),
    ("mknodat", (3, 0, 0o104755), errno.EPERM),
]  # fmt: skip


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("name", "arguments", "wanted"), CALLS)
def test_arguments_that_make_a_call_dangerous(machine: str, name: str, arguments: tuple[int, ...], wanted: int) -> None:
    expected = ALLOW if wanted == ALLOW else refused(wanted)
    assert verdict(machine, number(machine, name), *arguments) == expected


def test_every_call_that_is_looked_at_is_on_the_list_and_nothing_is_listed_twice() -> None:
    names = allowed()
    assert len(names) == len(set(names))
    assert set(DEMANDS) <= set(names)
    assert not set(names) & set(table()["refused"].split())


def test_every_program_is_one_the_kernel_takes() -> None:
    """At most 4096 instructions; every jump forward and inside; the last one returns (BPF(4))."""
    for machine in MACHINES:
        steps = list(struct.iter_unpack("<HBBI", program(machine)))
        assert len(steps) < 4096
        assert steps[-1][0] == 0x06
        assert all(at + 1 + max(yes, no) < len(steps) for at, (code, yes, no, _) in enumerate(steps) if code & 7 == 5)


def test_a_machine_without_a_filter_is_refused() -> None:
    with pytest.raises(ConfigFault, match="no system call filter for riscv64"):
        program("riscv64")
