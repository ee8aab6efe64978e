"""The index of the logs of all replicas in PostgreSQL, one partition for each day."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from limen.adapters.index_sql import NUMBERS, STORED, TEXTS, Asked, indexes, loaded, packed, stored, wanted
from limen.adapters.postgres import translated
from limen.audit.index import Place, Query, Row
from limen.core.faults import DependencyFault

_DAY: Final = 86_400
_DAYS: Final = range(17_000, 47_000)  # 2016 to 2098: what is outside shares one partition
_MOST_CACHED: Final = 200_000
_COLUMNS: Final = ", ".join(STORED)
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
{"".join(f"CREATE INDEX IF NOT EXISTS {name} ON limen_event {what};" for name, what in indexes("at, id").items())}
"""
_LOCK: Final = "SELECT pg_advisory_xact_lock(70351989)"  # two replicas that make the same table at once fail otherwise


class PostgresIndex:
    """Implements `audit.index.Index`. `seconds`: the longest a statement may take."""

    def __init__(self, url: str, seconds: int = 5) -> None:
        self._url, self._seconds, self._lock = url, seconds, threading.RLock()
        self._connection: psycopg.Connection[Any] | None = None
        self._numbers: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._logs: dict[str, int] = {}
        self._days: set[int] = set()

    def add(self, rows: Sequence[Row]) -> None:
        """See `Index.add`."""
        with self._fault() as connection:
            try:
                self._make_days(connection, {int(row.at // _DAY) for row in rows} & set(_DAYS) - self._days)
                self._number(connection, {text for row in rows for name in TEXTS if (text := getattr(row, name))})
                logs = {name: self._log(connection, name) for name in {row.log for row in rows}}
                values = [stored(row, logs[row.log], self._numbers.__getitem__) for row in rows]
                statement = (
                    f"INSERT INTO limen_event ({_COLUMNS}) SELECT * FROM unnest({_ARRAYS}) ON CONFLICT DO NOTHING"  # noqa: S608 - our own names
                )
                connection.execute(statement.encode(), [list(column) for column in zip(*values, strict=True)])
            except psycopg.Error:
                self._logs, self._days = {}, set()
                raise

    def find(self, query: Query) -> list[tuple[Row, Place]]:
        """See `Index.find`."""
        with self._fault() as connection:
            asked = self._asked(connection, query)
            if asked is None:
                return []
            where, values = asked.page(query)
            statement = f"SELECT {_COLUMNS} FROM limen_event WHERE {where}"  # noqa: S608 - our own names
            return self._loaded(connection, connection.execute(statement.encode(), values).fetchall())

    def count(self, query: Query) -> int:
        """See `Index.count`."""
        with self._fault() as connection:
            asked = self._asked(connection, query)
            if asked is None:
                return 0
            statement = f"SELECT count(*) FROM limen_event WHERE {asked.where}"  # noqa: S608 - our own names
            row = connection.execute(statement.encode(), asked.values).fetchone()
            return int(row[0]) if row else 0

    def explain(self, query: Query) -> str:
        """See `Index.explain`."""
        with self._fault() as connection:
            asked = self._asked(connection, query)
            if asked is None:
                return "nothing to look for"
            where, values = asked.page(query)
            statement = f"EXPLAIN SELECT {_COLUMNS} FROM limen_event WHERE {where}"  # noqa: S608 - our own names
            return "\n".join(row[0] for row in connection.execute(statement.encode(), values))

    def numbers(self, log: str) -> Iterator[Row]:
        """See `Index.numbers`. In order of time, which of one log is that of numbers unless its clock was set."""
        after = None
        while True:
            page = self.find(Query(log=log, newest_first=False, limit=5000, after=after.text() if after else ""))
            yield from (row for row, _ in page)
            if not page:
                return
            after = page[-1][1]

    def forget(self, log: str, first: int = 0, last: int | None = None) -> None:
        """See `Index.forget`. The partition of a day of which nothing is left is emptied, not dropped."""
        with self._fault() as connection:
            number = self._known_logs(connection).get(log)
            if number is not None:
                bounds = (packed(number, first), packed(number, NUMBERS if last is None else last))
                connection.execute("DELETE FROM limen_event WHERE id >= %s AND id < %s", bounds)

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _loaded(self, connection: psycopg.Connection[Any], rows: Sequence[Sequence[Any]]) -> list[tuple[Row, Place]]:
        places = [place for place, name in enumerate(STORED) if name in TEXTS]
        missing = {row[place] for row in rows for place in places if row[place] is not None} - self._texts.keys()
        if missing:
            if len(self._texts) > _MOST_CACHED:
                self._texts.clear()
                missing = {row[place] for row in rows for place in places if row[place] is not None}
            found = connection.execute("SELECT number, text FROM limen_text WHERE number = ANY(%s)", (list(missing),))
            self._texts.update(dict(found.fetchall()))
        logs = {number: name for name, number in self._known_logs(connection).items()}
        return [loaded(row, logs, self._texts.__getitem__) for row in rows]

    def _asked(self, connection: psycopg.Connection[Any], query: Query) -> Asked | None:
        """None: something is asked for that no row has."""
        asked = wanted(query)
        found = connection.execute("SELECT text, number FROM limen_text WHERE text = ANY(%s)", (asked,))
        known = dict(found.fetchall())
        log = self._known_logs(connection).get(query.log)
        if len(known) < len(set(asked)) or (query.log and log is None):
            return None
        return Asked(query, known, log, "%s")

    def _known_logs(self, connection: psycopg.Connection[Any]) -> dict[str, int]:
        return dict(connection.execute("SELECT name, number FROM limen_log").fetchall())

    def _log(self, connection: psycopg.Connection[Any], name: str) -> int:
        if name not in self._logs:
            connection.execute("INSERT INTO limen_log (name) VALUES (%s) ON CONFLICT DO NOTHING", (name,))
            self._logs = self._known_logs(connection)
        return self._logs[name]

    def _number(self, connection: psycopg.Connection[Any], texts: set[str]) -> None:
        """Know the numbers of all of these."""
        if len(self._numbers) > _MOST_CACHED:
            self._numbers.clear()
        new = sorted(texts - self._numbers.keys())  # in order: two replicas that insert the same do not deadlock
        if new:
            connection.execute("INSERT INTO limen_text (text) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", (new,))
            found = connection.execute("SELECT text, number FROM limen_text WHERE text = ANY(%s)", (new,))
            self._numbers.update(dict(found.fetchall()))

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
            except KeyError:
                text = "the index is damaged: limen audit index rebuild"
                raise DependencyFault("postgres", text, retryable=False) from None
