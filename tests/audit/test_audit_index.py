"""The index finds what the log holds, by an index of the database, in order, page after page; on both databases."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from limen.adapters.postgres_index import PostgresIndex
from limen.adapters.sqlite_index import SqliteIndex
from limen.audit import index as asking
from limen.audit.index import COLUMNS, INDEXED, Counted, Index, Indexing, Query, Row, counted, page, row_of
from limen.core.events import Event
from limen.core.faults import DependencyFault
from stores import new_postgres

START = 1_700_000_000.0
COUNT = 40_000


def rows(count: int, seed: int = 7) -> list[Row]:
    """A day of calls by people, programs and tools of uneven popularity; two records for each call."""
    dice, person, kind, luck = random.Random(seed), 1.0, 1.0, 1.0
    found = list[Row]()
    for number in range(count):
        call, outcome = number // 2, number % 2
        if outcome == 0:
            person, kind, luck = dice.paretovariate(0.6), dice.paretovariate(0.9), dice.random()
        caller = f"user-{min(int(person), 2000)}"
        tool = f"tool-{min(int(kind), 150)}"
        denied = luck < 0.02
        found.append(
            Row(
                log="limen" if call % 4 else "limen/b", number=number, at=START + call * (86_400 / (count / 2)),
                severity=2 if denied and outcome else 0,
                type=("call.refused" if denied else "call.outcome") if outcome else "call.intent",
                category="call", issuer="https://id.example", caller=caller, client=f"client-{call % 7}",
                session=f"session-{caller}-{call % 3}", server=f"server-{ord(tool[-1]) % 5}", tool=tool,
                digest=f"digest-{tool}", decision="deny" if denied else "allow",
                reason="policy.denied" if denied and outcome else "", policy="p1", ref=f"ref-{call}", trace="",
                risk=0.0,
            )
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def everything() -> list[Row]:
    return rows(COUNT)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def index(
    request: pytest.FixtureRequest, everything: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Index]:
    made: Index
    if request.param == "sqlite":
        made = SqliteIndex(tmp_path_factory.mktemp("index") / "index.db")
    else:
        url, server = new_postgres()
        request.addfinalizer(server.kill)
        made = PostgresIndex(url, 60)
    for start in range(0, COUNT, 5000):
        made.add(everything[start : start + 5000])
    if isinstance(made, PostgresIndex):
        with made._fault() as connection:
            connection.execute("ANALYZE limen_event")
    yield made
    made.close()


QUESTIONS = {
    "caller": Query(caller="user-3"),
    "busiest caller": Query(caller="user-1"),
    "client": Query(client="client-3"),
    "tool": Query(tool="tool-17"),
    "server": Query(server="server-1"),
    "digest": Query(digest="digest-tool-40"),
    "denied": Query(decision="deny"),
    "allowed": Query(decision="allow", since=START + 3600, until=START + 7200),
    "reason": Query(reason="policy.denied"),
    "type": Query(type="call.refused"),
    "session": Query(session="session-user-3-1"),
    "ref": Query(ref="ref-777"),
    "severity": Query(severity="medium"),
    "time": Query(since=START + 40_000, until=START + 40_100),
    "everything": Query(),
    "oldest": Query(newest_first=False, tool="tool-2"),
    "several": Query(caller="user-1", tool="tool-1", decision="deny", since=START + 1000),
    "one log": Query(log="limen/b", caller="user-2"),
    "nobody": Query(caller="nobody"),
    "narrowed": Query(issuer="https://id.example", policy="p1", severity="low"),
}


def expected(everything: list[Row], query: Query) -> list[Row]:
    """The plain answer, without a database."""
    least = ("info", "low", "medium", "high", "critical").index(query.severity)
    found = [
        row
        for row in everything
        if all(getattr(row, name) == value for name, value in query.equal.items())
        and row.severity >= least
        and (query.since is None or row.at >= query.since)
        and (query.until is None or row.at < query.until)
    ]
    logs = {"limen": 0, "limen/b": 1} if everything[0].log == "limen" else {"limen/b": 0, "limen": 1}
    return sorted(found, key=lambda row: (row.at, logs[row.log], row.number), reverse=query.newest_first)


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_is_found_is_what_is_there_and_an_index_finds_it(index: Index, everything: list[Row], name: str) -> None:
    query = QUESTIONS[name]
    right = expected(everything, query)
    found = [row for row, _ in index.find(query)]
    assert [(row.log, row.number) for row in found] == [(row.log, row.number) for row in right[: query.limit]]
    assert found == right[: query.limit]
    assert index.count(query) == len(right)
    plan = index.explain(query)
    if right:
        assert "INDEX" in plan.upper(), plan
        assert "SCAN limen_event" not in plan.replace("SCAN limen_event USING", ""), plan
        assert "Seq Scan" not in "\n".join(one for one in plan.splitlines() if "limen_event_other" not in one), plan


def test_pages_join_without_gaps_or_repeats(index: Index, everything: list[Row]) -> None:
    for newest in (True, False):
        query, found = Query(caller="user-5", limit=37, newest_first=newest), list[Row]()
        while page := index.find(query):
            found += [row for row, _ in page]
            query = Query(caller="user-5", limit=37, newest_first=newest, after=page[-1][1].text())
        assert found == expected(everything, Query(caller="user-5", newest_first=newest))
    with pytest.raises(ValueError, match="page"):
        index.find(Query(after="nonsense"))


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_answer_in_parts_is_the_answer(
    index: Index, everything: list[Row], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_FIRST", 10)
    query = replace(QUESTIONS[name], limit=60)
    right = expected(everything, query)
    assert counted(index, query, None) == Counted(len(right), None)
    found = page(index, query, None)
    assert [row for row, _ in found.rows] == right[:60]
    assert (found.after is None, found.reached) == (len(right) <= 60, None)
    if found.after is not None:
        following = page(index, replace(query, after=found.after.text()), None)
        assert [row for row, _ in following.rows] == right[60:120]


@pytest.mark.parametrize("newest", [True, False])
def test_an_answer_that_takes_too_long_says_how_far_it_goes_and_nothing_is_lost(
    index: Index, everything: list[Row], newest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two conditions that many rows meet, each of them, and hardly any both; no time at all."""
    monkeypatch.setattr(asking, "_FIRST", 100)
    query = Query(client="client-3", tool="tool-2", decision="deny", newest_first=newest)
    right, found, pages = expected(everything, query), list[Row](), 0
    while True:
        one = page(index, query, 0.0)
        found, pages = found + [row for row, _ in one.rows], pages + 1
        if one.after is None:
            break
        assert one.reached is not None
        seen = [row for row in right if (row.at >= one.reached if newest else row.at < one.reached)]
        assert found == seen
        query = replace(query, after=one.after.text())
    assert (found, pages > 5) == (right, True)
    some = counted(index, query, 0.0)
    assert some.since is not None
    assert some.number == sum(row.at >= some.since for row in right) < len(right)


def test_rows_at_the_same_moment_are_neither_lost_nor_told_twice(tmp_path: Path) -> None:
    """A clock that stands still: everything is on the border between two parts."""
    index = SqliteIndex(tmp_path / "index.db")
    index.add([row_of(Event("limen", number, START, "call.intent", "call", subject="ann")) for number in range(5000)])
    assert counted(index, Query(caller="ann"), 0.0).number == 5000
    for newest in (True, False):
        query, found = Query(caller="ann", limit=1700, newest_first=newest), list[int]()
        while (one := page(index, query, 0.0)).rows:
            found += [row.number for row, _ in one.rows]
            if one.after is None:
                break
            query = replace(query, after=one.after.text())
        assert found == sorted(range(5000), reverse=newest)
    index.close()


def test_rows_shown_twice_are_there_once_and_can_be_forgotten(index: Index, everything: list[Row]) -> None:
    before = index.count(Query())
    index.add(everything[:500])
    assert index.count(Query()) == before
    assert sum(1 for _ in index.numbers("limen/b")) == index.count(Query(log="limen/b"))
    extra = [row._replace(log="limen/c") for row in everything[:600]]
    index.add(extra)
    index.forget("limen/c", 0, 256)
    assert [row.number for row in index.numbers("limen/c")] == list(range(256, 600))
    index.forget("limen/c")
    assert index.count(Query(log="limen/c")) == 0
    assert index.count(Query()) == before


def test_nobody_stops_the_index_with_a_name(index: Index) -> None:
    """Names come from clients: NUL, quotes, very long ones, lone marks of SQL."""
    for number, name in enumerate(("a\0b", "x" * 100_000, "'; DROP TABLE limen_event; --", "%s", "\U0001f600")):
        row = row_of(Event("limen/d", number, START, "call.refused", "call", name=name, subject=name, ref=name))
        index.add([row])
        assert [found for found, _ in index.find(Query(tool=row.tool))] == [row]
    row = row_of(Event("limen/d", 99, -1e300, "call.refused", "call", name="early"))
    index.add([row, row._replace(number=100, at=1e300)])
    assert len(index.find(Query(tool="early"))) == 2
    index.forget("limen/d")


def test_every_column_that_can_be_asked_for_is_tried() -> None:
    asked = {name for query in QUESTIONS.values() for name in query.equal}
    assert asked == set(COLUMNS)
    assert set(COLUMNS) > INDEXED


def test_events_reach_the_index_in_batches_and_none_is_lost_when_it_fails(tmp_path: Path) -> None:
    index = SqliteIndex(tmp_path / "index.db")
    watch = Indexing(index)
    for number in range(2500):
        watch.see(Event("limen", number, START + number, "call.intent", "call"))
    assert index.count(Query()) == 2000
    locked = sqlite3.connect(tmp_path / "index.db", isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")
    with index._fault() as connection:
        connection.execute("PRAGMA busy_timeout=10")
    with pytest.raises(DependencyFault):
        watch.settle(0.0)
    locked.execute("ROLLBACK")
    watch.settle(0.0)
    assert index.count(Query()) == 2500


def test_a_damaged_index_is_a_fault_of_the_index_alone(tmp_path: Path) -> None:
    (tmp_path / "index.db").write_bytes(b"no database" * 1000)
    index = SqliteIndex(tmp_path / "index.db")
    with pytest.raises(DependencyFault, match="index"):
        index.count(Query())
