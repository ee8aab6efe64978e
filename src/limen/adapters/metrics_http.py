"""GET /metrics on loopback, for a Prometheus on this machine or one that comes through a proxy of its own."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from typing import Final

from limen.audit.exposition import CONTENT_TYPE
from limen.core.faults import DependencyFault

_HEAD: Final = 8 << 10  # bytes a request may have
_SECONDS: Final = 5.0
_AT_ONCE: Final = 8


class MetricsServer:
    """One answer a connection. `hosts` are the names it answers to, so that no page of a browser can read it through a
    name of its own (DNS rebinding)."""

    def __init__(self, host: str, port: int, text: Callable[[], str]) -> None:
        self._host, self._port, self._text, self._open = host, port, text, 0
        self.port = port

    async def run(self) -> None:
        """Until cancelled. Raises DependencyFault when the address is taken."""
        try:
            server = await asyncio.start_server(self._serve, self._host, self._port, limit=_HEAD)
        except OSError as error:
            raise DependencyFault("metrics", f"{self._host}:{self._port}: {error.strerror or error}") from None
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _AT_ONCE:
                async with asyncio.timeout(_SECONDS):
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                    writer.write(self._answer(head))
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # whoever that was, there is nobody to tell
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, head: str) -> bytes:
        line, _, rest = head.partition("\r\n")
        words = line.split(" ")
        hosts = [one.partition(":")[2].strip() for one in rest.split("\r\n") if one.lower().startswith("host:")]
        own = {f"{name}:{self.port}" for name in ("localhost", self._host, f"[{self._host}]")}
        if len(hosts) != 1 or hosts[0].lower() not in own:
            return _response("421 Misdirected Request", "text/plain", b"")
        if len(words) != 3 or words[0] not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", "text/plain", b"")
        if words[1].partition("?")[0] != "/metrics":
            return _response("404 Not Found", "text/plain", b"")
        return _response("200 OK", CONTENT_TYPE, self._text().encode(), words[0] == "HEAD")


def _response(status: str, kind: str, body: bytes, head_only: bool = False) -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (b"" if head_only else body)
