"""All rows of all tables as they were at one moment, while others write; and putting them where there are none.

SQLite: a read transaction on each file, all begun before the first row is read. PostgreSQL: one transaction,
REPEATABLE READ, read only. A row is key, value and expiry (seconds since the epoch, None: never).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

from limen.adapters.sqlite import file_of, open_tables
from limen.core.faults import ConfigFault, DependencyFault

Row = tuple[str, bytes, float | None]
Rows = Callable[[str], Iterator[Row]]  # of one table
_BATCH: Final = 1000


@contextmanager
def snapshot(place: Path | str, names: Sequence[str]) -> Iterator[Rows]:
    """Rows of each of these tables as they are now, for as long as the context lasts. Raises DependencyFault."""
    if isinstance(place, Path):
        with _sqlite(place, names) as rows:
            yield rows
        return
    with _postgres(place) as rows:
        yield rows


def load(place: Path | str, names: Sequence[str], rows: Iterable[tuple[str, Row]]) -> int:
    """Put rows, each with the name of its table, into tables that are empty: all of them or none. How many.

    Raises ConfigFault where something is there already, DependencyFault.
    """
    return _fill_sqlite(place, names, rows) if isinstance(place, Path) else _fill_postgres(place, rows)


@contextmanager
def _sqlite(path: Path, names: Sequence[str]) -> Iterator[Rows]:
    with ExitStack() as stack:
        files: dict[Path, sqlite3.Connection] = {}
        try:
            for file in dict.fromkeys(file_of(path, name) for name in names):
                if file.exists():
                    files[file] = stack.enter_context(closing(sqlite3.connect(file, isolation_level=None, timeout=5.0)))
                    files[file].execute("PRAGMA query_only=ON")
                    files[file].execute("BEGIN")
            for connection in files.values():
                connection.execute(
                    "SELECT count(*) FROM sqlite_master"
                ).fetchone()  # the transaction begins to see here
        except sqlite3.Error as error:
            raise DependencyFault("table", str(error)) from None

        def rows(name: str) -> Iterator[Row]:
            connection = files.get(file_of(path, name))
            try:
                known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
                if connection is None or connection.execute(known, (f"table_{name}",)).fetchone() is None:
                    return
                for key, value, expires in connection.execute(
                    f"SELECT key, value, expires FROM table_{name} ORDER BY key"  # noqa: S608 - one of our own names
                ):
                    yield key, bytes(value), expires
            except sqlite3.Error as error:
                raise DependencyFault("table", str(error)) from None

        yield rows


def _fill_sqlite(path: Path, names: Sequence[str], rows: Iterable[tuple[str, Row]]) -> int:
    for table in open_tables(path, names).values():
        table.close()
    count = 0
    with ExitStack() as stack:
        files: dict[Path, sqlite3.Connection] = {}
        try:
            for file in dict.fromkeys(file_of(path, name) for name in names):
                files[file] = stack.enter_context(closing(sqlite3.connect(file, isolation_level=None, timeout=5.0)))
                files[file].execute("BEGIN IMMEDIATE")
            for name, row in rows:
                insert = f"INSERT INTO table_{name} (key, value, expires) VALUES (?, ?, ?)"  # noqa: S608 - own names
                files[file_of(path, name)].execute(insert, row)
                count += 1
            for connection in files.values():
                connection.execute("COMMIT")
        except sqlite3.IntegrityError:
            raise ConfigFault("there are records already", str(path)) from None
        except sqlite3.Error as error:
            raise DependencyFault("table", str(error)) from None
    return count


@contextmanager
def _postgres(url: str) -> Iterator[Rows]:
    import psycopg

    from limen.adapters.postgres import translated

    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            connection.execute("SELECT 1").fetchone()

            def rows(name: str) -> Iterator[Row]:
                with connection.cursor(name=f"limen_{name}") as cursor:
                    cursor.itersize = _BATCH
                    cursor.execute("SELECT key, value, expires FROM limen_record WHERE name = %s", (name,))
                    for key, value, expires in cursor:
                        yield bytes(key).decode(), bytes(value), expires

            yield rows
    except psycopg.Error as error:
        raise translated(error) from None


def _fill_postgres(url: str, rows: Iterable[tuple[str, Row]]) -> int:
    import psycopg

    from limen.adapters.postgres import Link, PostgresTable, translated

    link = Link(url)
    PostgresTable(link, "marks").close()  # makes the schema
    insert: Any = "INSERT INTO limen_record (name, digest, key, value, expires) VALUES (%s, %s, %s, %s, %s)"
    count = 0
    try:
        with psycopg.connect(url, connect_timeout=5) as connection, connection.cursor() as cursor:
            cursor.execute("LOCK TABLE limen_record IN EXCLUSIVE MODE")
            if cursor.execute("SELECT 1 FROM limen_record LIMIT 1").fetchone() is not None:
                raise ConfigFault("there are records already", "the database")
            for name, (key, value, expires) in rows:
                raw = key.encode()
                cursor.execute(insert, (name, hashlib.sha256(raw).digest(), raw, value, expires))
                count += 1
            cursor.execute("UPDATE limen_change SET version = version + 1")
    except psycopg.Error as error:
        raise translated(error) from None
    return count
