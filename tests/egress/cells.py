"""Real cells without the sandbox around them: a namespace made by stage_network, programs in it, servers outside."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from limen.adapters.egress_proxy import Cell, EgressGate
from limen.core.addresses import Address
from limen.sandbox import stage_network
from limen.sandbox.egress_rules import EgressSettings

PUBLIC, OTHER, SIX = "93.184.216.34", "93.184.216.35", "2606:2800:220:1::1"
_HELLO = b'{"stage":"network","version":1}\n'
STAGE = """
import importlib.util, os, socket, sys
spec = importlib.util.spec_from_file_location("stage_network", sys.argv[1])
stage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stage)
channel = socket.socket(fileno=int(sys.argv[2]))
ports = tuple(int(port) for port in sys.argv[3].split(",") if port)
listeners = stage.enter(ports)
socket.send_fds(channel, [b'{"stage":"network","version":1}\\n'], [one.fileno() for one in listeners])
for one in listeners:
    one.close()
if channel.recv(2) != b"go":
    raise OSError("network: the gateway did not take the listeners")
channel.close()
os.execvp(sys.argv[4], sys.argv[4:])
"""


def receive(channel: socket.socket, timeout: float = 10.0) -> stage_network.Opened:
    """The listeners the stage above sends, each checked to be one. Blocks; it goes on after `go`.

    Raises OSError: too late, malformed, or something that is not a listener.
    """
    channel.settimeout(timeout)
    data, numbers, flags, _ = socket.recv_fds(channel, len(_HELLO), 253, socket.MSG_CMSG_CLOEXEC)
    found: list[socket.socket] = []
    try:
        while numbers:
            found.append(socket.socket(fileno=numbers[0]))
            numbers.pop(0)
        if flags & socket.MSG_CTRUNC or data + _exactly(channel, len(_HELLO) - len(data)) != _HELLO:
            raise OSError("network: what the stage sent cannot be read")
    except OSError:
        for one in found:
            one.close()
        for number in numbers:
            os.close(number)
        raise
    return stage_network.checked(found)


def _exactly(channel: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = channel.recv(count - len(data))
        if not more:
            raise OSError("network: the other side is gone")
        data += more
    return data


@functools.cache
def namespaces() -> bool:
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, "-Urn", "true"], capture_output=True, timeout=10).returncode == 0


needs_namespaces = pytest.mark.skipif(not namespaces(), reason="user namespaces, or unshare (util-linux), are missing")


def needs(program: str) -> Any:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is missing")


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


def in_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Run an async test on the gateway's event loop."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        uvloop.run(test(*args, **kwargs))

    return run


@dataclass
class Done:
    status: int
    out: str
    err: str


@dataclass
class World:
    """Names, servers behind addresses, and what the gate recorded. Addresses that were dialled are in `dialled`."""

    folder: Path
    names: dict[str, list[str]] = field(default_factory=dict)
    ports: dict[tuple[str, int], int] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    bytes_in: int = 0

    async def lookup(self, name: str) -> list[Address]:
        self.asked.append(name)
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [ip_address(one) for one in self.names[name]]

    async def dial(self, address: Address, port: int) -> Any:
        self.dialled.append((str(address), port))
        if (str(address), port) not in self.ports:
            raise ConnectionRefusedError("nobody there")
        return await asyncio.open_connection("127.0.0.1", self.ports[str(address), port])

    def reasons(self) -> list[str]:
        return [event["reason"] for event in self.events if "reason" in event]

    def gate(self, egress: Any, **limits: Any) -> EgressGate:
        given = {"allow": egress} if isinstance(egress, list) else dict(egress)
        settings = EgressSettings.model_validate({**given, **({"limits": limits} if limits else {})})
        return EgressGate("files", settings, self.events.append, lookup=self.lookup, dial=self.dial)

    @asynccontextmanager
    async def serve(self, address: str, port: int, *names: str, raw: Any = None) -> AsyncIterator[None]:
        """A server at this address: HTTP, behind TLS where names are given; or `raw` as it is."""
        context = None
        if names:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority().issue_cert(*names).configure_cert(context)
        server = await asyncio.start_server(raw or self._http, "127.0.0.1", 0, ssl=context, limit=1 << 20)
        self.ports[address, port] = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head)
                body = await _body(reader, head.lower())
                self.bytes_in += len(body)
                path = head.split(b" ")[1]
                if path.startswith(b"/large"):
                    size = int(path.removeprefix(b"/large"))
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                    for at in range(0, size, 1 << 16):
                        writer.write(bytes(min(1 << 16, size - at)))
                        await writer.drain()
                else:
                    answer = b"hello from %s, %d bytes" % (path, len(body))
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
                await writer.drain()
        writer.close()

    def ca(self) -> str:
        path = self.folder / "ca.pem"
        authority().cert_pem.write_to_path(str(path))
        return str(path)

    @asynccontextmanager
    async def cell(self, gate: EgressGate, *argv: str, **env: str) -> AsyncIterator[tuple[Any, Cell]]:
        """`argv` running in a network of its own."""
        ours, theirs = socket.socketpair()
        ports = ",".join(map(str, gate.ports))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", STAGE, str(stage_network.__file__), str(theirs.fileno()), ports, *argv,
            pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **env},
        )  # fmt: skip
        theirs.close()
        try:
            opened = await asyncio.to_thread(receive, ours, 10)
            cell = gate.attach(opened)
            ours.sendall(b"go")
            try:
                yield process, cell
            finally:
                await cell.close()
        finally:
            ours.close()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()

    async def run(self, gate: EgressGate, *argv: str, **env: str) -> Done:
        """One program in one cell, to its end."""
        async with self.cell(gate, *argv, **env) as (process, _):
            async with asyncio.timeout(30):
                out, err = await process.communicate(b"")
        return Done(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))

    async def python(self, gate: EgressGate, code: str) -> Done:
        return await self.run(gate, sys.executable, "-I", "-c", code)

    async def curl(self, gate: EgressGate, *argv: str, **env: str) -> Done:
        return await self.run(gate, "curl", "-sS", "--max-time", "8", "--cacert", self.ca(), *argv, **env)


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if b"transfer-encoding: chunked" in head:
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body
    length = next((line for line in head.split(b"\r\n") if line.startswith(b"content-length:")), b"x:0")
    return await reader.readexactly(int(length.split(b":")[1]))


def hello(name: str | None, **options: Any) -> bytes:
    """A ClientHello as the TLS library of Python writes it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for option, value in options.items():
        setattr(context, option, value)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def shown(events: list[dict[str, Any]]) -> Mapping[str, list[dict[str, Any]]]:
    """Events by what happened."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        found.setdefault(event["what"], []).append(event)
    return found
