"""Evidence: chosen records of logs with their proofs, and files beside them, in one signed archive.

The archive is checked by `bundle_check`, a file that stands alone and travels with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any, Final

import orjson

from limen.audit.bundle_check import FORMAT, Wrong, check, pack
from limen.audit.note import sign_note
from limen.audit.signed import SignedRecords
from limen.audit.succession import chained, succession_notes
from limen.audit.tiles import WIDTH
from limen.audit.tree import inclusion_proof, leaf_hash, root_hash
from limen.core.ports import Signer

__all__ = ["Proven", "Wrong", "bundle", "check", "prove", "verifier_text"]

Choose = Callable[[int, bytes], bool]
Redact = Callable[[bytes], bytes | None]  # another text for a record, or None: as it is
_README: Final = """Evidence of the incident {id}: {title}

Verify it:

    python verify.py THIS.zip --key 'name+hash+key'
or  limen incident verify THIS.zip --key 'name+hash+key'

The key must come from somewhere else than this archive: from whoever runs the gateway, as `limen audit key` printed it
before the incident. Take verify.py from `limen incident verifier` as well: its SHA-256 there is {verifier}.
It needs Python 3.9 or newer and nothing else.

incident.json       the incident: status, notes, what was linked to it
timeline.md, .json  what happened, in order
impact.json         who called what, what was read, and where it could go afterwards
logs/N/             records of one log, each with the proof that it is in the signed checkpoint beside them
logs/N/keys/        notes by which the log's keys replaced each other: any of these keys is enough to verify it
definitions/        definitions of tools as they were approved or announced; named by their SHA-256
policies/           policies as they decided, Cedar and schema; named by their SHA-256
catalogs/           what was approved when; named by their SHA-256
manifest.json       SHA-256 of every file; manifest.sig is the signature

That records are in the log is proven, and that none was changed. That none was left out is not: the log shows that.
"""


@dataclass(frozen=True, slots=True)
class Proven:
    """Chosen records of one log. `note`: its checkpoint, with the lines of witnesses, signed by `key`; `chain`: notes
    that lead from the log's first key there. `later`: records that are not signed yet; `pruned`: that were removed."""

    name: str
    key: str
    note: bytes
    size: int
    records: tuple[tuple[int, bytes, tuple[bytes, ...]], ...]
    later: int
    chain: tuple[bytes, ...] = ()
    pruned: int = 0


def prove(directory: Path, key_text: str, choose: Choose) -> Proven:
    """Read a whole log once, choose records, and prove each. Raises Untrusted when the log is not what was signed,
    DependencyFault."""
    signed = SignedRecords(directory, key_text)
    chain, walk = _leading_to(signed.key.text, succession_notes(directory)), _Walk(choose)
    for index, leaf, record in signed.walk():
        walk.take(index, leaf, record)
    walk.close()
    records = tuple(walk.proofs())
    return Proven(
        signed.key.name, signed.key.text, signed.note, signed.size, records, signed.later, chain, signed.pruned
    )


def _leading_to(key: str, notes: Sequence[bytes]) -> tuple[bytes, ...]:
    """The changes of keys up to this one: one that came while the log was read is not of this evidence. None for a key
    of no chain, which alone is believed (see `Trusted`)."""
    for number, one in enumerate(chained(notes), 1):
        if one.after.text == key:
            return tuple(notes[:number])
    return ()


class _Walk:
    """Keeps the root of each full bundle, and the leaves of those with a chosen record: the tree of these roots is the
    tree of the log."""

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self._roots: list[bytes] = []
        self._leaves: list[bytes] = []
        self._chosen: list[tuple[int, bytes]] = []
        self._kept: dict[int, list[bytes]] = {}

    def take(self, index: int, leaf: bytes, record: bytes | None) -> None:
        """The next one; None: only its hash is left."""
        self._leaves.append(leaf)
        if record is not None and self._choose(index, record):
            self._chosen.append((index, record))
        if len(self._leaves) == WIDTH:
            self.close()

    def close(self) -> None:
        """A bundle is complete, or the last."""
        if not self._leaves:
            return
        if self._chosen and self._chosen[-1][0] // WIDTH == len(self._roots):
            self._kept[len(self._roots)] = self._leaves
        self._roots.append(root_hash(self._leaves))
        self._leaves = []

    def proofs(self) -> list[tuple[int, bytes, tuple[bytes, ...]]]:
        """Each chosen record with the hashes from it to the root."""
        above: dict[int, list[bytes]] = {}
        found = []
        for index, record in self._chosen:
            place = index // WIDTH
            if place not in above:
                above[place] = inclusion_proof(self._roots, place)
            found.append((index, record, (*inclusion_proof(self._kept[place], index % WIDTH), *above[place])))
        return found


def verifier_text() -> bytes:
    """The program that checks a bundle, alone."""
    return (resources.files("limen.audit") / "bundle_check.py").read_bytes()


def bundle(
    signer: Signer,
    about: Mapping[str, Any],
    logs: Sequence[Proven],
    files: Mapping[str, bytes],
    redact: Redact = lambda record: None,
) -> bytes:
    """The archive. `about`: id, title, created (seconds since the epoch). Raises Wrong when it would be too large, and
    what the signer raises."""
    verifier = verifier_text()
    held = {**files, "verify.py": verifier}
    described, records, redacted = [], 0, 0
    for number, log in enumerate(logs):
        folder = f"logs/{number}"
        shown = [redact(record) for _, record, _ in log.records]
        lines = [_line(*one, instead) for one, instead in zip(log.records, shown, strict=True)]
        redacted += sum(one is not None for one in shown)
        records += len(lines)
        held[f"{folder}/checkpoint"] = log.note
        held[f"{folder}/records.jsonl"] = b"".join(line + b"\n" for line in lines)
        held |= {f"{folder}/keys/{number}": note for number, note in enumerate(log.chain, 1)}
        described.append(
            {"name": log.name, "key": log.key, "folder": folder, "size": log.size, "later": log.later,
             "keys": len(log.chain), "pruned": log.pruned}
        )  # fmt: skip
    told = {"id": about["id"], "title": about["title"], "verifier": sha256(verifier).hexdigest()}
    held["README.txt"] = _README.format(**told).encode()
    manifest = orjson.dumps(
        {
            "format": FORMAT, "incident": about["id"], "title": about["title"], "created": about["created"],
            "signer": signer.name, "logs": described, "records": records, "redacted": redacted,
            "files": {name: {"sha256": sha256(data).hexdigest(), "size": len(data)} for name, data in held.items()},
        },
        option=orjson.OPT_SORT_KEYS,
    )  # fmt: skip
    held["manifest.json"] = manifest
    held["manifest.sig"] = sign_note(signer, f"{FORMAT}\n{sha256(manifest).hexdigest()}\n")
    return pack(held)


def _line(index: int, record: bytes, proof: Sequence[bytes], instead: bytes | None) -> bytes:
    row: dict[str, Any] = {"index": index, "proof": [one.hex() for one in proof]}
    if instead is None:
        row["record"] = record.decode()
    else:
        row["leaf"], row["redacted"] = leaf_hash(record).hex(), orjson.loads(instead)
    return orjson.dumps(row)
