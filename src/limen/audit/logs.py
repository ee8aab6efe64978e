"""Which logs there are: each replica writes one of its own, under a name no other log has.

A new log takes the configured name if it is free, else that name and a suffix; from then on the name stands in its
checkpoint. Names are in a table that all replicas share, and so is each log's head: its newest checkpoint, with a proof
that it continues what the last statement over all logs says of it (see `witness`).
"""

from __future__ import annotations

import base64
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from limen.audit.folders import make_folder
from limen.audit.ledger import lock_directory
from limen.audit.note import NoteError, VerifierKey, parse_verifier_key
from limen.audit.proofs import Prover
from limen.audit.publish import write_apart
from limen.audit.read import CHECKPOINT, load
from limen.audit.succession import chained, succession_notes
from limen.core.faults import ConfigFault, DependencyFault
from limen.core.ports import Table

LIVE: Final = 30.0  # seconds after which a log nobody was heard from is not being written any more
_PREFIX: Final = "log/"
ID: Final = "id"  # the file in a log's directory that tells it from every other log


@dataclass(frozen=True, slots=True)
class Head:
    """One log, as its writer last told. `log` is its own id, `place` the machine and directory; `at` seconds since the
    epoch, 0 when it was closed. `hashes`: that `note` continues the first `since` records. `base`: the key all replicas
    share, with which its first checkpoint was signed; `chain`: notes that lead from there to `key`, the present one."""

    name: str
    base: str
    key: str
    log: str
    place: str
    instance: str
    at: float
    note: bytes = b""
    since: int = 0
    hashes: tuple[bytes, ...] = ()
    chain: tuple[bytes, ...] = ()


class Logs:
    """The table of logs. All methods raise DependencyFault."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def every(self) -> list[Head]:
        """All that ever had a name here, in order of names."""
        return [_read(raw) for _, raw in self._table.scan(_PREFIX)]

    def enter(self, directory: Path, base: VerifierKey, key: VerifierKey, host: str, now: float) -> Head:
        """The name of the log in `directory`, which is this process's from now on: the name of `base`, the key all
        replicas share, or that and a suffix. `key` signs this log now.

        Raises ConfigFault when it is written by somebody else right now, or others of this storage sign with another
        key; DependencyFault: another process writes this very directory.
        """
        os.close(lock_directory(directory))  # else a second start here would take the name from the one that writes
        identity, stated = _identity(directory), _origin(directory)
        name = stated or base.name
        while True:
            raw = self._table.get(_PREFIX + name)
            shared, present = (replace(one, name=name).text for one in (base, key))
            mine = Head(name, shared, present, identity, f"{host}:{directory}", secrets.token_hex(8), now)
            if raw is not None:
                other = _read(raw)
                self._suits(other, mine, now)
                if other.log != identity:
                    if stated:
                        text = f"another log of this storage is named {name} as well: start with an empty directory"
                        raise ConfigFault(text, "audit.path")
                    name = f"{base.name}/{secrets.token_hex(3)}"
                    continue
                mine = replace(mine, note=other.note, since=other.since, hashes=other.hashes)
            if self._table.swap(_PREFIX + name, raw, _written(mine)):
                return mine

    @staticmethod
    def _suits(other: Head, mine: Head, now: float) -> None:
        live = now - other.at < LIVE
        if live and parse_verifier_key(other.base).public_key != parse_verifier_key(mine.base).public_key:
            text = f"another replica writes {other.name} with another key: all of a storage share one"
            raise ConfigFault(text, "audit.key")
        if live and other.log == mine.log and other.place != mine.place:
            text = f"{other.name} is being written in {other.place}: this is a copy of it"
            raise ConfigFault(text, "audit.path")

    def tell(self, head: Head, directory: Path, since: int, now: float) -> Head:
        """Put the present head where all can see it, with the proof that it continues the first `since` records.

        Raises DependencyFault, not retryable once another process has taken the name; Unprovable when the log on disk
        does not lead from there to its checkpoint.
        """
        chain = succession_notes(directory)
        key = chained(chain)[-1].after.text if chain else head.key
        prover = Prover(directory, parse_verifier_key(key))
        since = min(since, prover.checkpoint.size)
        hashes = tuple(prover.consistency(since)[1])
        after = replace(head, key=key, chain=chain, at=now, note=prover.note, since=since, hashes=hashes)
        raw = self._table.get(_PREFIX + head.name)
        if raw is None or _read(raw).instance != head.instance:
            raise DependencyFault("audit", f"another process took the log's name, {head.name}", retryable=False)
        self._table.swap(_PREFIX + head.name, raw, _written(after))
        return after

    def leave(self, head: Head) -> None:
        """It is not written any more; its name stays its own."""
        raw = self._table.get(_PREFIX + head.name)
        if raw is not None and _read(raw).instance == head.instance:
            self._table.swap(_PREFIX + head.name, raw, _written(replace(_read(raw), at=0.0)))


def head_of(directory: Path, key: VerifierKey, since: int) -> Head:
    """The head of a log that is here, continuing its first `since` records. Raises Unprovable, DependencyFault."""
    chain = succession_notes(directory)
    present = chained(chain)[-1].after if chain else key
    prover = Prover(directory, present)
    since = min(since, prover.checkpoint.size)
    hashes = tuple(prover.consistency(since)[1])
    return Head(
        key.name, key.text, present.text, "", str(directory), "", 0.0, prover.note, since, hashes, chain
    )  # fmt: skip


def _identity(directory: Path) -> str:
    """What tells this log from all others, made when there is none. Raises DependencyFault."""
    found = load(directory, ID)
    if found is not None:
        return found.decode("ascii", "replace").strip()
    made = secrets.token_hex(16)
    try:
        make_folder(directory)
        write_apart(directory, ID, made.encode() + b"\n")
    except OSError as fault:
        raise DependencyFault("audit", f"{directory}: {fault.strerror or fault}") from None
    return made


def _origin(directory: Path) -> str:
    """The name in the log's checkpoint, "" when there is none yet. Whether it may be believed is for others to say."""
    note = load(directory, CHECKPOINT)
    return (note or b"").split(b"\n", 1)[0].decode("utf-8", "replace")


def key_beside(directory: Path) -> Path:
    """Where the key that signs the log is once it was replaced; its public half is beside it, with `.pub` added."""
    return directory.with_name(f"{directory.name}-log.key")


def name_of(directory: Path, base: str) -> str:
    """The name of the log in `directory`, given the configured one: a replica's may have a suffix."""
    name = _origin(directory)
    return name if name.startswith(f"{base}/") else base


def key_of(directory: Path, key: VerifierKey) -> VerifierKey:
    """The same key, under the name of the log in `directory`."""
    return replace(key, name=name_of(directory, key.name))


def _written(head: Head) -> bytes:
    hashes = [base64.b64encode(one).decode() for one in head.hashes]
    chain = [one.decode() for one in head.chain]
    return orjson.dumps(asdict(head) | {"note": head.note.decode(), "hashes": hashes, "chain": chain})


def _read(raw: bytes) -> Head:
    try:
        data: Any = orjson.loads(raw)
        hashes = tuple(base64.b64decode(one, validate=True) for one in data["hashes"])
        chain = tuple(one.encode() for one in data["chain"])
        head = Head(**{**data, "note": data["note"].encode(), "hashes": hashes, "chain": chain})
        for text in (head.base, head.key):
            parse_verifier_key(text)
    except (ValueError, TypeError, KeyError, AttributeError, NoteError):
        raise DependencyFault("table", "the entry of a log cannot be read", retryable=False) from None
    return head
