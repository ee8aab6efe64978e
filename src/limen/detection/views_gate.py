"""Two passes of compiled sets over a text: which disguises it could contain. What is not named here is not looked for.

google-re2 runs all expressions of a set at once in linear time. Its one failure, a full state cache, looks like
"nothing matches"; the empty expression must therefore always be among the matches; where it is not, everything is
possible. What counts (eight numbers in a row) and what names signs are sets of their own, and long runs of one alphabet
are no expressions at all: together, their states multiply, and a text that meets a new one with every sign pays for
each: 190 ms for the first 100 KB of noise, where these take 16.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final, Protocol, cast

import re2  # type: ignore[import-untyped]

_MEMORY: Final = 16 * 1024 * 1024  # bytes at most, for states met
# Frequent English words, and words of orders, as they look after the rotation by thirteen, in the mirrored alphabet
# and backwards. Detection aims at English here: other languages lose their letters in these disguises.
WORDS: Final = (
    "ignore|disregard|forget|override|instructions?|previous|prior|system|prompt|secret|password|reveal|execute|delete|"
    "assistant|please|always|never|before|after|should|must|send|email|user|token|admin|message|tool|file|the|your|and|"
    "for|with|this|that|all|you|now|not|from|any|are|has|have|will|when"
)
ROT13: Final = str.maketrans(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "NOPQRSTUVWXYZABCDEFGHIJKLMnopqrstuvwxyzabcdefghijklm"
)
ATBASH: Final = str.maketrans(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "ZYXWVUTSRQPONMLKJIHGFEDCBAzyxwvutsrqponmlkjihgfedcba"
)
_PLAIN_WORDS: Final = tuple(sorted({*WORDS.replace("instructions?", "instruction|instructions").split("|")}))
ROT13_WORDS: Final = "|".join(word.translate(ROT13) for word in _PLAIN_WORDS)
ATBASH_WORDS: Final = "|".join(word.translate(ATBASH) for word in _PLAIN_WORDS)
REVERSED_WORDS: Final = "|".join(word[::-1] for word in _PLAIN_WORDS if word[::-1] not in ("dna", "won", "ton"))

_SIGNS: Final[dict[str, str]] = {
    "percent": r"%[0-9A-Fa-f]{2}|%u[0-9A-Fa-f]{4}|[A-Za-z]\+[A-Za-z]+\+[A-Za-z]+\+[A-Za-z]",
    "entity": r"&(?:#[0-9]|#[xX][0-9A-Fa-f]|[A-Za-z]{2,8}[0-9]{0,2};)",
    "escape": r"\\(?:u[0-9A-Fa-f{]|x[0-9A-Fa-f]{2}|[0-3][0-7]{2})|[A-Za-z.,:;]\\[nrt]",
    "quoted": r"=[0-9A-F]{2}=[0-9A-F]{2}|[A-Za-z]=\r?\n[A-Za-z]",
    "ascii85": r"<~[!-u\s]{8}|(?:begin [0-7]{3} )",
    "leet": r"[A-Za-z][013457@$!|]{1,5}[A-Za-z]|(?:^|[^A-Za-z0-9])(?:[013457][A-Za-z]{3}|[@$!][A-Za-z]*[013457@$!])",
    "markup": r"<[A-Za-z/!][^<>]*>|<!--|[A-Za-z](?:\*+|~~|`+|\|\|)[A-Za-z]",
    "control": r"[\x00-\x08\x0b\x0e-\x1f\x7f]|[\x80-\x84\x86-\x9f]",
}
_COUNTED: Final[dict[str, str]] = {
    "hex": r"(?:^|[^0-9A-Za-z])(?:[0-9A-Fa-f]{2}[ :,;-]{1,2}){6}|(?:0[xX][0-9A-Fa-f]{2}[ ,;]*){6}|"
    r"(?:U\+[0-9A-F]{4,5} ?){4}",
    "numbers": r"(?:[01]{8}[ ,]?){4}|(?:[0-9]{2,3}[ ,]+){8}",
    "morse": r"(?:[.-]{1,5}[ /|]+){8}",
    "spaced": r"(?:^|[^A-Za-z0-9])(?:[A-Za-z0-9](?:[ \t._*|/,~-]{1,3}(?:\r?\n)?|\r?\n)){5}",
    "rot13": rf"(?i)\b(?:{ROT13_WORDS})\b",
    "atbash": rf"(?i)\b(?:{ATBASH_WORDS})\b",
    "reversed": rf"(?i)\b(?:{REVERSED_WORDS})\b",
    "padding": r"[ \t]{200}|(?:\r?\n[ \t]*){40}",
}
# Runs of the signs of one alphabet; those of the second and third are signs of the first.
_RUNS: Final[dict[str, bytes]] = {
    name: bytes(ord("a") if code in signs else ord("=") if code == ord("=") else ord(".") for code in range(256))
    for name, signs in (
        ("base64", b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-"),
        ("base32", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
        ("hex", b"0123456789ABCDEFabcdef"),
    )
}
_LONG: Final = b"a" * 16
ALL: Final = frozenset((*_SIGNS, *_COUNTED, *_RUNS))
# What names of things seldom have and encoded text always has: a run of base64 without it is left as it is.
LIKELY: Final = re.compile("[a-z][A-Z0-9]|[A-Z0-9]{12}")
_NAMES: Final = (tuple(_SIGNS), tuple(_COUNTED))
_NONE: Final[frozenset[str]] = frozenset()


class _Set(Protocol):
    def Match(self, text: bytes) -> list[int] | None: ...  # noqa: N802


@cache
def _compiled() -> tuple[_Set, ...]:
    sets = []
    for patterns in (_SIGNS, _COUNTED):
        options = re2.Options()
        options.max_mem = _MEMORY
        options.log_errors = False
        found = re2.Set.SearchSet(options)
        for pattern in (*patterns.values(), ""):
            found.Add(pattern)
        found.Compile()
        sets.append(cast(_Set, found))
    return tuple(sets)


def gate(text: str) -> frozenset[str]:
    """The kinds of disguises that could be in `text`: names in `ALL`."""
    raw = text.encode("utf-8", "surrogatepass")
    kinds: list[str] = []
    for names, compiled in zip(_NAMES, _compiled(), strict=True):
        hits = compiled.Match(raw)
        if hits is None or len(names) not in hits:
            return ALL
        if len(hits) > 1:
            kinds += [names[hit] for hit in hits if hit < len(names)]
    signs = raw.translate(_RUNS["base64"])
    if _LONG[1:] in signs:
        kinds += _alphabets(text, raw, signs)
    return frozenset(kinds) if kinds else _NONE


def _alphabets(text: str, raw: bytes, signs: bytes) -> Iterator[str]:
    if (_LONG in signs or _LONG[1:] + b"=" in signs) and LIKELY.search(text):
        yield "base64"
    for name in ("base32", "hex"):
        if _LONG in raw.translate(_RUNS[name]):
            yield name
