"""Which names and letters a reader takes for each other: skeletons of UTS #39, and a coarser key for squatted names.

The table is the Unicode Consortium's own (see docs/decisions). Everything here is linear in the length of its input.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from typing import Final, Literal

MAX_MARKS: Final = 30  # combining marks in one piece: normalising a longer run takes quadratic time (UAX #15, 3.11)
_TABLE: Final = "confusables.txt"
_WORD: Final = re.compile(r"[^\W_]+")
_MARK_CLASSES: Final = ("Mn", "Mc", "Me")
_SEPARATORS: Final = re.compile(r"[\W_]+")
_DOUBLED: Final = re.compile(r"([^\W\d_])\1+")
_LEET: Final = re.compile(r"(?<!\d)[0134578](?=[^\W\d_])")  # before a letter: not a number at the end of a name
_DIGITS: Final = str.maketrans("0134578", "oleastb")  # what is typed in place of which letter


def skeleton(text: str) -> str:
    """The skeleton of UTS #39 section 4: two texts with the same skeleton look the same. Never to be shown.

    Case counts: "I" and "l" look alike, "i" and "l" do not. Runs of more than 30 combining marks are normalised in
    pieces, which no written language notices.
    """
    return normal("NFD", normal("NFD", text).translate(_prototypes()))


def squat_key(name: str) -> str:
    """A coarser key: also blind to case, separators, doubled letters and digits written for letters.

    "Read-File", "read__file", "readfile", "reead_file" and "read_f1le" share a key; "read_file" and "write_file",
    "get_user" and "get_users", "step_1" and "step_11" do not.
    """
    folded = _LEET.sub(_letter, plain(name).casefold().replace("rn", "m")).replace("i", "l")
    return _SEPARATORS.sub("", _DOUBLED.sub(r"\1", folded)).translate(_DIGITS)


def _letter(digit: re.Match[str]) -> str:
    return digit[0].translate(_DIGITS)


def plain(text: str) -> str:
    """The text as a reader takes it: compatibility forms unfolded, what is invisible dropped, look-alikes of ASCII
    letters and digits from other alphabets replaced. ASCII itself stays as it is, so words can be searched."""
    return text if text.isascii() else normal("NFKC", text).translate(_to_ascii())


def lookalike_letters(text: str) -> Iterator[tuple[int, str]]:
    """Letters that pose as ASCII: the place of each in the text, and what it looks like ("а" of Cyrillic: "a").

    Those in a word with ASCII letters, and in a word of two letters or more that poses as ASCII as a whole. A word
    with any other letter of its alphabet is honest.
    """
    if text.isascii():
        return
    table = _to_ascii()
    for match in _WORD.finditer(text):
        word = match[0]
        if word.isascii():
            continue
        posing = [(match.start() + at, table[ord(one)]) for at, one in enumerate(word) if _poses(one, table)]
        mixed = any(one.isascii() and one.isalpha() for one in word)
        if posing and (mixed or (len(posing) == len(word) > 1)):
            for at, shown in posing:
                yield at, str(shown)


def is_mark(character: str) -> bool:
    """Whether it is a combining mark of any kind: it is drawn onto what stands before it."""
    return unicodedata.category(character) in _MARK_CLASSES


def normal(form: Literal["NFD", "NFKC"], text: str) -> str:
    """`unicodedata.normalize` ("NFD" or "NFKC") in pieces small enough that no input makes it slow."""
    if text.isascii():
        return text
    pieces, start, run = [], 0, 0
    for at, character in enumerate(text):
        run = run + 1 if unicodedata.combining(character) else 0
        if run > MAX_MARKS:
            pieces.append(unicodedata.normalize(form, text[start:at]))
            start, run = at, 1
    return "".join([*pieces, unicodedata.normalize(form, text[start:])])


def _poses(character: str, table: dict[int, str]) -> bool:
    return not character.isascii() and character.isalpha() and len(table.get(ord(character), "")) == 1


@lru_cache(maxsize=1)
def _prototypes() -> dict[int, str]:
    """Code point to what it looks like; "" for what is not seen at all."""
    table: dict[int, str] = {}
    text = resources.files(__package__).joinpath(_TABLE).read_text(encoding="ascii")
    for row in text.splitlines():
        if row.startswith("#"):
            continue
        left, _, right = row.partition("<")
        prototype = "".join(chr(int(code, 16)) for code in left.split())
        for codes in right.split():
            first, _, last = codes.partition("-")
            table.update(dict.fromkeys(range(int(first, 16), int(last or first, 16) + 1), prototype))
    return table


@lru_cache(maxsize=1)
def _to_ascii() -> dict[int, str]:
    """The part of the table that turns other letters into ASCII letters and digits, or into nothing.

    The table has "l" stand for every upright stroke; a capital one is read as "I" here.
    """
    return {
        code: "I" if prototype == "l" and chr(code).isupper() else prototype
        for code, prototype in _prototypes().items()
        if code > 127 and (not prototype or (prototype.isascii() and prototype.isalnum()))
    }
