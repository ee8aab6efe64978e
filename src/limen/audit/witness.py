"""One statement over all logs: how long each was, with which root, chained to the statement before.

A log alone cannot show that it was set back together with its checkpoint. Whoever keeps one of these statements can: a
log that is named in it and does not continue from there was rolled back or rewritten, and a log that is missing is seen
to be. It is a signed note (c2sp.org/signed-note) with a first line of its own.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from limen.audit.logs import Head
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
from limen.audit.succession import chained, leads
from limen.audit.tree import EMPTY_ROOT, check_consistency
from limen.core.ports import Signer
from limen.protocol.jsonrpc import canonical

HEADER: Final = "limen.audit/witness/1\n"


class RolledBack(Exception):
    """A log does not continue what was witnessed of it. The message names it and says how."""


class Seen(NamedTuple):
    """One log as witnessed: its verifier key (name+hash+key), how many records, their root."""

    key: str
    size: int
    root: bytes

    @property
    def checkpoint(self) -> Checkpoint:
        """The same, as an earlier checkpoint to hold the log to."""
        return Checkpoint(parse_verifier_key(self.key).name, self.size, self.root)


@dataclass(frozen=True, slots=True)
class Statement:
    """`number` counts from 0; `previous` is the SHA-256 of the note before, in hexadecimal; `at` seconds since the
    epoch. `logs` by name."""

    number: int = 0
    previous: str = ""
    at: float = 0.0
    logs: tuple[tuple[str, Seen], ...] = ()

    def seen(self, name: str) -> Seen | None:
        """What is said of one log."""
        return dict(self.logs).get(name)


def sign_statement(signer: Signer, statement: Statement) -> bytes:
    """The signed note. Raises NoteError, and what the signer raises."""
    rows = [
        {"key": seen.key, "size": seen.size, "root": base64.b64encode(seen.root).decode()} for _, seen in statement.logs
    ]
    body = {"number": statement.number, "previous": statement.previous, "at": statement.at, "logs": rows}
    return sign_note(signer, f"{HEADER}{canonical(body).decode()}\n")


def read_statement(note: bytes, key: VerifierKey) -> Statement:
    """What a note says, if `key` signed it as a statement over logs. Raises NoteError."""
    text = open_note(note, key)
    if not text.startswith(HEADER):
        raise NoteError("is no statement over logs")
    line = text[len(HEADER) :].removesuffix("\n")
    try:
        data: Any = orjson.loads(line)
        if canonical(data).decode() != line or data.keys() != {"number", "previous", "at", "logs"}:
            raise ValueError
        rows = [Seen(row["key"], row["size"], decode_base64(row["root"])) for row in data["logs"]]
        names = [parse_verifier_key(seen.key).name for seen in rows]
        sound = all(type(seen.size) is int and seen.size >= 0 and len(seen.root) == 32 for seen in rows)
        if not sound or len(set(names)) != len(names) or type(data["number"]) is not int:
            raise ValueError
        found = Statement(
            data["number"], str(data["previous"]), float(data["at"]), tuple(zip(names, rows, strict=True))
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise NoteError("the statement over logs is not well made") from None
    return found


def advance(before: bytes, key: VerifierKey, heads: Sequence[Head], now: float) -> Statement:
    """The next statement: every log as far as its head proves that it continues the statement `before` (b"" for the
    first). A log nobody told anything new of stays as it was.

    Raises RolledBack when a head contradicts what was said, NoteError when `before` or a head is not signed.
    """
    last = read_statement(before, key) if before else None
    logs = dict(last.logs) if last is not None else {}
    for head in heads:
        if head.note:
            logs[head.name] = following(head, logs.get(head.name))
    number = 0 if last is None else last.number + 1
    previous = sha256(before).hexdigest() if before else ""
    return Statement(number, previous, now, tuple(sorted(logs.items())))


def following(head: Head, seen: Seen | None) -> Seen:
    """What is to be stated of a log next, after `seen`. Raises RolledBack, NoteError."""
    checkpoint = open_checkpoint(head.note, parse_verifier_key(head.key))
    if checkpoint.origin != head.name:
        raise NoteError(f"the head of {head.name} is a checkpoint of {checkpoint.origin}")
    present = Seen(head.key, checkpoint.size, checkpoint.root)
    if seen is None:
        return present
    if seen.key != head.key and not leads(chained(head.chain), seen.key, head.key):
        raise RolledBack(f"{head.name} is signed by another key than it was")
    if checkpoint.size < seen.size:
        raise RolledBack(f"{head.name} was rolled back: {seen.size} records were witnessed, it has {checkpoint.size}")
    if seen.size == 0 and seen.root == EMPTY_ROOT:
        return present
    if checkpoint.size == seen.size:
        hashes: tuple[bytes, ...] = ()
    elif head.since != seen.size:
        return seen  # told before the last statement was made: next time
    else:
        hashes = head.hashes
    if not check_consistency(seen.size, checkpoint.size, seen.root, checkpoint.root, hashes):
        raise RolledBack(f"{head.name} was rewritten: it does not continue the {seen.size} records that were witnessed")
    return present
