"""Merkle tree hashing and proofs: RFC 6962 section 2.1, checked with the algorithms of RFC 9162 section 2.1.

Pure functions over lists of leaf hashes. They decide nothing about files or signatures; a proof only relates a leaf or
an older root to a newer root, and it is the caller who must know that root from a signed checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

EMPTY_ROOT: Final = sha256(b"").digest()


def leaf_hash(record: bytes) -> bytes:
    """RFC 6962 2.1: SHA-256(0x00 || record). The prefix keeps a leaf from being passed off as a node."""
    return sha256(b"\x00" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962 2.1: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def root_hash(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 2.1 over leaf hashes. Pairing level by level, the odd one moving up, is the same tree."""
    if not leaves:
        return EMPTY_ROOT
    row = list(leaves)
    while len(row) > 1:
        above = [node_hash(row[i], row[i + 1]) for i in range(0, len(row) - 1, 2)]
        if len(row) % 2:
            above.append(row[-1])
        row = above
    return row[0]


def _split(size: int) -> int:
    """The largest power of two smaller than `size` (size > 1)."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """PATH of RFC 6962 2.1.1: the hashes that lead from leaf `index` to the root, lowest first. Raises IndexError."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} is not in a tree of {len(leaves)}")
    if len(leaves) == 1:
        return []
    middle = _split(len(leaves))
    if index < middle:
        return [*inclusion_proof(leaves[:middle], index), root_hash(leaves[middle:])]
    return [*inclusion_proof(leaves[middle:], index - middle), root_hash(leaves[:middle])]


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """PROOF of RFC 6962 2.1.2: that the tree of the first `old_size` leaves is a prefix of this one.

    Empty for old_size 0 or equal sizes (nothing to prove beyond comparing roots). Raises IndexError.
    """
    if not 0 <= old_size <= len(leaves):
        raise IndexError(f"no tree of {old_size} in a tree of {len(leaves)}")
    return [] if old_size == 0 else _subproof(leaves, old_size, whole=True)


def _subproof(leaves: Sequence[bytes], old_size: int, *, whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962 2.1.2. `whole`: the old tree is this very subtree, so its root is already known."""
    if old_size == len(leaves):
        return [] if whole else [root_hash(leaves)]
    middle = _split(len(leaves))
    if old_size <= middle:
        return [*_subproof(leaves[:middle], old_size, whole=whole), root_hash(leaves[middle:])]
    return [*_subproof(leaves[middle:], old_size - middle, whole=False), root_hash(leaves[:middle])]


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """RFC 9162 2.1.3.2: does `proof` lead from this leaf hash at `index` to `root` of a tree of `size`?"""
    if not 0 <= index < size or any(len(step) != 32 for step in proof):
        return False
    node, last, current = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            current = node_hash(step, current)
            while not node & 1 and node != 0:
                node, last = node >> 1, last >> 1
        else:
            current = node_hash(current, step)
        node, last = node >> 1, last >> 1
    return last == 0 and current == root


def check_consistency(old_size: int, size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]) -> bool:
    """RFC 9162 2.1.4.2: is the tree (old_size, old_root) a prefix of (size, root)? The empty tree is of every tree."""
    if not 0 <= old_size <= size or any(len(step) != 32 for step in proof):
        return False
    if old_size == size:
        return not proof and old_root == root
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    steps = list(proof)
    if old_size & (old_size - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        return False
    node, last = old_size - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    older = newer = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            older, newer = node_hash(step, older), node_hash(step, newer)
            while not node & 1 and node != 0:
                node, last = node >> 1, last >> 1
        else:
            newer = node_hash(newer, step)
        node, last = node >> 1, last >> 1
    return last == 0 and older == old_root and newer == root
