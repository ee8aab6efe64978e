"""Where the credential for a server comes from, and how long it is kept once it is there."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from limen.core.call import Caller, Context, UpstreamCredential
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Refuse, Verdict


class Source(Protocol):
    """What `AttachCredential` asks for the servers whose credential is not simply written down."""

    def credential(self, context: Context) -> Verdict | Awaitable[Verdict]:
        """Pass with exactly one UpstreamCredential, or Refuse. At once from memory, else an awaitable, which may be
        given up at any time: what others wait for goes on. Raises DependencyFault."""
        ...

    def rejected(self, caller: Caller, status: int, challenge: str) -> None:
        """The server answered 401 or 403 to what it got for this caller, with this WWW-Authenticate (or ""). Never
        waits, never raises; the call itself is over and is not sent again."""
        ...

    def forget(self, caller: Caller) -> None:
        """Keep nothing in memory of callers with this issuer, subject and client; a part that is "" stands for any."""
        ...

    async def close(self) -> None:
        """Let go of everything, waits included."""
        ...


@dataclass(frozen=True, slots=True)
class Obtained:
    """A header that was obtained, and until when it is good (seconds since the epoch; 0: for this call alone)."""

    header: tuple[str, str]
    expires: float

    def __repr__(self) -> str:
        return f"Obtained({self.header[0]}, expires={self.expires:.0f})"


class Obtain(Protocol):
    """How one kind of credential is obtained. Raises DependencyFault."""

    kind: str
    personal: bool  # another caller gets another one

    def differs(self, context: Context) -> Hashable:
        """What else makes it another credential, besides the caller."""
        ...

    async def obtain(self, context: Context) -> Obtained | Refuse: ...


@dataclass(slots=True)
class _Entry:
    verdict: Verdict
    until: float  # seconds since the epoch
    since: float
    token: str  # whose refusal it is: another sign-in of the same caller may fare better


MARGIN: Final = 30.0  # seconds before its end in which a credential is not used any more, or a fifth of its life
REFUSED: Final = 15.0  # seconds in which a refusal is not asked for again
SETTLED: Final = 30.0  # seconds before which a credential the server does not take is not exchanged for a new one
WAIT: Final = 15.0  # seconds one may take to be obtained
_PENDING: Final = 1024
_Key = tuple[tuple[object, ...], Hashable]  # standing of the caller, and what else makes a difference


class Remembered:
    """A Source that keeps what it obtained: one for each caller of equal standing, at most `limit` of them.

    A caller of lesser standing (fewer scopes, a weaker sign-in) never gets what a better one obtained. However many
    calls wait for the same credential, it is obtained once, and whoever gives up waiting stops nobody else.
    `fixed` are headers that go with it; `place` is the only URL it may be sent to.
    """

    def __init__(
        self,
        how: Obtain,
        place: str,
        fixed: tuple[tuple[str, str], ...] = (),
        *,
        limit: int = 10_000,
        now: Callable[[], float] = time.time,
        record: Callable[[Mapping[str, object]], None] = lambda fields: None,
    ) -> None:
        self._record = record
        self._how, self._place, self._fixed, self._limit, self._now = how, place, fixed, limit, now
        self._kept: OrderedDict[_Key, _Entry] = OrderedDict()
        self._coming: dict[Hashable, asyncio.Task[Verdict]] = {}
        self._generation = 0
        self._personal = how.personal

    def credential(self, context: Context) -> Verdict | Awaitable[Verdict]:
        caller = context.get(Caller)
        key = (caller.standing if self._personal else (), self._how.differs(context))
        entry = self._kept.get(key)
        if entry is not None and self._now() < entry.until:
            if type(entry.verdict) is Pass:
                self._kept.move_to_end(key)
                return entry.verdict
            if entry.token == caller.token_id:
                return entry.verdict
        return self._wait(key, context, caller)

    async def _wait(self, key: _Key, context: Context, caller: Caller) -> Verdict:
        flight = (key, caller.token_id if self._personal else "", self._generation)
        task = self._coming.get(flight)
        if task is None:
            if len(self._coming) >= _PENDING:
                raise DependencyFault("credentials", "too many are being obtained")
            task = asyncio.ensure_future(self._fill(key, context, caller))
            self._coming[flight] = task
            task.add_done_callback(lambda done: self._came(flight, done))
        return await asyncio.shield(task)

    async def _fill(self, key: _Key, context: Context, caller: Caller) -> Verdict:
        generation, started = self._generation, self._now()
        try:
            async with asyncio.timeout(WAIT):
                got = await self._how.obtain(context)
        except TimeoutError:
            self._note(caller, "late")
            raise DependencyFault("credentials", f"{self._how.kind}: not obtained within {WAIT:.0f} s") from None
        except DependencyFault as fault:
            self._note(caller, "fault", str(fault))
            raise
        self._note(caller, *(("refused", got.detail) if isinstance(got, Refuse) else ("ok", "")))
        verdict: Verdict
        if isinstance(got, Refuse):
            verdict, until = got, started + REFUSED
        else:
            verdict = Pass((self._stated(got, caller),))
            until = got.expires - min(MARGIN, (got.expires - started) / 5) if got.expires else 0.0
        if until > started and generation == self._generation:
            self._kept[key] = _Entry(verdict, until, started, caller.token_id)
            self._kept.move_to_end(key)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return verdict

    def _note(self, caller: Caller, outcome: str, detail: str = "") -> None:
        """For the audit: that one was asked for, for whom, and what came of it."""
        whose = {"iss": caller.issuer, "sub": caller.subject, "client": caller.client} if self._personal else {}
        self._record({"kind": self._how.kind, "outcome": outcome, "detail": detail[:500], **whose})

    def _stated(self, got: Obtained, caller: Caller) -> UpstreamCredential:
        account = "\n".join((self._how.kind, *(caller.key if self._personal else ())))
        return UpstreamCredential((*self._fixed, got.header), self._how.kind, account, self._place)

    def _came(self, flight: Hashable, task: asyncio.Task[Verdict]) -> None:
        self._coming.pop(flight, None)
        if not task.cancelled():
            task.exception()  # each waiter got it already; this marks it as seen

    def rejected(self, caller: Caller, status: int, challenge: str) -> None:
        """A 401 makes the next call obtain a new one; but one that is fresh will not get better by being replaced, so
        a server that refuses everything causes one exchange in half a minute and no more (OA-95)."""
        if status != 401:
            return
        settled = self._now() - SETTLED
        for key in self._keys(caller):
            if self._kept[key].since <= settled:
                del self._kept[key]

    def forget(self, caller: Caller) -> None:
        if not self._personal:
            return
        self._generation += 1  # what is being obtained meanwhile is not kept
        for key in self._keys(caller):
            del self._kept[key]

    def _keys(self, caller: Caller) -> list[_Key]:
        if not self._personal:
            return list(self._kept)
        wanted = [(at, part) for at, part in enumerate(caller.key) if part]
        return [key for key in self._kept if all(key[0][at] == part for at, part in wanted)]

    async def close(self) -> None:
        tasks = list(self._coming.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._kept.clear()
