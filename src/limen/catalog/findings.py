"""What an assessment is made of: findings with weights, one score, and the level a person sees."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from limen.catalog.text import printable

LEVELS: Final = ("none", "descriptive", "low", "medium", "high", "critical")
# The lowest score of each level above "none" and "descriptive" (which is any score above zero).
THRESHOLDS: Final = {"critical": 0.85, "high": 0.6, "medium": 0.35, "low": 0.15}
MAX_QUOTE: Final = 160  # characters of a server's text in one detail; what is left out is counted


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `id` is stable ("schema.widened"), `weight` 0 to 1, `path` a JSON pointer into the definition
    that is assessed ("" is all of it), `detail` one printable line for a person."""

    id: str
    weight: float
    path: str
    detail: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """`score` 0 to 1, `level` one of LEVELS, findings with the heaviest first."""

    score: float
    level: str
    findings: tuple[Finding, ...]


class Detector(Protocol):
    """Looks for something in one definition. The same content must give the same findings: those the approved
    definition gives as well are no part of a change."""

    def __call__(self, kind: str, definition: Mapping[str, Any]) -> Iterable[Finding]:
        """Findings in this definition, with weights of 0 to 1."""
        ...


def conclude(findings: Iterable[Finding]) -> Assessment:
    """The score of these findings: 1 - (1 - w1)(1 - w2)..., with w the heaviest weight of each id.

    Different kinds of findings add up, a hundred of the same kind weigh as much as the heaviest of them. Adding a
    finding therefore never lowers the score. A weight that is no number from 0 to 1 counts as 1.
    """
    kept = sorted({_clamped(one) for one in findings}, key=lambda one: (-one.weight, one.id, one.path, one.detail))
    heaviest: dict[str, float] = {}
    for finding in kept:
        heaviest.setdefault(finding.id, finding.weight)
    score = 1 - math.prod(1 - weight for weight in heaviest.values())
    return Assessment(round(score, 4), level_of(score, bool(kept)), tuple(kept))


def level_of(score: float, found: bool) -> str:
    """The level of a score: THRESHOLDS; below the lowest "descriptive" if anything was found, else "none"."""
    for level, least in THRESHOLDS.items():
        if score >= least - 1e-9:
            return level
    return "descriptive" if found else "none"


def quote(text: str) -> str:
    """A server's text for a detail: printable, in quotation marks, and where it is long with the rest counted."""
    more = len(text) - MAX_QUOTE
    shown = printable(text[:MAX_QUOTE]).replace('"', "\\u{22}")
    return f'"{shown}"' + (f" and {more} more characters" if more > 0 else "")


def _clamped(finding: Finding) -> Finding:
    weight = finding.weight
    if isinstance(weight, int | float) and 0 <= weight <= 1:
        return finding
    return Finding(finding.id, 1.0, finding.path, finding.detail)
