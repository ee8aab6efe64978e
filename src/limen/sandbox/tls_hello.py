"""What a TLS client says first, read without TLS: whom it wants (RFC 8446 section 4.1.2, RFC 6066 section 3).

Anything a server could read differently is refused: the name that is judged must be the name that is served.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MAX_BYTES: Final = 24 << 10  # post-quantum key shares and many extensions take 2 to 4 KiB
MAX_RECORDS: Final = 32
DENIED: Final = b"\x15\x03\x01\x00\x02\x02\x31"  # alert: fatal, access_denied
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _ECH = 22, 1, 0, 0xFE0D
_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63}){0,127}")


class Hello(NamedTuple):
    """`name` in lower case, "" where none is named. `encrypted`: another hello is inside, or pretended (GREASE)."""

    name: str
    encrypted: bool


class NotTls(Exception):
    """The bytes do not begin a TLS connection we can read; `why` for the operator."""

    def __init__(self, why: str, *, tls: bool = True) -> None:
        super().__init__(why)
        self.why, self.tls = why, tls


def read_hello(data: bytes) -> Hello | None:
    """The hello at the beginning of `data`, or None while it is not complete. Raises NotTls."""
    message, at, records = b"", 0, 0
    while at < len(data):
        if data[at] != _HANDSHAKE or (len(data) > at + 1 and data[at + 1] != 3):
            raise NotTls("it does not begin with a TLS handshake", tls=at > 0)
        if len(data) < at + 5:
            break
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        records += 1
        if not 0 < size <= 1 << 14 or records > MAX_RECORDS:
            raise NotTls("records of an impossible size or number")
        message += data[at + 5 : at + 5 + size]
        if message[0] != _CLIENT_HELLO if message else False:
            raise NotTls("it does not begin with a ClientHello")
        if len(message) >= 4:
            length = int.from_bytes(message[1:4], "big")
            if length > MAX_BYTES:
                raise NotTls("the ClientHello is too large")
            if len(message) > 4 + length:
                raise NotTls("something follows the ClientHello in its own record")
            if len(message) == 4 + length:
                if len(data) < at + 5 + size:
                    raise NotTls("the record goes on after the ClientHello")
                return _parsed(message[4:])
        at += 5 + size
    if len(data) > MAX_BYTES:
        raise NotTls("the ClientHello is too large")
    return None


class _Reader:
    """Fields one after the other. Raises NotTls where one is cut off."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        self._at += count
        if len(found) < count:
            raise NotTls("the ClientHello is cut off within")
        return found

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))


def _parsed(body: bytes) -> Hello:
    hello = _Reader(body)
    if hello.number(2) >> 8 != 3:
        raise NotTls("an unknown version")
    hello.take(32)
    hello.vector(1)  # session
    suites, compressions = hello.vector(2), hello.vector(1)
    if not suites or len(suites) % 2 or not compressions:
        raise NotTls("no cipher suites")
    if not hello.more:
        return Hello("", False)
    block = hello.vector(2)
    if hello.more:
        raise NotTls("something follows the extensions")
    extensions, found = _Reader(block), dict[int, bytes]()
    while extensions.more:
        kind = extensions.number(2)
        if kind in found:
            raise NotTls("an extension stands there twice")
        found[kind] = extensions.vector(2)
    return Hello(_server_name(found[_SERVER_NAME]) if _SERVER_NAME in found else "", _ECH in found)


def _server_name(data: bytes) -> str:
    outer = _Reader(data)
    names = _Reader(outer.vector(2))
    kind, name = names.number(1), names.vector(2)
    if outer.more or names.more or kind != 0:
        raise NotTls("more than one server name")
    text = name.decode("ascii", "replace").lower()
    if len(text) > 253 or not _NAME.fullmatch(text):
        raise NotTls("the server name is not a host name")
    return text
