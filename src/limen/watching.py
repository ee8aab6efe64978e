"""The watching thread: reads this process's own log as it grows and shows every event to those who watch."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

from limen.audit.events import read_event
from limen.audit.note import VerifierKey
from limen.audit.pruned import read_on
from limen.audit.read import CHECKPOINT, load, size_of
from limen.core.events import Event, Watch
from limen.core.faults import DependencyFault
from limen.core.ports import Table

_POLL: Final = 0.25  # seconds
_SETTLE: Final = 1.0
_MOST_SKIPPED: Final = 16  # mistakes in a row; then nothing is watched any more, and the gateway ends
_BATCH: Final = 64  # events at a time; then the interpreter is given up for as long as they took: calls come first


class Watcher:
    """One thread, one pass over the log, a cursor for each who watches: what one cannot take stops only that one.
    `key` signs the log or did, and is named after it."""

    def __init__(
        self,
        directory: Path,
        key: VerifierKey,
        watches: Sequence[Watch],
        cursors: Table,
        say: Callable[[str], None],
        record: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._log, self._cursors = key.name, cursors
        self._lanes = [_Lane(watch, self._start(watch), say, record) for watch in watches]
        self._newest, self._older = _Pages(directory, key), _Pages(directory, key)
        self._stop = threading.Event()
        self._settled = 0.0
        self._broken = ""  # why the thread ended by itself

    async def run(self) -> None:
        """Until cancelled. Raises DependencyFault when the thread ends: better no gateway than one nobody watches."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        thread = threading.Thread(target=self._run, args=(loop, ended), name="limen-watch", daemon=True)
        thread.start()
        try:
            await ended.wait()
        finally:
            self._stop.set()
            await asyncio.to_thread(thread.join)
        raise DependencyFault("watch", self._broken, retryable=False)

    @property
    def behind(self) -> dict[str, int]:
        """Next record each of them will see."""
        return {lane.watch.name: lane.next for lane in self._lanes}

    def _key(self, watch: Watch) -> str:
        return f"watch/{self._log}/{watch.name}"

    def _start(self, watch: Watch) -> int:
        raw = self._cursors.get(self._key(watch))
        return int(raw) if raw else 0

    def _run(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
        try:
            while not self._stop.is_set():
                worked = time.thread_time()
                more = self._turn()
                self._stop.wait(time.thread_time() - worked if more else _POLL)
            self._settle(time.time())
            self._close()
        except Exception as error:  # noqa: BLE001 - `run` tells, and the gateway does not go on unwatched
            self._broken = f"{type(error).__name__}: {error}"
        with suppress(RuntimeError):  # that loop may have closed meanwhile
            loop.call_soon_threadsafe(ended.set)

    def _turn(self) -> bool:
        """Show one batch to those that are up to date, and one to those that have to catch up: they keep nobody
        waiting. True when there may be more."""
        now, lanes = time.time(), [lane for lane in self._lanes if not lane.held]
        newest = max((lane.next for lane in lanes), default=0)
        first = [lane for lane in lanes if newest - lane.next < _BATCH]
        more = self._show(first, self._newest)
        late = [lane for lane in lanes if newest - lane.next >= _BATCH]
        more = self._show(late, self._older) or more
        if time.monotonic() - self._settled >= _SETTLE:
            self._settled = time.monotonic()
            self._settle(now)
        return more

    def _show(self, lanes: list[_Lane], pages: _Pages) -> bool:
        """The next batch. Whether it was a whole one. Raises DependencyFault where records are gone without a signed
        note: nobody was shown them."""
        if not lanes:
            return False
        records = pages.read(min(lane.next for lane in lanes), _BATCH)
        for index, record in records:
            event = read_event(self._log, index, record)
            taken = False
            for lane in lanes:
                if lane.held:
                    continue
                taken = True
                # Less than: what was removed before it was shown to a new one is passed over.
                if lane.next <= index:
                    lane.see(event)
            if not taken:
                return False
        return len(records) == _BATCH

    def _settle(self, now: float) -> None:
        for lane in self._lanes:
            lane.held = False
            if lane.take("settle", lane.watch.settle, now) and lane.next != lane.kept:
                lane.take("cursor", self._keep, lane)

    def _close(self) -> None:
        """Those that keep more than they must write it when the thread ends by itself."""
        for lane in self._lanes:
            close = getattr(lane.watch, "close", None)
            if close is not None:
                lane.take("close", close)

    def _keep(self, lane: _Lane) -> None:
        self._cursors.put(self._key(lane.watch), str(lane.next).encode())
        lane.kept = lane.next


class _Pages:
    """The log, read on from where the batch before ended: a bundle is split once, not once for each batch of it."""

    def __init__(self, directory: Path, key: VerifierKey) -> None:
        self._directory, self._key = directory, key
        self._records: Iterator[tuple[int, bytes]] = iter(())
        self._next = -1  # what is read next, or -1: nothing is known

    def read(self, start: int, most: int) -> list[tuple[int, bytes]]:
        """(index, record) from `start` on, as long as there are any. Raises like `read_on`: nothing of the batch is
        shown to anybody then."""
        if start != self._next:
            signed = size_of(load(self._directory, CHECKPOINT))  # before the records: they are there by then
            self._records = read_on(self._directory, self._key, start, signed)
        self._next = -1
        found = list(islice(self._records, most))
        if len(found) == most:  # else a new look finds whatever is appended from now on
            self._next = found[-1][0] + 1
        return found


class _Lane:
    """How far one of them has come. Once something went wrong, nothing more is shown to it before the next settle."""

    def __init__(
        self, watch: Watch, start: int, say: Callable[[str], None], record: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self.watch, self.next, self.kept, self.held = watch, start, start, False
        self._say, self._record = say, record
        self._troubles: set[str] = set()
        self._skipped = 0  # in a row

    def see(self, event: Event) -> None:
        """Show it. One that a mistake of ours cannot take is put on record and passed over: whoever finds out how to
        make such a record must not end the gateway with it. Raises what is wrong when that is so of many in a row."""
        try:
            self.watch.see(event)
            self._skipped = 0
            self._mended("see")
        except DependencyFault as fault:
            self._trouble("see", fault)
            return
        except Exception as error:
            self._skipped += 1
            if self._skipped > _MOST_SKIPPED:
                raise
            detail = f"{type(error).__name__}: {error}"[:500]
            self._record("unwatched", {"watch": self.watch.name, "event": event.id, "detail": detail})
            self._say(f"{self.watch.name}: {event.id} was passed over: {detail}")
        self.next = event.index + 1

    def take(self, step: str, do: Callable[..., None], *arguments: object) -> bool:
        """Whether that was done. What cannot be done is said once, and so is that it can again."""
        try:
            do(*arguments)
        except DependencyFault as fault:
            self._trouble(step, fault)
            return False
        self._mended(step)
        return True

    def _trouble(self, step: str, fault: DependencyFault) -> None:
        self.held = True
        if step not in self._troubles:
            self._troubles.add(step)
            self._say(f"{self.watch.name}: {fault}")

    def _mended(self, step: str) -> None:
        if step in self._troubles:
            self._troubles.discard(step)
            self._say(f"{self.watch.name}: works again")
