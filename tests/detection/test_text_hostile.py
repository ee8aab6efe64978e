"""Texts made to be slow or large: time grows with length, output stays within its bound."""

from __future__ import annotations

import base64
import random
import string
import time

import pytest

from limen.detection.text import examine
from limen.detection.views import MAX_VIEWS

LENGTH = 100_000
CHAOS = random.Random(5)


def drawn(alphabet: str | list[str], length: int = LENGTH) -> str:
    return "".join(CHAOS.choices(alphabet, k=length))


UNITS = {
    "letters": "a",
    "angles": "<",
    "tags": "<a ",
    "tag": "<a aaaaaaaaaaa",
    "quotes": 'a="',
    "comments": "<!--",
    "titles": "\x1b]",
    "old titles": "\x9d",
    "sequences": "\x1b[",
    "references": "&#",
    "digits": "&#1111111111",
    "backslashes": "\\",
    "breaks": "a\\n",
    "percent": "%41",
    "percent of percent": "%25",
    "pluses": "a+",
    "base64": "QUFB",
    "base64 lines": "Abcdefghijkl\n",
    "hex": "41",
    "pairs": "ab ",
    "binary": "01000001 ",
    "binary digits": "0",
    "decimal": "65 ",
    "decimal, wide": "65     ",
    "spaces": " ",
    "lines": "\n",
    "spaced lines": " \n",
    "nearly padding": " " * 199 + "x",
    "morse": ".- ",
    "dashes": "-",
    "ascii85": "<~",
    "uuencoded": "begin 644 ",
    "uuencoded lines": "begin 644 x\n",
    "apart": "a ",
    "leet": "a1b ",
    "rot13": "gur ",
    "reversed": "eht ",
    "ticks": "`",
    "stars": "*",
    "pipes": "|",
    "zero-width": "a\u200b",
    "marks": "\u0334\u0301\u0334",
    "selectors": "\ufe01",
    "tag characters": "\U000e0041",
    "overrides": "\u202ea",
    "cyrillic": "а",
    "mixed": "аb",
    "full-width": "ａ",
    "ligature": "\ufdfa",
    "jamo": "\u1161",
    "emoji": "👨‍👩‍👧",
    "overstrike": "a\x08",
    "styles": '<a style="',
    "points": "U+FDFA ",
    "surrogates": "\\ud83d",
    "quoted": "=41",
    "base32": "2",
    "braille": "⠁",
    "style word": "<a style",
    "begin": "x='",
}
MIXED = {
    "printable": drawn(string.printable),
    "latin-1": drawn([chr(code) for code in range(256)]),
    "any script": drawn([chr(CHAOS.randrange(0x80, 0xD7FF)) for _ in range(2000)]),
    "base64 noise": drawn(string.ascii_letters + string.digits + "+/"),
    "hex noise": drawn("0123456789abcdef"),
    "invisible noise": drawn("\u200b\u200c"),
    "leet noise": drawn("abcde013457@$ "),
    "everything": drawn(
        [
            "gur ",
            "eht ",
            "gsv ",
            "a1bc ",
            "%41",
            "&#65;",
            "\\u0041",
            "QUFBQUFBQUFBQUFBQUFB ",
            "i g n o r e ",
            "<b>x</b>",
            "<!-- a b -->",
            "\u200b",
            "\u202e",
            "аb",
            "\U000e0041",
            "41" * 20 + " ",
        ],
        LENGTH // 8,
    ),
    "spaces in a tag": "<a style" + " " * LENGTH,
    "struck out": "a" * (LENGTH // 2) + "\x08" * (LENGTH // 2),
    "picture": base64.b64encode(CHAOS.randbytes(LENGTH * 3 // 4)).decode(),
}


def seconds(text: str) -> float:
    best = float("inf")
    for _ in range(4):
        started = time.thread_time()
        examine(text)
        best = min(best, time.thread_time() - started)
    return best


@pytest.mark.parametrize("name", [*UNITS, *MIXED])
def test_time_is_linear(name: str) -> None:
    text = MIXED[name] if name in MIXED else UNITS[name] * (LENGTH // len(UNITS[name]))
    examine(text[: len(text) // 8])  # first use builds state tables
    # Four times the text: about four times the time; a quadratic step would cost sixteen times and more.
    # Another try where the machine was busy meanwhile; a step that is quadratic fails all of them.
    tries = ((seconds(text[: len(text) // 4]), seconds(text)) for _ in range(3))
    assert any(long < 0.1 or 10 * short > long < 8 for short, long in tries)


@pytest.mark.parametrize("name", [*UNITS, *MIXED])
def test_output_is_bounded(name: str) -> None:
    text = MIXED[name] if name in MIXED else UNITS[name] * (LENGTH // len(UNITS[name]))
    found = examine(text)
    assert len(found.views) <= MAX_VIEWS
    assert sum(len(view.text) for view in found.views) <= 5 * len(text) + 400_000
