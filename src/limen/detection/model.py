"""The embedded classifier: a linear model over hashed n-grams by windows, and a small second layer that joins the best
window with the signals found in it. Tables of integers, read from package data and checked against a pinned digest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limen.core.faults import Fault
from limen.detection.features import BITS, CHUNK, chunks, grams, several
from limen.detection.model_digest import DIGEST
from limen.detection.patterns import SIGNALS, STEERS, signals

NAME: Final = "injection.bin"
MAGIC: Final = b"LIMENINJ1\n"
WINDOW: Final = 80  # folded characters
MARGIN: Final = 48  # folded characters on both sides of the best window in which signals count as part of it
MANY: Final = 32  # windows; more are counted as so many, or an order could be talked down by what is put around it
PAD: Final = 16  # keeps very short texts from being loud


class ModelFault(Fault):
    """The model's bytes are not the ones this release was built with, or cannot be read."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Scores (log odds of the linear layer) of the windows of one text; where the best one and its MARGIN lie."""

    scores: NDArray[Any]
    best: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Layer:
    """Second layer for one kind of channel: weights over `joint` features, then log odds to probability."""

    weights: tuple[float, ...]
    bias: float
    slope: float
    offset: float

    def probability(self, features: list[float]) -> float:
        """Calibrated probability, 0 to 1."""
        margin = self.bias + sum(w * f for w, f in zip(self.weights, features, strict=True))
        odds = self.slope * margin + self.offset
        return 1 / (1 + math.exp(-max(-40.0, min(40.0, odds))))


@dataclass(frozen=True, slots=True)
class Model:
    """Weights in memory: 1 byte for each of 2**BITS features, and two second layers (content, definition)."""

    table: NDArray[Any]
    scale: float
    bias: float
    layers: dict[str, Layer]
    thresholds: dict[str, float]
    precision: dict[str, dict[str, float]]

    @classmethod
    def load(cls) -> Model:
        """The model of this release, from package data. Raises ModelFault if a byte differs."""
        return cls.decode((resources.files("limen.detection") / "data" / NAME).read_bytes(), DIGEST)

    @classmethod
    def decode(cls, raw: bytes, digest: str) -> Model:
        """A model from bytes whose SHA-256 (hexadecimal) is known. Raises ModelFault."""
        if hashlib.sha256(raw).hexdigest() != digest:
            raise ModelFault("the injection model is not the one this release was built with")
        if not raw.startswith(MAGIC):
            raise ModelFault("the injection model has an unknown format")
        length = int.from_bytes(raw[len(MAGIC) : len(MAGIC) + 4], "big")
        start = len(MAGIC) + 4
        head = json.loads(raw[start : start + length])
        table = np.frombuffer(raw, dtype=np.int8, offset=start + length)
        if len(table) != 1 << BITS or tuple(head["signals"]) != SIGNALS:
            raise ModelFault("the injection model was trained for other features")
        layers = {
            name: Layer(tuple(one["weights"]), one["bias"], one["slope"], one["offset"])
            for name, one in head["layers"].items()
        }
        return cls(table, head["scale"], head["bias"], layers, head["thresholds"], head["precision"])

    def windows(self, text: str) -> Windows:
        """Score every window of the text. An empty text has one window of the lowest interest."""
        scores: list[NDArray[Any]] = []
        best, span = -math.inf, (0, 0)
        for offset, piece in chunks(text):
            found = grams(piece)
            begin, end, root = _measures(found.length)
            weights = self.table.take(found.index)
            if len(begin) == 1:
                total: Any = np.add.reduce(weights, keepdims=True)
            else:
                placed = np.bincount(found.at, weights=weights, minlength=found.length)
                sums = np.zeros(found.length + 1)
                np.add.accumulate(placed, out=sums[1:])
                total = sums.take(end) - sums.take(begin)
            here = total * self.scale / root + self.bias
            scores.append(here)
            top = int(here.argmax())
            if here[top] > best and found.length:
                best = float(here[top])
                first, last = max(0, begin[top] - MARGIN), min(found.length, end[top] + MARGIN) - 1
                span = offset + int(found.origin[first]), offset + int(found.origin[last]) + 1
        return Windows(scores[0] if len(scores) == 1 else np.concatenate(scores), span)

    def short(self, texts: Iterable[str]) -> dict[str, Windows]:
        """As `windows`, for many texts at once; only for those of one window, and none for those that are empty."""
        found: dict[str, Windows] = {}
        for group in _groups(text for text in dict.fromkeys(texts) if 0 < len(text) <= WINDOW):
            grams_of = several(group)
            sums = np.bincount(grams_of.owner, weights=self.table[grams_of.index], minlength=len(group))
            scores = sums * self.scale / np.sqrt(grams_of.lengths + PAD) + self.bias
            for number, (text, end) in enumerate(zip(group, grams_of.ends.tolist(), strict=True)):
                found[text] = Windows(scores[number : number + 1], (0, end))
        return found


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    """As many together as `several` takes."""
    group: list[str] = []
    size = 0
    for text in texts:
        if size + len(text) > CHUNK:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield group


def window_bounds(length: int, window: int = WINDOW) -> tuple[NDArray[Any], NDArray[Any]]:
    """Starts and ends of the windows over `length` folded characters, half of each shared with the next; the last one
    ends with the text."""
    begin = np.arange(0, max(1, length - window + window // 2), window // 2)
    begin = np.minimum(begin, max(0, length - window))
    return begin, np.minimum(begin + window, length)


@lru_cache(maxsize=1024)
def _measures(length: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The windows, and what the sum of each is divided by."""
    begin, end = window_bounds(length)
    return begin, end, np.sqrt(end - begin + PAD)


def joint(found: Windows, text: str) -> list[float]:
    """Features of the second layer: best, second and mean window, how many (MANY at most), and the signals in the best
    window and its MARGIN."""
    ranked = np.sort(found.scores)[::-1] if len(found.scores) > 1 else found.scores
    top = float(ranked[0])
    second = float(ranked[1]) if len(ranked) > 1 else top
    mean = float(ranked.mean()) if len(ranked) > 1 else top
    shown = signals(text[found.best[0] : found.best[1]])
    steering = len(STEERS & shown.keys())
    flags = [1.0 if name in shown else 0.0 for name in SIGNALS]
    return [
        top,
        min(second, top),
        mean,
        math.log(min(len(ranked), MANY)),
        float(steering),
        sum(flags),
        *flags,
    ]
