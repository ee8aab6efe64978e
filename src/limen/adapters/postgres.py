"""`Table` and `Bus` in PostgreSQL: one truth for many replicas.

Each call is one statement and one round trip, bounded by `SECONDS`. After a failure nothing is tried for `PAUSE`, so
that a database that does not answer costs each caller an error and not a wait.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import psycopg
from psycopg.abc import PQGen

from limen.core.faults import DependencyFault

SECONDS: Final = 2
PAUSE: Final = 0.2
_SWEEP_EVERY: Final = 256
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_CHANNEL: Final = "limen"
# Keys are bytes: text cannot hold U+0000, and bytes sort like the characters of UTF-8 whatever the locale.
_SCHEMA: Final = """DO $$ BEGIN
PERFORM pg_advisory_xact_lock(70351988);
CREATE TABLE IF NOT EXISTS limen_record (name text NOT NULL, digest bytea NOT NULL, key bytea NOT NULL,
  value bytea NOT NULL, expires double precision, PRIMARY KEY (name, digest));
CREATE INDEX IF NOT EXISTS limen_record_key ON limen_record (name, substring(key from 1 for 512));
CREATE TABLE IF NOT EXISTS limen_change (name text PRIMARY KEY, version bigint NOT NULL);
END $$"""
_LIVE: Final = "(expires IS NULL OR expires > %(now)s)"
_UPSERT: Final = (
    "INSERT INTO limen_record AS r (name, digest, key, value, expires)"
    " VALUES (%(name)s, %(digest)s, %(key)s, %(new)s, %(expires)s)"
    " ON CONFLICT (name, digest) DO UPDATE SET value = excluded.value, expires = excluded.expires"
)
_AT: Final = "WHERE name = %(name)s AND digest = %(digest)s"
# Others are told in the same transaction, so never of a change they cannot see yet.
_TOLD: Final = (
    "WITH w AS ({} RETURNING 1), c AS (INSERT INTO limen_change AS v SELECT %(name)s, 1 FROM w"
    " ON CONFLICT (name) DO UPDATE SET version = v.version + 1 RETURNING 1)"
    " SELECT (SELECT count(*) FROM w), (SELECT count(pg_notify('limen', %(name)s)) FROM c)"
)
_UNTOLD: Final = "WITH w AS ({} RETURNING 1) SELECT count(*) FROM w"


_OPTIONS: Final[dict[str, Any]] = {
    "connect_timeout": SECONDS,
    "options": f"-c statement_timeout={SECONDS}s -c idle_in_transaction_session_timeout={SECONDS}s",
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "tcp_user_timeout": SECONDS * 1000,  # a peer that vanished is noticed on the next statement
    "application_name": "limen",
}


class _Bounded(psycopg.Connection[Any]):
    """A server that is stopped, or a network that swallows, holds nobody for longer than `SECONDS`: the server's own
    time limit does not help there."""

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        """psycopg's own waiting, with an end. The connection is of no use afterwards."""
        began = time.monotonic()
        try:
            return super().wait(gen, interval, timeout=SECONDS)
        except psycopg.Error:
            if time.monotonic() - began >= SECONDS:
                self.pgconn.finish()
            raise


class Link:
    """One connection, opened when needed and again when it broke. Threads take turns."""

    def __init__(self, url: str) -> None:
        self._url, self._lock = url, threading.RLock()
        self._connection: _Bounded | None = None
        self._blocked, self._why, self._closed = 0.0, "", False

    def run(self, statement: str, values: dict[str, Any] | None = None, *, again: bool = False) -> list[Any]:
        """Rows of one statement. `again`: harmless to repeat when the connection broke. Raises DependencyFault."""
        query = statement.encode()
        with self._lock:
            try:
                try:
                    return self._rows(query, values)
                except psycopg.OperationalError:
                    if not again or self._connection is None or not self._connection.closed:
                        raise
                return self._rows(query, values)
            except psycopg.Error as error:
                if self._connection is None or self._connection.closed:
                    self._connection, self._why = None, type(error).__name__
                    self._blocked = time.monotonic() + PAUSE
                raise translated(error) from None

    def _rows(self, query: bytes, values: dict[str, Any] | None) -> list[Any]:
        with self._open().cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def _open(self) -> _Bounded:
        if self._closed:
            raise DependencyFault("postgres", "closed", retryable=False)
        if self._connection is None or self._connection.closed:
            if time.monotonic() < self._blocked:
                raise DependencyFault("postgres", f"unreachable a moment ago: {self._why}")
            self._connection = None
            self._connection = _Bounded.connect(self._url, autocommit=True, **_OPTIONS)
        return self._connection

    def close(self) -> None:
        """Further use raises DependencyFault."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()


def translated(error: psycopg.Error) -> DependencyFault:
    """A fault without what was asked for or with which password: statements and connection strings hold both."""
    state = error.sqlstate or ""
    known = f"{type(error).__name__} {state}".strip()
    lasting = isinstance(error, psycopg.DataError | psycopg.ProgrammingError | psycopg.IntegrityError)
    return DependencyFault("postgres", known, retryable=not lasting)


class PostgresTable:
    """Implements `core.ports.Kept`. Clocks are the callers', as with SQLite. All methods raise DependencyFault."""

    def __init__(self, link: Link, name: str, now: Callable[[], float] = time.time, *, told: bool = True) -> None:
        """Make the tables where they are missing. `told`: every write changes the token and is announced. Raises
        ValueError for a name that is not one."""
        if not _NAME.fullmatch(name):
            raise ValueError("a table name is a-z, 0-9 and _, at most 32 characters")
        self._link, self._name, self._now, self._writes = link, name, now, 0
        self._form = _TOLD if told else _UNTOLD
        # Two replicas that start at once must not both create them: the lock is let go with the transaction.
        link.run(_SCHEMA, again=True)

    def get(self, key: str) -> bytes | None:
        """The live value, or None when absent or expired."""
        rows = self._link.run(f"SELECT value FROM limen_record {_AT} AND {_LIVE}", self._values(key), again=True)  # noqa: S608
        return bytes(rows[0][0]) if rows else None

    def put(self, key: str, value: bytes, expires: float | None = None) -> None:
        """Write unconditionally. Committed when this returns."""
        self._write(_UPSERT, self._values(key, new=value, expires=expires), again=True)

    def swap(self, key: str, old: bytes | None, new: bytes | None, expires: float | None = None) -> bool:
        """Write `new` (None: delete) only if the current live value is `old` (None: absent). True if it was.

        After a fault it may have been written or not.
        """
        values = self._values(key, old=old, new=new, expires=expires)
        if old is None and new is None:
            return self.get(key) is None
        if old is None:
            return self._write(f"{_UPSERT} WHERE r.expires <= %(now)s", values)
        here = f"{_AT} AND value = %(old)s AND {_LIVE}"
        if new is None:
            return self._write(f"DELETE FROM limen_record {here}", values)  # noqa: S608
        return self._write(f"UPDATE limen_record SET value = %(new)s, expires = %(expires)s {here}", values)  # noqa: S608

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Live records whose key starts with `prefix`, in key order, as of the moment of the call."""
        first = _bytes(prefix)
        bounds = {"first": first, "after": first + b"\xff", "low": first[:512], "high": (first + b"\xff")[:512]}
        part = "substring(key from 1 for 512)"
        rows = self._link.run(
            f"SELECT key, value FROM limen_record WHERE name = %(name)s AND {part} >= %(low)s AND {part} <= %(high)s"  # noqa: S608
            f" AND key >= %(first)s AND key < %(after)s AND {_LIVE} ORDER BY key",
            {**bounds, "name": self._name, "now": self._now()},
            again=True,
        )
        return ((bytes(key).decode(), bytes(value)) for key, value in rows)

    def change_token(self) -> tuple[int, int]:
        """Differs from the last one when anybody wrote to this table. Costs a round trip."""
        rows = self._link.run(
            "SELECT version FROM limen_change WHERE name = %(name)s", {"name": self._name}, again=True
        )
        return (int(rows[0][0]) if rows else 0), 0

    def close(self) -> None:
        """Close the connection, which other tables may share."""
        self._link.close()

    def _values(self, key: str, **more: Any) -> dict[str, Any]:
        raw = _bytes(key)
        return {"name": self._name, "digest": hashlib.sha256(raw).digest(), "key": raw, "now": self._now(), **more}

    def _write(self, statement: str, values: dict[str, Any], *, again: bool = False) -> bool:
        written = bool(self._link.run(self._form.format(statement), values, again=again)[0][0])
        self._writes += written
        if self._writes % _SWEEP_EVERY == 0:
            gone = "DELETE FROM limen_record WHERE name = %(name)s AND expires <= %(now)s"
            self._link.run(gone, {"name": self._name, "now": self._now()}, again=True)
        return written


def _bytes(key: str) -> bytes:
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise DependencyFault("postgres", "a key is not text", retryable=False) from None


def open_tables(url: str, names: Sequence[str]) -> dict[str, PostgresTable]:
    """One table for each name. Revocations and counts have connections of their own: they are read in threads, and
    must not wait for what the event loop reads or the other way round."""
    shared = Link(url)
    alone = ("revocations", "counts")
    return {name: PostgresTable(Link(url) if name in alone else shared, name, told=name != "counts") for name in names}


class PostgresBus:
    """Implements `core.ports.Bus` with NOTIFY and LISTEN. Tables announce their own changes under their names."""

    def __init__(self, url: str) -> None:
        self._url, self._link = url, Link(url)

    def publish(self, topic: str) -> None:
        """Raises DependencyFault."""
        self._link.run("SELECT pg_notify('limen', %(topic)s)", {"topic": topic}, again=True)

    async def listen(self, heard: Callable[[str], None]) -> None:
        """See `Bus.listen`."""
        try:
            async with await psycopg.AsyncConnection.connect(self._url, autocommit=True, **_OPTIONS) as connection:
                await connection.execute(f"LISTEN {_CHANNEL}".encode())
                heard("")
                async for notice in connection.notifies():
                    heard(notice.payload)
        except psycopg.Error as error:
            raise translated(error) from None
        raise DependencyFault("postgres", "the connection for notices was closed")
