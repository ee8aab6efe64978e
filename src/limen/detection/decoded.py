"""The same argument as a lenient parser further down could read it: escapes undone round by round.

Percent (also `%uXXXX` and overlong UTF-8), backslash and character-reference escapes, compatibility characters,
look-alikes of `/`, `\\` and `.`, and invisible characters. Every round is linear; a check that holds for all readings
holds whichever of them the server takes.
"""

from __future__ import annotations

import re
from typing import Final

from limen.detection.views_fold import compose

ROUNDS: Final = 6
_MASKED: Final = re.compile(r"%[0-9a-fA-FuU]|\\[uUx0-3]|&[#a-zA-Z]|[^\x00-\x7f]")
_PERCENT: Final = re.compile(r"(?:%[0-9a-fA-F]{2})+")
_PERCENT_U: Final = re.compile(r"%[uU]([0-9a-fA-F]{4})")
_BACKSLASH: Final = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([0-3][0-7]{2}))")
_REFERENCE: Final = re.compile(r"&(?:#[xX]0{0,8}([0-9a-fA-F]{1,6})|#0{0,8}([0-9]{1,7})|([a-zA-Z]{2,8}));?")
_NAMED: Final = {
    "sol": "/", "bsol": "\\", "period": ".", "colon": ":", "semi": ";", "vert": "|", "verbar": "|", "amp": "&",
    "dollar": "$", "lpar": "(", "rpar": ")", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "grave": "`",
    "newline": "\n", "tab": "\t", "num": "#", "equals": "=", "lbrace": "{", "lcub": "{", "rcub": "}", "commat": "@",
}  # fmt: skip
_LOOKALIKES: Final = {
    0x2215: "/", 0x2044: "/", 0x29F8: "/", 0x2571: "/", 0x2216: "\\", 0x29F5: "\\", 0x29F9: "\\", 0x3002: ".",
    0xFF61: ".", 0x2024: ".", 0xA789: ":", 0x2236: ":", 0x037E: ";", 0x2223: "|", 0x01C0: "|",
    0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"',
}  # fmt: skip
_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\U000e0000-\U000e0fff]+"
)


def readings(text: str, *, backslash: bool = True) -> tuple[list[str], bool]:
    """Distinct readings, as given first, the most decoded last; and whether more rounds would have gone on.

    `backslash=False` where a backslash separates (`C:\\data\\x41`) and is no escape.
    """
    found = [text]
    if text.isascii() and "%" not in text and "\\" not in text and "&" not in text:
        return found, False  # most values, at the speed of a search for one character
    if not _MASKED.search(text):
        return found, False
    for _ in range(ROUNDS):
        after = _round(found[-1], backslash)
        if after == found[-1]:
            return found, False
        found.append(after)
    return found, _round(found[-1], backslash) != found[-1]


def plain(text: str) -> str:
    """Compatibility forms and look-alikes folded, invisible characters dropped."""
    if text.isascii():
        return text
    return compose(_INVISIBLE.sub("", text), "NFKC").translate(_LOOKALIKES)


def _round(text: str, backslash: bool) -> str:
    if "%" in text:
        text = _PERCENT_U.sub(lambda m: chr(int(m[1], 16)), _PERCENT.sub(_octets, text))
    if backslash and "\\" in text:
        text = _BACKSLASH.sub(_escape, text)
    if "&" in text:
        text = _REFERENCE.sub(_reference, text)
    return plain(text)


def _octets(match: re.Match[str]) -> str:
    raw = bytes.fromhex(match[0].replace("%", ""))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _lenient(raw)


def _lenient(raw: bytes) -> str:
    """UTF-8 as careless decoders take it: overlong forms count, stray octets are Latin-1."""
    out: list[str] = []
    at = 0
    while at < len(raw):
        lead = raw[at]
        extra = 3 if lead >= 0xF0 else 2 if lead >= 0xE0 else 1 if lead >= 0xC0 else 0
        tail = raw[at + 1 : at + 1 + extra]
        if extra and len(tail) == extra and all(octet & 0xC0 == 0x80 for octet in tail):
            code = lead & (0x3F >> extra)
            for octet in tail:
                code = code << 6 | octet & 0x3F
            if code <= 0x10FFFF:
                out.append(chr(code))
                at += 1 + extra
                continue
        out.append(chr(lead))
        at += 1
    return "".join(out)


def _escape(match: re.Match[str]) -> str:
    if match[4] is not None:
        return chr(int(match[4], 8))
    code = int(match[1] or match[2] or match[3], 16)
    return chr(code) if code <= 0x10FFFF else match[0]


def _reference(match: re.Match[str]) -> str:
    if match[3] is not None:
        return _NAMED.get(match[3].lower(), match[0]) if match[0].endswith(";") else match[0]
    code = int(match[1], 16) if match[1] is not None else int(match[2])
    return chr(code) if code <= 0x10FFFF else match[0]
