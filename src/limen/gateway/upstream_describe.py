"""Reads an HTTP server as one client or another, and keeps a stream open on which it tells of changes.

Both use an Exchange of their own, so that neither takes connections from calls (MCP 2026-07-28 server/discover and
patterns/subscriptions, 2025-11-25 lifecycle and transports).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from limen.core.announce import Announcement
from limen.core.call import Era
from limen.core.faults import UpstreamError, UpstreamFault
from limen.gateway import eras, upstream_identity
from limen.gateway.upstream_exchange import Exchange, Rejected
from limen.gateway.upstream_faces import OWN, Face
from limen.gateway.upstream_listing import PROBE_SECONDS, read_all, speaks_modern
from limen.gateway.upstream_sessions import Handshake
from limen.gateway.upstream_wire import Reply
from limen.protocol.jsonrpc import RESULT_LIMITS, NotJson, parse, render

FAREWELL: Final = 2.0
KINDS: Final = ("tools", "prompts", "resources")
REPLIES: Final = 30  # a minute, to what a server asks on its standalone stream
_SESSION_ID: Final = re.compile(rb"[\x21-\x7e]{1,1024}")


class Unheard(UpstreamFault):
    """The server offers no stream on which it would tell of changes."""


class Reading:
    """One conversation of our own with one server, as `face`."""

    def __init__(self, exchange: Exchange, url: str, credential: bytes, era: Era | None, face: Face = OWN) -> None:
        self.exchange, self.face = exchange, face
        self.session: Handshake | None = None
        self._url, self._credential, self._era = url, credential, era
        self._hello: Mapping[str, Any] = {}
        self._issuer: Mapping[str, Any] | None = None
        self.retry = 0.0  # seconds the server wants between two streams of changes

    @property
    def revision(self) -> str:
        """What was agreed on, once `greet` is done."""
        return self.session.revision if self.session is not None else eras.MODERN

    async def greet(self) -> None:
        """Find the era and, where there is one, open a session. Raises UpstreamFault, UpstreamError."""
        server = self.exchange.server
        if self._era is not Era.HANDSHAKE and await self._discover():
            return
        if self._era is Era.MODERN:
            raise UpstreamFault(server, f"does not speak {eras.MODERN}")
        number = self.exchange.next()
        body = eras.initialize(number, self.face.words, self.face.client)
        result, reply = await self._send("initialize", number, body, "")
        identity = reply.headers.get(b"mcp-session-id")
        if identity is not None and not _SESSION_ID.fullmatch(identity):
            raise UpstreamFault(server, "gave a session id that cannot be sent back")
        revision = eras.agreed(server, result, eras.HANDSHAKE_HTTP)
        self._hello, self.session = result, Handshake(identity, revision, self._credential)
        await self.exchange.tell(self.session, eras.plain(None, "notifications/initialized"))

    async def announcement(self) -> Announcement:
        """Everything announced. Raises UpstreamFault, UpstreamError."""

        async def ask(method: str, params: dict[str, Any]) -> tuple[dict[str, Any], int]:
            number = self.exchange.next()
            body = eras.plain(number, method, {**params, **self._envelope})
            result, reply = await self._send(method, number, body, self.revision)
            return result, reply.size

        identity = upstream_identity.of_url(self._url, self._issuer)
        return await read_all(
            self.exchange.server, self.revision, self._hello, ask, backwards=self.face.backwards, identity=identity
        )

    async def listen(self, opened: Callable[[], None]) -> None:
        """Hear of changes until the server ends the stream; `opened` is called when it has agreed to tell.

        Raises Unheard where it does not offer that, UpstreamFault when the stream breaks.
        """
        session, exchange = self.session, self.exchange
        if session is None:
            number = exchange.next()
            wanted = {"notifications": dict.fromkeys((f"{kind}ListChanged" for kind in KINDS), True)}
            body = eras.plain(number, "subscriptions/listen", {**wanted, **self._envelope})
            head = exchange.head("subscriptions/listen", "", self.revision, None, self._credential, len(body))
            reply = await exchange.pool.post(head + body)
        else:
            reply = await exchange.pool.post(
                exchange.head("", "", session.revision, session.id, self._credential, 0, verb=b"GET")
            )
        try:
            if reply.status != 200 or reply.events is None:
                raise Unheard(exchange.server, f"offers no stream of changes (HTTP status {reply.status})")
            if session is not None:
                opened()
            await self._hear(reply, session, opened)
        finally:
            self.retry = reply.events.retry / 1000 if reply.events is not None else 0.0
            if not reply.complete:
                reply.connection.leave()
            reply.release()

    async def bye(self) -> None:
        """DELETE our session, best effort. Raises UpstreamFault, TimeoutError."""
        if self.session is not None and self.session.id is not None:
            async with asyncio.timeout(FAREWELL):
                await self.exchange.tell(self.session, b"", verb=b"DELETE")

    @property
    def _envelope(self) -> dict[str, Any]:
        return {"_meta": eras.modern_meta(self.face.words, self.face.client)} if self.session is None else {}

    async def _discover(self) -> bool:
        """Whether the server speaks 2026-07-28. One that cannot be reached raises UpstreamFault: an outage says nothing
        about the era."""
        number = self.exchange.next()
        body = eras.plain(number, "server/discover", self._envelope)
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                result, _ = await self._send("server/discover", number, body, eras.MODERN)
        except (Rejected, UpstreamError, TimeoutError):
            return False
        if speaks_modern(result):
            self._hello = result
            return True
        return False

    async def _send(self, method: str, number: int, body: bytes, revision: str) -> tuple[dict[str, Any], Reply]:
        exchange, session = self.exchange, self.session
        identity = session.id if session is not None else None
        head = exchange.head(method, "", revision, identity, self._credential, len(body))
        result, reply = await exchange.ask(head + body, number, exchange.silent(), session)
        transport = reply.connection.transport
        self._issuer = transport.get_extra_info("peercert") or self._issuer
        return result, reply

    async def _hear(self, reply: Reply, session: Handshake | None, opened: Callable[[], None]) -> None:
        loop, talk = asyncio.get_running_loop(), self.exchange.silent()
        replies, minute = 0, loop.time()
        while (data := await reply.event()) is not None:
            message = self._parse(data)
            method = message.get("method")
            if method is None:  # 2026-07-28: the answer to `subscriptions/listen` is the end of it, or its refusal
                if "error" in message:
                    raise Unheard(self.exchange.server, "offers no subscriptions")
                return
            if "id" in message:
                if loop.time() - minute > 60:
                    replies, minute, talk = 0, loop.time(), self.exchange.silent()
                replies += 1
                answer = await talk.reply(message) if session is not None and replies <= REPLIES else None
                await self._respond(session, answer)
            elif method == "notifications/subscriptions/acknowledged":
                opened()
            elif str(method).endswith("/list_changed"):
                self.exchange.changed()
            else:
                self.exchange.oddities["notification dropped"] += 1

    async def _respond(self, session: Handshake | None, answer: dict[str, Any] | None) -> None:
        if session is None or answer is None:
            self.exchange.oddities["request dropped"] += 1
            return
        try:
            await self.exchange.tell(session, render(answer))
        except UpstreamFault:
            self.exchange.oddities["reply not read"] += 1

    def _parse(self, data: bytes) -> dict[str, Any]:
        try:
            message = parse(data, RESULT_LIMITS, fold_names=False)
        except NotJson as error:
            raise UpstreamFault(self.exchange.server, f"sent what is not strict JSON: {error}") from None
        if type(message) is not dict:
            raise UpstreamFault(self.exchange.server, "sent a batch")
        return message
