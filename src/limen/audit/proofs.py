"""Proofs from the tiles of a log at rest, and the text in which one record's proof travels (c2sp.org/tlog-proof).

Tiles are taken from disk and believed of nothing: whoever makes a proof here checks it against the signed root before
handing it out. Work and reading are a few tiles for each level, whatever the size.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limen.audit.note import Checkpoint, NoteError, VerifierKey, decode_base64, open_checkpoint
from limen.audit.read import bundle, load
from limen.audit.succession import signed
from limen.audit.tiles import WIDTH, split_bundle, tile_path
from limen.audit.tree import check_consistency, check_inclusion, leaf_hash, node_hash, root_hash

HEADER: Final = "c2sp.org/tlog-proof@v1"
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_MOST_HASHES: Final = 63
_BITS: Final = WIDTH.bit_length() - 1


class Unprovable(Exception):
    """There is no such record, or what is stored does not lead to what was signed. The message says which."""


class StoredTree:
    """The hashes below one size of the log in `directory`."""

    def __init__(self, directory: Path, size: int) -> None:
        self._directory, self.size = directory, size
        self._tiles: dict[tuple[int, int], bytes] = {}

    def root(self, size: int) -> bytes:
        """The root of the first `size` records. Raises Unprovable, DependencyFault."""
        return self._range(0, size) if size else root_hash([])

    def inclusion(self, index: int) -> list[bytes]:
        """RFC 6962 section 2.1.1, lowest first. Raises Unprovable, DependencyFault."""
        if not 0 <= index < self.size:
            raise Unprovable(f"record {index} is not among the {self.size} that are signed")
        path, first, last = list[bytes](), 0, self.size
        while last - first > 1:
            middle = first + (1 << (last - first - 1).bit_length() - 1)
            if index < middle:
                path.append(self._range(middle, last))
                last = middle
            else:
                path.append(self._range(first, middle))
                first = middle
        return path[::-1]

    def consistency(self, older: int) -> list[bytes]:
        """RFC 6962 section 2.1.2: that the first `older` records are where they were. Raises like `inclusion`."""
        if not 0 <= older <= self.size:
            raise Unprovable(f"there is no log of {older} records in one of {self.size}")
        path, first, last, whole = list[bytes](), 0, self.size, True
        while older and older != last:
            middle = first + (1 << (last - first - 1).bit_length() - 1)
            if older <= middle:
                path.append(self._range(middle, last))
                last = middle
            else:
                path.append(self._range(first, middle))
                first, whole = middle, False
        if older and not whole:
            path.append(self._range(first, last))
        return path[::-1]

    def _range(self, first: int, last: int) -> bytes:
        """The hash over records first to last - 1, where `first` is a multiple of the next power of two."""
        length = last - first
        power = length.bit_length() - 1
        if length == 1 << power:
            level, span = power // _BITS, 1 << power % _BITS
            start = (first >> level * _BITS) % WIDTH
            return root_hash(self._hashes(level, first >> (level + 1) * _BITS, start, span))
        middle = first + (1 << (length - 1).bit_length() - 1)
        return node_hash(self._range(first, middle), self._range(middle, last))

    def _hashes(self, level: int, index: int, start: int, count: int) -> list[bytes]:
        tile = self._tiles.get((level, index))
        if tile is None:
            width = min(WIDTH, (self.size >> level * _BITS) - index * WIDTH)
            stored = load(self._directory, tile_path(level, index, width), tile_path(level, index))
            if stored is None or len(stored) < width * 32:
                raise Unprovable(f"{tile_path(level, index, width)} is missing or too short")
            tile = self._tiles[level, index] = stored
        return [tile[at * 32 : at * 32 + 32] for at in range(start, start + count)]


@dataclass(frozen=True, slots=True)
class Proof:
    """That `record` stands at `index` in the log that signed `checkpoint` (the note itself)."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    record: bytes

    def text(self) -> bytes:
        """As c2sp.org/tlog-proof has it; the record itself is the extra data."""
        lines = [HEADER, f"extra {_encoded(self.record)}", f"index {self.index}", *map(_encoded, self.hashes)]
        return "\n".join(lines).encode() + b"\n\n" + self.checkpoint


def read_proof(text: bytes) -> Proof:
    """Raises NoteError for what is not one, or carries no record."""
    head, blank, checkpoint = text.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise NoteError("the proof is not ASCII") from None
    if not blank or len(lines) < 3 or lines[0] != HEADER:
        raise NoteError("is no proof: it begins with c2sp.org/tlog-proof@v1")
    if not lines[1].startswith("extra ") or not lines[2].startswith("index "):
        raise NoteError("the proof carries no record, or no index")
    number = lines[2].removeprefix("index ")
    hashes = tuple(map(decode_base64, lines[3:]))
    if not _NUMBER.fullmatch(number) or len(hashes) > _MOST_HASHES or any(len(one) != 32 for one in hashes):
        raise NoteError("the proof's index or hashes are not well made")
    return Proof(int(number), hashes, checkpoint, decode_base64(lines[1].removeprefix("extra ")))


def check_proof(proof: Proof, key: VerifierKey) -> Checkpoint:
    """The checkpoint by `key` under which the record stands where the proof says. Raises NoteError otherwise."""
    checkpoint = open_checkpoint(proof.checkpoint, key)
    leaf = leaf_hash(proof.record)
    if not check_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root):
        raise NoteError(f"the record is not number {proof.index} of what was signed")
    return checkpoint


def record_at(directory: Path, index: int) -> bytes | None:
    """One record as it is stored; None when it is not there. Raises DependencyFault."""
    data = bundle(directory, index // WIDTH)
    records = [] if data is None else split_bundle(data)[0]
    return records[index % WIDTH] if index % WIDTH < len(records) else None


class Prover:
    """Proofs under the present checkpoint of one log, which `key` signed: the one to check them with."""

    def __init__(self, directory: Path, key: VerifierKey) -> None:
        """Raises Unprovable when no checkpoint by this key, or one it led to, is there; DependencyFault."""
        try:
            _, self.checkpoint, self.key, self.note = signed(directory, key)
        except NoteError as fault:
            raise Unprovable(f"the checkpoint must not be believed: {fault}") from None
        self._directory = directory
        self._tree = StoredTree(directory, self.checkpoint.size)

    def prove(self, index: int) -> Proof:
        """Raises Unprovable when the record is not there, not signed yet, or not what was signed; DependencyFault."""
        hashes = tuple(self._tree.inclusion(index))
        record = record_at(self._directory, index)
        if record is None:
            raise Unprovable(f"record {index} is not here: removed, or lost (`limen audit verify` tells)")
        proof = Proof(index, hashes, self.note, record)
        try:
            check_proof(proof, self.key)
        except NoteError as fault:
            raise Unprovable(str(fault)) from None
        return proof

    def consistency(self, older: int) -> tuple[bytes, list[bytes]]:
        """The root over the first `older` records, and the proof that the present log continues it. Raises Unprovable,
        DependencyFault."""
        hashes, root = self._tree.consistency(older), self._tree.root(older)
        if not check_consistency(older, self.checkpoint.size, root, self.checkpoint.root, hashes):
            raise Unprovable("the stored hashes do not lead to the signed root; `limen audit verify` names the first")
        return root, hashes


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
