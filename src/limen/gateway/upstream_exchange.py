"""Speaks MCP over one pool of HTTP connections: one request, one answer, and what may come in between."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from limen.core.faults import UpstreamError, UpstreamFault
from limen.gateway import eras
from limen.gateway.upstream_listing import PROBE_SECONDS, speaks_modern
from limen.gateway.upstream_pool import Pool
from limen.gateway.upstream_sessions import Handshake
from limen.gateway.upstream_talk import Clock, Talk
from limen.gateway.upstream_target import Target
from limen.gateway.upstream_wire import Reply
from limen.protocol.jsonrpc import RESULT_LIMITS, NotJson, parse, render

_SESSION_ID: Final = re.compile(rb"[\x21-\x7e]{1,1024}")
_HEADS: Final = 512  # rendered heads kept: one per tool, session and set of headers
_SIDE: Final = 16  # connections for our own messages, so that a call in flight can always be answered


class Rejected(UpstreamFault):
    """The server answered with an HTTP status that carries no JSON-RPC answer."""

    def __init__(self, server: str, status: int, challenge: bytes = b"") -> None:
        shown = challenge.decode("latin-1") if status in (401, 403) else ""
        super().__init__(server, f"answered with HTTP status {status}", status=status, challenge=shown)


class Exchange:
    """Requests to one target. `changed` is called for every list_changed notification."""

    def __init__(
        self, server: str, target: Target, oddities: Counter[str], changed: Callable[[], None], size: int = 64
    ) -> None:
        self.server, self.target, self.oddities, self.changed = server, target, oddities, changed
        self.pool = Pool(server, target, size)
        self._side = Pool(server, target, _SIDE)
        self._number = 0
        self._heads: dict[tuple[bytes, str, str, str, bytes | None, bytes], bytes] = {}

    def next(self) -> int:
        """A request number of our own: unique per exchange, never the client's."""
        self._number += 1
        return self._number

    async def close(self) -> None:
        """Close every connection."""
        await self.pool.close()
        await self._side.close()

    def sever(self, severed: bool) -> None:
        """See `Pool.sever`."""
        self.pool.sever(severed)
        self._side.sever(severed)

    def head(
        self,
        method: str,
        mirrored: str,
        revision: str,
        session: bytes | None,
        headers: bytes,
        length: int,
        *,
        verb: bytes = b"POST",
    ) -> bytes:
        """Everything before the body (2026-07-28 transports, standard request headers)."""
        key = (verb, method, mirrored, revision, session, headers)
        rendered = self._heads.get(key)
        if rendered is None:
            if len(self._heads) >= _HEADS:
                self._heads.clear()
            rendered = self._heads[key] = self._render(*key)
        return b"%bcontent-length: %d\r\n\r\n" % (rendered, length)

    def _render(
        self, verb: bytes, method: str, mirrored: str, revision: str, session: bytes | None, headers: bytes
    ) -> bytes:
        parts = [verb, self.target.line]
        if revision:
            parts.append(b"mcp-protocol-version: %b\r\n" % revision.encode())
        if revision == eras.MODERN:
            parts.append(b"mcp-method: %b\r\n" % method.encode())
            if mirrored:
                parts.append(b"mcp-name: %b\r\n" % eras.encode_header_value(mirrored).encode())
        if session is not None:
            parts.append(b"mcp-session-id: %b\r\n" % session)
        parts.append(headers)
        return b"".join(parts)

    async def ask(
        self, data: bytes, number: int, talk: Talk, session: Handshake | None
    ) -> tuple[dict[str, Any], Reply]:
        """Send one rendered request, read its answer. Raises UpstreamError, UpstreamFault. Leaving early closes the
        connection, which is what cancels a 2026-07-28 request."""
        reply = await self.pool.post(data)
        try:
            result = await self._read(reply, number, talk, session)
        except BaseException:
            if not reply.complete:
                reply.connection.leave()
            reply.release()
            raise
        reply.release()
        return result, reply

    async def _read(self, reply: Reply, number: int, talk: Talk, session: Handshake | None) -> dict[str, Any]:
        if reply.status != 200:
            raise self._rejection(reply, number, session)
        if reply.events is None:
            return eras.answer(self.server, self._parse(reply.body), number)
        while (data := await reply.event()) is not None:
            message = self._parse(data)
            if type(message) is not dict:
                raise UpstreamFault(self.server, "sent a batch")
            if "method" not in message:
                if type(message.get("id")) is int and message["id"] == number:
                    return eras.answer(self.server, message, number)
                self.oddities["response nobody waits for"] += 1
            elif "id" in message:
                await self._respond(message, talk, session)
            elif str(message["method"]).endswith("/list_changed"):
                self.changed()
            else:
                talk.note(message)
        raise UpstreamFault(self.server, "ended the event stream without an answer")

    def _rejection(self, reply: Reply, number: int, session: Handshake | None) -> UpstreamFault | UpstreamError:
        """What a status other than 200 means. Redirects and 202 are rejections like any other. A 401 is about what we
        sent along, whatever its body says."""
        if reply.status == 401:
            return Rejected(self.server, reply.status, reply.challenge)
        if reply.status >= 400 and reply.media_type() == b"application/json":
            try:
                eras.answer(self.server, self._parse(reply.body), number, unidentified=True)
            except UpstreamFault:
                return Rejected(self.server, reply.status, reply.challenge)
            except UpstreamError as error:
                if session is None or reply.status != 404 or error.code == eras.METHOD_NOT_FOUND:
                    return error
        return Rejected(self.server, reply.status, reply.challenge)

    async def _respond(self, message: dict[str, Any], talk: Talk, session: Handshake | None) -> None:
        """A server's request. In 2026-07-28 there are none on a response stream; before, the answer is POSTed."""
        if session is None:
            self.oddities["request dropped"] += 1
            return
        response = await talk.reply(message)
        if response is not None:
            await self.tell(session, render(response))

    async def tell(self, session: Handshake, body: bytes, *, verb: bytes = b"POST") -> None:
        """A notification or response of ours, or with DELETE the end of a session. Raises Rejected unless accepted."""
        head = self.head("", "", session.revision, session.id, session.credential, len(body), verb=verb)
        reply = await self._side.post(head + body)
        status = reply.status
        if not reply.complete:
            reply.connection.leave()
        reply.release()
        if not 200 <= status < 300:
            raise Rejected(self.server, status)

    async def initialize(self, words: frozenset[str], credential: bytes) -> tuple[Handshake, dict[str, Any]]:
        """The handshake (2025-11-25 lifecycle): a session ready for use, and what the server said of itself."""
        number = self.next()
        body = eras.initialize(number, words)
        result, reply = await self.ask(
            self.head("initialize", "", "", None, credential, len(body)) + body, number, self.silent(), None
        )
        identity = reply.headers.get(b"mcp-session-id")
        if identity is not None and not _SESSION_ID.fullmatch(identity):
            raise UpstreamFault(self.server, "gave a session id that cannot be sent back")
        session = Handshake(identity, eras.agreed(self.server, result, eras.HANDSHAKE_HTTP), credential)
        await self.tell(session, eras.plain(None, "notifications/initialized"))
        return session, result

    async def discover(self, credential: bytes) -> dict[str, Any] | None:
        """server/discover, or None where the server gives no evidence that it speaks 2026-07-28. A server that cannot
        be reached raises UpstreamFault: an outage says nothing about the era."""
        number = self.next()
        body = eras.plain(number, "server/discover", {"_meta": eras.modern_meta(frozenset())})
        head = self.head("server/discover", "", eras.MODERN, None, credential, len(body))
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                result, _ = await self.ask(head + body, number, self.silent(), None)
        except (Rejected, UpstreamError, TimeoutError) as fault:
            if isinstance(fault, Rejected) and fault.status == 401:
                raise  # says something of our credential, and nothing of the era
            return None
        return result if speaks_modern(result) else None

    def silent(self) -> Talk:
        """A dialogue in which the server gets nothing but refusals."""
        return Talk(self.server, None, Clock(PROBE_SECONDS, PROBE_SECONDS), self.oddities)

    def _parse(self, data: bytes) -> Any:
        try:
            return parse(data, RESULT_LIMITS, fold_names=False)
        except NotJson as error:
            raise UpstreamFault(self.server, f"sent what is not strict JSON: {error}") from None
