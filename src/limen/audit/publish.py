"""Bring `tile/` and `checkpoint` up to date with what is on disk: the C2SP layout at rest.

Order is what makes this safe to interrupt at any byte: records first, then the tiles a checkpoint of this size needs,
then the checkpoint; each file appears whole by rename. So everything a checkpoint refers to is there before it is, and
whatever is left half done is done again, with the same bytes, by the next round or the next start.

Partial hash tiles stay until their full tile exists, as the specification asks. Of partial bundles only the newest is
kept, where the specification would keep one for every checkpoint until the bundle is full: they are copies of records,
up to 255 of them for one bundle, and each is a prefix of the next.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from limen.audit.folders import make_folder, sync_folder
from limen.audit.journal import Mark, Segment, journal_path
from limen.audit.note import sign_checkpoint
from limen.audit.read import CHECKPOINT, PRUNED, load
from limen.audit.succession import FOLDER, hand_over, successions
from limen.audit.succession import place as succession_place
from limen.audit.tiles import ENTRIES, MAX_RECORD, WIDTH, Tile, TileTree, tile_path
from limen.core.ports import Signer

DRAFT: Final = "draft"


def write_whole(directory: Path, path: str, data: bytes) -> None:
    """`path` below `directory` holds `data` on disk, or is untouched. Raises OSError."""
    target, draft = directory / path, directory / DRAFT
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
        os.fdatasync(handle)
    finally:
        os.close(handle)
    try:
        os.replace(draft, target)
    except FileNotFoundError:
        make_folder(target.parent)
        os.replace(draft, target)


def write_apart(directory: Path, name: str, data: bytes) -> None:
    """`write_whole` for whoever is not the process that writes the log, which owns the common draft. Raises OSError."""
    draft = directory / f"{name}.draft"
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(handle)
    os.replace(draft, directory / name)
    sync_folder(directory)


class Publisher:
    """Owned by the one thread that syncs. `yielding` is called between files, so that waiters need not wait for all."""

    def __init__(self, directory: Path, signer: Signer, tree: TileTree, unwritten: list[Tile], last: bytes) -> None:
        self._directory, self._signer, self._tree = directory, signer, tree
        self._unwritten = unwritten
        self._written: dict[tuple[int, int], int] = {}
        self._bundle: tuple[int, int] | None = None
        self.size = -1
        self.last = last

    def absorb(self, leaves: list[bytes]) -> None:
        """Leaf hashes of records that are on disk."""
        for start in range(0, len(leaves), WIDTH):
            self._unwritten += self._tree.absorb(leaves[start : start + WIDTH])
            time.sleep(0)  # hashing keeps the interpreter lock: let the event loop have it in between

    def publish(self, mark: Mark, moved: Callable[[Segment], None], yielding: Callable[[], None]) -> None:
        """Make the directory a log of exactly the records absorbed. Raises OSError and what the signer raises."""
        for segment in mark.full:
            self._move(segment)
            moved(segment)
        while self._unwritten:
            tile = self._unwritten[0]
            write_whole(self._directory, tile_path(tile.level, tile.index, tile.width), tile.hashes)
            if tile.width == WIDTH:
                self._drop_partials(tile.level, tile.index)
            self._unwritten.pop(0)
            yielding()
        for tile in self._tree.partial():
            if self._written.get((tile.level, tile.index)) != tile.width:
                write_whole(self._directory, tile_path(tile.level, tile.index, tile.width), tile.hashes)
                self._written[tile.level, tile.index] = tile.width
                yielding()
        bundle = self._write_bundle(mark)
        yielding()
        self._sign()
        self._supersede(bundle)

    @property
    def name(self) -> str:
        """Of the log and of its key."""
        return self._signer.name

    def succeed(self, signer: Signer, why: str) -> None:
        """Hand over to another key, which signs the log as it is now. Until the note of it is on disk whole, nothing
        has changed. Raises OSError, NoteError, DependencyFault."""
        number = len(successions(self._directory)) + 1
        size, root, pruned = self._tree.size, self._tree.root(), load(self._directory, PRUNED)
        note = hand_over(self._signer, signer, size, root, time.time(), why, pruned)
        write_whole(self._directory, succession_place(number), note)
        sync_folder(self._directory / FOLDER)
        self._signer = signer
        self._sign()

    def _sign(self) -> None:
        note = sign_checkpoint(self._signer, self._tree.size, self._tree.root())
        write_whole(self._directory, CHECKPOINT, note)
        sync_folder(self._directory)
        self.size, self.last = self._tree.size, note

    def _move(self, segment: Segment) -> None:
        """A full journal file becomes an immutable bundle."""
        target = self._directory / tile_path(ENTRIES, segment.index)
        make_folder(target.parent)
        os.rename(self._directory / journal_path(segment.index), target)
        self._drop_partials(ENTRIES, segment.index)

    def _write_bundle(self, mark: Mark) -> tuple[int, int] | None:
        """The partial bundle of this size: a copy of the journal's whole records."""
        width = mark.size % WIDTH
        if mark.current is None or not width:
            return None
        bundle = (mark.current.index, width)
        if bundle != self._bundle:
            data = os.pread(mark.current.handle, mark.offset, 0)
            if len(data) != mark.offset:
                raise OSError(f"journal {mark.current.index} is shorter than what was written to it")
            write_whole(self._directory, tile_path(ENTRIES, *bundle), data)
        return bundle

    def _supersede(self, bundle: tuple[int, int] | None) -> None:
        """Remove the partial bundle that the one just published continues."""
        older, self._bundle = self._bundle, bundle
        if older is not None and bundle is not None and older != bundle and older[0] == bundle[0]:
            (self._directory / tile_path(ENTRIES, *older)).unlink(missing_ok=True)

    def _drop_partials(self, level: int | str, index: int) -> None:
        folder = (self._directory / tile_path(level, index, 1)).parent
        if folder.exists():
            shutil.rmtree(folder)
        if isinstance(level, int):
            self._written.pop((level, index), None)

    def probe(self) -> None:
        """Can a record of any size be written again? Raises OSError."""
        draft = self._directory / DRAFT
        try:
            draft.write_bytes(bytes(MAX_RECORD + 2))
        finally:
            draft.unlink(missing_ok=True)
