"""One HTTP exchange over asyncio streams, within bounds. Who may be asked is for the caller of this to decide."""

from __future__ import annotations

import re
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from typing import Final

import httptools

from limen import __version__
from limen.core.faults import DependencyFault
from limen.core.ports import Fetched

PORT: Final = "fetch"
FAULTS: Final = (
    OSError,
    httptools.HttpParserError,
    httptools.HttpParserUpgrade,
)  # of the wire, besides DependencyFault
_CHUNK: Final = 64 << 10
_SECONDS: Final = re.compile(rb"[0-9]{1,9}")
_LONGEST_AWAY: Final = 3600.0


def verifying(tls: ssl.SSLContext | None) -> ssl.SSLContext:
    """The context given, or the system's. Raises ValueError for one that does not verify."""
    tls = tls or ssl.create_default_context()
    if tls.verify_mode is not ssl.CERT_REQUIRED or not tls.check_hostname:
        raise ValueError("certificates must be verified")
    return tls


def write_request(method: str, netloc: str, target: str, accept: str, lines: Mapping[str, str], body: bytes) -> bytes:
    """The bytes of a request; an Accept among `lines` goes before `accept`.

    Raises DependencyFault for a header that cannot be sent, and never quotes it.
    """
    asked = [name for name in lines if name.lower() == "accept"]
    headers = {
        "Host": netloc,
        "Accept": lines[asked[0]] if asked else accept,
        "Accept-Encoding": "identity",
        "User-Agent": f"limen/{__version__}",
        "Connection": "close",
    }
    own = {name.lower() for name in headers} | {"content-length", "transfer-encoding"}
    for name, value in lines.items():
        if name in asked:
            continue
        if name.lower() in own or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise DependencyFault(PORT, f"{netloc}: a header that cannot be sent", retryable=False)
        headers[name] = value
    if any(not value.isascii() or not value.isprintable() for value in headers.values()):
        raise DependencyFault(PORT, f"{netloc}: a header that cannot be sent", retryable=False)
    if method != "GET":
        headers["Content-Length"] = str(len(body))
    head = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(head) + "\r\n\r\n").encode("ascii") + body


async def converse(
    reader: StreamReader, writer: StreamWriter, request: bytes, host: str, max_size: int, *, only_ok: bool = False
) -> Fetched:
    """Send it and read one answer. With `only_ok`, every status but 200 is a fault as soon as it is known.

    Raises DependencyFault for an answer that is encoded, cut off, of unknown length, framed in two ways, too large, or
    followed by more; and FAULTS. Bounds no time.
    """
    writer.write(request)
    answer = _Answer(host, max_size, only_ok)
    parser = httptools.HttpResponseParser(answer)
    received = 0
    while not answer.complete:
        data = await reader.read(_CHUNK)
        received += len(data)
        if not data or received > 4 * max_size:
            raise DependencyFault(PORT, f"{host}: the answer is cut off, of unknown length, or too large")
        parser.feed_data(data)
        if answer.headers_read and not answer.status:
            answer.status = parser.get_status_code()
        answer.judge()
    return Fetched(answer.status, answer.headers, b"".join(answer.body))


class _Answer:
    """Collects one response within bounds. Callback names are httptools'."""

    def __init__(self, host: str, max_size: int, only_ok: bool) -> None:
        self.host, self.left, self.only_ok = host, max_size, only_ok
        self.status, self.headers_read, self.complete = 0, False, False
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []
        self.refusal = ""
        self.retry_after = 0.0

    def on_message_begin(self) -> None:
        if self.complete:
            self.refusal = "more than one answer"

    def on_header(self, name: bytes, value: bytes) -> None:
        label, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        if label == "retry-after" and _SECONDS.fullmatch(value.strip()):
            self.retry_after = min(float(value), _LONGEST_AWAY)
        if label == "content-encoding" and text.lower() != "identity":
            self.refusal = "an encoded body, which was not asked for"
        if label == "transfer-encoding" and text.lower() != "chunked":
            self.refusal = "a transfer encoding other than chunked"
        framing = {"content-length", "transfer-encoding"}
        if label in framing and not framing.isdisjoint(self.headers):
            self.refusal = "a body framed in two ways"
        # RFC 9110 section 5.3: several lines of one name are one list.
        self.headers[label] = f"{self.headers[label]}, {text}" if label in self.headers else text

    def on_headers_complete(self) -> None:
        self.headers_read = True

    def on_body(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left < 0:
            self.refusal = "the body is too large"
        else:
            self.body.append(data)

    def on_message_complete(self) -> None:
        self.complete = True

    def judge(self) -> None:
        """Raises DependencyFault as soon as this cannot become a good answer."""
        if self.headers_read and (self.status < 200 or (self.only_ok and self.status != 200)):
            raise DependencyFault(PORT, f"{self.host}: status {self.status}", retry_after=self.retry_after)
        if self.refusal:
            raise DependencyFault(PORT, f"{self.host}: {self.refusal}")
