"""Server-sent events, read from bytes as they come (WHATWG HTML section 9.2.6), bounded.

Only LF, CRLF and CR end a line. Anything that splits on more (U+2028, NEL, form feed) sees other events than the
server sent.
"""

from __future__ import annotations

import re
from typing import Final

EVENT_LIMIT: Final = 4 << 20
RETRY_LONGEST: Final = 3_600_000
_END: Final = re.compile(rb"\r\n|\n|\r")


class EventTooLarge(ValueError):
    """One event exceeds the limit."""


class EventBuffer:
    """Bytes in, the data of `message` events out. Nothing is parsed before it is asked for."""

    __slots__ = ("_bytes", "_data", "_kind", "_limit", "_scanned", "_size", "_skip", "_started", "retry")

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self._bytes = bytearray()
        self._scanned = 0
        self._skip = False  # a CR ended the last line: an LF that follows belongs to it
        self._started = False
        self._data: list[bytes] = []
        self._size = 0
        self._kind = b""
        self._limit = limit
        self.retry = 0  # milliseconds to leave between the end of the stream and the next one, as last told

    def __len__(self) -> int:
        return len(self._bytes)

    def feed(self, data: bytes) -> None:
        """More of the stream."""
        self._bytes += data

    def next(self) -> bytes | None:
        """The data of the next complete event, or None until more is fed. Raises EventTooLarge."""
        while (line := self._line()) is not None:
            if line:
                self._field(line)
                continue
            data, kind = self._data, self._kind
            self._data, self._size, self._kind = [], 0, b""
            if data and kind in (b"", b"message") and any(data):
                return b"\n".join(data)
        if len(self._bytes) + self._size > self._limit:
            raise EventTooLarge(f"an event larger than {self._limit} bytes")
        return None

    def _line(self) -> bytes | None:
        buffer = self._bytes
        if self._skip and buffer:
            if buffer[0] == 0x0A:
                del buffer[:1]
            self._skip = False
        if not self._started:
            if len(buffer) < 3 and b"\xef\xbb\xbf".startswith(bytes(buffer)):
                return None
            if buffer.startswith(b"\xef\xbb\xbf"):
                del buffer[:3]
            self._started = True
        found = _END.search(buffer, self._scanned)
        if found is None:
            self._scanned = len(buffer)
            return None
        start, stop = found.span()
        line = bytes(buffer[:start])
        self._skip = stop == len(buffer) and buffer[stop - 1] == 0x0D
        del buffer[:stop]
        self._scanned = 0
        return line

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value) + 1
            if self._size > self._limit:
                raise EventTooLarge(f"an event larger than {self._limit} bytes")
            self._data.append(value)
        elif name == b"event":
            self._kind = value[:64]
        elif name == b"retry" and value.isdigit():
            self.retry = min(int(value[:12]), RETRY_LONGEST)
