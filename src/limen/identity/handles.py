"""Bound handles: whatever a client carries back to us is an opaque text that works for one owner, on one route, for one
purpose, for a while (C1, C2).

Two shapes. *Sealed*: AES-256-GCM over the content, the binding as associated data; nothing is kept. *Stored*: 256
random bits whose record lies under a name made of owner, route and the handle's digest, so that another's handle is not
looked up and turned away but never found. Either way "wrong owner", "wrong route", "wrong purpose", "expired",
"tampered" and "unknown" run through the same steps to the same answer.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Final, Protocol

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from limen.core.encoding import encode_base64url
from limen.core.ports import Table

STATE: Final = "state"  # requestState (2026-07-28)
SESSION: Final = "session"  # Mcp-Session-Id (2025-11-25)
EVENT: Final = "event"  # SSE event ids, presented again as Last-Event-ID
LONGEST: Final = 32 << 10  # characters of a sealed handle
_TEXT: Final = re.compile(rf"[A-Za-z0-9_-]{{59,{LONGEST}}}")
_KEY, _NONCE, _EXPIRY, _ID, _TAG = 4, 12, 8, 16, 16
_NOTHING: Final = bytes(_KEY + _NONCE + _EXPIRY + _ID + _TAG)  # what is opened in place of a text that is no handle
Owner = tuple[str, str, str]  # issuer, subject, client


class Ring(Protocol):
    """Keys of 32 bytes by number. Replicas share one ring; the newest key seals, older ones still open."""

    def current(self) -> tuple[int, bytes]: ...
    def find(self, number: int) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """What a sealed handle held. `id`: 128 random bits of its own, by which it can be used up."""

    data: bytes = field(repr=False)
    id: str
    expires: float


class Handles:
    """Makes, opens and uses up handles. `table` remembers which single-use ones were used. Methods raise
    DependencyFault when the ring or the table does."""

    def __init__(self, ring: Ring, table: Table, now: Callable[[], float] = time.time) -> None:
        self._ring, self._table, self._now = ring, table, now
        self._nobodys = AESGCM(os.urandom(32))  # stands in for a key that is not on the ring
        self._ciphers: dict[bytes, AESGCM] = {}

    def seal(
        self, purpose: str, owner: Owner, route: str, data: bytes, seconds: float, about: tuple[str, ...] = ()
    ) -> str:
        """The opaque text for a client. `about` binds it to more: a call's digest, a session, a policy's version."""
        number, key = self._ring.current()
        nonce = os.urandom(_NONCE)
        expires = int((self._now() + seconds) * 1000)
        plain = expires.to_bytes(_EXPIRY, "big") + os.urandom(_ID) + data
        sealed = self._cipher(key).encrypt(nonce, plain, _binding(purpose, owner, route, about))
        return encode_base64url(number.to_bytes(_KEY, "big") + nonce + sealed)

    def open(self, purpose: str, owner: Owner, route: str, text: str, about: tuple[str, ...] = ()) -> Opened | None:
        """What was sealed for exactly this owner, route, purpose and `about`, if its time is not over; else None."""
        raw = _decoded(text)
        key = self._ring.find(int.from_bytes(raw[:_KEY], "big"))
        cipher = self._nobodys if key is None else self._cipher(key)
        try:
            plain = cipher.decrypt(
                raw[_KEY : _KEY + _NONCE], raw[_KEY + _NONCE :], _binding(purpose, owner, route, about)
            )
        except InvalidTag:
            return None
        expires = int.from_bytes(plain[:_EXPIRY], "big") / 1000
        if expires <= self._now():
            return None
        return Opened(plain[_EXPIRY + _ID :], plain[_EXPIRY : _EXPIRY + _ID].hex(), expires)

    def spend(self, identifier: str, expires: float) -> bool:
        """Use up a sealed handle by its id. True for the first to do so, in any process that shares the table."""
        return self._table.swap(f"used/{identifier}", None, b"1", expires)

    def _cipher(self, key: bytes) -> AESGCM:
        cipher = self._ciphers.get(key)
        if cipher is None:
            if len(self._ciphers) >= 8:  # keys that rotation has taken off the ring
                self._ciphers.clear()
            cipher = self._ciphers[key] = AESGCM(key)
        return cipher


def new_id() -> str:
    """A stored handle: 256 bits from the CSPRNG, base64url."""
    return secrets.token_urlsafe(32)


def name(purpose: str, owner: Owner, route: str, identifier: str) -> str:
    """Where the record of a stored handle lies. Who reads the table learns neither handles nor owners."""
    found = sha256(f"{len(route)}:{route}{identifier}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{purpose}/{_person(owner[0], owner[1])}/{_digest(owner[2])}/{found}"


def prefix(purpose: str, owner: tuple[str, ...]) -> str:
    """What the names of all stored handles of an owner begin with: (issuer, subject), or with a client as well."""
    person = f"{purpose}/{_person(owner[0], owner[1])}/"
    return person if len(owner) == 2 else f"{person}{_digest(owner[2])}/"


@lru_cache(maxsize=8192)
def _person(issuer: str, subject: str) -> str:
    return _digest(f"{len(issuer)}:{issuer}{subject}")


@lru_cache(maxsize=8192)
def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _binding(purpose: str, owner: Owner, route: str, about: tuple[str, ...]) -> bytes:
    return orjson.dumps((purpose, *owner, route, *about))


def _decoded(text: str) -> bytes:
    """The bytes of a handle, or as many that are none: one text stands for one handle, in its one spelling."""
    if _TEXT.fullmatch(text) is None:
        return _NOTHING
    try:
        raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return _NOTHING
    return raw if encode_base64url(raw) == text else _NOTHING
