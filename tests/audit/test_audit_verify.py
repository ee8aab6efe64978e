"""What somebody with write access to the directory, but without the key, can do, and what is found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from limen.adapters.keys import FileSigner
from limen.audit.ledger import Ledger
from limen.audit.note import sign_checkpoint
from limen.audit.tiles import TileTree, frame, split_bundle, tile_path
from limen.audit.tree import leaf_hash
from limen.audit.verify import Report, verify
from limen.core.faults import ConfigFault

SIZE = 600  # bundles: 256, 256, 88
RECORDS = [b"record %d" % number for number in range(SIZE)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FileSigner]:
    home = tmp_path_factory.mktemp("original")
    signer = FileSigner.open(home / "key", "log.example/audit")
    ledger = Ledger.open(home / "log", signer, fsync_interval=60)
    for record in RECORDS[:300]:
        ledger.append(record)
    ledger.close_now()
    (home / "seen").write_bytes(ledger.checkpoint)
    shutil.copytree(home / "log", home / "older")
    ledger = Ledger.open(home / "log", signer, fsync_interval=60)
    for record in RECORDS[300:]:
        ledger.append(record)
    ledger.close_now()
    return home, signer


@pytest.fixture
def log(original: tuple[Path, FileSigner], tmp_path: Path) -> tuple[Path, FileSigner]:
    shutil.copytree(original[0] / "log", tmp_path / "log")
    return tmp_path / "log", original[1]


Log = tuple[Path, FileSigner]


def check(log: Log, at_least: bytes | None = None) -> Report:
    return verify(log[0], log[1].verifier_key, at_least=at_least)


def rewrite(log: Log, change: Callable[[list[bytes]], list[bytes]], *, tiles: int = 0) -> None:
    """Change the records everywhere they are stored; rewrite hash tiles below level `tiles` to agree."""
    records = change(list(RECORDS))
    shutil.rmtree(log[0] / "tile" / "entries")
    for path in (log[0] / "journal").iterdir():
        path.unlink()
    for index in range(-(-len(records) // 256)):
        part = records[index * 256 : index * 256 + 256]
        path = log[0] / tile_path("entries", index, len(part))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(map(frame, part)))
        if len(part) < 256:
            (log[0] / "journal" / f"{index:03d}").write_bytes(path.read_bytes())
    tree = TileTree()
    for tile in [*tree.absorb(map(leaf_hash, records)), *tree.partial()]:
        if tile.level < tiles:
            path = log[0] / tile_path(tile.level, tile.index, tile.width)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tile.hashes)


def test_untouched(log: Log, original: Log) -> None:
    report = check(log, (original[0] / "seen").read_bytes())
    assert report.ok, report.problem
    assert (report.size, report.first_bad, report.tail) == (SIZE, None, 0)
    shutil.rmtree(log[0] / "journal")
    assert check(log).ok, "a published copy needs no journal"


@pytest.mark.parametrize("number", [0, 1, 255, 256, 300, 511, 512, 599])
def test_flip(log: Log, number: int) -> None:
    rewrite(log, lambda records: [*records[:number], records[number] + b"!", *records[number + 1 :]])
    report = check(log)
    assert (report.ok, report.first_bad) == (False, number), report.problem


@pytest.mark.parametrize("number", [0, 200, 256, 599])
def test_drop(log: Log, number: int) -> None:
    rewrite(log, lambda records: [*records[:number], *records[number + 1 :]])
    report = check(log)
    assert (report.ok, report.first_bad) == (False, number), report.problem


@pytest.mark.parametrize("number", [0, 255, 597])
def test_reorder(log: Log, number: int) -> None:
    def swap(records: list[bytes]) -> list[bytes]:
        records[number], records[number + 1] = records[number + 1], records[number]
        return records

    rewrite(log, swap)
    report = check(log)
    assert (report.ok, report.first_bad) == (False, number), report.problem


@pytest.mark.parametrize("number", [0, 100, 256, 580])
def test_insert(log: Log, number: int) -> None:
    rewrite(log, lambda records: [*records[:number], b"forged", *records[number:]])
    report = check(log)
    assert not report.ok
    assert report.first_bad == number, report.problem


@pytest.mark.parametrize("left", [0, 1, 255, 256, 512, 599])
def test_truncate_below_the_checkpoint(log: Log, left: int) -> None:
    rewrite(log, lambda records: records[:left])
    report = check(log)
    assert not report.ok
    assert report.first_bad == left, report.problem


def test_cut_inside_a_record(log: Log) -> None:
    path = log[0] / "tile/entries/001"
    path.write_bytes(path.read_bytes()[:-3])
    report = check(log)
    assert (report.ok, report.first_bad) == (False, 511), report.problem


def test_length_prefix_flipped(log: Log) -> None:
    path = log[0] / "tile/entries/000"
    data = bytearray(path.read_bytes())
    data[split_bundle(bytes(data), 40)[1] + 1] ^= 1
    path.write_bytes(bytes(data))
    assert check(log).first_bad == 40


def test_forger_who_rewrites_hash_tiles_too(log: Log) -> None:
    def change(records: list[bytes]) -> list[bytes]:
        return [*records[:300], b"forged", *records[301:]]

    rewrite(log, change, tiles=1)
    report = check(log)
    assert (report.ok, report.first_bad) == (False, 256), "the tile above names the bundle"
    assert "256 to 511" in report.problem
    rewrite(log, change, tiles=9)
    report = check(log)
    assert (report.ok, report.first_bad) == (False, None)
    assert "all were rewritten" in report.problem


@pytest.mark.parametrize(("tile", "first"), [("0/000", 7), ("0/002.p/88", 519), ("1/000.p/2", 256)])
def test_hash_tile_alone(log: Log, tile: str, first: int) -> None:
    path = log[0] / "tile" / tile
    data = bytearray(path.read_bytes())
    data[(1 if tile.startswith("1") else 7) * 32] ^= 1
    path.write_bytes(bytes(data))
    report = check(log)
    assert (report.ok, report.first_bad) == (False, first)
    assert "the records agree" in report.problem
    path.unlink()
    assert not check(log).ok


def test_journal_copy_alone(log: Log) -> None:
    path = log[0] / "journal/002"
    path.write_bytes(path.read_bytes().replace(b"record 555", b"record 666"))
    report = check(log)
    assert (report.ok, report.first_bad) == (False, 555), report.problem


def test_published_copy_gone(log: Log) -> None:
    (log[0] / "tile/entries/002.p/88").unlink()
    report = check(log)
    assert (report.ok, report.first_bad) == (False, 512)
    assert "is missing" in report.problem


def test_extra_bytes_behind_a_bundle(log: Log) -> None:
    with (log[0] / "tile/entries/000").open("ab") as file:
        file.write(frame(b"hidden"))
    assert not check(log).ok
    shutil.copy(log[0] / "tile/entries/001", log[0] / "tile/entries/000")
    assert check(log).first_bad == 0


def test_signed_again_with_another_key(log: Log, tmp_path: Path) -> None:
    impostor = FileSigner.open(tmp_path / "impostor", log[1].name)
    report = check(log)
    (log[0] / "checkpoint").write_bytes(sign_checkpoint(impostor, report.size, report.root))
    again = check(log)
    assert not again.ok
    assert "not signed by" in again.problem


def test_checkpoint_of_another_log(log: Log, tmp_path: Path) -> None:
    other = Ledger.open(tmp_path / "other", log[1])
    other.append(b"elsewhere")
    other.close_now()
    (log[0] / "checkpoint").write_bytes(other.checkpoint)
    report = check(log)
    assert not report.ok, "same key, same name, another log"
    stranger = FileSigner.open(tmp_path / "stranger", "stranger.example")
    (log[0] / "checkpoint").write_bytes(sign_checkpoint(stranger, SIZE, bytes(32)))
    assert "not signed by" in check(log).problem
    (log[0] / "checkpoint").unlink()
    assert "there is none" in check(log).problem


def test_rollback_is_found_only_by_who_remembers(original: Log, log: Log) -> None:
    newest = (original[0] / "log" / "checkpoint").read_bytes()
    older = (original[0] / "older", original[1])
    assert check(older).ok, "an old state with its own checkpoint is a valid log"
    report = check(older, newest)
    assert (report.ok, report.first_bad) == (False, 300)
    assert "rolled back" in report.problem
    assert check(log, newest).ok


def test_history_rewritten_with_the_key(original: Log, log: Log, tmp_path: Path) -> None:
    forged = Ledger.open(tmp_path / "forged", original[1], fsync_interval=60)
    for record in [b"forged", *RECORDS[1:]]:
        forged.append(record)
    forged.close_now()
    fake = (tmp_path / "forged", original[1])
    assert check(fake).ok, "whoever has the key can rewrite what nobody remembers"
    report = check(fake, (original[0] / "seen").read_bytes())
    assert not report.ok
    assert "rewritten" in report.problem


def test_earlier_checkpoint_must_be_signed_too(log: Log, tmp_path: Path) -> None:
    impostor = FileSigner.open(tmp_path / "impostor", log[1].name)
    assert "earlier" in check(log, sign_checkpoint(impostor, 1, bytes(32))).problem


def test_malformed_key_is_the_caller_s_fault(log: Log) -> None:
    with pytest.raises(ConfigFault):
        verify(log[0], "nonsense")


def test_relative_directory(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(log[0].parent)
    assert verify(Path("log"), log[1].verifier_key).ok
    path = log[0] / "journal/002"
    path.write_bytes(path.read_bytes()[:-1])
    assert verify(Path("log"), log[1].verifier_key).first_bad == 599
