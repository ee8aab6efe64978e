"""What was found and where, and the step from bytes to characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from limen.detection.sensitive_pattern import Span

Family = Literal["secret", "pii"]


@dataclass(frozen=True, slots=True)
class Hit:
    """Characters `start` to `end` of the text are probably a `kind`; `confidence` is 0 to 1. Never holds the text."""

    kind: str
    family: Family
    start: int
    end: int
    confidence: float


def hits(spans: Iterable[tuple[Family, Span]], raw: bytes, text: str) -> list[Hit]:
    """Spans of bytes as hits in characters, left to right, overlaps resolved in favour of the surer, longer one."""
    ordered = sorted(spans, key=lambda item: (item[1].start, item[1].end))
    plain = len(raw) == len(text)
    found: list[Hit] = []
    byte, character = 0, 0
    ends: dict[int, int] = {}
    if not plain:
        for place in sorted({place for _, span in ordered for place in (span.start, span.end)}):
            # Continuation bytes start with the bits 10; everything else starts a character.
            piece = raw[byte:place]
            character += len(piece) - len(piece.translate(None, _STARTS))
            byte = place
            ends[place] = character
    for family, span in ordered:
        start, end = (span.start, span.end) if plain else (ends[span.start], ends[span.end])
        found.append(Hit(span.kind, family, start, end, span.confidence))
    return settle(found)


_STARTS = bytes(value for value in range(256) if value & 0xC0 != 0x80)


def settle(found: Sequence[Hit]) -> list[Hit]:
    """No two hits overlap: of those that do, the heaviest names the whole stretch, so that nothing of it stays open.

    A secret weighs more than personal data, then the surer more than the less sure, then the longer.
    """
    kept: list[Hit] = []
    for hit in sorted(found, key=lambda hit: (hit.start, hit.end)):
        if kept and hit.start < kept[-1].end:
            last = kept[-1]
            kept[-1] = replace(max(last, hit, key=_weight), start=last.start, end=max(last.end, hit.end))
        else:
            kept.append(hit)
    return kept


def _weight(hit: Hit) -> tuple[bool, float, int]:
    return (hit.family == "secret", hit.confidence, hit.end - hit.start)
