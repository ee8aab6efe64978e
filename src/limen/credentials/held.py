"""The provider's tokens of people who signed in here: sealed in the records, refreshed once for all replicas.

One record for each person. Whoever refreshes it first takes a lease by compare-and-set; the others wait for what comes
of it. A process that dies meanwhile loses nothing that was written: its lease runs out, and the next one tries again.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final

import orjson

from limen.core.faults import DependencyFault
from limen.core.ports import Sealer, Table, owner_of
from limen.credentials.endpoint import Denied, Endpoint, Granted

_LEASE: Final = 20.0  # seconds; longer than one exchange may take
_LOOK: Final = 0.05  # seconds between looks at a record somebody else refreshes
_MARGIN: Final = 30.0  # seconds before its end in which a token is renewed
_KEPT: Final = 90 * 86_400.0  # seconds a record is kept that nobody renews
_PLACE: Final = "held"


@dataclass(frozen=True, slots=True)
class Holding:
    """What the provider gave for one person."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    expires: float  # seconds since the epoch
    scopes: tuple[str, ...] = ()
    identity: str = field(default="", repr=False)  # ID token


@dataclass(frozen=True, slots=True)
class _Record:
    raw: bytes
    holding: Holding
    holder: str
    until: float


class Held:
    """`endpoint` is the provider's, as the client people signed in with; without it nothing is refreshed."""

    def __init__(
        self, table: Table, sealer: Sealer, endpoint: Endpoint | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._table, self._sealer, self._endpoint, self._now = table, sealer, endpoint, now
        self._coming: dict[tuple[str, str], asyncio.Task[Holding | None]] = {}

    def keep(
        self,
        issuer: str,
        subject: str,
        access: str,
        refresh: str,
        expires: float,
        scopes: Iterable[str] = (),
        identity: str = "",
    ) -> None:
        """What a sign-in just gave takes the place of everything before. Synchronous. Raises DependencyFault."""
        holding = Holding(access, refresh, expires, tuple(scopes), identity)
        self._table.put(_key(issuer, subject), self._seal(issuer, subject, holding), self._now() + _KEPT)

    def drop(self, issuer: str, subject: str) -> None:
        """Keep nothing for this person. Synchronous. Raises DependencyFault."""
        key = _key(issuer, subject)
        while (raw := self._table.get(key)) is not None:
            if self._table.swap(key, raw, None):
                return

    async def find(self, issuer: str, subject: str, *, identity: bool = False) -> Holding | None:
        """Tokens that are good for half a minute at least (with `identity`: an ID token too), renewed if need be.

        None: this person has to sign in again. Raises DependencyFault when the provider cannot be asked.
        """
        found = await asyncio.to_thread(self._read, issuer, subject)
        if found is None or self._good(found.holding, identity):
            return found.holding if found is not None else None
        person = (issuer, subject)
        task = self._coming.get(person)
        if task is None:
            task = asyncio.ensure_future(self._renew(issuer, subject, identity))
            self._coming[person] = task
            task.add_done_callback(lambda done: self._came(person, done))
        return await asyncio.shield(task)

    def _came(self, person: tuple[str, str], task: asyncio.Task[Holding | None]) -> None:
        self._coming.pop(person, None)
        if not task.cancelled():
            task.exception()  # each waiter got it already; this marks it as seen

    def _good(self, holding: Holding, identity: bool) -> bool:
        return self._now() < holding.expires - _MARGIN and (bool(holding.identity) or not identity)

    async def _renew(self, issuer: str, subject: str, identity: bool) -> Holding | None:
        """Take the lease and refresh, or wait for whoever has it."""
        holder, end = secrets.token_hex(8), self._now() + _LEASE
        while True:
            leased = await asyncio.to_thread(self._lease, issuer, subject, holder, identity)
            if leased is None or (not leased.holder and self._good(leased.holding, identity)):
                return leased.holding if leased is not None else None
            if leased.holder == holder:
                return await self._refresh(issuer, subject, leased)
            if not leased.holding.refresh or self._endpoint is None:
                return None  # over, and nothing to renew it with
            if self._now() >= end:
                raise DependencyFault("credentials", "another replica did not finish renewing a sign-in")
            await asyncio.sleep(_LOOK)

    def _lease(self, issuer: str, subject: str, holder: str, identity: bool) -> _Record | None:
        """The record, leased to us if it has to be renewed and nobody else is at it."""
        while True:
            found = self._read(issuer, subject)
            if found is None or self._good(found.holding, identity):
                return replace(found, holder="") if found is not None else None
            if found.holder and self._now() < found.until:
                return found
            if not found.holding.refresh or self._endpoint is None:
                return replace(found, holder="-")
            mine = self._seal(issuer, subject, found.holding, holder)
            if self._table.swap(_key(issuer, subject), found.raw, mine, self._now() + _KEPT):
                return _Record(mine, found.holding, holder, 0.0)

    async def _refresh(self, issuer: str, subject: str, leased: _Record) -> Holding | None:
        """RFC 6749 section 6. What comes back is written before it is used: a rotated refresh token is not lost."""
        assert self._endpoint is not None
        before = leased.holding
        form: dict[str, str | tuple[str, ...]] = {"grant_type": "refresh_token", "refresh_token": before.refresh}
        if before.scopes:
            form["scope"] = " ".join(before.scopes)
        try:
            got = await self._endpoint.token(form)
        except Denied as denied:
            if denied.code != "invalid_grant":
                await asyncio.to_thread(self._release, issuer, subject, leased)
                raise DependencyFault("credentials", f"the provider does not renew a sign-in: {denied}") from None
            await asyncio.to_thread(self._table.swap, _key(issuer, subject), leased.raw, None)
            return None
        except DependencyFault:
            await asyncio.to_thread(self._release, issuer, subject, leased)
            raise
        return await asyncio.to_thread(self._write, issuer, subject, leased, _after(before, got))

    def _write(self, issuer: str, subject: str, leased: _Record, holding: Holding) -> Holding:
        sealed, key = self._seal(issuer, subject, holding), _key(issuer, subject)
        if not self._table.swap(key, leased.raw, sealed, self._now() + _KEPT):
            current = self._read(issuer, subject)  # a new sign-in, or the end of this one: that goes first
            if current is None:
                raise DependencyFault("credentials", "the sign-in was ended while it was renewed")
            return current.holding
        return holding

    def _release(self, issuer: str, subject: str, leased: _Record) -> None:
        unleased = self._seal(issuer, subject, leased.holding)
        self._table.swap(_key(issuer, subject), leased.raw, unleased, self._now() + _KEPT)

    def _seal(self, issuer: str, subject: str, holding: Holding, holder: str = "") -> bytes:
        secret = orjson.dumps(
            [holding.access, holding.refresh, holding.expires, list(holding.scopes), holding.identity]
        )
        sealed = self._sealer.seal(owner_of(issuer, subject), _PLACE, secret)
        return orjson.dumps(
            {"sealed": b64encode(sealed).decode(), "holder": holder, "until": self._now() + _LEASE if holder else 0.0}
        )

    def _read(self, issuer: str, subject: str) -> _Record | None:
        raw = self._table.get(_key(issuer, subject))
        if raw is None:
            return None
        document: dict[str, Any] = orjson.loads(raw)
        opened = self._sealer.open(owner_of(issuer, subject), _PLACE, b64decode(document["sealed"]))
        access, refresh, expires, scopes, identity = orjson.loads(opened)
        holding = Holding(access, refresh, expires, tuple(scopes), identity)
        return _Record(raw, holding, document["holder"], document["until"])


def _after(before: Holding, got: Granted) -> Holding:
    """A refresh token that is not replaced stays good, and so do the scopes (RFC 6749 sections 5.1 and 6)."""
    return Holding(got.access, got.refresh or before.refresh, got.expires, got.scopes or before.scopes, got.identity)


def _key(issuer: str, subject: str) -> str:
    return "held/" + sha256(owner_of(issuer, subject).encode()).hexdigest()
