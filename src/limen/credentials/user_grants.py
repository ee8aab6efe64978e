"""Accounts people connected at servers behind us: kept sealed, refreshed once for everybody who waits, ended together.

A refresh is leased in the record before the authorization server is asked, so of all replicas one asks, and what it
gets is in the record before anybody uses it. A process that dies in between loses the lease's seconds and no grant, as
long as the authorization server still takes the refresh token it was asked with.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast
from urllib.parse import urlsplit

import orjson

from limen.core.faults import DependencyFault
from limen.core.ports import Exchange, Sealer, Table
from limen.credentials.connection import ENDED, Connection, Person, key_of, read
from limen.credentials.discovery import Place
from limen.credentials.upstream_client import Denied, Granted, Identity, Method, revoke, token

LEASE: Final = 30.0  # seconds; longer than one exchange may take
MARGIN: Final = 60.0  # seconds before its end in which a token is renewed
_LEAST: Final = 5.0  # seconds a token must be good for to be used while somebody renews it
_AWAY: Final = 5.0  # seconds an authorization server that failed is left alone
_WAIT: Final = 0.1
_TELL: Final = 7 * 86_400.0  # seconds an authorization server is told of an ended connection, until it answers


@dataclass(frozen=True, slots=True)
class Held:
    """An access token that can be used now, and the connection it belongs to."""

    connection: Connection
    access: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Linked:
    """What a person just connected."""

    person: Person
    name: str
    server: str
    authorization_server: str
    resource: str
    token_endpoint: str
    revocation_endpoint: str
    client: Identity
    asked: tuple[str, ...]
    granted: Granted


@dataclass(frozen=True, slots=True)
class Account:
    """How accounts at one server are connected: the way to its authorization server, and the client an operator wrote
    down (None: it was registered or is a document, and its secret is kept with the grant)."""

    place: Place
    exchange: Exchange
    client: Identity | None = None

    def fits(self, connection: Connection) -> bool:
        """Whether this is still the server, the authorization server and the client it was connected with: a token
        goes nowhere else (RFC 8707)."""
        parts = urlsplit(self.place.url)
        root = f"{parts.scheme}://{parts.netloc}"
        return (
            connection.resource in (self.place.url, root, f"{root}/")
            and self.place.issuer in ("", connection.authorization_server)
            and (self.client is None or self.client.id == connection.client)
        )


class UserGrants:
    """What people connected. `accounts` by server name."""

    def __init__(
        self,
        table: Table,
        sealer: Sealer,
        accounts: Mapping[str, Account],
        record: Callable[[str, Mapping[str, Any]], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._table, self._sealer, self._accounts = table, sealer, accounts
        self._record, self._now = record, now
        self._running: dict[tuple[str, int], asyncio.Task[Held | None]] = {}

    # what is connected

    async def keep(self, linked: Linked) -> Connection:
        """Remember a new connection, in place of the one before. Raises DependencyFault."""
        return await asyncio.to_thread(self._keep, linked)

    def _keep(self, linked: Linked) -> Connection:
        now, granted = self._now(), linked.granted
        key = key_of(linked.person, linked.server)
        sealed = self._seal(linked.person, key, granted.access, granted.refresh, linked.client)
        for _ in range(8):
            raw = self._table.get(key)
            before = read(raw) if raw is not None else None
            connection = Connection(
                linked.server, linked.person.issuer, linked.person.subject, linked.authorization_server,
                linked.resource, linked.token_endpoint, linked.revocation_endpoint, linked.client.id,
                linked.client.method, granted.scopes if granted.scopes is not None else linked.asked, linked.asked,
                now, now + granted.lasts if granted.lasts else 0.0, bool(granted.refresh), sealed,
                serial=max(int(now * 1000), before.serial + 1 if before is not None else 0),
                stepped=now if before is not None else 0.0,
                name=linked.name,
            )  # fmt: skip
            if self._table.swap(key, raw, connection.dump()):
                self._record("connected", _about(connection))
                return connection
        raise DependencyFault("vault", "a connection kept changing")

    async def find(self, person: Person, server: str) -> Connection | None:
        """The connection, whatever its state. Raises DependencyFault."""
        raw = await asyncio.to_thread(self._table.get, key_of(person, server))
        return read(raw) if raw is not None else None

    # tokens

    async def held(self, person: Person, server: str, refused: int = -1) -> Held | None:
        """A token that can be used now, renewed if need be; None where the person has to connect (again).

        `refused`: serial of a token the server did not take. Raises DependencyFault. Giving up waiting stops nothing.
        """
        key = (key_of(person, server), refused)
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._obtain(key[0], refused))
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(task)

    def _done(self, key: tuple[str, int], task: asyncio.Task[Held | None]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # each waiter got it already; this marks it as seen

    async def _obtain(self, key: str, refused: int) -> Held | None:
        while True:
            raw, held = await asyncio.to_thread(self._look, key)
            if raw is None or held is None:
                return None
            connection, now = held.connection, self._now()
            if not self._accounts[connection.server].fits(connection):
                if await asyncio.to_thread(self._end, key, raw, "the server is configured anew"):
                    return None
                continue
            left = connection.expires - now if connection.expires else float("inf")
            if connection.serial != refused and left > MARGIN:
                return held
            usable = connection.serial != refused and left > _LEAST
            if not connection.renewable:
                if usable:
                    return held
                if await asyncio.to_thread(self._end, key, raw, "it has expired and cannot be renewed"):
                    return None
                continue
            if connection.not_before > now or connection.lease_until > now:
                if usable:
                    return held
                if connection.lease_until <= now:
                    raise DependencyFault("upstream sign-in", f"{connection.server}: failed a moment ago")
                await asyncio.sleep(_WAIT)
                continue
            leased = replace(connection, lease=secrets.token_hex(8), lease_until=now + LEASE)
            if await asyncio.to_thread(self._table.swap, key, raw, leased.dump()):
                renewed = await self._renew(key, leased)
                if renewed is not None:
                    return renewed

    async def _renew(self, key: str, leased: Connection) -> Held | None:
        """Ask for a new token, and use it once it is in the record. None: look again. Raises DependencyFault."""
        _, refresh, client = await asyncio.to_thread(self._opened, leased)
        form = {"grant_type": "refresh_token", "refresh_token": refresh, "resource": leased.resource}
        try:
            granted = await token(self._accounts[leased.server].exchange, leased.token_endpoint, client, form)
        except Denied as denied:
            if denied.code == "invalid_grant":
                await asyncio.to_thread(self._end, key, leased.dump(), "its refresh token was refused")
                return None
            self._record("connection_failed", {**_about(leased), "error": denied.code})
            await self._release(key, leased, MARGIN)
            raise DependencyFault(
                "upstream sign-in", f"{leased.server}: the token endpoint says {denied.code}", retryable=False
            ) from None
        except DependencyFault as fault:
            await self._release(key, leased, min(max(fault.retry_after, _AWAY), 3600.0))
            raise
        return await asyncio.to_thread(self._renewed, key, leased, granted, refresh, client)

    async def _release(self, key: str, leased: Connection, seconds: float) -> None:
        free = replace(leased, lease="", lease_until=0.0, not_before=self._now() + seconds)
        await asyncio.to_thread(self._table.swap, key, leased.dump(), free.dump())

    def _renewed(self, key: str, leased: Connection, granted: Granted, refresh: str, client: Identity) -> Held | None:
        """Write what we got before it is used. Whoever took over a lease that ran out meanwhile gets it as well; of a
        connection that was ended meanwhile it is given back."""
        now, raw = self._now(), leased.dump()
        sealed = self._seal(leased.person, key, granted.access, granted.refresh or refresh, client)
        fresh = replace(
            leased, sealed=sealed, serial=leased.serial + 1, lease="", lease_until=0.0, not_before=0.0,
            expires=now + granted.lasts if granted.lasts else 0.0,
            scopes=granted.scopes if granted.scopes is not None else leased.scopes,
        )  # fmt: skip
        while not self._table.swap(key, raw, fresh.dump()):
            found = self._table.get(key)
            if found is None or (other := read(found)).serial != leased.serial or other.linked != leased.linked:
                self._give_up(fresh)
                return None
            raw = found
        return Held(fresh, granted.access)

    # the end

    async def end(self, id: str, why: str) -> Connection | None:
        """End a connection by its id, at once and in every replica within a second. None: there is none."""
        return await asyncio.to_thread(end_connection, self._table, id, why, self._record, self._now())

    def _end(self, key: str, raw: bytes, why: str) -> bool:
        """False when the record changed meanwhile."""
        if not self._table.swap(key, raw, None):
            return False
        self._record("disconnected", {**_about(read(raw)), "why": why})
        return True

    def _give_up(self, connection: Connection) -> None:
        _tombstone(self._table, connection, self._now())

    async def tell(self) -> int:
        """Tell authorization servers of connections that were ended here (RFC 7009). How many were told.

        One that cannot be told stays on the list for a week.
        """
        told = 0
        for key, raw in await asyncio.to_thread(lambda: list(self._table.scan(ENDED))):
            connection = read(raw)
            try:
                access, refresh, client = await asyncio.to_thread(self._opened, connection)
                exchange = self._accounts[connection.server].exchange
                await revoke(exchange, connection.revocation_endpoint, client, refresh, access)
            except (DependencyFault, LookupError) as fault:
                self._record("revocation_pending", {**_about(connection), "detail": str(fault)[:300]})
                continue
            told += await asyncio.to_thread(self._table.swap, key, raw, None)
            self._record("revocation_told", _about(connection))
        return told

    async def close(self) -> None:
        """Nobody waits any more. What is under way is finished, so that no token is lost."""
        tasks = list(self._running.values())
        if tasks:
            await asyncio.wait(tasks, timeout=LEASE)
        for task in tasks:
            task.cancel()

    # records

    def _look(self, key: str) -> tuple[bytes | None, Held | None]:
        raw = self._table.get(key)
        if raw is None:
            return None, None
        connection = read(raw)
        return raw, Held(connection, self._opened(connection)[0])

    def _seal(self, person: Person, key: str, access: str, refresh: str, client: Identity) -> bytes:
        secret = "" if client.source == "configured" else client.secret
        return self._sealer.seal(person.owner, key, orjson.dumps([access, refresh, secret]))

    def _opened(self, connection: Connection) -> tuple[str, str, Identity]:
        """Access token, refresh token, and who we are at the token endpoint."""
        opened = self._sealer.open(connection.person.owner, connection.key, connection.sealed)
        access, refresh, secret = orjson.loads(opened)
        account = self._accounts.get(connection.server)
        if account is not None and account.client is not None and account.client.id == connection.client:
            return access, refresh, account.client
        return access, refresh, Identity(connection.client, cast("Method", connection.method), secret, "registered")


def end_connection(
    table: Table, id: str, why: str, record: Callable[[str, Mapping[str, Any]], None], now: float
) -> Connection | None:
    """End the connection whose id begins like this. Needs no key. Raises LookupError when several do."""
    found = [(key, raw) for key, raw in table.scan(f"connection/{id}") if id]
    if len(found) > 1:
        raise LookupError(f"{id!r} is the beginning of several ids")
    for key, raw in found:
        connection = read(raw)
        _tombstone(table, connection, now)  # first: whatever happens in between, the tokens end
        if not table.swap(key, raw, None):
            return end_connection(table, id, why, record, now)
        record("disconnected", {**_about(connection), "why": why})
        return connection
    return None


def _tombstone(table: Table, connection: Connection, now: float) -> None:
    if connection.revocation_endpoint:
        table.put(f"{ENDED}{secrets.token_hex(16)}", connection.dump(), now + _TELL)


def _about(connection: Connection) -> dict[str, Any]:
    return {
        "connection": connection.id,
        "server": connection.server,
        "iss": connection.issuer,
        "sub": connection.subject,
        "authorization_server": connection.authorization_server,
        "scopes": list(connection.scopes),
    }
