"""Rates, area and calibration of a list of judged rows. Nothing here knows what a detector is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True)
class Judged:
    """One row: its score (0 to 1), whether it is an attack, and the groups it belongs to."""

    score: float
    attack: bool
    source: str
    kind: str
    lang: str


def curve(rows: Sequence[Judged]) -> list[tuple[float, float, float]]:
    """The ROC curve: (false positive rate, true positive rate, threshold), from nothing flagged to everything.

    Rows of equal score move together, so ties neither help nor hurt.
    """
    attacks = sum(row.attack for row in rows)
    benign = len(rows) - attacks
    points = [(0.0, 0.0, 2.0)]
    hits = alarms = 0
    ordered = sorted(rows, key=lambda row: -row.score)
    for number, row in enumerate(ordered):
        hits += row.attack
        alarms += not row.attack
        if number + 1 == len(ordered) or ordered[number + 1].score != row.score:
            points.append((alarms / max(1, benign), hits / max(1, attacks), row.score))
    return points


def at_rate(points: Sequence[tuple[float, float, float]], rate: float) -> tuple[float, float]:
    """The best true positive rate with at most this false positive rate, and its threshold."""
    _, hit, threshold = max((point for point in points if point[0] <= rate), key=lambda point: (point[1], point[2]))
    return hit, threshold


def area(points: Sequence[tuple[float, float, float]]) -> float:
    """The area under the ROC curve, by trapezia."""
    return sum((right[0] - left[0]) * (right[1] + left[1]) / 2 for left, right in pairwise(points))


def measure(rows: Sequence[Judged], limits: Sequence[float]) -> dict[str, Any]:
    """Everything `limen eval` prints. `limits`: the built-in threshold of each row."""
    points = curve(rows)
    at_1, threshold = at_rate(points, 0.01)
    built_in = [row.score >= limit for row, limit in zip(rows, limits, strict=True)]
    return {
        "rows": len(rows),
        "attacks": sum(row.attack for row in rows),
        "tpr_at_0_1pct_fpr": round(at_rate(points, 0.001)[0], 4),
        "tpr_at_1pct_fpr": round(at_1, 4),
        "tpr_at_5pct_fpr": round(at_rate(points, 0.05)[0], 4),
        "threshold": threshold,
        "auc": round(area(points), 4),
        "built_in": {
            "tpr": _share([flag for row, flag in zip(rows, built_in, strict=True) if row.attack]),
            "fpr": _share([flag for row, flag in zip(rows, built_in, strict=True) if not row.attack]),
        },
        "per_source": _groups(rows, [row.source for row in rows], threshold),
        "per_kind": _groups(rows, [row.kind for row in rows], threshold),
        "per_lang": _groups(rows, [row.lang for row in rows], threshold),
        "calibration": _calibration(rows),
    }


def _share(flags: Sequence[bool]) -> float | None:
    return round(sum(flags) / len(flags), 4) if flags else None


def _groups(rows: Sequence[Judged], names: Sequence[str], threshold: float) -> dict[str, dict[str, Any]]:
    found: dict[str, tuple[list[bool], list[bool]]] = defaultdict(lambda: ([], []))
    for row, name in zip(rows, names, strict=True):
        found[name][row.attack].append(row.score >= threshold)
    return {
        name: {"attacks": len(bad), "tpr": _share(bad), "benign": len(good), "fpr": _share(good)}
        for name, (good, bad) in sorted(found.items())
    }


def _calibration(rows: Sequence[Judged]) -> list[dict[str, Any]]:
    """Ten equal ranges of score: rows, mean score, share of attacks (which depends on the mixture of the file)."""
    bins: list[list[Judged]] = [[] for _ in range(10)]
    for row in rows:
        bins[min(9, int(row.score * 10))].append(row)
    return [
        {
            "range": f"{number / 10:.1f}-{(number + 1) / 10:.1f}",
            "rows": len(inside),
            "mean": round(sum(row.score for row in inside) / len(inside), 3),
            "attacks": _share([row.attack for row in inside]),
        }
        for number, inside in enumerate(bins)
        if inside
    ]
