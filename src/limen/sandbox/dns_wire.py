"""The part of DNS a stub resolver speaks: one question in, one answer out (RFC 1035, 6891, 2308). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from limen.core.addresses import Address

A, AAAA, ANY, HTTPS, SVCB = 1, 28, 255, 65, 64
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
MAX_QUESTION: Final = 512
MAX_ANSWERS: Final = 8  # with the longest name still within the 512 bytes every client takes
_HEAD: Final = struct.Struct("!HHHHHH")
_TAIL: Final = struct.Struct("!HH")


class Question(NamedTuple):
    """`name` in lower case without the final dot; `raw` as it was asked, to be repeated in the answer."""

    id: int
    recursion: bool
    name: str
    type: int
    raw: bytes


class Unreadable(Exception):
    """Not a question. `answer` is what to send back, b"" for nothing."""

    def __init__(self, answer: bytes = b"") -> None:
        super().__init__("not a DNS question")
        self.answer = answer


def read_question(message: bytes) -> Question:
    """Raises Unreadable. Names are plain labels of printable ASCII; compression has no place in a question."""
    if not _HEAD.size < len(message) <= MAX_QUESTION:
        raise Unreadable
    number, flags, questions, answers, authorities, _ = _HEAD.unpack_from(message)
    if flags & 0x8000:
        raise Unreadable  # an answer; answering it could go on for ever
    if flags & 0x7800:
        raise Unreadable(_head(number, flags & 0x0100 != 0, NOTIMP, 0, 0))
    if questions != 1 or answers or authorities:
        raise Unreadable(_head(number, flags & 0x0100 != 0, FORMERR, 0, 0))
    wrong = Unreadable(_head(number, flags & 0x0100 != 0, FORMERR, 0, 0))
    at, labels = _HEAD.size, []
    while at < len(message) and (size := message[at]):
        label = message[at + 1 : at + 1 + size]
        if size > 63 or len(label) < size or not all(33 <= byte < 127 and byte != 46 for byte in label):
            raise wrong
        labels.append(label)
        at += 1 + size
    at += 1
    name = b".".join(labels).decode("ascii").lower()
    if at + _TAIL.size > len(message) or len(name) > 253:
        raise wrong
    kind, group = _TAIL.unpack_from(message, at)
    if group != 1:
        raise Unreadable(_head(number, flags & 0x0100 != 0, REFUSED, 0, 0))
    return Question(number, flags & 0x0100 != 0, name, kind, message[_HEAD.size : at + _TAIL.size])


def write_answer(question: Question, code: int, addresses: Iterable[Address] = (), ttl: int = 0) -> bytes:
    """The answer; addresses must be of the type that was asked for. No addresses and NOERROR: no such record."""
    records = [
        struct.pack("!HHHIH", 0xC00C, question.type, 1, ttl, len(address.packed)) + address.packed
        for address in list(addresses)[:MAX_ANSWERS]
    ]
    return _head(question.id, question.recursion, code, 1, len(records)) + question.raw + b"".join(records)


def _head(number: int, recursion: bool, code: int, questions: int, answers: int) -> bytes:
    flags = 0x8080 | (0x0100 if recursion else 0) | code  # an answer, recursion available
    return _HEAD.pack(number, flags, questions, answers, 0, 0)
