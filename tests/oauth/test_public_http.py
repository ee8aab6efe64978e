"""PublicHttp: what strangers' addresses may make us do. OA-40 to OA-42, OA-46 and OA-48 (the fetching half)."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import trustme

from limen.adapters.public_http import PublicHttp
from limen.adapters.wire import _Answer, write_request
from limen.core.faults import DependencyFault
from limen.core.ports import Fetched
from oauth.client_rig import PUBLIC, World, posing, run

NAME = "app.example.com"
URL = f"https://{NAME}/client.json"
BODY = b'{"a":1}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n" + BODY


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def fetch(
    authority: trustme.CA, answer: bytes, *, names: list[list[str]] | None = None, url: str = URL, slow: float = 0.0,
    certificate: str = NAME, **more: Any,
) -> tuple[Fetched, World]:  # fmt: skip
    async def work() -> tuple[Fetched, World]:
        async with posing(answer, authority, certificate, slow=slow) as port:
            world = World(authority, port)
            world.names[NAME] = names or [[PUBLIC]]
            try:
                return await world.http(**more).get(url), world
            except DependencyFault as fault:
                fault.world = world  # type: ignore[attr-defined]
                raise

    return run(work())  # type: ignore[no-any-return]


def refusal(authority: trustme.CA, answer: bytes = GOOD, **more: Any) -> tuple[str, World]:
    with pytest.raises(DependencyFault) as told:
        fetch(authority, answer, **more)
    return str(told.value), told.value.world  # type: ignore[attr-defined]


def test_an_honest_document_is_fetched_from_the_address_that_was_checked(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    answer, world = fetch(authority, GOOD)
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, BODY, "application/json")
    assert world.connected == [(PUBLIC, 443, NAME)]
    assert world.lookups == [NAME]


@pytest.mark.parametrize("status", [b"404 Not Found", b"500 Oops", b"429 Slow", b"401 No"])
def test_any_status_is_an_answer(authority: trustme.CA, status: bytes) -> None:
    answer, _ = fetch(authority, GOOD.replace(b"200 OK", status))
    assert answer.status == int(status[:3])
    assert answer.body == BODY


@pytest.mark.requirement("OA-42")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_oa_42_redirects_are_not_followed(authority: trustme.CA, status: int) -> None:
    """OA-42: the caller sees the redirect; nothing goes to where it points."""
    moved = f"HTTP/1.1 {status} Moved\r\nLocation: https://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n".encode()
    answer, world = fetch(authority, moved)
    assert answer.status == status
    assert len(world.connected) == 1


@pytest.mark.requirement("OA-40")
@pytest.mark.parametrize(
    "url",
    [
        "http://app.example.com/client.json",
        "https://127.0.0.1/x", "https://169.254.169.254/latest", "https://[::1]/x", "https://10.1.2.3/x",
        "https://2130706433/x", "https://0x7f000001/x", "https://0177.0.0.1/x", "https://127.1/x", "https://0/x",
        "https://127.0.0.1./x", "https://[::ffff:127.0.0.1]/x", "https://[::ffff:7f00:1]/x", "https://[::127.0.0.1]/x",
        "https://[64:ff9b::7f00:1]/x", "https://[2002:7f00:1::]/x", "https://[fe80::1%25eth0]/x", "https://[fc00::1]/x",
        "https://0.0.0.0/x", "https://[::]/x", "https://100.64.0.1/x", "https://224.0.0.1/x", "https://192.0.2.1/x",
        "https://198.18.0.1/x", "https://[2001:db8::1]/x", "https://[2001:0:1::1]/x", "https://255.255.255.255/x",
        "https://localhost/x", "https://localhost./x", "https://user@app.example.com/x",
        "https://u:p@app.example.com/x",
        "https://app.example.com\\@evil.example/x", "https://app.example.com/x#f", "https://app.example.com:0/x",
        "https://app.example.com:65536/x", "https://app.example.com:+443/x", "https://app.example.com:/x",
        "https://app.example.com/x\r\nX: y", "https://app.example.com/x y", "https://app.example.com/\u00e9",
        "https://\u0430pp.example.com/x", "https://app%2eexample.com/x", "https://APP.example.com/x",
        "HTTPS://app.example.com/x",
        "https:app.example.com", "https:///x", "//app.example.com/x", "file:///etc/passwd",
        "gopher://app.example.com/x",
        "https://app..example.com/x", "https://.example.com/x", "https://app.example.com/%zz", "",
        "https://app.example.com/" + "x" * 2048,
    ],
)  # fmt: skip
def test_oa_40_addresses_that_are_never_asked(authority: trustme.CA, url: str) -> None:
    """OA-40: refused before a connection, however the address is written."""
    _, world = refusal(authority, url=url)
    assert world.connected == []


@pytest.mark.requirement("OA-40")
@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "169.254.1.1",
        "100.64.1.1",
        "0.0.0.0", "0.1.2.3", "192.0.2.9", "198.51.100.1", "203.0.113.1", "198.18.0.1", "192.88.99.1", "192.0.0.8",
        "224.0.0.251", "255.255.255.255", "240.0.0.1", "168.63.129.16", "::", "::1", "fe80::1", "fc00::1",
        "fd00:ec2::254",
        "ff02::1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::808:808", "64:ff9b:1::1", "2001::1", "2002:808:808::1",
        "2001:db8::1", "3fff::1", "fec0::1", "100::1",
    ],
)  # fmt: skip
def test_oa_40_a_name_for_an_inner_address(authority: trustme.CA, address: str) -> None:
    """OA-40: a public name for it is the same thing, beside an honest address too."""
    for names in ([address], [PUBLIC, address], [address, PUBLIC]):
        message, world = refusal(authority, names=[names])
        assert world.connected == []
        assert "address" in message


@pytest.mark.requirement("OA-41")
def test_oa_41_a_name_that_changes_its_mind(authority: trustme.CA) -> None:
    """OA-41: one look-up for each exchange, and the address it gave is the one that is connected to."""
    answer, world = fetch(authority, GOOD, names=[[PUBLIC], ["127.0.0.1"]])
    assert answer.status == 200
    assert (world.lookups, world.connected) == ([NAME], [(PUBLIC, 443, NAME)])


def test_a_certificate_must_be_the_names_and_not_the_addresses(authority: trustme.CA) -> None:
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(authority, certificate="other.example.com")[0]
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(authority, certificate=PUBLIC)[0]
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(trustme.CA(), certificate="other.example.com")[0]


@pytest.mark.parametrize(
    "answer",
    [
        GOOD.replace(b"Content-Type", b"Content-Encoding: gzip\r\nContent-Type"),
        GOOD.replace(b"Content-Type", b"Content-Encoding: br\r\nContent-Type"),
        GOOD.replace(b"Content-Length: 7", b"Content-Length: 7\r\nContent-Length: 7"),
        GOOD.replace(b"Content-Length: 7", b"Content-Length: 7, 7"),
        GOOD.replace(b"Content-Length: 7", b"Content-Length: +7"),
        GOOD.replace(b"Content-Length: 7", b"Content-Length: 7\r\nTransfer-Encoding: chunked"),
        GOOD.replace(b"Content-Length: 7", b"Transfer-Encoding: chunked\r\nContent-Length: 7"),
        GOOD.replace(b"Content-Length: 7", b"Transfer-Encoding: gzip, chunked"),
        GOOD.replace(b"Content-Length: 7", b"Transfer-Encoding: identity"),
        GOOD.replace(b"Content-Length: 7\r\n", b""),
        GOOD.replace(b"Content-Length: 7", b"Content-Length: 8"),
        GOOD.replace(b"Content-Length: 7", b"Content-Length: 1"),  # the rest would be another answer
        GOOD + GOOD,
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + GOOD,
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        GOOD.replace(b"HTTP/1.1", b"HTTP/7.3"),
        GOOD.replace(b"Content-Type:", b"Content-Type :"),
        GOOD.replace(b"Content-Type", b"A: b\r\n c: d\r\nContent-Type"),
        b"<html>not http",
        b"\x16\x03\x01",
    ],
)
def test_answers_that_can_be_read_in_two_ways_or_in_none(authority: trustme.CA, answer: bytes) -> None:
    refusal(authority, answer, timeout=2.0)


@pytest.mark.parametrize("first", [b"Content-Length", b"Transfer-Encoding"])
@pytest.mark.parametrize("second", [b"Content-Length", b"Transfer-Encoding"])
def test_two_framings_are_refused_whatever_the_parser_makes_of_them(first: bytes, second: bytes) -> None:
    values = {b"Content-Length": b"7", b"Transfer-Encoding": b"chunked"}
    answer = _Answer("a.example", 1000, only_ok=False)
    answer.on_header(first, values[first])
    answer.judge()
    answer.on_header(second, values[second])
    with pytest.raises(DependencyFault, match="two ways"):
        answer.judge()


@pytest.mark.requirement("OA-43")
def test_size_and_time_are_bounded(authority: trustme.CA) -> None:
    """OA-43: a body over the bound, headers without end, and a byte now and then."""
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000
    assert "too large" in refusal(authority, big, max_size=1000)[0]
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 3000
    refusal(authority, chunks, max_size=1000)
    refusal(authority, b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 2000, max_size=1000)
    assert "no answer within" in refusal(authority, GOOD, slow=0.05, timeout=0.4)[0]


def test_a_look_up_that_hangs_is_part_of_the_time() -> None:
    async def never(name: str) -> list[Any]:
        await asyncio.sleep(60)
        return []

    with pytest.raises(DependencyFault, match="no answer within"):
        run(PublicHttp(lookup=never, timeout=0.1).get(URL))


def test_the_next_address_is_tried_and_each_was_checked(authority: trustme.CA) -> None:
    async def work() -> list[tuple[str, int, str]]:
        async with posing(GOOD, authority, NAME) as port:
            world = World(authority, port)
            world.names[NAME] = [["93.184.216.35", "93.184.216.36"]]
            honest = world.connect

            async def connect(address: Any, *rest: Any) -> Any:
                if str(address).endswith(".35"):
                    world.connected.append((str(address), rest[0], rest[2]))
                    raise ConnectionRefusedError("nobody there")
                return await honest(address, *rest)

            http = PublicHttp(tls=world.tls, lookup=world.lookup, connect=connect)
            assert (await http.get(URL)).status == 200
            return world.connected

    assert [address for address, _, _ in run(work())] == ["93.184.216.35", "93.184.216.36"]


def test_a_header_cannot_bring_another_one() -> None:
    for headers in ({"x": "a\r\nY: b"}, {"x\r\ny": "a"}, {"Host": "evil"}, {"content-length": "0"}, {"x": "\u00e9"}):
        with pytest.raises(DependencyFault, match="header"):
            run(PublicHttp().post(URL, b"", headers))


def test_headers_of_the_caller_replace_ours_but_never_those_that_frame() -> None:
    made = write_request("POST", "a.example", "/x", "*/*", {"accept": "text/plain", "X.Y": "1"}, b"abc").decode()
    assert made.endswith("\r\nConnection: close\r\naccept: text/plain\r\nX.Y: 1\r\nContent-Length: 3\r\n\r\nabc")
    for name in ("host", "Transfer-Encoding", "Connection", "Accept-Encoding", "a b", "a:", ""):
        with pytest.raises(DependencyFault, match="header"):
            write_request("GET", "a.example", "/x", "*/*", {name: "x"}, b"")


def test_what_an_operator_configured_may_be_inside(authority: trustme.CA) -> None:
    for address in ("10.0.0.1", "127.0.0.1", "fc00::1", "100.64.0.1"):
        answer, world = fetch(authority, GOOD, names=[[address]], private=True)
        assert answer.status == 200
        assert world.connected[0][0] == address
    for address in (
        "169.254.169.254",
        "fe80::1",
        "0.0.0.0",
        "::ffff:10.0.0.1",
        "224.0.0.1",
        "fd00:ec2::254",
        "240.0.0.1",
    ):
        assert refusal(authority, names=[[address]], private=True)[1].connected == []
    for url in (
        "http://app.example.com/x",
        "http://10.0.0.1/x",
        "http://127.0.0.1.app.example.com/x",
        "http://127.1/x",
    ):
        assert refusal(authority, url=url, private=True)[1].connected == []


def test_plain_http_on_loopback_where_an_operator_said_so() -> None:
    async def work() -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(3) if head.startswith(b"POST") else b""
            assert body in (b"", b"a=b")
            writer.write(GOOD)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        http = PublicHttp(private=True)
        for host in ("127.0.0.1", "localhost"):
            assert (await http.get(f"http://{host}:{port}/x?y")).body == BODY
        posted = await http.post(
            f"http://127.0.0.1:{port}/x", b"a=b", {"content-type": "application/x-www-form-urlencoded"}
        )
        assert posted.status == 200
        with pytest.raises(DependencyFault, match="https is needed"):
            await PublicHttp().get(f"http://127.0.0.1:{port}/x")
        server.close()

    run(work())


def test_names_that_only_this_machine_knows_are_for_operators() -> None:
    names = [line.split("#")[0].split() for line in Path("/etc/hosts").read_text().splitlines()]
    own = [name for fields in names if fields[:1] == ["127.0.0.1"] for name in fields[1:] if name != "localhost"]
    own = own or ["localhost"]
    assert run(PublicHttp(private=True)._lookup(own[0]))
    with pytest.raises(DependencyFault):
        run(PublicHttp(timeout=3).get(f"https://{own[0]}/x"))


@pytest.mark.requirement("OA-40")
@pytest.mark.skipif(shutil.which("unshare") is None or shutil.which("ip") is None, reason="needs unshare and ip")
def test_with_the_real_resolver_and_a_real_connection_in_a_network_of_its_own() -> None:
    """OA-40, nothing injected: /etc/hosts-like names and this machine's own public address are refused."""
    program = textwrap.dedent("""
        import asyncio, socket
        from limen.adapters.public_http import PublicHttp
        from limen.core.faults import DependencyFault
        async def work():
            server = await asyncio.start_server(lambda r, w: print("REACHED", flush=True), "0.0.0.0", 8443)
            for url in ("https://localhost:8443/x", "https://93.184.216.34:8443/x", "https://127.0.0.1:8443/x"):
                try:
                    await PublicHttp(timeout=2).get(url)
                except DependencyFault as fault:
                    print(fault, flush=True)
            server.close()
        asyncio.run(work())
    """)
    script = f"ip link set lo up && ip addr add {PUBLIC}/32 dev lo && exec {sys.executable} -c '{program}'"
    done = subprocess.run(["unshare", "-rn", "sh", "-c", script], capture_output=True, text=True, timeout=60)
    if "unshare" in done.stderr:
        pytest.skip(f"no network namespace here: {done.stderr.strip()[:100]}")
    assert done.returncode == 0, done.stderr
    assert "REACHED" not in done.stdout
    assert done.stdout.count("loopback") == 2
    assert "this machine's own" in done.stdout
