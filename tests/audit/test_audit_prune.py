"""Old records go, on purpose and visibly; the rest of the log verifies as before, and nothing goes by accident."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from limen.adapters.keys import FileSigner
from limen.adapters.sqlite import open_tables
from limen.audit.holds import Hold, Holds
from limen.audit.ledger import Ledger
from limen.audit.note import NoteError, parse_verifier_key
from limen.audit.proofs import Prover, Unprovable, check_proof
from limen.audit.prune import Pruning
from limen.audit.pruned import Gone, Pruned, known_pruned, open_pruned, sign_pruned
from limen.audit.read import read
from limen.audit.retention import DAY, RetentionSettings
from limen.audit.signed import SignedRecords, Untrusted
from limen.audit.tiles import ENTRIES, tile_path
from limen.audit.verify import Report, verify
from limen.core.faults import DependencyFault

SIZE = 256 * 8 + 88
NOW = 1_800_000_000.0
YEAR = RetentionSettings(days=365)


def record(number: int) -> bytes:
    """One every three hours; the last of them was written now."""
    who = "alice" if number in (300, 1500) else f"user-{number % 7}"
    at = NOW - (SIZE - 1 - number) * 10_800
    body: dict[str, Any] = {"t": "outcome", "ts": at, "sub": who, "iss": "https://id.example"}
    if number == 800:
        body = {"t": "incident", "act": "opened", "id": "i-1", "ts": body["ts"], "events": ["limen:520", "ref-9"]}
    return orjson.dumps({**body, "number": number, "ref": f"ref-{number}"})


class Log:
    """A log of two thirds of a year, its key, and tables beside it."""

    def __init__(self, home: Path, settings: RetentionSettings = YEAR) -> None:
        self.home, self.directory = home, home / "log"
        self.signer = FileSigner.open(home / "key", "limen")
        self.tables = open_tables(home / "limen.db", ("logs", "cursors"))
        self.tables["cursors"].put("watch/limen/index", str(SIZE).encode())
        self.holds, self.told = Holds(self.tables["logs"]), list[Mapping[str, Any]]()
        self.pruning = self.with_settings(settings)

    def with_settings(self, settings: RetentionSettings) -> Pruning:
        return Pruning(self.directory, self.signer, settings, self.tables["logs"], self.tables["cursors"])

    def prune(self, now: float = NOW, settings: RetentionSettings = YEAR) -> int:
        pruning = self.with_settings(settings)
        gone = pruning.remove(pruning.plan(now).ranges, ["ann"], "old", now, self.told.append)
        return sum(last - first for first, last in gone)

    def check(self) -> Any:
        return verify(self.directory, self.signer.verifier_key)

    def there(self) -> list[int]:
        """The bundles whose records are there."""
        return sorted({index // 256 for index, _ in read(self.directory)})

    def open(self) -> Ledger:
        return Ledger.open(self.directory, self.signer, fsync_interval=60)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pruning")
    ledger = Ledger.open(home / "log", FileSigner.open(home / "key", "limen"), fsync_interval=60)
    for number in range(SIZE):
        ledger.append(record(number))
    ledger.close_now()
    return home


@pytest.fixture
def log(original: Path, tmp_path: Path) -> Log:
    shutil.copytree(original, tmp_path / "home")
    return Log(tmp_path / "home")


HALF = RetentionSettings(days=130)  # bundles 0 to 3 are older: 32 days each, and 11 that are not whole


def test_what_is_left_verifies_opens_reads_and_grows(log: Log) -> None:
    before = log.check()
    assert before.ok
    assert log.prune() == 0, "nothing is older than a year"
    assert log.prune(settings=HALF) == 4
    assert log.there() == [4, 5, 6, 7, 8]
    after = log.check()
    assert (after.ok, after.size, after.root, after.pruned) == (True, SIZE, before.root, 1024), after.problem
    assert next(iter(read(log.directory))) == (1024, record(1024))
    assert log.told[0]["ranges"] == [[0, 1024]]
    believed = SignedRecords(log.directory, log.signer.verifier_key)
    assert [orjson.loads(one)["number"] for one in believed] == list(range(1024, SIZE))
    assert believed.pruned == 1024
    ledger = log.open()
    for number in range(300):
        ledger.append(b'{"t":"x","number":%d}' % number)
    ledger.close_now()
    assert ledger.recovered == ""
    assert verify(log.directory, log.signer.verifier_key, at_least=(log.home / "log/checkpoint").read_bytes()).ok
    assert log.check().size == SIZE + 300


def test_proofs_for_the_rest_and_consistency_with_the_past_stay(log: Log) -> None:
    key = parse_verifier_key(log.signer.verifier_key)
    kept = Prover(log.directory, key).prove(5)  # somebody kept this one
    log.prune(settings=HALF)
    prover = Prover(log.directory, key)
    assert check_proof(prover.prove(1024), key).size == SIZE
    assert check_proof(kept, key).size == SIZE, "and what was proven before stays proven"
    prover.consistency(700)
    with pytest.raises(Unprovable, match="removed"):
        prover.prove(5)


def test_op_02_what_was_not_pruned_may_not_be_missing(log: Log) -> None:
    log.prune(settings=HALF)
    (log.directory / "tile/entries/005").unlink()
    report = log.check()
    assert (report.ok, report.first_bad) == (False, 1280), report.problem
    with pytest.raises(DependencyFault, match="not opened"):
        log.open()
    with pytest.raises(Untrusted):
        list(SignedRecords(log.directory, log.signer.verifier_key))


@pytest.mark.parametrize("bundle", ["000", "001", "003"])
def test_op_02_deleting_without_the_key_is_found(log: Log, bundle: str) -> None:
    (log.directory / f"tile/entries/{bundle}").unlink()
    report = log.check()
    assert (report.ok, report.first_bad) == (False, int(bundle) * 256), report.problem
    with pytest.raises(DependencyFault, match="not opened"):
        log.open()


def test_op_02_a_forged_note_excuses_nothing(log: Log, tmp_path: Path) -> None:
    stranger = FileSigner.open(tmp_path / "stranger", "limen")
    (log.directory / "tile/entries/001").unlink()
    for note in (
        sign_pruned(stranger, Pruned((Gone(0, 8, NOW, ("x",), "y"),))),
        sign_pruned(log.signer.named("other"), Pruned((Gone(0, 8, NOW, ("x",), "y"),))),
        (log.directory / "checkpoint").read_bytes(),
        b"limen.audit/pruned/1\n{}\n",
    ):
        (log.directory / "pruned").write_bytes(note)
        report = log.check()
        assert not report.ok
        assert "note about removed records" in report.problem
        with pytest.raises(DependencyFault, match="note about removed"):
            log.open()
        with pytest.raises(Untrusted, match="note about removed"):
            SignedRecords(log.directory, log.signer.verifier_key)


def test_op_02_hashes_of_removed_records_are_held_to_the_root(log: Log) -> None:
    log.prune(settings=HALF)
    path = log.directory / "tile/0/002"
    whole = path.read_bytes()
    path.write_bytes(bytes(32) + whole[32:])
    assert not log.check().ok
    with pytest.raises(DependencyFault, match="not opened"):
        log.open()
    path.unlink()
    report = log.check()
    assert (report.ok, report.first_bad) == (False, 512), report.problem
    with pytest.raises(DependencyFault, match="hashes of bundle 2"):
        log.open()
    path.write_bytes(whole)
    assert log.check().ok


def test_killed_between_the_note_and_the_last_file(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pruning, "finish", lambda self, pruned=None: None)
    assert log.prune(settings=HALF) == 0  # named, and still there
    assert log.there() == list(range(9)), "all is still there, and all of it is checked"
    report = log.check()
    assert (report.ok, report.pruned) == (True, 0), report.problem
    path = log.directory / "tile/entries/002"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"user-3", b"user-4"))
    assert not log.check().ok
    path.write_bytes(whole)
    monkeypatch.undo()
    log.prune(settings=HALF)
    assert log.there() == [4, 5, 6, 7, 8]
    assert log.check().pruned == 1024


def held(kind: Any, value: str = "", **more: Any) -> Hold:
    return Hold("", kind, "counsel", "case 7", NOW, value, **more)


@pytest.mark.parametrize(
    ("hold", "stay"),
    [
        (held("all"), [0, 1, 2, 3]),
        (held("time", since=NOW - (SIZE - 1 - 600) * 10_800, until=NOW - (SIZE - 1 - 700) * 10_800), [2]),
        (held("caller", "alice", issuer="https://id.example"), [1]),
        (held("caller", "alice", issuer="https://elsewhere.example"), []),
        (held("caller", "alice"), [1]),
        (held("incident", "i-1"), [0, 2, 3]),  # itself, the event and the call that it names
        (held("incident", "unknown"), [0, 1, 2, 3]),
    ],
)
def test_a_hold_keeps_what_it_covers_and_nothing_else(log: Log, hold: Hold, stay: list[int]) -> None:
    made = log.holds.add(hold)
    plan = log.with_settings(HALF).plan(NOW)
    assert plan.stays == ({f"hold {made.id}": len(stay)} if stay else {})
    log.prune(settings=HALF)
    assert log.there() == [*stay, 4, 5, 6, 7, 8]
    assert log.check().ok, log.check().problem
    log.open().close_now()
    numbers = [index for index, _ in read(log.directory)]
    assert numbers == [index for index in range(SIZE) if index // 256 in (*stay, *range(4, 9))]
    assert sum(1 for _ in SignedRecords(log.directory, log.signer.verifier_key)) == len(numbers)
    assert log.holds.lift(made.id, "ann", 1) is None
    log.prune(settings=HALF)
    assert log.there() == [4, 5, 6, 7, 8]
    assert log.check().pruned == 1024


def test_two_people_lift_a_hold_and_one_of_them_twice_is_not_two(log: Log) -> None:
    made = log.holds.add(held("all"))
    assert log.holds.lift(made.id, "ann", 2) is not None
    assert log.holds.lift(made.id, "ann", 2) is not None
    assert log.holds.every()
    assert log.holds.lift(made.id, "bob", 2) is None
    assert not log.holds.every()
    with pytest.raises(LookupError):
        log.holds.lift(made.id, "bob", 2)


def test_a_hold_that_cannot_be_read_keeps_everything(log: Log) -> None:
    log.tables["logs"].put("hold/x", b"{}")
    with pytest.raises(DependencyFault):
        log.prune(settings=HALF)
    assert log.there() == list(range(9))


def test_two_people_agree_to_exactly_what_the_first_one_saw(log: Log) -> None:
    pruning = log.with_settings(HALF)
    wish, plan = pruning.wish("ann", "old", NOW, 2)
    assert (wish.ranges, plan) == (((0, 4),), None)
    assert pruning.wish("ann", "again", NOW, 2)[1] is None, "one person twice is one person"
    log.holds.add(held("caller", "alice"))
    later = log.with_settings(RetentionSettings(days=60))  # more would go by now, but that is not what ann saw
    wish, plan = later.wish("bob", "", NOW, 2)
    assert wish.by == ("ann", "bob")
    assert plan is not None
    assert plan.ranges == ((0, 1), (2, 4)), "and a hold of meanwhile counts"
    assert later.wish("bob", "", NOW, 2)[1] is None, "what was agreed to is spent"


def test_op_03_nobody_who_follows_the_log_misses_a_record(log: Log) -> None:
    log.tables["cursors"].put("follow/limen/siem", b"300")
    assert log.with_settings(HALF).plan(NOW).stays == {"not read by siem": 3}
    log.prune(settings=HALF)
    assert log.there() == list(range(1, 9))
    log.tables["cursors"].put("follow/limen/siem", b"far")
    with pytest.raises(DependencyFault, match="not a number"):
        log.prune(settings=HALF)


def test_op_10_a_clock_that_jumps_ahead_costs_a_week_not_the_log(log: Log) -> None:
    assert log.prune(NOW + 20 * 365 * DAY, settings=RetentionSettings(days=270)) == 0
    assert log.prune(NOW - 20 * 365 * DAY, settings=HALF) == 4, "set back, it makes nothing older or younger"
    assert log.check().ok


def test_op_10_a_record_from_the_future_makes_nothing_old(log: Log) -> None:
    ledger = log.open()
    for _ in range(600):
        ledger.append(orjson.dumps({"t": "x", "ts": NOW + 50 * 365 * DAY}))
    ledger.close_now()
    assert log.prune(NOW + 50 * 365 * DAY, settings=RetentionSettings(days=280)) == 0


def test_op_03_a_flood_does_not_push_out_evidence(log: Log) -> None:
    small = RetentionSettings(size=1 << 20, least_days=200)
    ledger = log.open()
    for _ in range(3000):
        ledger.append(orjson.dumps({"t": "x", "ts": NOW, "fill": "x" * 900}))
    ledger.close_now()
    log.tables["cursors"].put("watch/limen/index", b"99999")
    assert log.prune(settings=small) == 2, "only what is older than 200 days, however large the log is"
    assert log.prune(settings=RetentionSettings(size=1 << 20, least_days=1)) > 2


def test_notes_say_what_they_say_and_nothing_else(log: Log) -> None:
    key = parse_verifier_key(log.signer.verifier_key)
    pruned = Pruned().with_more(Gone(0, 2, 1.0, ("a",), "x")).with_more(Gone(2, 3, 2.0, ("a",), "x"))
    pruned = pruned.with_more(Gone(7, 9, 3.0, ("a", "b"), "y")).with_more(Gone(3, 4, 3.0, ("b",), "z"))
    assert [(one.first, one.last) for one in pruned.gone] == [(0, 3), (3, 4), (7, 9)]
    assert open_pruned(sign_pruned(log.signer, pruned), key) == pruned
    assert [number in pruned for number in range(10)] == [True] * 4 + [False] * 3 + [True] * 2 + [False]
    assert pruned.until(0) == 4
    for wrong in (Gone(1, 2, 0, (), ""), Gone(8, 12, 0, (), ""), Gone(5, 5, 0, (), ""), Gone(-1, 0, 0, (), "")):
        with pytest.raises(ValueError):
            pruned.with_more(wrong)
    overlapping = Pruned((Gone(0, 5, 0, (), ""), Gone(3, 8, 0, (), "")))
    with pytest.raises(NoteError):
        open_pruned(sign_pruned(log.signer, overlapping), key)
    assert known_pruned(log.directory, key) == Pruned()


def test_reading_and_removing_at_the_same_time(log: Log) -> None:
    began = time.monotonic()
    reader = read(log.directory)
    first = [next(reader) for _ in range(10)]
    log.prune(settings=HALF)
    rest = [index for index, _ in reader]
    assert first[-1][0] == 9
    assert rest[-1] == SIZE - 1
    assert time.monotonic() - began < 60


def test_a_hold_of_the_very_moment_keeps_what_was_already_planned(log: Log) -> None:
    """OP-03: `hold add` says that nothing it covers is removed, while somebody else is about to."""
    ranges = log.with_settings(HALF).plan(NOW).ranges
    assert ranges == ((0, 4),)
    log.holds.add(Hold("", "caller", "bob", "case", NOW, "alice"))  # record 300, in bundle 1
    assert log.pruning.remove(ranges, ["ann"], "old", NOW, log.told.append) == [(0, 1), (2, 4)]
    assert log.there() == [1, 4, 5, 6, 7, 8]
    assert log.told[0]["ranges"] == [[0, 256], [512, 1024]]
    assert log.check().ok


def test_a_hold_that_comes_when_the_note_is_signed_already_keeps_the_files(log: Log) -> None:
    late = Hold("", "caller", "bob", "case", NOW, "alice")
    made = list[Hold]()
    ranges = log.with_settings(HALF).plan(NOW).ranges
    gone = log.pruning.remove(ranges, ["ann"], "old", NOW, lambda told: made.append(log.holds.add(late)))
    assert gone == [(0, 1), (2, 4)]  # and nothing else is forgotten by the index
    assert log.there() == [1, 4, 5, 6, 7, 8]
    assert log.check().ok
    log.open().close_now()
    log.holds.lift(made[0].id, "bob", 1)
    log.pruning.finish()
    assert log.there() == [4, 5, 6, 7, 8]
    assert log.check().ok


def test_a_replica_named_after_this_log_is_not_waited_for(log: Log) -> None:
    """Its cursors begin with our name; how far it is in its own log says nothing about ours."""
    log.tables["cursors"].put("watch/limen/3f2a1b/index", b"5")
    assert log.prune(settings=HALF) == 4
    log.tables["cursors"].put("watch/limen/behind", b"5")
    assert log.pruning.plan(NOW).bundles == 0


def test_what_is_removed_while_the_log_is_read_is_no_damage(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note is younger than the reading; a file that vanishes without one is."""
    records = iter(SignedRecords(log.directory, log.signer.verifier_key))
    assert next(records) == record(0)
    log.prune(settings=HALF)
    assert len(list(records)) == 255 + SIZE - 4 * 256
    shown, was = list[int](), verify.__globals__["_present"]

    def twice(*args: Any) -> Any:
        """The first reading meets the removal half way."""
        shown.append(1)
        if len(shown) == 1:
            log.prune(settings=RetentionSettings(days=100))
            return Report(ok=False, problem="a bundle is missing")
        return was(*args)

    monkeypatch.setitem(verify.__globals__, "_present", twice)
    assert log.check().ok
    (log.directory / tile_path(ENTRIES, 6)).unlink()
    assert not log.check().ok
