"""Handshake-era sessions at one HTTP server: one per (caller, our session, what its client can do), bounded."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

LIMIT: Final = 1024
IDLE_SECONDS: Final = 1800.0
Key = tuple[Any, str, frozenset[str]]


@dataclass(slots=True, eq=False)
class Handshake:
    """One initialized session. `id` is None where the server keeps none. `credential` is the newest of its account: one
    that was renewed goes on with the session it opened."""

    id: bytes | None = field(repr=False)
    revision: str
    credential: bytes = field(repr=False)
    account: bytes = field(default=b"", repr=False)
    used: float = 0.0
    busy: int = 0
    ended: bool = False


class Sessions:
    """Opens a session when one is first needed, once for all calls that wait; ends the ones nobody uses.

    Two callers never share one: what the server keeps in a session could cross from one to the other. A server that
    gives no session ids keeps nothing, so for that one a single handshake serves every caller who offers the same.
    """

    def __init__(
        self,
        opening: Callable[[frozenset[str], bytes], Awaitable[Handshake]],
        ending: Callable[[Handshake], None],
        limit: int = LIMIT,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._opening, self._ending = opening, ending
        self._limit, self._idle_seconds = limit, idle_seconds
        self._open: OrderedDict[Key, Handshake] = OrderedDict()
        self._coming: dict[Key, asyncio.Task[Handshake]] = {}
        self._stateless: dict[tuple[frozenset[str], bytes], Handshake] = {}  # by words and account

    def __len__(self) -> int:
        return len(self._open)

    async def get(self, key: Key, credential: bytes, account: bytes = b"") -> Handshake:
        """The session of this key, opened if need be. `account` is whom the credential speaks for; by default it is
        known by its bytes. Raises UpstreamFault."""
        now = asyncio.get_running_loop().time()
        words, account = key[2], account or credential
        session = self._stateless.get((words, account)) or self._open.get(key)
        if session is not None and session.id is not None:
            if now - session.used > self._idle_seconds or session.account != account:
                self._drop(key)
                session = None
            else:
                self._open.move_to_end(key)
        if session is not None:
            session.used, session.credential = now, credential
            return session
        task = self._coming.get(key)
        if task is None:
            task = asyncio.ensure_future(self._start(key, words, credential, account))
            self._coming[key] = task
            task.add_done_callback(lambda done: self._came(key, done))
        return await asyncio.shield(task)

    async def _start(self, key: Key, words: frozenset[str], credential: bytes, account: bytes) -> Handshake:
        session = await self._opening(words, credential)
        session.account = account
        session.used = asyncio.get_running_loop().time()
        if session.id is None:
            if len(self._stateless) >= 16:
                self._stateless.clear()
            self._stateless[words, account] = session
            return session
        self._open[key] = session
        oldest = next(iter(self._open))
        while len(self._open) > self._limit or session.used - self._open[oldest].used > self._idle_seconds:
            self._drop(oldest)
            oldest = next(iter(self._open))
        return session

    def _came(self, key: Key, task: asyncio.Task[Handshake]) -> None:
        self._coming.pop(key, None)
        if not task.cancelled():
            task.exception()  # each waiter got it already; this marks it as seen

    def idle(self, session: Handshake) -> None:
        """A call in this session is over. One that ended meanwhile is said goodbye to now."""
        session.busy -= 1
        if session.ended and session.busy == 0:
            self._ending(session)

    def forget(self, key: Key, session: Handshake) -> None:
        """The server does not know this session any more."""
        if self._open.get(key) is session:
            del self._open[key]
        for shared, found in list(self._stateless.items()):
            if found is session:
                del self._stateless[shared]

    def end(self, session_id: str) -> None:
        """Our session is over."""
        for key in [key for key in self._open if key[1] == session_id and session_id]:
            self._drop(key)

    def end_all(self) -> None:
        """Shutting down."""
        for task in list(self._coming.values()):
            task.cancel()
        for key in list(self._open):
            self._drop(key)
        self._stateless.clear()

    def _drop(self, key: Key) -> None:
        session = self._open.pop(key)
        session.ended = True
        if session.busy == 0:
            self._ending(session)
