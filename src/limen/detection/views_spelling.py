"""Words spelled so that a program does not know them: leetspeak, letters set apart, rotated, mirrored, backwards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from limen.detection.views_excerpt import WHOLE, around, excerpt
from limen.detection.views_gate import ATBASH, ATBASH_WORDS, REVERSED_WORDS, ROT13, ROT13_WORDS, WORDS

_LEET_WORD: Final = re.compile(r"[A-Za-z0-9@$!|+]+")
_LEET_WORD_KEPT: Final = re.compile(rf"({_LEET_WORD.pattern})")
_LEET_LONGEST: Final = 24
_DATA: Final = re.compile(r"[A-Za-z0-9+/_=-]{200,}")  # a picture, a key: words in it are chance
# One word a line: told from hexadecimal, ordinals and numbered names by where its signs stand.
_LEET_LINE: Final = re.compile(
    r"(?m)^(?!(?i:[0-9a-f]+|[0-9]+[a-z]{1,3}|[a-z]+[0-9]+|0x[0-9a-f]+|[0-9]+(?:st|nd|rd|th))$)"
    r"(?:[013457][A-Za-z]{3}|[@$!][A-Za-z]*[013457@$!][A-Za-z]|![A-Za-z]+[013457]"
    r"|.*?[A-Za-z][013457@$!|]{1,5}[A-Za-z]).*$"
)
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
    words = _LEET_WORD.findall(text)
    leet = set(_LEET_LINE.findall("\n".join(_signed(words))))
    distinct = {word.lower() for word in leet}
    if len(distinct) < 2 and not any(
        _KNOWN.fullmatch(word.translate(table)) for word in distinct for table in (_LEET, _LEET_L)
    ):
        return []
    numbers = sum([word in leet for word in words]) >= _MANY
    if len(text) > WHOLE:
        text = excerpt(text, (match.span() for match in _LEET_WORD.finditer(text) if match[0] in leet))
    parts = _LEET_WORD_KEPT.split(text)  # words and what stands between them, in turn
    readings = []
    for table in (_LEET, _LEET_L):
        read = _letters(_signed(parts[1::2]), table, numbers)
        readings.append("".join([read.get(part, part) for part in parts]))
    return readings if readings[0] != readings[1] else readings[:1]


def _signed(words: Iterable[str]) -> list[str]:
    """Each once: those of the length of a word, and not of letters only."""
    return [word for word in set(words) if not word.isalpha() and 2 <= len(word) <= _LEET_LONGEST]


def _letters(words: list[str], table: Mapping[int, int], numbers: bool) -> dict[str, str]:
    """Words with their digits and signs as letters; without any letter, only short ones, and those where `numbers` says
    so ("70" is "to"). An exclamation mark at the end is punctuation."""
    read = "\n".join(words).translate(table).split("\n")
    return {
        word: letters[:-1] + "!" if word[-1] == "!" else letters
        for word, letters in zip(words, read, strict=True)
        if (numbers and len(word) < 4) or word.lower() != word.upper()
    }


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
