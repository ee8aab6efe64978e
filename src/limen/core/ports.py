"""Small protocols several rooms share. Shaped by need, not by database; adapters implement them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    """Bounded exchange with a configured URL: https (or loopback), no redirects. Raises DependencyFault."""

    async def get_json(self, url: str) -> bytes: ...
    async def post_form(self, url: str, form: Mapping[str, str], user: str, password: str) -> bytes:
        """The JSON answer to a form, sent with these credentials (RFC 6749 section 2.3.1, HTTP Basic)."""
        ...


class Signer(Protocol):
    """Ed25519 signatures over whole messages."""

    @property
    def name(self) -> str: ...
    @property
    def public_key(self) -> bytes:
        """32 raw bytes."""
        ...

    def sign(self, message: bytes) -> bytes: ...
