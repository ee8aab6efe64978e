"""HTTP/1.1 server for the gateway's ASGI application, on httptools, with every bound a hostile client needs met.

Plain uvicorn has no limit on header size with httptools and no header or body timeout. Here a request is handed to the
application whole and only when it is unambiguous: one length, known framing, bounded headers, in time. A connection
that broke framing is answered once and closed, so nothing after it can be read as a request (request smuggling).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import unquote_to_bytes

import httptools

from limen.core.faults import DependencyFault
from limen.gateway.answer import STATUS, Answer, Headers, Request, Scope, texts
from limen.gateway.certificates import thumbprint

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NEVER: Final = math.inf
_ASGI: Final = {"version": "3.0"}


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
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        shortest = min(self.limits.header_time, self.limits.body_time, self.limits.idle_time)
        self._tick = max(0.01, min(0.25, shortest / 4))

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Bind and accept. Returns the port (for port 0). Raises DependencyFault."""
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                lambda: Connection(self), host, port, ssl=tls, backlog=1024, ssl_handshake_timeout=10 if tls else None
            )
        except OSError as error:
            raise DependencyFault("listen", f"cannot listen on {host}, port {port}: {error.strerror}") from error
        self._servers = [server]
        return int(server.sockets[0].getsockname()[1])

    async def renew(self, tls: ssl.SSLContext) -> None:
        """Meet new connections with this from now on; those there are keep what they have. The sockets stay the same,
        so none that is on its way is turned away. Raises OSError."""
        loop, before = asyncio.get_running_loop(), self._servers
        same = [os.dup(one.fileno()) for server in before for one in server.sockets]
        self._servers = [
            await loop.create_server(
                lambda: Connection(self),
                sock=socket.socket(fileno=one),
                ssl=tls,
                backlog=1024,
                ssl_handshake_timeout=10,
            )
            for one in same
        ]
        for server in before:
            server.close()

    def watch(self) -> None:
        """See to it that late connections are noticed, a quarter of a second after their time at most."""
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self._tick, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = asyncio.get_running_loop().time()
        for connection in [one for one in self.connections if one.due <= now]:
            connection.late()
        if self.connections:
            self.watch()

    async def stop(self) -> None:
        """Accept nothing new, let calls in flight finish, then close what is left."""
        self.stopping = True
        for server in self._servers:
            server.close()
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
        self.server, self.limits, self.most = server, server.limits, server.limits.headers
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self.waiting: deque[Request] = deque()
        self.task: asyncio.Task[None] | None = None
        self.due = NEVER  # the loop's time by which what we wait for must have come; looked at by the server's sweep
        self.paused = False
        self.writable = asyncio.Event()
        self.writable.set()
        self.on_disconnect: Callable[[], None] | None = None
        self.peer = ""
        self.scheme = "http"
        self.certificate = ""
        self.keep = True
        self.broken = 0
        self._reset()

    def _reset(self) -> None:
        self.url, self.version = b"", ""
        self.head: list[tuple[bytes, bytes]] = []
        self.given: list[tuple[bytes, bytes]] = []  # the head, once it is whole
        self.headers: Headers = {}
        self.room, self.fed = self.limits.header_bytes, 0  # bytes its head may still have; bytes that came
        self.parts: list[bytes] = []
        self.body_bytes = 0
        self.in_headers = True
        self.expects = False

    # connection life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if peer else ""
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        if (session := transport.get_extra_info("ssl_object")) is not None:
            self.certificate = thumbprint(session.getpeercert(True))
        if self.server.stopping or len(self.server.connections) >= self.limits.connections:
            transport.abort()
            return
        self.server.connections.add(self)
        self.server.empty.clear()
        self.server.watch()
        self._arm(self.limits.header_time)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        if not self.server.connections:
            self.server.empty.set()
        self.due = NEVER
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
        self.due = self.loop.time() + seconds

    def late(self) -> None:
        """What we waited for did not come."""
        self.due = NEVER
        if self.task is None:
            self._fail(408 if self.fed else 0)

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
        head = self.head
        head.append((name.lower(), value))
        self.room -= len(name) + len(value)
        if self.room < 0 or len(head) > self.most:
            raise Bad(431)

    def on_headers_complete(self) -> None:
        self.version = self.parser.get_http_version()
        if self.version not in ("1.1", "1.0"):
            raise Bad(505)
        names, values = zip(*self.head, strict=True) if self.head else ((), ())
        joined = b"".join(values)
        if b"\0" in joined or b"\r" in joined or b"\n" in joined:
            raise Bad(400)
        if b"_" in b"".join(names):  # `Mcp_Name` is `Mcp-Name` to some readers
            self.head = [(name, value) for name, value in self.head if b"_" not in name]
        self.given, self.headers = self.head, texts(self.head)
        self.head = []  # what comes from here on is trailers: bounded, and read by nobody
        self._framed(self.headers)
        self.in_headers = False
        self._arm(self.limits.body_time)
        if self.expects and self.transport is not None and self.task is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _framed(self, headers: Headers) -> None:
        """One length or one known coding, and no other protocol. Raises Bad."""
        lengths, codings = headers.get("content-length", ()), headers.get("transfer-encoding", ())
        if "upgrade" in headers:
            raise Bad(400)
        if codings and (lengths or len(codings) > 1 or codings[0].strip().lower() != "chunked"):
            raise Bad(400)
        if len(lengths) > 1 or (lengths and not (lengths[0].isascii() and lengths[0].isdigit())):
            raise Bad(400)
        if lengths and int(lengths[0][:20]) > self.limits.body:
            raise Bad(413)
        self.expects = headers.get("expect", ())[-1:] == ["100-continue"]

    def on_body(self, body: bytes) -> None:
        self.body_bytes += len(body)
        if self.body_bytes > self.limits.body:
            raise Bad(413)
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.due = NEVER
        path, _, query = self.url.partition(b"?")
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        scope: Scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": self.version,
            "method": self.parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "path": (unquote_to_bytes(path) if b"%" in path else path).decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "headers": self.given,
            "client": (self.peer, 0),
        }
        self.waiting.append(Request(scope, self.headers, body, self.parser.should_keep_alive()))
        self._reset()
        if self.task is None:
            self._next()
        elif self.transport is not None:
            self.paused = True
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
                    if self.paused:
                        self.paused = False
                        self.transport.resume_reading()
                    self._arm(self.limits.idle_time)
            return
        self.task = self.loop.create_task(self._run(self.waiting.popleft()))

    async def _run(self, request: Request) -> None:
        scope = request.scope
        answer = Answer(self, request, scope["method"] == "HEAD")
        scope["extensions"] = {
            "limen.on_disconnect": self._watch,
            "limen.answer": answer,
            "limen.certificate": self.certificate,
        }
        try:
            await self.server.app(scope, answer.receive, answer.send)
            if not answer.finished:
                raise RuntimeError("the application gave no answer")
            if not self.writable.is_set():
                await answer.drained()
        except ConnectionResetError:
            answer.keep = False
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
        self.due = NEVER
        self.broken, self.keep = status or 408, False
        if self.task is not None or self.transport is None:
            return
        if status:
            text = STATUS.get(status, b"Error")
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
                % (status, text, len(text), text)
            )
        self.transport.close()


def tls_context(certificate: str, key: str, client_ca: str | None = None, *, required: bool = False) -> ssl.SSLContext:
    """TLS 1.3 only. Raises OSError or ssl.SSLError when the files cannot be used.

    With `client_ca` clients are asked for a certificate of these authorities; one of others ends the handshake, and so
    does none at all if one is `required`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        context.load_verify_locations(client_ca)
        context.num_tickets = 0  # a resumed session would bring its certificate along unverified, expired or not
    return context
