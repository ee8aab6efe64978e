"""What only PostgreSQL has to show: many writers, a server that goes away, nothing told that should not be."""

from __future__ import annotations

import os
import threading
import time
import uuid

import psycopg
import pytest

from limen.adapters.postgres import Link, PostgresTable
from limen.core.faults import DependencyFault
from stores import new_postgres, shared_postgres


def test_writers_of_many_connections_never_lose_a_swap() -> None:
    name, wins, place = f"race_{uuid.uuid4().hex[:8]}", list[int](), shared_postgres()

    def count() -> None:
        table, won = PostgresTable(Link(place), name), 0
        for index in range(40):
            while True:
                old = table.get("n")
                if table.swap("n", old, b"%d" % (int(old or b"0") + 1)):
                    break
            won += table.swap(f"once/{index}", None, b"x")
        wins.append(won)
        table.close()

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert PostgresTable(Link(shared_postgres()), name).get("n") == b"120"
    assert sum(wins) == 40


def test_replicas_that_start_at_once_make_one_schema() -> None:
    url, server = new_postgres()
    failed = list[BaseException]()

    def start() -> None:
        try:
            PostgresTable(Link(url), "t").put("a", b"1")
        except DependencyFault as fault:
            failed.append(fault)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failed
    server.kill()


def test_a_server_that_goes_away_is_a_fault_and_comes_back() -> None:
    url, server = new_postgres()
    table = PostgresTable(Link(url), "t")
    table.put("a", b"1")
    server.kill()
    for use in (lambda: table.get("a"), lambda: table.swap("a", b"1", b"2"), lambda: list(table.scan(""))):
        with pytest.raises(DependencyFault) as fault:
            use()
        assert fault.value.retryable
    server.start()
    for _ in range(50):
        try:
            assert table.get("a") == b"1"
            break
        except DependencyFault:
            time.sleep(0.1)
    assert table.swap("a", b"1", b"2")
    server.pause()
    started = time.monotonic()
    with pytest.raises(DependencyFault):
        table.get("a")
    assert time.monotonic() - started < 8
    server.resume()
    server.kill()


def test_a_connection_that_was_cut_is_mended_where_nothing_can_be_written_twice() -> None:
    table = PostgresTable(Link(shared_postgres()), "cut")
    table.put("a", b"1")
    with psycopg.connect(shared_postgres(), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                      " AND application_name = 'limen'")  # fmt: skip
    assert table.get("a") == b"1"


def test_long_keys_that_do_not_compress() -> None:
    table = PostgresTable(Link(shared_postgres()), f"long_{uuid.uuid4().hex[:8]}")
    keys = [*sorted(f"p/{os.urandom(4000).hex()}" for _ in range(5)), "p/" + "f" * 600, "q"]
    for key in keys:
        table.put(key, b"x")
    assert [key for key, _ in table.scan("p/")] == sorted(keys[:-1])
    assert [key for key, _ in table.scan(keys[0][:1000])] == [keys[0]]


def test_no_message_holds_a_password_or_a_value() -> None:
    with pytest.raises(DependencyFault) as fault:
        PostgresTable(Link("postgresql://limen:hunter2@127.0.0.1:1/x"), "t")
    assert "hunter2" not in str(fault.value)
    link = Link(shared_postgres())
    with pytest.raises(DependencyFault) as fault:
        link.run("SELECT %(value)s::int", {"value": "planted-value"})
    assert "planted-value" not in str(fault.value)
    assert not fault.value.retryable
    with pytest.raises(ValueError):
        PostgresTable(link, "x; drop table limen_record")
