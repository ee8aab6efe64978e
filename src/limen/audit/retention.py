"""How long records are kept, and which may go now.

A bundle of 256 records goes when all of this is so: it is whole and under a signed checkpoint, older than `days` (or
the log is larger than `size`, and it is older than `least_days`), no hold covers any of its records, and everybody who
follows the log has read it. What cannot be read or told counts as a reason to keep.

Age is what the log has lived through since, not what the clock says now: from one record looked at to the next (every
sixteenth is), and from the last one to now, at most a week counts. So a clock that jumps ahead by years costs a week,
not the log (OP-10), and a clock set back costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field

from limen.audit.holds import Hold, of_incident
from limen.audit.pruned import Pruned
from limen.audit.read import load, read
from limen.audit.tiles import ENTRIES, WIDTH, split_bundle, tile_path

DAY: Final = 86_400.0
LEAP: Final = 7 * DAY  # the most that counts as passed between two looks at the clock
_STEP: Final = 16


class RetentionSettings(BaseModel):
    """What may be removed of the log, and after which time. By default nothing ever is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: Annotated[float, Field(ge=1, le=36_500)] | None = Field(
        default=None, description="records older than this are removed; default: never"
    )
    size: Annotated[int, Field(ge=1 << 20)] | None = Field(
        default=None, description="bytes of records beyond which the oldest are removed; default: no bound"
    )
    least_days: Annotated[float, Field(ge=1, le=36_500)] = Field(
        default=30, description="whatever the size, nothing younger is removed: a flood must not push out evidence"
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """Bundles that may go, as ranges first to last - 1, how many bytes they hold, and why older ones stay."""

    ranges: tuple[tuple[int, int], ...] = ()
    freed: int = 0
    stays: Mapping[str, int] = field(default_factory=dict)

    @property
    def bundles(self) -> int:
        """How many go."""
        return sum(last - first for first, last in self.ranges)

    def within(self, ranges: Sequence[Sequence[int]]) -> Plan:
        """Only what these ranges name as well."""
        both = [
            (max(first, other[0]), min(last, other[1])) for first, last in self.ranges for other in ranges
        ]  # both are short
        return Plan(tuple(sorted((first, last) for first, last in both if first < last)), self.freed, self.stays)


@dataclass(frozen=True, slots=True)
class _Bundle:
    index: int
    size: int  # bytes
    moments: tuple[float, ...]  # when records of it were written, the last of them in any case


def plan(
    directory: Path,
    signed: int,
    settings: RetentionSettings,
    holds: Sequence[Hold],
    cursors: Mapping[str, int],
    pruned: Pruned,
    now: float,
) -> Plan:
    """What may go of the first `signed` records. `cursors`: how far each follower has read. Raises DependencyFault."""
    if settings.days is None and settings.size is None:
        return Plan()
    found, holding = list(_bundles(directory, signed, pruned)), Held(directory)
    ages = _ages(found, _last(directory, signed), now)
    total = sum(one.size for one in found)
    may, freed, stays = list[int](), 0, Counter[str]()
    for one, age in zip(found, ages, strict=True):
        large = settings.size is not None and total - freed > settings.size and age > settings.least_days * DAY
        if not large and (settings.days is None or age <= settings.days * DAY):
            continue
        late = sorted(name for name, cursor in cursors.items() if cursor < (one.index + 1) * WIDTH)
        held = [] if late else holding.by(one.index, holds)
        if late or held:
            stays.update([f"not read by {late[0]}" if late else f"hold {held[0]}"])
            continue
        may.append(one.index)
        freed += one.size
    return Plan(tuple(joined(may)), freed, dict(stays))


def _bundles(directory: Path, signed: int, pruned: Pruned) -> Iterator[_Bundle]:
    index = 0
    while ((index := pruned.until(index)) + 1) * WIDTH <= signed:
        data = load(directory, tile_path(ENTRIES, index))
        if data is not None:  # else it is still in the journal
            records = split_bundle(data)[0]
            yield _Bundle(index, len(data), tuple(_moments(records[_STEP - 1 :: _STEP])))
        index += 1


def _ages(bundles: Sequence[_Bundle], last: Sequence[float], now: float) -> list[float]:
    """Seconds each has lived through since it was whole. One without any time is as young as the one after it."""
    ages, age, after = list[float](), 0.0, now
    for moments in (last, *(one.moments for one in reversed(bundles))):
        for place, at in enumerate(reversed(moments)):
            age += min(max(after - at, 0.0), LEAP)
            after = at
            if place == 0:
                ages.append(age)
        if not moments:
            ages.append(age)
    return ages[:0:-1]


def _last(directory: Path, signed: int) -> list[float]:
    """When the records of the bundle that is not whole were written, signed or not."""
    return list(_moments([record for _, record in read(directory, signed - signed % WIDTH)]))


def _moments(records: Sequence[bytes]) -> Iterator[float]:
    for record in records:
        at = _parsed(record).get("ts")
        if isinstance(at, int | float) and not isinstance(at, bool):
            yield float(at)


def _parsed(record: bytes) -> Mapping[str, Any]:
    try:
        found = orjson.loads(record)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _named(directory: Path, holds: Sequence[Hold]) -> Mapping[str, frozenset[str] | None]:
    """Of each held incident: the events (log:index) and calls (ref) that its records name. None: nothing is known of it
    here, so everything may belong to it."""
    wanted = {hold.value for hold in holds if hold.kind == "incident"}
    found: dict[str, set[str]] = {}
    for _, raw in read(directory) if wanted else ():
        record = _parsed(raw)
        for incident in wanted:
            if of_incident(record, incident):
                events = record.get("events")
                found.setdefault(incident, set()).update(map(str, events if isinstance(events, list) else ()))
    return {incident: frozenset(found[incident]) if incident in found else None for incident in wanted}


class Held:
    """Which bundles of a log are held. What holds are asked about may change from one question to the next."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._asked: Sequence[Hold] = ()
        self._named: Mapping[str, frozenset[str] | None] = {}

    def by(self, index: int, holds: Sequence[Hold]) -> list[str]:
        """The holds that cover a record of this bundle. One that cannot be read is covered by every hold. Raises
        DependencyFault."""
        if not holds:
            return []
        if holds != self._asked:
            self._asked, self._named = holds, _named(self._directory, holds)
        data = load(self._directory, tile_path(ENTRIES, index)) or b""
        covering = list[str]()
        for hold in holds:
            events = self._named.get(hold.value, frozenset()) if hold.kind == "incident" else frozenset[str]()
            for place, raw in enumerate(split_bundle(data)[0]):
                record, number = _parsed(raw), index * WIDTH + place
                told = events is None or any(one.endswith(f":{number}") or one == record.get("ref") for one in events)
                if not record or told or hold.covers(record):
                    covering.append(hold.id)
                    break
        return covering


def unheld(directory: Path, ranges: Sequence[tuple[int, int]], holds: Sequence[Hold]) -> list[tuple[int, int]]:
    """What of these ranges no hold covers. Raises DependencyFault."""
    held = Held(directory)
    free = (index for first, last in ranges for index in range(first, last) if not held.by(index, holds))
    return joined(free)


def joined(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, as first and one more than last."""
    found = list[tuple[int, int]]()
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found
