"""Does a text give orders to the model that reads it? Signals on every reading of it, the classifier where needed.

Two steps. Signals (patterns.py) cost microseconds and run over every view of every text. The classifier (model.py)
runs where a signal, a word orders are made of or a disguise asks for it, where the channel does (tool descriptions and
server instructions, which every session reads), and over texts in scripts the signals know little of. What that
misses: docs/detection.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

from limen.detection.finding import Channel, Finding
from limen.detection.model import Model, Windows, joint
from limen.detection.patterns import STEERS, Signals, signals, where
from limen.detection.text import View, views

# Every session reads these before it does anything: they are always classified.
READ_FIRST: Final = frozenset({Channel.DEFINITION, Channel.INSTRUCTIONS})
# Signals that, in a definition, turn the name of another server's tool from a mention into an order about it.
DIRECTING: Final = STEERS | {"shadow", "trigger", "send", "new_orders"}
# What such an order adds: 1 - (1 - p) * (1 - SHADOWING). A judgement, not a measurement: no public set has such pairs.
SHADOWING: Final = 0.6
REPORTED: Final = 0.25  # of the threshold: findings fainter than this are not worth a line
_FOREIGN: Final = re.compile(r"[^\x00-\u024f\u2010-\u206f\u20a0-\u27bf]")
_NAME: Final = re.compile(r"[A-Za-z0-9]+(?:[_.-][A-Za-z0-9]+)+")


@dataclass(frozen=True, slots=True)
class Context:
    """What is known about where the text comes from. `other_tools`: names of tools of other servers; `own_tool`: the
    tool whose definition or result this is; `trusted`: the operator vouches for the server."""

    other_tools: frozenset[str] = frozenset()
    own_tool: str = ""
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Injection:
    """The detector. Immutable; one instance serves all threads."""

    model: Model

    @classmethod
    def load(cls) -> Injection:
        """Signals and model of this release. Raises ModelFault if the model's bytes are not the expected ones."""
        return _loaded()

    def scan(
        self,
        text: str,
        channel: Channel,
        *,
        context: Context | None = None,
        readings: Sequence[View] | None = None,
        shown: Signals | None = None,
        judged: Mapping[str, Windows] = MappingProxyType({}),
    ) -> list[Finding]:
        """Findings of the families `injection` and, for what a server says about itself, `poisoning`; strongest first.

        `injection.orders` is the classifier's word; a finding named after a signal says what the orders are like. Spans
        are characters of the view named. Raises TooMuch for a text over the bound and Fault where an engine fails:
        never returns less because it could not look. `readings`: its views, where somebody has them already; likewise
        `shown`, the signals of the text itself, and `judged`, the windows of some views' texts.
        """
        best: dict[str, Finding] = {}
        context = context or Context()
        for view in views(text) if readings is None else readings:
            known = shown if shown is not None and view.text is text else signals(view.text)
            for finding in self._view(view, channel, context, known, judged):
                louder = best.get(finding.id)
                if louder is None or finding.score > louder.score:
                    best[finding.id] = finding
        return sorted(best.values(), key=lambda one: (-one.score, one.id))

    def probability(self, text: str, channel: Channel) -> float:
        """Calibrated probability that the text gives orders to a model: the classifier on every view, no short cut."""
        return max(self._judge(view, channel)[0] for view in views(text))

    def deployed(self, text: str, channel: Channel) -> float:
        """The same as the gateway finds it: 0 where no view asked for the classifier."""
        asking = [view for view in views(text) if self.asks(view, channel, signals(view.text))]
        return max((self._judge(view, channel)[0] for view in asking), default=0.0)

    def threshold(self, channel: Channel) -> float:
        """The probability that 1 % of the ordinary texts of held-out sources reached on this kind of channel."""
        return self.model.thresholds[_layer(channel)]

    def asks(self, view: View, channel: Channel, shown: Signals) -> bool:
        """Whether this view goes to the classifier. `shown`: its signals."""
        if channel in READ_FIRST or view.depth or shown:
            return True
        return _FOREIGN.search(view.text) is not None

    def _judge(
        self, view: View, channel: Channel, judged: Mapping[str, Windows] = MappingProxyType({})
    ) -> tuple[float, tuple[int, int]]:
        found = judged.get(view.text) or self.model.windows(view.text)
        return self.model.layers[_layer(channel)].probability(joint(found, view.text)), found.best

    def _view(
        self, view: View, channel: Channel, context: Context, shown: Signals, judged: Mapping[str, Windows]
    ) -> Iterator[Finding]:
        if not self.asks(view, channel, shown):
            return
        family = "poisoning" if channel in READ_FIRST else "injection"
        score, span = self._judge(view, channel, judged)
        if score >= REPORTED * self.threshold(channel):
            yield Finding(
                f"{family}.orders", family, score, "", span, view.name, "signals: " + (", ".join(shown) or "none")
            )
            for name in STEERS & shown.keys():
                yield Finding(f"{family}.{name}", family, score, "", where(view.text, shown[name]), view.name)
        if family == "poisoning" and not context.trusted and DIRECTING & shown.keys():
            named = _foreign_tools(view.text, context)
            if named:
                raised = 1 - (1 - score) * (1 - SHADOWING)
                yield Finding(
                    "poisoning.shadowing", family, raised, "", named, view.name, "names another server's tool"
                )


def _layer(channel: Channel) -> str:
    return "definition" if channel in READ_FIRST else "content"


def _foreign_tools(text: str, context: Context) -> tuple[int, int] | None:
    """Where a tool of another server is named. Names that are plain words ("search") are not looked for."""
    for match in _NAME.finditer(text):
        name = match.group()
        if name in context.other_tools and name != context.own_tool:
            return match.span()
    return None


@cache
def _loaded() -> Injection:
    return Injection(Model.load())
