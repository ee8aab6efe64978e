"""Small protocols several rooms share. Shaped by need, not by database; adapters implement them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from limen.core.cell import Cell, CellSpec, Property


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


class Isolator(Protocol):
    """Starts programs in cells. Fails closed: what cannot be confined is not started."""

    @property
    def name(self) -> str: ...

    async def start(self, spec: CellSpec) -> Cell:
        """Run it, with pipes. Raises UpstreamFault. Called in the main thread, which the cell does not outlive."""
        ...

    async def properties(self) -> tuple[Property, ...]:
        """What holds on this machine, each tried. Raises nothing: what fails is a property that does not hold."""
        ...
