"""Which words of a text changed. Bounded: where comparing would take too long, all between the first and last change is
marked, which shows more as changed than is, never less."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import groupby
from typing import Final

from limen.catalog.visible import CLOSE, OPEN, SPACE, visible_part

MAX_PAIRS: Final = 40_000  # pieces of the one text times pieces of the other that are compared with each other
_SENTENCE: Final = re.compile(r"[^.!?\n]*(?:[.!?]+|\n|$)")
_WORD: Final = re.compile(
    r"\n|[^\S\n]+|[\u2e80-\uffff]|[^\s\u2e80-\uffff]+"
)  # letters of scripts without spaces singly
Run = tuple[bool, str]  # whether it differs, and the text


def mark_words(before: str, after: str) -> tuple[list[str], list[str]]:
    """Both line by line, visible: what only the first has stands in ⟦-...-⟧, what only the second has in ⟦+...+⟧."""
    old, new = _runs(before, after)
    return list(_counted(_lines(old, "-"))), list(_counted(_lines(new, "+")))


def _runs(before: str, after: str) -> tuple[list[Run], list[Run]]:
    old: list[Run] = []
    new: list[Run] = []
    for same, left, right in _aligned(_pieces(_SENTENCE, before), _pieces(_SENTENCE, after)):
        for equal, one, other in (
            _aligned(_pieces(_WORD, left), _pieces(_WORD, right)) if not same else [(True, left, right)]
        ):
            if one:
                old.append((not equal, one))
            if other:
                new.append((not equal, other))
    return old, new


def _pieces(pattern: re.Pattern[str], text: str) -> list[str]:
    return [piece for piece in pattern.findall(text) if piece]


def _aligned(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[bool, str, str]]:
    """Stretches of both in order: whether they are equal, and what they hold."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    rest = 0
    while rest < min(len(old), len(new)) - start and old[-1 - rest] == new[-1 - rest]:
        rest += 1
    left, right = old[start : len(old) - rest], new[start : len(new) - rest]
    if start:
        yield True, "".join(old[:start]), "".join(new[:start])
    if left and right and len(left) * len(right) <= MAX_PAIRS:
        for tag, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
            yield tag == "equal", "".join(left[a:b]), "".join(right[c:d])
    elif left or right:
        yield False, "".join(left), "".join(right)
    if rest:
        yield True, "".join(old[len(old) - rest :]), "".join(new[len(new) - rest :])


def _lines(runs: Sequence[Run], sign: str) -> Iterator[str]:
    """Lines of the runs joined, each run made visible and marked on each line it touches."""
    shown: list[str] = []
    for differs, text in runs:
        for number, part in enumerate(text.split("\n")):
            if number:
                yield _line([*shown, f"{OPEN}{sign}line end{sign}{CLOSE}"] if differs else shown)
                shown = []
            if part:
                words = visible_part(part)
                shown.append(f"{OPEN}{sign}{words}{sign}{CLOSE}" if differs else words)
    yield _line(shown)


def _line(parts: Sequence[str]) -> str:
    line = "".join(parts)
    return line[:-1] + SPACE if line.endswith(" ") else line


def _counted(shown: Iterable[str]) -> Iterator[str]:
    """Three and more lines in a row that hold no more than their end, as one line with their number."""
    for line, group in groupby(shown):
        count = len(list(group))
        if count > 2 and line in ("", f"{OPEN}-line end-{CLOSE}", f"{OPEN}+line end+{CLOSE}"):
            sign = line[1:2]
            yield f"{OPEN}{sign}{count} empty lines{sign}{CLOSE}"
        else:
            yield from [line] * count
