"""The watching thread shows every record to everybody who watches, at least once, whatever one of them does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from limen.adapters.keys import FileSigner
from limen.adapters.sqlite import open_tables
from limen.audit.ledger import Ledger
from limen.audit.note import VerifierKey, parse_verifier_key
from limen.audit.pruned import Gone, Pruned, read_on, sign_pruned
from limen.audit.tiles import ENTRIES, tile_path
from limen.core.events import Event
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.watching import Watcher


class Seer:
    """Notes what it is shown; does not take the events in `bad` before `mend`."""

    def __init__(self, name: str, bad: frozenset[int] = frozenset()) -> None:
        self.name, self.bad, self.seen, self.settled = name, bad, list[int](), 0

    def see(self, event: Event) -> None:
        if event.index in self.bad:
            raise DependencyFault("elsewhere", "down")
        self.seen.append(event.index)

    def settle(self, now: float) -> None:
        self.settled += 1


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(tmp_path / "log", FileSigner.open(tmp_path / "key", "limen"))


@pytest.fixture
def cursors(tmp_path: Path) -> Table:
    table: Table = open_tables(tmp_path / "limen.db", ("cursors",))["cursors"]
    return table


def key_beside(log: Path) -> VerifierKey:
    return parse_verifier_key((log.parent / "key.pub").read_text())


async def watched(log: Path, cursors: Table, *seers: Seer, until: int = 300) -> list[str]:
    """Run until the first of them has seen so many; returns what was said."""
    said = list[str]()
    key, record = key_beside(log), lambda event, told: said.append(f"{event} {told}")
    task = asyncio.create_task(Watcher(log, key, seers, cursors, said.append, record).run())
    for _ in range(400):
        if task.done() or len(seers[0].seen) >= until:
            break
        await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if task.done() and not task.cancelled() and task.exception() is not None:
        raise task.exception() or AssertionError
    return said


def fill(ledger: Ledger, count: int) -> None:
    for number in range(count):
        ledger.append(orjson.dumps({"t": "refusal", "ts": 1.0, "reason": "policy.denied", "number": number}))


def test_everything_is_seen_in_order_and_not_again(ledger: Ledger, cursors: Table, tmp_path: Path) -> None:
    fill(ledger, 700)
    first = Seer("one")
    asyncio.run(watched(tmp_path / "log", cursors, first, until=700))
    assert first.seen == list(range(700))
    assert first.settled
    fill(ledger, 5)
    again = Seer("one")
    asyncio.run(watched(tmp_path / "log", cursors, again, until=5))
    assert again.seen == list(range(700, 705))


def test_one_that_cannot_go_on_holds_up_nobody_and_misses_nothing(
    ledger: Ledger, cursors: Table, tmp_path: Path
) -> None:
    fill(ledger, 300)
    well, ill = Seer("well"), Seer("ill", frozenset({10}))
    said = asyncio.run(watched(tmp_path / "log", cursors, well, ill))
    assert (well.seen, ill.seen) == (list(range(300)), list(range(10)))
    assert any("ill: elsewhere" in text for text in said)
    mended = Seer("ill")
    asyncio.run(watched(tmp_path / "log", cursors, mended, until=290))
    assert mended.seen == list(range(10, 300))


def test_one_that_was_away_catches_up_without_holding_up_the_others(
    ledger: Ledger, cursors: Table, tmp_path: Path
) -> None:
    """An hour of records behind: what is new is shown to the others at once, and the one misses nothing."""
    fill(ledger, 3000)
    well, ill = Seer("well"), Seer("ill")
    cursors.put("watch/limen/well", b"2990")
    shown = list[tuple[str, int]]()
    well.see = lambda event: (shown.append(("well", event.index)), well.seen.append(event.index))  # type: ignore[method-assign,assign,return-value]
    ill.see = lambda event: (shown.append(("ill", event.index)), ill.seen.append(event.index))  # type: ignore[method-assign,assign,return-value]
    asyncio.run(watched(tmp_path / "log", cursors, ill, well, until=3000))
    assert (well.seen, ill.seen) == (list(range(2990, 3000)), list(range(3000)))
    assert [name for name, _ in shown[:10]] == ["well"] * 10


class Wrong(Seer):
    """Makes a mistake at each of these."""

    def see(self, event: Event) -> None:
        if event.index in self.bad:
            raise KeyError("ours")
        super().see(event)


def test_a_record_that_hits_a_mistake_of_ours_ends_no_gateway_and_is_on_record(
    ledger: Ledger, cursors: Table, tmp_path: Path
) -> None:
    fill(ledger, 40)
    wrong = Wrong("wrong", frozenset({3, 20}))
    said = asyncio.run(watched(tmp_path / "log", cursors, wrong, until=38))
    assert wrong.seen == [index for index in range(40) if index not in wrong.bad]
    assert [text for text in said if text.startswith("unwatched") and "limen:3" in text]


def test_one_that_makes_nothing_but_mistakes_is_not_passed_over(ledger: Ledger, cursors: Table, tmp_path: Path) -> None:
    fill(ledger, 40)
    with pytest.raises(DependencyFault, match="KeyError"):
        asyncio.run(watched(tmp_path / "log", cursors, Wrong("wrong", frozenset(range(40)))))


@pytest.mark.parametrize("note", ["none", "forged", "signed"])
def test_records_that_are_gone_are_passed_over_only_if_a_signed_note_says_so(
    ledger: Ledger, cursors: Table, tmp_path: Path, note: str
) -> None:
    """Else whoever deletes a file of the log decides what suspicion and alerts never see."""
    fill(ledger, 700)
    ledger.close_now()
    if note != "none":
        name = "key" if note == "signed" else "thief"
        pruned = Pruned((Gone(1, 2, 1.0, ("ann",), "old"),))
        (tmp_path / "log" / "pruned").write_bytes(sign_pruned(FileSigner.open(tmp_path / name, "limen"), pruned))
    (tmp_path / "log" / tile_path(ENTRIES, 1)).unlink()
    seer = Seer("one")
    if note == "signed":
        assert asyncio.run(watched(tmp_path / "log", cursors, seer, until=444)) == []
        assert seer.seen == [*range(256), *range(512, 700)]
        return
    with pytest.raises(DependencyFault, match="records from 256 on are not there"):
        asyncio.run(watched(tmp_path / "log", cursors, seer, until=444))
    assert seer.seen == list(range(256))


def test_a_bundle_is_taken_apart_once_and_what_is_appended_meanwhile_is_not_missed(
    ledger: Ledger, cursors: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(ledger, 1000)
    looks = list[int]()

    def counted(directory: Path, key: VerifierKey, start: int, signed: int) -> Iterator[tuple[int, bytes]]:
        looks.append(start)
        return read_on(directory, key, start, signed)

    monkeypatch.setattr("limen.watching.read_on", counted)
    seer = Seer("one")

    def slowly(event: Event) -> None:
        seer.seen.append(event.index)
        if event.index in (300, 999):  # in the middle of a bundle, and at the end of what there was
            fill(ledger, 50)

    seer.see = slowly  # type: ignore[method-assign]
    asyncio.run(watched(tmp_path / "log", cursors, seer, until=1100))
    assert seer.seen == list(range(1100))
    assert looks[0] == 0
    assert all(start >= 1000 for start in looks[1:])  # sixteen batches, one look
