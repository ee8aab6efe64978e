"""What is suspected is shared by replicas, bounded, survives, is taken back, and unknown is not zero (I7)."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from limen.adapters.sqlite import SqliteTable
from limen.core.events import Signal, Subject
from limen.core.faults import DependencyFault
from limen.incidents.threats import (
    MAX_OF_SOURCE,
    MAX_SIGNALS,
    Threats,
    as_row,
    clear,
    make_room,
    note,
    suspects,
)

ALICE = Subject("caller", "https://id.example\0alice")
NOW = 2_000_000_000.0


def signal(score: float, source: str = "content", event: str = "log:1", at: float = NOW) -> Signal:
    return Signal(ALICE, source, score, "because", at, event)


@pytest.fixture
def table(tmp_path: Path) -> SqliteTable:
    return SqliteTable(tmp_path / "limen.db", "threats", now=lambda: NOW)


def test_what_one_replica_notes_another_sees(table: SqliteTable, tmp_path: Path) -> None:
    other = Threats(SqliteTable(tmp_path / "limen.db", "threats", now=lambda: NOW))
    other.refresh()
    assert not other.known
    assert note(table, ALICE, [signal(0.9, "decoy")], NOW)
    other.refresh()
    found = other.find(*ALICE)
    assert found is not None
    assert found.sources(NOW) == {"decoy": (0.9, [0.9])}


def test_an_event_seen_twice_counts_once(table: SqliteTable) -> None:
    assert note(table, ALICE, [signal(0.3)], NOW)
    assert not note(table, ALICE, [signal(0.3)], NOW)
    assert len(next(suspects(table)).signals) == 1


def test_nothing_is_lost_when_replicas_write_at_once(tmp_path: Path) -> None:
    def write(number: int) -> None:
        mine = SqliteTable(tmp_path / "limen.db", "threats", now=lambda: NOW)
        note(mine, ALICE, [signal(0.2, f"s{number}", f"log:{number}")], NOW)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one = next(suspects(SqliteTable(tmp_path / "limen.db", "threats", now=lambda: NOW)))
    assert {each.event for each in one.signals} == {f"log:{number}" for number in range(6)}


def test_signals_and_subjects_are_bounded_and_the_strongest_stay(table: SqliteTable) -> None:
    flood = [signal(0.01 + n / 1000, f"kind{n % 5}", f"log:{n}") for n in range(300)]
    note(table, ALICE, [*flood, signal(0.9, "decoy", "log:x")], NOW)
    kept = next(suspects(table)).signals
    assert len(kept) <= MAX_SIGNALS
    assert max(sum(one.source == name for one in kept) for name in {one.source for one in kept}) <= MAX_OF_SOURCE
    assert any(one.source == "decoy" for one in kept)
    for number in range(10):
        note(table, Subject("client", f"c{number}"), [signal(0.1 + number / 100)], NOW)
    assert make_room(table, 3, NOW) == 8
    assert {one.subject.value for one in suspects(table)} == {ALICE.value, "c8", "c9"}


def test_a_false_alarm_is_taken_back_and_does_not_come_back_with_old_events(table: SqliteTable) -> None:
    """Honest twin: cleared is cleared, also when the log is read again; what happens later counts again."""
    note(table, ALICE, [signal(0.9)], NOW)
    known = clear(table, ALICE, "ann", "a test of ours", NOW + 1)
    assert len(known.signals) == 1
    assert not note(table, ALICE, [signal(0.9)], NOW + 2)
    copy = Threats(table)
    copy.refresh()
    assert not copy.known
    assert note(table, ALICE, [signal(0.4, event="log:2", at=NOW + 3)], NOW + 3)
    row = as_row(next(suspects(table)), NOW + 3)
    assert (row["risk"], row["by"]) == (0.4, "ann")
    with pytest.raises(LookupError):
        clear(table, Subject("client", "nobody"), "ann", "", NOW)


def test_what_cannot_be_read_is_not_nothing(table: SqliteTable) -> None:
    note(table, ALICE, [signal(0.9)], NOW)
    copy = Threats(table)
    copy.refresh()
    key, _ = next(table.scan("s/"))
    table.put(key, b'{"kind":"caller","value":"x","signals":[["content",7,"",0,"",1]],"cleared":0,"by":"","reason":""}')
    table.put("version", b"other")
    age = copy.age
    with pytest.raises(DependencyFault, match="cannot be read"):
        copy.refresh()
    assert copy.age >= age  # it goes on ageing, and calls are refused in the end
    assert clear(table, ALICE, "ann", "repaired", NOW).signals == ()  # also what cannot be read can be taken back
    copy.refresh()


def test_signals_that_mean_nothing_are_not_kept(table: SqliteTable) -> None:
    assert not note(table, ALICE, [signal(float("nan")), signal(-1.0), signal(0.0), signal(0.5, at=float("inf"))], NOW)
    note(table, ALICE, [signal(7.0)], NOW)
    assert next(suspects(table)).signals[0].score == 1.0
