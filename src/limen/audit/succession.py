"""Which key signs a log after which: the log's own history of keys, so that the first one is enough to verify it.

    directory/keys/<N>      a note, N counting from 1: one key hands over to the next

Each note is signed by both (c2sp.org/signed-note): by the former key, which says whom to believe from now on, and by
the new one, which shows that it was there. It names the size of the log at that moment: a checkpoint of more records by
the former key is not believed any more. Whoever knows any key of the chain can follow it in both directions. What it
cannot show: who stole a key and holds the files can write another continuation of the chain, which only somebody who
knows a later key, or remembers a later checkpoint, will notice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limen.audit.note import (
    Checkpoint,
    NoteError,
    VerifierKey,
    open_checkpoint,
    open_note,
    parse_verifier_key,
    sign_note,
)
from limen.audit.read import load
from limen.core.ports import Signer

FOLDER: Final = "keys"
MOST: Final = 10_000
_HEADER: Final = "limen log key/1"  # no other note of ours begins so
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Succession:
    """From `before` to `after` at record `size`, `at` seconds since the epoch; `why`: planned, emergency, restored."""

    before: VerifierKey
    after: VerifierKey
    size: int
    at: int
    why: str


def hand_over(old: Signer, new: Signer, size: int, at: float, why: str) -> bytes:
    """The note of one succession. Raises NoteError for keys of two names, and what the signers raise."""
    if old.name != new.name:
        raise NoteError("a log keeps its name when its key is replaced")
    before, after = (VerifierKey(one.name, one.public_key).text for one in (old, new))
    text = f"{_HEADER}\n{before}\n{after}\n{size}\n{int(at)}\n{why}\n"
    second = sign_note(new, text).decode().removeprefix(text + "\n")
    return sign_note(old, text) + second.encode()


def read_succession(note: bytes) -> Succession:
    """What a note says, if both of its keys signed it. Raises NoteError."""
    lines = note.decode("utf-8", "replace").split("\n")
    if len(lines) < 8 or lines[0] != _HEADER or lines[6]:
        raise NoteError("is no succession of keys")
    before, after = parse_verifier_key(lines[1]), parse_verifier_key(lines[2])
    for key in (before, after):
        open_note(note, key)
    if before.name != after.name or not _NUMBER.fullmatch(lines[3]) or not _NUMBER.fullmatch(lines[4]):
        raise NoteError("is no succession of keys of one log")
    return Succession(before, after, int(lines[3]), int(lines[4]), lines[5])


def place(number: int) -> str:
    """Where the succession of this number (from 1) is, below the log's directory."""
    return f"{FOLDER}/{number}"


def succession_notes(directory: Path) -> tuple[bytes, ...]:
    """As they are stored, in order. Raises DependencyFault when the disk fails."""
    found: list[bytes] = []
    while len(found) <= MOST and (note := load(directory, place(len(found) + 1))) is not None:
        found.append(note)
    return tuple(found)


def successions(directory: Path) -> list[Succession]:
    """All of a log, in order. Raises NoteError for a chain that is broken, DependencyFault when the disk fails."""
    return chained(succession_notes(directory))


def chained(notes: Iterable[bytes]) -> list[Succession]:
    """What these notes say, each following the one before. Raises NoteError."""
    found: list[Succession] = []
    for note in notes:
        try:
            one = read_succession(note)
        except NoteError as fault:
            raise NoteError(f"{place(len(found) + 1)}: {fault}") from fault
        if found and (found[-1].after != one.before or one.size < found[-1].size):
            raise NoteError(f"{place(len(found) + 1)}: does not follow the one before it")
        found.append(one)
        if len(found) > MOST:
            raise NoteError(f"more than {MOST} keys")
    return found


def leads(chain: Sequence[Succession], before: str, after: str) -> bool:
    """Whether one verifier key was replaced by the other, in one step or several."""
    keys = [chain[0].before.text, *(one.after.text for one in chain)] if chain else []
    return before in keys and after in keys[keys.index(before) + 1 :]


class Trusted:
    """The keys of a log that whoever knows one of them may believe, and until which record each."""

    def __init__(self, directory: Path, key: VerifierKey) -> None:
        """Raises NoteError for a chain of keys that is broken, DependencyFault."""
        chain = successions(directory)
        keys = [chain[0].before, *(one.after for one in chain)] if chain else []
        if key in keys:
            ends: list[int | None] = [*(one.size for one in chain), None]
            self._keys = list(zip(keys, ends, strict=True))
        else:
            self._keys = [(key, None)]  # of no chain: it alone is believed

    @property
    def current(self) -> VerifierKey:
        """The one that signs now."""
        return self._keys[-1][0]

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """All of them, the one that signs now first."""
        return tuple(key for key, _ in reversed(self._keys))

    @property
    def spans(self) -> tuple[tuple[VerifierKey, int | None], ...]:
        """The same, each with the record at which it was replaced."""
        return tuple(reversed(self._keys))

    def open(self, note: bytes) -> Checkpoint:
        """The checkpoint in `note`, by any of the keys within its time. Raises NoteError."""
        return self.signed(note)[0]

    def signed(self, note: bytes) -> tuple[Checkpoint, VerifierKey]:
        """The same, and which of the keys signed it. Raises NoteError."""
        first: NoteError | None = None
        for key, end in reversed(self._keys):
            try:
                checkpoint = open_checkpoint(note, key)
            except NoteError as fault:
                first = first or fault
                continue
            if end is not None and checkpoint.size > end:
                raise NoteError(
                    f"{checkpoint.size} records are signed by a key that was replaced at record {end}: {key.text}"
                )
            return checkpoint, key
        assert first is not None
        raise first
