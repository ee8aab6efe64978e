"""What markup, terminal sequences and control characters keep from the eye, made visible; what they tear, joined."""

from __future__ import annotations

import re
from typing import Final

from limen.detection.views_excerpt import around

_TAG: Final = re.compile(r"<(?:[A-Za-z/!?][^<>]*)>")
_TOUCHED: Final = re.compile(r"<(?:[A-Za-z/!?][^<>]*)>|<!--|-->|(?<=[A-Za-z])(?:\*+|~~|`+|\|\|)(?=[A-Za-z])")
_BLOCK: Final = re.compile(
    r"(?i)</?(?:p|div|br|li|ul|ol|tr|td|th|table|h[1-6]|section|article|header|footer|main|nav|body|html|head|title|"
    r"script|style|option|hr|pre|blockquote|form|img|iframe|meta|link|template|svg|textarea|button|label)\b"
)
_SAID: Final = re.compile(r"""(?i)(?<![\w:-])[\w:-]+\s{0,8}=\s{0,8}(?:"([^"<>]{6,})"|'([^'<>]{6,})')""")
_SPOKEN: Final = re.compile(r"[^\W\d_]{2,}\W+[^\W\d_]|&#|%[0-9A-Fa-f]{2}|[A-Za-z0-9+/]{16}")
_STRESS: Final = re.compile(r"(?<=[A-Za-z])(?:\*+|~~|`+|\|\|)(?=[A-Za-z])")
_MARKS: Final = re.compile(r"(?<!\w)(?:\*{1,3}|~~|`{1,3}|\|\|)(?=\w)|(?<=\w)(?:\*{1,3}|~~|`+|\|\|)(?!\w)")
TERMINAL: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])([^\x07\x1b\x90-\x9f]*)(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]{0,8}[0-~]"
)
_STRUCK: Final = re.compile(r"[^\x08\n]\x08")
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")


def unmarked(text: str) -> str:
    """Tags, comments and emphasis gone from the text; comments and what attributes say after it. "" without markup."""
    part = around(text, _TOUCHED)
    if not part:
        return ""
    outside, said = _comments(part)
    aside: list[str] = []

    def drop(tag: re.Match[str]) -> str:
        if "=" in tag[0]:
            aside.extend(
                value for one in _SAID.finditer(tag[0]) if (value := one[1] or one[2]) and _SPOKEN.search(value)
            )
        return "\n" if _BLOCK.match(tag[0]) else ""

    shown = _MARKS.sub("", _STRESS.sub("", _TAG.sub(drop, outside)))
    return "\n".join([shown, *said, *aside])


def _comments(text: str) -> tuple[str, list[str]]:
    """The text without `<!-- -->`, and the comments. One that never ends goes to the end, as browsers read it."""
    if "<!--" not in text:
        return text, []
    shown: list[str] = []
    said: list[str] = []
    at = 0
    while (start := text.find("<!--", at)) >= 0:
        shown.append(text[at:start])
        end = text.find("-->", start + 4)
        said.append(text[start + 4 : end if end >= 0 else len(text)])
        at = end + 3 if end >= 0 else len(text)
    shown.append(text[at:])
    return "".join(shown), said


def uncontrolled(text: str) -> str:
    """Terminal sequences dropped, their own text kept; overstrikes carried out. "" without any."""
    if not _CONTROL.search(text):
        return ""
    said: list[str] = []

    def drop(sequence: re.Match[str]) -> str:
        if sequence[1]:
            said.append(sequence[1])
        return ""

    shown = TERMINAL.sub(drop, text)
    shown = _CONTROL.sub("", _STRUCK.sub("", shown) if "\x08" in shown else shown)
    return "\n".join([shown, *said])
