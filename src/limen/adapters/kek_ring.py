"""Numbered AES-256 key-encryption keys, wherever they are kept: the newest wraps, every one that is held unwraps.

A ring is text, `number:base64` a line, newest last. A wrapped key is the number (4 bytes), a nonce (12 bytes) and
AES-256-GCM of the key, with its context as associated data.
"""

from __future__ import annotations

import base64
import secrets
from abc import ABC, abstractmethod
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from limen.core.faults import ConfigFault, DependencyFault

KEY: Final = 32
_NONCE: Final = 12
_LEAST: Final = 4 + _NONCE + 16


class KekRing(ABC):
    """The half of `core.ports.KeyWrap` that is the same for every place a ring is read from."""

    @abstractmethod
    def _keks(self) -> dict[int, bytes]:
        """The ring as it is now, never empty. Raises DependencyFault, ConfigFault."""

    def wrap(self, key: bytes, context: bytes) -> bytes:
        number, kek = max(self._keks().items())
        nonce = secrets.token_bytes(_NONCE)
        return number.to_bytes(4, "big") + nonce + AESGCM(kek).encrypt(nonce, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        kek = self._keks().get(int.from_bytes(wrapped[:4], "big"))
        if kek is None or len(wrapped) < _LEAST:
            raise DependencyFault("data keys", "a data key is wrapped by a key that is not held", retryable=False)
        try:
            return AESGCM(kek).decrypt(wrapped[4 : 4 + _NONCE], wrapped[4 + _NONCE :], context)
        except InvalidTag as fault:
            raise DependencyFault("data keys", "a wrapped data key was changed", retryable=False) from fault

    def newest(self, wrapped: bytes) -> bool:
        return int.from_bytes(wrapped[:4], "big") == max(self._keks())


def line(number: int, key: bytes | None = None) -> bytes:
    """One key of a ring, a new one unless given."""
    return f"{number}:{base64.b64encode(key or secrets.token_bytes(KEY)).decode()}\n".encode()


def parse(ring: bytes, where: str) -> dict[int, bytes]:
    """The keys of a ring by number. Raises ConfigFault, which never quotes them."""
    try:
        lines = ring.decode("ascii").split("\n")
        pairs = [one.split(":") for one in lines if one]
        keys = {int(number): base64.b64decode(key, validate=True) for number, key in pairs}
    except ValueError:
        raise ConfigFault("the key-encryption key cannot be read", where) from None
    if not keys or any(len(key) != KEY for key in keys.values()):
        raise ConfigFault("the key-encryption key has not 32 bytes", where)
    return keys
