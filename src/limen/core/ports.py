"""Small protocols several rooms share. Shaped by need, not by database; adapters implement them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Table(Protocol):
    """Keyed records with compare-and-set. Values are bytes; keys are text. All methods raise DependencyFault."""

    def get(self, key: str) -> bytes | None:
        """The live value, or None when absent or expired."""
        ...

    def put(self, key: str, value: bytes, expires: float | None = None) -> None:
        """Write unconditionally. `expires` is seconds since the epoch."""
        ...

    def swap(self, key: str, old: bytes | None, new: bytes | None, expires: float | None = None) -> bool:
        """Write `new` (None: delete) only if the current value is `old` (None: absent). True if it was."""
        ...

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Live records whose key starts with `prefix`, in key order."""
        ...


class Fetch(Protocol):
    """Bounded GET of a configured URL: https (or loopback), no redirects. Raises DependencyFault."""

    async def get_json(self, url: str) -> bytes: ...


class Signer(Protocol):
    """Ed25519 signatures over whole messages."""

    @property
    def name(self) -> str: ...
    @property
    def public_key(self) -> bytes:
        """32 raw bytes."""
        ...

    def sign(self, message: bytes) -> bytes: ...
