"""The index of the logs of all replicas in PostgreSQL, one partition for each day."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from limen.adapters.index_sql import LISTED, STORED, TEXTS, SqlIndex, indexes
from limen.adapters.postgres import translated
from limen.audit.index import Row, TooLong

_DAY: Final = 86_400
_DAYS: Final = range(17_000, 47_000)  # 2016 to 2098: what is outside shares one partition
_TYPES: Final = {"id": "bigint", "at": "double precision", "severity": "smallint", "ref": "text", "trace": "text",
                 "risk": "real", **dict.fromkeys(TEXTS, "integer")}  # fmt: skip
_NEEDED: Final = ("id", "at", "severity", "risk")
_TABLE: Final = ", ".join(f"{name} {_TYPES[name]}{' NOT NULL' if name in _NEEDED else ''}" for name in STORED)
_ARRAYS: Final = ", ".join(f"%s::{_TYPES[name]}[]" for name in STORED)
_NUMBERED: Final = "number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS limen_text ({_NUMBERED}, text text UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS limen_log ({_NUMBERED}, name text UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS limen_event ({_TABLE}, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
CREATE TABLE IF NOT EXISTS limen_event_other PARTITION OF limen_event DEFAULT;
CREATE INDEX IF NOT EXISTS limen_event_id ON limen_event (id);
{"".join(f"CREATE INDEX IF NOT EXISTS {name} ON limen_event {what};" for name, what in indexes("at, id").items())}
"""
_LOCK: Final = "SELECT pg_advisory_xact_lock(70351989)"  # two replicas that make the same table at once fail otherwise


class PostgresIndex(SqlIndex):
    """Implements `audit.index.Index`. `seconds`: the longest a statement may take."""

    mark = "%s"

    def __init__(self, url: str, seconds: int = 5) -> None:
        super().__init__()
        self._url, self._seconds = url, seconds
        self._days: set[int] = set()

    def add(self, rows: Sequence[Row]) -> None:
        """See `Index.add`."""
        with self._fault() as connection:
            try:
                self._make_days(connection, {int(row.at // _DAY) for row in rows} & set(_DAYS) - self._days)
                values = self._stored(connection, rows)
                statement = f"INSERT INTO limen_event ({LISTED}) SELECT * FROM unnest({_ARRAYS}) ON CONFLICT DO NOTHING"  # noqa: S608 - our own names
                self._run(connection, statement, [list(column) for column in zip(*values, strict=True)])
            except psycopg.Error:
                self._logs, self._days = {}, set()
                raise

    @contextmanager
    def _within(self, connection: psycopg.Connection[Any], seconds: float | None) -> Iterator[None]:
        most = 0 if seconds is None else max(1, round(seconds * 1000))  # 0: any time
        try:
            with connection.transaction():
                connection.execute("SELECT set_config('statement_timeout', %s, true)", (str(most),))
                yield
        except psycopg.errors.QueryCanceled:
            raise TooLong from None

    def _run(self, connection: psycopg.Connection[Any], statement: str, values: Sequence[Any] = ()) -> list[Any]:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description is not None else []

    def _enter(self, connection: psycopg.Connection[Any], texts: Sequence[str]) -> None:
        statement = "INSERT INTO limen_text (text) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING"
        connection.execute(statement, (list(texts),))

    def _numbered(self, connection: psycopg.Connection[Any], texts: set[str]) -> dict[str, int]:
        return dict(self._run(connection, "SELECT text, number FROM limen_text WHERE text = ANY(%s)", (list(texts),)))

    def _worded(self, connection: psycopg.Connection[Any], numbers: set[int]) -> dict[int, str]:
        return dict(
            self._run(connection, "SELECT number, text FROM limen_text WHERE number = ANY(%s)", (list(numbers),))
        )

    def _make_days(self, connection: psycopg.Connection[Any], days: set[int]) -> None:
        """A partition for each of these days since the epoch."""
        for day in sorted(days):
            with connection.transaction():
                connection.execute(_LOCK)
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS limen_event_{day} PARTITION OF limen_event"
                    f" FOR VALUES FROM ({day * _DAY}) TO ({(day + 1) * _DAY})".encode()
                )
        self._days |= days

    def _open(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=min(self._seconds, 5),
            options=f"-c statement_timeout={self._seconds}s",
            application_name="limen",
        )
        with connection.transaction():
            connection.execute(_LOCK)
            connection.execute("SET LOCAL statement_timeout = 0")  # what a new version adds to a large index takes long
            connection.execute(_SCHEMA.encode())
        return connection

    @contextmanager
    def _fault(self) -> Iterator[psycopg.Connection[Any]]:
        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = self._open()
                yield self._connection
            except psycopg.Error as error:
                raise translated(error) from None
