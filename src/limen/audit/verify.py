"""Offline verification: only the files of a log and a public key, nothing the writer says about itself.

1. The checkpoint is signed by the given key or, where it was replaced, by the newest one its chain of successions
   leads to (see `succession`), for the log that key is named after.
2. Every record below its size is there, and hashes, in order, to the signed root (RFC 6962).
3. Every stored hash tile is what the records say. Level 0 is also what names the first bad record: without the key a
   forger may rewrite tiles, but then the tiles above, and in the end the root, name the range.
4. The journal's copy of records that are also published agrees.
5. A bundle may be missing only where a note the newest key vouches for says that it was removed, and why: then the
   stored leaf hashes stand in, and must lead to the signed root like all others.
6. With `at_least`, a checkpoint seen earlier: this log continues it. Nothing else can notice that a whole directory was
   put back to an older state, because an old checkpoint stays a valid one.

Records after the checkpoint are not signed yet: they are counted in `tail`, not judged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from limen.audit.journal import journal_path
from limen.audit.note import Checkpoint, NoteError, VerifierKey, parse_verifier_key
from limen.audit.pruned import Pruned, known_pruned
from limen.audit.read import CHECKPOINT, PRUNED, bundle, load, read
from limen.audit.succession import Signed, signed, trusted
from limen.audit.tiles import ENTRIES, WIDTH, Tile, TileTree, split_bundle, tile_path
from limen.audit.tree import leaf_hash
from limen.core.faults import ConfigFault, DependencyFault

_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `size` and `root` are the checkpoint's; `first_bad` is None when no record can be named; of
    `pruned` records only the hashes are left, as the signed note says."""

    ok: bool
    size: int = 0
    root: bytes = b""
    first_bad: int | None = None
    problem: str = ""
    tail: int = 0
    pruned: int = 0


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Records first..last cannot all be what was signed, or a stored hash over them is not."""

    first: int
    last: int
    text: str


def verify(directory: Path, public_key_text: str, *, at_least: bytes | Checkpoint | None = None) -> Report:
    """Check a log against a verifier key (name+hash+key) and, if given, against an earlier checkpoint: signed, or one
    that the caller has reason to believe.

    Tampering is a Report, never an exception. Raises ConfigFault when the key text is not one, DependencyFault when a
    file is there but cannot be read.
    """
    try:
        key = parse_verifier_key(public_key_text)
    except NoteError as fault:
        raise ConfigFault(str(fault), "verifier key") from fault
    try:
        known = trusted(directory, key)
    except NoteError as fault:
        return Report(ok=False, problem=f"the log's chain of keys must not be believed: {fault}")
    try:
        earlier = known.earlier(at_least) if isinstance(at_least, bytes) else at_least
    except NoteError as fault:
        return Report(ok=False, problem=f"the earlier checkpoint must not be believed: {fault}")
    for _ in range(_ATTEMPTS):
        before = load(directory, PRUNED)
        report = _present(directory, key, earlier)
        if report.ok or load(directory, PRUNED) == before:  # else what it missed may have been removed meanwhile
            break
    return report


def _present(directory: Path, key: VerifierKey, earlier: Checkpoint | None) -> Report:
    """The log as it is now."""
    try:
        found, last = present(directory, key)
    except NoteError as fault:
        return Report(ok=False, problem=f"the checkpoint must not be believed: {fault}")
    try:
        pruned = known_pruned(directory, found.trusted)
    except NoteError as fault:
        return Report(ok=False, problem=f"the note about removed records must not be believed: {fault}")
    report = _Verification(directory, found.checkpoint, last, earlier, pruned).run()
    if not report.ok:
        return report
    return replace(report, tail=sum(1 for _ in read(directory, found.checkpoint.size)))


def present(directory: Path, key: VerifierKey) -> tuple[Signed, bytes | None]:
    """The log as it is signed now, and the partial bundle of its checkpoint, which a running writer replaces: read
    together or again. Raises NoteError, DependencyFault."""
    for _ in range(_ATTEMPTS):
        found = signed(directory, key)
        index, width = divmod(found.checkpoint.size, WIDTH)
        last = load(directory, tile_path(ENTRIES, index, width), tile_path(ENTRIES, index)) if width else None
        if last is not None or not width or load(directory, CHECKPOINT) == found.note:
            return found, last
    raise DependencyFault("audit", "the log changes faster than it can be read; verify a copy")


class _Verification:
    """One pass over the log, in constant memory."""

    def __init__(
        self,
        directory: Path,
        checkpoint: Checkpoint,
        last: bytes | None,
        earlier: Checkpoint | None,
        pruned: Pruned,
    ) -> None:
        self._directory, self._checkpoint, self._last, self._earlier = directory, checkpoint, last, earlier
        self._pruned, self._removed = pruned, 0
        self._tree = TileTree()
        self._doubts: list[_Doubt] = []
        self._copies: list[_Doubt] = []
        self._continues = earlier is None or earlier.size == 0

    def run(self) -> Report:
        size = self._checkpoint.size
        if self._earlier is not None and self._earlier.size > size:
            lost = f"rolled back: a checkpoint of {self._earlier.size} records was seen, this one signs {size}"
            return self._bad(size, lost)
        for index in range(-(-size // WIDTH)):
            missing = self._bundle(index, min(WIDTH, size - index * WIDTH))
            if missing is not None:
                return self._bad(*self._earliest([*self._doubts, missing]))
        for tile in self._tree.partial():
            self._compare(tile)
        return self._judge()

    def _judge(self) -> Report:
        """All records were there: do they make the signed root, and does everything else agree?"""
        if self._tree.root() != self._checkpoint.root:
            if self._doubts:
                return self._bad(*self._earliest(self._doubts))
            agree = "records and hash tiles agree with each other but not with the signed root: all were rewritten, "
            return self._bad(None, agree + "or the checkpoint is of another log")
        if not self._continues:
            return self._bad(None, "rewritten: this log does not continue the checkpoint seen earlier")
        if self._doubts:
            first, text = self._earliest(self._doubts)
            return self._bad(first, f"{text}; the records agree with the signed root, so the stored hash is wrong")
        if self._copies:
            return self._bad(*self._earliest(self._copies))
        return Report(ok=True, size=self._checkpoint.size, root=self._checkpoint.root, pruned=self._removed)

    def _bad(self, first: int | None, problem: str) -> Report:
        return Report(False, self._checkpoint.size, self._checkpoint.root, first, problem)

    @staticmethod
    def _earliest(doubts: list[_Doubt]) -> tuple[int, str]:
        """The doubt that ends first: a wide one, from a tile above, never hides the narrow one that caused it."""
        least = min(doubts, key=lambda doubt: (doubt.last, -doubt.first))
        return least.first, least.text

    def _bundle(self, index: int, width: int) -> _Doubt | None:
        """Hash one bundle. Returns the doubt that ends verification when records are missing."""
        start = index * WIDTH
        data = load(self._directory, tile_path(ENTRIES, index)) if width == WIDTH else self._last
        if data is None and width == WIDTH and index in self._pruned:
            return self._without(index)
        if data is None:
            # Whatever other copy there is serves to name the first record that is really gone.
            missing = f"{tile_path(ENTRIES, index, width)}, records {start} to {start + width - 1}, is missing"
            self._copies.append(_Doubt(start, start + width - 1, missing))
            data = bundle(self._directory, index)
        if data is None:
            return self._copies[-1]
        records, used = split_bundle(data, width)
        leaves = [leaf_hash(record) for record in records]
        self._compare_leaves(index, width, leaves)
        if len(records) < width:
            torn = start + len(records)
            return _Doubt(torn, start + width - 1, f"bundle {index} ends before record {torn}, {width} are signed")
        if used != len(data) and (width == WIDTH or len(split_bundle(data)[0]) < WIDTH):
            self._copies.append(_Doubt(start + width, start + width, f"bundle {index} holds more than {width} records"))
        self._compare_journal(index, leaves)
        self._grow(leaves)
        return None

    def _without(self, index: int) -> _Doubt | None:
        """A bundle that was removed on purpose: its leaf hashes go into the tree as they are stored."""
        first, hashes = index * WIDTH, self._stored(0, index, WIDTH)
        if not hashes:
            text = f"the hashes of records {first} to {first + WIDTH - 1}, which were removed, are missing"
            return _Doubt(first, first + WIDTH - 1, text)
        self._removed += WIDTH
        self._grow([hashes[at : at + 32] for at in range(0, WIDTH * 32, 32)])
        return None

    def _grow(self, leaves: list[bytes]) -> None:
        """Into the tree, stopping at the earlier checkpoint's size to compare roots."""
        if self._earlier is not None:
            before = self._earlier.size - self._tree.size
            if 0 < before <= len(leaves):
                self._absorb(leaves[:before])
                self._continues = self._tree.root() == self._earlier.root
                leaves = leaves[before:]
        self._absorb(leaves)

    def _absorb(self, leaves: list[bytes]) -> None:
        for tile in self._tree.absorb(leaves):
            self._compare(tile)

    def _compare_leaves(self, index: int, width: int, leaves: list[bytes]) -> None:
        """Name the first record whose hash is not the stored one."""
        stored = self._stored(0, index, width)
        for place, leaf in enumerate(leaves):
            if stored[place * 32 : place * 32 + 32] not in (leaf, b""):
                number = index * WIDTH + place
                self._doubts.append(_Doubt(number, number, f"record {number} does not match its stored hash"))
                return

    def _compare(self, tile: Tile) -> None:
        """Name the records below the first hash that differs from the stored one."""
        stored = self._stored(tile.level, tile.index, tile.width)
        if stored == tile.hashes:
            return
        name = tile_path(tile.level, tile.index, tile.width)
        place = next(
            place for place in range(tile.width) if stored[place * 32 :][:32] != tile.hashes[place * 32 :][:32]
        )
        span = WIDTH**tile.level
        first = (tile.index * WIDTH + place) * span
        what = "does not match" if stored else "is missing for"
        self._doubts.append(_Doubt(first, first + span - 1, f"{name} {what} records {first} to {first + span - 1}"))

    def _stored(self, level: int, index: int, width: int) -> bytes:
        """A stored tile, or the start of the full tile that replaced it; empty when it is missing or too short."""
        data = load(self._directory, tile_path(level, index, width), tile_path(level, index))
        return data[: width * 32] if data is not None and len(data) in (width * 32, WIDTH * 32) else b""

    def _compare_journal(self, index: int, leaves: list[bytes]) -> None:
        """The journal's copy, which `read` shows, must be the published one."""
        data = load(self._directory, journal_path(index))
        if data is None:
            return
        copies = [leaf_hash(record) for record in split_bundle(data, len(leaves))[0]]
        for place, leaf in enumerate(leaves):
            if place >= len(copies) or copies[place] != leaf:
                number = index * WIDTH + place
                text = f"the journal's copy of record {number} is not the signed one"
                self._copies.append(_Doubt(number, number, text))
                return
