"""Decisions as signed records, and seals on everything stored beside them.

A decision is one line of canonical JSON under a header, signed as a note (c2sp.org/signed-note, Ed25519, RFC 8032):
whoever has the public key can check it without us. Each names the digest of the one before it about the same
definition, so none can be taken out of the middle.

A seal is an HMAC-SHA256 (RFC 2104) over a row and the key it is stored under. Its secret is derived from the signing
key, so only who can sign can write rows that are believed. It covers what no decision covers (what is announced, what
is withheld) and makes checking fifty thousand rows a matter of milliseconds.

What neither can show: a whole database put back as it once was. The log that follows the catalog shows that.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from limen.core.ports import Signer
from limen.protocol.jsonrpc import canonical

HEADER: Final = "limen.catalog/decision/1\n"  # a note of any other kind by the same key is no decision
ACTS: Final = ("approve", "vote", "reject", "rollback")
FORCE: Final = ("approve", "rollback")  # acts that put a version into service
_SEALED: Final = b"\x01"  # no row starts so: they are JSON, text or numbers
_MAC: Final = 32
_SECRET: Final = b"limen.catalog/seal/1\n"
_DASH: Final = "— "
_SIGNATURE: Final = f"\n\n{_DASH}"


class Unattested(ValueError):
    """A decision or row that must not be believed. The message says why."""


class Decision(NamedTuple):
    """Who decided what about which digest of which definition, when, why and by which way.

    `act`: approve (in force), vote (one of several approvals asked for), reject, rollback (in force again).
    `approvers`: everybody whose approval it stands on, `since` when they gave it, `base` the digest they gave it to:
    these differ from `at` and `digest` where a descriptive change was accepted automatically or an earlier version came
    back. `expires`: seconds since the epoch, 0: never. `level`: risk when it was decided. `chain`, `number`,
    `previous`: its place; `previous` is the digest of the decision before it, "" in the first.
    """

    act: str
    server: str
    kind: str
    name: str
    digest: str
    by: str
    at: float
    reason: str
    source: str
    effect: str = ""
    durable: bool = False
    expires: float = 0.0
    approvers: tuple[str, ...] = ()
    base: str = ""
    level: str = ""
    since: float = 0.0
    chain: int = 0
    number: int = 0
    previous: str = ""

    @property
    def subject(self) -> tuple[str, str, str]:
        """Server, kind and name."""
        return (self.server, self.kind, self.name)


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "at": (int, float),
    "expires": (int, float),
    "since": (int, float),
    "durable": (bool,),
    "approvers": (list,),
    "chain": (int,),
    "number": (int,),
}
_FIELDS: Final = Decision._fields


def text_of(decision: Decision) -> str:
    """The note's text: the header and one line of canonical JSON. Raises ValueError for values that have none."""
    return f"{HEADER}{canonical({name: getattr(decision, name) for name in _FIELDS}).decode()}\n"


def parse_note(note: str) -> Decision:
    """What a note says, whoever signed it. Raises Unattested for anything but the one spelling of a decision."""
    if not note.startswith(HEADER):
        raise Unattested("is no decision")
    line = note[len(HEADER) :].partition("\n")[0]
    if _text(note) != f"{HEADER}{line}\n":
        raise Unattested("holds more than a decision")
    try:
        data: Any = orjson.loads(line)
    except ValueError:
        raise Unattested("is not JSON") from None
    if type(data) is not dict or len(data) != len(_FIELDS) or any(name not in data for name in _FIELDS):
        raise Unattested("has not the members of a decision")
    if not all(_typed(name, data[name]) for name in _FIELDS) or data["act"] not in ACTS:
        raise Unattested("has a member of the wrong type")
    decision = Decision(**{**data, "approvers": tuple(data["approvers"])})
    if canonical(data).decode() != line:
        raise Unattested("is not in canonical form")
    return decision


def read_note(note: str) -> Decision:
    """What a note says that was found in a sealed row: its form was checked when it was made. Raises Unattested."""
    try:
        data: dict[str, Any] = orjson.loads(note[len(HEADER) :].partition("\n")[0])
        data["approvers"] = tuple(data["approvers"])
        return Decision(**data)
    except (ValueError, TypeError, KeyError):
        raise Unattested("is no decision") from None


def _typed(name: str, value: Any) -> bool:
    if type(value) not in _TYPES.get(name, (str,)):
        return False
    return name != "approvers" or all(type(one) is str for one in value)


def digest_of_note(note: str) -> str:
    """What the next decision names as `previous`: over the text alone, the same whoever else countersigns."""
    return sha256(_text(note).encode()).hexdigest()


def _text(note: str) -> str:
    end = note.find(_SIGNATURE)
    return note[: end + 1] if end >= 0 else note


def verify_note(note: str, name: str, public_key: bytes) -> Decision:
    """The decision, if this key (32 raw bytes) of this name signed it. Raises Unattested."""
    return _verified(note, name, public_key, Ed25519PublicKey.from_public_bytes(public_key))


def _verified(note: str, name: str, raw_key: bytes, key: Ed25519PublicKey) -> Decision:
    text, blank, line = note.partition(f"\n\n{_DASH}")
    parts = line.removesuffix("\n").split(" ")
    if not blank or len(parts) != 2 or not line.endswith("\n"):
        raise Unattested("is not signed")
    try:
        mark = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError):
        raise Unattested("has a signature that is not base64") from None
    if parts[0] != name or mark[:4] != key_id(name, raw_key) or base64.b64encode(mark).decode() != parts[1]:
        raise Unattested("is signed by another key")
    try:
        key.verify(mark[4:], f"{text}\n".encode())
    except InvalidSignature:
        raise Unattested("has a signature that does not verify") from None
    return parse_note(note)


def key_id(name: str, public_key: bytes) -> bytes:
    """The four bytes that name an Ed25519 key in a signature line (c2sp.org/signed-note)."""
    return sha256(name.encode() + b"\n\x01" + public_key).digest()[:4]


class Notary:
    """Signs and checks decisions, seals and opens rows. Without a signer it signs nothing and believes everything:
    for tests, and for tools that only look."""

    __slots__ = ("_id", "_key", "_keyed", "signer")

    def __init__(self, signer: Signer | None) -> None:
        self.signer = signer
        self._keyed: hmac.HMAC | None = None
        if signer is not None:
            self._key = Ed25519PublicKey.from_public_bytes(signer.public_key)
            self._id = key_id(signer.name, signer.public_key)
            # Ed25519 signatures are deterministic (RFC 8032 section 5.1.6): one that is never shown is a secret only
            # the holder of the key can find again.
            self._keyed = hmac.new(sha256(signer.sign(_SECRET)).digest(), digestmod="sha256")

    @property
    def seals(self) -> bool:
        """Whether what is stored must be authentic."""
        return self._keyed is not None

    def sign(self, decision: Decision) -> str:
        """The note that records it."""
        text = text_of(decision)
        if self.signer is None:
            return text
        mark = base64.b64encode(self._id + self.signer.sign(text.encode())).decode()
        return f"{text}\n{_DASH}{self.signer.name} {mark}\n"

    def open(self, note: str) -> Decision:
        """The decision in a note. Raises Unattested unless it is signed by our key (or nothing is signed here)."""
        if self.signer is None:
            return parse_note(note)
        return _verified(note, self.signer.name, self.signer.public_key, self._key)

    def seal(self, place: str, value: bytes) -> bytes:
        """The stored form of a row: it is believed under this key of the table and under no other."""
        if self._keyed is None:
            return value
        return _SEALED + _mac(self._keyed, place, value) + value

    def unseal(self, place: str, raw: bytes) -> bytes:
        """What was stored. Raises Unattested for what is not sealed, altered, or moved here from another place."""
        sealed = raw.startswith(_SEALED)
        value = raw[1 + _MAC :] if sealed else raw
        if self._keyed is not None:
            if not sealed:
                raise Unattested("was not written by this gateway")
            if not hmac.compare_digest(raw[1 : 1 + _MAC], _mac(self._keyed, place, value)):
                raise Unattested("was altered, moved, or written with another key")
        return value

    def value(self, raw: bytes) -> bytes:
        """What was stored, its seal not checked: for rows that must equal something believed. b"" without a seal."""
        if raw.startswith(_SEALED):
            return raw[1 + _MAC :]
        return b"" if self.seals else raw


def _mac(keyed: hmac.HMAC, place: str, value: bytes) -> bytes:
    name = place.encode()
    mac = keyed.copy()  # half the cost of keying it anew
    mac.update(len(name).to_bytes(4, "big") + name + value)
    return mac.digest()
