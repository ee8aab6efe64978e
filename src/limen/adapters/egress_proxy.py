"""The only way out of a cell: every connection its programs make ends here, whatever they think they connected to.

Runs on the gateway's event loop. What may pass is decided in `limen.sandbox.egress`; this carries bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address
from typing import Final

from limen.adapters.egress_dns import Lookup, Responder, SystemLookup, UdpEndpoint, is_own
from limen.adapters.egress_intake import Intake
from limen.adapters.egress_opening import Opening, Refused, guess_protocol, read_opening
from limen.adapters.egress_relay import Relay, Stopped, Streams
from limen.adapters.egress_report import Record, Report
from limen.core.addresses import Address
from limen.sandbox import stage_network
from limen.sandbox.egress import Denied, Egress, Route
from limen.sandbox.egress_rules import DNS_PORT, EgressSettings
from limen.sandbox.stage_network import Opened

DIAL_SECONDS: Final = 5.0  # for each address
_TRIES: Final = 3
DNS_SECONDS: Final = 10.0
DNS_QUESTIONS: Final = 50  # on one TCP connection

Dial = Callable[[Address, int], Awaitable[Streams]]
Barred = Callable[[], Awaitable[str]]  # "", or the id of why nothing may leave at all now


async def open_as_configured() -> str:
    """Nobody can cut this network."""
    return ""


async def dial_directly(address: Address, port: int) -> Streams:
    """Connect to exactly this address: no name is resolved again. Raises OSError."""
    return await asyncio.open_connection(str(address), port)


class EgressGate:
    """The network of one configured server, for all of its cells.

    `ports` is what `stage_network.enter` needs; empty: no network at all, and nothing to attach. `record` takes events
    for the audit. `counters` counts for watching: allowed, refused, each reason, sent and received bytes.
    """

    def __init__(
        self,
        server: str,
        settings: EgressSettings,
        record: Record,
        *,
        lookup: Lookup | None = None,
        dial: Dial = dial_directly,
        barred: Barred = open_as_configured,
    ) -> None:
        """`barred` is asked before every connection and every DNS question; `sever` ends what is open."""
        self.server, self.settings = server, settings
        self.ports = settings.ports
        self.counters: Counter[str] = Counter()
        self._egress = Egress(server, settings, is_own)
        self._record, self._lookup, self._dial, self._barred = record, lookup or SystemLookup(), dial, barred
        self._numbers = itertools.count(1)
        self._cells: set[Cell] = set()

    def attach(self, opened: Opened) -> Cell:
        """Take over the listeners of a new cell, before it is released. Close what this returns when the cell ended."""
        report = Report(self._egress, next(self._numbers), self._record, self.counters)
        cell = Cell(self._egress, opened, report, self._lookup, self._dial, self._barred, self._cells.discard)
        self._cells.add(cell)
        return cell

    async def attend(self, spec: object, sockets: Sequence[socket.socket]) -> Callable[[], None]:
        """For a launcher: take what the stage of a new cell sent. What is returned ends the cell's network.

        Raises OSError where these are not the listeners of a cell, or the server is to have no network.
        """
        opened = stage_network.checked(list(sockets))
        if not self.ports:
            opened.close()
            raise OSError(f"{self.server} is to have no network")
        return self.attach(opened).end

    def sever(self) -> None:
        """End every connection. New ones are another matter: `barred` says whether there may be any."""
        for cell in list(self._cells):
            cell.sever()

    @property
    def cells(self) -> int:
        """How many cells are attached."""
        return len(self._cells)

    async def close(self) -> None:
        """Close every cell's network."""
        await asyncio.gather(*(cell.close() for cell in list(self._cells)))


class Cell:
    """The network of one running server."""

    def __init__(
        self,
        egress: Egress,
        opened: Opened,
        report: Report,
        lookup: Lookup,
        dial: Dial,
        barred: Barred,
        gone: Callable[[Cell], None],
    ) -> None:
        self._egress, self._report, self._dial, self._barred, self._gone = egress, report, dial, barred, gone
        self._opened, self._limits = opened, egress.settings.limits
        self._memory = egress.memory()
        ipv6 = any(one.family == socket.AF_INET6 for one in opened.tcp)
        self._responder = Responder(egress, self._memory, lookup, report.refused, barred, ipv6=ipv6)
        self._udp = [UdpEndpoint(one, self._responder) for one in opened.udp]
        self._tcp = [Intake(one, self._memory.opened, self._taker(one), self._over) for one in opened.tcp]
        self._connections: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Task[None] | None = None

    def _taker(self, listener: socket.socket) -> Callable[[], bool]:
        def take() -> bool:
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            task = asyncio.create_task(self._accepted(accepted))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
            return True

        return take

    def _over(self) -> None:
        self._report.refused(Denied("connect.rate", "the network", f"the limit is {self._limits.opened} a second"))

    def end(self) -> None:
        """Refuse from now on, and end everything behind. May be called twice."""
        if self._ending is None:
            for listener in self._tcp:
                listener.close()
            for endpoint in self._udp:
                endpoint.close()
            self._responder.close()
            self._ending = asyncio.get_running_loop().create_task(self._end())

    def sever(self) -> None:
        """End every connection; the listeners stay."""
        for task in list(self._connections):
            task.cancel()

    async def close(self) -> None:
        """`end`, and wait until that is done."""
        self.end()
        assert self._ending is not None
        await self._ending

    async def _end(self) -> None:
        for task in (waiting := list(self._connections)):
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        self._opened.close()
        self._report.closed()
        self._gone(self)

    async def _accepted(self, accepted: socket.socket) -> None:
        host, port = accepted.getsockname()[:2]
        if len(self._connections) > self._limits.connections:
            self._report.refused(Denied("connect.many", f"{host}:{port}", f"the limit is {self._limits.connections}"))
            accepted.close()
            return
        try:
            reader, writer = await _streams(accepted)
        except OSError:
            accepted.close()
            return
        try:
            await self._connection((reader, writer), ip_address(host.partition("%")[0]), port)
        except Refused as end:
            self._report.refused(end.denied)
            await self._say(writer, end.answer)
        except (OSError, EOFError):
            self._report.counters["broken"] += 1  # the client went away
        except Exception as error:  # noqa: BLE001 - our own bug ends this connection and nothing else
            self._report.refused(Denied("fault.bug", f"{host}:{port}", f"{type(error).__name__}: {error}"))
        finally:
            writer.transport.abort()

    async def _say(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        """The last word, if the client takes it within a second."""
        if answer:
            with contextlib.suppress(OSError, TimeoutError):
                writer.write(answer)
                async with asyncio.timeout(1.0):
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()

    async def _connection(self, inside: Streams, address: Address, port: int) -> None:
        if port == DNS_PORT:
            await self._names(inside)
            return
        if why := await self._barred():
            raise Refused(Denied(why, f"{address}:{port}"))
        route = self._egress.connect(address, port, self._memory, time.monotonic())
        if isinstance(route, Denied):
            if route.reason == "learn.wanted":
                route = Denied(route.reason, route.target, await guess_protocol(inside[0]))
            raise Refused(route)
        opening = await read_opening(inside[0], self._egress, route, self._limits.hello)
        if not self._report.allowed(route, opening.name, opening.rule):
            raise Refused(Denied("fault.audit", route.target))
        relay = Relay(self._limits, self._memory.sent, self._memory.received)
        began = time.monotonic()
        try:
            outside = await self._dialled(route, opening.name)
            try:
                await self._carry(relay, inside, outside, opening)
            finally:
                outside[1].transport.abort()
        except Stopped as end:
            raise Refused(Denied(end.reason, route.target, "", opening.rule.text)) from None
        finally:
            self._report.ended(route, opening.name, relay.sent, relay.received, time.monotonic() - began)

    async def _dialled(self, route: Route, name: str) -> Streams:
        """Inside, every connect succeeds at once: clients cannot try the next address of a name, so it is done here."""
        others = self._egress.others(route, name, self._memory, time.monotonic())
        why = ""
        for address in (route.address, *others[: _TRIES - 1]):
            try:
                async with asyncio.timeout(DIAL_SECONDS):
                    return await self._dial(address, route.port)
            except (OSError, TimeoutError) as error:
                why = str(error) or "no answer in time"
        raise Refused(Denied("connect.failed", route.target, why))

    async def _carry(self, relay: Relay, inside: Streams, outside: Streams, opening: Opening) -> None:
        if opening.first:
            relay.out(len(opening.first))
            outside[1].write(opening.first)
        await relay.run(inside, outside, opening.filtered)
        await self._flushed(inside[1])
        await self._flushed(outside[1])

    async def _flushed(self, writer: asyncio.StreamWriter) -> None:
        """What is left to be taken by the other side, if it takes it in time."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._limits.idle):
                writer.close()
                await writer.wait_closed()

    async def _names(self, inside: Streams) -> None:
        """DNS over TCP (RFC 7766)."""
        reader, writer = inside
        with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError):
            for _ in range(DNS_QUESTIONS):
                async with asyncio.timeout(DNS_SECONDS):
                    message = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                    if not self._responder.bucket.take(time.monotonic()):
                        self._responder.over()
                        return
                    answer = await self._responder.answer(message)
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    await writer.drain()


async def _streams(accepted: socket.socket) -> Streams:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
