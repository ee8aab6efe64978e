"""HttpFetch against real sockets: what it takes, and everything it must not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trustme

from limen.adapters.http import HttpFetch
from limen.core.faults import DependencyFault

BODY = b'{"keys":[]}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n" + BODY


@asynccontextmanager
async def serving(
    answer: bytes, seen: list[bytes] | None = None, tls: ssl.SSLContext | None = None, hang: bool = False
) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            if seen is not None:
                seen.append(request)
            writer.write(answer)
            await writer.drain()
            if hang:
                await asyncio.sleep(30)
        except (OSError, asyncio.IncompleteReadError):
            return  # the client hung up, as some of these tests want
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def get(answer: bytes, *, hang: bool = False, seen: list[bytes] | None = None, **limits: float) -> bytes:
    async def run() -> bytes:
        async with serving(answer, seen, hang=hang) as port:
            return await HttpFetch(**limits).get_json(f"http://127.0.0.1:{port}/a/b?c=d")  # type: ignore[arg-type]

    return asyncio.run(run())


def test_honest_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    seen: list[bytes] = []
    assert get(GOOD, seen=seen) == BODY
    assert seen[0].startswith(b"GET /a/b?c=d HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"cookie" not in seen[0].lower() and b"authorization" not in seen[0].lower()
    chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"ke\r\n7\r\nys":[]}\r\n0\r\n\r\n'
    assert get(chunked) == BODY
    assert get(GOOD, hang=True) == BODY  # does not wait for the connection to end


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nLocation: file:///etc/passwd\r\nContent-Length: 11\r\n\r\n" + BODY,
        GOOD.replace(b"200 OK", b"404 Not Found"),
        GOOD.replace(b"200 OK", b"500 Oops"),
        GOOD.replace(b"200 OK", b"206 Partial"),
        GOOD.replace(b"Content-Type", b"Content-Encoding: gzip\r\nContent-Type"),
        GOOD.replace(b": 11", b": 12"),
        b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"ke\r\n',
        b"not http at all\r\n\r\n",
        b"",
    ],
)
def test_answers_that_are_not_taken(answer: bytes) -> None:
    with pytest.raises(DependencyFault):
        get(answer)


def test_size_and_time_are_bounded() -> None:
    big = b"x" * 2000
    with pytest.raises(DependencyFault, match="too large"):
        get(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + big, max_size=1000)
    with pytest.raises(DependencyFault):
        get(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 2000, max_size=1000)
    with pytest.raises(DependencyFault):
        get(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 2000, max_size=1000)
    with pytest.raises(DependencyFault, match="no answer within"):
        get(GOOD[:-1], hang=True, timeout=0.2)


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example/jwks",
        "http://169.254.169.254/latest",
        "http://127.0.0.1.nip.example/",
        "http://2130706433/",
        "http://0x7f.1/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "https://u:p@127.0.0.1/",
        "https:///x",
        "https://127.0.0.1:99999/",
        "http://127.0.0.1/\r\nX: y",
        "http://127.0.0.1/a b",
        "http://127.0.0.1\\@evil.example/",
        "https://ex\u00e4mple.example/",
        "",
    ],
)
def test_urls_that_are_never_fetched(url: str) -> None:
    with pytest.raises(DependencyFault):
        asyncio.run(HttpFetch(timeout=1).get_json(url))


def post(answer: bytes, seen: list[bytes] | None = None, **headers: str) -> bytes:
    async def run() -> bytes:
        async with serving(answer, seen) as port:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await HttpFetch().post_json(f"http://127.0.0.1:{port}/a?b=c", b'{"x":1}', named)

    return asyncio.run(run())


def test_json_is_posted_with_its_headers_and_no_header_can_bring_another() -> None:
    seen: list[bytes] = []
    assert post(GOOD, seen, X_Key="k") == BODY
    assert seen[0].startswith(b"POST /a?b=c HTTP/1.1\r\n") and b"X-Key: k\r\n" in seen[0]
    assert b"Content-Type: application/json\r\nContent-Length: 7\r\n" in seen[0]
    for value in ("a\r\nX: y", "\u00e9", "a\nb", "a\0b"):
        with pytest.raises(DependencyFault, match="header") as told:
            post(GOOD, X_Key=value)
        assert value not in str(told.value)
    with pytest.raises(DependencyFault, match="https is needed"):
        asyncio.run(HttpFetch().post_json("http://id.example/", b"{}", {}))


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"7", 7.0), (b"999999", 3600.0), (b"-1", 0.0), (b"soon", 0.0), (b"1e9", 0.0)]
)
def test_how_long_to_stay_away(value: bytes, seconds: float) -> None:
    with pytest.raises(DependencyFault, match="status 429") as told:
        post(b"HTTP/1.1 429 Slow\r\nRetry-After: " + value + b"\r\nContent-Length: 0\r\n\r\n")
    assert told.value.retry_after == seconds


def test_nobody_listens() -> None:
    with pytest.raises(DependencyFault):
        asyncio.run(HttpFetch().get_json("http://127.0.0.1:9/x"))


def tls_pair(name: str) -> tuple[trustme.CA, ssl.SSLContext]:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(server)
    return authority, server


def trusting(configure: Callable[[ssl.SSLContext], None]) -> HttpFetch:
    client = ssl.create_default_context()
    configure(client)
    return HttpFetch(tls=client)


def test_certificates_are_verified() -> None:
    authority, server = tls_pair("127.0.0.1")
    stranger, _ = tls_pair("127.0.0.1")
    wrong_authority, wrong_name = tls_pair("other.example")

    async def run() -> None:
        async with serving(GOOD, tls=server) as port:
            assert await trusting(authority.configure_trust).get_json(f"https://127.0.0.1:{port}/") == BODY
            for untrusting in (HttpFetch(), trusting(stranger.configure_trust)):
                with pytest.raises(DependencyFault, match="CERTIFICATE_VERIFY_FAILED"):
                    await untrusting.get_json(f"https://127.0.0.1:{port}/")
        async with serving(GOOD, tls=wrong_name) as port:
            with pytest.raises(DependencyFault, match="CERTIFICATE_VERIFY_FAILED"):
                await trusting(wrong_authority.configure_trust).get_json(f"https://127.0.0.1:{port}/")

    asyncio.run(run())
    careless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    careless.check_hostname = False
    with pytest.raises(ValueError, match="verified"):
        HttpFetch(tls=careless)
