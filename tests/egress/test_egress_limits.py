"""What a cell may use, what is learned, what happens when something breaks, and the end of it (G5)."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import sys
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import uvloop

from egress.cells import OTHER, PUBLIC, SIX, STAGE, World, hello, in_loop, needs, needs_namespaces, receive, shown
from limen.adapters import egress_dns
from limen.adapters.egress_dns import Responder, SystemLookup, is_own
from limen.adapters.egress_proxy import EgressGate, open_as_configured
from limen.core.faults import DependencyFault
from limen.sandbox import stage_network
from limen.sandbox.egress import Egress
from limen.sandbox.egress_learn import propose
from limen.sandbox.egress_rules import EgressSettings

pytestmark = needs_namespaces
ALLOWED = ["allowed.test:443", "plain.test:80"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, {"allowed.test": [PUBLIC], "plain.test": [PUBLIC], "evil.test": [OTHER]})


HOLD = """
import socket, time
address = socket.getaddrinfo({name!r}, {port}, socket.AF_INET)[0][4]
open_ = []
for _ in range({count}):
    s = socket.create_connection(address, 5)
    s.sendall({data!r})
    s.settimeout(8)
    open_.append(s)
    time.sleep(0.05)
def end(s):
    data = b""
    try:
        while more := s.recv(1 << 20):
            data += more
    except OSError as error:
        return type(error).__name__
    return len(data)
print([end(s) for s in reversed(open_)])
"""


async def hold(world: World, gate: EgressGate, name: str, port: int, data: bytes, count: int = 1) -> str:
    done = await world.python(gate, HOLD.format(name=name, port=port, data=data, count=count))
    assert done.status == 0, done.err
    return done.out


@pytest.mark.parametrize(
    ("name", "port", "data"),
    [("allowed.test", 443, b""), ("allowed.test", 443, hello("allowed.test")[:-20]), ("plain.test", 80, b"GET / HT")],
)
@in_loop
async def test_who_does_not_say_in_time_whom_it_wants(world: World, name: str, port: int, data: bytes) -> None:
    await hold(world, world.gate(ALLOWED, hello=0.3), name, port, data)
    assert world.reasons() == ["hello.slow"]
    assert not world.dialled


@in_loop
async def test_a_slow_but_honest_hello_passes(world: World) -> None:
    code = f"""
import socket, time
s = socket.create_connection(socket.getaddrinfo("allowed.test", 443, socket.AF_INET)[0][4], 5)
data = {hello("allowed.test")!r}
for at in range(0, len(data), 120):
    s.sendall(data[at:at + 120]); time.sleep(0.02)
print(s.recv(5)[:1])
"""
    async with world.serve(PUBLIC, 443, "allowed.test"):
        done = await world.python(world.gate(ALLOWED), code)
    assert done.out == "b'\\x16'\n", done.err


async def silent(reader: Any, writer: Any) -> None:
    await asyncio.sleep(30)


@in_loop
async def test_more_connections_than_allowed_are_closed_and_the_others_live(world: World) -> None:
    async with world.serve(PUBLIC, 80, raw=silent):
        gate = world.gate(ALLOWED, connections=3, idle=1.0)
        await hold(world, gate, "plain.test", 80, b"GET / HTTP/1.1\r\nHost: plain.test\r\n\r\n", 6)
    assert gate.counters["connect.many"] == 3
    assert gate.counters["allowed"] == 3


@pytest.mark.parametrize(("limit", "reason"), [("idle", "traffic.idle"), ("total", "traffic.total")])
@in_loop
async def test_connections_end(world: World, limit: str, reason: str) -> None:
    async with world.serve(PUBLIC, 80, raw=silent):
        await hold(
            world, world.gate(ALLOWED, **{limit: 0.4}), "plain.test", 80, b"GET / HTTP/1.1\r\nHost: plain.test\r\n\r\n"
        )
    assert world.reasons() == [reason]
    assert shown(world.events)["ended"]


@needs("curl")
@in_loop
async def test_bytes_an_hour(world: World) -> None:
    (world.folder / "body").write_bytes(b"x" * 200_000)
    async with world.serve(PUBLIC, 80):
        gate = world.gate(ALLOWED, sent=100_000, received=100_000)
        assert (await world.curl(gate, "http://plain.test/large50000")).status == 0
        assert (await world.curl(gate, "-T", str(world.folder / "body"), "http://plain.test/up")).status != 0
        assert (await world.curl(gate, "http://plain.test/large200000")).status != 0
    assert world.bytes_in == 0
    assert world.reasons() == ["traffic.sent", "traffic.received"]


@needs("curl")
@in_loop
async def test_a_destination_that_does_not_answer(world: World) -> None:
    done = await world.curl(world.gate(ALLOWED), "https://allowed.test/")
    assert done.status != 0
    assert world.reasons() == ["connect.failed"]


@needs("curl")
@in_loop
async def test_the_next_address_of_a_name_is_tried_and_no_other(world: World) -> None:
    world.names["allowed.test"] = [OTHER, "10.0.0.1", PUBLIC]
    async with world.serve(PUBLIC, 443, "allowed.test"), world.serve("10.0.0.1", 443, "allowed.test"):
        done = await world.curl(world.gate(ALLOWED), "https://allowed.test/x")
    assert done.out == "hello from /x, 0 bytes", done.err
    assert ("10.0.0.1", 443) not in world.dialled
    assert world.dialled[-1] == (PUBLIC, 443)


@needs("curl")
@in_loop
async def test_what_cannot_be_recorded_is_not_done(world: World) -> None:
    def broken(event: dict[str, Any]) -> None:
        raise DependencyFault("audit", "disk full")

    settings = EgressSettings.model_validate(ALLOWED)
    gate = EgressGate("files", settings, broken, lookup=world.lookup, dial=world.dial)
    async with world.serve(PUBLIC, 443, "allowed.test"):
        done = await world.curl(gate, "https://allowed.test/")
    assert done.status != 0
    assert not world.dialled
    assert gate.counters["fault.audit"] >= 2


@needs("curl")
@in_loop
async def test_an_error_of_our_own_ends_one_connection_only(world: World) -> None:
    async def wrong(address: Any, port: int) -> Any:
        raise RuntimeError("a bug")

    gate = EgressGate(
        "files", EgressSettings.model_validate(ALLOWED), world.events.append, lookup=world.lookup, dial=wrong
    )
    done = await world.curl(gate, "https://allowed.test/", "https://evil.test/")
    assert done.status != 0
    assert world.reasons() == ["fault.bug", "dns.not_allowed"]


FLOOD = """
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout({wait})
answers = 0
for n in range({count}):
    name = b"%d" % n
    body = bytes([len(name)]) + name + b"\\4evil\\4test\\0\\0\\1\\0\\1"
    s.sendto(struct.pack("!HHHHHH", n, 0x100, 1, 0, 0, 0) + body, ("9.9.9.9", 53))
    try:
        answers += len(s.recv(600)) > 0
    except OSError:
        pass
print(answers)
"""


@in_loop
async def test_a_flood_of_refusals_does_not_fill_the_log_nor_ask_outside(world: World) -> None:
    gate = world.gate(ALLOWED, questions=1000)
    done = await world.python(gate, FLOOD.format(count=1500, wait=2))
    assert done.out == "1500\n", done.err
    assert gate.counters["dns.not_allowed"] == 1500
    assert len(world.events) <= 130
    assert sum(event.get("unrecorded", 0) for event in world.events) == 1500 - 120
    assert not world.asked


@needs("curl")
@in_loop
async def test_a_flood_is_taken_slowly_and_a_neighbour_is_served_meanwhile(world: World) -> None:
    connects = """
import socket, time
until = time.monotonic() + 2.0
while time.monotonic() < until:
    s = socket.socket(); s.setblocking(False)
    s.connect_ex(("93.184.216.34", 443))
"""
    flooding, quiet = world.gate(ALLOWED, opened=10, questions=5), world.gate(ALLOWED)
    async with world.serve(PUBLIC, 443, "allowed.test"):
        floods = [
            asyncio.create_task(world.python(flooding, code))
            for code in (connects, FLOOD.format(count=400, wait=0.001))
        ]
        await asyncio.sleep(0.5)
        done = await world.curl(quiet, "https://allowed.test/x")
        await asyncio.gather(*floods)
    assert done.out == "hello from /x, 0 bytes"
    assert 0 < flooding.counters["connect.unnamed"] <= 90  # 50 in hand and 10 a second
    assert flooding.counters["connect.rate"] > 0
    assert 0 < flooding.counters["dns.not_allowed"] <= 60
    assert flooding.counters["dns.rate"] > 0


@in_loop
async def test_names_over_tcp(world: World) -> None:
    code = """
import socket, struct
def ask(s, name):
    body = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + name + b"\\0\\1\\0\\1"
    s.sendall(struct.pack("!H", len(body)) + body)
    size = struct.unpack("!H", s.recv(2))[0]
    data = s.recv(size)
    return data[3] & 15, data[7]
s = socket.create_connection(("1.1.1.1", 53), 5)
print(ask(s, b"\\7allowed\\4test\\0"), ask(s, b"\\4evil\\4test\\0"))
"""
    done = await world.python(world.gate(ALLOWED), code)
    assert done.out == "(0, 1) (3, 0)\n", done.err


@in_loop
async def test_without_ipv6_no_ipv6_address_is_handed_out(world: World) -> None:
    world.names["allowed.test"] = [PUBLIC, SIX]
    egress = Egress("files", EgressSettings.model_validate(ALLOWED))
    memory = egress.memory()
    question = b"\0\7\1\0\0\1\0\0\0\0\0\0\7allowed\4test\0\0\x1c\0\1"
    for ipv6, count in ((False, 0), (True, 1)):
        responder = Responder(egress, memory, world.lookup, lambda denied: None, open_as_configured, ipv6=ipv6)
        assert (await responder.answer(question))[7] == count
    assert [str(one) for one in memory.pins] == [SIX]


# learning


@needs("curl")
@in_loop
async def test_learning_finds_names_ports_and_protocols_and_lets_nothing_out(world: World) -> None:
    gate = world.gate({"mode": "learn", "allow": ["allowed.test:443"]})
    code = "import socket; socket.create_connection(socket.getaddrinfo('db.test', 5432, socket.AF_INET)[0][4]).recv(1)"
    async with world.serve(PUBLIC, 443, "allowed.test"), world.serve(OTHER, 443, "evil.test"):
        assert (await world.curl(gate, "https://allowed.test/")).status == 0
        assert (await world.curl(gate, "https://evil.test/")).status != 0
        assert (await world.curl(gate, "http://plain.test/")).status != 0
        await world.python(gate, code)
    assert world.asked == ["allowed.test"]
    assert world.dialled == [(PUBLIC, 443)]
    learned = {(one["target"], one["detail"]) for one in shown(world.events)["learned"]}
    assert learned == {("evil.test:443", "tls"), ("plain.test:80", "http"), ("db.test:5432", "tcp")}
    known = {"files": Egress("files", gate.settings)}
    assert [one.entry for one in propose(world.events, known)] == [
        {"to": "db.test:5432", "protocol": "tcp"},
        "evil.test:443",
        "plain.test:80",
    ]
    satisfied = EgressSettings.model_validate(["evil.test:443", "plain.test:80", "db.test:5432"])
    assert not propose(world.events, {"files": Egress("files", satisfied)})


def test_proposals_say_what_to_doubt() -> None:
    data = "mfrggzdfmztwq2lknnwg23tpobyxe43uov3ho6dzpiydcmrtgq2tmnzyhfqwmnrv.evil.test"
    events = [
        {"server": "files", "target": data, "reason": "dns.not_allowed", "ts": 1.0},
        {"server": "files", "target": "x.github.io", "reason": "dns.not_allowed", "ts": 2.0},
        {"server": "files", "target": "x.github.io", "reason": "dns.not_allowed", "ts": 3.0},
        {"server": "files", "target": "1.1.1.1:443", "reason": "connect.unnamed", "ts": 3.0},
        {"server": "files", "target": "10.0.0.1:443", "reason": "connect.address", "ts": 3.0},
        {"server": "other", "target": "a.test", "reason": "dns.not_allowed", "ts": 3.0},
        {"server": "files", "target": ["x"], "reason": "dns.not_allowed"},
        {"server": "files", "target": "a.test:443", "reason": "tls.name"},
    ]
    found = {one.to: one for one in propose(events, {"files": Egress("files", EgressSettings())})}
    assert set(found) == {data, "x.github.io", "1.1.1.1:443", "10.0.0.1:443"}
    assert all(one.note for one in found.values())
    assert (found["x.github.io"].seen, found["x.github.io"].last, found["x.github.io"].entry) == (2, 3.0, None)


# the network of a cell, from its making to its end


@in_loop
async def test_closing_a_cell_ends_its_connections_and_its_network(world: World) -> None:
    before = len(os.listdir("/proc/self/fd"))
    gate = world.gate(ALLOWED)
    code = HOLD.format(name="plain.test", port=80, data=b"GET / HTTP/1.1\r\nHost: plain.test\r\n\r\n", count=1)
    served = world.serve(PUBLIC, 80, raw=silent)
    async with served, world.cell(gate, sys.executable, "-Ic", code) as (process, cell):
        async with asyncio.timeout(10):
            while not world.dialled:
                await asyncio.sleep(0.01)
        assert gate.cells == 1
        await gate.close()
        await cell.close()
        out, _ = await process.communicate()
    assert out.strip() in (b"[0]", b"['ConnectionResetError']")
    del process, cell
    await asyncio.sleep(0.1)
    assert len(os.listdir("/proc/self/fd")) <= before + 4  # the loop's own
    assert gate.cells == 0


def test_the_same_on_the_loop_of_the_standard_library(world: World) -> None:
    async def work() -> None:
        async with world.serve(PUBLIC, 443, "allowed.test"):
            done = await world.curl(world.gate(ALLOWED), "https://allowed.test/x", "https://evil.test/")
        assert done.out == "hello from /x, 0 bytes"
        assert world.reasons() == ["dns.not_allowed"]

    asyncio.run(work())


@pytest.mark.skipif(os.geteuid() != 0, reason="the test itself must be root to become somebody else")
@in_loop
async def test_it_is_made_without_privileges(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    drop = "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\nlisteners = "
    monkeypatch.setattr("egress.cells.STAGE", STAGE.replace("listeners = ", drop))
    os.chmod(world.folder, 0o755)
    async with world.serve(PUBLIC, 80):
        done = await world.run(world.gate(ALLOWED), "/bin/sh", "-c", "id -u; exec curl -sS http://plain.test/x")
    assert done.out == "65534\nhello from /x, 0 bytes", done.err


@in_loop
async def test_a_listed_address_is_really_dialled(world: World) -> None:
    async with world.serve("127.0.0.1", 1):
        port = world.ports["127.0.0.1", 1]
        settings = EgressSettings.model_validate([{"to": f"127.0.0.1:{port}", "protocol": "http"}])
        gate = EgressGate("files", settings, world.events.append)
        done = await world.run(gate, "curl", "-sS", f"http://127.0.0.1:{port}/real")
    assert done.out == "hello from /real, 0 bytes", done.err


def send(data: bytes, *files: Any) -> socket.socket:
    ours, theirs = socket.socketpair()
    numbers = array.array("i", [one.fileno() for one in files])
    theirs.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if files else [])
    theirs.close()
    return ours


def test_only_listeners_are_taken() -> None:
    before = len(os.listdir("/proc/self/fd"))
    line = b'{"stage":"network","version":1}\n'
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        with send(line, tcp, udp) as channel:
            opened = receive(channel, 2)
            assert (len(opened.tcp), len(opened.udp)) == (1, 1)
            opened.close()
        with socket.socket() as idle, open("/dev/null") as file, socket.socket(socket.AF_UNIX) as unix:
            for data, files in (
                (line, (tcp,)),
                (line, (udp,)),
                (line, (idle, udp)),
                (line, (tcp, udp, unix)),
                (line[:-3], (tcp, udp)),
                (b'{"stage":"network","version":2}\n', (tcp, udp)),
                (b"", ()),
                (line, ()),
                (line, (tcp, udp, file)),
            ):
                with send(data, *files) as channel, pytest.raises(OSError):
                    receive(channel, 2)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("ports", [(53,), (0,), (65536,), tuple(range(1000, 1061))])
def test_ports_that_cannot_be_opened(ports: tuple[int, ...]) -> None:
    with pytest.raises(OSError):
        stage_network.enter(ports)


@in_loop
async def test_a_gate_takes_the_listeners_of_a_launcher_and_nothing_else(world: World) -> None:
    def listeners() -> list[socket.socket]:
        return [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]

    gate = world.gate(ALLOWED)
    end = await gate.attend(None, listeners())
    assert gate.cells == 1
    end()
    end()
    await gate.close()
    assert gate.cells == 0
    for refusing, sockets in ((world.gate([]), listeners()), (gate, listeners()[:1]), (gate, [])):
        with pytest.raises(OSError):
            await refusing.attend(None, sockets)
        assert all(one.fileno() == -1 for one in sockets)


# looking names up


def test_lookups_are_absolute_bounded_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def answer(name: Any, *_: Any, **__: Any) -> list[Any]:
        asked.append(name)
        if name.startswith(b"slow"):
            time.sleep(1.0)
        if name.startswith(b"none"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [
            (0, 0, 0, "", ("127.0.0.1", 0)),
            (0, 0, 0, "", ("127.0.0.1", 0)),
            (0, 0, 0, "", ("fe80::1%lo", 0, 0, 1)),
        ]

    monkeypatch.setattr(egress_dns.socket, "getaddrinfo", answer)

    async def work() -> None:
        lookup = SystemLookup(timeout=0.2)
        assert ip_address("127.0.0.1") in await lookup("a.test")
        assert asked == [b"a.test."]
        with pytest.raises(socket.gaierror):
            await lookup("none.test")
        slow = [asyncio.create_task(lookup(f"slow{n}.test")) for n in range(egress_dns.LOOKUPS)]
        await asyncio.sleep(0.05)
        with pytest.raises(OSError, match="too many"):
            await lookup("a.test")
        for error in await asyncio.gather(*slow, return_exceptions=True):
            assert isinstance(error, TimeoutError)
        await asyncio.sleep(1.1)
        assert await lookup("a.test")

    uvloop.run(work())


def test_our_own_addresses_are_known() -> None:
    assert is_own(ip_address("127.0.0.1"))
    assert not is_own(ip_address("93.184.216.34"))
