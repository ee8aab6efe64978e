"""Read records back, in order, from a directory that may be written to meanwhile. Checks nothing: see `verify`.

Records that were removed on purpose are passed over: reading goes on at the next that is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import orjson

from limen.audit.journal import journal_path
from limen.audit.tiles import ENTRIES, WIDTH, split_bundle, tile_path
from limen.core.faults import DependencyFault

CHECKPOINT: Final = "checkpoint"
PRUNED: Final = "pruned"  # the note about removed records, see limen.audit.pruned


def load(directory: Path, *paths: str) -> bytes | None:
    """The first of these files that exists. Raises DependencyFault when one cannot be read."""
    for path in paths:
        try:
            return (directory / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as fault:
            raise DependencyFault("audit", f"{path} cannot be read: {fault.strerror or fault}") from fault
    return None


def size_of(checkpoint: bytes | None) -> int:
    """How many records a checkpoint says there are, 0 for none. A hint: whether it may be believed is not asked."""
    lines = (checkpoint or b"").split(b"\n")
    return int(lines[1]) if len(lines) > 1 and lines[1].isdigit() and len(lines[1]) < 19 else 0


def bundle(directory: Path, index: int) -> bytes | None:
    """The bytes of bundle `index`. A growing one can be finished, and so moved, while we look: look again."""
    full, growing = tile_path(ENTRIES, index), journal_path(index)
    data = load(directory, full, growing, full)
    return data if data is not None else _published(directory, index)


def _published(directory: Path, index: int) -> bytes | None:
    """The widest partial bundle of a copy that was made without the journal."""
    folder = (directory / tile_path(ENTRIES, index, 1)).parent
    widths = [int(path.name) for path in folder.glob("*") if path.name.isascii() and path.name.isdigit()]
    return load(directory, tile_path(ENTRIES, index, max(widths))) if widths else None


def read(directory: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """(index, record) from `start` to the last whole record, signed or not. Raises DependencyFault, ValueError."""
    if start < 0:
        raise ValueError("records are numbered from 0")
    number = start // WIDTH
    while True:
        data = bundle(directory, number)
        if data is None:
            following = _behind(directory, number)
            if following == number:
                return
            number = following
            continue
        records, _ = split_bundle(data)
        for place, record in enumerate(records):
            if number * WIDTH + place >= start:
                yield number * WIDTH + place, record
        if len(records) < WIDTH:
            return
        number += 1


def _behind(directory: Path, number: int) -> int:
    """The first bundle from this one on that the note about removed records does not name, or that is still there.
    Nothing is verified here."""
    note, end = load(directory, PRUNED), number
    if note is None:
        return number
    try:
        for row in orjson.loads(note.split(b"\n", 2)[1])["gone"]:
            if row["first"] <= end < row["last"]:
                end = int(row["last"])
    except (ValueError, TypeError, KeyError, IndexError):
        raise ValueError("the note about removed records cannot be read") from None
    there = (one for one in range(number + 1, end) if (directory / tile_path(ENTRIES, one)).exists())
    return next(there, end)


async def follow(directory: Path, start: int = 0, *, poll: float = 0.25) -> AsyncIterator[tuple[int, bytes]]:
    """Like `read`, then for ever whatever is appended, looking every `poll` seconds. Raises like `read`."""
    while True:
        for index, record in await asyncio.to_thread(_some, directory, start):
            yield index, record
            start = index + 1
        await asyncio.sleep(poll)


def _some(directory: Path, start: int) -> list[tuple[int, bytes]]:
    """At most one bundle's worth, so that following a long log stays within bounds."""
    return [item for item, _ in zip(read(directory, start), range(WIDTH), strict=False)]
