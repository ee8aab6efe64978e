"""Every Table behaves like this. The SQLite one also across processes, crashes and broken disks; PostgreSQL as well
across replicas (test_postgres.py)."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.memory import MemoryTable
from limen.adapters.postgres import Link, PostgresTable
from limen.adapters.sqlite import SqliteTable, _successor, open_tables
from limen.core.faults import DependencyFault
from stores import shared_postgres


class Clock:
    def __init__(self):
        self.at = 1000.0

    def __call__(self):
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def table(request, tmp_path, clock):
    if request.param == "memory":
        yield MemoryTable(clock)
        return
    if request.param == "postgres":
        made = PostgresTable(Link(shared_postgres()), f"t{uuid.uuid4().hex[:16]}", clock)
        yield made
        made.close()
        return
    made = SqliteTable(tmp_path / "state.db", "things", clock)
    yield made
    made.close()


def test_what_is_put_can_be_read(table):
    assert table.get("a") is None
    table.put("a", b"1")
    table.put("a", b"2")
    assert table.get("a") == b"2"
    assert table.get("A") is None


@pytest.mark.parametrize("key", ["", "a\x1fb\x1fc", "x\0y", "ключ/%_'\"", "\U0010ffff", "k" * 5000])
@pytest.mark.parametrize("value", [b"", b"\0\xff", b"x" * 300_000])
def test_any_text_is_a_key_and_any_bytes_a_value(table, key, value):
    table.put(key, value)
    assert table.get(key) == value
    assert list(table.scan(key[:3])) == [(key, value)]


def test_swap_writes_only_over_what_was_expected(table):
    assert not table.swap("a", b"0", b"1")
    assert table.swap("a", None, b"1")
    assert not table.swap("a", None, b"2")
    assert not table.swap("a", b"other", b"2")
    assert table.swap("a", b"1", b"2")
    assert table.get("a") == b"2"
    assert not table.swap("a", b"1", None)
    assert table.swap("a", b"2", None)
    assert table.get("a") is None
    assert table.swap("a", None, None)


def test_what_has_expired_is_absent(table, clock):
    table.put("a", b"1", expires=1010.0)
    table.put("b", b"1")
    assert table.get("a") == b"1"
    clock.at = 1010.0
    assert table.get("a") is None
    assert list(table.scan("")) == [("b", b"1")]
    assert not table.swap("a", b"1", b"2")
    assert table.swap("a", None, b"3", expires=1020.0)
    assert table.get("a") == b"3"
    clock.at = 1021.0
    assert table.get("a") is None


def test_put_replaces_the_expiry_too(table, clock):
    table.put("a", b"1", expires=1001.0)
    table.put("a", b"2")
    clock.at = 5000.0
    assert table.get("a") == b"2"


def test_scan_is_by_prefix_in_order_and_not_disturbed_by_writes(table):
    for key in ("p/2", "p/1", "p/\U0010ffff", "p0", "q", "p", "p%", "P/1"):
        table.put(key, b"x")
    assert [key for key, _ in table.scan("p/")] == ["p/1", "p/2", "p/\U0010ffff"]
    walk = table.scan("p/")
    next(walk)
    table.put("p/15", b"y")
    assert [key for key, _ in walk] == ["p/2", "p/\U0010ffff"]


@given(st.text(max_size=4), st.text(max_size=4))
@settings(max_examples=300, deadline=None)
def test_the_range_of_a_prefix_is_exact(prefix, text):
    upper = _successor(prefix)
    inside = prefix.encode() <= text.encode() and (upper is None or text.encode() < upper.encode())
    assert inside == text.startswith(prefix)


def test_expired_rows_are_deleted_in_the_end(tmp_path, clock):
    table = SqliteTable(tmp_path / "state.db", "things", clock)
    table.put("old", b"x", expires=1001.0)
    clock.at = 2000.0
    for index in range(300):
        table.put(f"n{index % 3}", b"y")
    rows = sqlite3.connect(tmp_path / "state.db").execute("SELECT count(*) FROM table_things").fetchone()
    assert rows == (3,)


def test_tables_of_one_file_are_apart_and_only_the_owner_may_read(tmp_path):
    path = tmp_path / "state.db"
    one, other = SqliteTable(path, "one"), SqliteTable(path, "other")
    one.put("a", b"1")
    assert other.get("a") is None
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    with pytest.raises(ValueError):
        SqliteTable(path, "x; drop table table_one")


def test_the_change_token_tells_of_own_and_foreign_writes(tmp_path):
    mine, other = SqliteTable(tmp_path / "state.db", "t"), SqliteTable(tmp_path / "state.db", "t")
    first = mine.change_token()
    assert mine.change_token() == first
    other.put("a", b"1")
    second = mine.change_token()
    assert second != first
    mine.put("a", b"2")
    assert mine.change_token() != second
    third = mine.change_token()
    assert not mine.swap("a", b"no", b"3")
    assert mine.change_token() == third
    SqliteTable(tmp_path / "state.db", "beside").put("a", b"1")  # what watchers write is no reason to compile rules
    assert mine.change_token() == third
    assert other.swap("a", b"2", None)
    assert mine.change_token() != third


def _count(path, times, wins):
    table, won = SqliteTable(path, "race"), 0
    for _ in range(times):
        while True:
            old = table.get("n")
            if table.swap("n", old, b"%d" % (int(old or b"0") + 1)):
                break
    for index in range(times):
        won += table.swap(f"once/{index}", None, str(os.getpid()).encode())
    wins.put(won)


def test_processes_never_lose_a_swap(tmp_path):
    context = multiprocessing.get_context("spawn")
    wins = context.Queue()
    workers = [context.Process(target=_count, args=(tmp_path / "race.db", 60, wins)) for _ in range(3)]
    for worker in workers:
        worker.start()
    total = sum(wins.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(30)
    assert SqliteTable(tmp_path / "race.db", "race").get("n") == b"180"
    assert total == 60


_WRITER = """
import sys
from limen.adapters.sqlite import SqliteTable
table = SqliteTable(sys.argv[1], "t")
index = 0
while True:
    table.put(f"k{index}", b"%d" % index * 50)
    print(index, flush=True)
    index += 1
"""


def test_killed_while_writing_everything_acknowledged_is_there(tmp_path):
    path = tmp_path / "state.db"
    source = str(Path(sys.modules["limen"].__file__).parents[1])
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": source}
    )
    for _ in range(50):
        last = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.wait()
    writer.stdout.close()
    last = int(rest[-1]) if rest else last
    table = SqliteTable(path, "t")
    assert all(table.get(f"k{index}") == b"%d" % index * 50 for index in range(last + 1))
    table.put("after", b"1")


def test_a_broken_disk_is_a_fault_and_never_an_empty_answer(tmp_path):
    with pytest.raises(DependencyFault):
        SqliteTable(tmp_path / "nowhere" / "state.db", "t")
    with pytest.raises(DependencyFault):
        SqliteTable(tmp_path, "t")
    (tmp_path / "junk.db").write_bytes(b"this is not a database" * 1000)
    with pytest.raises(DependencyFault):
        SqliteTable(tmp_path / "junk.db", "t")
    assert (tmp_path / "junk.db").read_bytes().startswith(b"this is not")


def test_a_damaged_file_is_refused_at_the_start(tmp_path):
    path = tmp_path / "state.db"
    table = SqliteTable(path, "t")
    for index in range(400):
        table.put(f"key{index:04}", b"v" * 500)
    table.close()
    data = bytearray(path.read_bytes())
    for at in range(4096 * 3, len(data), 4096):
        data[at : at + 200] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(DependencyFault):
        SqliteTable(path, "t")


@pytest.mark.parametrize("file", ["state.db", "state-sessions.db"])
def test_every_file_of_many_tables_is_looked_through(tmp_path, file):
    names = ("catalog", "marks", "sessions", "spent")
    tables = open_tables(tmp_path / "state.db", names)
    for index in range(400):
        tables["marks"].put(f"key{index:04}", b"v" * 500)
        tables["spent"].put(f"key{index:04}", b"v" * 500)
    for table in tables.values():
        table.close()
    data = bytearray((tmp_path / file).read_bytes())
    for at in range(4096 * 3, len(data), 4096):
        data[at : at + 200] = b"\xff" * 200
    (tmp_path / file).write_bytes(data)
    with pytest.raises(DependencyFault, match="damaged"):
        open_tables(tmp_path / "state.db", names)


def test_a_full_disk_refuses_the_write_and_keeps_the_rest(tmp_path):
    table = SqliteTable(tmp_path / "state.db", "t")
    table.put("a", b"1")
    table._connection.execute("PRAGMA max_page_count = 8")
    with pytest.raises(DependencyFault):
        table.put("b", b"x" * 200_000)
    with pytest.raises(DependencyFault):
        table.swap("a", b"1", b"x" * 200_000)
    assert table.get("a") == b"1"
    assert table.swap("a", b"1", b"2")


def test_use_after_close_and_keys_that_are_not_text_are_faults(tmp_path):
    table = SqliteTable(tmp_path / "state.db", "t")
    with pytest.raises(DependencyFault):
        table.put("a\ud800", b"1")
    table.close()
    for use in (lambda: table.get("a"), lambda: table.scan(""), lambda: table.swap("a", None, b""), table.change_token):
        with pytest.raises(DependencyFault):
            use()


def test_a_lock_held_by_another_process_is_a_fault_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("limen.adapters.sqlite._BUSY_SECONDS", 0.05)
    table = SqliteTable(tmp_path / "state.db", "t")
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DependencyFault) as fault:
        table.swap("a", None, b"1")
    assert fault.value.retryable
    assert table.get("a") is None
    other.execute("ROLLBACK")
    assert table.swap("a", None, b"1")
    other.close()


HAMMER = """
import sys
from pathlib import Path
from limen.adapters.sqlite import SqliteTable

for turn in range(150):
    tables = [SqliteTable(Path(sys.argv[1]), name) for name in ("one", "two", "three")]
    for table in tables:
        table.put(f"{sys.argv[2]}-{turn}", b"x" * 2000)
    for table in tables:
        table.close()
"""


def test_several_tables_of_one_file_in_several_processes(tmp_path: Path) -> None:
    """Opening a second table must not drop the locks of the first (POSIX locks belong to the process)."""
    path = tmp_path / "shared.db"
    held = [SqliteTable(path, name) for name in ("one", "two", "three")]
    workers = [subprocess.Popen([sys.executable, "-c", HAMMER, str(path), str(number)]) for number in range(3)]
    for turn in range(300):
        again = SqliteTable(path, "two")
        held[turn % 3].put(f"held-{turn}", b"y" * 2000)
        again.close()
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    fresh = SqliteTable(path, "one")  # checks the whole file
    assert sum(1 for _ in fresh.scan("held-")) == 100
    assert sum(1 for _ in fresh.scan("1-")) == 150
