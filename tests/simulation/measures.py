"""Runs consumers of events over simulated months and says what they found: delay, precision, recall, area under curve.

A consumer is a Watch that was made with the `signal` it is to call; behaviour is one, risk and alerts on top of it are
others. Suspicions under `FLOOR` are of interest too, so behaviour is measured below what it would tell.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import orjson

from contracts.memory import MemoryTable
from limen.audit.events import read_event
from limen.core.events import Event, Signal, Watch
from limen.detection.behavior import Behavior
from limen.detection.behavior_model import Weights
from limen.detection.behavior_profile import Oddity
from limen.detection.behavior_settings import BehaviorSettings
from limen.vigil import as_fields
from simulation.injected import Attack, hostile
from simulation.organisations import DAY, ISSUER, START, Call, Organisation, calls

ALERT = 0.5
Others = tuple[Callable[[Callable[[Signal], None]], Watch], ...]


def events_of(made: list[Call], reached: list[tuple[float, str, str]], index: int, log: str) -> Iterator[Event]:
    """What the log would say of these calls: their outcomes, self-contained, and connections of servers."""
    rows: list[tuple[float, Call | tuple[float, str, str]]] = [(one.at + one.ms / 1000, one) for one in made]
    rows += [(one[0], one) for one in reached]
    rows.sort(key=lambda row: row[0])
    for at, one in rows:
        index += 1
        if isinstance(one, tuple):
            record = {"t": "egress", "what": "allowed", "name": one[2]}
            yield Event(log, index, at, "egress.allowed", "sandbox", server=one[1], record=record)
            continue
        yield Event(
            log, index, at, "call.refused" if one.refused else "call.outcome", "call",
            issuer=ISSUER, subject=one.subject, client=one.client, agent=one.agent, peer=one.peer,
            server=one.tool.server, method="tools/call", name=one.tool.name, args=one.args,
            decision="deny" if one.refused else "allow", reason=one.reason,
            ms=one.ms, received=one.received, sent=one.sent,
        )  # fmt: skip


class Measured(Behavior):
    """Behaviour with its levels noted, also those nobody would be told of."""

    def note(self, into: dict[tuple[str, str, int], tuple[float, dict[str, float]]]) -> Measured:
        self._noted = into
        return self

    def _say(self, entity: object, oddities: list[Oddity], event: Event) -> None:
        super()._say(entity, oddities, event)  # type: ignore[arg-type]
        profile = entity.profile  # type: ignore[attr-defined]
        bits = entity.levels.bits(event.at)  # type: ignore[attr-defined]
        score = self._weights["people" if profile.people else "things"].score(bits)
        place = (profile.kind, profile.value, int((event.at - START) // DAY))
        if place not in self._noted or score > self._noted[place][0]:
            self._noted[place] = (score, bits)


@dataclass
class Result:
    """Of one run. `days`: for each subject and day the highest score, and its bits; `signals` as they were said."""

    organisation: Organisation
    attacks: list[Attack]
    first: int
    last: int
    events: int = 0
    seconds: float = 0.0
    signals: list[Signal] = field(default_factory=list)
    days: dict[tuple[str, str, int], tuple[float, dict[str, float]]] = field(default_factory=dict)
    others: list[Watch] = field(default_factory=list)


def run(
    organisation: Organisation,
    seed: int,
    first: int,
    last: int,
    attacks: list[Attack],
    weights: dict[str, Weights] | None = None,
    others: Others = (),
) -> Result:
    """Days 0 to `last`; only what happens from `first` on is judged. `others`: consumers besides behaviour, who
    are also shown what it says, as they read it back from the log."""
    result = Result(organisation, attacks, first, last)
    settings = BehaviorSettings(entities=20_000)
    said: deque[Signal] = deque()  # to be read back, as from the log
    behaviour = Measured(MemoryTable(), settings, said.append, "sim", weights).note(result.days)
    result.others = [make(said.append) for make in others]
    watches: list[Watch] = [behaviour, *result.others]
    index, released = 0, {one.since: [] for one in organisation.tools.values()}
    for tool in organisation.tools.values():
        released[tool.since].append(tool)
    for day, usual in zip(range(last), calls(organisation, seed, 0, last), strict=True):
        made, reached = hostile(organisation, attacks, seed, day, usual)
        day_events = list(events_of(made, reached, index, "sim"))
        for tool in released.get(day, ()):
            at, index = START + day * DAY, index + 1
            approved = Event("sim", index, at, "catalog.approved", "catalog", server=tool.server, name=tool.name)
            day_events.insert(0, approved)
        begun = time.perf_counter()
        for event in day_events:
            for watch in watches:
                watch.see(event)
            while said:
                result.signals.append(said.popleft())
                if others:
                    again = signalled(result.signals[-1], len(result.signals), event.at)
                    for watch in watches:
                        watch.see(again)
        result.seconds += time.perf_counter() - begun
        index += len(day_events)
        result.events += len(day_events)
    return result


def signalled(signal: Signal, index: int, at: float) -> Event:
    """A suspicion as it is read from the log."""
    return read_event("said", index, orjson.dumps({"t": "signal", "ts": at, **as_fields(signal)}))


def of(attack: Attack, kind: str, value: str, at: float) -> bool:
    """Whether a suspicion then and there is about this attack. Half a day after its last act it is not."""
    last = max(attack.days_seen, default=-1)
    return (kind, value) in attack.victims and attack.begun and attack.begun <= at < START + (last + 1.5) * DAY  # type: ignore[return-value]


def measure(result: Result, threshold: float = ALERT) -> dict[str, object]:
    """Recall, delay and area for each kind and strength; precision over all; alerts that were for nothing, by day."""
    judged = [one for one in result.signals if one.at >= START + result.first * DAY and one.score >= threshold]
    judged = [one for one in judged if one.subject.kind != "client"]
    found: dict[str, list[object]] = defaultdict(list)
    for attack in result.attacks:
        if not attack.begun:
            continue
        times = [one.at for one in judged if of(attack, one.subject.kind, one.subject.value, one.at)]
        found[f"{attack.kind}/{attack.strength}"].append(min(times) - attack.begun if times else None)
    groups: set[tuple[str, str, int]] = set()
    true: set[tuple[str, str, int]] = set()
    for one in judged:
        place = (one.subject.kind, one.subject.value, int((one.at - START) // DAY))
        groups.add(place)
        if any(of(attack, place[0], place[1], one.at) for attack in result.attacks):
            true.add(place)
    return {
        "found": dict(found),
        "alerts": len(groups),
        "true": len(true),
        "clean_a_day": (len(groups) - len(true)) / (result.last - result.first),
        "areas": areas(result),
        "microseconds": 1e6 * result.seconds / max(1, result.events),
    }


def areas(result: Result) -> dict[str, float]:
    """ROC area for each kind and strength: a subject's hostile days against all other days of subjects of that kind."""
    usual: dict[str, list[float]] = {"caller": [], "server": []}
    bad: dict[str, list[float]] = defaultdict(list)
    hostile_days = {
        (kind, value, day): f"{attack.kind}/{attack.strength}"
        for attack in result.attacks
        for kind, value in attack.victims
        for day in attack.days_seen
        if kind in usual
    }
    seen = set()
    for (kind, value, day), (score, _) in result.days.items():
        if kind in usual and day >= result.first:
            name = hostile_days.get((kind, value, day))
            seen.add((kind, value, day))
            (usual[kind] if name is None else bad[name]).append(score)
    for place, name in hostile_days.items():
        if place not in seen:
            bad[name].append(0.0)
    quiet = {
        "caller": len(result.organisation.people),
        "server": len({t.server for t in result.organisation.tools.values()}),
    }
    span = result.last - result.first
    return {
        name: area(scores, usual[_kind(name)], max(0, int(quiet[_kind(name)] * span * 0.6) - len(usual[_kind(name)])))
        for name, scores in bad.items()
    }


def _kind(name: str) -> str:
    return "server" if name.startswith("server") else "caller"


def area(bad: list[float], usual: list[float], silent: int) -> float:
    """Chance that a hostile day scores above another one; `silent`: of the others, days nothing was odd on at all."""
    rows = sorted([(score, 1) for score in bad] + [(score, 0) for score in usual] + [(0.0, 0)] * silent)
    wins, below, at = 0.0, 0, 0
    while at < len(rows):
        end = at
        while end < len(rows) and rows[end][0] == rows[at][0]:
            end += 1
        tied = sum(1 for row in rows[at:end] if row[1] == 0)
        wins += (end - at - tied) * (below + tied / 2)
        below += tied
        at = end
    return wins / max(1, len(bad) * below)
