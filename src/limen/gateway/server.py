"""HTTP/1.1 server for the gateway's ASGI application, on httptools, with every bound a hostile client needs met.

Plain uvicorn has no limit on header size with httptools and no header or body timeout. Here a request is handed to the
application whole and only when it is unambiguous: one length, known framing, bounded headers, in time. A connection
that broke framing is answered once and closed, so nothing after it can be read as a request (request smuggling).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import unquote_to_bytes

import httptools

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_STATUS: Final = {
    200: b"OK", 202: b"Accepted", 204: b"No Content", 400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden",
    404: b"Not Found", 405: b"Method Not Allowed", 406: b"Not Acceptable", 408: b"Request Timeout",
    413: b"Content Too Large", 415: b"Unsupported Media Type", 417: b"Expectation Failed", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 501: b"Not Implemented",
    502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout", 505: b"HTTP Version Not Supported",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Sizes in bytes, times in seconds."""

    header_bytes: int = 32 << 10
    headers: int = 100
    body: int = 4 << 20
    header_time: float = 10.0
    body_time: float = 15.0
    idle_time: float = 60.0
    write_time: float = 30.0
    connections: int = 4096
    pipelined: int = 16
    drain_time: float = 20.0


class Bad(Exception):
    """This connection cannot be trusted to frame requests any more."""

    def __init__(self, status: int) -> None:
        self.status = status


class HttpServer:
    """Listens, counts connections, shuts down gracefully."""

    def __init__(self, app: App, limits: ServerLimits | None = None) -> None:
        self.app, self.limits = app, limits or ServerLimits()
        self.connections: set[Connection] = set()
        self.stopping = False
        self.empty = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Bind and accept. Returns the port (for port 0). Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), host, port, ssl=tls, backlog=1024, ssl_handshake_timeout=10 if tls else None
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Accept nothing new, let calls in flight finish, then close what is left."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close_if_idle()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.limits.drain_time):
                    await self.empty.wait()
        for connection in list(self.connections):
            connection.abort()


class Connection(asyncio.Protocol):
    """One client connection; parses, bounds, and runs one request at a time."""

    def __init__(self, server: HttpServer) -> None:
        self.server, self.limits = server, server.limits
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self.waiting: deque[tuple[Scope, bytes]] = deque()
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self.on_disconnect: Callable[[], None] | None = None
        self.peer = ""
        self.scheme = "http"
        self.keep = True
        self.broken = 0
        self._reset()

    def _reset(self) -> None:
        self.url = b""
        self.head: list[tuple[bytes, bytes]] = []
        self.head_bytes = self.fed = 0
        self.parts: list[bytes] = []
        self.body_bytes = 0
        self.in_headers = True

    # connection life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if peer else ""
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        if self.server.stopping or len(self.server.connections) >= self.limits.connections:
            transport.abort()
            return
        self.server.connections.add(self)
        self.server.empty.clear()
        self._arm(self.limits.header_time)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        if not self.server.connections:
            self.server.empty.set()
        self._disarm()
        self.writable.set()
        self.transport = None
        if self.on_disconnect is not None:
            self.on_disconnect()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def close_if_idle(self) -> None:
        """Close now if nothing is being answered; else after the answer."""
        self.keep = False
        if self.task is None and self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close at once, whatever is going on."""
        if self.task is not None:
            self.task.cancel()
        if self.transport is not None:
            self.transport.abort()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self.timer = self.loop.call_later(seconds, self._late)

    def _disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _late(self) -> None:
        if self.task is None:
            begun = bool(self.fed)
            self._fail(408 if begun else 0)

    # parsing

    def data_received(self, data: bytes) -> None:
        if self.broken:
            return
        self.fed += len(data)
        try:
            self.parser.feed_data(data)
            if self.in_headers and self.fed > self.limits.header_bytes:
                self._fail(431)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._fail(cause.status if isinstance(cause, Bad) else 400)
        except httptools.HttpParserUpgrade:
            self._fail(400)
        except httptools.HttpParserError:
            self._fail(400)

    def on_message_begin(self) -> None:
        self._reset()
        if len(self.waiting) >= self.limits.pipelined:
            raise Bad(400)
        if self.task is None:
            self._arm(self.limits.header_time)

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > 8192:
            raise Bad(431)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.head.append((name.lower(), value))
        self.head_bytes = (
            sum(map(len, self.head[-1])) + self.head_bytes if len(self.head) > 1 else len(name) + len(value)
        )
        if len(self.head) > self.limits.headers or self.head_bytes > self.limits.header_bytes:
            raise Bad(431)

    def on_headers_complete(self) -> None:
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            raise Bad(505)
        names = [name for name, _ in self.head]
        lengths = [value for name, value in self.head if name == b"content-length"]
        codings = [value for name, value in self.head if name == b"transfer-encoding"]
        if codings and (lengths or len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
            raise Bad(400)
        if len(lengths) > 1 or any(not value.isdigit() for value in lengths):
            raise Bad(400)
        if lengths and int(lengths[0][:20]) > self.limits.body:
            raise Bad(413)
        if b"upgrade" in names or any(b"\0" in value or b"\r" in value or b"\n" in value for _, value in self.head):
            raise Bad(400)
        if any(b"_" in name for name in names):  # `Mcp_Name` is `Mcp-Name` to some readers
            self.head = [(name, value) for name, value in self.head if b"_" not in name]
        self.in_headers = False
        self._arm(self.limits.body_time)
        if (b"expect", b"100-continue") in self.head and self.transport is not None and self.task is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self.body_bytes += len(body)
        if self.body_bytes > self.limits.body:
            raise Bad(413)
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self._disarm()
        path, _, query = self.url.partition(b"?")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": self.parser.get_http_version(),
            "method": self.parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "path": unquote_to_bytes(path).decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "headers": self.head,
            "client": (self.peer, 0),
            "extensions": {"limen.on_disconnect": self._watch},
        }
        keep = self.parser.should_keep_alive()
        scope["keep"] = keep
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self._reset()
        self.waiting.append((scope, body))
        if self.task is None:
            self._next()
        elif self.transport is not None:
            self.transport.pause_reading()

    def _watch(self, callback: Callable[[], None] | None) -> None:
        self.on_disconnect = callback

    def _next(self) -> None:
        if not self.waiting or self.transport is None:
            self.task = None
            if self.transport is not None:
                if self.broken:
                    self._fail(self.broken)
                elif not self.keep or self.server.stopping:
                    self.transport.close()
                else:
                    self.transport.resume_reading()
                    self._arm(self.limits.idle_time)
            return
        scope, body = self.waiting.popleft()
        self.task = self.loop.create_task(self._run(scope, body))

    async def _run(self, scope: Scope, body: bytes) -> None:
        answer = Answer(self, bool(scope["keep"]) and not self.server.stopping, scope["method"] == "HEAD")
        messages = deque([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> MutableMapping[str, Any]:
            return messages.popleft() if messages else {"type": "http.disconnect"}

        try:
            await self.server.app(scope, receive, answer.send)
            if not answer.finished:
                raise RuntimeError("the application gave no answer")
        except asyncio.CancelledError:
            if self.transport is not None:
                self.transport.abort()
            self.task = None
            return
        except Exception as error:  # noqa: BLE001 - process entry point: one request must not take others down
            self.loop.call_exception_handler({"message": "request failed", "exception": error})
            if answer.started and self.transport is not None:
                self.transport.abort()
            self.broken = self.broken or 500
        self.on_disconnect = None
        self.keep = self.keep and answer.keep
        if not self.keep:
            self.waiting.clear()
        self._next()

    def _fail(self, status: int) -> None:
        """Answer a broken request once, after any answer that is under way, and close."""
        self._disarm()
        self.broken, self.keep = status or 408, False
        if self.task is not None or self.transport is None:
            return
        if status:
            text = _STATUS.get(status, b"Error")
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
                % (status, text, len(text), text)
            )
        self.transport.close()


class Answer:
    """ASGI `send` for one request. A short answer leaves in one write."""

    __slots__ = ("bare", "chunked", "connection", "finished", "head", "keep", "started")

    def __init__(self, connection: Connection, keep: bool, bare: bool) -> None:
        self.connection, self.keep, self.bare = connection, keep, bare
        self.head = b""
        self.started = self.finished = self.chunked = False

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Raises ConnectionResetError when the client is gone."""
        transport = self.connection.transport
        if transport is None:
            self.finished = True
            raise ConnectionResetError
        if message["type"] == "http.response.start":
            self.head = self._head(message["status"], message.get("headers", []))
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        out = b"" if self.bare else body
        if self.chunked and not self.bare:
            out = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        transport.write(self.head + out)
        self.head, self.started = b"", True
        self.finished = not more
        if not self.connection.writable.is_set():
            await self._drained()

    def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        self.chunked = status not in (202, 204) and not any(name == b"content-length" for name, _ in headers)
        lines = [b"HTTP/1.1 %d %s" % (status, _STATUS.get(status, b"Status"))]
        lines += [name + b": " + value for name, value in headers]
        if self.chunked:
            lines.append(b"transfer-encoding: chunked")
        if not self.keep:
            lines.append(b"connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n"

    async def _drained(self) -> None:
        """A reader that does not read is disconnected: nothing piles up here."""
        try:
            async with asyncio.timeout(self.connection.limits.write_time):
                await self.connection.writable.wait()
        except TimeoutError:
            if self.connection.transport is not None:
                self.connection.transport.abort()
            raise ConnectionResetError from None


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.3 only. Raises OSError or ssl.SSLError when the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    return context
