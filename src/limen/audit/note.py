"""Signed notes, checkpoints and verifier keys: c2sp.org/signed-note and c2sp.org/tlog-checkpoint, Ed25519 only.

A checkpoint says "the log named origin has this many records and this root". It is believed only if the one key the
reader was given signed it, and only for the origin that key is named after: a checkpoint of another log is refused
even when the same secret key made it.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from limen.core.ports import Signer

_ED25519: Final = b"\x01"
_MAX_NOTE: Final = 64 << 10
_MAX_SIGNATURES: Final = 64
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_NAME: Final = re.compile(r"[^\s+\x00-\x1f\x7f]{1,255}")


class NoteError(ValueError):
    """A note, checkpoint or key that must not be believed. The message says why."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A named Ed25519 public key. `text` is what people exchange: name+hash+key."""

    name: str
    public_key: bytes

    @property
    def id(self) -> bytes:
        return key_id(self.name, self.public_key)

    @property
    def text(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.public_key).decode()}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head."""

    origin: str
    size: int
    root: bytes


def key_id(name: str, public_key: bytes) -> bytes:
    """The four bytes that name a key in a signature line. Raises NoteError for a name that notes cannot carry."""
    if not _NAME.fullmatch(name):
        raise NoteError("a key name is 1 to 255 characters without spaces, plus signs or control characters")
    if len(public_key) != 32:
        raise NoteError("an Ed25519 public key is 32 bytes")
    return sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:4]


def parse_verifier_key(text: str) -> VerifierKey:
    """name+hash+key to a key. Raises NoteError unless all three parts agree."""
    parts = text.strip().split("+", 2)
    if len(parts) != 3:
        raise NoteError("a verifier key reads name+hash+key")
    name, stated, encoded = parts
    raw = decode_base64(encoded)
    if len(raw) != 33 or raw[:1] != _ED25519:
        raise NoteError("the verifier key is not an Ed25519 key")
    key = VerifierKey(name, raw[1:])
    if stated != key.id.hex():
        raise NoteError("the verifier key's hash does not belong to its name and key")
    return key


def decode_base64(text: str) -> bytes:
    """RFC 4648 section 4, one spelling only. Raises NoteError."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as fault:
        raise NoteError("not base64") from fault
    if base64.b64encode(raw).decode() != text:
        raise NoteError("not canonical base64")
    return raw


def sign_checkpoint(signer: Signer, size: int, root: bytes) -> bytes:
    """The signed checkpoint; the signer's name is the origin. Raises NoteError, and what the signer raises."""
    return sign_note(signer, f"{signer.name}\n{size}\n{base64.b64encode(root).decode()}\n")


def sign_note(signer: Signer, text: str) -> bytes:
    """`text`, which ends with a newline, as a note signed by this key. Raises NoteError, and what the signer raises."""
    mark = key_id(signer.name, signer.public_key)
    signature = base64.b64encode(mark + signer.sign(text.encode())).decode()
    return f"{text}\n— {signer.name} {signature}\n".encode()


def open_note(note: bytes, key: VerifierKey) -> str:
    """The text of a note that `key` signed. Raises NoteError otherwise."""
    text, lines = _split_note(note)
    _check_signatures(text, lines, key)
    return text


def open_checkpoint(note: bytes, key: VerifierKey) -> Checkpoint:
    """The checkpoint in `note` if `key` signed it for the log `key` is named after. Raises NoteError otherwise."""
    text = open_note(note, key)
    head = text.split("\n")[:-1]
    if len(head) < 3 or not all(head):
        raise NoteError("the checkpoint has fewer than three lines, or an empty one")
    origin, size, root = head[:3]
    if origin != key.name:
        raise NoteError(f"the checkpoint is of the log {origin!r}, not of {key.name!r}")
    if not _SIZE.fullmatch(size):
        raise NoteError("the checkpoint's size is not a plain number")
    raw = decode_base64(root)
    if len(raw) != 32:
        raise NoteError("the checkpoint's root is not a SHA-256 hash")
    return Checkpoint(origin, int(size), raw)


def _split_note(note: bytes) -> tuple[str, list[str]]:
    """Note text (with its last newline) and signature lines."""
    if len(note) > _MAX_NOTE:
        raise NoteError("the note is too large")
    try:
        whole = note.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise NoteError("the note is not UTF-8") from fault
    if any(ord(character) < 0x20 and character != "\n" for character in whole):
        raise NoteError("the note holds control characters")
    text, blank, signatures = whole.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise NoteError("the note carries no signature")
    lines = signatures[:-1].split("\n")
    if len(lines) > _MAX_SIGNATURES:
        raise NoteError("the note carries too many signatures")
    return text + "\n", lines


def _check_signatures(text: str, lines: list[str], key: VerifierKey) -> None:
    """Other keys' lines (witnesses) are skipped; a line of this key that does not verify spoils the note."""
    found = False
    for line in lines:
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != "—":
            raise NoteError("a signature line is malformed")
        raw = decode_base64(parts[2])
        if parts[1] != key.name or raw[:4] != key.id:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public_key).verify(raw[4:], text.encode())
        except (InvalidSignature, ValueError) as fault:
            raise NoteError("the signature does not verify") from fault
        found = True
    if not found:
        raise NoteError(f"not signed by the key {key.name}+{key.id.hex()}")
