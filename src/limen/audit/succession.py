"""Which key signs a log after which: the log's own history of keys, so that the first one is enough to verify it.

    directory/keys/<N>      a note, N counting from 1: one key hands over to the next

Each note is signed by both (c2sp.org/signed-note): by the former key, which says whom to believe from now on, and by
the new one, which shows that it was there. It holds what the former key leaves behind: size and root of the log, and
which note about removed records there was. From then on the former key signs nothing: no checkpoint, however small, is
the present one, and no other note about removed records is believed. It only vouches for checkpoints somebody kept from
its own time. So who stole a key that was replaced can neither rewrite nor shorten the log, nor have records missing on
purpose. Whoever knows any key of the chain can follow it in both directions. What it cannot show: who stole a key and
holds the files can write another continuation of the chain, which only somebody who knows a later key, or remembers a
later checkpoint, will notice.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from limen.audit.note import (
    Checkpoint,
    NoteError,
    VerifierKey,
    decode_base64,
    open_checkpoint,
    open_note,
    parse_verifier_key,
    sign_note,
)
from limen.audit.read import CHECKPOINT, load
from limen.core.ports import Signer

FOLDER: Final = "keys"
MOST: Final = 10_000
_HEADER: Final = "limen log key/2"  # no other note of ours begins so
_ATTEMPTS: Final = 5
_DIGEST: Final = re.compile(r"[0-9a-f]{64}|-")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Succession:
    """From `before` to `after` at record `size`, when the log's root was `root` and `pruned` the digest of its note
    about removed records (see `digest_of`). `at`: seconds since the epoch; `why`: planned, emergency, restored."""

    before: VerifierKey
    after: VerifierKey
    size: int
    root: bytes
    pruned: str
    at: int
    why: str


def digest_of(pruned: bytes | None) -> str:
    """Of a note about removed records: SHA-256 in hexadecimal, or that there is none."""
    return "-" if pruned is None else sha256(pruned).hexdigest()


def hand_over(
    old: Signer, new: Signer, size: int, root: bytes, at: float, why: str, pruned: bytes | None = None
) -> bytes:
    """The note of one succession. Raises NoteError for keys of two names, and what the signers raise."""
    if old.name != new.name:
        raise NoteError("a log keeps its name when its key is replaced")
    before, after = (VerifierKey(one.name, one.public_key).text for one in (old, new))
    left = f"{size}\n{base64.b64encode(root).decode()}\n{digest_of(pruned)}"
    text = f"{_HEADER}\n{before}\n{after}\n{left}\n{int(at)}\n{why}\n"
    second = sign_note(new, text).decode().removeprefix(text + "\n")
    return sign_note(old, text) + second.encode()


def read_succession(note: bytes) -> Succession:
    """What a note says, if both of its keys signed it. Raises NoteError."""
    lines = note.decode("utf-8", "replace").split("\n")
    if len(lines) < 10 or lines[0] != _HEADER or lines[8]:
        raise NoteError("is no succession of keys")
    before, after = parse_verifier_key(lines[1]), parse_verifier_key(lines[2])
    for key in (before, after):
        open_note(note, key)
    size, root, pruned, at, why = lines[3:8]
    if before.name != after.name or not _NUMBER.fullmatch(size) or not _NUMBER.fullmatch(at):
        raise NoteError("is no succession of keys of one log")
    if len(decode_base64(root)) != 32 or not _DIGEST.fullmatch(pruned):
        raise NoteError("does not say what the former key leaves behind")
    return Succession(before, after, int(size), decode_base64(root), pruned, int(at), why)


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
        if one.after in (one.before, *(earlier.before for earlier in found)):
            raise NoteError(f"{place(len(found) + 1)}: goes back to a key that was replaced")
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

    def __init__(self, chain: Sequence[Succession], key: VerifierKey) -> None:
        keys = [chain[0].before, *(one.after for one in chain)] if chain else []
        if key in keys:
            ends: list[int | None] = [*(one.size for one in chain), None]
            self._keys = list(zip(keys, ends, strict=True))
        else:
            self._keys = [(key, None)]  # of no chain: it alone is believed
        self._last = chain[-1] if key in keys else None

    @property
    def current(self) -> VerifierKey:
        """The one that signs now."""
        return self._keys[-1][0]

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """All of them, the one that signs now first."""
        return tuple(key for key, _ in reversed(self._keys))

    @property
    def pruned(self) -> str:
        """Digest of the one note about removed records that a former key signed and that still counts; "" for none."""
        return "" if self._last is None else self._last.pruned

    def earlier(self, note: bytes) -> Checkpoint:
        """A checkpoint somebody kept, by any of the keys within its time. Raises NoteError."""
        checkpoint, key = self._signed(note)
        end = dict(self._keys)[key]
        if end is not None and checkpoint.size > end:
            text = f"{checkpoint.size} records are signed by a key that was replaced at record {end}: {key.text}"
            raise NoteError(text)
        return checkpoint

    def present(self, note: bytes) -> tuple[Checkpoint, VerifierKey]:
        """The checkpoint the log has now, and which key signed it: the newest; or the one before it, if the log was
        left exactly as it was handed over. Raises NoteError."""
        checkpoint, key = self._signed(note)
        last = self._last
        if key == self.current:
            return checkpoint, key
        if last is not None and key == last.before and (checkpoint.size, checkpoint.root) == (last.size, last.root):
            return checkpoint, key
        end = dict(self._keys)[key]
        raise NoteError(f"{checkpoint.size} records are signed by a key that was replaced at record {end}: {key.text}")

    def _signed(self, note: bytes) -> tuple[Checkpoint, VerifierKey]:
        first: NoteError | None = None
        for key in self.keys:
            try:
                return open_checkpoint(note, key), key
            except NoteError as fault:
                first = first or fault
        assert first is not None
        raise first


class Signed(NamedTuple):
    """A log as it is signed now: its keys, its checkpoint, which of the keys signed that, and the note itself."""

    trusted: Trusted
    checkpoint: Checkpoint
    key: VerifierKey
    note: bytes


def trusted(directory: Path, key: VerifierKey) -> Trusted:
    """Raises NoteError for a chain of keys that is broken, DependencyFault."""
    return Trusted(successions(directory), key)


def signed(directory: Path, key: VerifierKey) -> Signed:
    """What `key`, or one it led to, signed last. Raises NoteError when there is nothing that may be believed,
    DependencyFault."""
    for _ in range(_ATTEMPTS):
        notes = succession_notes(directory)
        known, note = Trusted(chained(notes), key), load(directory, CHECKPOINT)
        if note is None:
            raise NoteError("there is none")
        try:
            return Signed(known, *known.present(note), note)
        except NoteError:
            if succession_notes(directory) == notes:  # else a key was replaced between the two readings: look again
                raise
    raise NoteError("keys are replaced faster than it can be read")
