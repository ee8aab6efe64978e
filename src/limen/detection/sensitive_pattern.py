"""RE2 over UTF-8 bytes: linear time whatever the text, one cheap gate in front of many expressions.

Expressions are written for bytes (Latin-1 mode): word boundaries and classes are ASCII, everything else is "not a word
character", so a key between Hangul or CJK characters is found like one between spaces, and broken UTF-8 is no way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import re2  # type: ignore[import-untyped]

from limen.core.faults import InvariantFault

_GATE_MEMORY: Final = 64 << 20  # an upper bound; the automaton of a few hundred literals takes a fraction
_MEMORY: Final = 4 << 20  # per expression: beyond it RE2 falls back to a slower, still linear, automaton


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes start to end of the UTF-8 form of a text."""

    kind: str
    start: int
    end: int
    confidence: float


class Pattern:
    """One compiled expression. Group 1, where there is one, is what is meant; the rest is context."""

    __slots__ = ("_compiled", "_group")

    def __init__(self, expression: str) -> None:
        self._compiled: Any = re2.compile(expression.encode(), _options(_MEMORY))
        self._group = 1 if self._compiled.groups else 0

    def spans(self, raw: bytes) -> Iterator[tuple[int, int]]:
        """Where it matches, left to right, without overlaps."""
        group = self._group
        for match in self._compiled.finditer(raw):
            start, end = match.span(group)
            yield int(start), int(end)

    def occurs(self, raw: bytes) -> bool:
        """Whether it matches anywhere."""
        return self._compiled.search(raw) is not None

    def after(self, raw: bytes, position: int) -> tuple[int, int] | None:
        """The first match that starts at `position` or later; `^` and `\\b` still see what stands before it."""
        match = self._compiled.search(raw, position)
        if match is None:
            return None
        start, end = match.span(self._group)
        return int(start), int(end)


class Gate:
    """Many small expressions in one pass: which of them occur at all.

    Keep them to literals and short classes: their automaton is then small, and no text can make it grow.
    """

    def __init__(self, expressions: Sequence[str]) -> None:
        self._set: Any = re2.Set.SearchSet(_options(_GATE_MEMORY))
        self._size = len(expressions)
        for expression in (*expressions, ""):  # the empty one always matches: its absence shows a failed pass
            self._set.Add(expression.encode())
        self._set.Compile()

    def open(self, raw: bytes) -> Iterable[int]:
        """Indices of the expressions that occur, in no order; all of them should the automaton fail."""
        found: list[int] = self._set.Match(raw)
        if self._size not in found:
            return range(self._size)
        found.remove(self._size)
        return found

    def verify(self) -> None:
        """Raises InvariantFault if the gate was not built."""
        if self._size not in self._set.Match(b"."):
            raise InvariantFault("the gate of the sensitive data patterns does not work")


def _options(memory: int) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = memory
    options.log_errors = False
    return options
