"""Requests of a plain HTTP/1 connection, one after the other: each is judged, and passed on as it was understood.

What leaves here is rendered, never copied: a server behind sees the same requests, with the same lengths, as were
judged (RFC 9112 sections 2 to 7, request smuggling in section 11.2). Answers need not be read: an upgrade, which would
end HTTP on the connection, is not passed on. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

MAX_HEAD: Final = 32 << 10
MAX_HEADERS: Final = 128
MAX_PARTS: Final = 4000  # requests, chunks and their ends, in 64 KiB
DENIED: Final = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]{1,16384}) HTTP/1\.([01])")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_ABSOLUTE: Final = re.compile(rb"(?i:http)://([A-Za-z0-9_.:\[\]-]{1,300})((?:[/?][\x21-\x7e]*)?)")
_AUTHORITY: Final = re.compile(rb"([A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t\x20-\x7e]*)?")
_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"upgrade", b"http2-settings", b"te"}
)


class HttpRefused(Exception):
    """`reason` is one of egress.REASONS; `why` for the operator."""

    def __init__(self, reason: str, why: str = "") -> None:
        super().__init__(why or reason)
        self.reason, self.why = reason, why


Judge = Callable[[str, str, int | None], None]  # method, host in lower case, port if written; raises HttpRefused


class Requests:
    """Bytes of the client in, bytes for the server out. `judge` is asked about every request."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._data = b""
        self._at = 0  # how far it is understood
        self._left = 0  # bytes of the body, or of the chunk
        self._chunked = False
        self._chunk_ends = False
        self._trailer = False
        self.count = 0

    @property
    def between(self) -> bool:
        """Is nothing half said?"""
        return not (self._data or self._left or self._chunked)

    def feed(self, data: bytes) -> bytes:
        """What may be sent on now. Raises HttpRefused, and then nothing more may be."""
        self._data, self._at = self._data[self._at :] + data, 0
        out: list[bytes] = []
        while (part := self._next()) is not None:
            out.append(part)
            if len(out) > MAX_PARTS:
                raise HttpRefused("http.malformed", "too many small parts")
        self._data, self._at = self._data[self._at :], 0
        return b"".join(out)

    def _next(self) -> bytes | None:
        if self._left:
            part = self._data[self._at : self._at + self._left]
            self._at += len(part)
            self._left -= len(part)
            return part or None
        if self._chunked:
            return self._chunk()
        return self._head()

    def _until(self, mark: bytes, limit: int, long: str) -> bytes | None:
        """What stands before the mark, or None while that is not complete."""
        end = self._data.find(mark, self._at, self._at + limit + len(mark))
        if end < 0:
            if len(self._data) - self._at >= limit + len(mark):
                raise HttpRefused("http.malformed", long)
            return None
        found = self._data[self._at : end]
        self._at = end + len(mark)
        return found

    def _chunk(self) -> bytes | None:
        line = self._until(b"\r\n", 256, "a line is too long")
        if line is None:
            return None
        if self._chunk_ends:
            self._chunk_ends = False
            if line:
                raise HttpRefused("http.malformed", "a chunk is longer than it says")
            return b"\r\n"
        if self._trailer:
            if line:
                raise HttpRefused("http.malformed", "fields after the body")
            self._chunked = self._trailer = False
            return b"\r\n"
        size = _SIZE.fullmatch(line)
        if size is None:
            raise HttpRefused("http.malformed", "not the size of a chunk")
        self._left = int(size[1], 16)
        self._trailer, self._chunk_ends = self._left == 0, self._left > 0
        return b"%x\r\n" % self._left

    def _head(self) -> bytes | None:
        if self._at < len(self._data) and not 33 <= self._data[self._at] < 127:
            raise HttpRefused("http.malformed", "it does not begin with a request")
        head = self._until(b"\r\n\r\n", MAX_HEAD, "the head is too large")
        if head is None:
            return None
        lines = head.split(b"\r\n")
        request = _LINE.fullmatch(lines[0])
        if request is None or len(lines) > MAX_HEADERS:
            raise HttpRefused("http.malformed", "not an HTTP/1 request")
        method, target, minor = request[1].decode("ascii"), request[2], request[3]
        fields = [_field(line) for line in lines[1:]]
        self.count += 1
        if method == "CONNECT":
            raise HttpRefused("http.connect")
        host = self._host(fields)
        target = self._target(target, host, method)
        self._body(fields, minor)
        self._judge(method, *host)
        closes = any(name.lower() == b"connection" and b"close" in value.lower() for name, value in fields)
        kept = [b"%s: %s" % field for field in fields if field[0].lower() not in _HOP]
        if closes:
            kept.append(b"Connection: close")
        return b"\r\n".join([b"%s %s HTTP/1.%s" % (request[1], target, minor), *kept, b"", b""])

    def _host(self, fields: list[tuple[bytes, bytes]]) -> tuple[str, int | None]:
        hosts = [value for name, value in fields if name.lower() == b"host"]
        if len(hosts) != 1:
            raise HttpRefused("http.host", "it names no host, or more than one")
        return _authority(hosts[0])

    def _target(self, target: bytes, host: tuple[str, int | None], method: str) -> bytes:
        """In origin form (RFC 9112 section 3.2)."""
        if target.startswith(b"/") or (target == b"*" and method == "OPTIONS"):
            return target
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise HttpRefused("http.malformed", "not a target")
        name, port = _authority(absolute[1])
        if (name, port or 80) != (host[0], host[1] or 80):
            raise HttpRefused("http.host", "target and Host differ")
        path = absolute[2]
        return path if path.startswith(b"/") else b"/" + path

    def _body(self, fields: list[tuple[bytes, bytes]], minor: bytes) -> None:
        lengths = [value for name, value in fields if name.lower() == b"content-length"]
        codings = [value for name, value in fields if name.lower() == b"transfer-encoding"]
        if codings:
            if lengths or len(codings) > 1 or codings[0].lower() != b"chunked" or minor == b"0":
                raise HttpRefused("http.malformed", "a body whose length can be read in two ways")
            self._chunked = True
        elif lengths:
            if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,15}", lengths[0]):
                raise HttpRefused("http.malformed", "not one length")
            self._left = int(lengths[0])


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise HttpRefused("http.malformed", "not a header field")
    return name, value.strip(b" \t")


def _authority(value: bytes) -> tuple[str, int | None]:
    found = _AUTHORITY.fullmatch(value)
    if found is None:
        raise HttpRefused("http.host", "not a host")
    return found[1].decode("ascii").lower().strip("[]"), int(found[2]) if found[2] else None
