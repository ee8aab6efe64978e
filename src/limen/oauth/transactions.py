"""What a person is being asked, from the request of a client to the code it gets: once, and for ten minutes at most.

Only the page that asks knows its id. What was asked is frozen in it (OA-09), and each step is one compare-and-set.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.oauth.model import Asked

LIFETIME: Final = 600  # seconds
_PLACE: Final = "transaction/"
_TURNS: Final = 10  # answers to one page: a double click, the back button


@dataclass(frozen=True, slots=True)
class Transaction:
    """One question to a person. `turn`: how often it was answered with yes; the rest is of the last such answer."""

    asked: Asked
    expires: float  # seconds since the epoch
    device: str = ""  # what waits instead of a browser that came from its client (RFC 8628)
    turn: int = 0
    browser: str = ""  # digest of the one that answered
    scopes: tuple[str, ...] = ()  # those the person left in

    @property
    def agreed(self) -> Asked:
        """What the person said yes to."""
        return replace(self.asked, scopes=self.scopes)


class Transactions:
    """In a table. Whoever knows an id can do nothing with it in another browser."""

    def __init__(self, table: Table, now: Callable[[], float] = time.time) -> None:
        self._table, self._now = table, now

    def open(self, asked: Asked, device: str = "") -> str:
        """Remember a question; its id, 256 random bits. Raises DependencyFault."""
        transaction = secrets.token_urlsafe(32)
        record = Transaction(asked, self._now() + LIFETIME, device)
        if not self._table.swap(f"{_PLACE}{transaction}", None, orjson.dumps(record), record.expires):
            raise DependencyFault("table", "a transaction of 256 random bits was there before", retryable=False)
        return transaction

    def agree(self, transaction: str, browser: str, scopes: tuple[str, ...]) -> Transaction | None:
        """The person at this browser says yes to these scopes. Answering again from the same browser takes the place
        of the answer before (a double click, the back button); everything else is None. Raises DependencyFault."""
        kept, found = self._read(transaction)
        if kept is None or found is None or found.turn >= _TURNS or (found.turn and found.browser != browser):
            return None
        if not set(scopes) <= set(found.asked.scopes):
            return None
        agreed = replace(found, turn=found.turn + 1, browser=browser, scopes=scopes)
        swapped = self._table.swap(f"{_PLACE}{transaction}", kept, orjson.dumps(agreed), agreed.expires)
        return agreed if swapped else None

    def end(self, transaction: str, *, turn: int | None = None, browser: str = "") -> Transaction | None:
        """Use it up: one of many who try gets it. `turn`: only the way that began with this answer; `browser`: only
        while no other one has agreed. Raises DependencyFault."""
        kept, found = self._read(transaction)
        if kept is None or found is None or (turn is not None and found.turn != turn):
            return None
        if browser and found.turn and found.browser != browser:
            return None
        return found if self._table.swap(f"{_PLACE}{transaction}", kept, None) else None

    def _read(self, transaction: str) -> tuple[bytes | None, Transaction | None]:
        kept = self._table.get(f"{_PLACE}{transaction}")
        if kept is None:
            return None, None
        record: dict[str, Any] = orjson.loads(kept)
        asked: dict[str, Any] = record.pop("asked")
        asked.update(scopes=tuple(asked["scopes"]), acr_values=tuple(asked["acr_values"]))
        found = Transaction(Asked(**asked), **{**record, "scopes": tuple(record["scopes"])})
        return (kept, found) if found.expires > self._now() else (None, None)
