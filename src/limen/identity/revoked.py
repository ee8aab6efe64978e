"""Guard Revoked: is this token, caller, client, session or key still welcome?

The records are in a table that every replica reads. A call looks them up in memory; a copy that is older than `MAX_AGE`
decides nothing: the guard reads anew, and refuses when that fails.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

from limen.core.call import Caller, Context
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.core.verdict import Pass, Verdict, refuse

MAX_AGE: Final = 1.0  # seconds a copy of the records may decide
_RESCAN: Final = 5.0  # seconds after which all records are read even if nobody says that they changed
_RECORD, _VERSION, _EPOCH = "r/", "version", "epoch"
_PASS: Final = Pass()
KINDS: Final = ("token", "user", "client", "session", "key", "grant")
MAX_RECORDS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Revocation:
    """One record. `value` is a token id (`jti` or digest), subject, client id, digest of a session, key id, or the id
    of a grant of ours, with which the ids of its tokens begin, before a dot; an empty `issuer` means any. Times in
    seconds since the epoch; `until` None: until it is undone."""

    kind: str
    value: str
    issuer: str = ""
    reason: str = ""
    by: str = ""
    at: float = 0.0
    until: float | None = None

    @property
    def id(self) -> str:
        """The same for the same thing revoked again."""
        return sha256(json.dumps([self.kind, self.issuer, self.value]).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Epoch:
    """Records were put back to an earlier state at `at`, and with them what was revoked since: nothing issued before
    counts. What does not say when it was issued counts from `until` on, when it must be younger. Seconds since the
    epoch."""

    at: float
    until: float

    def refuses(self, caller: Caller, now: float) -> bool:
        """Nobody issued anything to a local user; whoever else has a credential that ends."""
        if not caller.expires:
            return False
        return caller.issued < self.at if caller.issued else now < self.until


def begin_epoch(table: Table, epoch: Epoch) -> None:
    """From now on. Raises DependencyFault."""
    table.put(_EPOCH, json.dumps(asdict(epoch)).encode())
    _tell(table)


def _epoch(table: Table) -> Epoch | None:
    raw = table.get(_EPOCH)
    if raw is None:
        return None
    try:
        found = Epoch(**json.loads(raw))
        if not all(isinstance(one, float | int) for one in (found.at, found.until)):
            raise ValueError("not times")
    except (ValueError, TypeError) as error:
        raise DependencyFault("revocations", f"the epoch cannot be read ({error}): restore it or repair it") from None
    return found


def session_digest(session: str) -> str:
    """How a session is named in records and in the audit: its id is a secret of its client."""
    return sha256(session.encode()).hexdigest()[:16]


def revoke(table: Table, record: Revocation) -> Revocation:
    """Put it in force on every replica. Raises ValueError for what means nothing, DependencyFault."""
    if record.kind not in KINDS:
        raise ValueError(f"not a kind of revocation: {record.kind}")
    if not record.value or len(record.value) > 255 or len(record.issuer) > 2048:
        raise ValueError("what is revoked has a name of 1 to 255 characters")
    if record.until is not None and record.until <= record.at:
        raise ValueError("the end lies in the past")
    if sum(1 for _ in table.scan(_RECORD)) >= MAX_RECORDS:
        raise ValueError(f"there are {MAX_RECORDS} revocations already: give them an end, or undo some")
    table.put(_RECORD + record.id, json.dumps(asdict(record)).encode(), record.until)
    _tell(table)
    return record


def undo(table: Table, identifier: str) -> Revocation:
    """Take it back. Raises LookupError when there is none, DependencyFault."""
    raw = table.get(_RECORD + identifier)
    if raw is None or not table.swap(_RECORD + identifier, raw, None):
        raise LookupError(f"no revocation {identifier}")
    _tell(table)
    return _read(identifier, raw)


def revocations(table: Table) -> list[Revocation]:
    """All that are in force, oldest first. Raises DependencyFault."""
    found = [_read(key.removeprefix(_RECORD), raw) for key, raw in table.scan(_RECORD)]
    return sorted(found, key=lambda record: record.at)


def is_revoked(table: Table, wanted: Iterable[tuple[str, str, str]]) -> bool:
    """Whether a record of any of these kinds, issuers and values stands, as the table has it now. Raises
    DependencyFault."""
    found = (table.get(_RECORD + Revocation(kind, value, issuer).id) for kind, issuer, value in wanted)
    return any(raw is not None for raw in found)


def _tell(table: Table) -> None:
    table.put(_VERSION, secrets.token_bytes(16))


def _read(identifier: str, raw: bytes) -> Revocation:
    """Raises DependencyFault: what cannot be read may be what should stop this call."""
    try:
        record = Revocation(**json.loads(raw))
        if record.kind not in KINDS or record.id != identifier:
            raise ValueError("is not the record of its key")
        if not isinstance(record.until, float | int | None):
            raise ValueError("until is not a time")
    except (ValueError, TypeError) as error:
        message = f"revocation {identifier} cannot be read ({error}): undo it or repair it"
        raise DependencyFault("revocations", message) from None
    return record


class Revocations:
    """A copy of the records in memory. `remote`: reading them waits for a network, and is done in a thread."""

    def __init__(
        self,
        table: Table,
        *,
        remote: bool = False,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table, self._remote, self._now, self._monotonic = table, remote, now, monotonic
        self._found: dict[tuple[str, str, str], Revocation] = {}
        self._sessions = self._grants = self._people = False
        self._epoch: Epoch | None = None
        self._as_of = self._scanned = float("-inf")
        self._version: bytes | None = None
        self._reading: asyncio.Task[None] | None = None
        self.on_change: Callable[[list[Revocation], list[Revocation]], None] = lambda added, gone: None

    def refresh(self) -> None:
        """Read what changed. Raises DependencyFault, and then the copy goes on ageing."""
        self._adopt(*self._look())

    async def current(self) -> None:
        """`refresh` without holding up the event loop; several callers share one reading."""
        if not self._remote:
            self.refresh()
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        self._adopt(*await asyncio.to_thread(self._look))

    def _look(self) -> tuple[float, bytes | None, list[Revocation] | None]:
        """When this began, the version, and all records where they may differ from the copy."""
        began = self._monotonic()
        version = self._table.get(_VERSION)
        if version == self._version and began - self._scanned < _RESCAN:
            return began, version, None
        self._epoch = _epoch(self._table)
        return began, version, revocations(self._table)

    def _adopt(self, began: float, version: bytes | None, records: list[Revocation] | None) -> None:
        if records is not None:
            before, first = self._found, self._scanned == float("-inf")
            self._found = {(record.kind, record.issuer, record.value): record for record in records}
            self._sessions = any(record.kind == "session" for record in records)
            self._grants = any(record.kind == "grant" for record in records)
            self._people = any(record.kind == "user" and record.issuer for record in records)
            self._version, self._scanned = version, began
        self._as_of = max(self._as_of, began)
        if records is not None and before != self._found:
            added = [record for key, record in self._found.items() if before.get(key) != record]
            gone = [] if first else [record for key, record in before.items() if key not in self._found]
            self.on_change(added, gone)

    @property
    def age(self) -> float:
        """Seconds since the records were read."""
        return self._monotonic() - self._as_of

    def outdated(self, caller: Caller) -> bool:
        """Whether what it came with was issued before the records were restored."""
        return self._epoch is not None and self._epoch.refuses(caller, self._now())

    def find(self, caller: Caller, session: str | None) -> Revocation | None:
        """What stands against this caller or session, or None. Says nothing about the age of the copy."""
        found = self._found
        if not found:
            return None
        issuer = caller.issuer
        keys = [
            ("user", issuer, caller.subject),
            ("token", issuer, caller.token_id),
            ("client", issuer, caller.client),
            ("key", issuer, caller.key_id),
            ("user", "", caller.subject),
            ("token", "", caller.token_id),
            ("client", "", caller.client),
            ("key", "", caller.key_id),
        ]
        if self._sessions and session:
            keys.append(("session", "", session_digest(session)))
        if self._grants:
            keys.append(("grant", issuer, caller.token_id.partition(".")[0]))
        if self._people and (provider := caller.provider):  # operators know people by it, and lock them out by it
            keys.append(("user", provider, caller.subject))
        for key in keys:
            record = found.get(key)
            if record is not None and (record.until is None or self._now() < record.until):
                return record
        return None


class Revoked:
    """Refuses `identity.revoked`, which a client cannot tell from an invalid token, and `identity.session`."""

    needs = (Caller,)
    gives: tuple[type, ...] = ()

    def __init__(self, known: Revocations) -> None:
        self._known = known

    def check(self, context: Context) -> Verdict | Awaitable[Verdict]:
        """At once while the copy is fresh. Raises DependencyFault when the records cannot be read."""
        if self._known.age > MAX_AGE:
            return self._after_reading(context)
        return self._judge(context)

    async def _after_reading(self, context: Context) -> Verdict:
        await self._known.current()
        return self._judge(context)

    def _judge(self, context: Context) -> Verdict:
        caller = context.get(Caller)
        if self._known.outdated(caller):
            return refuse("identity.revoked", "issued before the records were restored from a backup")
        record = self._known.find(caller, context.call.session)
        if record is None:
            return _PASS
        reason = "identity.session" if record.kind == "session" else "identity.revoked"
        return refuse(reason, f"revoked: {described(record)}")


def described(record: Revocation) -> str:
    """For the audit and the operator."""
    return f"{record.kind} {record.value}, {record.id}" + (f": {record.reason}" if record.reason else "")


def as_row(record: Revocation) -> dict[str, Any]:
    """A record as commands and the audit show it."""
    return {"id": record.id, **asdict(record)}
