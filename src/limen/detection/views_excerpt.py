"""The part of a long text that a disguise touches, with context; and the budget all readings of a text share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

WHOLE: Final = 2048  # characters up to which a text is always read whole
_CONTEXT: Final = 240  # characters kept on either side of a disguise
_BREAK: Final = "\n"


@dataclass(slots=True)
class Budget:
    """What undoing disguises may still cost. `limits`: which bounds were reached, for the finding that says so."""

    characters: int
    blobs: int = 64  # compressed blobs opened
    limits: set[str] = field(default_factory=set)

    def take(self, size: int) -> bool:
        """Whether `size` more characters may be produced."""
        if size > self.characters:
            self.limits.add("size")
            return False
        self.characters -= size
        return True


def excerpt(text: str, spans: Iterable[tuple[int, int]], context: int = _CONTEXT) -> str:
    """The spans (in order) with context, stretches that meet made one; "" without spans; a short text whole."""
    if len(text) <= WHOLE:
        return text if any(True for _ in spans) else ""
    parts: list[str] = []
    start = end = -1
    for left, right in spans:
        if end < 0:
            start, end = max(0, left - context), right + context
        elif left - context <= end:
            end = max(end, right + context)
        else:
            parts.append(text[start:end])
            start, end = left - context, right + context
    if end >= 0:
        parts.append(text[start:end])
    return _BREAK.join(parts)


def touched(text: str, sign: re.Pattern[str], context: int = _CONTEXT) -> Iterator[tuple[int, int]]:
    """Where a single character matches, for `excerpt`: from the first to the last of those that are within its reach,
    as what is between makes no difference. `sign` looks at nothing around the character."""
    reach = 2 * context
    match = sign.search(text)
    while match is not None:
        end = match.end()
        last = sign.search(text[end : end + reach][::-1])
        if last is not None:
            end = min(end + reach, len(text)) - last.start()
        yield match.start(), end
        match = sign.search(text, end)


def around(text: str, pattern: re.Pattern[str], context: int = _CONTEXT) -> str:
    """The stretches of `text` around the matches of `pattern`."""
    if len(text) <= WHOLE:
        return text if pattern.search(text) else ""
    return excerpt(text, (match.span() for match in pattern.finditer(text)), context)
