"""How one request is answered: the ASGI side of a connection, and a shorter way for answers that are all there."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from limen.gateway.server import Connection

Scope = MutableMapping[str, Any]
Headers = dict[str, list[str]]  # by name in lower case: every value received

STATUS: Final = {
    200: b"OK", 201: b"Created", 202: b"Accepted", 204: b"No Content", 302: b"Found", 303: b"See Other",
    400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden",
    404: b"Not Found", 405: b"Method Not Allowed", 406: b"Not Acceptable", 408: b"Request Timeout",
    413: b"Content Too Large", 415: b"Unsupported Media Type", 417: b"Expectation Failed", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 501: b"Not Implemented",
    502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout", 505: b"HTTP Version Not Supported",
}  # fmt: skip


# Names nearly every request has: looked up rather than decoded and hashed anew each time.
_NAMES: Final = {
    name.encode(): name
    for name in (
        *("host", "user-agent", "accept", "accept-encoding", "content-type", "content-length", "connection", "origin"),
        *("authorization", "mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "x-forwarded-for"),
    )
}


class Request(NamedTuple):
    """One request, whole. `headers` are those of the scope by name; `keep`: whether another may follow."""

    scope: Scope
    headers: Headers
    body: bytes
    keep: bool


def texts(head: list[tuple[bytes, bytes]]) -> Headers:
    """Headers as text, in order. Each byte is one character."""
    found: Headers = {}
    for name, value in head:
        label = _NAMES.get(name) or name.decode("latin-1")
        if label in found:
            found[label].append(value.decode("latin-1"))
        else:
            found[label] = [value.decode("latin-1")]
    return found


class Answer:
    """ASGI `receive` and `send` for one request. A short answer leaves in one write.

    Also the extension `limen.answer`: the request's headers as text, its whole body, and `whole` for an answer that is
    all there. `bare`: the answer has no body.
    """

    __slots__ = ("bare", "body", "chunked", "connection", "finished", "head", "headers", "keep", "read", "started")

    def __init__(self, connection: Connection, request: Request, bare: bool) -> None:
        self.connection, self.headers, self.body, self.bare = connection, request.headers, request.body, bare
        self.keep = request.keep and not connection.server.stopping
        self.head = b""
        self.read = self.started = self.finished = self.chunked = False

    async def receive(self) -> MutableMapping[str, Any]:
        if self.read:
            return {"type": "http.disconnect"}
        self.read = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Raises ConnectionResetError when the client is gone."""
        transport = self._transport()
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
            await self.drained()

    def whole(self, status: int, lines: bytes, body: bytes) -> None:
        """Status, rendered header lines, body. Raises ConnectionResetError when the client is gone."""
        self._transport().write(
            b"HTTP/1.1 %d %s\r\n%scontent-length: %d\r\n%s\r\n%s"
            % (
                status,
                STATUS.get(status, b"Status"),
                lines,
                len(body),
                b"" if self.keep else b"connection: close\r\n",
                b"" if self.bare else body,
            )
        )
        self.started = self.finished = True

    def _transport(self) -> asyncio.Transport:
        if self.connection.transport is None:
            self.finished = True
            raise ConnectionResetError
        return self.connection.transport

    def _head(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        self.chunked = status not in (202, 204) and not any(name == b"content-length" for name, _ in headers)
        lines = [b"HTTP/1.1 %d %s" % (status, STATUS.get(status, b"Status"))]
        lines += [name + b": " + value for name, value in headers]
        if self.chunked:
            lines.append(b"transfer-encoding: chunked")
        if not self.keep:
            lines.append(b"connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n"

    async def drained(self) -> None:
        """A reader that does not read is disconnected: nothing piles up here. Raises ConnectionResetError."""
        try:
            async with asyncio.timeout(self.connection.limits.write_time):
                await self.connection.writable.wait()
        except TimeoutError:
            if self.connection.transport is not None:
                self.connection.transport.abort()
            raise ConnectionResetError from None
