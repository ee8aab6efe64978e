"""The ROC curve as SVG: one file, no script, no font or image from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log10
from typing import Final

LEFT, TOP, WIDTH, HEIGHT = 64, 24, 480, 320
FLOOR: Final = 0.0001  # the axis of false alarms is logarithmic and starts here
COLOURS: Final = ("#1f5fa8", "#b3541e", "#4a7a3a")


def roc_svg(curves: Mapping[str, Sequence[tuple[float, float, float]]]) -> str:
    """An SVG document. `curves`: name -> points (false positive rate, true positive rate, threshold)."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 24}" height="{TOP + HEIGHT + 56}" '
        'font-family="sans-serif" font-size="12">',
        "<title>Detection rate against false alarms</title>",
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>',
    ]
    for rate in (0.0001, 0.001, 0.01, 0.1, 1.0):
        x = _x(rate)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{TOP + HEIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{100 * rate:g} %</text>')
    for rate in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(rate)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + WIDTH}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * rate:g} %</text>')
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{_x(alarm):.1f},{_y(hit):.1f}" for alarm, hit, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        label = f'x="{LEFT + WIDTH - 8}" y="{TOP + HEIGHT - 12 - 16 * number}" text-anchor="end" fill="{colour}"'
        parts.append(f"<text {label}>{escape(name)}</text>")
    parts.append(f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 42}" text-anchor="middle">false alarms</text>')
    middle = TOP + HEIGHT / 2
    parts.append(f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">detected</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(rate: float) -> float:
    return LEFT + WIDTH * (1 + log10(max(rate, FLOOR)) / -log10(FLOOR))


def _y(rate: float) -> float:
    return TOP + HEIGHT * (1 - rate)
