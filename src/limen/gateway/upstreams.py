"""The MCP servers behind this gateway, by name. A Permit is the only thing that gets through to one of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

from limen.core.announce import Announcement
from limen.core.call import Approved, UpstreamCredential
from limen.core.conversation import Conversation
from limen.core.faults import ConfigFault, InvariantFault, UpstreamFault
from limen.core.verdict import Permit
from limen.gateway.upstream_describe import Unheard
from limen.gateway.upstream_faces import OWN, Face
from limen.gateway.upstream_http import HttpUpstream
from limen.gateway.upstream_stdio import StdioUpstream

__all__ = ["HttpUpstream", "StdioUpstream", "Unheard", "Upstream", "Upstreams"]

LINGER: Final = 600.0  # seconds a server that is no longer configured is kept for calls in flight


class Upstream(Protocol):
    """One server, whatever carries its messages. `on_change` is called with its name, at most once a second."""

    name: str
    oddities: Counter[str]  # what it sent that nobody asked for, by kind: for the audit
    on_change: Callable[[str], None] | None
    headers: frozenset[tuple[str, str]]  # configured for it, names in lower case

    @property
    def revision(self) -> str: ...
    async def describe(self, face: Face = OWN) -> Announcement: ...
    async def listen(self, opened: Callable[[], None]) -> None: ...
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
        self._on_change = on_change
        self._cut: frozenset[str] = frozenset()
        self._busy: Counter[Upstream] = Counter()
        self._replaced: dict[str, frozenset[tuple[str, str]]] = {}
        self._leaving: dict[Upstream, asyncio.Task[None]] = {}
        self._idle: dict[Upstream, asyncio.Event] = {}  # set when a server that leaves has no call any more

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
        upstream = self._named(approved.server)
        if self._replaced:
            self._not_meant_for_another(permit, upstream)
        busy = self._busy
        busy[upstream] += 1
        try:
            return await upstream.forward(permit, conversation, extra_headers)
        finally:
            busy[upstream] -= 1
            if self._idle and not busy[upstream] and upstream in self._idle:
                self._idle[upstream].set()

    def starts_process(self, name: str) -> bool:
        """Whether reading this server as another client takes a process of its own."""
        return isinstance(self.by_name.get(name), StdioUpstream)

    async def describe(self, name: str, face: Face = OWN) -> Announcement:
        """Read what one server announces, as ourselves or as another client. Raises UpstreamFault."""
        return await self._named(name).describe(face)

    async def listen(self, name: str, opened: Callable[[], None]) -> None:
        """Hear of one server's changes until it ends the stream. Raises Unheard, UpstreamFault."""
        await self._named(name).listen(opened)

    def replace(self, upstreams: Iterable[Upstream]) -> None:
        """From now on these. Those not among them are closed once their calls have finished, or after LINGER."""
        kept = {upstream.name: upstream for upstream in upstreams}
        left = [upstream for upstream in self.by_name.values() if kept.get(upstream.name) is not upstream]
        for upstream in kept.values():
            upstream.on_change = self._on_change
        self.by_name = MappingProxyType(kept)
        for upstream in left:
            upstream.on_change = None
            self._replaced[upstream.name] = upstream.headers
            self._leaving[upstream] = asyncio.ensure_future(self._retire(upstream))
        self.cut(self._cut)

    def cut(self, names: frozenset[str]) -> None:
        """To these servers there is no connection; where a local one may connect to is its cell's matter."""
        self._cut = names
        for upstream in (*self.by_name.values(), *self._leaving):
            if isinstance(upstream, HttpUpstream):
                upstream.sever(upstream.name in names)

    def states(self) -> list[dict[str, Any]]:
        """Of every local program, now: whether it runs, since when, how often it was started, what it uses."""
        return [one.state() for one in self.by_name.values() if isinstance(one, StdioUpstream)]

    async def end_session(self, session_id: str) -> None:
        """One of our sessions is over: end what servers keep for it."""
        for upstream in (*self.by_name.values(), *self._leaving):
            await upstream.end_session(session_id)

    async def close(self) -> None:
        """Close all of them at once: connections are ended, processes stopped."""
        leaving = list(self._leaving.values())
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await asyncio.gather(*(upstream.close() for upstream in self.by_name.values()))

    async def _retire(self, upstream: Upstream) -> None:
        idle = self._idle[upstream] = asyncio.Event()
        try:
            if self._busy[upstream]:
                async with asyncio.timeout(LINGER):
                    await idle.wait()
        except TimeoutError:
            upstream.oddities["calls cut off"] += 1
        finally:
            del self._idle[upstream], self._busy[upstream]
            await upstream.close()
            self._leaving.pop(upstream, None)

    def _not_meant_for_another(self, permit: Permit, upstream: Upstream) -> None:
        """A call that was judged before its server was configured anew carries the credential of the one before: it is
        not sent to the new one. Raises UpstreamFault."""
        credential, before = permit.find(UpstreamCredential), self._replaced.get(upstream.name)
        if credential is None or before is None or before == upstream.headers:
            return
        if frozenset((name.lower(), value) for name, value in credential.headers) == before:
            raise UpstreamFault(upstream.name, "was configured anew while this call was under way")

    def _named(self, name: str) -> Upstream:
        upstream = self.by_name.get(name)
        if upstream is None:
            raise UpstreamFault(name, "is not configured")
        return upstream
