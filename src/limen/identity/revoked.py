"""Guard Revoked: is this token, caller, client, session or key still welcome?

The records are in a table that every replica reads; a call looks them up in a copy that is never old (`core.copied`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

from limen.core.call import Caller, Context
from limen.core.copied import RECORD, Copied, identifier, tell
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.core.verdict import Pass, Permit, Verdict, refuse

_EPOCH: Final = "epoch"
_PASS: Final = Pass()
KINDS: Final = ("token", "user", "client", "session", "key", "grant")
MAX_RECORDS: Final = 100_000
_CREDENTIALS: Final = frozenset({"token", "key", "grant"})  # what a thief may have, and its owner does not use any more


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
        return identifier(self.kind, self.issuer, self.value)


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
    tell(table)


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
    if sum(1 for _ in table.scan(RECORD)) >= MAX_RECORDS:
        raise ValueError(f"there are {MAX_RECORDS} revocations already: give them an end, or undo some")
    table.put(RECORD + record.id, json.dumps(asdict(record)).encode(), record.until)
    tell(table)
    return record


def undo(table: Table, id: str) -> Revocation:
    """Take it back. Raises LookupError when there is none, DependencyFault."""
    raw = table.get(RECORD + id)
    if raw is None or not table.swap(RECORD + id, raw, None):
        raise LookupError(f"no revocation {id}")
    tell(table)
    return _read(id, raw)


def find(table: Table, kind: str, issuer: str, value: str) -> Revocation | None:
    """The one that stands, as the table has it now. Raises DependencyFault."""
    id = identifier(kind, issuer, value)
    raw = table.get(RECORD + id)
    return _read(id, raw) if raw is not None else None


def revocations(table: Table) -> list[Revocation]:
    """All that are in force, oldest first. Raises DependencyFault."""
    found = [_read(key.removeprefix(RECORD), raw) for key, raw in table.scan(RECORD)]
    return sorted(found, key=lambda record: record.at)


def is_revoked(table: Table, wanted: Iterable[tuple[str, str, str]]) -> bool:
    """Whether a record of any of these kinds, issuers and values stands, as the table has it now. Raises
    DependencyFault."""
    found = (table.get(RECORD + Revocation(kind, value, issuer).id) for kind, issuer, value in wanted)
    return any(raw is not None for raw in found)


def _read(id: str, raw: bytes) -> Revocation:
    """Raises DependencyFault: what cannot be read may be what should stop this call."""
    try:
        record = Revocation(**json.loads(raw))
        if record.kind not in KINDS or record.id != id:
            raise ValueError("is not the record of its key")
        if not isinstance(record.until, float | int | None):
            raise ValueError("until is not a time")
    except (ValueError, TypeError) as error:
        message = f"revocation {id} cannot be read ({error}): undo it or repair it"
        raise DependencyFault("revocations", message) from None
    return record


class Revocations(Copied[Revocation]):
    """A copy of the records in memory. `remote`: reading them waits for a network, and is done in a thread."""

    def __init__(
        self,
        table: Table,
        *,
        remote: bool = False,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(table, _read, remote=remote, now=now, monotonic=monotonic)
        self._found: dict[tuple[str, str, str], Revocation] = {}
        self._sessions = self._grants = self._people = False
        self._epoch: Epoch | None = None
        # What an issuer's people are called where they come with tokens of ours, "" for people who never do.
        self.ours: Callable[[str], str] = lambda issuer: ""

    def _look(self) -> tuple[float, bytes | None, list[Revocation] | None]:
        found = super()._look()
        if found[2] is not None:
            self._epoch = _epoch(self._table)
        return found

    def arrange(self, records: dict[str, Revocation]) -> None:
        """By what a call shows of itself."""
        self._found = {(record.kind, record.issuer, record.value): record for record in records.values()}
        self._sessions = any(record.kind == "session" for record in records.values())
        self._grants = any(record.kind == "grant" for record in records.values())
        self._people = any(record.kind == "user" and record.issuer for record in records.values())
        self.quiet = not records and self._epoch is None

    def ends(self, session: str) -> bool:
        """Whether this session is revoked by the name the audit shows: it is made of our own id of it."""
        record = self._found.get(("session", "", session_digest(session))) if self._sessions and session else None
        return record is not None and (record.until is None or self._now() < record.until)

    def outdated(self, caller: Caller) -> bool:
        """Whether what it came with was issued before the records were restored."""
        return self._epoch is not None and self._epoch.refuses(caller, self._now())

    def find(self, caller: Caller, session: str | None) -> Revocation | None:
        """What stands against this caller or session, or None. Says nothing about the age of the copy."""
        return next(self._against(caller, session), None) if self._found else None

    def held_against(self, reason: str, facts: Context | Permit) -> str:
        """The reason of a refusal as it is held against who was refused: "" where nothing is wrong with the credential.
        Whoever is locked out, by name, with a client, or by a restore, tries again in all honesty."""
        if reason != "identity.revoked" or (caller := facts.find(Caller)) is None:
            return reason
        return reason if any(one.kind in _CREDENTIALS for one in self._against(caller, None)) else ""

    def _against(self, caller: Caller, session: str | None) -> Iterator[Revocation]:
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
        if self._people and (ours := self.ours(issuer)):  # locked out by our token, and back with the provider's own
            keys.append(("user", ours, caller.subject))
        for key in keys:
            record = self._found.get(key)
            if record is not None and (record.until is None or self._now() < record.until):
                yield record


class Revoked:
    """Refuses `identity.revoked`, which a client cannot tell from an invalid token, and `identity.session`."""

    needs = (Caller,)
    gives: tuple[type, ...] = ()

    def __init__(self, known: Revocations) -> None:
        self._known = known

    def check(self, context: Context) -> Verdict | Awaitable[Verdict]:
        """At once while the copy is fresh. Raises DependencyFault when the records cannot be read."""
        known = self._known
        if (reading := known.fresh()) is not None:
            return self._after(reading, context)
        return _PASS if known.quiet else self._judge(context)

    async def _after(self, reading: Awaitable[None], context: Context) -> Verdict:
        await reading
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
