"""Small robust statistics that forget: bounded memory, a few microseconds each, no value of anybody in them.

All of one profile share one forward decay (Cormode et al., "Forward decay", ICDE 2009): what is added now weighs
`Fading.weight(now)`, which grows by two each half-life, so nothing has to be aged when time passes, only compared.
"""

from __future__ import annotations

from math import exp2, log2
from operator import itemgetter
from typing import Final

_LARGEST: Final = 1e9  # a weight beyond it is divided out of everything
_LAST: Final = itemgetter(2)  # of a row of Names
PLACES: Final = 48  # hours of a working day, hours of a day off


class Fading:
    """How much a thing counts that happens now. `start` moves when weights become large."""

    __slots__ = ("half", "start")

    def __init__(self, half: float, start: float) -> None:
        self.half, self.start = half, start

    def weight(self, now: float) -> float:
        """Of what happens now, in units of what happened at `start`. Never under one: an older record counts so."""
        since = now - self.start
        return exp2(since / self.half) if since > 0 else 1.0

    def overgrown(self, weight: float, now: float) -> bool:
        """Whether everything is to be divided by this weight, which is that of now. If so, `start` is now."""
        if weight < _LARGEST:
            return False
        self.start = now
        return True


def place_of(value: float) -> int:
    """The half octave a value lies in; all that is not above 0 lies in that of 0."""
    return int(2 * log2(1 + value)) if value > 0 else 0


def size_of(place: int) -> float:
    """The smallest value of that half octave."""
    return float(exp2(place / 2) - 1)


class Spread(dict[int, float]):
    """How values are spread over half octaves: quantiles and tails without keeping a value. At most 100 places.

    The half octave of 0 is 0, of 1 it is 2, of 3 it is 4, of 1023 it is 20; a neighbour differs by a factor of 1.4.
    """

    __slots__ = ("_answers", "_left", "_most", "_seen")

    def __init__(self) -> None:
        super().__init__()
        self._answers: dict[int, float] = {}  # good until a sixteenth more was added: tails move no faster
        self._left = self._most = 1  # to be added before the answers are no longer good, and of how many
        self._seen = 0  # before those

    def add(self, value: float, weight: float) -> None:
        self.put(place_of(value), weight)

    def put(self, place: int, weight: float) -> None:
        """`add` for a value in that half octave."""
        self[place] = self.get(place, 0.0) + weight
        self._left -= 1
        if self._left <= 0:
            self._answers.clear()
            self._seen += self._most
            self._most = self._left = max(1, min(64, self._seen >> 4))

    def bits(self, value: float, weight: float) -> float:
        """How surprising it is that a value is at least this large: -log2 of its share, and one bit for each octave
        beyond the largest known. `weight`: of now. 0 when nothing is known."""
        return self.at(place_of(value), weight)

    def at(self, place: int, weight: float) -> float:
        """`bits` of a value in that half octave."""
        known = self._answers.get(place)
        if known is None:
            known = self._answers[place] = self._bits(place, weight)
        return known

    def _bits(self, place: int, weight: float) -> float:
        if not self:
            return 0.0
        total, above = sum(self.values()), sum([mass for at, mass in self.items() if at >= place])
        surprise = log2((total + weight) / (above + 0.5 * weight))
        return max(0.0, surprise) + max(0, place - max(self)) / 2

    def quantile(self, share: float) -> float:
        """The value a share of all lies under, within a half octave; 0 when nothing is known."""
        wanted, total = share * sum(self.values()), 0.0
        for place in sorted(self):
            total += self[place]
            if total >= wanted:
                return size_of(place)
        return 0.0

    def middle(self) -> tuple[float, float]:
        """Median and its absolute deviation made a standard one (1.48 MAD), in octaves."""
        total, run, median = sum(self.values()), 0.0, 0
        for place in sorted(self):
            run += self[place]
            if run >= total / 2:
                median = place
                break
        run, away = 0.0, 0
        for distance, mass in sorted((abs(place - median), mass) for place, mass in self.items()):
            run += mass
            if run >= total / 2:
                away = distance
                break
        return median / 2, 1.48 * away / 2


class Rising:
    """The bits of a count that only grows, against a spread nothing is added to meanwhile: they change only where the
    count enters another half octave. Whoever finds it at `until` or above calls `enter`; `bits` are good below it."""

    __slots__ = ("bits", "until")

    def __init__(self) -> None:
        self.bits, self.until = 0.0, -1.0

    def enter(self, count: float, spread: Spread, weight: float) -> None:
        """Look them up, as `spread.bits(count, weight)` has them."""
        place = place_of(count)
        # A little below where the next one begins: a look too many is no mistake, one too few would be.
        self.bits, self.until = spread.at(place, weight), size_of(place + 1) * (1 - 1e-9)


class Names(dict[str, list[float]]):
    """What was met, how often, and first and last when: name -> [weight, first, last]. The least is forgotten."""

    __slots__ = ("most", "total")

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.total = most, 0.0

    def fill(self, kept: dict[str, list[float]]) -> None:
        """Go on from what was kept."""
        self.update(kept)
        self.total = sum(row[0] for row in self.values())

    def divide(self, scale: float) -> None:
        """Make all weights small again."""
        for row in self.values():
            row[0] /= scale
        self.total /= scale

    def add(self, name: str, weight: float, now: float) -> None:
        row = self.get(name)
        self.total += weight
        if row is not None:
            row[0] += weight
            row[2] = now
            return
        if len(self) >= self.most:
            # A new name each time is what a flood looks like: who was met longest ago is found without a call for each.
            oldest = min(map(_LAST, self.values()))
            least = min((known for known, row in self.items() if row[2] == oldest), key=lambda known: self[known][0])
            self.total -= self.pop(least)[0]
        self[name] = [weight, now, now]

    def unknown(self, weight: float) -> float:
        """The chance that the next one was never met (Good and Turing): the share of those met about once."""
        once = sum(1 for row in self.values() if row[0] < 1.5 * weight)
        return min(0.9, (once + 0.5) * weight / (self.total + weight))


class Steps(dict[str, dict[str, float]]):
    """What follows what: bounded first-order chain, smoothed by how often a thing happens at all."""

    __slots__ = ("most",)

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def add(self, before: str, after: str, weight: float) -> None:
        row = self.get(before)
        if row is None:
            if len(self) >= self.most:
                del self[min(self, key=lambda one: sum(self[one].values()))]
            row = self[before] = {}
        if after not in row and len(row) >= self.most:
            del row[min(row, key=row.__getitem__)]
        row[after] = row.get(after, 0.0) + weight

    def bits(self, before: str, after: str, share: float, weight: float) -> float:
        """-log2 of the chance of this step. `share`: how likely `after` is anywhere."""
        row, rest = self.get(before, {}), 3.0 * weight
        return -log2((row.get(after, 0.0) + rest * max(share, 1e-4)) / (sum(row.values()) + rest))


def hour_bits(hours: list[float], place: int) -> float:
    """How unusual this hour is: -log2 of its share against an even day, neighbours counting for half."""
    total = sum(hours)
    if total <= 0:
        return 0.0
    base = place // 24 * 24
    here, other = place - base, 24 - base
    near = sum(hours[base + (here + away) % 24] * (1.0 if away == 0 else 0.5) for away in (-1, 0, 1)) / 2
    near += (0.25 if other else 0.1) * hours[other + here]  # who works at this hour on other days may today
    return max(0.0, -log2(24 * (near + 0.002 * total) / (total * 1.048)))
