"""Encodings undone in place: what stands around an encoded run stays around its text.

Each encoding has a condition in `views_gate` and is tried only where it holds; what does not decode to text is left
as it is.
"""

from __future__ import annotations

import binascii
import re
from base64 import a85decode, b32decode
from collections.abc import Callable
from html.entities import html5
from typing import Final

from limen.detection.views_excerpt import Budget, around, excerpt
from limen.detection.views_gate import LIKELY
from limen.detection.views_unpack import readable

_PERCENT: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_PERCENT_U: Final = re.compile(r"%u([0-9A-Fa-f]{4})")
_PLUSES: Final = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z]{1,32}(?:\+[A-Za-z]{1,32}){3,}(?![A-Za-z0-9+/])")
_ENTITY: Final = re.compile(r"&(?:#[xX]0{0,8}([0-9a-fA-F]{1,6})|#0{0,8}([0-9]{1,7})|([A-Za-z]{2,8}[0-9]{0,2}));?")
_ESCAPE: Final = re.compile(
    r"\\(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([0-3][0-7]{2})|([nrt\"'/]))"
)
_SURROGATES: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_QUOTED: Final = re.compile(r"(?:=[0-9A-F]{2})+|=\r?\n")
_BASE64: Final = re.compile(
    r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{12,}(?:[ \t]*(?:\r?\n|\\n)[ \t]*[A-Za-z0-9+/_-]{2,})*={0,2}"
)
_BASE64_PARTS: Final = re.compile(r"[A-Za-z0-9]{12,}")
_LONG_PARTS: Final = re.compile(r"[A-Za-z0-9]{96,}")
_JUNK: Final = re.compile(r"\\n|\s+")
_URL_SAFE: Final = str.maketrans("-_", "+/")
_BASE32: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z2-7]{16,}={0,6}(?![A-Za-z0-9])")
_HEX: Final = re.compile(r"(?<![0-9A-Za-z])(?:0[xX])?(?:[0-9A-Fa-f]{2}){8,}(?![0-9A-Za-z])")
_HEX_PAIRS: Final = re.compile(
    r"(?<![0-9A-Za-z])(?:(?:0[xX])?[0-9A-Fa-f]{2}[ :,;-]{1,2}){6,}(?:0[xX])?[0-9A-Fa-f]{2}(?![0-9A-Za-z])"
)
_PREFIX: Final = re.compile(r"0[xX]|[^0-9A-Fa-f]")
_CODE_POINTS: Final = re.compile(r"(?:U\+[0-9A-F]{4,5}[ ,;]*){4,}")
_BINARY: Final = re.compile(r"(?<![0-9])(?:[01]{8}[ ,]?){4,}(?![0-9])")
_DECIMAL: Final = re.compile(r"(?<![0-9.])(?:[0-9]{2,3}[ ,]+){7,}[0-9]{2,3}(?![0-9.])")
_ASCII85: Final = re.compile(r"<~([!-u\s]{8,65536}?)~>")
_UU: Final = re.compile(r"begin [0-7]{3} [^\n]{0,200}\n((?:[ -`]{1,62}\r?\n)+)")
_MORSE: Final = re.compile(r"(?<![.-])[.-]{1,5}(?:[ /|]+[.-]{1,5}){7,}(?![.-])")
_MORSE_WORDS: Final = re.compile(r" ?[/|] ?| {2,}")
BRAILLE: Final = re.compile("[\u2801-\u283f]+")
_MORSE_SIGNS: Final = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
    "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."
)
_MORSE_CODE: Final = dict(zip(_MORSE_SIGNS.split(), "abcdefghijklmnopqrstuvwxyz0123456789", strict=True))
_BRAILLE_CODE: Final = str.maketrans(dict(zip("⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵", "abcdefghijklmnopqrstuvwxyz", strict=True)))
_SHORT: Final = 2048  # of a longer run, this much tells where its text begins
_SHIFTED: Final = 28
_LINE: Final = re.compile(r"\S{12,}")
_SEPARATOR: Final = re.compile("[-_+/]")

Decoder = Callable[[str, Budget], str]


def decode(text: str, kinds: frozenset[str], budget: Budget) -> tuple[str, str]:
    """The encodings named in `kinds` undone in turn: the names of those found, joined by "+", and the text; or ""s."""
    wanted = [decoder for kind, decoders in _DECODERS.items() if kind in kinds for decoder in decoders]
    spans = sorted(
        match.span()
        for name, touched, _ in wanted
        for match in touched.finditer(text)
        if name != "base64" or LIKELY.search(match[0])
    )
    if not spans:
        return "", ""
    text = excerpt(text, spans)
    names: list[str] = []
    for name, _, decoder in wanted:
        after = decoder(text, budget)
        if after != text:
            text = after
            names.append(name)
    return "+".join(names), text if names else ""


def runs(text: str) -> bool:
    """Whether the text holds a run that `decode` takes for base64. What a line holds, a text of more lines does."""
    return any(LIKELY.search(match[0]) for match in _BASE64.finditer(text))


def _octets(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _percent(text: str, _: Budget) -> str:
    for _round in range(8):  # %25252569: rounds cost a pass each and nothing else
        after = _PERCENT_U.sub(lambda m: chr(int(m[1], 16)), text)
        after = _PERCENT.sub(lambda m: _octets(bytes.fromhex(m[0].replace("%", ""))), after)
        if after == text:
            break
        text = after
    return text


def _pluses(text: str, _: Budget) -> str:
    return _PLUSES.sub(lambda m: m[0].replace("+", " "), text)


def _code(match: re.Match[str], text: str, base: int) -> str:
    code = int(text, base)
    return chr(code) if code <= 0x10FFFF else match[0]


def _entity(match: re.Match[str]) -> str:
    if match[3] is not None:
        return html5.get(match[3] + ";", match[0]) if match[0].endswith(";") else match[0]
    return _code(match, match[1], 16) if match[1] is not None else _code(match, match[2], 10)


def _entities(text: str, _: Budget) -> str:
    for _round in range(4):  # &amp;#105;
        after = _ENTITY.sub(_entity, text)
        if after == text:
            break
        text = after
    return text


def _escape(match: re.Match[str]) -> str:
    if match[5] is not None:
        return {"n": "\n", "r": "\n", "t": "\t"}.get(match[5], match[5])
    return _code(match, match[4], 8) if match[4] is not None else _code(match, match[1] or match[2] or match[3], 16)


def _escapes(text: str, _: Budget) -> str:
    text = _ESCAPE.sub(_escape, text)
    return _SURROGATES.sub(lambda m: m[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le"), text)


def _quoted(text: str, _: Budget) -> str:
    return _QUOTED.sub(lambda m: _octets(bytes.fromhex(m[0].replace("=", ""))) if m[0][1:].strip() else "", text)


def _from_base64(run: str, budget: Budget) -> str | None:
    body = _JUNK.sub("", run).rstrip("=").translate(_URL_SAFE)
    # Letters in front of an encoded run shift it; a short one is more often a name of the program's than such a run.
    for offset in range(4 if len(body) >= _SHIFTED else 1):
        if len(body) <= _SHORT or offset == 0 or readable(_octets64(body[offset : offset + _SHORT]), budget):
            found = readable(_octets64(body[offset:]), budget)
            if found is not None:
                return found
    return None


def _octets64(body: str) -> bytes:
    body = body[: len(body) - (1 if len(body) % 4 == 1 else 0)]
    return binascii.a2b_base64(body + "=" * (-len(body) % 4))


def _base64(text: str, budget: Budget) -> str:
    def undo(match: re.Match[str]) -> str:
        if not LIKELY.search(match[0]):
            return match[0]
        found = _from_base64(match[0], budget)
        if found is None and "\n" in match[0]:
            return _LINE.sub(lambda line: _from_base64(line[0], budget) or line[0], match[0])
        if found is None and _SEPARATOR.search(match[0]):
            parts = _BASE64_PARTS if len(match[0]) <= _SHORT else _LONG_PARTS  # a picture has hundreds of short ones
            return parts.sub(lambda part: _from_base64(part[0], budget) or part[0], match[0])
        return match[0] if found is None else found

    return _BASE64.sub(undo, text)


def _base32(text: str, budget: Budget) -> str:
    def undo(match: re.Match[str]) -> str:
        body = match[0].rstrip("=")
        body = body[: len(body) - len(body) % 8 + {0: 0, 1: 0, 2: 2, 3: 2, 4: 4, 5: 5, 6: 5, 7: 7}[len(body) % 8]]
        return readable(b32decode(body + "=" * (-len(body) % 8)), budget) or match[0]

    return _BASE32.sub(undo, text)


def _hex(text: str, budget: Budget) -> str:
    def undo(match: re.Match[str]) -> str:
        digits = _PREFIX.sub("", match[0])
        return readable(bytes.fromhex(digits), budget) or match[0]

    return _HEX_PAIRS.sub(undo, _HEX.sub(undo, text))


def _code_points(text: str, _: Budget) -> str:
    return _CODE_POINTS.sub(
        lambda m: "".join(_code(m, point, 16) for point in re.findall(r"U\+([0-9A-F]+)", m[0])) + " ", text
    )


def _numbers(text: str, budget: Budget) -> str:
    def undo(match: re.Match[str]) -> str:
        binary = set(match[0]) <= set("01 ,")
        if binary:
            bits = match[0].replace(" ", "").replace(",", "")
            codes = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
        else:
            codes = [int(number) for number in re.findall("[0-9]+", match[0])]
        if max(codes) > 255:
            return match[0]
        tail = " " if match[0].endswith((" ", ",")) else ""
        found = readable(bytes(codes), budget)
        return match[0] if found is None else found + tail

    return _DECIMAL.sub(undo, _BINARY.sub(undo, text))


def _ascii85(text: str, budget: Budget) -> str:
    def undo(match: re.Match[str]) -> str:
        try:
            raw = a85decode(match[1])
        except ValueError:
            return match[0]
        return readable(raw, budget) or match[0]

    def undo_uu(match: re.Match[str]) -> str:
        try:
            raw = b"".join(binascii.a2b_uu(line) for line in match[1].splitlines())
        except binascii.Error:
            return match[0]
        return readable(raw, budget) or match[0]

    return _UU.sub(undo_uu, _ASCII85.sub(undo, text))


def _morse(text: str, _: Budget) -> str:
    def undo(match: re.Match[str]) -> str:
        words = [[_MORSE_CODE.get(sign) for sign in word.split()] for word in _MORSE_WORDS.split(match[0])]
        if any(letter is None for word in words for letter in word):
            return match[0]
        found = " ".join("".join(letter or "" for letter in word) for word in words)
        return found if len(set(found)) > 4 else match[0]  # a rule of dashes spells "tttt"

    return _MORSE.sub(undo, text)


def braille(text: str) -> str:
    """Braille letters as letters; "" without any."""
    near = around(text, BRAILLE)
    return near.translate(_BRAILLE_CODE).replace("\u2800", " ") if near else ""


_DECODERS: Final[dict[str, tuple[tuple[str, re.Pattern[str], Decoder], ...]]] = {
    # First, for its alphabet holds the signs of the others.
    "ascii85": (("ascii85", re.compile(f"{_ASCII85.pattern}|{_UU.pattern}"), _ascii85),),
    "percent": (
        ("percent", re.compile(r"%[0-9A-Fa-f]{2}|%u[0-9A-Fa-f]{4}"), _percent),
        ("pluses", _PLUSES, _pluses),
    ),
    "entity": (("entity", _ENTITY, _entities),),
    "escape": (("escape", _ESCAPE, _escapes),),
    "quoted": (("quoted", _QUOTED, _quoted),),
    "hex": (("hex", re.compile(f"{_HEX.pattern}|{_HEX_PAIRS.pattern}"), _hex), ("points", _CODE_POINTS, _code_points)),
    "numbers": (("numbers", re.compile(f"{_BINARY.pattern}|{_DECIMAL.pattern}"), _numbers),),
    "morse": (("morse", _MORSE, _morse),),
    "base32": (("base32", _BASE32, _base32),),
    "base64": (("base64", _BASE64, _base64),),
}
