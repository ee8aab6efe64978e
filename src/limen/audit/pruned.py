"""Which records were removed on purpose: a signed note beside the checkpoint.

It names whole bundles. Their hash tiles stay, so that the checkpoint, proofs for everything else and consistency still
verify (c2sp.org/tlog-tiles, pruning). A bundle that is missing and not named here was lost or taken. The note says what
may be missing, not what is: between signing it and removing the last file both are true of a sound log. It is signed by
the key that signs the log now; one by a former key counts only as that key left it (see `succession`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from limen.audit.note import NoteError, VerifierKey, open_note, sign_note
from limen.audit.read import PRUNED, load, read
from limen.audit.succession import Trusted, digest_of, trusted
from limen.audit.tiles import WIDTH
from limen.core.faults import DependencyFault
from limen.core.ports import Signer
from limen.protocol.jsonrpc import canonical

HEADER: Final = "limen.audit/pruned/1\n"


@dataclass(frozen=True, slots=True)
class Gone:
    """Bundles first to last - 1, removed by these people at `at` (seconds since the epoch)."""

    first: int
    last: int
    at: float
    by: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """Everything that was removed of one log, in order, nothing twice."""

    gone: tuple[Gone, ...] = ()

    def __contains__(self, bundle: object) -> bool:
        return isinstance(bundle, int) and self.until(bundle) > bundle

    def until(self, bundle: int) -> int:
        """The first bundle from this one on that was not removed."""
        place = bisect_right(self.gone, bundle, key=lambda one: one.first) - 1
        while 0 <= place < len(self.gone) and self.gone[place].first <= bundle < self.gone[place].last:
            bundle, place = self.gone[place].last, place + 1
        return bundle

    def with_more(self, gone: Gone) -> Pruned:
        """These too. What was removed next to it by the same people for the same reason is one range with it.

        Raises ValueError when it is removed already, or names nothing.
        """
        if not 0 <= gone.first < gone.last or any(one.first < gone.last and gone.first < one.last for one in self.gone):
            raise ValueError(f"bundles {gone.first} to {gone.last - 1} cannot be removed again")
        merged = list[Gone]()
        for one in sorted((*self.gone, gone), key=lambda one: one.first):
            before = merged[-1] if merged else None
            if before is not None and before.last == one.first and (before.by, before.reason) == (one.by, one.reason):
                merged[-1] = Gone(before.first, one.last, max(before.at, one.at), one.by, one.reason)
            else:
                merged.append(one)
        return Pruned(tuple(merged))


def sign_pruned(signer: Signer, pruned: Pruned) -> bytes:
    """The signed note. Raises NoteError, and what the signer raises."""
    rows = [
        {"first": one.first, "last": one.last, "at": one.at, "by": [*one.by], "reason": one.reason}
        for one in pruned.gone
    ]
    body = canonical({"log": signer.name, "gone": rows}).decode()
    return sign_note(signer, f"{HEADER}{body}\n")


def open_pruned(note: bytes, key: VerifierKey) -> Pruned:
    """What a note says, if `key` signed it about the log it is named after. Raises NoteError."""
    text = open_note(note, key)
    if not text.startswith(HEADER):
        raise NoteError("is no note about removed records")
    line = text[len(HEADER) :].removesuffix("\n")
    try:
        data: Any = orjson.loads(line)
        if canonical(data).decode() != line or data["log"] != key.name or data.keys() != {"log", "gone"}:
            raise ValueError
        found = Pruned()
        for row in data["gone"]:
            first, last, at, by, reason = row["first"], row["last"], row["at"], row["by"], row["reason"]
            texts = type(by) is list and all(type(one) is str for one in (*by, reason))
            if type(first) is not int or type(last) is not int or type(at) not in (int, float) or not texts:
                raise ValueError
            found = found.with_more(Gone(first, last, at, tuple(by), reason))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise NoteError("the note about removed records is not well made") from None
    return found


def known_pruned(directory: Path, trusted: Trusted) -> Pruned:
    """What was removed of the log in `directory`; nothing if there is no note. Raises NoteError, DependencyFault."""
    note = load(directory, PRUNED)
    if note is None:
        return Pruned()
    if digest_of(note) != trusted.pruned:
        return open_pruned(note, trusted.current)
    refused = NoteError("no key may sign it")
    for key in trusted.keys:
        try:
            return open_pruned(note, key)
        except NoteError as fault:
            refused = fault
    raise refused


def read_on(directory: Path, key: VerifierKey, start: int, signed: int) -> Iterator[tuple[int, bytes]]:
    """`read`, for who must miss nothing, and comes back for more: it ends before a gap. Only where `start` is in one
    that a note `key` vouches for says was made on purpose is it passed over; else, and where there are fewer than
    `signed` records, raises DependencyFault."""
    expected = start
    for index, record in read(directory, start):
        if index > expected:
            if expected > start:
                return
            _removed(directory, key, start, index)
        yield index, record
        expected = index + 1
    if expected == start < signed:
        _removed(directory, key, start, signed)


def _removed(directory: Path, key: VerifierKey, first: int, end: int) -> None:
    try:
        if known_pruned(directory, trusted(directory, key)).until(first // WIDTH) * WIDTH >= end:
            return
        why = "and no signed note says that they were removed"
    except NoteError as fault:
        why = f"and the note about removed records must not be believed: {fault}"
    raise DependencyFault("audit", f"records from {first} on are not there, {why}")
