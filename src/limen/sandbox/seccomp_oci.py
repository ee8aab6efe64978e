"""The filter of system calls for container runtimes: the same allow-list as JSON of the OCI runtime specification.

Only conditions of the kind "these bits have this value" are written (SCMP_CMP_MASKED_EQ, low 32 bits): libseccomp's
other comparisons look at 64 bits where the kernel looks at 32, so that a value with a high bit set would slip through
(CVE-2019-10063). What the allow-list refuses with another error answers ENOSYS here.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any, Final, NamedTuple

from limen.core.faults import ConfigFault
from limen.sandbox.seccomp import DEMANDS, Demand, allowed

ARCHITECTURES: Final = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_WIDTH: Final = 32


class Bits(NamedTuple):
    """Holds where `argument & mask == value`."""

    argument: int
    mask: int
    value: int


@cache
def profile(machine: str) -> bytes:
    """JSON for `--security-opt seccomp=FILE`. `machine` is what uname(2) says. Raises ConfigFault."""
    if machine not in ARCHITECTURES:
        raise ConfigFault(f"there is no system call filter for {machine}; there is one for {', '.join(ARCHITECTURES)}")
    plain: list[dict[str, Any]] = [{"names": [name for name in allowed() if name not in DEMANDS], **_ALLOW}]
    narrow = [
        {"names": [name], **_ALLOW, "args": [_condition(bits) for bits in conditions]}
        for name, demands in DEMANDS.items()
        for conditions in ways(demands)
    ]
    document = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": [ARCHITECTURES[machine]],
        "syscalls": [*plain, *narrow],
    }
    return json.dumps(document).encode()


_ALLOW: Final = {"action": "SCMP_ACT_ALLOW"}


def ways(demands: Sequence[Demand]) -> Iterator[tuple[Bits, ...]]:
    """A call is allowed if all conditions of any of these hold."""
    yield from product(*(list(_alternatives(demand)) for demand in demands))


def _alternatives(demand: Demand) -> Iterator[Bits]:
    """Ways in which one demand is met."""
    if demand.when is not None:
        yield Bits(demand.when[0], demand.when[1], 0)
    if demand.among:
        for value in demand.values:
            yield Bits(demand.argument, demand.mask, value)
    else:
        yield from _others(demand.argument, demand.values, 0, _WIDTH)


def _others(argument: int, values: Sequence[int], prefix: int, left: int) -> Iterator[Bits]:
    """Every value but these: for each branch of the tree of bits that none of them is on, its common first bits."""
    if not values:
        yield Bits(argument, -1 << left & 0xFFFFFFFF, prefix)
    elif left:
        bit = 1 << left - 1
        for branch in (0, bit):
            yield from _others(argument, [one for one in values if one & bit == branch], prefix | branch, left - 1)


def _condition(bits: Bits) -> dict[str, Any]:
    return {"index": bits.argument, "value": bits.mask, "valueTwo": bits.value, "op": "SCMP_CMP_MASKED_EQ"}
