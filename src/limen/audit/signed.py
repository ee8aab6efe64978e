"""Records that are what was signed, in one pass: for whoever draws conclusions from the log.

`verify` says whether a log is sound; between that and reading it again the files may change. Here the records read are
the records hashed: at the end they make the root of a checkpoint our key signed, or nothing read may be believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from limen.audit.note import NoteError, parse_verifier_key
from limen.audit.publish import CHECKPOINT
from limen.audit.read import load, read
from limen.audit.succession import Trusted
from limen.audit.tiles import WIDTH, TileTree
from limen.audit.tree import leaf_hash


class Untrusted(Exception):
    """The log is not what was signed. The message says how."""


class SignedRecords:
    """The records below one checkpoint. `later` counts those after it, which nothing vouches for yet."""

    def __init__(self, directory: Path, key_text: str) -> None:
        """Raises Untrusted without a checkpoint by this key, DependencyFault when the disk fails."""
        note = load(directory, CHECKPOINT)
        if note is None:
            raise Untrusted("the log has no checkpoint")
        try:
            checkpoint = Trusted(directory, parse_verifier_key(key_text)).open(note)
        except NoteError as fault:
            raise Untrusted(f"the checkpoint must not be believed: {fault}") from None
        self._directory, self.size, self.root, self.later = directory, checkpoint.size, checkpoint.root, 0

    def __iter__(self) -> Iterator[bytes]:
        """Every record in order. Raises Untrusted at the end, or before: until then, believe none of them."""
        tree, waiting, self.later = TileTree(), list[bytes](), 0
        for index, record in read(self._directory):
            if index >= self.size:
                self.later += 1
                continue
            waiting.append(leaf_hash(record))
            if len(waiting) == WIDTH:
                tree.absorb(waiting)
                waiting.clear()
            yield record
        tree.absorb(waiting)
        if tree.size != self.size:
            raise Untrusted(f"{self.size} records are signed, {tree.size} are there")
        if tree.root() != self.root:
            raise Untrusted("the records are not those that were signed; `limen audit verify` names the first")
