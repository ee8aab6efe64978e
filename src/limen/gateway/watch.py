"""Reads servers again, so that a change of what they announce is noticed whether they say so or not.

A server is read when it is first met, when it says on any connection that a list changed, when the stream on which it
tells that was opened, and once per interval. Every few readings it is read a second time as another client: what it
shows that one must be the same. Nothing read here reaches a client before a person approved it.

Each server keeps a schedule of its own, spread by chance, so that a thousand of them are not read in one instant.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from random import Random, SystemRandom
from typing import Any, Final, Protocol

from limen.core.announce import Announcement
from limen.core.faults import UpstreamFault
from limen.gateway.fingerprint import Print, Sight, Sights, difference, fingerprint
from limen.gateway.upstream_faces import OTHERS, OWN, Face
from limen.gateway.upstreams import Unheard

READERS: Final = 16  # servers read at the same time
SPREAD: Final = 0.2  # of an interval, either way
SPACING: Final = 1.0  # seconds between two readings of a server: a storm of announcements is one reading a second
FACE_EVERY: Final = 4  # periodic readings, of which one is done with a second face
EARLY: Final = (1.0, 30.0)  # seconds after the first reading at which an HTTP server is first read with a second face
RECHECK: Final = 2.0  # seconds after a change nobody announced
RECHECKS: Final = 2  # of these between two periodic readings
LISTEN_AGAIN: Final = 10  # intervals until a server that offers no stream of changes is asked again
STEADINESS: Final = ""  # what a finding concerns that is about no other face
STEADY: Final = 60.0  # seconds a stream must last not to count as failed


class Servers(Protocol):
    """The servers, as far as they are read."""

    @property
    def by_name(self) -> Mapping[str, object]: ...
    def starts_process(self, name: str) -> bool: ...
    async def describe(self, name: str, face: Face = OWN) -> Announcement: ...
    async def listen(self, name: str, opened: Callable[[], None]) -> None: ...


class Keeper(Protocol):
    """Where readings go. `observe` raises DependencyFault when they cannot be kept."""

    async def observe(self, announcement: Announcement) -> None: ...
    def unreachable(self, server: str, detail: str) -> None: ...
    def reachable(self, server: str) -> None: ...
    def found(self, server: str, finding: str) -> None: ...


class Watch:
    """The duty. `follow` starts it and is called again after servers were exchanged; `run` keeps it going, once."""

    def __init__(
        self, servers: Servers, keeper: Keeper, interval: float, *, chance: Random | None = None, readers: int = READERS
    ) -> None:
        self.servers, self.keeper, self.interval = servers, keeper, interval
        self.chance = chance or SystemRandom()
        self.readers = asyncio.Semaphore(readers)
        self._watched: dict[str, tuple[object, _Watched, tuple[asyncio.Task[None], ...]]] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ending: set[asyncio.Task[None]] = set()

    def heard(self, name: str) -> None:
        """This server says that a list changed, or was started anew."""
        if name in self._watched:
            self._watched[name][1].changed()

    async def run(self) -> None:
        """Watch until cancelled. Raises what a duty must not survive: DependencyFault, or a bug of ours."""
        try:
            self.follow()
            await self._failed
        finally:
            for name in list(self._watched):
                self._leave(name)
            await asyncio.gather(*self._ending, return_exceptions=True)

    def follow(self, interval: float | None = None, *, again: bool = False) -> None:
        """Watch the servers there are now: new and exchanged ones are read at once (with `again` all of them), others
        keep their schedule."""
        self.interval = interval or self.interval
        servers = self.servers.by_name
        for name in [name for name, (server, *_) in self._watched.items() if servers.get(name) is not server]:
            self._leave(name)
        for name, server in servers.items():
            if name in self._watched and again:
                self._watched[name][1].read_again()
            elif name not in self._watched:
                watched = _Watched(self, name)
                self._watched[name] = (server, watched, (self._start(watched.keep()), self._start(watched.listen())))

    async def settled(self) -> None:
        """Every server was tried once."""
        await asyncio.gather(*(watched.tried.wait() for _, watched, _ in self._watched.values()))

    def _start(self, duty: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(duty)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    def _leave(self, name: str) -> None:
        _, watched, tasks = self._watched.pop(name)
        watched.tried.set()
        for task in tasks:
            self._ending.add(task)
            task.cancel()


class _Watched:
    """One server's schedule and what was seen of it."""

    def __init__(self, watch: Watch, name: str) -> None:
        self._watch, self._name = watch, name
        self.tried = asyncio.Event()
        self._wake = asyncio.Event()
        self._reached = asyncio.Event()
        self._announces = False  # declares listChanged
        self._told = False
        self._failures = 0
        self._due = 0.0  # of the next periodic reading: what the server says meanwhile does not put it off
        self._periodic = 0
        self._rechecks = 0
        self._recheck = False
        self._early = not watch.servers.starts_process(name)
        self._faces = watch.chance.randrange(len(OTHERS))
        self._sights = Sights()
        self._standing: dict[str, str] = {}  # findings that still hold: by the face they concern, or STEADINESS
        self._refused: set[str] = set()  # faces it could not be read as

    def changed(self) -> None:
        """It says so, or we may have missed it saying so."""
        self._told = True
        self.read_again()

    def read_again(self) -> None:
        """As soon as SPACING allows."""
        self._wake.set()

    async def keep(self) -> None:
        """Read it now and whenever it is due, until cancelled."""
        loop, chance = asyncio.get_running_loop(), self._watch.chance
        self._due = loop.time() + min(self._period(), chance.uniform(*EARLY) if self._early else math.inf)
        compare = False
        while True:
            started = loop.time()
            self._wake.clear()
            await self._turn(compare)
            self.tried.set()
            await self._wait(self._delay(loop.time()))
            await asyncio.sleep(max(0.0, started + SPACING - loop.time()))
            compare = self._comparison_is_due(loop.time())

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def _period(self) -> float:
        return self._watch.interval * self._watch.chance.uniform(1 - SPREAD, 1 + SPREAD)

    def _delay(self, now: float) -> float:
        chance = self._watch.chance
        if self._failures:
            return min(self._watch.interval, 2.0 ** min(self._failures, 16)) * chance.uniform(0.5, 1.0)
        due = max(0.0, self._due - now)
        return min(due, RECHECK * chance.uniform(0.5, 1.5)) if self._recheck else due

    def _comparison_is_due(self, now: float) -> bool:
        """Whether the coming reading is one with a second face."""
        if self._failures or now < self._due:
            return False
        self._due = now + self._period()
        self._rechecks = 0
        if self._early:
            self._early = False
            return True
        self._periodic += 1
        return self._periodic % FACE_EVERY == 1

    async def _turn(self, compare: bool) -> None:
        told, self._told, self._recheck = self._told, False, False
        try:
            announcement, seen = await self._read(OWN)
            self._look(Sight(asyncio.get_running_loop().time(), seen, told), calm=compare)
            if compare:
                announcement = await self._compare(announcement, seen)
        except UpstreamFault as fault:
            self._failures += 1
            if self._failures == 1:
                self._watch.keeper.unreachable(self._name, str(fault))
            return
        if self._failures:
            self._failures = 0
            self._watch.keeper.reachable(self._name)
        await self._watch.keeper.observe(replace(announcement, findings=tuple(self._standing.values())))
        self._announces = _announces(announcement)
        self._reached.set()

    def _look(self, sight: Sight, *, calm: bool) -> None:
        """Whether it changes without a word, and back. `calm`: a while went by since the last reading."""
        quiet = self._sights.add(sight)
        unsteady = self._sights.unsteady()
        if unsteady or (calm and not quiet):
            self._finding(STEADINESS, unsteady)
        if quiet and self._rechecks < RECHECKS:
            self._rechecks += 1
            self._recheck = True

    def _finding(self, what: str, text: str) -> None:
        """It holds until it is found not to any more; what holds is told once."""
        if not text:
            self._standing.pop(what, None)
        elif what not in self._standing:
            self._standing[what] = text
            self._watch.keeper.found(self._name, text)

    async def _read(self, face: Face) -> tuple[Announcement, Print]:
        async with self._watch.readers:
            announcement = await self._watch.servers.describe(self._name, face)
        return announcement, await asyncio.to_thread(fingerprint, announcement)

    async def _compare(self, announcement: Announcement, own: Print) -> Announcement:
        """Read it as another client as well. Returns the newest reading with our own face.

        Before a server is accused it is read again, in turn: each face must be shown its own list every time. One
        that changed in between, or has several instances that differ for a while, does not do that.
        """
        face = OTHERS[self._faces % len(OTHERS)]
        self._faces += 1
        try:
            _, other = await self._read(face)
        except UpstreamFault as fault:  # an honest one may be made to run once, or to serve a single client
            if face.name not in self._refused:
                self._refused.add(face.name)
                self._watch.keeper.unreachable(self._name, f"as {face.name}: {fault}")
            return announcement
        what = f"another list to a client named {face.name}"
        finding = "" if other == own else f"shows {what}: {difference(own, other)}"
        for again in (OWN, OWN, face, OWN, face) if finding else ():
            try:
                told, seen = await self._read(again)
            except UpstreamFault:
                finding = f"showed {what} and could not be read again: {difference(own, other)}"
                break
            announcement = told if again is OWN else announcement
            if seen != (own if again is OWN else other):
                finding = ""
                break
        self._finding(face.name, finding)
        return announcement

    async def listen(self) -> None:
        """Keep the stream open on which it tells of changes, until cancelled."""
        chance, loop, failures = self._watch.chance, asyncio.get_running_loop(), 0
        while True:
            await self._reached.wait()
            if not self._announces:
                self._reached.clear()
                continue
            started = loop.time()
            try:
                await self._watch.servers.listen(self._name, self._opened)
            except Unheard:
                await asyncio.sleep(self._watch.interval * LISTEN_AGAIN * chance.uniform(1 - SPREAD, 1 + SPREAD))
                continue
            except UpstreamFault:
                self._reached.clear()
            failures = 0 if loop.time() - started > STEADY else failures + 1
            longest = max(self._watch.interval, STEADY)
            await asyncio.sleep(min(longest, 2.0 ** min(failures, 16)) * chance.uniform(0.5, 1.0))
            if not self._reached.is_set():
                self.read_again()  # it may have been restarted; then it is listened to again

    def _opened(self) -> None:
        """What changed while nobody listened was not heard."""
        self.changed()


def _announces(announcement: Announcement) -> bool:
    """Whether the server declares that it tells of changes (capability `listChanged`)."""
    offered = (announcement.capabilities.get(kind) for kind in ("tools", "prompts", "resources"))
    return any(type(one) is dict and one.get("listChanged") is True for one in offered)
