"""Arguments that cost the server more than they look: backtracking expressions, bombs, deep queries."""

from __future__ import annotations

import base64
import binascii
import bz2
import lzma
import re
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

Sign = tuple[str, float, str]

LONGEST_PATTERN: Final = 2000
_UNPACKED: Final = 8 << 20  # bytes at which unpacking stops
_RATIO: Final = 60
_REPEAT: Final = re.compile(r"\{(\d{0,9})(,?)(\d{0,9})\}")
_PACKED: Final = re.compile(r"(?:data:[^,]{0,100},)?(H4sI|eJ[wxyz]|eN[oprtuvqsw]|QlpoO|/Td6WFo|UEsDB|iVBORw0KGgo)")


def check_regex(pattern: str) -> Iterator[Sign]:
    """Does a backtracking engine take exponential or high polynomial time? Reads the text once."""
    if len(pattern) > LONGEST_PATTERN:
        yield "argument.regex", 0.8, f"longer than {LONGEST_PATTERN} characters"
        return
    nested, product, wide = _repetitions(pattern)
    if nested:
        yield "argument.regex", 0.9, "a repetition of what already repeats"
    elif product > 100_000:
        yield "argument.regex", 0.85, "counted repetitions multiply"
    elif wide >= 4:
        yield "argument.regex", 0.7, "many open repetitions of anything in a row"


def _repetitions(pattern: str) -> tuple[bool, int, int]:
    """Nested unbounded repetition or repeated overlapping choice; product of counts; `.*`-like runs in a row."""
    groups: list[
        tuple[int, bool, int]
    ] = []  # start, holds an unbounded repetition that can match more of itself, counts
    inner, product, largest = False, 1, 1
    wide = widest = 0
    at = 0
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            at += 2
            start = at
            item = "atom"
        elif sign == "[":
            at = _end_of_class(pattern, at)
            item = "atom"
        elif sign == "(":
            groups.append((at, inner, product))
            inner, product = False, 1
            at += 1
            wide = 0
            continue
        elif sign == ")" and groups:
            start, outer, before = groups.pop()
            at += 1
            item = "group"
            overlapping = _overlaps(pattern[start + 1 : at - 1])
        else:
            at += 1
            item = "atom"
        count, open_, at_next = _quantifier(pattern, at)
        body_repeats = inner
        if item == "group":
            if open_ and (body_repeats or overlapping) and not pattern.startswith(("?>", "?="), start + 1):
                return True, product, widest
            inner, product = outer or body_repeats or open_, before * max(1, product) * count
        else:
            product *= count
            inner = inner or open_
            wide = wide + 1 if open_ and sign in ".\\[" else 0 if sign not in "?" else wide
            widest = max(widest, wide if sign == "." else 0)
        largest = max(largest, product)
        at = at_next
    return False, largest, widest


def _quantifier(pattern: str, at: int) -> tuple[int, bool, int]:
    """Largest count, whether it is open-ended, and where the pattern goes on."""
    sign = pattern[at : at + 1]
    count, open_ = 1, False
    if sign in ("*", "+"):
        open_ = True
        at += 1
    elif sign == "?":
        at += 1
    elif sign == "{" and (match := _REPEAT.match(pattern, at)) and (match[1] or match[3]):
        count = max(int(match[1] or 0), int(match[3] or 0), 1)
        open_ = bool(match[2]) and not match[3]
        at = match.end()
    else:
        return 1, False, at
    if pattern[at : at + 1] == "+":  # possessive: gives nothing back
        return count, False, at + 1
    return count, open_, at + 1 if pattern[at : at + 1] == "?" else at


def _end_of_class(pattern: str, at: int) -> int:
    at += 1
    if pattern[at : at + 1] == "^":
        at += 1
    if pattern[at : at + 1] == "]":
        at += 1
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1


def _overlaps(body: str) -> bool:
    """Choices of which one begins another, as in (a|a) or (a|ab). Groups within are left to their own turn."""
    if "|" not in body or "(" in body:
        return False
    choices = sorted(body.removeprefix("?:").split("|"))
    if any(choice in ("", ".") for choice in choices) and len(choices) > 1:
        return True
    if {"\\w", "\\d"} <= set(choices) or {"\\s", " "} <= set(choices):
        return True
    return any(second.startswith(first) for first, second in pairwise(choices) if first)


def check_packed(text: str) -> Iterator[Sign]:
    """A compressed value that unfolds far beyond its size. At most 8 MiB are unpacked, of known formats only."""
    match = _PACKED.match(text)
    if match is None:
        return
    try:
        raw = base64.b64decode(text[match.start(1) :].partition(",")[0].strip()[: 4 << 20], validate=False)
    except (binascii.Error, ValueError):
        return
    if raw[:4] == b"\x89PNG":
        if len(raw) >= 24:
            width, height = struct.unpack(">II", raw[16:24])
            if width * height > 200_000_000:
                yield "argument.bomb", 0.93, "an image of enormous size"
        return
    size = _zipped(raw) if raw[:2] == b"PK" else _unpacked(raw)
    if size > _RATIO * max(len(raw), 1) and size >= 1 << 20:
        yield "argument.bomb", 0.93, "unfolds to many times its size"


def _zipped(raw: bytes) -> int:
    """Sum of the sizes the directory of a ZIP file announces."""
    total, at = 0, raw.find(b"PK\x01\x02")
    while at >= 0 and at + 28 <= len(raw):
        total += int(struct.unpack_from("<I", raw, at + 24)[0])
        at = raw.find(b"PK\x01\x02", at + 46)
    return total


def _unpacked(raw: bytes) -> int:
    """Bytes this unfolds to, counted up to a bound."""
    reader: Any
    if raw[:3] == b"BZh":
        reader = bz2.BZ2Decompressor()
    elif raw[:2] == b"\xfd7":
        reader = lzma.LZMADecompressor(memlimit=64 << 20)
    else:
        reader = zlib.decompressobj(47)
    size, data = 0, raw
    try:
        while size < _UNPACKED and not reader.eof:
            piece = reader.decompress(data, 1 << 16)
            data = reader.unconsumed_tail if hasattr(reader, "unconsumed_tail") else b""
            size += len(piece)
            if not piece and not data:
                break
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
        return size  # not what it claims to be, or cut off: what came out so far counts
    return size


def check_graphql(text: str) -> Iterator[Sign]:
    """Depth and breadth of a query, counted on its braces."""
    depth = deepest = 0
    for brace in re.findall(r"[{}]", text[:200_000]):
        depth += 1 if brace == "{" else -1
        deepest = max(deepest, depth)
    if deepest > 15:
        yield "argument.graphql", 0.85, f"nested {deepest} deep"
    if len(re.findall(r"\b\w{1,60}\s{0,4}:\s{0,4}\w{1,60}\s{0,4}[({]", text[:200_000])) > 60:
        yield "argument.graphql", 0.8, "one field asked for under many names"
    if re.search(r"\b__schema\b", text):
        yield "argument.graphql", 0.4, "asks for the whole schema"
