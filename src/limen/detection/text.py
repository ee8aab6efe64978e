"""Text as detectors need it: every string of a message, the strings put together, and what a disguise hides in them.

`Content` is one message for all detectors. `pieces` walks a JSON value, `joined` puts its strings together, `views`
gives the readings of one text that are worth scanning, `disguises` says what in it was made to be read by a model and
not by a person. `examine` gives both at once and costs about the same as one of them. Everything is linear in the
length of the text and bounded; what is over a bound is refused (`TooMuch`) or reported (`hidden.limit`), never skipped
in silence.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

from limen.core.faults import Fault
from limen.core.remembered import remembered
from limen.detection.finding import Finding
from limen.detection.views import ALLOWANCE, View, look, unread
from limen.detection.views_decode import runs
from limen.detection.views_gate import gate

__all__ = [
    "MAX_TOTAL",
    "Content",
    "Examined",
    "Piece",
    "TooMuch",
    "View",
    "disguises",
    "examine",
    "joined",
    "pieces",
    "views",
]

MAX_TOTAL: Final = 4 * 1024 * 1024  # characters in all strings of one value
MAX_TEXT: Final = 16 * 1024 * 1024  # characters of one text: `joined` repeats short fields in other orders
MAX_LEVELS: Final = 256  # the parser refuses far earlier
_FACTOR: Final = 8  # lengths of a content: honest ones of mark-up with accents and entities take six
_EDGE: Final = 160  # of a long field, this much at either end can be half of a split sentence
_BASE64: Final = frozenset({"base64"})
_INDEX: Final = re.compile(r"/\d+(?=/|\Z)")


class TooMuch(Fault):
    """The text is over the bound, so it cannot be inspected in full. Refuse it."""


class Piece(NamedTuple):
    """One string of a JSON value. `path`: JSON pointer (RFC 6901) to it; `name`: it is the member's name there."""

    path: str
    text: str
    name: bool = False


@dataclass(frozen=True, slots=True)
class Examined:
    """One text: its readings, `plain` first, and what was found to be hidden in it."""

    views: tuple[View, ...]
    disguises: tuple[Finding, ...]


class Content:
    """All strings of one JSON value, read once for every detector.

    `whole`: the strings put together, "" where there is one only. A frame that the protocol prescribes, around a single
    text, is no string of its own. Raises TooMuch as `pieces` does.
    """

    __slots__ = ("_examined", "_found", "_kinds", "_left", "_plain", "everything", "pieces", "whole")

    def __init__(self, value: Any) -> None:
        self._found = pieces(value)
        self.pieces = _framed(self._found)
        self.whole = joined(self.pieces) if len(self.pieces) > 1 else ""
        self.everything = self.whole or (self.pieces[0].text if self.pieces else "")
        self._kinds: frozenset[str] | None = None
        self._plain: bool | None = None
        self._examined: dict[str, Examined] = {}
        # Characters that the other readings of all pieces may still have; those of `whole` have a bound of their own.
        self._left = max(ALLOWANCE, _FACTOR * sum([len(piece[1]) for piece in self.pieces]))

    @property
    def framed(self) -> str:
        """A single text once more, among the words of its frame: it lies otherwise in the windows of the classifier
        there, and without this second look one attack in a hundred falls below the limit for holding. "" elsewhere."""
        return joined(self._found) if len(self._found) > len(self.pieces) else ""

    @property
    def kinds(self) -> frozenset[str]:
        """The disguises that everything together could hold, of `views_gate`. Paths of files alone are none."""
        if self._kinds is None:
            kinds = gate(self.everything)
            # Next to others it stays: what they are undone to can be base64.
            self._kinds = kinds if kinds != _BASE64 or runs(self.everything) else frozenset()
        return self._kinds

    @property
    def plain(self) -> bool:
        """Whether no string, nor all of them together, can be read in any other way than as it stands.

        Told by one look at everything: each string stands in it on lines of its own, and no condition of `views_gate`
        is met by a part of a text whose whole does not meet it."""
        if self._plain is None:
            self._plain = not self.kinds and self.everything.isascii()
        return self._plain

    def examine(self, text: str) -> Examined:
        """`examine` of one of the strings or of `whole`. Raises TooMuch above MAX_TEXT."""
        if len(text) > MAX_TEXT:
            raise TooMuch(f"more than {MAX_TEXT} characters in one text")
        if self.plain:
            return Examined((View("plain", text, 0),), ())
        known = self._examined.get(text)
        if known is None:
            known = self._examined[text] = self._looked(text)
        return known

    def _looked(self, text: str) -> Examined:
        kinds = self.kinds if text is self.everything else None
        if text is self.whole or len(self.pieces) == 1:
            return _examined(text, kinds)
        if self._left < 0:  # a bound was reached, which refuses the message: what else it hides makes no difference
            return Examined((View("plain", text, 0),), ())
        found = _examined(text, kinds, self._left)
        self._left -= sum([len(view.text) for view in found.views[1:]])
        if any(unread(one) for one in found.disguises):
            self._left = -1
        return found


def pieces(value: Any, *, names: bool = True) -> list[Piece]:
    """Every non-empty string of a JSON value in document order, with member names unless `names` is false.

    Raises TooMuch above MAX_TOTAL characters or MAX_LEVELS of nesting.
    """
    found: list[Piece] = []
    _walk(value, "", 0, names, found)
    if sum([len(piece[1]) for piece in found]) > MAX_TOTAL:
        raise TooMuch(f"more than {MAX_TOTAL} characters of text")
    return found


_SCALARS: Final = (int, float, bool, type(None))


def _walk(item: Any, path: str, level: int, names: bool, found: list[Piece]) -> None:
    kind = type(item)
    if kind is str or isinstance(item, str):
        if item:
            found.append(Piece(path, item))
        return
    if kind in _SCALARS:
        return
    if level >= MAX_LEVELS and isinstance(item, Mapping | list | tuple):
        raise TooMuch(f"nested deeper than {MAX_LEVELS} levels")
    if kind is dict or isinstance(item, Mapping):
        for key, member in item.items():
            key = key if type(key) is str else str(key)
            inside = f"{path}/{_escaped(key) if '/' in key or '~' in key else key}"
            if names and key:
                found.append(Piece(inside, key, True))
            if type(member) is str:  # most are; a call for each would be half of the work
                if member:
                    found.append(Piece(inside, member))
            else:
                _walk(member, inside, level + 1, names, found)
    elif kind is list or isinstance(item, list | tuple):
        for index, member in enumerate(item):
            _walk(member, f"{path}/{index}", level + 1, names, found)


# Words with which the protocol itself frames a text: nobody who writes one can choose others.
_FRAME_NAMES: Final = frozenset({"arguments", "content", "contents", "messages", "role", "type", "text", "resource"})
_FRAME_VALUES: Final = frozenset({"text", "resource", "user", "assistant"})


def _framed(found: list[Piece]) -> list[Piece]:
    """The only text there is, where all around it is the protocol's; else everything."""
    said: Piece | None = None
    for one in found:
        if one.text not in (_FRAME_NAMES if one.name else _FRAME_VALUES):
            if said is not None or one.name:
                return found
            said = one
    return found if said is None else [said]


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
    return _examined(text)


def _examined(text: str, kinds: frozenset[str] | None = None, most: int = sys.maxsize) -> Examined:
    found, hidden = look(text, kinds, most)
    return Examined(tuple(found), tuple(hidden))


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _regrouped(values: Sequence[Piece]) -> list[str]:
    """Like fields after one another; fields that stand alone are alike in that."""
    groups: dict[str, list[str]] = {}
    for piece in values:
        groups.setdefault(_like(piece.path), []).append(_ends(piece.text))
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


@remembered(4096)
def _like(path: str) -> str:
    """One name for all members of a list."""
    return _INDEX.sub("/*", path)


def _speaks(group: Sequence[str]) -> bool:
    """Numbers, dates and one value over and over are no sentence in parts."""
    distinct = set(group)
    return len(distinct) > 1 and any(char.isalpha() for text in distinct for char in text)


def _ends(text: str) -> str:
    return text if len(text) <= 2 * _EDGE else f"{text[:_EDGE]}\n{text[-_EDGE:]}"
