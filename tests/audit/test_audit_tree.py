"""RFC 6962 hashing and proofs against the RFC's own recursion and the published test roots."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limen.audit.tiles import TileTree, frame, split_bundle, tile_path
from limen.audit.tree import (
    EMPTY_ROOT,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_hash,
)

RECORDS = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
RECORDS.append(bytes.fromhex("606162636465666768696a6b6c6d6e6f"))
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive(records: list[bytes]) -> bytes:
    """MTH exactly as RFC 6962 2.1 writes it."""
    if not records:
        return sha256(b"").digest()
    if len(records) == 1:
        return sha256(b"\0" + records[0]).digest()
    split = 1
    while split * 2 < len(records):
        split *= 2
    return sha256(b"\1" + naive(records[:split]) + naive(records[split:])).digest()


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    leaves = [leaf_hash(record) for record in RECORDS[:size]]
    tree = TileTree()
    tree.absorb(leaves)
    assert root_hash(leaves).hex() == tree.root().hex() == naive(RECORDS[:size]).hex() == ROOTS[size]


def test_published_inclusion_path() -> None:
    leaves = [leaf_hash(record) for record in RECORDS]
    assert [step.hex() for step in inclusion_proof(leaves, 0)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]


def test_every_proof_of_every_small_tree() -> None:
    everything = [leaf_hash(b"%d" % number) for number in range(34)]
    for size in range(1, 35):
        leaves = everything[:size]
        root = root_hash(leaves)
        for index in range(size):
            proof = inclusion_proof(leaves, index)
            assert check_inclusion(leaves[index], index, size, proof, root)
            assert not check_inclusion(leaf_hash(b"other"), index, size, proof, root)
            assert not check_inclusion(leaves[index], index + 1, size, proof, root)
            assert not check_inclusion(leaves[index], index, size, [*proof, root], root)
            assert not proof or not check_inclusion(leaves[index], index, size, proof[:-1], root)
        for old in range(size + 1):
            proof = consistency_proof(leaves, old)
            old_root = root_hash(leaves[:old])
            assert check_consistency(old, size, old_root, root, proof)
            assert not check_consistency(old, size, leaf_hash(b"other"), root, proof)
            assert not check_consistency(old, size, old_root, root, [*proof, root])
            if 0 < old < size:
                assert not check_consistency(old, size, old_root, leaf_hash(b"other"), proof)
                assert not check_consistency(old, size, old_root, root, proof[:-1])
                assert not check_consistency(old, size, root, root, proof)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=8), min_size=1, max_size=90), st.data())
def test_against_the_recursion(records: list[bytes], data: st.DataObject) -> None:
    leaves = [leaf_hash(record) for record in records]
    root = naive(records)
    assert root_hash(leaves) == root
    index = data.draw(st.integers(0, len(records) - 1))
    old = data.draw(st.integers(0, len(records)))
    proof = inclusion_proof(leaves, index)
    assert check_inclusion(leaves[index], index, len(leaves), proof, root)
    steps = consistency_proof(leaves, old)
    assert check_consistency(old, len(leaves), naive(records[:old]), root, steps)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        flipped = [*proof[:place], bytes(32), *proof[place + 1 :]]
        assert not check_inclusion(leaves[index], index, len(leaves), flipped, root)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=6))
def test_tiles_grow_in_any_steps(steps: list[int]) -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(sum(steps))]
    tree, at, full = TileTree(), 0, []
    for step in steps:
        full += tree.absorb(leaves[at : at + step])
        at += step
        assert tree.root() == root_hash(leaves[:at])
    assert tree.size == len(leaves)
    level0 = b"".join(tile.hashes for tile in [*full, *tree.partial()] if tile.level == 0)
    assert level0 == b"".join(leaves)


def test_the_specification_s_example_of_70000() -> None:
    tree = TileTree()
    full = tree.absorb([leaf_hash(b"same")] * 70_000)
    assert [sum(1 for tile in full if tile.level == level) for level in (0, 1, 2)] == [273, 1, 0]
    assert [(tile.level, tile.index, tile.width) for tile in tree.partial()] == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert tree.root() == root_hash([leaf_hash(b"same")] * 70_000)


def test_paths() -> None:
    assert tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tile_path("entries", 5, 17) == "tile/entries/005.p/17"
    assert tile_path(2, 1000, 256) == "tile/2/x001/000"


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=20), st.integers(0, 60))
def test_a_bundle_cut_anywhere_gives_its_whole_records(records: list[bytes], cut: int) -> None:
    data = b"".join(frame(record) for record in records)
    assert split_bundle(data) == (records, len(data))
    found, used = split_bundle(data[: max(0, len(data) - cut)])
    assert found == records[: len(found)]
    assert used == sum(len(record) + 2 for record in found)


@pytest.mark.parametrize("length", [0, 65536])
def test_record_length(length: int) -> None:
    with pytest.raises(ValueError):
        frame(bytes(length))


def test_zeros_after_a_power_failure_are_not_records() -> None:
    assert split_bundle(frame(b"one") + bytes(4096)) == ([b"one"], 5)


def test_out_of_range() -> None:
    with pytest.raises(IndexError):
        inclusion_proof([], 0)
    with pytest.raises(IndexError):
        consistency_proof([EMPTY_ROOT], 2)
    assert not check_inclusion(EMPTY_ROOT, 0, 0, [], EMPTY_ROOT)
    assert not check_consistency(2, 1, EMPTY_ROOT, EMPTY_ROOT, [])
