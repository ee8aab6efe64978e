"""The C2SP tlog-tiles shape of a log: where a tile is named, how records are framed, which hashes a tile holds.

Pure. A tile is 256 consecutive hashes of one level, level 0 being leaf hashes and each hash above the root of one full
tile below (c2sp.org/tlog-tiles). A bundle is up to 256 records, each behind its length as two big-endian bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from limen.audit.tree import EMPTY_ROOT, root_hash

WIDTH: Final = 256
MAX_RECORD: Final = 0xFFFF
ENTRIES: Final = "entries"


@dataclass(frozen=True, slots=True)
class Tile:
    """`width` hashes of level `level`, starting at hash number index * 256 of that level."""

    level: int
    index: int
    width: int
    hashes: bytes


def tile_path(level: int | str, index: int, width: int = WIDTH) -> str:
    """The path of a tile, or with level "entries" of a bundle, below the log's directory."""
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.append(f"x{index % 1000:03d}")
    suffix = "" if width == WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(reversed(groups))}{suffix}"


def frame(record: bytes) -> bytes:
    """A record as it stands in a bundle. Raises ValueError unless it is 1 to 65535 bytes long.

    Empty records are refused so that a run of zero bytes, which some file systems leave at the end of a file after
    power is lost, can never be read as records.
    """
    length = len(record)
    if not 0 < length <= MAX_RECORD:
        raise ValueError(f"an audit record is 1 to {MAX_RECORD} bytes, not {length}")
    return length.to_bytes(2, "big") + record


def split_bundle(data: bytes, most: int = WIDTH) -> tuple[list[bytes], int]:
    """The complete records at the start of `data`, at most `most`, and how many bytes they take together."""
    records: list[bytes] = []
    at, end = 0, len(data)
    while len(records) < most and at + 2 <= end:
        stop = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if stop == at + 2 or stop > end:
            break
        records.append(data[at + 2 : stop])
        at = stop
    return records, at


class TileTree:
    """A growing tree that keeps only its unfinished tiles: at most 255 hashes a level, whatever the size."""

    def __init__(self) -> None:
        self.size = 0
        self._rows: list[list[bytes]] = [[]]
        self._full: list[int] = [0]

    def absorb(self, leaves: Iterable[bytes]) -> list[Tile]:
        """Append leaf hashes. Returns the tiles this completed, lower levels first."""
        done: list[Tile] = []
        source = iter(leaves)
        while batch := list(islice(source, WIDTH - len(self._rows[0]))):
            self._rows[0].extend(batch)
            self.size += len(batch)
            self._carry(done)
        return done

    def _carry(self, done: list[Tile]) -> None:
        """Close every level that is full and hand its root to the level above."""
        level = 0
        while len(self._rows[level]) == WIDTH:
            row = self._rows[level]
            done.append(Tile(level, self._full[level], WIDTH, b"".join(row)))
            self._full[level] += 1
            if level + 1 == len(self._rows):
                self._rows.append([])
                self._full.append(0)
            self._rows[level + 1].append(root_hash(row))
            row.clear()
            level += 1

    def partial(self) -> list[Tile]:
        """The unfinished tiles this size needs, lower levels first."""
        return [Tile(level, self._full[level], len(row), b"".join(row)) for level, row in enumerate(self._rows) if row]

    def root(self) -> bytes:
        """The RFC 6962 root. What is right of a level's hashes is smaller than one of them, so it joins as the last."""
        below: bytes | None = None
        for row in self._rows:
            items = row if below is None else [*row, below]
            if items:
                below = root_hash(items)
        return EMPTY_ROOT if below is None else below
