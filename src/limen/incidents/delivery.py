"""Delivers the outbox: one replica at a time, every route by itself, until the receiver has it or it is given up."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.incidents.alert_settings import AnyRoute, MailRoute, PagerDutyRoute, SlackRoute, WebhookRoute
from limen.incidents.formats import mail, pagerduty, signature, slack, teams, webhook
from limen.incidents.outbox import Entry, claim, delivered, entries, failed

EVERY: Final = 1.0  # seconds between looks
_MINUTE: Final = 60.0

Send = Callable[[Entry], Awaitable[None]]
Record = Callable[[str, Mapping[str, Any]], None]


class Hook(Protocol):
    """Sends by HTTP. Raises DependencyFault, `retryable` or not."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None: ...


class Mailer(Protocol):
    """Sends mail. Raises DependencyFault, `retryable` or not."""

    async def send(self, sender: str, recipients: Sequence[str], message: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Way:
    """How one route is reached, how much at once, and which acts mean something there."""

    name: str
    send: Send
    per_minute: int = 20


def way(route: AnyRoute, hook: Hook, mailer: Callable[[MailRoute], Mailer], source: str) -> Way:
    """A route of the configuration. `source`: what we call ourselves."""
    if isinstance(route, MailRoute):
        box, to = mailer(route), route.recipients

        async def send(entry: Entry) -> None:
            await box.send(route.sender, to, mail(entry, route.sender, to))

        return Way(route.name, send, route.per_minute)

    async def post(entry: Entry) -> None:
        url = route.url.get_secret_value()
        headers: dict[str, str] = {}
        if isinstance(route, PagerDutyRoute):
            body = pagerduty(entry, route.key.get_secret_value(), source)
        elif isinstance(route, SlackRoute):
            body = slack(entry)
        elif isinstance(route, WebhookRoute):
            body = webhook(entry)
            headers = signature(route.secret.get_secret_value().encode(), entry.id, int(time.time()), body)
        else:
            body = teams(entry)
        await hook.post(url, body, headers)

    return Way(route.name, post, route.per_minute)


class Delivery:
    """`holder`: a name of this replica's own. What was given up is put on record."""

    def __init__(
        self, table: Table, ways: Sequence[Way], holder: str, record: Record, say: Callable[[str], None],
        *, give_up: float = 86_400.0, now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._table, self._holder, self._record, self._say, self._now = table, holder, record, say, now
        self._ways = {one.name: one for one in ways}
        self._give_up = give_up
        self._sent: dict[str, deque[float]] = {one.name: deque() for one in ways}
        self._trouble: dict[str, str] = {}

    async def run(self) -> None:
        """Until cancelled. What cannot be read is tried again: what waits goes on waiting."""
        while True:
            try:
                await self.turn()
            except DependencyFault as fault:
                if fault.port == "audit":
                    raise
                self._told("the outbox", str(fault))
            else:
                self._told("the outbox", "")
            await asyncio.sleep(EVERY)

    async def turn(self) -> int:
        """Deliver what is due. Returns how much arrived. Raises DependencyFault when the table cannot be used."""
        waiting = await asyncio.to_thread(self._claimed)
        by_route: dict[str, list[Entry]] = {}
        for entry in waiting:
            by_route.setdefault(entry.route, []).append(entry)
        done = await asyncio.gather(*(self._route(name, due) for name, due in by_route.items()))
        return sum(done)

    def _claimed(self) -> list[Entry]:
        now = self._now()
        waiting = [entry for entry in entries(self._table) if entry.due <= now]
        return waiting if waiting and claim(self._table, self._holder, now) else []

    async def _route(self, name: str, due: Sequence[Entry]) -> int:
        known, arrived = self._ways.get(name), 0
        for entry in due:
            if known is None:
                await self._failed(entry, f"no route {name} in the configuration", lasting=True, wait=0.0)
                continue
            if not self._within(known):
                break
            if not await asyncio.to_thread(claim, self._table, self._holder, self._now()):
                break  # we were slow, and somebody else delivers by now
            try:
                await known.send(entry)
            except DependencyFault as fault:
                await self._failed(entry, str(fault), lasting=not fault.retryable, wait=fault.retry_after)
                break  # the others of this route wait for their turn: their receiver is in trouble
            except ValueError as error:  # what cannot be written will not be written next time
                await self._failed(entry, f"{type(error).__name__}: {error}", lasting=True, wait=0.0)
                continue
            await asyncio.to_thread(delivered, self._table, entry)
            self._told(name, "")
            arrived += 1
        return arrived

    def _within(self, known: Way) -> bool:
        """Whether this route may be told of one more in this minute."""
        sent, now = self._sent[known.name], self._now()
        while sent and not 0 <= now - sent[0] < _MINUTE:
            sent.popleft()
        if len(sent) >= known.per_minute:
            return False
        sent.append(now)
        return True

    async def _failed(self, entry: Entry, error: str, *, lasting: bool, wait: float) -> None:
        self._told(entry.route, error)
        given_up = await asyncio.to_thread(
            failed, self._table, entry, error, self._now(), refused=lasting, give_up=self._give_up, wait=wait
        )
        if given_up:
            told = {"act": "dead", "route": entry.route, "alert": entry.alert["id"], "entry": entry.id}
            self._record("delivery", {**told, "detail": error[:300]})

    def _told(self, what: str, trouble: str) -> None:
        """Say a trouble once, and that it is over."""
        if trouble and self._trouble.get(what) is None:
            self._trouble[what] = trouble
            self._say(f"alerts by {what}: {trouble}")
        elif not trouble and self._trouble.pop(what, None) is not None:
            self._say(f"alerts by {what}: works again")
