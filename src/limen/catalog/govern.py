"""Who must say yes, for how long, with which words, and what nobody has to be asked about.

One gate for every way into the catalog (command, import, interface, lock, automatic): `source` is recorded and never
loosens what is asked for here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from limen.catalog.findings import LEVELS, Assessment, Detector, Finding, level_of
from limen.catalog.neighbours import Neighbours

Assess = Callable[..., Assessment]

SOURCES: Final = ("cli", "import", "api", "lock")  # "auto" is ours alone
AUTO: Final = "auto"
AUTOMATON: Final = "limen"  # the name automatic approvals carry; no person may use it
MAX_APPROVERS: Final = 16
_GROWTH: Final = 20  # rebuild what names are compared with when a twentieth of them is new
_NOT_NAMES: Final = frozenset({"set", "instructions"})


class NothingPending(ValueError):
    """There is nothing to decide: unknown, held, or changed since it was looked at. The message is for the operator."""


class NeedsReason(ValueError):
    """A change of this risk is not decided without saying why. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class Governance:
    """The rules of approval. Raises ValueError for values that mean nothing.

    approvers: distinct people who must approve the same digest. expires: seconds an approval is good for, None: for
    ever. reason_from: the level of risk from which a reason is required. auto_accept: the highest level of changes to
    approved definitions that nobody is asked about; first contact is never accepted so.
    """

    approvers: int = 1
    expires: float | None = None
    reason_from: str = "high"
    auto_accept: str = "none"

    def __post_init__(self) -> None:
        if type(self.approvers) is not int or not 1 <= self.approvers <= MAX_APPROVERS:
            raise ValueError(f"approvers is 1 to {MAX_APPROVERS}")
        if self.expires is not None and not 0 < self.expires < 1e10:
            raise ValueError("expires is a number of seconds, more than none")
        if self.reason_from not in LEVELS:
            raise ValueError(f"reason_from is one of {', '.join(LEVELS)}")
        if self.auto_accept not in ("none", "descriptive"):
            raise ValueError("auto_accept is none or descriptive")

    def until(self, at: float) -> float:
        """When an approval given at this time ends, in seconds since the epoch; 0: never."""
        return at + self.expires if self.expires is not None else 0.0

    def ends(self, at: float, recorded: float) -> float:
        """The same for an approval that recorded an end: rules made stricter since then apply to it as well."""
        ends = [one for one in (recorded, self.until(at)) if one]
        return min(ends, default=0.0)


def at_least(level: str, floor: str) -> bool:
    """Whether a level reaches another. A level nobody knows counts as the highest."""
    return (LEVELS.index(level) if level in LEVELS else len(LEVELS)) >= LEVELS.index(floor)


def descriptive(assessed: Assessment) -> bool:
    """Whether nothing in an assessment is more than descriptive, neither the whole nor any finding."""
    levels = [assessed.level, *(level_of(finding.weight, found=True) for finding in assessed.findings)]
    return not any(at_least(level, "low") for level in levels)


class Judge:
    """Risk of a change, against the names known at the moment. Thread-safe."""

    def __init__(
        self, detectors: Sequence[Detector], assess: Assess | None, names: Callable[[], Iterable[Any]]
    ) -> None:
        """`names` lists every (server, kind, name) known; it is asked once, and told of later ones by `met`."""
        self._detectors, self._assess, self._list = tuple(detectors), assess, names
        self._names: set[tuple[str, str, str]] | None = None
        self._early: set[tuple[str, str, str]] = set()  # met before the names were listed
        self._neighbours: Neighbours | None = None
        self._size, self._lock = 0, threading.Lock()

    def met(self, names: Iterable[tuple[str, str, str]]) -> None:
        """These names are known too."""
        with self._lock:
            known = self._early if self._names is None else self._names
            known.update((one[0], one[1], one[2]) for one in names if one[1] not in _NOT_NAMES)

    def __call__(
        self, server: str, kind: str, name: str, before: bytes | None, after: bytes, *, exact: bool = True
    ) -> Assessment:
        """The assessment. With `exact` against every name known, else a twentieth of them may be missing.

        A detector that fails makes the change critical: nothing passes because a check crashed.
        """
        from limen.catalog.risk import assess

        neighbours = self._near(exact)
        try:
            return (self._assess or assess)(server, kind, name, before, after, neighbours, self._detectors)
        except Exception as error:  # noqa: BLE001 - a crashing check is the worst result, not none
            detail = f"the assessment failed: {type(error).__name__}"
            return Assessment(1.0, "critical", (Finding("assess.failed", 1.0, "", detail),))

    def _near(self, exact: bool) -> Neighbours:
        with self._lock:
            if self._names is None:
                listed = {(one[0], one[1], one[2]) for one in self._list() if one[1] not in _NOT_NAMES}
                self._names, self._early = self._early | listed, set()
            new = len(self._names) - self._size
            if self._neighbours is None or new > (0 if exact else self._size // _GROWTH):
                self._neighbours, self._size = Neighbours(self._names), len(self._names)
            return self._neighbours
