"""What is inside a backup: a row of entries, each with a name and a digest, and last a manifest that lists them all.

    name length (2 bytes), name; pieces: length (4), bytes; length 0; SHA-256 of the content (32)
    ... ; a name of length 0

A name is `table/NAME` (rows), `files/PATH` (a file of the restored directory) or `manifest.json`. PATH has no part that
leads out of the directory: one that does is refused even under the right passphrase.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from limen.adapters.sealed_stream import NotSealed, SealedReader, SealedWriter
from limen.adapters.snapshots import Row

VERSION: Final = 1
MANIFEST: Final = "manifest.json"
MOST_PARTS: Final = 12
_PART: Final = r"\.?[A-Za-z0-9_][A-Za-z0-9_. -]{0,127}"
_NAME: Final = re.compile(rf"manifest\.json|table/[a-z][a-z0-9_]{{0,31}}|files/{_PART}(?:/{_PART}){{0,{MOST_PARTS}}}")
_PIECE: Final = 256 << 10
_MOST_PIECE: Final = 64 << 20
_MOST_MANIFEST: Final = 64 << 20
_ROW: Final = struct.Struct(">IId")


class Entry(NamedTuple):
    """Of one archive. `content` is to be read to its end before the next entry is asked for."""

    name: str
    content: Iterator[bytes]


class Packer:
    """Writes entries; `listed` is what the manifest says of them."""

    def __init__(self, sink: SealedWriter) -> None:
        self._sink = sink
        self.listed: dict[str, dict[str, Any]] = {}

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """Raises ValueError for a name that is none, OSError."""
        if not _NAME.fullmatch(name) or name in self.listed:
            raise ValueError(f"not a name for an entry, or there twice: {name!r}")
        raw, digest, size = name.encode(), sha256(), 0
        self._sink.write(struct.pack(">H", len(raw)) + raw)
        for piece in _joined(pieces):
            digest.update(piece)
            size += len(piece)
            self._sink.write(struct.pack(">I", len(piece)) + piece)
        self._sink.write(struct.pack(">I", 0) + digest.digest())
        self.listed[name] = {"size": size, "sha256": digest.hexdigest()}

    def finish(self, manifest: dict[str, Any]) -> None:
        """The manifest, and the end. Raises OSError."""
        whole = {**manifest, "version": VERSION, "entries": dict(self.listed)}
        self.add(MANIFEST, [orjson.dumps(whole)])
        self._sink.write(struct.pack(">H", 0))
        self._sink.close()


def unpacked(source: SealedReader, where: str) -> Iterator[Entry]:
    """Every entry, the manifest last. Raises NotSealed for anything that is not as `Packer` makes it."""
    while length := struct.unpack(">H", source.read(2))[0]:
        name = source.read(length).decode("utf-8", "replace")
        if not _NAME.fullmatch(name):
            raise NotSealed(f"holds an entry that may not be there: {name[:80]!r}", where)
        yield Entry(name, _content(source, name, where))
    source.finish()


def _content(source: SealedReader, name: str, where: str) -> Iterator[bytes]:
    digest = sha256()
    while length := struct.unpack(">I", source.read(4))[0]:
        if length > _MOST_PIECE:
            raise NotSealed(f"{name}: a piece larger than there are", where)
        piece = source.read(length)
        digest.update(piece)
        yield piece
    if source.read(32) != digest.digest():
        raise NotSealed(f"{name}: is not what was written", where)


def read_manifest(content: Iterator[bytes], where: str) -> dict[str, Any]:
    """Raises NotSealed for one of another version."""
    raw = b""
    for piece in content:
        raw += piece
        if len(raw) > _MOST_MANIFEST:
            raise NotSealed("its manifest is too large", where)
    try:
        found = orjson.loads(raw)
        if found["version"] != VERSION:
            raise NotSealed(f"is of version {found['version']}; this program reads {VERSION}", where)
    except (ValueError, KeyError, TypeError):
        raise NotSealed("its manifest cannot be read", where) from None
    return dict(found)


def packed_rows(rows: Iterable[Row]) -> Iterator[bytes]:
    """Rows of a table as bytes: lengths of key and value, expiry (-1: never), key, value."""
    for key, value, expires in rows:
        raw = key.encode("utf-8", "surrogatepass")
        yield _ROW.pack(len(raw), len(value), -1.0 if expires is None else expires) + raw + value


def unpacked_rows(content: Iterator[bytes], where: str) -> Iterator[Row]:
    """The same again. Raises NotSealed."""
    held = bytearray()
    for piece in content:
        held += piece
        while len(held) >= _ROW.size:
            named, valued, expires = _ROW.unpack_from(held)
            end = _ROW.size + named + valued
            if len(held) < end:
                break
            key = bytes(held[_ROW.size : _ROW.size + named]).decode("utf-8", "surrogatepass")
            yield key, bytes(held[_ROW.size + named : end]), None if expires < 0 else expires
            del held[:end]
    if held:
        raise NotSealed("a row is cut off", where)


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """In pieces of about the same size: rows are small."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _PIECE:
            yield b"".join(held)
            held, size = [], 0
    if size:
        yield b"".join(held)
