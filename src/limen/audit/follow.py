"""One follower of the log: its place, its batches, and how it is."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from limen.audit.export import OWN, Entry, Selection, Sink, Strikes, delay, deliver, read_entries
from limen.audit.note import NoteError, VerifierKey
from limen.audit.pruned import read_on
from limen.audit.succession import signed
from limen.core.faults import DependencyFault
from limen.core.ports import Table

Record = Callable[[str, Mapping[str, Any]], None]  # puts an event on record. Raises DependencyFault.
_IDLE: Final = 0.5  # seconds between looks for newer records
_LOOKED: Final = 4096  # records read in one turn, wanted or not
_TOLD: Final = 1.0  # seconds between two states told to commands


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
    """What one follower follows: a log, which of its events, how many at a time. `key` signs the log or did, and is
    named after it."""

    directory: Path
    key: VerifierKey
    name: str
    selection: Selection
    batch: int
    since: str = "beginning"

    @property
    def log(self) -> str:
        """Its name."""
        return self.key.name


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
        self._change(size=size)
        entries, after = self._read(size)
        self._change(looked=now)
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
        records = islice(read_on(course.directory, course.key, start, size), max(0, size - start))
        try:
            return read_entries(records, course.log, size, course.selection.wants, course.batch, _LOOKED)
        except OSError as error:
            raise DependencyFault("audit", f"the log cannot be read: {error}") from None

    def _signed(self) -> int:
        """How many records are under a signed checkpoint. One that must not be believed moves nothing."""
        try:
            return signed(self._course.directory, self._course.key).checkpoint.size
        except NoteError as fault:
            raise DependencyFault("audit", f"the checkpoint must not be believed: {fault}") from None

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
        self._change(failures=failures, error=error[:500], failed=now)
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
