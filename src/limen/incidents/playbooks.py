"""Playbooks: what is to be done, as data people review. Trigger, conditions, actions, approval, limits.

A playbook runs no code and renders no templates. Whom an action is about is taken from the event that triggered it,
from fields that name somebody: never from text that an attacker writes. Those fields count only where the gateway
itself proved them (`about`): a name that somebody merely claimed contains nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from limen.core.events import SEVERITIES, Event, Severity
from limen.incidents.actions import ACTIONS, Action
from limen.incidents.incident import Find, stated
from limen.incidents.response_settings import Word
from limen.incidents.rules import plain

OURS: Final = "playbook."  # rules of alerts that playbooks raise: these trigger none
# Records whose caller was proven before they were written, and records the gateway makes of what it saw itself.
_PROVEN: Final = frozenset({"intent", "outcome", "local", "refusal", "security", "session", "authenticated"})
_SEEN: Final = frozenset({"catalog", "finding", "egress", "cell", "lock", "quarantine", "unreachable"})
_SUMMED_UP: Final = frozenset({"alert", "signal"})
_DONE: Final = frozenset({"playbook", "incident", "contained", "released"})  # what playbooks do themselves
_LOOKED_AT: Final = 20  # events of an alert
_CALLERS: Final = frozenset({"end_session", "lock_caller", "revoke_token", "revoke_grants"})
# By whose events somebody may be contained with nobody asked.
_OWN: Final = frozenset({"caller", "session"})
_ANSWERS: Final = MappingProxyType({**dict.fromkeys(_CALLERS, _OWN), "block_client": _OWN | {"client"}})
SERVERS: Final = frozenset({"quarantine_tool", "quarantine_server", "cut_egress", "read_only"})
_EVERYBODY: Final = frozenset({"stop_all", "read_only"})
Member = Literal[
    "type", "category", "severity", "issuer", "subject", "client", "session", "peer", "agent", "server", "method",
    "name", "digest", "decision", "reason", "guard", "policy", "risk", "findings", "rules", "ms", "received", "sent",
    "rule", "group", "source", "score", "kind", "change", "event", "what", "act", "count", "signals",
]  # fmt: skip
Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,63}$")]
Seconds = Annotated[float, Field(ge=1, le=31_536_000)]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Trigger(_Part):
    """Everything stated must hold. `event`: any of these types, `rule`: of an alert, `risk`: of the call, or the score
    of a signal."""

    event: tuple[Word, ...] = Field(min_length=1, max_length=50)
    rule: tuple[Word, ...] = Field(default=(), max_length=50)
    severity: Severity = "info"
    risk: Annotated[float, Field(ge=0, le=1)] = 0.0


class Condition(_Part):
    """Exactly one of three: a comparison of a member, a count of such events, or that something is not in force yet."""

    member: Member | None = None
    equals: str | float | bool | None = None
    one_of: tuple[str, ...] | None = Field(default=None, max_length=200)
    contains: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    count: Annotated[int, Field(ge=2, le=10_000)] | None = None
    same: Literal["caller", "client", "session", "server", "name", "peer", "digest"] | None = None
    within: Annotated[float, Field(ge=1, le=86_400)] | None = None
    not_already: Literal[
        "end_session", "lock_caller", "block_client", "revoke_token", "revoke_grants", "quarantine_tool",
        "quarantine_server", "cut_egress", "read_only", "stop_all",
    ] | None = None  # fmt: skip

    @model_validator(mode="after")
    def _one(self) -> Condition:
        compared = [
            one for one in (self.equals, self.one_of, self.contains, self.at_least, self.at_most) if one is not None
        ]
        forms = (self.member is not None, self.count is not None, self.not_already is not None)
        if sum(forms) != 1:
            raise ValueError("a condition has one of member, count and not_already")
        if (self.member is None) != (not compared) or len(compared) > 1:
            raise ValueError("member goes with one of equals, one_of, contains, at_least and at_most")
        if (self.count is None) == (self.within is not None) or (self.count is None) != (self.same is None):
            raise ValueError("count goes with same and within")
        return self


class Step(_Part):
    """One thing to do. `every`: of read_only and stop_all, all servers and not the event's. `for`: seconds until it
    ends by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, defer_build=True)

    do: Literal[
        "end_session", "lock_caller", "block_client", "revoke_token", "revoke_grants", "quarantine_tool",
        "quarantine_server", "cut_egress", "read_only", "stop_all", "open_incident", "note", "alert",
    ]  # fmt: skip
    lasts: Seconds | None = Field(default=None, alias="for")
    every: bool = False
    title: Text | None = None
    severity: Severity = "high"

    @model_validator(mode="after")
    def _fits(self) -> Step:
        if self.do in ACTIONS and self.title is not None:
            raise ValueError("title belongs to open_incident, note and alert")
        if self.do not in ACTIONS and (self.title is None or self.lasts is not None or self.every):
            raise ValueError("open_incident, note and alert have a title and no `for`")
        if self.every and self.do not in _EVERYBODY:
            raise ValueError("every belongs to read_only and stop_all")
        if self.do == "stop_all" and not self.every:
            raise ValueError("stop_all stops everything: say so with `every: true`")
        if self.do == "revoke_grants" and self.lasts is not None:
            raise ValueError("revoke_grants is not undone: it has no `for`")
        return self


class Limits(_Part):
    """How much one playbook may do: subjects contained in an hour. What goes beyond is not done; an alert says so."""

    per_hour: Annotated[int, Field(ge=1, le=10_000)] = 10
    share: Annotated[float, Field(gt=0, le=1)] = 0.05


class Playbook(_Part):
    """One file. `approval: person`: waits until somebody agrees, at most `expires` seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, defer_build=True)

    playbook: Id
    title: Text
    on: Trigger
    when: tuple[Condition, ...] = Field(default=(), max_length=50)
    protect: tuple[Word, ...] = Field(default=(), max_length=1000)
    then: tuple[Step, ...] = Field(min_length=1, max_length=20)
    approval: Literal["none", "person"] = "none"
    expires: Annotated[float, Field(ge=60, le=604_800)] = 3600.0
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _safe(self) -> Playbook:
        if self.approval != "none":
            return self
        if any(step.every for step in self.then):
            raise ValueError("what concerns everybody needs `approval: person`")
        # Whoever comes last must not answer for what others did: behind the same address, with the same tool.
        counted = {one.same for one in self.when if one.same is not None}
        for step in self.then:
            if (own := _ANSWERS.get(step.do)) is not None and not counted <= own:
                raise ValueError(f"{step.do} counts `same: {' or '.join(sorted(own))}`, or needs `approval: person`")
        return self

    @property
    def contains_somebody(self) -> bool:
        """Whether any step is more than a word."""
        return any(step.do in ACTIONS for step in self.then)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A playbook as read: its text decides what was approved. `fault`: why it cannot be used."""

    source: str
    digest: str
    playbook: Playbook | None
    fault: str = ""


def digest_of(text: bytes) -> str:
    """What people approve: every byte of the file."""
    return sha256(text).hexdigest()


@dataclass(frozen=True, slots=True)
class About:
    """Whom an event is about, as far as that was proven."""

    issuer: str = ""
    subject: str = ""
    client: str = ""
    session: str = ""
    token: str = ""
    server: str = ""
    tool: str = ""

    @property
    def caller(self) -> str:
        return f"{self.issuer}\0{self.subject}" if self.subject else ""


def about(event: Event, find: Find) -> About:
    """Read it off the record. Of alerts and signals, only a subject that one of their own events was proven to be
    about."""
    kind = event.record.get("t")
    if kind in _SUMMED_UP:
        return _about_summary(event, find)
    if kind == "authenticated" and event.record.get("decision") == "deny":
        return About()  # what a token said that was not believed
    if kind in _PROVEN and isinstance(event.record.get("iss"), str) and isinstance(event.record.get("sub"), str):
        token = _text(event.record.get("token"))
        server = event.server
        tool = f"{server}/{event.name}" if server and event.name and event.method == "tools/call" else ""
        return About(
            event.issuer,
            event.subject,
            event.client,
            event.session,
            token,
            server,
            tool,
        )
    if kind in _SEEN and event.server:
        tool = f"{event.server}/{event.name}" if event.name and event.record.get("kind") == "tool" else ""
        return About(server=event.server, tool=tool)
    return About()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _about_summary(event: Event, find: Find, depth: int = 2) -> About:
    """What one of its own events was proven to be about, as far as the summary says it is about just that: who merely
    used a server is not meant by an alert about the server."""
    named = event.record.get("events") if event.type == "alert" else [event.record.get("event")]
    subjects = stated(event.record)
    if not subjects or not isinstance(named, list) or depth == 0:
        return About()
    for one in named[-_LOOKED_AT:]:
        found = find(one) if isinstance(one, str) else None
        if found is None or found.type == "alert":
            continue
        signal = found.record.get("t") in _SUMMED_UP
        known = _about_summary(found, find, depth - 1) if signal else about(found, find)
        members = {"caller": known.caller, "client": known.client, "session": known.session}
        members |= {"server": known.server, "tool": known.tool}
        if any(members[kind] and plain(members[kind]) == plain(value) for kind, value in subjects):
            return _narrowed(known, {kind for kind, _ in subjects})
    return About()


def _narrowed(known: About, kinds: set[str]) -> About:
    """Only those it is about."""
    server = known.server if kinds & {"server", "tool"} else ""
    tool = known.tool if "tool" in kinds else ""
    if kinds & {"caller", "session"}:
        return replace(known, server=server, tool=tool)
    client = known.client if "client" in kinds else ""
    return About(known.issuer if client else "", client=client, server=server, tool=tool)


def triggered(playbook: Playbook, event: Event) -> bool:
    """Whether the event is of the kind the playbook waits for. What playbooks did themselves never is."""
    on = playbook.on
    rule = event.record.get("rule")
    if event.type not in on.event or (isinstance(rule, str) and rule.startswith(OURS)):
        return False
    kind = str(event.record.get("t"))
    if kind == "playbook" or (kind in _DONE and str(event.record.get("by", "")).startswith("playbook:")):
        return False
    if on.rule and rule not in on.rule:
        return False
    score = event.record.get("score")
    risk = float(score) if isinstance(score, int | float) and event.type == "signal" else event.risk
    return SEVERITIES.index(event.severity) >= SEVERITIES.index(on.severity) and risk >= on.risk


def compares(condition: Condition, event: Event) -> bool:
    """One comparison. What the event does not say fits nothing."""
    assert condition.member is not None
    value = getattr(event, condition.member, None)
    if value is None or value == "":
        value = event.record.get(condition.member)
    if value is None:
        return False
    if condition.equals is not None:
        return bool(value == condition.equals)
    if condition.one_of is not None:
        return any(one in condition.one_of for one in (value if isinstance(value, list | tuple) else (value,)))
    if condition.contains is not None:
        return condition.contains in value if isinstance(value, str | tuple | list) else False
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if number is None:
        return False
    return number >= condition.at_least if condition.at_least is not None else number <= (condition.at_most or 0.0)


def action_of(step: Step, known: About, at: float) -> Action | None:
    """What a step means for those an event is about; None: it names nobody this could be done to."""
    until = None if step.lasts is None else at + step.lasts
    value = "*" if step.every else {
        "end_session": known.session, "lock_caller": known.subject, "block_client": known.client,
        "revoke_token": known.token, "revoke_grants": known.subject, "quarantine_tool": known.tool,
        "quarantine_server": known.server, "cut_egress": known.server, "read_only": known.server,
    }.get(step.do, "")  # fmt: skip
    if not value:
        return None
    named = step.do in ("lock_caller", "revoke_grants", "revoke_token", "block_client")
    return Action(step.do, value, known.issuer if named else "", until)


def protected(action: Action, known: About, names: frozenset[str], users_of: Callable[[str], set[str]]) -> str:
    """Which protected name an action would touch, or "". `users_of`: callers seen with a client."""
    touched: set[str] = set()
    if action.kind in _CALLERS:
        touched = set(_users(known.caller))
    elif action.kind == "block_client":
        callers = {known.caller, *users_of(action.value)}
        touched = {f"client:{action.value}", *(name for caller in callers for name in _users(caller))}
    elif action.kind in SERVERS and action.value != "*":
        touched = {f"server:{action.value.partition('/')[0]}"}
    return min(touched & names, default="")


def _users(caller: str) -> tuple[str, ...]:
    """How a caller may be written in a list of protected names: with or without the issuer."""
    issuer, _, subject = caller.partition("\0")
    return (f"user:{subject}", f"user:{issuer} {subject}") if subject else ()
