"""Bytes that were encoded: are they text? Compressed data is opened, up to a bound."""

from __future__ import annotations

import bz2
import re
import zlib
from typing import Final

from limen.detection.views_excerpt import Budget

INFLATED: Final = 256 * 1024  # bytes read of one compressed blob
_BOMB: Final = 100  # more than this many times the compressed size is no ordinary data
_LEAST: Final = 8  # bytes that are text as a whole; fewer are by chance too often
_RUN: Final = re.compile(rb"[\x20-\x7e\t\r\n]{24,}")
_SPOKEN: Final = re.compile(rb"[A-Za-z]{2,}[ ,.][A-Za-z ]{2,}[ ,.][A-Za-z]")
_OFF: Final = re.compile("[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\ufffe\uffff]")


def readable(raw: bytes, budget: Budget) -> str | None:
    """The text in `raw`, or None: UTF-8, UTF-16, sentences in other data. gzip, zlib and bzip2 are opened first."""
    raw = _opened(raw, budget)
    found = _text(raw)
    if found is None or not budget.take(len(found)):
        return None
    return found


def _text(raw: bytes) -> str | None:
    if len(raw) < _LEAST:
        return None
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or (len(raw) >= 12 and _half_zero(raw)):
        little = raw[:2] == b"\xff\xfe" or (raw[:2] != b"\xfe\xff" and raw[1] == 0)
        wide = (raw + b"\0" * (len(raw) & 1)).decode("utf-16-le" if little else "utf-16-be", "replace")
        return wide if wide and not _mostly_off(wide) else None
    try:
        found = raw.decode()
    except UnicodeDecodeError as fault:
        # What follows an encoded run can be taken for its end; the part before stands.
        if fault.start >= 2 * _LEAST and fault.start * 2 >= len(raw):
            head = raw[: fault.start].decode()
            if not _mostly_off(head):
                return head
        return _runs(raw)
    return found if not _mostly_off(found) else _runs(raw)


def _half_zero(raw: bytes) -> bool:
    return max(raw[0::2].count(0), raw[1::2].count(0)) * 4 >= len(raw) // 2 * 3


def _mostly_off(text: str) -> bool:
    return len(_OFF.findall(text)) * 20 > len(text)


def _runs(raw: bytes) -> str | None:
    """Sentences inside binary data: the comment of an image, a payload behind a header."""
    runs = [run for run in _RUN.findall(raw) if _SPOKEN.search(run)]
    return "\n".join(run.decode("ascii") for run in runs) or None


def _opened(raw: bytes, budget: Budget) -> bytes:
    for _layer in range(4):
        data = _inflated(raw, budget)
        if data is None:
            return raw
        raw = data
    budget.limits.add("nested")
    return raw


def _inflated(raw: bytes, budget: Budget) -> bytes | None:
    """One layer of compression undone; None where there is none or it is damaged from the start."""
    zipped = raw[:2] == b"\x1f\x8b" or (raw[:1] == b"\x78" and raw[1:2] in (b"\x01", b"\x5e", b"\x9c", b"\xda"))
    if not zipped and raw[:3] != b"BZh":
        return None
    if budget.blobs <= 0:
        budget.limits.add("blobs")
        return None
    budget.blobs -= 1
    try:
        if zipped:
            stream = zlib.decompressobj(47)
            data = stream.decompress(raw, INFLATED)
            more = len(data) >= INFLATED and not stream.eof
            used = len(raw) - len(stream.unconsumed_tail)
        else:
            unpack = bz2.BZ2Decompressor()
            data = unpack.decompress(raw, INFLATED)
            more = len(data) >= INFLATED and not unpack.eof
            used = len(raw)  # bzip2 works in blocks and does not tell how far it got
    except (zlib.error, OSError):
        return None  # two bytes that look like a header are common in random data
    if more:
        budget.limits.add("bomb" if len(data) > _BOMB * used else "inflated")
    return data or None
