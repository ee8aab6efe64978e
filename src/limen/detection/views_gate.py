"""One pass of a compiled set over a text: which disguises it could contain. What is not named here is not looked for.

google-re2 runs all expressions at once in linear time. Its one failure, a full state cache, looks like "nothing
matches"; the empty expression must therefore always be among the matches; where it is not, everything is possible.
"""

from __future__ import annotations

import re
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

PATTERNS: Final[dict[str, str]] = {
    "percent": r"%[0-9A-Fa-f]{2}|%u[0-9A-Fa-f]{4}|[A-Za-z]\+[A-Za-z]+\+[A-Za-z]+\+[A-Za-z]",
    "entity": r"&(?:#[0-9]|#[xX][0-9A-Fa-f]|[A-Za-z]{2,8}[0-9]{0,2};)",
    "escape": r"\\(?:u[0-9A-Fa-f{]|x[0-9A-Fa-f]{2}|[0-3][0-7]{2})|[A-Za-z.,:;]\\[nrt]",
    "quoted": r"=[0-9A-F]{2}=[0-9A-F]{2}|[A-Za-z]=\r?\n[A-Za-z]",
    "base64": r"[A-Za-z0-9+/_-]{15}[A-Za-z0-9+/_=-]",
    "base32": r"[A-Z2-7]{16}",
    "hex": r"[0-9A-Fa-f]{16}|(?:^|[^0-9A-Za-z])(?:[0-9A-Fa-f]{2}[ :,;-]{1,2}){6}|(?:0[xX][0-9A-Fa-f]{2}[ ,;]*){6}|"
    r"(?:U\+[0-9A-F]{4,5} ?){4}",
    "numbers": r"(?:[01]{8}[ ,]?){4}|(?:[0-9]{2,3}[ ,]+){8}",
    "morse": r"(?:[.-]{1,5}[ /|]+){8}",
    "ascii85": r"<~[!-u\s]{8}|(?:begin [0-7]{3} )",
    "spaced": r"(?:^|[^A-Za-z0-9])(?:[A-Za-z0-9](?:[ \t._*|/,~-]{1,3}(?:\r?\n)?|\r?\n)){5}",
    "leet": r"[A-Za-z][013457@$!|]{1,5}[A-Za-z]|(?:^|[^A-Za-z0-9])(?:[013457][A-Za-z]{3}|[@$!][A-Za-z]*[013457@$!])",
    "rot13": rf"(?i)\b(?:{ROT13_WORDS})\b",
    "atbash": rf"(?i)\b(?:{ATBASH_WORDS})\b",
    "reversed": rf"(?i)\b(?:{REVERSED_WORDS})\b",
    "markup": r"<[A-Za-z/!][^<>]*>|<!--|[A-Za-z](?:\*+|~~|`+|\|\|)[A-Za-z]",
    "control": r"[\x00-\x08\x0b\x0e-\x1f\x7f]|[\x80-\x84\x86-\x9f]",
    "padding": r"[ \t]{200}|(?:\r?\n[ \t]*){40}",
}
ALL: Final = frozenset(PATTERNS)
# What names of things seldom have and encoded text always has: a run of base64 without it is left as it is.
LIKELY: Final = re.compile("[a-z][A-Z0-9]|[A-Z0-9]{12}")
_NAMES: Final = tuple(PATTERNS)
_CANARY: Final = len(_NAMES)
_NONE: Final[frozenset[str]] = frozenset()
_BASE64: Final = frozenset(("base64",))


class _Set(Protocol):
    def Match(self, text: bytes) -> list[int] | None: ...  # noqa: N802


@cache
def _compiled() -> _Set:
    options = re2.Options()
    options.max_mem = _MEMORY
    options.log_errors = False
    found = re2.Set.SearchSet(options)
    for pattern in (*PATTERNS.values(), ""):
        found.Add(pattern)
    found.Compile()
    return cast(_Set, found)


def gate(text: str) -> frozenset[str]:
    """Names of `PATTERNS` that occur in `text`, with what else they need."""
    hits = _compiled().Match(text.encode("utf-8", "surrogatepass"))
    if hits is None or _CANARY not in hits:
        return ALL
    if len(hits) == 1:
        return _NONE
    kinds = frozenset([_NAMES[hit] for hit in hits if hit != _CANARY])
    return kinds - _BASE64 if "base64" in kinds and not LIKELY.search(text) else kinds
