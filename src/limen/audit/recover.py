"""What a ledger's directory holds, judged before anything is appended to it.

1. The checkpoint must be signed by our key for our name, or by one that handed over to ours (see `succession`). A
   directory with records and no checkpoint is refused: the empty log is signed before its first record is taken.
2. Every record is hashed again. Fewer records than the checkpoint counts, or another root over them: refused.
3. Whole records after the checkpoint are kept: they were accepted, and a killed process had no time to sign them.
4. A record cut short at the very end was never accepted (`append` had not returned): it is cut, and that is told.
   After a power failure (not after a kill) a file before the last may end early too; records after such a gap were
   never acknowledged as durable. They are moved to `lost/`, and that is told.
5. Bundles that the signed note names as removed may be missing: their hashes are taken from their tile, which the
   signed root vouches for. A bundle that is missing without being named there: refused.
6. Hash tiles that are missing or differ although the records match the signed root are written anew, and that is told.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from limen.audit.folders import make_folder, sync_folder
from limen.audit.journal import FOLDER, Journal, Segment, journal_path
from limen.audit.note import Checkpoint, NoteError, VerifierKey, sign_checkpoint
from limen.audit.pruned import Pruned, known_pruned
from limen.audit.publish import DRAFT, write_whole
from limen.audit.read import CHECKPOINT
from limen.audit.succession import trusted
from limen.audit.tiles import ENTRIES, WIDTH, Tile, TileTree, split_bundle, tile_path
from limen.audit.tree import EMPTY_ROOT, leaf_hash
from limen.core.faults import DependencyFault
from limen.core.ports import Signer

_LOST: Final = "lost"


@dataclass(slots=True)
class Recovered:
    """A directory that may be appended to."""

    tree: TileTree
    journal: Journal
    note: bytes
    unwritten: list[Tile] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


def recover(directory: Path, signer: Signer) -> Recovered:
    """Judge the directory, repair what a crash may leave. Raises DependencyFault when it must not be used, OSError."""
    make_folder(directory / FOLDER)
    (directory / DRAFT).unlink(missing_ok=True)
    note = _checkpoint_note(directory, signer)
    key = VerifierKey(signer.name, signer.public_key)
    try:
        known = trusted(directory, key)
        if known.current.public_key != signer.public_key:
            raise NoteError(f"its key was replaced by {known.current.text}")
        checkpoint, _ = known.present(note)
    except NoteError as fault:
        raise _refused(f"its checkpoint must not be believed: {fault}") from fault
    try:
        pruned = known_pruned(directory, known)
    except NoteError as fault:
        raise _refused(f"its note about removed records must not be believed: {fault}") from fault
    return _Recovery(directory, checkpoint, note, pruned).run()


def _refused(why: str) -> DependencyFault:
    return DependencyFault("audit", f"the ledger is not opened: {why}", retryable=False)


def _checkpoint_note(directory: Path, signer: Signer) -> bytes:
    """The stored checkpoint; for a new directory, the signed empty log."""
    path = directory / CHECKPOINT
    if path.exists():
        return path.read_bytes()
    if any((directory / FOLDER).iterdir()) or (directory / "tile").exists():
        raise _refused("it holds records but no checkpoint")
    note = sign_checkpoint(signer, 0, EMPTY_ROOT)
    write_whole(directory, CHECKPOINT, note)
    sync_folder(directory)
    sync_folder(directory.parent)
    return note


class _Recovery:
    """One pass over all records."""

    def __init__(self, directory: Path, checkpoint: Checkpoint, note: bytes, pruned: Pruned) -> None:
        self._directory, self._checkpoint, self._note, self._pruned = directory, checkpoint, note, pruned
        self._tree = TileTree()
        self._unwritten: list[Tile] = []
        self._told: list[str] = []

    def run(self) -> Recovered:
        opened: list[Segment] = []
        try:
            current, offset = self._journals(self._bundles(), opened)
            if self._tree.size < self._checkpoint.size:
                raise _refused(f"it holds {self._tree.size} records, its checkpoint signs {self._checkpoint.size}")
        except BaseException:
            for segment in opened:
                os.close(segment.handle)
            raise
        full = [segment for segment in opened if segment is not current]
        journal = Journal(self._directory, self._tree.size, full, current, offset)
        return Recovered(self._tree, journal, self._note, self._unwritten, self._told)

    def _bundles(self) -> int:
        """Hash every bundle under `tile/`; returns how many there are. They were on disk before they stood there."""
        if self._checkpoint.size == 0:
            self._check_root()
        index = 0
        while True:
            path = self._directory / tile_path(ENTRIES, index)
            if not path.exists():
                if index not in self._pruned:
                    return index
                self._absorb(self._kept_hashes(index))
                index += 1
                continue
            data = path.read_bytes()
            records, used = split_bundle(data)
            if len(records) != WIDTH or used != len(data):
                raise _refused(f"bundle {index} is damaged after record {index * WIDTH + len(records)}")
            self._absorb([leaf_hash(record) for record in records])
            index += 1

    def _kept_hashes(self, index: int) -> list[bytes]:
        """The leaf hashes of a bundle that was removed: nothing else can say them, so they must all be there."""
        path = self._directory / tile_path(0, index)
        hashes = path.read_bytes() if path.exists() else b""
        if len(hashes) != WIDTH * 32:
            raise _refused(f"the hashes of bundle {index}, whose records were removed, are missing")
        if (index + 1) * WIDTH > self._checkpoint.size:
            raise _refused(f"its note says that bundle {index} was removed, which no checkpoint signs")
        return [hashes[at : at + 32] for at in range(0, WIDTH * 32, 32)]

    def _journals(self, index: int, opened: list[Segment]) -> tuple[Segment | None, int]:
        """Hash and open the journal files from bundle `index` on; returns the growing one, if any, and its length."""
        found = self._journal_numbers()
        for number in found:
            if number != index:
                raise _refused(f"journal {number} found where {index} must come next")
            segment = Segment(number, os.open(self._directory / journal_path(number), os.O_RDWR | os.O_APPEND))
            opened.append(segment)
            data = (self._directory / journal_path(number)).read_bytes()
            records, used = split_bundle(data)
            self._absorb([leaf_hash(record) for record in records])
            if used != len(data):
                self._cut(segment, used, len(data) - used)
            if len(records) < WIDTH:
                self._set_aside([later for later in found if later > number])
                return segment, used
            index += 1
        return None, 0

    def _journal_numbers(self) -> list[int]:
        names = [path.name for path in (self._directory / FOLDER).iterdir()]
        strange = [name for name in names if not (name.isascii() and name.isdigit())]
        if strange:
            raise _refused(f"journal/ holds {strange[0]!r}, which no ledger wrote")
        return sorted(int(name) for name in names)

    def _cut(self, segment: Segment, used: int, surplus: int) -> None:
        """Remove the piece of a record at the end, unless records the checkpoint signs are missing: keep evidence."""
        if self._tree.size < self._checkpoint.size:
            return
        os.ftruncate(segment.handle, used)
        os.fsync(segment.handle)
        self._told.append(f"{surplus} bytes of a record that was never accepted were cut after {self._tree.size}")

    def _set_aside(self, later: list[int]) -> None:
        """Journal files behind a gap: never acknowledged as durable, kept for people to look at."""
        if not later or self._tree.size < self._checkpoint.size:
            return
        (self._directory / _LOST).mkdir(mode=0o700, exist_ok=True)
        for number in later:
            os.replace(self._directory / journal_path(number), self._directory / _LOST / f"{self._tree.size}-{number}")
        sync_folder(self._directory / _LOST)
        self._told.append(f"{len(later)} journal files after a gap at record {self._tree.size} were moved to lost/")

    def _absorb(self, leaves: list[bytes]) -> None:
        """Into the tree, stopping at the checkpoint's size to compare roots."""
        before = self._checkpoint.size - self._tree.size
        if 0 < before <= len(leaves):
            self._grow(leaves[:before])
            self._check_root()
            leaves = leaves[before:]
        self._grow(leaves)

    def _check_root(self) -> None:
        if self._tree.root() != self._checkpoint.root:
            raise _refused(f"its first {self._checkpoint.size} records are not the ones its checkpoint signs")
        self._unwritten += [tile for tile in self._tree.partial() if not self._compare(tile)]

    def _grow(self, leaves: list[bytes]) -> None:
        self._unwritten += [tile for tile in self._tree.absorb(leaves) if not self._compare(tile)]

    def _compare(self, tile: Tile) -> bool:
        """Is the tile stored as it must be? Tells if not, where the checkpoint needs it."""
        path = self._directory / tile_path(tile.level, tile.index, tile.width)
        if tile.width < WIDTH and not path.exists():
            # An interrupted round may have replaced the partial tile by the full one already.
            path = self._directory / tile_path(tile.level, tile.index)
        stored = path.read_bytes() if path.exists() else None
        if stored is not None and len(stored) == WIDTH * 32:
            stored = stored[: tile.width * 32]
        first_unsigned = (tile.index * WIDTH + tile.width) * WIDTH**tile.level
        if stored != tile.hashes and first_unsigned <= self._checkpoint.size:
            what = "missing" if stored is None else "wrong"
            self._told.append(f"hash tile {tile_path(tile.level, tile.index, tile.width)} was {what}; written anew")
        return stored == tile.hashes
