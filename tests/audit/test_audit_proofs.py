"""Proofs made from tiles, checked by the textbook definition of RFC 6962 written here once more."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from limen.adapters.keys import FileSigner
from limen.audit.ledger import Ledger
from limen.audit.note import NoteError, parse_verifier_key
from limen.audit.proofs import Prover, StoredTree, Unprovable, check_proof, read_proof
from limen.audit.tiles import TileTree, tile_path
from limen.audit.tree import check_consistency, check_inclusion, leaf_hash


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, as it stands there."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256().digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return [*path(m, leaves[:k]), mth(leaves[k:])] if m < k else [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], b: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if b else [mth(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*subproof(m, leaves[:k], b), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def stored(directory: Path, count: int) -> list[bytes]:
    """Tiles of a log of so many leaves; returns the leaves."""
    leaves = [leaf_hash(b"%d" % number) for number in range(count)]
    tree = TileTree()
    for tile in [*tree.absorb(leaves), *tree.partial()]:
        place = directory / tile_path(tile.level, tile.index, tile.width)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(tile.hashes)
    return leaves


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 255, 256, 257, 511, 512, 600, 1025])
def test_proofs_are_those_of_the_rfc(tmp_path: Path, size: int) -> None:
    leaves = stored(tmp_path, size)
    tree, root = StoredTree(tmp_path, size), mth(leaves)
    assert tree.root(size) == root
    for index in {0, 1, size // 3, size // 2, size - 2, size - 1, 255, 256} & set(range(size)):
        proof = tree.inclusion(index)
        assert proof == path(index, leaves)
        assert check_inclusion(leaves[index], index, size, proof, root)
    for older in {0, 1, size // 2, size - 1, size, 255, 256, 257} & set(range(size + 1)):
        proof = tree.consistency(older)
        assert proof == (subproof(older, leaves, True) if older else [])
        assert check_consistency(older, size, mth(leaves[:older]), root, proof)


def test_three_levels(tmp_path: Path) -> None:
    size = 256 * 256 + 300
    leaves = stored(tmp_path, size)
    tree, root = StoredTree(tmp_path, size), mth(leaves)
    for index in (0, 65535, 65536, size - 1):
        assert tree.inclusion(index) == path(index, leaves)
        assert check_inclusion(leaves[index], index, size, tree.inclusion(index), root)


@pytest.fixture
def log(tmp_path: Path) -> tuple[Path, FileSigner]:
    signer = FileSigner.open(tmp_path / "key", "log.example/audit")
    ledger = Ledger.open(tmp_path / "log", signer, fsync_interval=60)
    for number in range(600):
        ledger.append(b'{"t":"x","number":%d}' % number)
    ledger.close_now()
    return tmp_path / "log", signer


def test_a_proof_travels_and_convinces_with_the_key_alone(log: tuple[Path, FileSigner]) -> None:
    key = parse_verifier_key(log[1].verifier_key)
    for index in (0, 255, 256, 599):
        text = Prover(log[0], key).prove(index).text()
        assert text.startswith(b"c2sp.org/tlog-proof@v1\nextra ")
        proof = read_proof(text)
        assert proof.record == b'{"t":"x","number":%d}' % index
        assert check_proof(proof, key).size == 600


def test_op_02_a_proof_that_was_changed_convinces_nobody(log: tuple[Path, FileSigner], tmp_path: Path) -> None:
    key = parse_verifier_key(log[1].verifier_key)
    text = Prover(log[0], key).prove(300).text()
    lines = text.split(b"\n")
    for change in (
        text.replace(b"index 300", b"index 301"),
        text.replace(lines[1], lines[1][:-4] + b"AAA="),
        b"\n".join([*lines[:3], *lines[4:]]),
        b"\n".join([*lines[:4], lines[3], *lines[4:]]),
        text.replace(b"\n600\n", b"\n601\n"),
    ):
        assert change != text
        with pytest.raises(NoteError):
            check_proof(read_proof(change), key)
    stranger = parse_verifier_key(FileSigner.open(tmp_path / "other", "log.example/audit").verifier_key)
    with pytest.raises(NoteError, match="not signed by"):
        check_proof(read_proof(text), stranger)
    for broken in (
        b"",
        b"c2sp.org/tlog-proof@v1\n\n",
        text.replace(b"extra ", b"extra"),
        text.replace(b"index 300", b"index 0300"),
    ):
        with pytest.raises(NoteError):
            read_proof(broken)


def test_op_02_nothing_is_proven_of_a_record_that_was_changed(log: tuple[Path, FileSigner]) -> None:
    key = parse_verifier_key(log[1].verifier_key)
    place = log[0] / "tile/entries/001"
    place.write_bytes(place.read_bytes().replace(b'"number":300', b'"number":666'))
    with pytest.raises(Unprovable, match="not number 300"):
        Prover(log[0], key).prove(300)
    Prover(log[0], key).prove(301)
    hashes = log[0] / "tile/0/001"
    hashes.write_bytes(bytes(32) + hashes.read_bytes()[32:])
    with pytest.raises(Unprovable):
        Prover(log[0], key).prove(301)
    with pytest.raises(Unprovable):
        Prover(log[0], key).consistency(257)
    with pytest.raises(Unprovable, match="not among"):
        Prover(log[0], key).prove(600)


def test_consistency_between_two_sizes(log: tuple[Path, FileSigner]) -> None:
    prover = Prover(log[0], parse_verifier_key(log[1].verifier_key))
    leaves = [leaf_hash(b'{"t":"x","number":%d}' % number) for number in range(600)]
    for older in (0, 1, 256, 300, 599, 600):
        root, proof = prover.consistency(older)
        assert root == mth(leaves[:older])
        assert check_consistency(older, 600, root, mth(leaves), proof)
