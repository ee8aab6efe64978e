"""I3: a dead, slow or choosy sink loses nothing, doubles only what it may have, and slows nobody."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from export.following import Clock, FakeSink, Log, down, outcome, refusing, turns
from limen.adapters.dead_letters import DeadLetters
from limen.adapters.keys import FileSigner
from limen.adapters.sink_file import FileSink
from limen.audit.export import MOST_DELAY, MOST_STRIKES, Entry, Selection, Tolerance, delay
from limen.audit.follow import Lane, cursor_key, read_standing, state_key
from limen.audit.note import sign_checkpoint
from limen.audit.pruned import Gone, Pruned, sign_pruned
from limen.audit.tiles import ENTRIES, tile_path
from limen.core.faults import DependencyFault
from limen.exporting import Exporter


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_everything_arrives_once_in_order_and_a_restart_sends_nothing_again(log: Log) -> None:
    log.fill(320)
    clock, sink = Clock(), FakeSink()
    turns(log.lane(sink, clock), clock)
    assert sink.indexes == list(range(320))
    assert max(sink.batches) == 50
    log.fill(3)
    after = FakeSink()
    turns(log.lane(after, clock), clock)
    assert after.indexes == [320, 321, 322]


def test_a_sink_that_is_down_for_an_hour_loses_nothing_i3(log: Log) -> None:
    log.fill(60)
    clock, sink = Clock(), FakeSink(down)
    lane = log.lane(sink, clock)
    tries = turns(lane, clock, seconds=3600)
    assert 50 < tries < 130  # backing off to a minute
    log.fill(200)
    assert lane.standing.error
    assert lane.standing.next == 0
    assert log.cursors.get(cursor_key("limen", "siem")) == b"0"
    sink.behave = lambda entries: None
    turns(lane, clock)
    assert sink.indexes == list(range(260))
    assert not lane.standing.error


def test_only_what_a_checkpoint_signs_is_sent(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.fill(10)
    log.ledger.close_now()
    (tmp_path / "audit" / "journal" / "000").open("ab").write(b"\x00\x02{}")  # written, never signed
    clock, sink = Clock(), FakeSink()
    turns(log.lane(sink, clock), clock)
    assert sink.indexes == list(range(10))


def test_a_refused_record_is_found_put_aside_and_told_and_the_rest_arrives(log: Log) -> None:
    log.fill(100)
    clock, sink = Clock(), FakeSink(refusing(17, 63))
    lane = log.lane(sink, clock)
    turns(lane, clock)
    assert sink.indexes == [one for one in range(100) if one not in (17, 63)]
    assert [index for index, _ in log.aside] == [17, 63]
    assert [(one["act"], one["event"]) for one in log.told] == [
        ("dead_letter", "limen:17"), ("dead_letter", "limen:63"),
    ]  # fmt: skip
    assert lane.standing.dead == 2


def test_a_refused_event_about_followers_makes_no_further_one(log: Log) -> None:
    log.fill(2, t="follower", act="dead_letter")
    clock = Clock()
    turns(log.lane(FakeSink(refusing(0)), clock), clock)
    assert [index for index, _ in log.aside] == [0]
    assert not log.told


def test_a_sink_that_refuses_everything_is_broken_and_nothing_more_is_put_aside(log: Log) -> None:
    log.fill(100)
    clock, sink = Clock(), FakeSink(refusing(*range(100)))
    lane = log.lane(sink, clock)
    turns(lane, clock, seconds=600)
    assert len(log.aside) == MOST_STRIKES
    assert "refuses every record" in lane.standing.error
    sink.behave = lambda entries: None
    turns(lane, clock)
    assert sink.indexes == list(range(MOST_STRIKES, 100))


def test_an_outage_is_never_taken_for_a_bad_record(log: Log) -> None:
    log.fill(30)
    clock = Clock()
    turns(log.lane(FakeSink(down), clock), clock, seconds=3000)
    assert not log.aside


def test_what_cannot_be_put_aside_is_not_passed_over(log: Log) -> None:
    log.fill(5)
    clock, sink = Clock(), FakeSink(refusing(2))

    def full(one: Entry, why: str) -> None:
        raise DependencyFault("dead letters", "No space left on device")

    lane = log.lane(sink, clock, aside=full)
    turns(lane, clock, seconds=120)
    assert lane.standing.next == 2
    assert "No space left" in lane.standing.error


def test_a_mistake_of_ours_about_one_sink_stops_that_sink_and_is_told(log: Log) -> None:
    log.fill(5)

    def wrong(entries: Sequence[Entry]) -> None:
        raise KeyError("ours")

    lane = log.lane(FakeSink(wrong), Clock())
    assert lane.turn() > 0
    assert "KeyError" in lane.standing.error


def test_filters_and_the_beginning(log: Log) -> None:
    log.fill(20)
    log.fill(5, t="refusal", decision="deny", reason="content.blocked")
    clock, sink = Clock(), FakeSink()
    turns(log.lane(sink, clock, selection=Selection(frozenset({"content"}), ("call.*",), "medium")), clock)
    assert sink.indexes == list(range(20, 25))
    assert log.cursors.get(cursor_key("limen", "siem")) == b"25"
    fresh = Log(log.home / "other") if (log.home / "other").mkdir() is None else log
    fresh.fill(4)
    late = FakeSink()
    lane = fresh.lane(late, clock, since="now")
    turns(lane, clock)
    fresh.fill(2)
    turns(lane, clock)
    assert late.indexes == [4, 5]


def test_a_log_put_back_from_a_copy_is_followed_on_and_told(log: Log) -> None:
    log.fill(10)
    log.cursors.put(cursor_key("limen", "siem"), b"500")
    clock, sink = Clock(), FakeSink()
    lane = log.lane(sink, clock)
    turns(lane, clock)
    log.fill(3)
    turns(lane, clock)
    assert sink.indexes == [10, 11, 12]
    assert [(one["act"], one["next"], one["size"]) for one in log.told] == [("rewound", 500, 10)]


def test_delays_double_are_bounded_and_heed_what_was_asked() -> None:
    assert [delay(count, 0, 1.0) for count in (1, 2, 3, 50)] == [0.5, 1.0, 2.0, MOST_DELAY]
    assert delay(1, 0, 0.0) == 0.25
    assert delay(1, 120.0, 0.0) == 120.0


def test_a_full_disk_is_waited_for_and_leaves_no_torn_line(log: Log, tmp_path: Path) -> None:
    """OP: the file's disk is full, for real (RLIMIT_FSIZE), in a child of this process."""
    log.fill(40)
    path = tmp_path / "out.jsonl"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            sink = FileSink(path, "record", 1 << 30, 3)
            from limen.audit.export import read_entries
            from limen.audit.read import read

            entries, _ = read_entries(read(log.place), "limen", 40, lambda event: True, 40, 100)
            sink.send(entries[:5])
            whole = path.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (whole + 700, hard))
            try:
                sink.send(entries[5:])
            except DependencyFault:
                code = 0 if path.stat().st_size == whole else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    clock = Clock()
    turns(log.lane(FileSink(path, "record", 1 << 30, 3), clock), clock)
    lines = [orjson.loads(one) for one in path.read_bytes().splitlines()]
    assert {one["proof"]["index"] for one in lines} == set(range(40))
    assert len({one["id"] for one in lines}) == 40


def test_files_turn_by_size_and_the_oldest_go(log: Log, tmp_path: Path) -> None:
    log.fill(60)
    clock, path = Clock(), tmp_path / "out" / "log.jsonl"
    turns(log.lane(FileSink(path, "ocsf", 20_000, 2), clock, batch=10), clock)
    assert sorted(one.name for one in path.parent.iterdir())[-2:] == ["log.jsonl.1", "log.jsonl.2"]
    for one in path.parent.iterdir():
        assert all(orjson.loads(line)["class_uid"] == 6003 for line in one.read_bytes().splitlines())
        assert one.stat().st_mode & 0o077 == 0


def test_a_line_torn_by_kill_9_spoils_no_other(log: Log, tmp_path: Path) -> None:
    log.fill(3)
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"id":"limen:0:')
    clock = Clock()
    turns(log.lane(FileSink(path, "record", 1 << 30, 3), clock), clock)
    lines = path.read_bytes().splitlines()
    assert [orjson.loads(one)["proof"]["index"] for one in lines[1:]] == [0, 1, 2]


def test_dead_letters_hold_the_record_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "dead" / "siem.jsonl"
    DeadLetters(path).put({"id": "x", "reason": "status 400"}, b'{"t":"x"}')
    DeadLetters(path).put({"id": "y", "reason": "status 413"}, b"\xff")
    assert [orjson.loads(one)["record"] for one in path.read_bytes().splitlines()] == ['{"t":"x"}', "\\xff"]
    path.chmod(0o600)
    with pytest.raises(DependencyFault):
        DeadLetters(path / "below").put({}, b"x")


async def running(exporter: Exporter, until: float) -> None:
    task = asyncio.create_task(exporter.run())
    await asyncio.sleep(until)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_back_pressure_ends_in_refusal_and_is_taken_back(log: Log) -> None:
    """Beyond its limit a follower that must not be missed stops calls; once it has caught up they go on."""
    log.fill(12)
    clock, sink = Clock(), FakeSink(down)
    lane = log.lane(sink, clock)
    holds: list[str] = []
    told: list[dict[str, object]] = []
    exporter = Exporter(
        [(lane, "siem", Tolerance(10, 1e9, refuse=True))], lambda kind, fields: told.append(dict(fields)),
        lambda text: None, holds.append, clock,
    )  # fmt: skip
    lane.turn()
    exporter.look()
    assert "siem is too far behind" in holds[-1]
    assert (told[-1]["act"], told[-1]["refusing"], told[-1]["severity"]) == ("behind", True, "high")
    exporter.look()
    assert len(told) == 1
    sink.behave = lambda entries: None
    turns(lane, clock)
    exporter.look()
    assert holds[-1] == ""
    assert told[-1]["act"] == "recovered"


def test_the_same_sink_without_refuse_holds_nobody(log: Log) -> None:
    log.fill(12)
    clock = Clock()
    lane = log.lane(FakeSink(down), clock)
    holds: list[str] = []
    lane.turn()
    Exporter(
        [(lane, "siem", Tolerance(10, 1e9))], lambda kind, fields: None, lambda text: None, holds.append, clock
    ).look()
    assert holds == [""]


def test_a_thread_that_hangs_falls_behind_by_the_clock(log: Log) -> None:
    """A sink that never returns stops only its own thread, and that is seen."""
    log.fill(3)
    stuck = threading.Event()
    slow, quick = FakeSink(lambda entries: stuck.wait(20) and None), FakeSink()
    clock = Clock()
    told: list[dict[str, object]] = []
    other = Log(log.home / "two") if (log.home / "two").mkdir() is None else log
    other.fill(3)
    lanes: list[tuple[Lane, str, Tolerance]] = [
        (log.lane(slow, clock), "slow", Tolerance(1000, 30)), (other.lane(quick, clock), "quick", Tolerance(1000, 30)),
    ]  # fmt: skip
    exporter = Exporter(
        lanes, lambda kind, fields: told.append(dict(fields)), lambda text: None, lambda why: None, clock
    )

    async def scene() -> None:
        task = asyncio.create_task(exporter.run())
        while len(quick.got) < 3:
            await asyncio.sleep(0.02)
        clock.now += 5000
        while not told:
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scene(), 20))
    stuck.set()
    assert next(one["name"] for one in told if one["act"] == "behind") == "slow"


def test_a_thread_that_ends_takes_the_gateway_down(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = log.lane(FakeSink(), Clock())

    def ends() -> float:
        raise SystemExit(3)

    monkeypatch.setattr(lane, "turn", ends)
    exporter = Exporter([(lane, "siem", Tolerance(1, 1))], lambda *_: None, lambda text: None, lambda why: None)
    with pytest.raises(DependencyFault, match="siem: SystemExit"):
        asyncio.run(asyncio.wait_for(exporter.run(), 10))


def test_how_it_stands_is_told_to_commands(log: Log) -> None:
    log.fill(5)
    clock = Clock()
    turns(log.lane(FakeSink(refusing(1)), clock), clock)
    standing = read_standing(log.cursors.get(state_key("limen", "siem")))
    assert (standing.next, standing.dead, standing.sent, standing.error) == (5, 1, 5, "")
    assert read_standing(b"[nonsense").next == 0


def test_cursors_that_cannot_be_kept_lose_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is away: what was sent is sent again by the next process, and nothing is skipped."""
    log.fill(120)
    clock, sink = Clock(), FakeSink()
    lane = log.lane(sink, clock)
    lane.turn()

    def away(key: str, value: bytes, expires: float | None = None) -> None:
        raise DependencyFault("storage", "gone")

    with monkeypatch.context() as patch:
        patch.setattr(log.cursors, "put", away)
        lane.turn()
        assert "gone" in lane.standing.error
    again = FakeSink()
    turns(log.lane(again, clock), clock)
    assert set(sink.indexes) | set(again.indexes) == set(range(120))
    assert not set(sink.got[50:]) - set(again.got)  # doubled under the same ids


def test_the_id_differs_where_the_record_does() -> None:
    from export.following import entry

    assert entry(outcome(1), 7).id != entry(outcome(2), 7).id
    assert entry(outcome(1), 7).id == entry(outcome(1), 7, size=9).id


@pytest.mark.parametrize("note", ["none", "forged", "signed"])
def test_records_that_are_gone_are_passed_over_only_if_a_signed_note_says_so(log: Log, note: str) -> None:
    """Else whoever deletes a file of the log has a collector that misses records and looks up to date."""
    log.fill(700)
    sink, clock = FakeSink(), Clock()
    if note != "none":
        pruned = Pruned((Gone(1, 2, 1.0, ("ann",), "old"),))
        signer = FileSigner.open(log.home / ("key" if note == "signed" else "thief"), "limen")
        (log.place / "pruned").write_bytes(sign_pruned(signer, pruned))
    (log.place / tile_path(ENTRIES, 1)).unlink()
    lane = log.lane(sink, clock)
    turns(lane, clock, 400.0, most=2000)
    standing = lane.standing
    if note == "signed":
        assert sink.indexes == [*range(256), *range(512, 700)]
        assert standing.error == ""
        return
    assert sink.indexes == list(range(256))
    assert "records from 256 on are not there" in standing.error
    records, seconds = standing.lag(clock())
    assert records == 444
    assert seconds > 300  # it counts as behind, as with any outage


def test_a_checkpoint_that_must_not_be_believed_moves_nothing(log: Log) -> None:
    log.fill(20)
    sink, clock = FakeSink(), Clock()
    lane = log.lane(sink, clock)
    turns(lane, clock)
    checkpoint = (log.place / "checkpoint").read_bytes()
    thief = sign_checkpoint(FileSigner.open(log.home / "thief", "limen"), 5, bytes(32))
    for damaged in (b"", checkpoint.replace(b"\n20\n", b"\n9\n"), thief):
        (log.place / "checkpoint").write_bytes(damaged)
        turns(lane, clock, 5.0)
        assert "must not be believed" in lane.standing.error
        assert (lane.standing.next, log.told) == (20, [])
    (log.place / "checkpoint").write_bytes(checkpoint)
    log.fill(5)
    turns(lane, clock, 120.0)
    assert sink.indexes == list(range(25))
