"""Fetch over asyncio streams: one bounded exchange with a configured URL, no redirects, no proxies, no cookies."""

from __future__ import annotations

import asyncio
import re
import ssl
from base64 import b64encode
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, quote_plus, urlencode, urlsplit

import httptools

from limen import __version__
from limen.core.faults import DependencyFault
from limen.core.ports import Fetched

_CHUNK: Final = 64 << 10
_PORT: Final = "fetch"
_SECONDS: Final = re.compile(rb"[0-9]{1,9}")
_LONGEST_AWAY: Final = 3600.0


class HttpFetch:
    """Implements ports.Fetch and, for addresses an operator configured, ports.Exchange.

    Every failure is a DependencyFault that names the host, never the content.
    """

    def __init__(self, *, timeout: float = 5.0, max_size: int = 512 << 10, tls: ssl.SSLContext | None = None) -> None:
        self._timeout, self._max_size = timeout, max_size
        self._tls = tls or ssl.create_default_context()
        if self._tls.verify_mode is not ssl.CERT_REQUIRED or not self._tls.check_hostname:
            raise ValueError("certificates must be verified")

    async def get_json(self, url: str) -> bytes:
        """The body of a 200 answer. https with a verified certificate, or http where the peer is this machine.

        Raises DependencyFault: other schemes, any other status (a redirect too), an encoded, truncated or too large
        body, or too long a wait.
        """
        parts, host, port = _target(url)
        return await self._bounded(parts, host, port, _request("GET", parts))

    async def post_form(self, url: str, form: Mapping[str, str], user: str, password: str) -> bytes:
        """The body of a 200 answer to a form, under the same bounds as `get_json`.

        Basic credentials are form-encoded first (RFC 6749 section 2.3.1). Raises DependencyFault.
        """
        parts, host, port = _target(url)
        basic = b64encode(f"{quote_plus(user)}:{quote_plus(password)}".encode()).decode()
        body = urlencode(form).encode()
        lines = (
            f"Authorization: Basic {basic}",
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(body)}",
        )
        return await self._bounded(parts, host, port, _request("POST", parts, *lines) + body)

    async def post_json(self, url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """The body of a 200 answer to this JSON, under the same bounds as `get_json`. Raises DependencyFault, with
        `retry_after` where the other side named seconds (RFC 9110 section 10.2.3)."""
        parts, host, port = _target(url)
        if any(not value.isascii() or not value.isprintable() for value in headers.values()):
            raise DependencyFault(_PORT, f"{host}: a header that cannot be sent", retryable=False)
        lines = [f"{name}: {value}" for name, value in headers.items()]
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return await self._bounded(parts, host, port, _request("POST", parts, *lines) + body)

    async def get(self, url: str, accept: str = "application/json") -> Fetched:
        """ports.Exchange for configured addresses: any status is an answer, under the same bounds as `get_json`."""
        parts, host, port = _target(url)
        answer = _Answer(host, self._max_size, any_status=True)
        body = await self._bounded(parts, host, port, _request("GET", parts), answer)
        return Fetched(answer.status, answer.headers, body)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        """The same for POST. Raises DependencyFault."""
        parts, host, port = _target(url)
        if any(not value.isascii() or not value.isprintable() for value in headers.values()):
            raise DependencyFault(_PORT, f"{host}: a header that cannot be sent", retryable=False)
        lines = [f"{name}: {value}" for name, value in headers.items() if name.lower() != "accept"]
        request = _request("POST", parts, *lines, f"Content-Length: {len(body)}") + body
        answer = _Answer(host, self._max_size, any_status=True)
        received = await self._bounded(parts, host, port, request, answer)
        return Fetched(answer.status, answer.headers, received)

    async def _bounded(
        self, parts: SplitResult, host: str, port: int, request: bytes, answer: _Answer | None = None
    ) -> bytes:
        answer = answer or _Answer(host, self._max_size)
        try:
            async with asyncio.timeout(self._timeout):
                return await self._exchange(parts, host, port, request, answer)
        except TimeoutError:
            raise DependencyFault(_PORT, f"{host}: no answer within {self._timeout} s") from None
        except (OSError, httptools.HttpParserError) as error:
            raise DependencyFault(_PORT, f"{host}: {type(error).__name__}: {error}") from None

    async def _exchange(self, parts: SplitResult, host: str, port: int, request: bytes, answer: _Answer) -> bytes:
        secure = parts.scheme == "https"
        reader, writer = await asyncio.open_connection(host, port, ssl=self._tls if secure else None)
        try:
            if not secure and not _is_loopback(str(writer.get_extra_info("peername")[0])):
                raise DependencyFault(_PORT, f"{host}: plain http to another machine", retryable=False)
            writer.write(request)
            parser = httptools.HttpResponseParser(answer)
            received = 0
            while not answer.complete:
                data = await reader.read(_CHUNK)
                received += len(data)
                if not data or received > 4 * self._max_size:
                    raise DependencyFault(_PORT, f"{host}: the answer is cut off, of unknown length, or too large")
                parser.feed_data(data)
                answer.status = parser.get_status_code() if answer.headers_read else 0
                answer.judge()
            return b"".join(answer.body)
        finally:
            writer.transport.abort()


class _Answer:
    """Collects one response within bounds. Callback names are httptools'."""

    def __init__(self, host: str, max_size: int, *, any_status: bool = False) -> None:
        self.host, self.left, self._any_status = host, max_size, any_status
        self.headers: dict[str, str] = {}
        self.status, self.headers_read, self.complete = 0, False, False
        self.body: list[bytes] = []
        self.refusal = ""
        self.retry_after = 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._any_status:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()
        if name.lower() == b"retry-after" and _SECONDS.fullmatch(value.strip()):
            self.retry_after = min(float(value), _LONGEST_AWAY)
        if name.lower() == b"content-encoding" and value.strip().lower() != b"identity":
            self.refusal = "an encoded body, which was not asked for"

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
        if self.headers_read and self.status != 200 and not self._any_status:
            raise DependencyFault(_PORT, f"{self.host}: status {self.status}", retry_after=self.retry_after)
        if self.refusal:
            raise DependencyFault(_PORT, f"{self.host}: {self.refusal}")


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address.casefold() == "localhost"


def _target(url: str) -> tuple[SplitResult, str, int]:
    """Host and port to connect to. Raises DependencyFault for a URL that must not be fetched."""
    try:
        if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            raise ValueError("not printable ASCII")
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        if not host or parts.username is not None or parts.password is not None:
            raise ValueError("no host, or a user")
    except ValueError as error:
        raise DependencyFault(_PORT, f"unusable URL: {error}", retryable=False) from None
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise DependencyFault(_PORT, f"{host}: https is needed (http only on loopback)", retryable=False)
    return parts, host, port or (443 if parts.scheme == "https" else 80)


def _request(method: str, parts: SplitResult, *more: str) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = (
        f"{method} {target} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Accept: application/json, application/jwk-set+json",
        "Accept-Encoding: identity",
        f"User-Agent: limen/{__version__}",
        "Connection: close",
        *more,
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
