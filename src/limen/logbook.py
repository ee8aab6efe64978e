"""What a running gateway does for its log besides writing it: tell others how far it is, state how far all are, and
remove what is too old."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from limen.audit.logs import Head, Logs
from limen.audit.note import NoteError, VerifierKey, parse_verifier_key
from limen.audit.proofs import Unprovable
from limen.audit.prune import Pruning
from limen.audit.pruned import known_pruned
from limen.audit.succession import trusted
from limen.audit.tiles import WIDTH
from limen.audit.witness import RolledBack, Statement, advance, following, read_statement, sign_statement
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.storage import open_index

if TYPE_CHECKING:
    from limen.adapters.keys import FileSigner
    from limen.config.model import Config
    from limen.storage import State

Record = Callable[[str, Mapping[str, Any]], None]

BEAT: Final = 5.0  # seconds between two times a log tells how far it is
_PRUNE: Final = 3600.0
_STATEMENT: Final = "witness"
_LEASE: Final = "witness lease"
_HELD: Final = 30.0  # seconds another replica waits for one that holds the lease


class Logbook:
    """The duties of one log. `base` is the key all replicas share, which signs statements over all logs; `signer` signs
    this one now."""

    def __init__(
        self, config: Config, base: FileSigner, signer: FileSigner, state: State, say: Callable[[str], None]
    ) -> None:
        """Enter the log: from now on its name is ours. Raises ConfigFault, DependencyFault."""
        self._config, self._settings, self._base, self._say = config, config.audit, base, say
        self._table, self._cursors = state.logs, state.cursors
        self._logs, self._directory = Logs(self._table), Path(config.audit.path).absolute()
        self.head: Head = self._logs.enter(
            self._directory,
            VerifierKey(base.name, base.public_key),
            VerifierKey(base.name, signer.public_key),
            socket.gethostname(),
            time.time(),
        )
        self.signer: FileSigner = signer.named(self.head.name)
        self._me, self._pruned, self._witnessed, self._trouble = secrets.token_hex(8), -_PRUNE, -1e9, ""
        self._number = -1  # of the newest statement seen

    async def run(self, record: Record) -> None:
        """Until cancelled. Raises DependencyFault when the log's name is taken from us, or nothing can be put on
        record."""
        while True:
            await asyncio.to_thread(self.turn, record)
            await asyncio.sleep(BEAT)

    def turn(self, record: Record) -> None:
        """Each duty once. Raises like `run`; any other trouble is said."""
        try:
            self._beat()
            self._witness(record)
            self._prune(record)
            self._tell("")
        except (Unprovable, NoteError, RolledBack) as fault:
            self._alarm(str(fault), record)
        except DependencyFault as fault:
            if fault.port == "audit" and not fault.retryable:
                raise
            self._tell(str(fault))

    def close(self) -> None:
        """The log is not written any more. Raises DependencyFault."""
        self._logs.leave(self.head)

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._say(f"log: {trouble or 'kept up again'}")

    def _alarm(self, trouble: str, record: Record) -> None:
        """Somebody changed a log. Said and recorded once, and nothing new is stated about it."""
        if trouble != self._trouble:
            record("tampered", {"detail": trouble[:500], "severity": "critical"})
        self._tell(trouble)

    def _beat(self) -> None:
        """Tell how far we are, and see that this continues what was stated of us: nobody set the log back, nor the
        statement, nor says in our name that records may be missing."""
        raw = self._table.get(_STATEMENT)
        said = read_statement(raw, self._key) if raw else Statement(number=-1)
        if said.number < self._number:
            text = f"the statement over all logs was set back: {self._number} was seen, {said.number} is there"
            raise RolledBack(text if raw else f"the statement over all logs is gone: {self._number} was seen")
        self._number = said.number
        seen = said.seen(self.head.name)
        since = 0 if seen is None else seen.size
        self.head = self._logs.tell(self.head, self._directory, since, time.time())
        following(self.head, seen)
        known_pruned(self._directory, trusted(self._directory, parse_verifier_key(self.head.key)))

    @property
    def _key(self) -> VerifierKey:
        return parse_verifier_key(self._base.verifier_key)

    def _witness(self, record: Record) -> None:
        """One replica at a time states how far all logs are, and puts that on record in its own."""
        every = self._settings.witness
        if every is None or time.monotonic() - self._witnessed < every or not self._lease(time.time()):
            return
        raw = self._table.get(_STATEMENT)
        statement = advance(raw or b"", self._key, self._logs.every(), time.time())
        note = sign_statement(self._base, statement)
        if self._table.swap(_STATEMENT, raw, note):
            self._witnessed = time.monotonic()
            record("witnessed", {"number": statement.number, "digest": sha256(note).hexdigest(),
                                 "logs": [[name, seen.size] for name, seen in statement.logs]})  # fmt: skip

    def _lease(self, now: float) -> bool:
        raw = self._table.get(_LEASE)
        if raw is not None and (held := orjson.loads(raw))["by"] != self._me and now < held["until"] <= now + _HELD:
            return False
        return self._table.swap(_LEASE, raw, orjson.dumps({"by": self._me, "until": now + _HELD}))

    def _prune(self, record: Record) -> None:
        """Where two people must agree to a deletion, none happens by itself."""
        settings = self._settings
        if settings.deleters > 1 or time.monotonic() - self._pruned < _PRUNE:
            return
        pruning = Pruning(self._directory, self.signer, settings.retention, self._table, self._cursors)
        plan = pruning.plan(time.time())
        if plan.ranges:
            gone = pruning.remove(
                plan.ranges, ["retention"], "older than audit.retention", time.time(),
                lambda fields: record("pruned", fields),
            )  # fmt: skip
            forget(self._config, self.signer.name, gone)
        self._pruned = time.monotonic()


def forget(config: Config, log: str, ranges: Sequence[tuple[int, int]]) -> None:
    """What was removed from the log is not found by its index either. Raises DependencyFault."""
    if config.audit.index:
        index = open_index(config)
        try:
            for first, last in ranges:
                index.forget(log, first * WIDTH, last * WIDTH)
        finally:
            index.close()


def statement_of(table: Table) -> bytes:
    """The newest statement over all logs, b"" before the first. Raises DependencyFault."""
    return table.get(_STATEMENT) or b""
