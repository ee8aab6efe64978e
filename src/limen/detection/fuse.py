"""Findings -> one risk between 0 and 1, and what is done about it.

`WEIGHTS` says how much a certain finding of a family is worth in a channel: 1 means that certainty alone is a risk of
1. Within a family the strongest finding counts (several views of one text say the same thing again); families are
combined as independent evidence, 1 - (1 - a)(1 - b)... So one more finding can raise the risk and never lower it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from limen.core.faults import InvariantFault
from limen.detection.finding import Channel, Finding

# What a server says reaches a model, what a model says reaches a server: the same words weigh differently.
_SAID: Final = {
    "injection": 1.0, "poisoning": 1.0, "feed": 1.0, "exfiltration": 0.8, "hidden": 0.6, "argument": 0.3, "flow": 1.0,
    "secret": 0.2, "pii": 0.05, "harm": 1.0, "remote": 1.0,
}  # fmt: skip
_ASKED: Final = {
    "injection": 0.45, "poisoning": 0.45, "feed": 1.0, "exfiltration": 1.0, "hidden": 0.55, "argument": 1.0,
    "flow": 1.0, "secret": 0.4, "pii": 0.15, "harm": 1.0, "remote": 1.0,
}  # fmt: skip
_SHOWN: Final = {**_SAID, "poisoning": 1.0, "hidden": 0.9, "secret": 0.6, "pii": 0.1}

WEIGHTS: Final = MappingProxyType(
    {
        Channel.ARGUMENT: _ASKED,
        Channel.MEMORY: {
            **_ASKED,
            "injection": 0.7,
            "poisoning": 0.7,
        },  # a person is asked; never refused for words alone
        Channel.RESULT: _SAID,
        Channel.ERROR: _SAID,
        Channel.RESOURCE: _SAID,
        Channel.PROMPT: {**_SAID, "injection": 0.8},  # a prompt is meant to instruct
        Channel.DEFINITION: _SHOWN,
        Channel.INSTRUCTIONS: _SHOWN,
        Channel.NOTIFICATION: _SAID,
        Channel.COMPLETION: _SAID,
        Channel.ELICITATION: {**_SAID, "exfiltration": 1.0},
    }
)


class Action(Enum):
    """What happens to content of some risk, mildest first."""

    PASS = 0
    RECORD = 1  # goes on, and is recorded for closer watching
    HOLD = 2  # arguments: a person must approve; everything else: replaced by a notice
    BLOCK = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """Risk above which content is recorded, held, blocked. 0 <= record <= hold <= block <= 1."""

    record: float = 0.2
    hold: float = 0.5
    block: float = 0.8

    def action(self, risk: float) -> Action:
        """The strongest that applies. A risk that is no number is treated as the highest."""
        if not risk <= self.block:
            return Action.BLOCK
        if risk > self.hold:
            return Action.HOLD
        return Action.RECORD if risk > self.record else Action.PASS


@dataclass(frozen=True, slots=True)
class Risk:
    """`score` 0..1; `contributions`: what each family brings by itself, strongest first; `ids`: every finding once."""

    score: float = 0.0
    contributions: tuple[tuple[str, float], ...] = ()
    ids: tuple[str, ...] = ()


NO_RISK: Final = Risk()


def fuse(findings: Iterable[Finding], channel: Channel) -> Risk:
    """Combine. Raises InvariantFault for a family the table does not know, or a score that is no probability."""
    strongest: dict[str, float] = {}
    ids: dict[str, None] = {}
    weights = WEIGHTS[channel]
    for finding in findings:
        weight = weights.get(finding.family)
        if weight is None or not 0.0 <= finding.score <= 1.0:
            raise InvariantFault(f"a finding {finding.id!r} of family {finding.family!r} that cannot be weighed")
        strongest[finding.family] = max(strongest.get(finding.family, 0.0), weight * finding.score)
        ids[finding.id] = None
    if not ids:
        return NO_RISK
    harmless = 1.0
    for part in sorted(strongest.values()):  # always in one order: equal findings give the same last digit
        harmless *= 1.0 - part
    parts = sorted(strongest.items(), key=lambda item: (-item[1], item[0]))
    return Risk(1.0 - harmless, tuple(parts), tuple(ids))
