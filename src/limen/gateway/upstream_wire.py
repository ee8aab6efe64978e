"""One HTTP/1.1 connection to an upstream and the response being read from it, on httptools, bounded.

No redirects, no content codings, no guessing: what is not plainly one response to our request is a fault.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, cast

import httptools

from limen.core.faults import UpstreamFault
from limen.gateway.upstream_events import EventBuffer, EventTooLarge

HEAD_LIMIT: Final = 32 << 10
BODY_LIMIT: Final = 16 << 20
_RAW_LIMIT: Final = 2 * BODY_LIMIT + (64 << 10)  # chunk framing counts as well
_HEADER_COUNT: Final = 128
_CHALLENGE: Final = 4096  # bytes of a challenge that are kept
_PAUSE_AT: Final = 1 << 20
_DRAIN_SECONDS: Final = 0.5
_KEPT: Final = frozenset({b"content-type", b"content-encoding", b"mcp-session-id"})


class Home(Protocol):
    """Where a connection goes back to."""

    server: str
    closing: bool

    def give_back(self, connection: Connection) -> None: ...


class Reply:
    """One response. `ready` is done when a JSON body is complete, or when the head of an event stream is."""

    __slots__ = (
        "_chunks", "_news", "body", "challenge", "complete", "connection", "events", "fault", "framed", "headers",
        "ready", "size", "status",
    )  # fmt: skip

    def __init__(self, connection: Connection, ready: asyncio.Future[None]) -> None:
        self.connection, self.ready = connection, ready
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.challenge = b""  # the first WWW-Authenticate
        self.framed = False  # Content-Length or chunked: the end is told, not guessed from the close
        self.body = b""
        self.size = 0
        self.events: EventBuffer | None = None
        self.complete = False
        self.fault: UpstreamFault | None = None
        self._chunks: list[bytes] = []
        self._news: asyncio.Future[None] | None = None

    def media_type(self) -> bytes:
        """Content-Type without parameters. A charset other than UTF-8 makes it nothing we know."""
        told = self.headers.get(b"content-type", b"")
        if told in (b"application/json", b"text/event-stream"):
            return told
        kind, _, rest = told.lower().partition(b";")
        for parameter in rest.split(b";"):
            name, _, value = parameter.strip().partition(b"=")
            if name == b"charset" and value.strip(b'"') not in (b"utf-8", b"utf8"):
                return b""
        return kind.strip()

    def add(self, data: bytes) -> None:
        """Body bytes, in order."""
        self.size += len(data)
        if self.events is None:
            self._chunks.append(data)
            return
        self.events.feed(data)
        if self._news is not None:
            self._wake()
        elif len(self.events) > _PAUSE_AT:
            self.connection.pause()

    def finish(self, fault: UpstreamFault | None) -> None:
        """The response ended: whole, or with a fault."""
        if self.complete or self.fault is not None:
            return
        self.complete, self.fault = fault is None, fault
        if fault is None and self.events is None:
            self.body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        if not self.ready.done():
            if fault is None:
                self.ready.set_result(None)
            else:
                self.ready.set_exception(fault)
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def event(self) -> bytes | None:
        """The data of the next event; None when the stream has ended. Raises UpstreamFault."""
        events = self.events
        if events is None:
            return None
        server = self.connection.pool.server
        while True:
            try:
                data = events.next()
            except EventTooLarge as error:
                raise UpstreamFault(server, str(error)) from None
            if data is not None:
                return data
            if self.fault is not None:
                raise self.fault
            if self.complete:
                return None
            self.connection.resume()
            self._news = asyncio.get_running_loop().create_future()
            try:
                await self._news
            finally:
                self._news = None

    def release(self) -> None:
        """Done with it. An unfinished response costs the connection, unless only the end of a stream is missing."""
        self.connection.release()


class Connection(asyncio.Protocol):
    """One socket, one exchange at a time. Bytes nobody asked for close it."""

    def __init__(self, pool: Home) -> None:
        self.pool = pool
        self.transport: asyncio.Transport
        self.loop: asyncio.AbstractEventLoop
        self.parser = httptools.HttpResponseParser(self)
        self.reply: Reply | None = None
        self.closed = False
        self.since = 0.0
        self._raw = self._head = self._count = self._informational = 0
        self._in_head = self._paused = self._held = self._keep = False
        self._spoiled = ""
        self._drain: asyncio.TimerHandle | None = None

    def send(self, data: bytes) -> Reply:
        """Write one request; the caller awaits `reply.ready` and calls `reply.release()` whatever happens."""
        self.reply = Reply(self, self.loop.create_future())
        self._raw = self._head = self._count = self._informational = 0
        self._in_head, self._held, self._keep = True, True, False
        self.transport.write(data)
        return self.reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        reply = self.reply
        if reply is None or reply.complete:
            self.abort("sent bytes nobody asked for")
            return
        self._raw += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.abort(self._spoiled or f"sent malformed HTTP: {type(error).__name__}")
            return
        if self._spoiled and not reply.complete:
            self.abort(self._spoiled)
        elif self._in_head and self._raw > HEAD_LIMIT:
            self.abort("sent a head that is too large")
        elif self._raw > _RAW_LIMIT:
            self.abort("sent too much")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        reply = self.reply
        if reply is not None and not reply.complete:
            if error is None and not self._in_head and not reply.framed and not self._spoiled:
                reply.finish(None)  # RFC 9112 section 6.3 rule 8: the close is the end
            else:
                reply.finish(UpstreamFault(self.pool.server, self._spoiled or "closed the connection mid-response"))
        if self._drain is not None:
            self._drained()

    # httptools calls these
    def on_message_begin(self) -> None:
        if self.reply is None or self.reply.complete:
            self._spoil("sent a second response")

    def on_header(self, name: bytes, value: bytes) -> None:
        reply = self.reply
        self._head += len(name) + len(value) + 4
        self._count += 1
        if reply is None or self._head > HEAD_LIMIT or self._count > _HEADER_COUNT:
            self._spoil("sent a head that is too large")
        elif self._in_head:  # trailers are counted and ignored
            name = name.lower()
            if name in _KEPT:
                if name in reply.headers:
                    self._spoil("repeated a header that must be single")
                reply.headers[name] = value.strip()
            elif name == b"www-authenticate":
                reply.challenge = reply.challenge or value.strip()[:_CHALLENGE]
            elif name in (b"content-length", b"transfer-encoding"):
                reply.framed = True

    def on_headers_complete(self) -> None:
        reply = self.reply
        if reply is None:
            return
        reply.status = self.parser.get_status_code()
        if reply.status < 200:
            return
        self._in_head = False
        if reply.headers.get(b"content-encoding", b"").lower() not in (b"identity", b""):
            self._spoil("used a content coding that was not offered")
        if reply.status == 200:
            media = reply.media_type()
            if media == b"text/event-stream":
                reply.events = EventBuffer()
                if not reply.ready.done():
                    reply.ready.set_result(None)
            elif media != b"application/json":
                self._spoil("answered with neither application/json nor text/event-stream")

    def on_body(self, data: bytes) -> None:
        reply = self.reply
        if reply is None:
            return
        if reply.size + len(data) > BODY_LIMIT:
            self._spoil(f"answered with more than {BODY_LIMIT} bytes")
        reply.add(data)

    def on_message_complete(self) -> None:
        reply = self.reply
        if reply is None:
            return
        if reply.status < 200:  # RFC 9110 section 15.2: interim responses precede the final one
            self._informational += 1
            reply.headers.clear()
            reply.challenge, reply.framed = b"", False
            if self._informational > 4 or reply.status == 101:
                self._spoil("sent interim responses only")
            return
        self._keep = self.parser.should_keep_alive()
        reply.finish(None)
        if self._drain is not None:
            self._drained()

    def _spoil(self, why: str) -> None:
        self._spoiled = why
        raise ValueError(why)  # stops the parser; data_received turns it into the fault

    def pause(self) -> None:
        """Stop reading: the reader of the event stream is behind."""
        if not self._paused and not self.closed:
            self.transport.pause_reading()
            self._paused = True

    def resume(self) -> None:
        """Read again."""
        if self._paused and not self.closed:
            self.transport.resume_reading()
        self._paused = False

    def abort(self, why: str) -> None:
        """Close at once; whoever waits gets a fault."""
        self._spoiled = self._spoiled or why
        if self.reply is not None:
            self.reply.finish(UpstreamFault(self.pool.server, self._spoiled))
        self.transport.abort()
        self.closed = True

    def release(self) -> None:
        """Give the slot back. A stream whose answer was read may end in its own time, for half a second."""
        if not self._held:
            return
        self._held = False
        reply = self.reply
        if reply is not None and reply.events is not None and not reply.complete and reply.fault is None:
            if not self.closed and not self.pool.closing:
                self.resume()
                self._drain = self.loop.call_later(_DRAIN_SECONDS, self.abort, "did not end its stream")
                return
            self.abort("was left mid-stream")
        self._return()

    def leave(self) -> None:
        """The call is over before its answer: close now. For a 2026-07-28 server this is the cancellation."""
        if self._held:
            self.abort("left before the answer")
            self.release()

    def _drained(self) -> None:
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None
            self._return()

    def _return(self) -> None:
        reply, self.reply = self.reply, None
        whole = reply is not None and reply.complete and self._keep and not self._spoiled
        if not whole and not self.closed:
            self.transport.abort()
            self.closed = True
        self.pool.give_back(self)
