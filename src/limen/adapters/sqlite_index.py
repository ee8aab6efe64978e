"""The index of the log in one SQLite file beside it. Safe to delete: it is made again from the log.

The file is opened when it is first needed, so that a damaged one stops the index and nothing else.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from limen.adapters.index_sql import NUMBERS, STORED, Asked, indexes, loaded, packed, stored, wanted
from limen.audit.index import COLUMNS, Place, Query, Row
from limen.core.faults import DependencyFault

_VERSION: Final = 1
_MOST_CACHED: Final = 200_000
_PROBED: Final = 200_000  # rows counted to find out which of several columns leaves the fewest
_MARKS: Final = ", ".join("?" * len(STORED))
_COLUMNS: Final = ", ".join(STORED)
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS limen_text (number INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT",
    "CREATE TABLE IF NOT EXISTS limen_log (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",
    "CREATE TABLE IF NOT EXISTS limen_event (id INTEGER PRIMARY KEY, at REAL NOT NULL, severity INTEGER NOT NULL,"
    " type INTEGER, category INTEGER, issuer INTEGER, caller INTEGER, client INTEGER, session INTEGER, server INTEGER,"
    " tool INTEGER, digest INTEGER, decision INTEGER, reason INTEGER, policy INTEGER, ref TEXT, trace TEXT,"
    " risk REAL NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS limen_event_at ON limen_event (at)",
    *(f"CREATE INDEX IF NOT EXISTS {name} ON limen_event {what}" for name, what in indexes("at").items()),
)


class SqliteIndex:
    """Implements `audit.index.Index`. Threads may share one, processes open the same file each."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._numbers: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._logs: dict[str, int] = {}

    def add(self, rows: Sequence[Row]) -> None:
        """See `Index.add`."""
        with self._fault() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                values = [stored(row, self._log(connection, row.log), self._numbered(connection)) for row in rows]
                connection.executemany(f"INSERT OR IGNORE INTO limen_event ({_COLUMNS}) VALUES ({_MARKS})", values)  # noqa: S608 - our own names
                connection.execute("COMMIT")
            except BaseException:
                self._numbers, self._logs = {}, {}  # what was numbered in this transaction was not
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def find(self, query: Query) -> list[tuple[Row, Place]]:
        """See `Index.find`."""
        with self._fault() as connection:
            asked = self._asked(connection, query)
            if asked is None:
                return []
            where, values = asked.page(query)
            rows = connection.execute(self._select(connection, _COLUMNS, asked, where), values).fetchall()
            logs = {number: name for name, number in self._known_logs(connection).items()}
            return [loaded(row, logs, lambda number: self._text(connection, number)) for row in rows]

    def count(self, query: Query) -> int:
        """See `Index.count`."""
        with self._fault() as connection:
            asked = self._asked(connection, query)
            if asked is None:
                return 0
            statement = self._select(connection, "count(*)", asked, asked.where)
            return int(connection.execute(statement, asked.values).fetchone()[0])

    def explain(self, query: Query) -> str:
        """See `Index.explain`."""
        with self._fault() as connection:
            asked = self._asked(connection, query)
            if asked is None:
                return "nothing to look for"
            where, values = asked.page(query)
            statement = "EXPLAIN QUERY PLAN " + self._select(connection, _COLUMNS, asked, where)
            return "\n".join(str(row[3]) for row in connection.execute(statement, values))

    def numbers(self, log: str) -> Iterator[Row]:
        """See `Index.numbers`."""
        after = -1
        while True:
            with self._fault() as connection:
                number = self._known_logs(connection).get(log)
                if number is None:
                    return
                rows = connection.execute(
                    f"SELECT {_COLUMNS} FROM limen_event WHERE id > ? AND id < ? ORDER BY id LIMIT 5000",  # noqa: S608 - our own names
                    (packed(number, after), packed(number + 1, 0)),
                ).fetchall()
                found = [loaded(row, {number: log}, lambda number: self._text(connection, number))[0] for row in rows]
            yield from found
            if not found:
                return
            after = found[-1].number

    def forget(self, log: str, first: int = 0, last: int | None = None) -> None:
        """See `Index.forget`."""
        with self._fault() as connection:
            number = self._known_logs(connection).get(log)
            if number is not None:
                bounds = (packed(number, first), packed(number, NUMBERS if last is None else last))
                connection.execute("DELETE FROM limen_event WHERE id >= ? AND id < ?", bounds)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _asked(self, connection: sqlite3.Connection, query: Query) -> Asked | None:
        """None: something is asked for that no row has."""
        known = {text: number for text in wanted(query) if (number := self._number(connection, text)) is not None}
        log = self._known_logs(connection).get(query.log)
        if len(known) < len(set(wanted(query))) or (query.log and log is None):
            return None
        return Asked(query, known, log, "?")

    def _select(self, connection: sqlite3.Connection, what: str, asked: Asked, where: str) -> str:
        """By the index of the column that leaves the fewest rows: SQLite uses one index only, and does not know."""
        candidates = sorted(asked.columns, key=COLUMNS.index)
        if len(candidates) > 1:
            candidates.sort(key=lambda name: self._probe(connection, asked, name))
        if candidates:
            index = f"limen_event_{candidates[0]}"
        else:
            index = f"limen_event_severity_{asked.level}" if asked.level else "limen_event_at"
        return f"SELECT {what} FROM limen_event INDEXED BY {index} WHERE {where}"  # noqa: S608 - our own names, values apart

    @staticmethod
    def _probe(connection: sqlite3.Connection, asked: Asked, name: str) -> int:
        statement = f"SELECT count(*) FROM (SELECT 1 FROM limen_event WHERE {name} = ? LIMIT {_PROBED})"  # noqa: S608 - our own names
        return int(connection.execute(statement, (asked.columns[name],)).fetchone()[0])

    def _known_logs(self, connection: sqlite3.Connection) -> dict[str, int]:
        return dict(connection.execute("SELECT name, number FROM limen_log").fetchall())

    def _log(self, connection: sqlite3.Connection, name: str) -> int:
        if name not in self._logs:
            connection.execute("INSERT OR IGNORE INTO limen_log (name) VALUES (?)", (name,))
            self._logs = self._known_logs(connection)
        return self._logs[name]

    def _numbered(self, connection: sqlite3.Connection) -> Any:
        """text -> its number, given it now if it has none."""

        def number(text: str) -> int:
            found = self._numbers.get(text)
            if found is None:
                if len(self._numbers) > _MOST_CACHED:
                    self._numbers.clear()
                connection.execute("INSERT OR IGNORE INTO limen_text (text) VALUES (?)", (text,))
                found = self._number(connection, text)
                assert found is not None
                self._numbers[text] = found
            return found

        return number

    def _number(self, connection: sqlite3.Connection, text: str) -> int | None:
        row = connection.execute("SELECT number FROM limen_text WHERE text = ?", (text,)).fetchone()
        return None if row is None else int(row[0])

    def _text(self, connection: sqlite3.Connection, number: int) -> str:
        found = self._texts.get(number)
        if found is None:
            if len(self._texts) > _MOST_CACHED:
                self._texts.clear()
            row = connection.execute("SELECT text FROM limen_text WHERE number = ?", (number,)).fetchone()
            if row is None:
                raise DependencyFault("index", "it is damaged: limen audit index rebuild", retryable=False)
            found = self._texts[number] = str(row[0])
        return found

    def _open(self) -> sqlite3.Connection:
        with suppress(FileExistsError):
            # Closing a descriptor of a database drops its locks: only a file that was not there is opened here.
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, timeout=5.0, isolation_level=None, check_same_thread=False)
        try:
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "trusted_schema=OFF", "cache_size=-32768"):
                connection.execute(f"PRAGMA {pragma}")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise DependencyFault("index", f"{self._path} is of another version: delete it", retryable=False)
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={_VERSION}")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _fault(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                yield self._connection
            except (OSError, sqlite3.Error) as error:
                raise DependencyFault("index", f"{type(error).__name__}: {error}") from None
