"""What a client says first on a connection: read until it is clear whom it wants, and judged before anything leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from limen.adapters.egress_relay import CHUNK
from limen.sandbox import http_requests, tls_hello
from limen.sandbox.egress import Denied, Egress, Route
from limen.sandbox.egress_rules import Rule
from limen.sandbox.http_requests import HttpRefused, Requests
from limen.sandbox.tls_hello import NotTls

_PEEK_SECONDS: Final = 1.0
_READS, _BREATH = 3, 0.02


class Refused(Exception):
    """Ends a connection. `answer` is what the client is told, without a reason."""

    def __init__(self, denied: Denied, answer: bytes = b"") -> None:
        super().__init__(denied.reason)
        self.denied, self.answer = denied, answer


@dataclass(frozen=True, slots=True)
class Opening:
    """A connection that may go on: `first` is sent on, and what follows passes through `filtered`, which may refuse."""

    name: str
    rule: Rule
    first: bytes = b""
    filtered: Callable[[bytes], bytes] | None = None


async def read_opening(reader: asyncio.StreamReader, egress: Egress, route: Route, seconds: float) -> Opening:
    """Raises Refused, also when it takes longer than `seconds`."""
    if route.protocol() == "tcp":
        return Opening(*next(iter(route.rules.items())))
    try:
        async with asyncio.timeout(seconds):
            data = await reader.read(CHUNK)
            if route.protocol(data[0] if data else None) == "tls":
                return await _tls(reader, egress, route, data)
            return await _http(reader, egress, route, data)
    except TimeoutError:
        raise Refused(Denied("hello.slow", route.target)) from None


async def _tls(reader: asyncio.StreamReader, egress: Egress, route: Route, data: bytes) -> Opening:
    try:
        reads = 0
        while (hello := tls_hello.read_hello(data)) is None:
            more = await _next(reader, reads)
            reads += 1
            if not more:
                raise Refused(Denied("tls.malformed", route.target, "it ends within the hello"))
            data += more
    except NotTls as fault:
        reason = "tls.malformed" if fault.tls else "tls.plain"
        raise Refused(Denied(reason, route.target, fault.why), tls_hello.DENIED if fault.tls else b"") from None
    judged = egress.tls(route, hello.name, hello.encrypted)
    if isinstance(judged, Denied):
        raise Refused(judged, tls_hello.DENIED)
    return Opening(hello.name, judged, data)


async def _http(reader: asyncio.StreamReader, egress: Egress, route: Route, data: bytes) -> Opening:
    judged: list[tuple[str, Rule]] = []

    def judge(method: str, host: str, port: int | None) -> None:
        found = egress.http(route, method, host, port)
        if isinstance(found, Denied):
            raise Refused(found, b"" if judged else http_requests.DENIED)
        judged.append((host, found))

    requests = Requests(judge)

    def feed(more: bytes) -> bytes:
        try:
            return requests.feed(more)
        except HttpRefused as fault:
            answer = b"" if judged else http_requests.DENIED
            raise Refused(Denied(fault.reason, route.target, fault.why), answer) from None

    first = feed(data)
    reads = 0
    while not judged:
        data = await _next(reader, reads)
        reads += 1
        if not data:
            raise Refused(Denied("http.malformed", route.target, "it ends within the head"))
        first += feed(data)
    return Opening(*judged[0], first, feed)


async def _next(reader: asyncio.StreamReader, reads: int) -> bytes:
    """More. Who sends byte by byte, as nobody honest does, is read in larger pieces."""
    if reads > _READS:
        await asyncio.sleep(_BREATH)
    return await reader.read(CHUNK)


async def guess_protocol(reader: asyncio.StreamReader) -> str:
    """For proposals: what a client begins to speak, "tcp" where it waits for the other side."""
    try:
        async with asyncio.timeout(_PEEK_SECONDS):
            data = await reader.read(16)
    except TimeoutError:
        return "tcp"
    if data[:1] == b"\x16":
        return "tls"
    word = data.split(b" ", 1)[0]
    return "http" if word.isalpha() and word.isupper() and b" " in data else "tcp"
