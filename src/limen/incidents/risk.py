"""Many suspicions -> one risk between 0 and 1: how they fade, how repeats add up, how sources are combined.

A signal halves every `seconds`. Within one source the strongest counts, and repeats raise it to at most twice that: a
hundred faint hints of one kind are not a proof. Sources are independent evidence, 1 - (1 - a)(1 - b)... So one more
signal, or a stronger one, can raise a risk and never lower it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import log2
from types import MappingProxyType
from typing import Final

from limen.core.events import Signal

FAINT: Final = 0.01  # what has faded to this is forgotten
CERTAIN: Final = 0.95  # repeats alone go no further
REPEAT: Final = 0.5  # how much of a repeat is news


def left(signal: Signal, now: float) -> float:
    """What a signal is worth now. One from the future (another machine's clock) is worth all it ever was."""
    return float(signal.score * 0.5 ** (max(0.0, now - signal.at) / signal.seconds))


def ends(signal: Signal) -> float:
    """When it will have faded, seconds since the epoch."""
    return signal.at + signal.seconds * max(0.0, log2(signal.score / FAINT)) if signal.score > 0 else signal.at


def together(scores: Iterable[float]) -> float:
    """Several of one source."""
    ordered = sorted(scores, reverse=True)
    if not ordered:
        return 0.0
    strongest, new = ordered[0], 1.0
    for one in ordered[1:]:
        new *= 1.0 - REPEAT * one
    most = max(strongest, min(CERTAIN, 2 * strongest))
    return strongest + (most - strongest) * (1.0 - new)


# What statistics may do alone. Honest people have unusual days: their calls are held for a person, never refused. And a
# server, tool or client is shared by many, who are not to be held up because it is unusual: that takes a second source.
_UNUSUAL: Final[Mapping[str, float]] = MappingProxyType({"caller": 0.79, "session": 0.79})
_SHARED: Final = 0.49


def worth(kind: str, source: str, scores: Iterable[float]) -> float:
    """What the signals of one source are worth together, about one subject of this kind."""
    found = together(scores)
    return min(found, _UNUSUAL.get(kind, _SHARED)) if source == "behaviour" else found


def fused(parts: Iterable[float]) -> float:
    """Several sources."""
    harmless = 1.0
    for part in sorted(parts):  # always in one order: equal parts give the same last digit
        harmless *= 1.0 - part
    return round(1.0 - harmless, 12)  # 1 - (1 - 0.2) is 0.2: reaching a limit is enough


def by_source(signals: Iterable[Signal], now: float) -> dict[str, list[float]]:
    """Source -> what its signals are worth now."""
    found: dict[str, list[float]] = {}
    for one in signals:
        if (worth := left(one, now)) >= FAINT:
            found.setdefault(one.source, []).append(worth)
    return found


# What one caller can bring about a server, tool or client that others use as well: bad answers to what was asked, names
# that were asked for, numbers. All of it together stays below asking; what the server does by itself comes on top.
_BY_ANYBODY: Final = frozenset({"content", "behaviour", "sandbox", "decoy"})


def combined(parts: Mapping[str, float], shared: Collection[str]) -> float:
    """The risk of what each source brings. `shared`: sources that speak about what many use, and of nobody else."""
    caused = fused(part for source, part in parts.items() if source in shared and source in _BY_ANYBODY)
    others = [part for source, part in parts.items() if not (source in shared and source in _BY_ANYBODY)]
    return fused([*others, min(caused, _SHARED)])


def risk_of(signals: Iterable[Signal], now: float) -> float:
    """The risk of one subject."""
    every = list(signals)
    kind = every[0].subject.kind if every else ""
    parts = {source: worth(kind, source, scores) for source, scores in by_source(every, now).items()}
    return combined(parts, () if kind in _UNUSUAL else parts)


@dataclass(frozen=True, slots=True)
class Limits:
    """Risk from which a call is recorded and watched closely, held for a person, refused."""

    record: float
    hold: float
    block: float

    def stricter(self, other: Limits) -> Limits:
        """The lower of each: neither makes the other looser."""
        return Limits(min(self.record, other.record), min(self.hold, other.hold), min(self.block, other.block))


REFERENCE: Final = Limits(0.2, 0.5, 0.8)


def rescaled(risk: float, own: Limits) -> float:
    """The risk of a call's own content on the common scale. Where an operator lets the content of a tool go further
    (`own` above the reference), what just passes there just passes here; stricter limits change nothing."""
    low, result = 0.0, 0.0
    points = (
        (max(own.record, REFERENCE.record), REFERENCE.record),
        (max(own.hold, REFERENCE.hold), REFERENCE.hold),
        (max(own.block, REFERENCE.block), REFERENCE.block),
        (1.0, 1.0),
    )
    for above, reached in points:
        if risk <= above:
            # What is not above a limit of content is below it here, where reaching it is enough.
            share = (risk - low) / (above - low) if above > low else 0.0
            return (
                min(result + share * (reached - result), reached - 1e-9)
                if reached < 1.0
                else max(result, result + share * (reached - result))
            )
        low, result = above, reached
    return 1.0


def explained(parts: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """For the record: strongest first, three digits."""
    return tuple((name, round(part, 3)) for name, part in sorted(parts.items(), key=lambda item: (-item[1], item[0])))
