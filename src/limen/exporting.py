"""The followers of this process's log: one thread each, a cursor each, and what happens when one stays behind."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from limen.adapters.dead_letters import DeadLetters
from limen.adapters.metrics_http import MetricsServer
from limen.adapters.sinks import open_sink
from limen.audit.export import OWN, Entry, Limit, Selection, Sink, Strikes, delay, deliver, read_entries
from limen.audit.exposition import Counts, Gauge
from limen.audit.publish import CHECKPOINT
from limen.audit.read import load, read
from limen.core.events import Event, Watch
from limen.core.faults import DependencyFault
from limen.core.ports import Table

if TYPE_CHECKING:
    from limen.audit.follow_settings import FollowerSettings
    from limen.config.model import Config
    from limen.storage import State

Record = Callable[[str, Mapping[str, Any]], None]  # puts an event on record. Raises DependencyFault.
_IDLE: Final = 0.5  # seconds between looks for newer records
_LOOK: Final = 0.5  # seconds between looks at how far behind they are
_LOOKED: Final = 4096  # records read in one turn, wanted or not
_TOLD: Final = 1.0  # seconds between two states told to commands
DEAD: Final = "dead-letters"  # directory beside the log


def cursor_key(log: str, name: str) -> str:
    """Where a follower's place in a log is kept, in the table `cursors`: the number of the next record, as text. What
    is not behind every cursor must not be pruned."""
    return f"follow/{log}/{name}"


def state_key(log: str, name: str) -> str:
    """Where a follower's Standing is kept for commands, as JSON."""
    return f"followed/{log}/{name}"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a follower is. Times are seconds since the epoch, 0: never."""

    next: int = 0  # record it will look at next
    size: int = 0  # records of the log that are signed
    oldest: float = 0.0  # when the first record that waits was written; 0: none waits
    looked: float = 0.0
    sent: int = 0  # records it was done with, those put aside as well
    dead: int = 0
    success: float = 0.0
    error: str = ""
    failed: float = 0.0
    failures: int = 0  # in a row
    behind: bool = False

    def lag(self, now: float) -> tuple[int, float]:
        """Records and seconds. One that does not even look is behind since it last did."""
        waiting = self.size - self.next
        since = self.oldest if self.oldest and waiting else self.looked
        return waiting, max(0.0, now - since) if since else 0.0


@dataclass(frozen=True, slots=True)
class Course:
    """What one follower follows: a log's directory and name, which of its events, how many at a time."""

    directory: Path
    log: str
    name: str
    selection: Selection
    batch: int
    since: str = "beginning"


class Lane:
    """One follower. `turn` does one batch and is called in one thread; `standing` is replaced whole, for any thread."""

    def __init__(
        self,
        course: Course,
        sink: Sink,
        cursors: Table,
        aside: Callable[[Entry, str], None],
        record: Record,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._course, self._sink, self._cursors, self._aside, self._record = course, sink, cursors, aside, record
        self._clock, self._chance = clock, chance
        self._strikes = Strikes()
        self._started, self._told, self._kept = False, 0.0, -1
        self.behind = False  # as the exporter, in another thread, found
        self.standing = Standing(looked=clock())

    def turn(self) -> float:
        """Send what there is, up to one batch. Returns the seconds to wait before the next turn. Raises nothing that a
        sink, a disk or a database may cause: it is in `standing.error`."""
        try:
            more = self._send()
        except DependencyFault as fault:
            return self._failed(str(fault), fault.retry_after)
        except Exception as error:  # noqa: BLE001 - our own mistake about one sink stops that sink, and is told
            return self._failed(f"{type(error).__name__}: {error}", 0.0)
        self._change(failures=0, error="")
        self._tell()
        return 0.0 if more else _IDLE

    def close(self) -> None:
        self._sink.close()

    def _send(self) -> bool:
        """Returns whether there may be more to do at once."""
        size = self._signed()
        if not self._started:
            self._start(size)
        now, standing = self._clock(), self.standing
        if standing.next > size:
            self._rewind(size)
        self._change(size=size, looked=now)
        entries, after = self._read(size)
        if not entries:
            self._settle(after)
            return after is not None
        self._change(oldest=entries[0].event.at or now)
        for settled in deliver(self._sink, entries, self._strikes, self._put_aside):
            count = sum(1 for one in entries if standing.next <= one.event.index < settled)
            standing = self._change(next=settled, sent=self.standing.sent + count, success=self._clock(), failures=0)
            self._keep()
        self._settle(after)
        return True

    def _read(self, size: int) -> tuple[list[Entry], int | None]:
        course, start = self._course, self.standing.next
        records = islice(read(course.directory, start), max(0, size - start))
        try:
            return read_entries(records, course.log, size, course.selection.wants, course.batch, _LOOKED)
        except OSError as error:
            raise DependencyFault("audit", f"the log cannot be read: {error}") from None

    def _signed(self) -> int:
        """How many records the last checkpoint signs. Our own log: who could forge it could forge its records too."""
        lines = (load(self._course.directory, CHECKPOINT) or b"").split(b"\n")
        return int(lines[1]) if len(lines) > 1 and lines[1].isdigit() else 0

    def _start(self, size: int) -> None:
        raw = self._cursors.get(cursor_key(self._course.log, self._course.name))
        last = self._cursors.get(state_key(self._course.log, self._course.name))
        known = read_standing(last)
        begin = int(raw) if raw else size if self._course.since == "now" else 0
        self._change(next=begin, sent=known.sent, dead=known.dead, success=known.success)
        self.behind = known.behind  # so that a restart tells of the recovery as well
        self._kept = int(raw) if raw else -1
        self._keep()
        self._started = True

    def _rewind(self, size: int) -> None:
        """The log is shorter than what was sent: put back from a copy. What it gets from here on is new."""
        self._tell_log("rewound", next=self.standing.next, size=size, severity="high")
        self._change(next=size)
        self._keep()

    def _settle(self, after: int | None) -> None:
        """Nothing before `after` waits any more; what was not wanted moves the cursor with the next telling."""
        self._change(next=max(self.standing.next, after or 0), oldest=0.0)

    def _keep(self) -> None:
        if self.standing.next != self._kept:
            key = cursor_key(self._course.log, self._course.name)
            self._cursors.put(key, str(self.standing.next).encode())
            self._kept = self.standing.next

    def _put_aside(self, entry: Entry, reason: str) -> None:
        """Raises DependencyFault when that cannot be kept: then the record is not passed over."""
        self._aside(entry, reason)
        self._change(dead=self.standing.dead + 1)
        if entry.event.record.get("t") != OWN:  # else one that refuses these would never be done
            self._tell_log("dead_letter", event=entry.event.id, why=reason[:300], severity="medium")

    def _tell_log(self, act: str, **members: object) -> None:
        self._record(OWN, {"act": act, "name": self._course.name, **members})

    def _failed(self, error: str, asked: float) -> float:
        now, failures = self._clock(), self.standing.failures + 1
        self._change(failures=failures, error=error[:500], failed=now, looked=now)
        self._tell()
        return delay(failures, asked, self._chance())

    def _due(self) -> bool:
        return self._clock() - self._told >= _TOLD

    def _tell(self) -> None:
        """For `limen audit followers`. The cursor is what counts: this may fail."""
        if self._due():
            with suppress(DependencyFault):
                self._keep()
                key = state_key(self._course.log, self._course.name)
                self._cursors.put(key, orjson.dumps(asdict(replace(self.standing, behind=self.behind))))
                self._told = self._clock()

    def _change(self, **members: Any) -> Standing:
        self.standing = replace(self.standing, **members)
        return self.standing


def read_standing(raw: bytes | None) -> Standing:
    """What was told last; of something else, nothing."""
    try:
        found = orjson.loads(raw or b"{}")
        return Standing(**{name: found[name] for name in Standing.__dataclass_fields__ if name in found})
    except (ValueError, TypeError):
        return Standing()


class Exporter:
    """Runs the lanes of one process. `hold` is told why no call may be made, "" when they may."""

    def __init__(
        self,
        lanes: Sequence[tuple[Lane, str, Limit]],
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
        raise DependencyFault("followers", self._ended, retryable=False)

    def standings(self) -> dict[str, Standing]:
        """How each of them is, by name."""
        return {name: lane.standing for lane, name, _ in self._lanes}

    def _follow(self, lane: Lane, name: str) -> None:
        try:
            while not self._stop.wait(lane.turn()):
                pass
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

    def _tell(self, name: str, behind: bool, records: int, seconds: float, standing: Standing, limit: Limit) -> None:
        severity = ("high" if limit.refuse else "medium") if behind else "info"
        told = {"act": "behind" if behind else "recovered", "name": name, "records": records}
        more = {"behind_s": round(seconds, 1), "refusing": behind and limit.refuse, "severity": severity}
        self._record(OWN, {**told, **more, "detail": standing.error[:300] if behind else ""})
        self._say(f"follower {name}: {f'{records} records behind: {standing.error}' if behind else 'has caught up'}")


def open_exporter(
    config: Config, state: State, record: Record, say: Callable[[str], None], hold: Callable[[str], None]
) -> Exporter:
    """One lane for each follower of the configuration. Raises ConfigFault when a sink needs what is not installed."""
    lanes = [(_lane(config, one, state.cursors, record), one.name, one.limit) for one in config.audit.followers]
    return Exporter(lanes, record, say, hold)


def _lane(config: Config, settings: FollowerSettings, cursors: Table, record: Record) -> Lane:
    audit = config.audit
    course = Course(audit.path, audit.name, settings.name, settings.selection, settings.batch, settings.since)
    letters = DeadLetters(audit.path.with_name(DEAD) / f"{settings.name}.jsonl")
    return Lane(course, open_sink(settings, audit.name), cursors, partial(_dead, letters), record)


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
