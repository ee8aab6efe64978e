"""Nonces for proofs of possession (RFC 9449 section 9): stateless, rotating, the same for all replicas.

A nonce is the number of a window of time and a MAC over it. The key of each day is made by whoever needs it first and
is shared through the table; it expires by itself. Nothing is remembered about nonces that were given out.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from typing import Final

from limen.core.encoding import encode_base64url
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.identity.keys import decode_base64url

WINDOW: Final = 150  # seconds; a nonce is good for one to two windows
_DAY: Final = 86_400
_MAC: Final = 16


class Nonces:
    """Gives out nonces and recognises them. Raises DependencyFault when the table cannot be used."""

    def __init__(self, table: Table, now: Callable[[], float] = time.time) -> None:
        self._table, self._now = table, now
        self._keys: dict[int, bytes] = {}

    def issue(self) -> str:
        """The nonce of this moment, 32 characters of base64url."""
        return self._nonce(int(self._now() // WINDOW))

    def holds(self, nonce: str) -> bool:
        """Whether it is one of ours and recent. One window ahead is for a replica whose clock is."""
        try:
            raw = decode_base64url(nonce) if len(nonce) == 32 else b""
        except ValueError:
            return False
        number, current = int.from_bytes(raw[:8], "big"), int(self._now() // WINDOW)
        return current - 1 <= number <= current + 1 and hmac.compare_digest(nonce, self._nonce(number))

    def _nonce(self, number: int) -> str:
        raw = number.to_bytes(8, "big")
        mac = hmac.digest(self._key(number * WINDOW // _DAY), b"limen dpop nonce" + raw, "sha256")
        return encode_base64url(raw + mac[:_MAC])

    def _key(self, day: int) -> bytes:
        key = self._keys.get(day)
        if key is None:
            name = f"nonce-key:{day}"
            self._table.swap(name, None, secrets.token_bytes(32), float((day + 2) * _DAY))
            key = self._table.get(name)  # ours, or that of the replica that was first
            if key is None:
                raise DependencyFault("table", "a key that was just written is not there")
            self._keys = {**{other: known for other, known in self._keys.items() if abs(other - day) <= 1}, day: key}
        return key
