"""Readers of what strangers write: DNS questions, TLS hellos, HTTP requests. Bounded, and never ambiguous (G5)."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address
from typing import Any

import pytest

from egress.cells import hello
from limen.sandbox import dns_wire
from limen.sandbox.dns_wire import A, Question, Unreadable, read_question, write_answer
from limen.sandbox.http_requests import HttpRefused, Requests
from limen.sandbox.tls_hello import MAX_BYTES, Hello, NotTls, read_hello

# TLS


def records(message: bytes, size: int) -> bytes:
    """One handshake message in records of `size` bytes."""
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def built(*extensions: tuple[int, bytes]) -> bytes:
    block = b"".join(struct.pack("!HH", kind, len(data)) + data for kind, data in extensions)
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + struct.pack("!H", len(block)) + block
    return b"\x01" + len(body).to_bytes(3, "big") + body


def sni(name: bytes) -> tuple[int, bytes]:
    return 0, struct.pack("!HBH", len(name) + 3, 0, len(name)) + name


GREASE = (0x0A0A, b""), (0x1A1A, b"\0")


def test_a_real_hello_in_every_fragmentation() -> None:
    real = hello("Allowed.test")
    assert read_hello(real) == Hello("allowed.test", False)
    for size in (1, 2, 3, 5, 100, 1 << 14):
        whole = records(real[5:], size) if len(real[5:]) / size <= 32 else b""
        assert not whole or read_hello(whole) == Hello("allowed.test", False)
    for cut in range(len(real)):
        assert read_hello(real[:cut]) is None
    assert read_hello(real + b"\x17\x03\x03\0\x05early") == Hello("allowed.test", False)


def test_a_hello_of_post_quantum_size_with_grease() -> None:
    shares = (51, struct.pack("!H", 1800) + bytes(1800))
    big = records(built(GREASE[0], sni(b"a.test"), shares, (21, bytes(3000)), GREASE[1]), 1400)
    assert read_hello(big) == Hello("a.test", False)


def test_no_name_and_a_hidden_one() -> None:
    assert read_hello(hello(None)) == Hello("", False)
    assert read_hello(records(built(sni(b"front.test"), (0xFE0D, bytes(200))), 9000)) == Hello("front.test", True)


@pytest.mark.parametrize(
    "message",
    [
        built(sni(b"a.test"), sni(b"b.test")),
        built((0, struct.pack("!HBH", 18, 0, 6) + b"a.test" + struct.pack("!BH", 0, 6) + b"b.test")),
        built((0, struct.pack("!HBH", 9, 1, 6) + b"a.test")),
        built(sni(b"a.test\0.evil.test")),
        built(sni(b"a.test.")),
        built(sni(b"")),
        built(sni("bücher.test".encode())),
        built(sni(b"[::1]")),
        built((0, b"")),
        built(sni(b"a.test"))[:-1] + b"",
        b"\x02" + built(sni(b"a.test"))[1:],
        b"\x01\xff\xff\xff" + bytes(100),
        b"\x01\0\0\x02\x03\x03",
        built(sni(b"a.test")) + b"\x01\0\0\0",
    ],
)
def test_hellos_that_two_readers_could_read_differently(message: bytes) -> None:
    if message == built(sni(b"a.test"))[:-1]:
        assert read_hello(records(message, 9000)) is None  # it may yet be complete
        return
    with pytest.raises(NotTls):
        read_hello(records(message, 9000))


@pytest.mark.parametrize(
    ("data", "tls"),
    [
        (b"GET / HTTP/1.1\r\n", False),
        (b"\x80\x2e\x01\x03\x01", False),
        (b"\x16\x02\x00", False),
        (b"\x16\x03\x01\x00\x00", True),
        (b"\x16\x03\x01\xff\xff", True),
        (records(built(sni(b"a.test")), 1), True),
        (records(built(sni(b"a.test")), 30) + b"", None),
        (records(built(sni(b"a.test")), 30)[:35] + b"\x14\x03\x03\0\x01\x01", True),
        (records(b"\x01\0\x50\0" + bytes(MAX_BYTES), 16000), True),
    ],
)
def test_what_is_no_hello(data: bytes, tls: bool | None) -> None:
    if tls is None:
        assert read_hello(data) == Hello("a.test", False)
        return
    with pytest.raises(NotTls) as caught:
        read_hello(data)
    assert caught.value.tls is tls


def test_hello_reader_never_fails_otherwise() -> None:
    chance = random.Random(5)
    real = hello("allowed.test")
    for _ in range(3000):
        data = bytearray(real)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            read_hello(bytes(data[: chance.randrange(len(data) + 1)]))
        except NotTls:
            pass


# DNS


def ask(
    name: bytes = b"\x07allowed\x04test\0", kind: int = A, flags: int = 0x100, count: int = 1, group: int = 1
) -> bytes:
    return struct.pack("!HHHHHH", 7, flags, count, 0, 0, 0) + name + struct.pack("!HH", kind, group)


def test_question_and_answer() -> None:
    question = read_question(ask(b"\x07AlloWed\x04test\0") + b"\0\0\x29\x04\xd0\0\0\0\0\0\0")
    assert (question.name, question.type, question.id) == ("allowed.test", A, 7)
    answer = write_answer(question, 0, [ip_address("93.184.216.34")], 60)
    assert answer[:12] == struct.pack("!HHHHHH", 7, 0x8180, 1, 1, 0, 0)
    assert b"AlloWed" in answer  # as it was asked: 0x20
    assert answer.endswith(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x5d\xb8\xd8\x22")
    longest = Question(1, True, "x", 28, bytes(255) + b"\0\x1c\0\x01")
    assert len(write_answer(longest, 0, [ip_address("2606::1")] * 50)) <= 512


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", None),
        (bytes(12), None),
        (bytes(600), None),
        (ask(flags=0x8180), None),
        (ask(flags=0x2900), 4),
        (ask(count=0), 1),
        (ask(count=2), 1),
        (ask(b"\xc0\x0c"), 1),
        (ask(b"\x07allowed"), 1),
        (ask(b"\x03a\0b\x04test\0"), 1),
        (ask(b"\x03a.b\x04test\0"), 1),
        (ask(b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\0"), 1),
        (ask(group=3), 5),
    ],
)
def test_questions_that_are_none(message: bytes, code: int | None) -> None:
    with pytest.raises(Unreadable) as caught:
        read_question(message)
    assert (caught.value.answer[3] & 15 if caught.value.answer else None) == code


def test_question_reader_never_fails_otherwise() -> None:
    chance = random.Random(6)
    for _ in range(3000):
        data = bytearray(ask())
        for _ in range(chance.randint(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            assert dns_wire.write_answer(read_question(bytes(data)), 0)
        except Unreadable:
            pass


# HTTP


def reader() -> tuple[Requests, list[tuple[str, str, int | None]]]:
    judged: list[tuple[str, str, int | None]] = []

    def judge(method: str, host: str, port: int | None) -> None:
        judged.append((method, host, port))
        if host != "a.test":
            raise HttpRefused("http.host")

    return Requests(judge), judged


HONEST = (
    b"GET /x?y HTTP/1.1\r\nHost: a.test\r\n\r\n"
    b"POST /p HTTP/1.1\r\nhost:A.TEST:80\r\nContent-Length: 5\r\n\r\nhello"
    b"PUT http://a.test/q HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;x=1\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n"
    b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
)
RENDERED = (
    b"GET /x?y HTTP/1.1\r\nHost: a.test\r\n\r\n"
    b"POST /p HTTP/1.1\r\nhost: A.TEST:80\r\nContent-Length: 5\r\n\r\nhello"
    b"PUT /q HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n"
    b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
)


def test_honest_requests_in_every_division() -> None:
    for size in (1, 2, 3, 7, 50, len(HONEST)):
        requests, judged = reader()
        assert b"".join(requests.feed(HONEST[at : at + size]) for at in range(0, len(HONEST), size)) == RENDERED
        assert judged == [
            ("GET", "a.test", None),
            ("POST", "a.test", 80),
            ("PUT", "a.test", None),
            ("OPTIONS", "a.test", None),
        ]
        assert requests.between


CHUNKED = b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\nHost: a.test\n\n" + b"x" * 40_000, "http.malformed"),
        (b"GET / HTTP/1.1\r\nHost : a.test\r\n\r\n", "http.malformed"),
        (b"GET / HTTP/1.1\r\n Host: a.test\r\n\r\n", "http.malformed"),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\r\n b\r\n\r\n", "http.malformed"),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\0b\r\n\r\n", "http.malformed"),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\nHost: b\r\n\r\n", "http.malformed"),
        (b"GET  / HTTP/1.1\r\nHost: a.test\r\n\r\n", "http.malformed"),
        (b"GET / HTTP/1.2\r\nHost: a.test\r\n\r\n", "http.malformed"),
        (b"GET //x HTTP/9\r\nHost: a.test\r\n\r\n", "http.malformed"),
        (b"GET a.test HTTP/1.1\r\nHost: a.test\r\n\r\n", "http.malformed"),
        (b"GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "http.malformed"),
        (b"GET http://a.test@evil.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "http.malformed"),
        (b"GET http://a.test:81/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "http.host"),
        (b"GET / HTTP/1.1\r\nHost: a.test@evil.test\r\n\r\n", "http.host"),
        (b"GET / HTTP/1.1\r\nHost: a.test, evil.test\r\n\r\n", "http.host"),
        (b"GET / HTTP/1.0\r\n\r\n", "http.host"),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "http.malformed"),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: +1\r\n\r\n", "http.malformed"),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1, 1\r\n\r\n", "http.malformed"),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "http.malformed"),
        (b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: xchunked\r\n\r\n", "http.malformed"),
        (b"POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n", "http.malformed"),
        (CHUNKED + b"-1\r\n", "http.malformed"),
        (CHUNKED + b"0x3\r\nabc\r\n", "http.malformed"),
        (CHUNKED + b"3\r\nabcd\r\n", "http.malformed"),
        (CHUNKED + b"fffffffff\r\n", "http.malformed"),
        (CHUNKED + b"0\r\nHost: evil.test\r\n\r\n", "http.malformed"),
        (CHUNKED + b"3\nabc\n0\n\n" + b"x" * 300, "http.malformed"),
        (CHUNKED + b"1\r\na\r\n" * 5000, "http.malformed"),
        (b"\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "http.malformed"),
        (b"\x16\x03\x01", "http.malformed"),
    ],
)  # fmt: skip
def test_requests_that_could_be_read_in_two_ways(data: bytes, reason: str) -> None:
    requests, _ = reader()
    with pytest.raises(HttpRefused) as caught:
        requests.feed(data)
    assert caught.value.reason == reason


def test_what_is_sent_on_is_read_the_same_by_another_parser() -> None:
    import httptools

    seen: list[Any] = []

    class Seen:
        def on_url(self, url: bytes) -> None:
            seen.append(url)

        def on_body(self, body: bytes) -> None:
            seen.append(body)

    requests, _ = reader()
    httptools.HttpRequestParser(Seen()).feed_data(requests.feed(HONEST))
    assert seen == [b"/x?y", b"/p", b"hello", b"/q", b"abc", b"0123456789", b"*"]


def test_heads_of_spaces_are_read_in_linear_time() -> None:
    requests, _ = reader()
    with pytest.raises(HttpRefused):
        requests.feed(b"GET / HTTP/1.1\r\nHost: a.test\r\nX:" + b" " * 30_000 + b"\0\r\n\r\n")
