"""Words spelled so that a program does not know them: leetspeak, letters set apart, rotated, mirrored, backwards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

from limen.detection.views_excerpt import WHOLE, around, excerpt
from limen.detection.views_gate import ATBASH, ATBASH_WORDS, REVERSED_WORDS, ROT13, ROT13_WORDS, WORDS

_LEET_WORD: Final = re.compile(
    r"(?<![A-Za-z0-9@$!|+])(?=[A-Za-z]{0,24}[0-9@$!|+])[A-Za-z0-9@$!|+]{2,24}(?![A-Za-z0-9@$!|+])"
)
_DATA: Final = re.compile(r"[A-Za-z0-9+/_=-]{200,}")  # a picture, a key: words in it are chance
_LEET_SIGN: Final = re.compile(
    r"[A-Za-z][013457@$!|]{1,5}[A-Za-z]|\A[013457][A-Za-z]{3}|\A[@$!][A-Za-z]*[013457@$!][A-Za-z]|\A![A-Za-z]+[013457]"
)
_NOT_LEET: Final = re.compile(r"(?i)\A(?:[0-9a-f]+|[0-9]+[a-z]{1,3}|[a-z]+[0-9]+|0x[0-9a-f]+|[0-9]+(?:st|nd|rd|th))\Z")
_LEET: Final = str.maketrans("01345789@$!|+", "oieastbgasiit")
_LEET_L: Final = str.maketrans("01345789@$!|+", "oleastbgaslit")
_APART: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:[A-Za-z0-9@$!](?:[ \t._*|/,~-]{1,8}(?:\r?\n)?|\r?\n)){4,}[A-Za-z0-9@$!](?![A-Za-z0-9])"
)
_LETTER_GAP: Final = re.compile(r"([A-Za-z0-9@$!])([^A-Za-z0-9@$!]*)")
_KNOWN: Final = re.compile(rf"(?i)(?:{WORDS}|reply|repeat|output|print|show|rules?|every|the|to|of|and|me|is)")
_ROT13: Final = frozenset(ROT13_WORDS.encode().split(b"|"))
_ATBASH: Final = frozenset(ATBASH_WORDS.encode().split(b"|"))
_REVERSED: Final = frozenset(REVERSED_WORDS.encode().split(b"|"))
_TOKEN: Final = re.compile(rb"[a-z0-9_]+")
_WORD: Final = re.compile(r"[^\W_]+")
_MANY: Final = 4  # with so many words in leetspeak, short numbers are words as well
_TELLING: Final = 6  # one word of so many letters is no accident; of shorter ones two are needed


def unleeted(text: str) -> list[str]:
    """Digits and signs in words as letters, "1" as i and, where it matters, as l. Empty below two words written so,
    unless one is a word of orders."""
    text = _DATA.sub(" ", text)
    words = [match for match in _LEET_WORD.finditer(text) if _is_leet(match[0])]
    distinct = {match[0].lower() for match in words}
    if len(distinct) < 2 and not any(
        _KNOWN.fullmatch(word.translate(table)) for word in distinct for table in (_LEET, _LEET_L)
    ):
        return []
    part = excerpt(text, (match.span() for match in words))
    readings = [_LEET_WORD.sub(_Letters(table, len(words) >= _MANY), part) for table in (_LEET, _LEET_L)]
    return readings if readings[0] != readings[1] else readings[:1]


def _is_leet(word: str) -> bool:
    return _LEET_SIGN.search(word) is not None and _NOT_LEET.match(word) is None


class _Letters:
    """Reads one word's digits and signs as letters; `numbers`: short ones too ("70" is "to")."""

    def __init__(self, table: Mapping[int, int], numbers: bool) -> None:
        self._table, self._numbers = table, numbers

    def __call__(self, match: re.Match[str]) -> str:
        word = match[0]
        if word.isalpha() or (not any(char.isalpha() for char in word) and not (self._numbers and len(word) < 4)):
            return word
        tail = "!" if word.endswith("!") else ""  # at the end it is punctuation
        return word[: len(word) - len(tail)].translate(self._table) + tail


def together(text: str) -> str:
    """Letters set apart ("i g n o r e") put together: a wider gap ends a word; where all gaps are one, known words are
    told apart. "" without any."""
    part = around(text, _APART)
    return _APART.sub(_close, part) if part else ""


def _close(match: re.Match[str]) -> str:
    pairs = _LETTER_GAP.findall(match[0])
    gaps = [gap for _, gap in pairs[:-1]]
    counted = Counter(gaps)
    least = min(map(len, counted))
    common = counted.most_common(1)[0][0]
    if len(counted) == 1:
        letters = "".join(letter for letter, _ in pairs)
        return _KNOWN.sub(r" \g<0> ", letters).replace("  ", " ").strip() if letters.isalpha() else letters
    ends = [len(gap) > least or gap != common for gap in gaps]
    return "".join(letter + (" " if end else "") for (letter, _), end in zip(pairs, [*ends, False], strict=True))


def rotated(text: str) -> str:
    """The alphabet turned by thirteen, where words of English appear in that turn. "" else."""
    part = _told(text, _ROT13)
    return part.translate(ROT13)


def mirrored(text: str) -> str:
    """The alphabet mirrored (a for z), where words of English appear in the mirror. "" else."""
    return _told(text, _ATBASH).translate(ATBASH)


def backwards(text: str) -> list[str]:
    """Letters in the opposite order: all of the text, and word by word. Empty unless words of English appear so."""
    part = _told(text, _REVERSED)
    return [part[::-1], _WORD.sub(lambda match: match[0][::-1], part)] if part else []


def _told(text: str, words: frozenset[bytes]) -> str:
    """The stretches with words that tell, if they are enough."""
    plain = text.encode("ascii", "replace").lower()  # one byte for each character
    distinct = words.intersection(_TOKEN.findall(plain))
    if len(distinct) < 2 and not any(len(word) >= _TELLING for word in distinct):
        return ""
    if len(text) <= WHOLE:
        return text
    spans = (match.span() for match in _TOKEN.finditer(plain) if match[0] in distinct)
    return excerpt(text, spans, 480)
