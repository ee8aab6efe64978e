"""Records that are what was signed, in one pass: for whoever draws conclusions from the log.

`verify` says whether a log is sound; between that and reading it again the files may change. Here the records read are
the records hashed: at the end they make the root of a checkpoint our key signed, or nothing read may be believed.
Of records that were removed on purpose the stored hashes stand in; they are counted, and nothing is read of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from limen.audit.note import NoteError, parse_verifier_key
from limen.audit.pruned import Pruned, known_pruned
from limen.audit.read import load, read
from limen.audit.succession import signed
from limen.audit.tiles import WIDTH, TileTree, tile_path
from limen.audit.tree import leaf_hash


class Untrusted(Exception):
    """The log is not what was signed. The message says how."""


class SignedRecords:
    """The records below one checkpoint. `note` is that checkpoint, signed by `key`. `later` counts those after it,
    which nothing vouches for yet; `pruned` those that were removed."""

    def __init__(self, directory: Path, key_text: str) -> None:
        """Raises Untrusted without a checkpoint by this key, DependencyFault when the disk fails."""
        try:
            self._known, checkpoint, self.key, self.note = signed(directory, parse_verifier_key(key_text))
        except NoteError as fault:
            raise Untrusted(f"the checkpoint must not be believed: {fault}") from None
        self._gone = self._pruned(directory)
        self._directory, self.size, self.root = directory, checkpoint.size, checkpoint.root
        self.later, self.pruned = 0, 0

    def __iter__(self) -> Iterator[bytes]:
        """Every record in order. Raises Untrusted at the end, or before: until then, believe none of them."""
        return (record for _, _, record in self.walk() if record is not None)

    def walk(self) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Number, leaf hash and record of each, None for one that was removed on purpose. Raises like `__iter__`."""
        tree, waiting, self.later, self.pruned = TileTree(), list[bytes](), 0, 0
        for index, record in read(self._directory):
            if index >= self.size:
                self.later += 1
                continue
            if index > tree.size + len(waiting):
                yield from self._removed(tree, index // WIDTH)
            leaf = leaf_hash(record)
            waiting.append(leaf)
            if len(waiting) == WIDTH:
                tree.absorb(waiting)
                waiting.clear()
            yield index, leaf, record
        tree.absorb(waiting)
        if tree.size < self.size and tree.size % WIDTH == 0:  # the last that are signed
            yield from self._removed(tree, self.size // WIDTH)
        if tree.size != self.size:
            raise Untrusted(f"{self.size} records are signed, {tree.size} are there")
        if tree.root() != self.root:
            raise Untrusted("the records are not those that were signed; `limen audit verify` names the first")

    def _removed(self, tree: TileTree, last: int) -> Iterator[tuple[int, bytes, None]]:
        """The stored hashes of bundles up to `last` - 1, as far as they were removed on purpose."""
        for index in range(tree.size // WIDTH, last):
            if index not in self._gone:  # unless since we began
                self._gone = self._pruned(self._directory)
            hashes = load(self._directory, tile_path(0, index)) if index in self._gone else None
            if hashes is None or len(hashes) != WIDTH * 32:
                raise Untrusted(f"records from {index * WIDTH} on are missing")
            self.pruned += WIDTH
            leaves = [hashes[at : at + 32] for at in range(0, WIDTH * 32, 32)]
            tree.absorb(leaves)
            yield from ((index * WIDTH + place, leaf, None) for place, leaf in enumerate(leaves))

    def _pruned(self, directory: Path) -> Pruned:
        try:
            return known_pruned(directory, self._known)
        except NoteError as fault:
            raise Untrusted(f"the note about removed records must not be believed: {fault}") from None
