"""`Table` in one SQLite file: durable, shared by several processes of one machine, no server to run."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from limen.core.faults import DependencyFault

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_APART: Final = {
    "seen": "seen", "sessions": "sessions", "spent": "sessions", "counts": "counts", "attempts": "attempts",
}  # fmt: skip  # table -> file
_SMALL: Final = frozenset({"sessions", "counts", "attempts"})
_SHREDDED: Final = frozenset({"vault"})  # what is deleted there must not stay in the file
_CHANGES: Final = "limen_changes"  # how often each table of a file was written
_BUSY_SECONDS: Final = 5.0
_SWEEP_EVERY: Final = 256
_PRAGMAS: Final = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # a decision, or a used approval, must survive a power cut
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cell_size_check=ON",
)


class SqliteTable:
    """Implements `core.ports.Table`. `name` lets several tables share a file. All methods raise DependencyFault.

    One connection behind one lock: threads may share an instance, processes open the same path each.
    """

    def __init__(
        self,
        path: Path | str,
        name: str,
        now: Callable[[], float] = time.time,
        *,
        durable: bool = True,
        sound: bool = False,
        shredded: bool = False,
    ) -> None:
        """Open or create, readable by the owner only. The last writes to what is not `durable` may be lost in a power
        cut. `sound`: the whole file was looked through just now, for another of its tables. `shredded`: what is deleted
        or replaced is overwritten, and deletions leave the write-ahead log as well. Raises DependencyFault for
        a file that is not a sound database, ValueError for a name that is not one."""
        if not _NAME.fullmatch(name):
            raise ValueError("a table name is a-z, 0-9 and _, at most 32 characters")
        self._lock, self._now, self._table, self._writes = threading.RLock(), now, f"table_{name}", 0
        self._shredded = shredded
        self._file, self._changes = (-1, -1), -1  # see `change_token`
        try:
            with suppress(FileExistsError):
                # Only a file that was not there is opened here: closing any descriptor of a database drops the POSIX
                # locks of every other connection this process has to it, and two writers then corrupt it.
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise DependencyFault("table", f"cannot open: {error}") from None
        try:
            with self._fault():
                for pragma in _PRAGMAS:
                    self._connection.execute(pragma)
                if shredded:
                    self._connection.execute("PRAGMA secure_delete=ON")
                if not durable:
                    self._connection.execute("PRAGMA synchronous=NORMAL")
                if not sound and (found := self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                    raise DependencyFault("table", f"the file is damaged: {found}", retryable=False)
                self._connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {self._table}"
                    " (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires REAL) WITHOUT ROWID, STRICT"
                )
                self._count_changes()
        except DependencyFault:
            self._connection.close()
            raise

    def _count_changes(self) -> None:
        """Whoever writes this table, counts it: what others write to the same file is no change of it."""
        execute = self._connection.execute
        execute(f"CREATE TABLE IF NOT EXISTS {_CHANGES} (name TEXT PRIMARY KEY, count INTEGER) WITHOUT ROWID, STRICT")
        execute(f"INSERT OR IGNORE INTO {_CHANGES} VALUES (?, 0)", (self._table,))  # noqa: S608 - our own names
        for act in ("INSERT", "UPDATE", "DELETE"):
            execute(
                f"CREATE TRIGGER IF NOT EXISTS {self._table}_{act.lower()} AFTER {act} ON {self._table} BEGIN"  # noqa: S608
                f" UPDATE {_CHANGES} SET count = count + 1 WHERE name = '{self._table}'; END"
            )

    def get(self, key: str) -> bytes | None:
        """The live value, or None when absent or expired."""
        with self._fault():
            row = self._connection.execute(
                f"SELECT value FROM {self._table} WHERE key = ? AND (expires IS NULL OR expires > ?)",  # noqa: S608
                (key, self._now()),
            ).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, key: str, value: bytes, expires: float | None = None) -> None:
        """Write unconditionally. On disk when this returns."""
        with self._fault():
            self._write(key, value, expires)
            self._wrote()

    def swap(self, key: str, old: bytes | None, new: bytes | None, expires: float | None = None) -> bool:
        """Write `new` (None: delete) only if the current live value is `old` (None: absent). True if it was."""
        with self._fault(), self._exclusive():
            if self.get(key) != old:
                return False
            if new is None:
                self._connection.execute(f"DELETE FROM {self._table} WHERE key = ?", (key,))  # noqa: S608
            else:
                self._write(key, new, expires)
        with self._fault():
            self._wrote()
            if new is None and self._shredded:
                # Whoever reads meanwhile keeps the log alive until the next time; the answer would say so.
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return True

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Live records whose key starts with `prefix`, in key order, as of the moment of the call."""
        upper = _successor(prefix)
        bound = "" if upper is None else "AND key < ?"
        given = (prefix, self._now()) if upper is None else (prefix, self._now(), upper)
        with self._fault():
            rows = self._connection.execute(
                f"SELECT key, value FROM {self._table} WHERE key >= ?"  # noqa: S608
                f" AND (expires IS NULL OR expires > ?) {bound} ORDER BY key",
                given,
            ).fetchall()
        return ((key, bytes(value)) for key, value in rows)

    def change_token(self) -> tuple[int, ...]:
        """Differs from the last one when this table was written, by us or by another process. Costs microseconds."""
        with self._fault():
            file = int(self._connection.execute("PRAGMA data_version").fetchone()[0]), self._writes
            if file != self._file:  # somebody wrote something to it
                counted = self._connection.execute(f"SELECT count FROM {_CHANGES} WHERE name = ?", (self._table,))  # noqa: S608
                self._changes, self._file = int(counted.fetchone()[0]), file
            return (self._changes,)

    def close(self) -> None:
        """Release the file. Further use raises DependencyFault."""
        with self._fault():
            self._connection.close()

    def _write(self, key: str, value: bytes, expires: float | None) -> None:
        self._connection.execute(
            f"INSERT INTO {self._table} (key, value, expires) VALUES (?, ?, ?) ON CONFLICT (key)"  # noqa: S608
            " DO UPDATE SET value = excluded.value, expires = excluded.expires",
            (key, value, expires),
        )

    def _wrote(self) -> None:
        """Count a write, and now and then delete what has expired."""
        self._writes += 1
        if self._writes % _SWEEP_EVERY == 0:
            self._connection.execute(
                f"DELETE FROM {self._table} WHERE expires <= ?",  # noqa: S608
                (self._now(),),
            )

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Nobody else writes between our read and our write."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _fault(self) -> Iterator[None]:
        """Whatever goes wrong below is the disk's fault, not the caller's."""
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:
                raise DependencyFault("table", str(error)) from None
            except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
                raise DependencyFault("table", f"{type(error).__name__}: {error}", retryable=False) from None


def open_tables(path: Path, names: Sequence[str]) -> dict[str, SqliteTable]:
    """Tables of one place. What is written for every caller is in files beside it: it must not look like a change of
    the catalog; a power cut may cost the last of what is many and small. Raises DependencyFault."""
    tables: dict[str, SqliteTable] = {}
    sound: set[Path] = set()
    for name in names:
        file = file_of(path, name)
        tables[name] = SqliteTable(
            file, name, durable=name not in _SMALL, sound=file in sound, shredded=name in _SHREDDED
        )
        sound.add(file)
    return tables


def file_of(path: Path, name: str) -> Path:
    """Which file a table of this place is in."""
    return path.with_name(f"{path.stem}-{_APART[name]}{path.suffix}") if name in _APART else path


def _successor(prefix: str) -> str | None:
    """The smallest text greater than every text that starts with `prefix`; None when there is none."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)
