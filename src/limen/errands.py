"""What commands ask of every running gateway, through a table they share, and what each of them answered.

    errand/ID             what to do, for a minute: a gateway that starts later has no part in it
    answer/ID/REPLICA     what one gateway did about it, for ten minutes

A row asks; what is done is decided by the gateway, from its own configuration and its own files. So who can write to
the table can have a server started again, and nothing else.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from limen.core.faults import Fault
from limen.core.ports import Kept, Table

ASKED: Final = 60.0  # seconds
ANSWERED: Final = 600.0
_LONGEST: Final = 500


class Errand(NamedTuple):
    """`what` names one of the things gateways do; `about` says to what. `at`: seconds since the epoch."""

    id: str
    what: str
    about: str
    by: str
    reason: str
    at: float
    urgent: bool = False


class Answer(NamedTuple):
    """Of one gateway."""

    replica: str
    ok: bool
    detail: str


Handler = Callable[[Errand], Awaitable[str]]  # what was done, in words. Raises Fault.


def ask(table: Table, what: str, about: str = "", *, by: str, reason: str, urgent: bool = False) -> str:
    """Ask all of them; the id to look for answers with. Raises DependencyFault."""
    identifier, now = secrets.token_hex(8), time.time()
    errand = Errand(identifier, what, about, by, reason[:_LONGEST], now, urgent)
    table.put(f"errand/{identifier}", orjson.dumps(errand._asdict()), now + ASKED)
    return identifier


def answers(table: Table, identifier: str) -> list[Answer]:
    """So far. Raises DependencyFault."""
    found = table.scan(f"answer/{identifier}/")
    return [Answer(place.rpartition("/")[2], **orjson.loads(raw)) for place, raw in found]


def await_answers(table: Table, identifier: str, *, first: float, more: float = 1.0) -> list[Answer]:
    """Wait `first` seconds for the first answer and then `more` without a new one."""
    found: list[Answer] = []
    until = time.monotonic() + first
    while time.monotonic() < until:
        now = answers(table, identifier)
        if len(now) > len(found):
            found, until = now, time.monotonic() + more
        time.sleep(0.05)
    return found


class Errands:
    """A gateway's side: `look` does what was asked since this was made, one errand after the other."""

    def __init__(self, table: Kept, handlers: Mapping[str, Handler], *, remote: bool = False) -> None:
        self._table, self._handlers, self._remote = table, handlers, remote
        self._replica = secrets.token_hex(4)
        self._token: tuple[int, ...] | None = None
        self._done = {place for place, _ in table.scan("errand/")}

    async def look(self) -> None:
        """Raises DependencyFault when the table cannot be read."""
        token = await self._off(self._table.change_token)
        if token == self._token:
            return
        rows = dict(await self._off(lambda: list(self._table.scan("errand/"))))
        self._done &= rows.keys()
        for place, raw in rows.items():
            if place not in self._done:
                self._done.add(place)
                await self._do(_read(raw))
        self._token = token

    async def _do(self, errand: Errand | None) -> None:
        handler = self._handlers.get(errand.what) if errand is not None else None
        if errand is None or handler is None:
            return
        try:
            ok, detail = True, await handler(errand)
        except Fault as fault:
            ok, detail = False, str(fault)
        row = orjson.dumps({"ok": ok, "detail": detail[:_LONGEST]})
        place = f"answer/{errand.id}/{self._replica}"
        await self._off(lambda: self._table.put(place, row, time.time() + ANSWERED))

    async def _off(self, work: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(work) if self._remote else work()


def _read(raw: bytes) -> Errand | None:
    """None for a row that is no errand: nobody of ours wrote it."""
    try:
        errand = Errand(**orjson.loads(raw))
        texts = (errand.id, errand.what, errand.about, errand.by, errand.reason)
        return errand if all(isinstance(one, str) for one in texts) else None
    except (ValueError, TypeError):
        return None
