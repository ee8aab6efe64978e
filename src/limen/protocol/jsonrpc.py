"""Strict JSON at native speed. One reading of the bytes, or none.

Two parsers that read the same bytes differently are how a denied tool gets past a gateway (CVE-2026-27896,
GHSA-q382): duplicate member names, names that only differ by case or a trailing NUL, numbers one side rounds.
So whatever could be read in two ways is refused, and what goes out is rendered from the parsed value.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import jiter
import orjson


class NotJson(ValueError):
    """The bytes are not one strict JSON value within the limits. The message is safe for an operator's log."""


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """Bounds on one parsed value. Sizes in bytes or characters; `digits` bounds integers."""

    size: int = 4 << 20
    depth: int = 64
    members: int = 10_000
    string: int = 1 << 20
    digits: int = 64


REQUEST_LIMITS: Final = JsonLimits()
RESULT_LIMITS: Final = JsonLimits(size=16 << 20, members=200_000, string=16 << 20)
_INT64: Final = 1 << 63
_FOLDED: Final = "two member names that some readers take for one"


def parse(data: bytes, limits: JsonLimits = REQUEST_LIMITS, *, fold_names: bool = True) -> Any:
    """Bytes to value. Raises NotJson.

    With `fold_names`, an object is also refused when two of its names are equal after case folding and removal of
    NULs: some readers (Go's encoding/json) would take either.
    """
    if len(data) > limits.size:
        raise NotJson(f"larger than {limits.size} bytes")
    try:
        value = jiter.from_json(data, catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as error:
        raise NotJson(str(error)[:200]) from None
    if _plain(data, limits):
        _look(value, limits, fold_names)
    else:
        _Walk(limits, fold_names).visit(value, 1)
    return value


def _plain(data: bytes, limits: JsonLimits) -> bool:
    """Whether the bytes alone show that no size can be exceeded, so that the value need not be measured.

    Brackets and commas inside strings count as well, which only errs towards measuring.
    """
    brackets = data.count(b"{") + data.count(b"[")
    return (
        len(data) <= limits.string
        and brackets <= limits.depth
        and (len(data) <= limits.members or brackets + data.count(b",") <= limits.members)  # a member takes a byte
        and b"\\u0000" not in data
    )


def _look(value: Any, limits: JsonLimits, fold: bool) -> None:
    """The part of the walk that a plain value still needs: names that some readers take for one (none of them holds
    a NUL), and numbers."""
    level = [value]
    for member in level:
        kind = type(member)
        if kind is str:
            continue
        if kind is dict:
            if fold and len(member) > 1 and len({*map(str.casefold, member)}) < len(member):
                raise NotJson(_FOLDED)
            level += member.values()
        elif kind is list:
            level += member
        elif kind is float and member - member != 0.0:
            raise NotJson("a number that overflows")
        elif kind is int and not -_INT64 < member < _INT64:
            _Walk(limits, fold).visit(member, 1)


class _Walk:
    """Measures a parsed value against the limits."""

    __slots__ = ("digits", "fold", "limits", "members")

    def __init__(self, limits: JsonLimits, fold: bool) -> None:
        self.limits, self.fold, self.members = limits, fold, limits.members
        self.digits = 10**limits.digits

    def visit(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind is str:
            if len(value) > self.limits.string:
                raise NotJson(f"a string longer than {self.limits.string} characters")
        elif kind is dict:
            self._enter(len(value), depth)
            if self.fold and len(value) > 1 and len({name.casefold().replace("\0", "") for name in value}) < len(value):
                raise NotJson(_FOLDED)
            for name, member in value.items():
                if len(name) > self.limits.string:
                    raise NotJson("a member name that is too long")
                if type(member) is not bool and member is not None:
                    self.visit(member, depth + 1)
        elif kind is list:
            self._enter(len(value), depth)
            for member in value:
                self.visit(member, depth + 1)
        elif kind is int:
            if not -_INT64 < value < _INT64 and not -self.digits < value < self.digits:
                raise NotJson(f"an integer of more than {self.limits.digits} digits")
        elif kind is float and value - value != 0.0:
            raise NotJson("a number that overflows")

    def _enter(self, count: int, depth: int) -> None:
        self.members -= count
        if self.members < 0:
            raise NotJson(f"more than {self.limits.members} members")
        if depth > self.limits.depth:
            raise NotJson(f"nested deeper than {self.limits.depth}")


def render(value: Any) -> bytes:
    """Value to compact JSON bytes. Integers of any size keep all their digits. Raises TypeError."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def canonical(value: Any) -> bytes:
    """Value to JSON bytes with sorted names: equal values give equal bytes."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=True).encode()
