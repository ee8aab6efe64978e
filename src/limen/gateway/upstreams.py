"""The MCP servers behind this gateway, by name. A Permit is the only thing that gets through to one of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from limen.core.announce import Announcement
from limen.core.call import Approved
from limen.core.conversation import Conversation
from limen.core.faults import ConfigFault, InvariantFault, UpstreamFault
from limen.core.verdict import Permit
from limen.gateway.upstream_http import HttpUpstream
from limen.gateway.upstream_stdio import StdioUpstream

__all__ = ["HttpUpstream", "StdioUpstream", "Upstream", "Upstreams"]


class Upstream(Protocol):
    """One server, whatever carries its messages. `on_change` is called with its name, at most once a second."""

    name: str
    oddities: Counter[str]  # what it sent that nobody asked for, by kind: for the audit
    on_change: Callable[[str], None] | None

    @property
    def revision(self) -> str: ...
    async def describe(self) -> Announcement: ...
    async def forward(
        self, permit: Permit, conversation: Conversation, extra_headers: tuple[tuple[str, str], ...] = ()
    ) -> dict[str, Any]: ...
    async def end_session(self, session_id: str) -> None: ...
    async def close(self) -> None: ...


class Upstreams:
    """All of them. Raises ConfigFault when two have the same name."""

    def __init__(self, upstreams: Iterable[Upstream], on_change: Callable[[str], None] | None = None) -> None:
        found: dict[str, Upstream] = {}
        for upstream in upstreams:
            if upstream.name in found:
                raise ConfigFault(f"two servers are named {upstream.name!r}", "servers")
            upstream.on_change = on_change
            found[upstream.name] = upstream
        self.by_name: Mapping[str, Upstream] = MappingProxyType(found)

    async def forward(
        self, permit: Permit, conversation: Conversation, extra_headers: tuple[tuple[str, str], ...] = ()
    ) -> dict[str, Any]:
        """Send a permitted call to the server its approved definition belongs to.

        Raises InvariantFault for anything that is not a Permit, UpstreamFault and UpstreamError as the server does.
        """
        if type(permit) is not Permit:
            raise InvariantFault(f"forward takes a Permit, not {type(permit).__name__}")
        approved = permit.find(Approved)
        if approved is None:
            raise InvariantFault("forward without an approved definition")
        return await self._named(approved.server).forward(permit, conversation, extra_headers)

    async def describe(self, name: str) -> Announcement:
        """Read what one server announces, as ourselves. Raises UpstreamFault."""
        return await self._named(name).describe()

    async def end_session(self, session_id: str) -> None:
        """One of our sessions is over: end what servers keep for it."""
        for upstream in self.by_name.values():
            await upstream.end_session(session_id)

    async def close(self) -> None:
        """Close all of them at once: connections are ended, processes stopped."""
        await asyncio.gather(*(upstream.close() for upstream in self.by_name.values()))

    def _named(self, name: str) -> Upstream:
        upstream = self.by_name.get(name)
        if upstream is None:
            raise UpstreamFault(name, "is not configured")
        return upstream
