"""What happened, as everybody reads it who follows the log: one typed event for each record.

A record is what was written and signed; an event is how it is read. Rooms that watch (behaviour, risk, alerts,
incidents) and followers that export know events only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Protocol

Category = Literal[
    "authentication", "token", "session", "authorization", "call", "content", "catalog", "consent", "sandbox",
    "administration", "incident",
]  # fmt: skip
Severity = Literal["info", "low", "medium", "high", "critical"]
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "low", "medium", "high", "critical")


class Event(NamedTuple):
    """One record of one log. What it does not say is empty. `record` is all of it, as written.

    `at` is in seconds since the epoch, `ms` in milliseconds, `received` and `sent` in bytes (arguments, result).
    `session` is a digest, `digest` the definition's, `args` the arguments'. A tuple: one is made of each record.
    """

    log: str  # the log's name: who wrote it
    index: int  # type: ignore[assignment] # its number there; of tuples nobody wants the method of that name
    at: float
    type: str  # id in the catalogue, such as "call.outcome"
    category: Category
    severity: Severity = "info"
    ref: str = ""  # joins all events of one call
    trace: str = ""  # W3C traceparent of the caller
    issuer: str = ""
    subject: str = ""
    client: str = ""
    session: str = ""
    peer: str = ""
    agent: str = ""
    server: str = ""
    method: str = ""
    name: str = ""
    digest: str = ""
    args: str = ""
    decision: Literal["allow", "deny", ""] = ""
    reason: str = ""
    guard: str = ""
    rules: tuple[str, ...] = ()
    policy: str = ""
    catalog: str = ""
    risk: float = 0.0
    findings: tuple[str, ...] = ()
    ms: float | None = None
    received: int | None = None
    sent: int | None = None
    detail: str = ""
    record: Mapping[str, Any] = MappingProxyType({})

    @property
    def id(self) -> str:
        """The same for the same record, whoever reads it."""
        return f"{self.log}:{self.index}"

    @property
    def caller(self) -> str:
        """Issuer and subject as one text, "" for nobody known."""
        return f"{self.issuer}\0{self.subject}" if self.subject else ""


class Subject(NamedTuple):
    """Whom or what a suspicion is about. `kind`: caller (value: issuer NUL subject), client, session (digest), server,
    tool (server/name)."""

    kind: Literal["caller", "client", "session", "server", "tool"]
    value: str


@dataclass(frozen=True, slots=True)
class Signal:
    """A suspicion: how likely it alone makes it that its subject is hostile (`score`, 0..1), and why, in words.

    `source` says what raised it: content, catalog, behaviour, flow, session, sandbox, intelligence, decoy, operator.
    `seconds`: after so long half of it is left.
    """

    subject: Subject
    source: str
    score: float
    why: str
    at: float
    event: str = ""  # id of the event that made it
    seconds: float = 3600.0


class Watch(Protocol):
    """Somebody who sees every event of this process's log, in order, in the watching thread, not on the way of a call.

    At least once: after a crash some events are seen again. Both methods may raise DependencyFault: they are called
    again with the same event.
    """

    name: str

    def see(self, event: Event) -> None:
        """One event."""
        ...

    def settle(self, now: float) -> None:
        """About once a second: do what is due, and put on record whatever must not be lost. What was seen before a
        settle that returned is not seen again."""
        ...
