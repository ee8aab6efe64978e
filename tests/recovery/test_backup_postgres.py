"""J4: records that are in PostgreSQL, as of one moment, and back into an empty database."""

import psycopg
import pytest

from limen.adapters.postgres import open_tables
from limen.adapters.snapshots import load, snapshot
from limen.core.faults import ConfigFault, DependencyFault
from stores import new_postgres, shared_postgres

NAMES = ("catalog", "marks")


def database(name: str) -> str:
    """An empty database of its own."""
    url = shared_postgres()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    return url.rsplit("/", 1)[0] + f"/{name}"


def test_rows_of_one_moment_go_into_an_empty_database_and_into_no_other() -> None:
    origin, goal = database("recovery_origin"), database("recovery_goal")
    tables = open_tables(origin, NAMES)
    for number in range(1500):
        tables["marks"].put(f"mark/{number}", b"before", 4e9 if number % 2 else None)
    tables["catalog"].put("a\0b", bytes(range(256)))
    with snapshot(origin, NAMES) as rows:
        for number in range(1500):
            if number % 10 == 0:
                tables["marks"].put(f"mark/{number}", b"after")
        count = load(goal, NAMES, ((name, row) for name in NAMES for row in rows(name)))
    assert count == 1501
    copies = open_tables(goal, NAMES)
    assert {value for _, value in copies["marks"].scan("mark/")} == {b"before"}
    assert copies["catalog"].get("a\0b") == bytes(range(256))
    with snapshot(origin, NAMES) as rows, pytest.raises(ConfigFault, match="already"):
        load(goal, NAMES, ((name, row) for name in NAMES for row in rows(name)))
    for one in (*tables.values(), *copies.values()):
        one.close()


def test_rows_that_break_off_leave_the_database_empty() -> None:
    goal = database("recovery_broken")

    def rows():  # type: ignore[no-untyped-def]
        yield "marks", ("a", b"1", None)
        raise DependencyFault("backup", "it ends here")

    with pytest.raises(DependencyFault, match="ends here"):
        load(goal, NAMES, rows())
    assert load(goal, NAMES, [("marks", ("a", b"1", None))]) == 1


def test_a_database_that_is_gone_is_a_fault() -> None:
    url, server = new_postgres()
    server.kill()
    with pytest.raises(DependencyFault), snapshot(url, NAMES) as rows:
        list(rows("marks"))
