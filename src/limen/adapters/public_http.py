"""Exchange with an address that somebody else named: looked up once, every address checked, and that one connected to.

The one way out for URLs of strangers (client metadata documents, what an upstream server says about its own
authorization server). There is no second look-up between the check and the connection, so a name that changes its
mind in between (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from typing import Final

from limen.adapters.egress_dns import Lookup, SystemLookup, is_own
from limen.adapters.wire import FAULTS, PORT, converse, verifying, write_request
from limen.core.addresses import Address, kind
from limen.core.faults import DependencyFault
from limen.core.ports import Fetched
from limen.core.urls import Url, read_url

_TRIED: Final = 3  # of a name's addresses
_LOOKUPS: Final = 64  # at a time; names whose servers hang keep theirs until the operating system gives up
_LOOPBACK: Final = tuple(map(ip_address, ("127.0.0.1", "::1")))
_INSIDE: Final = frozenset({"private", "loopback"})

Connect = Callable[[Address, int, ssl.SSLContext | None, str], Awaitable[tuple[StreamReader, StreamWriter]]]


async def _connect(
    address: Address, port: int, tls: ssl.SSLContext | None, name: str
) -> tuple[StreamReader, StreamWriter]:
    """To this address; its certificate has to be the name's."""
    return await asyncio.open_connection(str(address), port, ssl=tls, server_hostname=name if tls else None)


class PublicHttp:
    """Implements ports.Exchange: https to public addresses that are not this machine's own. Every failure is a
    DependencyFault that names the host.

    `private`: for addresses an operator configured. Private networks and this machine may be asked as well, and
    plain http on loopback; link-local addresses, those of cloud metadata and those that carry another never.
    `timeout` bounds all of one exchange, in seconds; `max_size` the body, in bytes.
    """

    def __init__(
        self,
        *,
        private: bool = False,
        timeout: float = 5.0,
        max_size: int = 64 << 10,
        tls: ssl.SSLContext | None = None,
        lookup: Lookup | None = None,
        connect: Connect = _connect,
    ) -> None:
        self._private, self._timeout, self._max_size = private, timeout, max_size
        self._tls = verifying(tls)
        self._lookup: Lookup = lookup or SystemLookup(timeout, places=_LOOKUPS, absolute=not private)
        self._connect = connect

    async def get(self, url: str, accept: str = "application/json") -> Fetched:
        """The answer, whatever its status; a redirect is not followed. Raises DependencyFault."""
        return await self._bounded("GET", url, accept, {}, b"")

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        """The answer to this body, whatever its status. Raises DependencyFault."""
        return await self._bounded("POST", url, "application/json", headers, body)

    async def _bounded(self, method: str, url: str, accept: str, headers: Mapping[str, str], body: bytes) -> Fetched:
        target = self._read(url)
        netloc = url.partition("://")[2].partition("/")[0].partition("?")[0]
        path = (target.path or "/") + ("" if target.query is None else f"?{target.query}")
        request = write_request(method, netloc, path, accept, headers, body)
        try:
            async with asyncio.timeout(self._timeout):
                return await self._exchange(target, request)
        except TimeoutError:
            raise DependencyFault(PORT, f"{target.host}: no answer within {self._timeout} s") from None
        except FAULTS as error:
            raise DependencyFault(PORT, f"{target.host}: {type(error).__name__}: {error}") from None

    def _read(self, url: str) -> Url:
        try:
            target = read_url(url)
        except ValueError as error:
            raise DependencyFault(PORT, f"unusable URL: {error}", retryable=False) from None
        plain = self._private and target.scheme == "http" and target.loopback
        if target.scheme != "https" and not plain:
            raise DependencyFault(PORT, f"{target.host}: https is needed", retryable=False)
        return target

    async def _exchange(self, target: Url, request: bytes) -> Fetched:
        addresses = await self._addresses(target)
        tls = self._tls if target.scheme == "https" else None
        port = target.port or (443 if tls else 80)
        for last, address in enumerate(addresses[:_TRIED], 1 - len(addresses[:_TRIED])):
            try:
                reader, writer = await self._connect(address, port, tls, target.host)
                break
            except ssl.SSLError:
                raise  # who answers there is not who was asked for: no other address makes that good
            except OSError:
                if last == 0:
                    raise
        try:
            return await converse(reader, writer, request, target.host, self._max_size)
        finally:
            writer.transport.abort()

    async def _addresses(self, target: Url) -> list[Address]:
        """What the host stands for, looked up this once. One address that must not be asked refuses them all: a name
        that stands for inside and outside at once is an attempt to get in."""
        if target.address is not None:
            found = [target.address]
        elif target.host == "localhost":
            found = list(_LOOPBACK)  # RFC 6761 section 6.3: never asked of anybody
        else:
            found = await self._lookup(target.host)
        if not found:
            raise DependencyFault(PORT, f"{target.host}: no address")
        for address in found:
            what = kind(address)
            if self._private:
                what = "" if what in _INSIDE else what
            elif not what and is_own(address):
                what = "this machine's own"
            if what or (target.scheme == "http" and not address.is_loopback):
                raise DependencyFault(PORT, f"{target.host}: a {what or 'distant'} address", retryable=False)
        return found
