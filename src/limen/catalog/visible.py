"""A stranger's text for a person's eyes: nothing a terminal would obey, nothing that cannot be seen, nothing left out.

What is not shown as it is stands between ⟦ and ⟧ instead. These two brackets in the text itself are written as code
points, so whatever stands between them was written by us (PI-19).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from limen.catalog.lookalike import is_mark, lookalike_letters
from limen.catalog.text import hidden_character

WIDTH: Final = 78  # columns of a line, prefix included: where a terminal folds a line, the next has no prefix of ours
OPEN: Final = "⟦"
CLOSE: Final = "⟧"
SPACE: Final = f"{OPEN}space{CLOSE}"  # the last character of a line
_RUN: Final = re.compile(r"( )\1{8,}|([^\n])\2{31,}")  # more of the same than anybody counts
_MARKS: Final = 2  # combining marks one letter may carry: a pile of them covers the lines around it
_BLANK: Final = "\u2800"  # printable, and looks like a space
_RIGHT_TO_LEFT: Final = ("R", "AL")


def visible(text: str) -> str:
    """One line of text with everything unusual spelled out. Different texts are shown differently."""
    shown = visible_part(text)
    return shown[:-1] + SPACE if shown.endswith(" ") else shown


def visible_part(text: str) -> str:
    """The same for a part of a line: a space at its end is no space at the end of the line."""
    if text.isascii() and text.isprintable() and not _RUN.search(text):
        return text
    posing = dict(lookalike_letters(text))
    shown: list[str] = []
    at = 0
    for run in _RUN.finditer(text):
        shown.extend(_characters(text, at, run.start(), posing))
        name = "spaces" if run[1] else f"times {_character(run[2], '', 0)}"
        shown.append(f"{OPEN}{len(run[0])} {name}{CLOSE}")
        at = run.end()
    shown.extend(_characters(text, at, len(text), posing))
    return "".join(shown)


def _characters(text: str, start: int, end: int, posing: dict[int, str]) -> Iterator[str]:
    marks, leftward = 0, False
    for at in range(start, end):
        character = text[at]
        if not character.isascii():
            marks = marks + 1 if is_mark(character) else 0
            if (unicodedata.bidirectional(character) in _RIGHT_TO_LEFT) != leftward:
                leftward = not leftward
                yield f"{OPEN}right to left:{CLOSE}" if leftward else ""
        else:
            marks = 0
            leftward = leftward and not character.isalnum()
        yield _character(character, posing.get(at, ""), marks)


def _character(character: str, poses_as: str, marks: int) -> str:
    if poses_as:
        return f"{OPEN}{character} U+{ord(character):04X}, not {poses_as}{CLOSE}"
    if character == "\t":
        return f"{OPEN}tab{CLOSE}"
    spelled = (
        not character.isprintable()  # also every space but the common one
        or marks > _MARKS
        or character in (OPEN, CLOSE, _BLANK)
        or (not character.isascii() and hidden_character(character) != "")
        or "\ufe00" <= character <= "\ufe0e"
    )
    return f"{OPEN}{code_point(character)}{CLOSE}" if spelled else character


def code_point(character: str) -> str:
    """U+XXXX with the name, where it has one."""
    name = unicodedata.name(character, "")
    return f"U+{ord(character):04X}" + (f" {name}" if name else "")


def lines(text: str) -> Iterator[str]:
    """The text line by line, each visible. Many empty lines in a row are counted."""
    empty = 0
    for one in [*text.split("\n"), None]:
        if one == "":
            empty += 1
            continue
        if empty:
            yield from [f"{OPEN}{empty} empty lines{CLOSE}"] if empty > 2 else [""] * empty
        empty = 0
        if one is not None:
            yield visible(one)


def fold(text: str, room: int) -> Iterator[str]:
    """The text in pieces of at most `room` columns, at a space where there is one near the end. Nothing is lost."""
    piece: list[str] = []
    used = space = 0
    for character in text:
        wide = _columns(character)
        if used + wide > room and piece:
            keep = space if space > len(piece) * 2 // 3 else len(piece)
            yield "".join(piece[:keep])
            piece = piece[keep:]
            used, space = sum(map(_columns, piece)), 0
        piece.append(character)
        used += wide
        if character == " ":
            space = len(piece)
    yield "".join(piece)


def _columns(character: str) -> int:
    """Columns a terminal may need: two where it may be drawn wide, none for what is drawn onto another."""
    if character.isascii():
        return 1
    return 0 if is_mark(character) else 2 if unicodedata.east_asian_width(character) in "WFA" else 1
