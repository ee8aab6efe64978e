"""Read records back, in order, from a directory that may be written to meanwhile. Checks nothing: see `verify`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from limen.audit.journal import journal_path
from limen.audit.tiles import ENTRIES, WIDTH, split_bundle, tile_path
from limen.core.faults import DependencyFault


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
    while (data := bundle(directory, number)) is not None:
        records, _ = split_bundle(data)
        for place, record in enumerate(records):
            if number * WIDTH + place >= start:
                yield number * WIDTH + place, record
        if len(records) < WIDTH:
            return
        number += 1


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
