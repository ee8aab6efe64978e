"""One message to a configured web hook: any 2xx is an answer. Addresses can be secrets, so faults name hosts only."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from limen.adapters.wire import FAULTS, converse, verifying, write_request
from limen.core.addresses import is_loopback
from limen.core.faults import DependencyFault

_MOST: Final = 64 << 10
_AGAIN: Final = frozenset({408, 409, 425, 429})  # statuses of 4xx that are good another time


class Hooks:
    """Implements incidents.delivery.Hook. https with a verified certificate, or http to this machine; no redirects."""

    def __init__(self, *, timeout: float = 10.0, tls: ssl.SSLContext | None = None) -> None:
        self._timeout, self._tls = timeout, verifying(tls)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Raises DependencyFault: not `retryable` where the receiver will not take this message as it is, with
        `retry_after` where it asked for time."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = {"Content-Type": "application/json", **headers}
        request = write_request("POST", parts.netloc, target, "*/*", lines, body)
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_connection(host, port, ssl=self._tls if secure else None)
                try:
                    if not secure and not is_loopback(str(writer.get_extra_info("peername")[0])):
                        raise DependencyFault("alerts", f"{host}: plain http to another machine", retryable=False)
                    answer = await converse(reader, writer, request, host, _MOST)
                finally:
                    writer.transport.abort()
        except TimeoutError:
            raise DependencyFault("alerts", f"{host}: no answer within {self._timeout} s") from None
        except FAULTS as error:
            raise DependencyFault("alerts", f"{host}: {type(error).__name__}") from None
        if not 200 <= answer.status < 300:
            lasting = 300 <= answer.status < 500 and answer.status not in _AGAIN
            away = answer.headers.get("retry-after", "")
            wait = min(float(away), 3600.0) if away.isascii() and away.isdigit() and len(away) < 10 else 0.0
            message = f"{host}: status {answer.status}"
            raise DependencyFault("alerts", message, retryable=not lasting, retry_after=wait)
