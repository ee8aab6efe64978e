"""Fetch over asyncio streams: one bounded exchange with a configured URL, no redirects, no proxies, no cookies."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, quote_plus, urlencode, urlsplit

from limen.adapters.wire import FAULTS, PORT, converse, verifying, write_request
from limen.core.addresses import is_loopback
from limen.core.faults import DependencyFault

_ACCEPT: Final = "application/json, application/jwk-set+json"


class HttpFetch:
    """Implements ports.Fetch. Every failure is a DependencyFault that names the host, never the content."""

    def __init__(self, *, timeout: float = 5.0, max_size: int = 512 << 10, tls: ssl.SSLContext | None = None) -> None:
        self._timeout, self._max_size = timeout, max_size
        self._tls = verifying(tls)

    async def get_json(self, url: str) -> bytes:
        """The body of a 200 answer. https with a verified certificate, or http where the peer is this machine.

        Raises DependencyFault: other schemes, any other status (a redirect too), an encoded, truncated or too large
        body, or too long a wait.
        """
        return await self._bounded("GET", url, {}, b"")

    async def post_form(self, url: str, form: Mapping[str, str], user: str, password: str) -> bytes:
        """The body of a 200 answer to a form, under the same bounds as `get_json`.

        Basic credentials are form-encoded first (RFC 6749 section 2.3.1). Raises DependencyFault.
        """
        basic = b64encode(f"{quote_plus(user)}:{quote_plus(password)}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
        return await self._bounded("POST", url, headers, urlencode(form).encode())

    async def post_json(self, url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """The body of a 200 answer to this JSON, under the same bounds as `get_json`. Raises DependencyFault, with
        `retry_after` where the other side named seconds (RFC 9110 section 10.2.3)."""
        return await self._bounded("POST", url, {**headers, "Content-Type": "application/json"}, body)

    async def _bounded(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> bytes:
        parts, host, port = _target(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = write_request(method, parts.netloc, target, _ACCEPT, headers, body)
        try:
            async with asyncio.timeout(self._timeout):
                return await self._exchange(parts, host, port, request)
        except TimeoutError:
            raise DependencyFault(PORT, f"{host}: no answer within {self._timeout} s") from None
        except FAULTS as error:
            raise DependencyFault(PORT, f"{host}: {type(error).__name__}: {error}") from None

    async def _exchange(self, parts: SplitResult, host: str, port: int, request: bytes) -> bytes:
        secure = parts.scheme == "https"
        reader, writer = await asyncio.open_connection(host, port, ssl=self._tls if secure else None)
        try:
            if not secure and not is_loopback(str(writer.get_extra_info("peername")[0])):
                raise DependencyFault(PORT, f"{host}: plain http to another machine", retryable=False)
            return (await converse(reader, writer, request, host, self._max_size, only_ok=True)).body
        finally:
            writer.transport.abort()


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
        raise DependencyFault(PORT, f"unusable URL: {error}", retryable=False) from None
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise DependencyFault(PORT, f"{host}: https is needed (http only on loopback)", retryable=False)
    return parts, host, port or (443 if parts.scheme == "https" else 80)
