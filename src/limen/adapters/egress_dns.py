"""The name server of a cell: answers for allowed names, with real addresses that were looked at first.

Names are looked up by the operating system's resolver, never by the cell. What is answered is pinned for the cell; a
connection to anything else is refused. Record types other than addresses are never asked for outside: there is no
TXT to carry data, and no HTTPS record to carry keys for an encrypted hello.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from limen.adapters.egress_intake import Intake
from limen.core.addresses import Address
from limen.sandbox import dns_wire
from limen.sandbox.dns_wire import AAAA, NOERROR, NXDOMAIN, SERVFAIL, A, Question
from limen.sandbox.egress import ANSWER_TTL, LEARN_TTL, Bucket, Denied, Egress, Memory

LOOKUP_SECONDS: Final = 5.0
LOOKUPS: Final = 8  # at a time, per gate; one that hangs keeps its place until the operating system gives up
IN_FLIGHT: Final = 64
_REMEMBERED: Final = 30.0
_IP_PKTINFO, _IPV6_FREEBIND = 8, 78  # linux/in.h, in6.h
_QUIET: Final = frozenset({A, AAAA, dns_wire.HTTPS, dns_wire.SVCB})  # what ordinary clients ask for

Lookup = Callable[[str], Awaitable[list[Address]]]


class SystemLookup:
    """Addresses of a name by getaddrinfo, `places` of them at a time. Raises OSError, TimeoutError.

    `absolute`: as if it ended in a dot, so no search list applies and what only /etc/hosts knows is not found.
    """

    def __init__(self, timeout: float = LOOKUP_SECONDS, *, places: int = LOOKUPS, absolute: bool = True) -> None:
        self._timeout, self._dot = timeout, "." if absolute else ""
        self._places = threading.BoundedSemaphore(places)

    async def __call__(self, name: str) -> list[Address]:
        """Those of its addresses this machine has a route to, each once."""
        if not self._places.acquire(blocking=False):
            raise OSError("too many names are being looked up")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Address]] = loop.create_future()

        def settle(found: list[Address], error: OSError | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(found)

        def work() -> None:
            found: list[Address] = []
            error = None
            try:
                found = _resolve(name + self._dot)
            except OSError as fault:
                error = fault
            except UnicodeError:
                error = OSError("not a name")
            finally:
                self._places.release()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
                loop.call_soon_threadsafe(settle, found, error)

        threading.Thread(target=work, name="egress-lookup", daemon=True).start()
        async with asyncio.timeout(self._timeout):
            return await done


def _resolve(name: str) -> list[Address]:
    rows = socket.getaddrinfo(name.encode("ascii"), None, type=socket.SOCK_STREAM)
    found = dict.fromkeys(ip_address(str(row[4][0]).partition("%")[0]) for row in rows)
    return [address for address in found if _has_route(address)]


def _has_route(address: Address) -> bool:
    """In a cell every connect succeeds at once, so a client cannot find out by itself that IPv6 leads nowhere."""
    return bool(_source(address))


def is_own(address: Address) -> bool:
    """Is it an address of this machine? Then the kernel would send to it from the same address."""
    return _source(address) == str(address)


def _source(address: Address) -> str:
    """The address this machine would send from, "" without a route. Sends nothing."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


class Responder:
    """Answers the questions of one cell."""

    def __init__(
        self,
        egress: Egress,
        memory: Memory,
        lookup: Lookup,
        refuse: Callable[[Denied], None],
        barred: Callable[[], Awaitable[str]],
        *,
        ipv6: bool,
    ) -> None:
        self._egress, self._memory, self._lookup, self._refuse, self._ipv6 = egress, memory, lookup, refuse, ipv6
        self._barred = barred
        self._known: dict[str, tuple[float, list[Address]]] = {}
        self._asking: dict[str, asyncio.Task[list[Address]]] = {}

    @property
    def bucket(self) -> Bucket:
        """How many questions may be taken."""
        return self._memory.questions

    def over(self) -> None:
        """More arrive than may be taken: they wait."""
        self._refuse(Denied("dns.rate", "DNS", f"the limit is {self.bucket.rate} a second"))

    async def answer(self, message: bytes) -> bytes:
        """What to send back; b"" for nothing. Never raises but CancelledError."""
        try:
            question = dns_wire.read_question(message)
        except dns_wire.Unreadable as fault:
            self._refuse(Denied("dns.malformed", "a DNS question"))
            return fault.answer
        if why := await self._barred():
            self._refuse(Denied(why, _shown(question.name)))
            return dns_wire.write_answer(question, NXDOMAIN)
        denied = self._egress.question(question.name, self._memory, time.monotonic())
        if denied is not None:
            return self._denied(question, denied)
        if question.type not in (A, AAAA):
            if question.type not in _QUIET:
                self._refuse(Denied("dns.type", _shown(question.name), f"type {question.type}"))
            return dns_wire.write_answer(question, NOERROR)
        return await self._addresses(question)

    def _denied(self, question: Question, denied: Denied) -> bytes:
        self._refuse(Denied(denied.reason, _shown(denied.target), denied.detail, denied.rule))
        if self._egress.learning and denied.reason == "dns.not_allowed" and "." in question.name:
            sinks = [self._memory.sink(question.name)] if question.type == A else []
            return dns_wire.write_answer(question, NOERROR, sinks, LEARN_TTL)
        return dns_wire.write_answer(question, NXDOMAIN)

    async def _addresses(self, question: Question) -> bytes:
        try:
            found = await self._resolved(question.name)
        except (OSError, TimeoutError) as fault:
            missing = isinstance(fault, socket.gaierror) and fault.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
            self._refuse(Denied("dns.failed", _shown(question.name), str(fault) or "no answer in time"))
            return dns_wire.write_answer(question, NXDOMAIN if missing else SERVFAIL)
        kept, odd = self._egress.usable(question.name, found)
        if odd:
            self._refuse(Denied("dns.address", question.name, odd))
        if not kept:
            return dns_wire.write_answer(question, NXDOMAIN if odd else NOERROR)
        kind = IPv4Address if question.type == A else IPv6Address
        wanted = [one for one in kept if isinstance(one, kind)][: dns_wire.MAX_ANSWERS]
        if question.type == AAAA and not self._ipv6:
            wanted = []
        self._memory.pin(question.name, wanted, time.monotonic())
        return dns_wire.write_answer(question, NOERROR, wanted, ANSWER_TTL)

    async def _resolved(self, name: str) -> list[Address]:
        """Looked up once for A, AAAA and whoever else asks meanwhile."""
        now = time.monotonic()
        until, found = self._known.get(name, (0.0, []))
        if now < until:
            return found
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._ask(name))
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        return await asyncio.shield(task)

    async def _ask(self, name: str) -> list[Address]:
        found = await self._lookup(name)
        if len(self._known) >= 1024:
            self._known.clear()
        self._known[name] = time.monotonic() + _REMEMBERED, found
        return found

    def close(self) -> None:
        """Stop waiting."""
        for task in list(self._asking.values()):
            task.cancel()


class UdpEndpoint:
    """One UDP socket of a cell. Answers leave from the address that was asked, whichever that was."""

    def __init__(self, sock: socket.socket, responder: Responder) -> None:
        self._socket, self._responder = sock, responder
        self._six = sock.family == socket.AF_INET6
        self._tasks: set[asyncio.Task[None]] = set()
        if self._six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)  # IPv6 wants the address on an interface otherwise
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self._intake = Intake(sock, responder.bucket, self._take, responder.over)

    def _take(self) -> bool:
        data, control, _, peer = self._socket.recvmsg(dns_wire.MAX_QUESTION + 1, 256)
        if len(self._tasks) < IN_FLIGHT:  # else lost, as datagrams may be; the client asks again
            task = asyncio.create_task(self._serve(data, control, peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    async def _serve(self, data: bytes, control: list[tuple[int, int, bytes]], peer: object) -> None:
        answer = await self._responder.answer(data)
        if answer:
            with contextlib.suppress(OSError):  # the client is gone
                self._socket.sendmsg([answer], self._from(control), 0, peer)  # type: ignore[arg-type]  # typeshed: Any

    def _from(self, control: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
        for level, kind, data in control:
            if self._six and (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                return [(level, kind, data[:16] + struct.pack("=I", 0))]
            if not self._six and (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                return [(level, kind, struct.pack("=I", 0) + data[8:12] + bytes(4))]
        return []

    def close(self) -> None:
        """Stop answering and close the socket."""
        self._intake.close()
        for task in self._tasks:
            task.cancel()


def _shown(name: str) -> str:
    """A name as it may be recorded: data that is being carried out is not repeated in full."""
    return name if len(name) <= 120 else f"{name[:60]}...{name[-50:]}"
