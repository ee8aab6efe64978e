"""What one call reads, compiled together, and what the engine needs of everything around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from limen.audit.parameters import Parameters
from limen.core.call import Approved, Call, Caller
from limen.core.chain import Chain, ResultGuard
from limen.core.conversation import Conversation
from limen.core.verdict import Permit


class Log(Protocol):
    """The part of the ledger a call needs."""

    def append(self, record: bytes) -> int: ...
    def defer(self, record: bytes) -> None: ...
    async def durable(self, index: int) -> None: ...


class Outbound(Protocol):
    """The part of the upstreams a call needs."""

    async def forward(
        self, permit: Permit, conversation: Conversation, extra_headers: tuple[tuple[str, str], ...] = ()
    ) -> dict[str, Any]: ...


class Visibility(Protocol):
    """What a caller could call, as lists show it."""

    def visible(self, caller: Caller, items: Sequence[Approved]) -> list[Approved]: ...
    @property
    def version(self) -> str:
        """Names what is left out although rules allow it."""
        ...


class Shelf(Protocol):
    """What the engine reads of a catalog snapshot."""

    @property
    def version(self) -> str: ...
    def find(self, server: str, kind: str, name: str) -> Approved | None: ...
    def approved(self, server: str | None = None, kind: str | None = None) -> tuple[Approved, ...]: ...
    def instructions(self, server: str) -> str | None: ...


class Remembered:
    """Rendered answers by what they depend on, up to a number of bytes; then it begins anew."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._known: dict[tuple[object, ...], bytes] = {}

    def get(self, key: tuple[object, ...]) -> bytes | None:
        """What was kept under this key."""
        return self._known.get(key)

    def keep(self, key: tuple[object, ...], value: bytes) -> None:
        """Keep it for the next one who asks the same."""
        self._size += len(value) + 512
        if self._size > self._limit:
            self._known.clear()
            self._size = len(value) + 512
        self._known[key] = value


class HeaderRule(Protocol):
    """Mcp-Param-* headers for one approved definition and the arguments of a call (2026-07-28 transports)."""

    def __call__(self, approved: Approved, call: Call) -> tuple[tuple[str, str], ...]: ...


class Messages(Protocol):
    """What a server says while a call runs, looked at before a client hears it."""

    def over(self, permit: Permit, conversation: Conversation) -> Conversation: ...


@dataclass(frozen=True, slots=True)
class Corridor:
    """Everything one call reads, compiled together and swapped as one: a call keeps the corridor it entered."""

    call: Chain
    caller: Chain
    result: tuple[ResultGuard, ...]
    authorize: Visibility
    catalog: Shelf
    policy: str
    param_headers: HeaderRule
    durable: bool = False
    lists: Remembered = field(default_factory=lambda: Remembered(32 << 20))  # what callers were shown of this catalog
    messages: Messages | None = None
    # decoys this caller is shown, of this kind, among what these servers offer
    decoys: Callable[[Caller, str, Sequence[str]], Iterable[Approved]] = lambda caller, kind, servers: ()
    marks: Callable[[str], bool] | None = None  # whether texts of this server are marked as data
    parameters: Parameters | None = None  # what is kept of arguments; None: nowhere more than their digest
    plain_resources: bool = False  # URIs in results stand in the log themselves
    scrub: Callable[[str], str] | None = None  # takes secrets out of what a server calls its errors
