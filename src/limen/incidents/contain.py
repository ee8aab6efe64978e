"""Guards Halted and Contained: what was contained is not called, and is not shown as if it could be.

Who calls and with which token is a matter of revocations (`identity.revoked`); this is about sessions, servers, tools,
and everything at once. The records are in a table that every replica reads; a call looks them up in a copy that is
never old (`core.copied`). What is told a client is one fixed text; which record stands against a call, only the audit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Final, Protocol

from limen.core.call import Approved, Call, Caller, Context, Session
from limen.core.copied import Copied, identifier
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.core.verdict import Pass, Permit, Verdict, refuse
from limen.incidents.actions import ACTIONS, Action, Applied

HERE: Final = frozenset({"end_session", "quarantine_tool", "quarantine_server", "cut_egress", "read_only", "stop_all"})
ALL: Final = "*"
_PASS: Final = Pass()
Offers = Callable[[Caller, str, Sequence[str]], Iterable[Approved]]


@dataclass(frozen=True, slots=True)
class Standing:
    """One record: an action in force, or one that a second person must agree to. Times in seconds since the epoch;
    `until` None: until it is taken back. `beneath`: the revocation that stood before, as it is kept. `asked`: who asked
    to take it back, while a second person must agree."""

    kind: str
    value: str
    issuer: str = ""
    by: str = ""
    reason: str = ""
    at: float = 0.0
    until: float | None = None
    incident: str = ""
    beneath: str = ""
    asked: str = ""
    asked_at: float = 0.0

    @property
    def id(self) -> str:
        """The same for the same action applied again."""
        return identifier(self.kind, self.issuer, self.value)

    def dump(self) -> bytes:
        """As it is kept."""
        return json.dumps(asdict(self)).encode()

    def applied(self, *, waits: bool = False) -> Applied:
        """As it is told."""
        action = Action(self.kind, self.value, self.issuer, self.until)
        return Applied(self.id, action, self.by, self.reason, self.at, self.incident, waits)


def read_standing(id: str, raw: bytes) -> Standing:
    """Raises DependencyFault: what cannot be read may be what should stop this call."""
    try:
        record = Standing(**json.loads(raw))
        if record.kind not in ACTIONS or record.id != id:
            raise ValueError("is not the record of its key")
        if not isinstance(record.until, float | int | None):
            raise ValueError("until is not a time")
    except (ValueError, TypeError) as error:
        message = f"containment {id} cannot be read ({error}): take it back with --break-glass, or repair it"
        raise DependencyFault("containments", message) from None
    return record


class Containments(Copied[Standing]):
    """A copy of the records in memory. `remote`: reading them waits for a network, and is done in a thread."""

    def __init__(
        self,
        table: Table,
        *,
        remote: bool = False,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(table, read_standing, remote=remote, now=now, monotonic=monotonic)
        self._found: dict[tuple[str, str], Standing] = {}
        self._sessions = False
        self.abroad: frozenset[str] = frozenset()  # servers whose network is not ours: cut off, they are not called
        self.version = ""  # names what is contained: the same on every replica

    def arrange(self, records: dict[str, Standing]) -> None:
        """By what a call shows of itself."""
        self._found = {(record.kind, record.value): record for record in records.values() if record.kind in HERE}
        self._sessions = any(record.kind == "end_session" for record in records.values())
        self.version = sha256(" ".join(sorted(records)).encode()).hexdigest()[:16] if records else ""

    @property
    def cut(self) -> frozenset[str]:
        """Servers whose network is cut."""
        return frozenset(value for kind, value in self._found if kind == "cut_egress" and self._stands(kind, value))

    def is_cut(self, server: str) -> bool:
        """Whether this server's network is cut."""
        return bool(self._found) and self._stands("cut_egress", server) is not None

    def entering(self, call: Call, session: str) -> Standing | None:
        """What stands against anything at all on this route, or in this session of ours. Says nothing of the age of
        the copy; nor do the others."""
        if not self._found:
            return None
        found = self._stands("stop_all", ALL) or self._stands("quarantine_server", call.route)
        if found is None and self._sessions and (call.session or session):
            names = (session_name(session), session_name(call.session or ""))  # ours as the audit shows it, or theirs
            found = self._stands("end_session", names[0]) or self._stands("end_session", names[1])
        return found

    def calling(self, approved: Approved, asked: str = "") -> Standing | None:
        """What stands against calling this. `asked`: by which name, such as a URI that a template fits."""
        if not self._found:
            return None
        server, stands = approved.server, self._stands
        found = stands("quarantine_server", server) or stands("quarantine_tool", f"{server}/{approved.name}")
        if found is None and asked and asked != approved.name:
            found = stands("quarantine_tool", f"{server}/{asked}")
        if found is None and approved.effect != "read":
            found = stands("read_only", server) or stands("read_only", ALL)
        if found is None and server in self.abroad:
            found = stands("cut_egress", server)
        return found or stands("stop_all", ALL)

    def against(self, facts: Context | Permit) -> Standing | None:
        """What stands against something that is under way."""
        session, approved = facts.find(Session), facts.find(Approved)
        found = self.entering(facts.call, session.id if session is not None else "")
        return found or (self.calling(approved, facts.call.name) if approved is not None else None)

    def _stands(self, kind: str, value: str) -> Standing | None:
        record = self._found.get((kind, value))
        return record if record is not None and (record.until is None or self._now() < record.until) else None


def session_name(session: str) -> str:
    """How a session is named in records and in the audit."""
    return sha256(session.encode()).hexdigest()[:16] if session else ""


class Halted:
    """Guard. Is everything stopped, this route quarantined, or this session ended? Also for what is answered here.

    Refuses `incidents.contained`, and `identity.session` for a session that was ended. `ended`: whether a
    session of ours ("" for none) is revoked.
    """

    needs = (Caller, Session)
    gives: tuple[type, ...] = ()

    def __init__(self, known: Containments, ended: Callable[[str], bool]) -> None:
        self._known, self._ended = known, ended

    def check(self, context: Context) -> Verdict | Awaitable[Verdict]:
        """At once while the copy is fresh. Raises DependencyFault when the records cannot be read."""
        reading = self._known.fresh()
        return self._judge(context) if reading is None else self._after(reading, context)

    async def _after(self, reading: Awaitable[None], context: Context) -> Verdict:
        await reading
        return self._judge(context)

    def _judge(self, context: Context) -> Verdict:
        session = context.get(Session).id
        record = None if self._known.quiet else self._known.entering(context.call, session)
        if record is None:
            return refuse("identity.session", "revoked") if session and self._ended(session) else _PASS
        return refuse("identity.session" if record.kind == "end_session" else "incidents.contained", described(record))


class Contained:
    """Guard. Is this tool, its server, or whatever changes something contained? Refuses `incidents.contained`."""

    needs = (Caller, Approved)
    gives: tuple[type, ...] = ()

    def __init__(self, known: Containments) -> None:
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

    def shown(self, rules: Sight) -> Shown:
        """Lists by the same records, below the rules."""
        return Shown(self._known, rules)

    def offered(self, decoys: Offers) -> Offers:
        """The same for what only looks like a tool: it must not be what is left when its neighbours are gone."""
        return lambda caller, kind, servers: [
            item for item in decoys(caller, kind, servers) if self._known.calling(item) is None
        ]

    def _judge(self, context: Context) -> Verdict:
        record = self._known.calling(context.get(Approved), context.call.name)
        return _PASS if record is None else refuse("incidents.contained", described(record))


class Sight(Protocol):
    """What a caller could call, as far as rules go."""

    def visible(self, caller: Caller, items: Sequence[Approved]) -> list[Approved]: ...


class Shown:
    """The same without what is contained: what cannot be called is not listed."""

    def __init__(self, known: Containments, rules: Sight) -> None:
        self._known, self._rules = known, rules

    def visible(self, caller: Caller, items: Sequence[Approved]) -> list[Approved]:
        """Those the caller could call now, with some arguments."""
        return [item for item in self._rules.visible(caller, items) if self._known.calling(item) is None]

    @property
    def version(self) -> str:
        """Names what is left out."""
        return self._known.version


def described(record: Standing) -> str:
    """For the audit and the operator."""
    return f"{record.kind} {record.value}, {record.id}" + (f": {record.reason}" if record.reason else "")
