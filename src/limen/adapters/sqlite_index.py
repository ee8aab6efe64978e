"""The index of the log in one SQLite file beside it. Safe to delete: it is made again from the log.

The file is opened when it is first needed, so that a damaged one stops the index and nothing else.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, Final

from limen.adapters.index_sql import LISTED, STORED, Asked, SqlIndex, Way, indexes
from limen.audit.index import Row, TooLong
from limen.core.faults import DependencyFault

_VERSION: Final = 1
_PROBED: Final = 100_000  # rows counted to find out which of several indexes leaves the fewest
_STEPS: Final = 10_000  # of SQLite's machine between two looks at the clock: well below a millisecond
_MARKS: Final = f"({', '.join('?' * len(STORED))})"
_AT_ONCE: Final = 20  # rows of one statement: a quarter cheaper, and the interpreter is let go of for each less often
_INSERT: Final = f"INSERT OR IGNORE INTO limen_event ({LISTED}) VALUES "  # noqa: S608 - our own names
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


class SqliteIndex(SqlIndex):
    """Implements `audit.index.Index`. Threads may share one, processes open the same file each."""

    mark = "?"
    explaining = "EXPLAIN QUERY PLAN"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def add(self, rows: Sequence[Row]) -> None:
        """See `Index.add`."""
        with self._fault() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                values = self._stored(connection, rows)
                whole = len(values) - len(values) % _AT_ONCE
                bundles = (list(chain(*values[at : at + _AT_ONCE])) for at in range(0, whole, _AT_ONCE))
                connection.executemany(_INSERT + ", ".join([_MARKS] * _AT_ONCE), bundles)
                connection.executemany(_INSERT + _MARKS, values[whole:])
                connection.execute("COMMIT")
            except BaseException:
                self._numbers, self._logs = {}, {}  # what was numbered in this transaction was not
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _table(self, connection: sqlite3.Connection, asked: Asked, way: Way | None = None) -> str:
        """SQLite uses one index only, and does not know which leaves the fewest rows."""
        if way is None and len(asked.ways) > 1:
            way = min(asked.ways, key=lambda way: self._probe(connection, asked, way))
        return f"limen_event INDEXED BY {(way or asked.ways[0]).name}"

    def _probe(self, connection: sqlite3.Connection, asked: Asked, way: Way) -> int:
        where, values = asked.first(way, _PROBED)
        table = self._table(connection, asked, way)
        return int(self._run(connection, f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {where})", values)[0][0])  # noqa: S608 - our own names

    @contextmanager
    def _within(self, connection: sqlite3.Connection, seconds: float | None) -> Iterator[None]:
        end = math.inf if seconds is None else time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            raise TooLong from None
        finally:
            connection.set_progress_handler(None, 0)

    def _run(self, connection: sqlite3.Connection, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        return connection.execute(statement, values).fetchall()

    def _enter(self, connection: sqlite3.Connection, texts: Sequence[str]) -> None:
        connection.executemany("INSERT OR IGNORE INTO limen_text (text) VALUES (?)", [(text,) for text in texts])

    def _numbered(self, connection: sqlite3.Connection, texts: set[str]) -> dict[str, int]:
        return dict(self._each(connection, "SELECT text, number FROM limen_text WHERE text = ?", texts))

    def _worded(self, connection: sqlite3.Connection, numbers: set[int]) -> dict[int, str]:
        return dict(self._each(connection, "SELECT number, text FROM limen_text WHERE number = ?", numbers))

    def _each(self, connection: sqlite3.Connection, statement: str, values: set[Any]) -> Iterator[Any]:
        for value in values:
            yield from connection.execute(statement, (value,))

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
