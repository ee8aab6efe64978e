"""Plain keyword rules, as many products ship them: what `limen eval --compare` sets beside the detector."""

from __future__ import annotations

import re
from typing import Final

_RULES: Final = tuple(
    re.compile(rule, re.IGNORECASE)
    for rule in (
        r"ignore (?:all |any )?(?:the )?(?:previous|prior|above)",
        r"disregard (?:all |any )?(?:the |your )?(?:previous|prior|above|instructions)",
        r"forget (?:everything|all|your instructions)",
        r"system prompt",
        r"you are now",
        r"new instructions?",
        r"jailbreak|do anything now|developer mode",
        r"act as (?:an? )?(?:unrestricted|dan|evil)",
        r"pretend (?:to be|you are)",
        r"do not tell the user",
        r"<important>|\[inst\]|<\|im_start\|>",
        r"reveal your|print your|repeat your",
        r"override (?:your|all|safety)",
        r"api[ _]?key|\.ssh/|id_rsa",
        r"without (?:asking|telling|notifying) the user",
    )
)


def keyword_score(text: str) -> float:
    """0 where no rule matches; else the more rules match, the nearer to 1."""
    matched = sum(rule.search(text) is not None for rule in _RULES)
    return 1 - 0.5**matched
