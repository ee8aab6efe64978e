"""What in a text is there for a model to read and for a person to miss: findings of the family `hidden`.

Scores are the odds, judged from ordinary documents in many languages, that the text was disguised on purpose. A payload
need not be in it: what the disguise hides is for the other detectors, which read the views.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from limen.detection.finding import Finding
from limen.detection.views_fold import selected
from limen.detection.views_glyphs import (
    BESIDE,
    COMBINING,
    LOOKALIKE,
    LOOKALIKES,
    RIGHT_TO_LEFT,
    SELECTORS,
    TAGS,
    UNMISTAKABLE,
    UNSEEN,
    spent,
    unwritten,
)

_TAG: Final = re.compile(f"[{TAGS}]")
_SELECTOR: Final = re.compile(f"[{SELECTORS}]")
_SELECTOR_RUN: Final = re.compile(f"[{SELECTORS}]{{3,}}")
_THIN: Final = (
    "\u034f\u115f\u1160\u180e\u200b-\u200d\u2060-\u2064\u206a-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a"
)
_ZERO_WIDTH: Final = re.compile(f"[{_THIN}]")
_ZERO_WIDTH_RUN: Final = re.compile(f"[{_THIN}]{{4,}}")
_IN_LATIN: Final = re.compile(f"[{_THIN}](?<=[A-Za-z].)[{_THIN}]*(?=[A-Za-z])", re.DOTALL)
_SOFT: Final = re.compile("(?:[A-Za-z]\u00ad){3,}")
_OVERRIDE: Final = re.compile("[\u202d\u202e]")
_RIGHTWARDS: Final = re.compile("[\u202b\u2067]")
_RIGHT_TO_LEFT: Final = re.compile(f"[{RIGHT_TO_LEFT}]")
_WORD: Final = re.compile(r"[^\W\d_]{2,}")
_MARK: Final = re.compile(f"[{COMBINING}]")
_STACKED: Final = re.compile(f"[{COMBINING}]{{5,}}")
_CONCEAL: Final = re.compile(r"(?:\x1b\[|\x9b)(?:[0-9;]{0,32};)?8(?:;[0-9;]{0,32})?m")
_CLIPBOARD: Final = re.compile(r"(?:\x1b\]|\x9d)52;")
_ERASING: Final = re.compile(r"(?:\x1b\[|\x9b)[0-9;]{0,16}[ABEFHJfsu]")
_SIDE: Final = re.compile(r"\x1b[P^_X]")
_PADDING: Final = re.compile(
    r"(?:(?<![ \t])[ \t]{200,}+|(?<![ \t\r\n])[ \t]*+(?:\r?\n[ \t]*+){40,}+)(?=[\w<\"'(\[#])"
)  # possessive: a run is looked at once
_UNSHOWN: Final = re.compile(
    r"(?i)<[a-z][^<>]*style\s{0,4}=\s{0,4}[\"'][^\"'<>]*(?:display\s{0,4}:\s{0,4}none|visibility\s{0,4}:\s{0,4}hidden|"
    r"font-size\s{0,4}:\s{0,4}0|opacity\s{0,4}:\s{0,4}0(?![.0-9])|color\s{0,4}:\s{0,4}(?:white|transparent|#fff\b|#ffffff\b))"
    r"[^<>]*>\s*(?:[^\s<>]+\s+){3}"
)


def find(text: str, chars: str, kinds: frozenset[str], view: str = "plain") -> list[Finding]:
    """The disguises in one view of a text. `chars`: its characters above ASCII; `kinds`: what the gate saw."""
    found: list[Finding] = []
    if chars:
        if UNSEEN.search(chars):
            strange = spent(text)
            found += _carriers(strange, view)
            found += _zero_width(text, strange, view)
            found += _directions(text, view)
        if LOOKALIKE.search(chars):
            found += _scripts(text, UNMISTAKABLE.search(chars) is not None, view)
        if _MARK.search(chars) and len(stacked := _STACKED.findall(text)) >= 3:
            found.append(_finding("combining", 0.5, text, None, view, f"{len(stacked)} stacks of combining marks"))
    if "control" in kinds:
        found += _terminal(text, view)
    if "padding" in kinds and (match := _PADDING.search(text)):
        found.append(
            _finding(
                "padding", 0.5, text, match, view, f"{match.end() - match.start()} blank characters in front of text"
            )
        )
    if "markup" in kinds and "style" in text.lower() and (match := _UNSHOWN.search(text)):
        found.append(_finding("markup", 0.3, text, match, view, "text styled not to be shown"))
    return found


def _finding(kind: str, score: float, text: str, match: re.Match[str] | None, view: str, detail: str) -> Finding:
    """`match` may come from a text with harmless characters taken out; then the span is the whole text."""
    span = match.span() if match is not None and match.string is text else (0, len(text))
    return Finding(f"hidden.{kind}", "hidden", score, span=span, view=view, detail=detail)


def _carriers(strange: str, view: str) -> Iterator[Finding]:
    if tags := _TAG.findall(strange):
        score = 0.97 if len(tags) > 3 else 0.8
        yield _finding("tags", score, strange, None, view, f"{len(tags)} tag characters that are no flag")
    selectors = len(_SELECTOR.findall(strange))
    if selectors >= 4:
        carries = bool(selected(strange))
        if carries or _SELECTOR_RUN.search(strange):
            detail = f"{selectors} variation selectors" + (" that carry text" if carries else " in runs")
            yield _finding("selectors", 0.97 if carries else 0.85, strange, None, view, detail)


def _zero_width(text: str, strange: str, view: str) -> Iterator[Finding]:
    strange = unwritten(strange)
    count = len(_ZERO_WIDTH.findall(strange))
    inside = len(_IN_LATIN.findall(strange))
    if match := _ZERO_WIDTH_RUN.search(strange):
        score = 0.95 if match.end() - match.start() >= 8 else 0.85
    elif inside:
        score = 0.35 if inside == 1 else 0.6 if inside == 2 else 0.85
    elif count >= 8:
        score = 0.5
    else:
        score = 0.0
    if score:
        yield _finding(
            "zero_width",
            score,
            text,
            _ZERO_WIDTH.search(text),
            view,
            f"{count} zero-width characters, {inside} in words",
        )
    if soft := _SOFT.search(text):
        yield _finding("zero_width", 0.7, text, soft, view, "soft hyphens after every letter")


def _directions(text: str, view: str) -> Iterator[Finding]:
    written = _RIGHT_TO_LEFT.search(text) is not None
    if match := _OVERRIDE.search(text):
        yield _finding("bidi", 0.5 if written else 0.9, text, match, view, "the direction of text is overridden")
    elif not written and (match := _RIGHTWARDS.search(text)):
        yield _finding("bidi", 0.7, text, match, view, "left-to-right text is turned to the left")


def _scripts(text: str, native: bool, view: str) -> Iterator[Finding]:
    mixed = 0
    first: re.Match[str] | None = None
    for match in _WORD.finditer(text) if not native or BESIDE.search(text) else ():
        word = match[0]
        if not word.isascii() and _is_mixed(word, native):
            mixed += 1
            first = first or match
    if first is not None:
        score = 0.6 if mixed == 1 else 0.9
        yield _finding(
            "mixed_script", score, text, first, view, f"{mixed} words spelled with look-alikes of Latin letters"
        )


def _is_mixed(word: str, native: bool) -> bool:
    """Latin with look-alikes in it. Not a Latin stem with a Cyrillic ending, not a symbol at the edge of a word."""
    others = [char for char in word if not char.isascii()]
    if not all(char in LOOKALIKES for char in others):
        return False
    if len(others) == len(word):
        return not native and len(word) >= 4 and not all("\u0370" <= char <= "\u03ff" for char in word)
    shape = "".join("L" if char.isascii() else "o" for char in word)
    turns = shape.count("Lo") + shape.count("oL")
    greek = all("\u0370" <= char <= "\u03ff" for char in others)
    if turns >= 2:
        return len(word) >= 4 or not greek
    if greek or len(word) < 4:
        return False  # "αlpha", "μm", "kΩ": symbols
    return not native if shape.startswith("L") else len(others) * 2 <= len(word)


def _terminal(text: str, view: str) -> Iterator[Finding]:
    if match := _CONCEAL.search(text):
        yield _finding("ansi", 0.9, text, match, view, "a terminal is told to conceal text")
    elif match := _CLIPBOARD.search(text):
        yield _finding("ansi", 0.95, text, match, view, "a terminal is told to set the clipboard")
    elif match := _SIDE.search(text):
        yield _finding("ansi", 0.6, text, match, view, "text in a terminal control string")
    elif match := _ERASING.search(text):
        yield _finding("ansi", 0.3, text, match, view, "a terminal is told to move or erase")
