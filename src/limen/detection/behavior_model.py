"""From bits of surprise to one score: a logistic model whose weights come from the simulation, nothing negative.

Weights are data (`data/behavior.json`, with where they come from), one set for callers and clients, one for servers and
tools. Each aspect's surprise fades by half in two hours; the largest counts, so the same oddity repeated is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from math import exp, exp2
from typing import Any, Final

import orjson

from limen.detection.behavior_profile import ASPECTS, Oddity

HALF: Final = 2 * 3_600.0
CAP: Final = 14.0
ALL: Final = (*ASPECTS, "trees")


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one group: added up and put through a logistic function."""

    bias: float
    weights: Mapping[str, float]

    def score(self, bits: Mapping[str, float], shift: float = 0.0) -> float:
        """0..1: how likely the subject is hostile, all surprises taken together."""
        total = self.bias + shift + sum(self.weights.get(name, 0.0) * min(CAP, value) for name, value in bits.items())
        return 1 / (1 + exp(-max(-30.0, min(30.0, total))))


class Levels:
    """How surprising one subject is at present, aspect by aspect."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, Oddity]] = {}

    def add(self, oddity: Oddity, now: float) -> bool:
        """True when that aspect is more surprising than it was."""
        held = self._held.get(oddity.aspect)
        if held is not None and held[1].bits * _left(now - held[0]) >= oddity.bits:
            return False
        self._held[oddity.aspect] = (now, oddity)
        return True

    def bits(self, now: float) -> dict[str, float]:
        """What is left of each."""
        return {name: one.bits * _left(now - at) for name, (at, one) in self._held.items()}

    def oddities(self, now: float, weights: Weights) -> list[Oddity]:
        """Those that count, each with what it adds to the score in place of its bits."""
        left = self.bits(now)
        found = []
        for name, (_, one) in self._held.items():
            share = weights.weights.get(name, 0.0) * min(CAP, left[name])
            if share > 0.3:
                found.append(Oddity(one.aspect, share, one.what, one.value, one.usual))
        return found


def _left(seconds: float) -> float:
    return exp2(-max(0.0, seconds) / HALF)


@lru_cache(maxsize=1)
def load_weights() -> dict[str, Weights]:
    """ "people" and "things", as this release has them. Raises KeyError or ValueError for a damaged release."""
    read: dict[str, Any] = orjson.loads(files("limen.detection").joinpath("data/behavior.json").read_bytes())
    return {group: Weights(read[group]["bias"], read[group]["weights"]) for group in ("people", "things")}
