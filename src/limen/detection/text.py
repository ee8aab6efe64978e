"""Text as detectors need it: every string of a message, the strings put together, and what a disguise hides in them.

`pieces` walks a JSON value, `joined` puts its strings together, `views` gives the readings of one text that are worth
scanning, `disguises` says what in it was made to be read by a model and not by a person. `examine` gives both at once
and costs about the same as one of them. Everything is linear in the length of the text and bounded; what is
over a bound is refused (`TooMuch`) or reported (`hidden.limit`), never skipped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

from limen.core.faults import Fault
from limen.detection.finding import Finding
from limen.detection.views import View, look

__all__ = ["MAX_TOTAL", "Examined", "Piece", "TooMuch", "View", "disguises", "examine", "joined", "pieces", "views"]

MAX_TOTAL: Final = 4 * 1024 * 1024  # characters in all strings of one value
MAX_TEXT: Final = 16 * 1024 * 1024  # characters of one text: `joined` repeats short fields in other orders
MAX_LEVELS: Final = 256  # the parser refuses far earlier
_SHORT: Final = 8192  # characters of a text whose views are kept for the next detector
_EDGE: Final = 160  # of a long field, this much at either end can be half of a split sentence
_INDEX: Final = re.compile(r"/\d+(?=/|\Z)")


class TooMuch(Fault):
    """The text is over the bound, so it cannot be inspected in full. Refuse it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One string of a JSON value. `path`: JSON pointer (RFC 6901) to it; `name`: it is the member's name there."""

    path: str
    text: str
    name: bool = False


@dataclass(frozen=True, slots=True)
class Examined:
    """One text: its readings, `plain` first, and what was found to be hidden in it."""

    views: tuple[View, ...]
    disguises: tuple[Finding, ...]


def pieces(value: Any, *, names: bool = True) -> list[Piece]:
    """Every non-empty string of a JSON value in document order, with member names unless `names` is false.

    Raises TooMuch above MAX_TOTAL characters or MAX_LEVELS of nesting.
    """
    found: list[Piece] = []
    left = MAX_TOTAL
    pending: list[tuple[str, Any, int]] = [("", value, 0)]
    while pending:
        path, item, level = pending.pop()
        if isinstance(item, Piece):
            found.append(item)
        elif isinstance(item, str):
            if item:
                left -= len(item)
                found.append(Piece(path, item))
        elif isinstance(item, Mapping | list | tuple):
            if level >= MAX_LEVELS:
                raise TooMuch(f"nested deeper than {MAX_LEVELS} levels")
            members: list[tuple[str, Any, int]] = []
            if isinstance(item, Mapping):
                for key, member in item.items():
                    inside = f"{path}/{_escaped(str(key))}"
                    if names and key:
                        left -= len(str(key))
                        members.append((inside, Piece(inside, str(key), name=True), level))
                    members.append((inside, member, level + 1))
            else:
                members.extend((f"{path}/{index}", member, level + 1) for index, member in enumerate(item))
            pending.extend(reversed(members))
        if left < 0:
            raise TooMuch(f"more than {MAX_TOTAL} characters of text")
    return found


def joined(found: Iterable[Piece]) -> str:
    """The strings put together, so that a payload split over fields is seen.

    First all values in order, one a line; then, where that order may have torn fields apart, like fields after one
    another (`/content/0/text`, `/content/1/text`), with and without a break; then the names.
    """
    values: list[Piece] = []
    labels: list[str] = []
    for piece in found:
        if piece.name:
            labels.append(piece.text)
        else:
            values.append(piece)
    parts = [piece.text for piece in values]
    if len(values) > 1:
        parts.extend(_regrouped(values))
    parts.extend(labels)
    return "\n".join(parts)


def views(text: str) -> list[View]:
    """The distinct readings of `text` worth scanning, `plain` first. Letter case is kept: scan without regard to it.

    A reading of a long text may be only the changed stretches with some context. Raises TooMuch above MAX_TEXT.
    """
    return list(examine(text).views)


def disguises(text: str) -> list[Finding]:
    """What in `text` is hidden from a person's eyes: findings of the family `hidden`. Raises TooMuch above MAX_TEXT."""
    return list(examine(text).disguises)


def examine(text: str) -> Examined:
    """Views and disguises of one text. Raises TooMuch above MAX_TEXT."""
    if len(text) > MAX_TEXT:
        raise TooMuch(f"more than {MAX_TEXT} characters in one text")
    return _recent(text) if len(text) <= _SHORT else _examined(text)


def _examined(text: str) -> Examined:
    found, hidden = look(text)
    return Examined(tuple(found), tuple(hidden))


# Several detectors ask for the same strings one after another.
_recent: Final = lru_cache(maxsize=32)(_examined)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _regrouped(values: Sequence[Piece]) -> list[str]:
    """Like fields after one another; fields that stand alone are alike in that."""
    groups: dict[str, list[str]] = {}
    for piece in values:
        groups.setdefault(_INDEX.sub("/*", piece.path), []).append(_ends(piece.text))
    several = [group for group in groups.values() if len(group) > 1 and _speaks(group)]
    alone = [group[0] for group in groups.values() if len(group) == 1]
    parts: list[str] = []
    if several and len(groups) > 1:
        parts.extend("\n".join(group) for group in several)
        parts.append("\n".join(alone))
    for group in [*several, alone]:
        if any(left[-1:].isalnum() and right[:1].isalnum() for left, right in pairwise(group)):
            parts.append("".join(group))
    return [part for part in parts if part]


def _speaks(group: Sequence[str]) -> bool:
    """Numbers, dates and one value over and over are no sentence in parts."""
    distinct = set(group)
    return len(distinct) > 1 and any(char.isalpha() for text in distinct for char in text)


def _ends(text: str) -> str:
    return text if len(text) <= 2 * _EDGE else f"{text[:_EDGE]}\n{text[-_EDGE:]}"
