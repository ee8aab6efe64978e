"""Half-space trees: an online model of what is seen together, so that what is odd only in combination is found.

Tan, Ting and Liu, "Fast anomaly detection for streaming data", IJCAI 2011. Masses of the last whole window are the
reference, those of the present one are being counted. Deterministic: splits come from a seed.
"""

from __future__ import annotations

import random
from math import log2
from typing import Any, Final

TREES: Final = 20
DEPTH: Final = 6
WINDOW: Final = 2_000  # vectors
PLACES: Final = 96  # quarter octaves: more than window x 2^depth has
_NODES: Final = (1 << (DEPTH + 1)) - 1
_FLOOR: Final = 0.05 * WINDOW  # a node with less is not gone below: the paper's size limit, for scoring


class Trees:
    """Over vectors of `width` whole numbers from 0 to `top`. Memory: trees x nodes, and the window's distinct vectors.

    Most vectors of a window are the same few: each is walked down once when it is first met in a window, and added to
    the nodes when the window ends.
    """

    def __init__(self, width: int, top: int, seed: int = 7) -> None:
        self.width, self.top, self.count = width, top, 0
        draw = random.Random(seed)  # noqa: S311 - splits are no secret
        self._splits = [_splits(width, draw) for _ in range(TREES)]
        self._before = [[0] * _NODES for _ in range(TREES)]
        self._met: dict[bytes, int] = {}
        self._known: dict[bytes, int] = {}  # places of scores of this window
        self._scores = [0.0] * PLACES  # how scores are spread, to make a share of them
        self.ready = False

    def see(self, vector: bytes) -> float:
        """How unusual the vector is: bits of the share of vectors at least as unusual. 0 before the first window."""
        self._met[vector] = self._met.get(vector, 0) + 1
        self.count += 1
        bits = 0.0
        if self.ready:
            place = self._known.get(vector)
            if place is None:
                place = self._known[vector] = min(PLACES - 1, int(4 * log2(1 + self._score(vector))))
            bits = self._bits(place)
        if self.count % WINDOW == 0:
            self._turn()
        return bits

    def _score(self, vector: bytes) -> float:
        score = 0
        for (dimension, split), before in zip(self._splits, self._before, strict=True):
            node = depth = 0
            while depth < DEPTH and before[node] > _FLOOR:
                node = 2 * node + (1 if vector[dimension[node]] < split[node] * self.top else 2)
                depth += 1
            score += before[node] << depth
        return score / TREES

    def _turn(self) -> None:
        """What was counted is the reference from now on."""
        self._before = [[0] * _NODES for _ in range(TREES)]
        for vector, count in self._met.items():
            for (dimension, split), nodes in zip(self._splits, self._before, strict=True):
                node = 0
                nodes[0] += count
                for _ in range(DEPTH):
                    node = 2 * node + (1 if vector[dimension[node]] < split[node] * self.top else 2)
                    nodes[node] += count
        self._met, self._known, self.ready = {}, {}, True

    def _bits(self, place: int) -> float:
        below = sum(self._scores[: place + 1])
        total = sum(self._scores)
        self._scores[place] += 1.0
        if total > 50_000:
            self._scores = [one / 2 for one in self._scores]
        return log2((total + 1) / (below + 0.5)) if total > 500 else 0.0

    def dump(self) -> dict[str, Any]:
        """To be kept; splits follow from the seed."""
        return {"count": self.count, "before": self._before, "scores": self._scores, "ready": self.ready}

    def load(self, kept: dict[str, Any]) -> None:
        """Go on from there. What was counted of the window under way is counted anew.

        Raises KeyError or ValueError for what `dump` did not make.
        """
        self.count, self._before = int(kept["count"]) // WINDOW * WINDOW, kept["before"]
        self._scores, self.ready = kept["scores"], bool(kept["ready"])


def _splits(width: int, draw: random.Random) -> tuple[list[int], list[float]]:
    """Where each inner node cuts: one dimension, in the middle of what its branch still spans."""
    spans: list[list[tuple[float, float]]] = []
    start = []
    for _ in range(width):
        middle = draw.random()
        reach = 2 * max(middle, 1 - middle)
        start.append((middle - reach, middle + reach))
    spans.append(start)
    dimensions, cuts = [0] * _NODES, [0.0] * _NODES
    for node in range((1 << DEPTH) - 1):
        span = spans[node]
        dimension = draw.randrange(width)
        low, high = span[dimension]
        dimensions[node], cuts[node] = dimension, (low + high) / 2
        left, right = list(span), list(span)
        left[dimension], right[dimension] = (low, cuts[node]), (cuts[node], high)
        spans += [left, right]
    return dimensions, cuts
