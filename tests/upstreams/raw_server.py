"""An HTTP server that does exactly what a test tells it, byte by byte, and keeps what it received."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

INFO = {"name": "raw", "version": "0"}
TOOLS = [{"name": "echo", "inputSchema": {"type": "object"}}]


@dataclass
class Asked:
    """One request as received."""

    verb: str
    path: str
    head: bytes
    body: bytes
    server: RawServer = field(repr=False)
    writer: asyncio.StreamWriter = field(repr=False)
    connection: int = 0

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body)) if self.body else {}

    @property
    def method(self) -> str:
        return str(self.json.get("method", ""))

    def header(self, name: str) -> str | None:
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name:
                return value.strip()
        return None

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, value: Any, status: int = 200, *headers: str, kind: str = "application/json") -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        await self.send(head(status, f"content-type: {kind}", f"content-length: {len(body)}", *headers) + body)

    async def result(self, result: Any, *headers: str) -> None:
        await self.reply({"jsonrpc": "2.0", "id": self.json["id"], "result": result}, 200, *headers)

    async def error(self, code: int, status: int = 200) -> None:
        await self.reply(
            {"jsonrpc": "2.0", "id": self.json.get("id"), "error": {"code": code, "message": "no"}}, status
        )

    async def accept(self) -> None:
        await self.send(head(202, "content-length: 0"))

    async def stream(self, *headers: str) -> None:
        await self.send(head(200, "content-type: text/event-stream", "transfer-encoding: chunked", *headers))

    async def event(self, value: Any) -> None:
        data = value if isinstance(value, bytes) else b"data: " + json.dumps(value).encode() + b"\n\n"
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")


def head(status: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", *headers, "", ""]).encode()


Handler = Callable[[Asked], Awaitable[None]]


class RawServer:
    """`async with RawServer(handler) as server`: `handler` gets what `protocol` does not answer."""

    def __init__(
        self, handler: Handler, *, modern: bool = True, session: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.handler, self.modern, self.session, self.tls = handler, modern, session, tls
        self.asked: list[Asked] = []
        self.raw = bytearray()
        self.connections = 0
        self.gone = asyncio.Event()
        self.sessions = 0

    async def __aenter__(self) -> RawServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls, limit=1 << 24)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self.tls else 'http'}://localhost:{self.port}/mcp"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def methods(self) -> list[str]:
        return [asked.method or asked.verb for asked in self.asked]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while True:
                top = await reader.readuntil(b"\r\n\r\n")
                line = top.split(b"\r\n", 1)[0].decode().split(" ")
                asked = Asked(line[0], line[1], top, b"", self, writer, number)
                asked.body = await reader.readexactly(int(asked.header("content-length") or 0))
                self.raw += top + asked.body
                self.asked.append(asked)
                await (self.handler if not await self.protocol(asked) else nothing)(asked)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.gone.set()
            writer.close()

    async def protocol(self, asked: Asked) -> bool:
        """The honest part: discovery, handshake, lists."""
        method = asked.method
        if method == "server/discover" and self.modern:
            hello = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "serverInfo": INFO}
            await asked.result({"resultType": "complete", **hello})
        elif method == "server/discover":
            await asked.error(-32601, 400)
        elif method == "initialize" and not self.modern:
            self.sessions += 1
            extra = (f"mcp-session-id: {self.session}-{self.sessions}",) if self.session else ()
            hello = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": INFO}
            await asked.result(hello, *extra)
        elif method == "notifications/initialized":
            await asked.accept()
        elif method == "tools/list":
            await asked.result({"tools": TOOLS, "resultType": "complete"})
        elif asked.verb == "DELETE":
            await asked.send(head(200, "content-length: 0"))
        elif method == "notifications/cancelled":
            await asked.accept()
        else:
            return False
        return True


async def nothing(_: Asked) -> None:
    """Already answered."""


async def echo(asked: Asked) -> None:
    """The honest answer to a call."""
    await asked.result({"content": [{"type": "text", "text": "ok"}], "resultType": "complete"})
