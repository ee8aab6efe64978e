"""The head of a request as the application gets it: what stands in it, in order, and nothing that comes behind it."""

from __future__ import annotations

import asyncio

import pytest

from limen.gateway.answer import Headers, Scope
from limen.gateway.server import HttpServer, Receive, Send

TOKEN = b"Authorization: Bearer of-the-head\r\n"


def ask(request: bytes) -> tuple[bytes, list[Headers], list[Scope]]:
    """The answer's first line, and what the application was given."""
    headers, scopes = list[Headers](), list[Scope]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers.append(scope["extensions"]["limen.answer"].headers)
        scopes.append(scope)
        scope["extensions"]["limen.answer"].whole(200, b"", b"")

    async def run() -> bytes:
        server = HttpServer(app)
        port = await server.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        async with asyncio.timeout(10):
            line = await reader.readline()
        writer.close()
        await server.stop()
        return line

    return asyncio.run(run()), headers, scopes


def chunked(*head: bytes, trailers: bytes = b"") -> bytes:
    start = b"POST /mcp/one HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n"
    return start + b"".join(head) + b"\r\n2\r\n{}\r\n0\r\n" + trailers + b"\r\n"


def test_headers_are_text_by_name_in_order_and_every_value_of_them() -> None:
    line, (headers,), (scope,) = ask(chunked(b"X-A: 1\r\nx-a: 2\r\nX-B: caf\xe9\r\n", TOKEN))
    assert b" 200 " in line
    assert headers["x-a"] == ["1", "2"]
    assert headers["x-b"] == ["caf\xe9"]
    assert headers["authorization"] == ["Bearer of-the-head"]
    assert [name for name, _ in scope["headers"]] == [
        b"host", b"transfer-encoding", b"x-a", b"x-a", b"x-b", b"authorization",
    ]  # fmt: skip


@pytest.mark.parametrize("late", [b"Authorization: Bearer late\r\n", b"Origin: https://evil.example\r\n"])
def test_what_stands_behind_the_body_is_no_header(late: bytes) -> None:
    """A trailer that counted would speak for a request that others in front of us have judged without it."""
    line, (headers,), (scope,) = ask(chunked(TOKEN, trailers=late))
    assert b" 200 " in line
    assert headers["authorization"] == ["Bearer of-the-head"]
    assert "origin" not in headers
    assert b"late" not in repr(scope["headers"]).encode()
    assert b"evil" not in repr(scope["headers"]).encode()


def test_names_with_underscores_are_dropped_and_their_twins_stay() -> None:
    _, (headers,), _ = ask(chunked(b"Mcp_Name: delete\r\nMcp-Name: read\r\n"))
    assert headers["mcp-name"] == ["read"]
    assert "mcp_name" not in headers


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 2\r\n",  # beside the coding
        b"Transfer-Encoding: chunked\r\n",  # twice
        b"Upgrade: h2c\r\n",
        b"Bad_Name: a\0b\r\n",  # dropped, but never silently
    ],
)
def test_a_head_that_can_be_read_in_two_ways_reaches_nobody(head: bytes) -> None:
    line, headers, _ = ask(chunked(head))
    assert b" 400 " in line
    assert not headers


def test_trailers_are_bounded_like_headers() -> None:
    line, headers, _ = ask(chunked(trailers=b"".join(b"x-%d: 1\r\n" % number for number in range(200))))
    assert b" 431 " in line
    assert not headers


def test_a_length_is_digits_and_nothing_that_is_a_digit_elsewhere() -> None:
    start = b"POST /mcp/one HTTP/1.1\r\nHost: here\r\nContent-Length: "
    assert b" 400 " in ask(start + b"\xb2\r\n\r\n{}")[0]
    assert b" 200 " in ask(start + b"2\r\n\r\n{}")[0]
