"""The followers of this process's log: one thread each, a cursor each, and what happens when one stays behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from limen.adapters.dead_letters import DeadLetters
from limen.adapters.metrics_http import MetricsServer
from limen.adapters.sinks import open_sink
from limen.audit.export import OWN, Entry, Tolerance
from limen.audit.exposition import Counts, Gauge
from limen.audit.follow import Course, Lane, Record, Standing
from limen.audit.note import VerifierKey
from limen.core.events import Event, Watch
from limen.core.faults import DependencyFault
from limen.core.ports import Table

if TYPE_CHECKING:
    from limen.audit.follow_settings import FollowerSettings
    from limen.config.model import Config
    from limen.storage import State

_LOOK: Final = 0.5  # seconds between looks at how far behind they are
_END: Final = 2.0  # seconds all of them together have to come to their end
_CLAIMED: Final = 60.0  # seconds a replica's name outlives it
DEAD: Final = "dead-letters"  # directory beside the log


class Exporter:
    """Runs the lanes of one process. `hold` is told why no call may be made, "" when they may."""

    def __init__(
        self,
        lanes: Sequence[tuple[Lane, str, Tolerance]],
        record: Record,
        say: Callable[[str], None],
        hold: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lanes, self._record, self._say, self._hold, self._clock = lanes, record, say, hold, clock
        self._stop = threading.Event()
        self._ended = ""

    async def run(self) -> None:
        """Until cancelled. Raises DependencyFault when the log cannot be written or a thread ended."""
        threads = [
            threading.Thread(target=self._follow, args=(lane, name), name=f"limen-{name}", daemon=True)
            for lane, name, _ in self._lanes
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._ended:
                self.look()
                await asyncio.sleep(_LOOK)
        finally:
            # A sink that is being waited for does not hold up the end: its batch is sent again by the next process.
            self._stop.set()
            for thread in threads:
                await asyncio.to_thread(thread.join, _END / len(threads))
        raise DependencyFault("followers", self._ended, retryable=False)

    def standings(self) -> dict[str, Standing]:
        """How each of them is, by name."""
        return {name: lane.standing for lane, name, _ in self._lanes}

    def _follow(self, lane: Lane, name: str) -> None:
        try:
            wait = 0.0
            while not self._stop.wait(wait):
                begun = time.thread_time()
                # Calls come first: it rests at least as long as it used the interpreter.
                wait = max(lane.turn(), time.thread_time() - begun)
        except BaseException as error:  # noqa: BLE001 - `run` tells: a thread that ends silently exports nothing for ever
            self._ended = f"{name}: {type(error).__name__}: {error}"
        finally:
            lane.close()

    def look(self) -> None:
        """Compare each with its limit. Raises DependencyFault when a change cannot be recorded."""
        now, held = self._clock(), list[str]()
        for lane, name, limit in self._lanes:
            standing = lane.standing
            records, seconds = standing.lag(now)
            behind = limit.exceeded(records, seconds)
            if behind and limit.refuse:
                held.append(name)
            if behind != lane.behind:
                self._tell(name, behind, records, seconds, standing, limit)
                lane.behind = behind
        self._hold(f"follower {', '.join(held)} is too far behind" if held else "")

    def _tell(
        self, name: str, behind: bool, records: int, seconds: float, standing: Standing, limit: Tolerance
    ) -> None:
        severity = ("high" if limit.refuse else "medium") if behind else "info"
        told = {"act": "behind" if behind else "recovered", "name": name, "records": records}
        more = {"behind_s": round(seconds, 1), "refusing": behind and limit.refuse, "severity": severity}
        self._record(OWN, {**told, **more, "detail": standing.error[:300] if behind else ""})
        self._say(f"follower {name}: {f'{records} records behind: {standing.error}' if behind else 'has caught up'}")


def open_exporter(
    config: Config,
    state: State,
    record: Record,
    say: Callable[[str], None],
    hold: Callable[[str], None],
    key: VerifierKey,
) -> Exporter:
    """One lane for each follower of the configuration. `key` signs the log, and is named after it as no other
    replica's is.

    Raises ConfigFault when a sink needs what is not installed, DependencyFault.
    """
    lanes = [(_lane(config, one, state.cursors, record, key), one.name, one.limit) for one in config.audit.followers]
    return Exporter(lanes, record, say, hold)


def _lane(config: Config, settings: FollowerSettings, cursors: Table, record: Record, key: VerifierKey) -> Lane:
    path, log = config.audit.path, key.name
    course = Course(path, key, settings.name, settings.selection, settings.batch, settings.since)
    letters = DeadLetters(path.with_name(DEAD) / f"{settings.name}.jsonl")
    return Lane(course, open_sink(settings, log), cursors, partial(_dead, letters), record)


def _dead(letters: DeadLetters, entry: Entry, reason: str) -> None:
    letters.put({"id": entry.id, "leaf": entry.leaf, "index": entry.event.index, "reason": reason}, entry.raw)


class _Counted:
    """Implements events.Watch for the metrics."""

    name = "metrics"

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def see(self, event: Event) -> None:
        self._counts.see(event)

    def settle(self, now: float) -> None:
        """Nothing is kept: counts begin anew with each process, as their readers expect."""


class Ledger(Protocol):
    """The part of the ledger that is measured."""

    @property
    def size(self) -> int: ...
    @property
    def healthy(self) -> bool: ...


def open_metrics(
    config: Config, exporter: Exporter, ledger: Ledger
) -> tuple[list[Watch], list[Callable[[], Coroutine[Any, Any, None]]]]:
    """Who counts, and what serves the counts; nothing where the configuration names no address."""
    if config.audit.metrics is None:
        return [], []
    counts = Counts(config.servers)

    def text() -> str:
        return counts.render(gauges(exporter.standings(), ledger, time.time()))

    return [_Counted(counts)], [MetricsServer(*config.audit.metrics.address, text).run]


def gauges(standings: Mapping[str, Standing], ledger: Ledger, now: float) -> Iterator[Gauge]:
    """How the log and its followers are."""
    yield Gauge("limen_log_records", "Records of the log.", (), ledger.size)
    yield Gauge("limen_log_healthy", "1: a record would be taken now.", (), ledger.healthy)
    lags = {name: standing.lag(now) for name, standing in standings.items()}
    for name, (records, _) in lags.items():
        yield Gauge("limen_follower_lag_records", "Signed records it has not got.", (("follower", name),), records)
    for name, (_, seconds) in lags.items():
        yield Gauge("limen_follower_lag_seconds", "Age of the oldest of them.", (("follower", name),), seconds)
    for name, standing in standings.items():
        yield Gauge("limen_follower_dead_letters", "Records it would not take.", (("follower", name),), standing.dead)
