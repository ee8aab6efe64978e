"""What the training run prints: rates by held-out source, kind and language at fixed false-alarm rates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def threshold(scores: np.ndarray, rate: float) -> float:
    """The lowest threshold at which at most `rate` of these (benign) scores reach it."""
    ordered = np.sort(scores)[::-1]
    allowed = int(len(ordered) * rate)
    return float(np.nextafter(ordered[min(allowed, len(ordered) - 1)], 2))


def report(rows: Sequence[Any], p: np.ndarray, hard: Sequence[str]) -> tuple[dict[str, float], str]:
    """Thresholds (1 % of ordinary rows of a layer), and a table in Markdown."""
    attack = np.array([row.attack for row in rows])
    lines: list[str] = []
    thresholds: dict[str, float] = {}
    for layer in ("content", "definition"):
        mask = np.array([row.layer == layer for row in rows])
        ordinary = mask & ~attack & np.array([row.source not in hard for row in rows])
        difficult = mask & ~attack & ~ordinary
        explicit = mask & attack & np.array([row.weight == 1.0 for row in rows])
        weak = mask & attack & ~explicit
        at = {rate: threshold(p[ordinary], rate) for rate in (0.01, 0.05)}
        thresholds[layer] = at[0.01]
        lines.append(f"\n## {layer}: thresholds {at[0.01]:.4f} (1 %), {at[0.05]:.4f} (5 %)")
        for name, chosen in (
            ("explicit attacks", explicit),
            ("weak or implicit attacks", weak),
            ("ordinary", ordinary),
            ("hard benign", difficult),
        ):
            if chosen.any():
                lines.append(
                    f"{name}: n={chosen.sum()} {100 * (p[chosen] >= at[0.01]).mean():.1f} % at 1 %, "
                    f"{100 * (p[chosen] >= at[0.05]).mean():.1f} % at 5 %"
                )
        groups: list[tuple[str, Callable[[Any], str]]] = [
            ("source", lambda r: r.source),
            ("kind", lambda r: r.kind),
            ("lang", lambda r: r.lang),
        ]
        for title, key in groups:
            lines += ["", f"| {title} | label | rows | flagged at 1 % |", "|---|---|---|---|"]
            found: dict[tuple[str, bool], list[bool]] = defaultdict(list)
            for row, score, own in zip(rows, p, mask, strict=True):
                if own:
                    found[key(row), row.attack].append(score >= at[0.01])
            for (value, bad), flags in sorted(found.items()):
                lines.append(
                    f"| {value} | {'attack' if bad else 'benign'} | {len(flags)} "
                    f"| {100 * float(np.mean(flags)):.1f} % |"
                )
    return thresholds, "\n".join(lines)
