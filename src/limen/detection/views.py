"""The readings of one text, found by undoing disguises until nothing new appears or a bound is reached."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from limen.detection import disguise
from limen.detection.finding import Finding
from limen.detection.views_decode import BRAILLE, braille, decode
from limen.detection.views_excerpt import Budget
from limen.detection.views_fold import CARRIERS, bare, folded
from limen.detection.views_gate import gate
from limen.detection.views_glyphs import MARKED, UNSEEN
from limen.detection.views_markup import uncontrolled, unmarked
from limen.detection.views_spelling import backwards, mirrored, rotated, together, unleeted

MAX_VIEWS: Final = 24
MAX_DEPTH: Final = 7  # disguises inside one another
ALLOWANCE: Final = 384 * 1024  # characters all views of a short text may have together
_FACTOR: Final = 4  # and of a long one, in its lengths
_NO_ASCII: Final = dict.fromkeys(range(128))
_ONCE: Final = frozenset({"rot13", "atbash", "reversed", "words-reversed", "leet", "leet-l", "spaced"})
_LEAVES: Final = frozenset({"leet", "leet-l"})  # what is around them is undone before, in another view
_LIMIT: Final = "hidden.limit"
_UNREAD_FROM: Final = 0.6  # below: compressed data larger than what is opened, which is ordinary
_LIMITS: Final = {
    "bomb": (0.95, "compressed data that grows beyond all measure"),
    "nested": (0.9, "disguises nested too deeply to undo"),
    "views": (0.6, "more disguises than can be undone"),
    "size": (0.6, "decoded text is too large to read in full"),
    "blobs": (0.6, "more compressed data than is opened"),
    "inflated": (0.3, "compressed data is larger than is read"),
}
_ORDINARY: Final = frozenset({"inflated"})  # a bound that honest texts reach, and that alone refuses none


@dataclass(frozen=True, slots=True)
class View:
    """One reading of a text. `name`: what was undone, in order ("plain", "folded", "percent>rot13"); `depth`: steps."""

    name: str
    text: str
    depth: int


def look(text: str, kinds: frozenset[str] | None = None, most: int = sys.maxsize) -> tuple[list[View], list[Finding]]:
    """The views of `text`, plain first, and what is hidden in it; a bound reached is a finding, `hidden.limit`.
    `kinds`: `gate(text)`, where somebody asked already. `most`: characters all views may have, at most.

    Nothing further is undone beyond a bound: such a text is refused for that alone."""
    plain = View("plain", text, 0)
    if kinds is None:
        kinds = gate(text)
    if not kinds and text.isascii():
        return [plain], []
    found: dict[str, Finding] = {}
    known = [plain]
    budget = Budget(min(most, max(ALLOWANCE, _FACTOR * len(text))))
    waiting = deque([(plain, kinds)])
    while waiting and budget.limits <= _ORDINARY:
        view, kinds = waiting.popleft()
        chars = "" if view.text.isascii() else "".join(set(view.text)).translate(_NO_ASCII)
        if chars or not kinds.isdisjoint(("control", "padding", "markup")):
            for finding in disguise.find(view.text, chars, kinds, view.name):
                found.setdefault(finding.id, finding)
        for name, reading in _readings(view, kinds, chars, budget):
            if not reading.strip() or any(reading in other.text for other in known):
                continue
            if view.depth >= MAX_DEPTH:
                budget.limits.add("nested")
                break
            if len(known) >= MAX_VIEWS:
                budget.limits.add("views")
                break
            if not budget.take(len(reading)):
                break
            new = View(name if view.depth == 0 else f"{view.name}>{name}", reading, view.depth + 1)
            known.append(new)
            further = gate(reading)
            if name not in _LEAVES and (further or not reading.isascii()):
                waiting.append((new, further))
            if not budget.limits <= _ORDINARY:
                break
    return known, [*found.values(), *_beyond(budget)]


def unread(finding: Finding) -> bool:
    """Whether it says that some reading of the text was left out: nothing passes unseen."""
    return finding.id == _LIMIT and finding.score >= _UNREAD_FROM


def _beyond(budget: Budget) -> Iterator[Finding]:
    reached = [limit for limit in _LIMITS if limit in budget.limits]
    if reached:
        score, detail = _LIMITS[reached[0]]
        yield Finding(_LIMIT, "hidden", score, detail=detail)


def _readings(view: View, kinds: frozenset[str], chars: str, budget: Budget) -> Iterator[tuple[str, str]]:
    """What one step makes of a view; empty or unchanged texts among it."""
    text = view.text
    if chars:
        yield "folded", folded(text, chars)
        yield from _carried(text, chars)
    name, decoded = decode(text, kinds, budget)
    if name:
        yield name, decoded
    if "markup" in kinds:
        yield "markup", unmarked(text)
    if "control" in kinds:
        yield "control", uncontrolled(text)
    once = _ONCE.difference(view.name.split(">"))
    for name, reading in _spellings(text, kinds):
        if name in once:
            yield name, reading


def _carried(text: str, chars: str) -> Iterator[tuple[str, str]]:
    if UNSEEN.search(chars):
        for name, sign, reading in CARRIERS:
            if sign.search(chars):
                yield name, reading(text)
    if BRAILLE.search(chars):
        yield "braille", braille(text)
    if MARKED.search(chars):
        yield "bare", bare(text)


def _spellings(text: str, kinds: frozenset[str]) -> Iterator[tuple[str, str]]:
    if "spaced" in kinds:
        yield "spaced", together(text)
    if "leet" in kinds:
        yield from zip(("leet", "leet-l"), unleeted(text), strict=False)
    if "rot13" in kinds:
        yield "rot13", rotated(text)
    if "atbash" in kinds:
        yield "atbash", mirrored(text)
    if "reversed" in kinds:
        yield from zip(("reversed", "words-reversed"), backwards(text), strict=False)
