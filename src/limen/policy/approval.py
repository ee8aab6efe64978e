"""Guard RequireApproval: a named person says yes to exactly this call, and the yes is used up by one call.

A record stands for one caller, one definition as approved, one set of arguments. For the person who decides it holds
the arguments as canonical JSON, cut at 4 KiB, with characters that could disguise them written as escapes; beyond that
only their digest is stored. Where they were cut the record says so: approving means trusting what is not shown.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

from limen.core.call import Approval, Approved, Call, Caller, Cleared, Context, Grant, Inspected, Weighed
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.core.verdict import Pass, Refuse, Verdict, refuse

PENDING_SECONDS: Final = 3600.0
APPROVED_SECONDS: Final = 900.0
PENDING_PER_CALLER: Final = 32
_SHOWN: Final = 4096
_PREFIX: Final = "approval/"
_ID: Final = re.compile(r"([0-9a-f]{32})-([0-9a-f]{32})-[0-9a-f]{32}\Z")
_NOT_NEEDED: Final = Pass((Approval(),))


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """What is stored. `expires` 0: never (rejections stay until somebody decides otherwise)."""

    id: str
    state: Literal["pending", "approved", "rejected"]
    created: float
    expires: float
    issuer: str
    subject: str
    client: str
    server: str
    kind: str
    name: str  # the concrete URI where a template is read
    definition: str
    arguments: str  # for people; see the module's text
    arguments_sha256: str
    arguments_size: int
    truncated: bool
    decided: float = 0.0
    by: str = ""
    reason: str = ""

    def encode(self) -> bytes:
        """As stored."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> ApprovalRecord:
        """Raises DependencyFault for anything this version did not write: an unreadable approval is none."""
        try:
            record = cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise DependencyFault("approvals", f"a record cannot be read: {error}", retryable=False) from None
        if record.state not in ("pending", "approved", "rejected"):
            raise DependencyFault("approvals", f"a record has the unknown state {record.state!r}", retryable=False)
        return record


class RequireApproval:
    """Holds a call whose grant requires approval until a person has approved exactly this one.

    Refuses `policy.approval` with the id to approve, `policy.denied` when it was rejected, `policy.limit` when the
    caller has too many pending. Raises DependencyFault when the table does.
    """

    needs = (Caller, Approved, Grant, Inspected, Cleared, Weighed)
    gives = (Approval,)

    def __init__(self, table: Table, now: Callable[[], float] = time.time) -> None:
        self._table, self._now = table, now

    def check(self, context: Context) -> Verdict:
        """Look for an approval and use it up, or ask for one."""
        if not _asked(context):
            return _NOT_NEEDED
        caller, approved, call = context.get(Caller), context.get(Approved), context.call
        group, exact = _identity(caller, approved, call)
        key = f"{_PREFIX}{group}/{exact}"
        for _ in range(3):  # somebody else may change the record while it is looked at
            stored = self._table.get(key)
            record = ApprovalRecord.decode(stored) if stored is not None else None
            if record is None or (record.expires and record.expires <= self._now()):
                fresh = _pending(f"{group}-{exact}-{secrets.token_hex(16)}", self._now(), caller, approved, call)
                if self._table.swap(key, stored, fresh.encode(), fresh.expires):
                    return self._asked(group, key, fresh)
            elif record.state == "pending":
                return refuse("policy.approval", "awaits a decision", approval=record.id)
            elif record.state == "rejected":
                return refuse("policy.denied", f"approval {record.id} was rejected by {record.by}: {record.reason}")
            elif self._table.swap(key, stored, None):
                # The one who removed the record is the one it was meant for: no second call gets past here with it.
                return Pass((Approval(record.id, record.by),))
        return refuse("policy.approval", "the record kept changing")

    def _asked(self, group: str, key: str, fresh: ApprovalRecord) -> Refuse:
        """Count after writing, so that calls at the same moment cannot each find the last free place."""
        pending = sum(
            1
            for _, value in self._table.scan(f"{_PREFIX}{group}/")
            if (other := ApprovalRecord.decode(value)).state == "pending" and other.expires > self._now()
        )
        if pending > PENDING_PER_CALLER:
            self._table.swap(key, fresh.encode(), None)
            return refuse("policy.limit", "too many calls of this caller await approval", retry_after=60)
        return refuse("policy.approval", "a person was asked", approval=fresh.id)


def _asked(context: Context) -> bool:
    """By a rule, by what inspection found, by where what was read would go, or by all of that with what went before."""
    find, requires = context.find, context.get(Grant).requires
    inspected, cleared, weighed = find(Inspected), find(Cleared), find(Weighed)
    return (
        "approval" in requires
        or (inspected is not None and inspected.ask)
        or (cleared is not None and cleared.ask)
        or (weighed is not None and weighed.ask)
    )


def list_approvals(
    table: Table, state: str | None = None, now: Callable[[], float] = time.time
) -> list[ApprovalRecord]:
    """Live records, oldest first; of one state if asked. Raises DependencyFault."""
    records = [ApprovalRecord.decode(value) for _, value in table.scan(_PREFIX)]
    live = [record for record in records if not record.expires or record.expires > now()]
    return sorted((r for r in live if state in (None, r.state)), key=lambda record: (record.created, record.id))


def approve(
    table: Table,
    id: str,
    by: str,
    reason: str = "",
    *,
    seconds: float = APPROVED_SECONDS,
    now: Callable[[], float] = time.time,
) -> ApprovalRecord:
    """Let this call happen once within `seconds`. Also turns a rejection around.

    Raises LookupError when there is no such request (any more), ValueError without a name, DependencyFault.
    """
    if not 0 < seconds <= 86_400:
        raise ValueError("an approval is good for at most a day")
    return _decide(table, id, "approved", by, reason, now(), now() + seconds)


def reject(table: Table, id: str, by: str, reason: str = "", *, now: Callable[[], float] = time.time) -> ApprovalRecord:
    """Refuse this call from now on; also takes back an approval not used yet. Raises as `approve` does."""
    return _decide(table, id, "rejected", by, reason, now(), 0.0)


def _decide(
    table: Table,
    id: str,
    state: Literal["approved", "rejected"],
    by: str,
    reason: str,
    now: float,
    expires: float,
) -> ApprovalRecord:
    if not by.strip():
        raise ValueError("a decision has somebody who takes it")
    found = _ID.match(id)
    if found is None:
        raise LookupError(f"{id!r} is not the id of an approval")
    key = f"{_PREFIX}{found[1]}/{found[2]}"
    stored = table.get(key)
    record = ApprovalRecord.decode(stored) if stored is not None else None
    # The whole id counts: a later request for the same call has another one, and needs a decision of its own.
    if record is None or record.id != id or (record.expires and record.expires <= now):
        raise LookupError(f"no such request awaits a decision: {id}")
    decided = replace(record, state=state, decided=now, by=by, reason=reason, expires=expires)
    if not table.swap(key, stored, decided.encode(), expires or None):
        raise LookupError(f"the request changed meanwhile: {id}")
    return decided


def _identity(caller: Caller, approved: Approved, call: Call) -> tuple[str, str]:
    """Digests of the caller, and of exactly this call: everything that is sent upstream counts."""
    group = hashlib.sha256(json.dumps(caller.key).encode()).hexdigest()[:32]
    parts = [approved.server, approved.kind, approved.name, approved.digest, call.method, call.name]
    bodies = [hashlib.sha256(part).hexdigest() for part in (call.arguments, call.rest, call.input_responses)]
    exact = json.dumps([caller.key, parts, bodies]).encode()
    return group, hashlib.sha256(exact).hexdigest()[:32]


def _pending(id: str, now: float, caller: Caller, approved: Approved, call: Call) -> ApprovalRecord:
    body = call.arguments + (b"\ninputResponses: " + call.input_responses if call.input_responses else b"")
    return ApprovalRecord(
        id=id,
        state="pending",
        created=now,
        expires=now + PENDING_SECONDS,
        issuer=caller.issuer,
        subject=caller.subject,
        client=caller.client,
        server=approved.server,
        kind=approved.kind,
        name=call.name if approved.kind == "template" else approved.name,
        definition=approved.digest,
        arguments=_readable(body[:_SHOWN].decode("utf-8", "replace")),
        arguments_sha256=hashlib.sha256(call.arguments).hexdigest(),
        arguments_size=len(body),
        truncated=len(body) > _SHOWN,
    )


def _readable(text: str) -> str:
    """Controls, bidirectional marks, invisible and private characters as escapes: what is shown is what is there."""
    return "".join(
        char if char == "\n" or unicodedata.category(char) not in _DISGUISES else f"\\u{{{ord(char):x}}}"
        for char in text
    )


_DISGUISES: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"})
