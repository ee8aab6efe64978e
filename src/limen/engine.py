"""Admit, decide, record, forward, inspect, record: the one path every call takes. Decides nothing itself."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

import orjson

from limen.core.call import Approved, Call, Caller, Cleared, Context, Era, Grant, Inspected, Presented, Session
from limen.core.chain import Chain, ResultGuard, run_result
from limen.core.conversation import Conversation
from limen.core.faults import DependencyFault, Fault, UpstreamError, UpstreamFault
from limen.core.reasons import REASONS, Reason
from limen.core.standing import Standings
from limen.core.verdict import Permit, Refusal
from limen.posture import METHODS, Forward, Local
from limen.protocol.outbound import hide

_HIDING = frozenset({"Resolve", "Authorize", "ValidateArguments", "RequireApproval", "AttachCredential"})
_UNKNOWN = REASONS["catalog.unknown"]
_CAPABILITY_CODE = -32021
_PARAMS_CODES = frozenset({-32602, -32002})


class Log(Protocol):
    """The part of the ledger a call needs."""

    def append(self, record: bytes) -> int: ...
    def defer(self, record: bytes) -> None: ...
    async def durable(self, index: int) -> None: ...


class Outbound(Protocol):
    """The part of the upstreams a call needs."""

    async def forward(
        self, permit: Permit, conversation: Conversation, extra_headers: tuple[tuple[str, str], ...] = ()
    ) -> dict[str, Any]: ...


class Visibility(Protocol):
    """What `Authorize` also answers: what a caller could call."""

    def visible(self, caller: Caller, items: Sequence[Approved]) -> list[Approved]: ...


class Shelf(Protocol):
    """What the engine reads of a catalog snapshot."""

    @property
    def version(self) -> str: ...
    def find(self, server: str, kind: str, name: str) -> Approved | None: ...
    def approved(self, server: str | None = None, kind: str | None = None) -> tuple[Approved, ...]: ...
    def instructions(self, server: str) -> str | None: ...


class Remembered:
    """Rendered answers by what they depend on, up to a number of bytes; then it begins anew."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._known: dict[tuple[object, ...], bytes] = {}

    def get(self, key: tuple[object, ...]) -> bytes | None:
        """What was kept under this key."""
        return self._known.get(key)

    def keep(self, key: tuple[object, ...], value: bytes) -> None:
        """Keep it for the next one who asks the same."""
        self._size += len(value) + 512
        if self._size > self._limit:
            self._known.clear()
            self._size = len(value) + 512
        self._known[key] = value


class HeaderRule(Protocol):
    """Mcp-Param-* headers for one approved definition and the arguments of a call (2026-07-28 transports)."""

    def __call__(self, approved: Approved, call: Call) -> tuple[tuple[str, str], ...]: ...


class Messages(Protocol):
    """What a server says while a call runs, looked at before a client hears it."""

    def over(self, permit: Permit, conversation: Conversation) -> Conversation: ...


class References:
    """Correlation ids: 64 bits from the operating system's generator, fetched for many calls at a time."""

    def __init__(self) -> None:
        self._ready: list[str] = []

    def next(self) -> str:
        """16 hexadecimal digits."""
        if not self._ready:
            digits = os.urandom(4096).hex()
            self._ready = [digits[at : at + 16] for at in range(0, len(digits), 16)]
        return self._ready.pop()


@dataclass(frozen=True, slots=True)
class Corridor:
    """Everything one call reads, compiled together and swapped as one: a call keeps the corridor it entered."""

    call: Chain
    caller: Chain
    result: tuple[ResultGuard, ...]
    authorize: Visibility
    catalog: Shelf
    policy: str
    param_headers: HeaderRule
    durable: bool = False
    lists: Remembered = field(default_factory=lambda: Remembered(32 << 20))  # what callers were shown of this catalog
    messages: Messages | None = None
    marks: Callable[[str], bool] | None = None  # whether texts of this server are marked as data
    scrub: Callable[[str], str] | None = None  # takes secrets out of what a server calls its errors


class Engine:
    """Holds the corridor in force and walks calls through it."""

    def __init__(
        self,
        corridor: Corridor,
        log: Log,
        upstreams: Outbound,
        timeouts: Mapping[str, float],
        seen: MutableMapping[str, Inspected] | None = None,
    ) -> None:
        self.corridor, self.log, self._upstreams, self._timeouts = corridor, log, upstreams, timeouts
        self._references = References()
        # What inspection found, by reference of the call, until that call's next record takes it.
        self._seen: MutableMapping[str, Inspected] = {} if seen is None else seen
        self._standings = Standings()

    def timeout(self, server: str) -> float:
        """Seconds a call to this server may take in all."""
        return self._timeouts.get(server, 60.0)

    async def decide(self, call: Call, presented: Presented) -> tuple[Permit | Context | Refusal, Corridor]:
        """A Permit for what is forwarded, a Context for what is answered here, or a Refusal. Refusals are recorded."""
        corridor, reference = self.corridor, self._references.next()
        deadline = time.monotonic() + self.timeout(call.server)
        context = Context(call, presented, deadline, reference)
        route = METHODS.get(call.method)
        if route is None:
            return self._refused(Refusal(REASONS["wire.unknown_method"], reference), context), corridor
        if isinstance(route, Local):
            walked = await corridor.caller.run(context)
            if isinstance(walked, Context):
                return walked, corridor
            return self._refused(*walked), corridor
        if isinstance(route, Forward):
            walked = await corridor.call.run(context)
            if isinstance(walked, Context):
                return corridor.call.permit(walked), corridor
            return self._hidden(corridor, self._refused(*walked), walked[1]), corridor
        raise AssertionError(route)

    def _hidden(self, corridor: Corridor, refusal: Refusal, context: Context) -> Refusal:
        """Whether a target exists is told only to those who may see it."""
        call, caller = context.call, context.find(Caller)
        # The caller's own URI, echoed for every name that is unknown or must look so (2026-07-28 resources).
        echo = {"uri": call.name} if call.method == "resources/read" else {}
        if refusal.guard not in _HIDING:
            return refusal
        if refusal.reason is _UNKNOWN:
            return hide(refusal, _UNKNOWN, echo)
        approved = context.find(Approved) or _named(corridor.catalog, call)
        if caller is not None and approved is not None and corridor.authorize.visible(caller, [approved]):
            return refusal
        if refusal.reason.id in ("identity.scope", "identity.step_up"):
            return refusal  # a rule names this caller's way in: the challenge is meant to be seen
        return hide(refusal, _UNKNOWN, echo)

    async def forward(self, permit: Permit, corridor: Corridor, conversation: Conversation) -> dict[str, Any] | Refusal:
        """Record the intent, send, judge what comes back, record the outcome. Upstreams keep their own time limits."""
        call, approved, grant = permit.call, permit.get(Approved), permit.get(Grant)
        started = time.monotonic()
        try:
            index = self.log.append(self._intent(permit, corridor))
            if corridor.durable or approved.durable or "durable" in grant.requires:
                await self.log.durable(index)
        except DependencyFault as fault:
            self._standings.forget()  # what was to be recorded may not have been
            return Refusal(REASONS["fault.audit"], permit.reference, "engine", str(fault))
        headers = corridor.param_headers(approved, call) if call.era is Era.MODERN else ()
        if corridor.messages is not None:
            conversation = corridor.messages.over(permit, conversation)
        try:
            result = await self._upstreams.forward(permit, conversation, headers)
        except asyncio.CancelledError:
            self._outcome(permit, "call.cancelled", started)
            raise
        except (Fault, TimeoutError) as fault:
            reason, detail = _upstream_reason(fault, corridor.scrub)
            self._outcome(permit, reason.id, started, detail)
            return Refusal(reason, permit.reference, "upstream", detail, _upstream_public(reason, fault))
        except Exception as error:  # noqa: BLE001 - our own bug must not pass a result on
            detail = f"{type(error).__name__}: {error}"
            self._outcome(permit, "fault.bug", started, detail)
            return Refusal(REASONS["fault.bug"], permit.reference, "upstream", detail)
        judged = run_result(corridor.result, permit, result, self.timeout(call.server))
        if not isinstance(judged, tuple | Refusal):
            try:
                judged = await judged
            except asyncio.CancelledError:
                self._outcome(permit, "call.cancelled", started)
                raise
        if isinstance(judged, Refusal):
            self._outcome(permit, judged.reason.id, started, judged.detail)
            return judged
        result, notes = judged
        if not self._outcome(permit, "ok", started, "; ".join(notes)):
            return Refusal(REASONS["fault.audit"], permit.reference, "engine", "outcome not recorded")
        return result

    def admission_refused(self, reason: Reason, detail: str, server: str, peer: str) -> str:
        """Record a request that never became a Call. Returns the reference told to the client."""
        reference = self._references.next()
        self._write(
            {
                "t": "refusal",
                "ref": reference,
                "server": server,
                "peer": peer,
                "reason": reason.id,
                "detail": detail[:500],
            }
        )
        return reference

    def event(self, kind: str, /, **members: Any) -> None:
        """Record something that is not a call: start, stop, a change of the catalog. Raises DependencyFault."""
        self.log.append(orjson.dumps({"t": kind, "ts": time.time(), **members}))

    def local(self, context: Context, corridor: Corridor) -> Refusal | None:
        """Record a call answered here."""
        record = {
            "t": "local",
            **_who(context),
            "catalog": corridor.catalog.version,
        }
        if self._write(_what(record, context.call, context.reference)):
            return None
        return Refusal(REASONS["fault.audit"], context.reference, "engine")

    def _refused(self, refusal: Refusal, context: Context) -> Refusal:
        approved = context.find(Approved)
        record = {
            "t": "refusal",
            **_who(context),
            "digest": approved.digest if approved else "",
            "decision": "deny",
            "reason": refusal.reason.id,
            "guard": refusal.guard,
            "detail": refusal.detail[:500],
            "policy": self.corridor.policy,
        }
        if self._seen:
            _risk(record, self._seen.pop(refusal.reference, None))
        self._write(_what(record, context.call, refusal.reference))
        return refusal

    def _intent(self, permit: Permit, corridor: Corridor) -> bytes:
        approved, grant = permit.get(Approved), permit.get(Grant)
        record = {"t": "intent", "ts": time.time(), **_who(permit)}
        _what(record, permit.call, permit.reference)
        record["upstream"] = approved.server
        record["tool"] = approved.name
        record["digest"] = approved.digest
        record["drifted"] = approved.drifted
        record["decision"] = "allow"
        record["rules"] = grant.rules
        record["policy"] = grant.policy
        record["catalog"] = corridor.catalog.version
        _risk(record, permit.find(Inspected))
        if (cleared := permit.find(Cleared)) is not None and cleared.findings:
            record["flow"] = cleared.findings
        self._standings.note(record, permit.get(Caller))
        return orjson.dumps(record)

    def _outcome(self, permit: Permit, reason: str, started: float, detail: str = "") -> bool:
        """The intent is on record, so this one may share the next record's write (see `Ledger.defer`)."""
        ended = time.monotonic()
        record = {
            "t": "outcome",
            "ref": permit.reference,
            "reason": reason,
            "ms": round((ended - started) * 1000, 2),
            "detail": detail[:500],
            "ts": time.time(),
        }
        if self._seen:
            _risk(record, self._seen.pop(permit.reference, None))
        try:
            self.log.defer(orjson.dumps(record))
        except DependencyFault:
            return False
        return True

    def _write(self, record: dict[str, Any]) -> bool:
        try:
            self.log.append(orjson.dumps({**record, "ts": time.time()}))
        except DependencyFault:
            return False  # the ledger reports its own state; the caller refuses
        return True


def _named(catalog: Shelf, call: Call) -> Approved | None:
    kind = {"tools/call": "tool", "prompts/get": "prompt", "resources/read": "resource"}.get(call.method, "")
    return catalog.find(call.server, kind, call.name)


def _who(facts: Context | Permit) -> dict[str, Any]:
    caller, session = facts.find(Caller), facts.find(Session)
    if caller is None:
        return {"peer": facts.call.peer.address}
    return {
        "iss": caller.issuer,
        "sub": caller.subject,
        "client": caller.client,
        "token": caller.token_id,
        "session": sha256(session.id.encode()).hexdigest()[:16] if session and session.id else "",
        "peer": facts.call.peer.address,
    }


def _what(record: dict[str, Any], call: Call, reference: str) -> dict[str, Any]:
    """Add what was asked."""
    record["ref"] = reference
    record["server"] = call.server
    record["method"] = call.method
    record["name"] = call.name
    record["args"] = sha256(call.arguments).hexdigest() if call.arguments else ""
    record["revision"] = call.revision
    record["agent"] = call.client
    record["trace"] = call.trace.get("traceparent", "")
    return record


def _risk(record: dict[str, Any], inspected: Inspected | None) -> None:
    """Add what inspection found: a number and ids, never the content."""
    if inspected is not None and inspected.findings:
        record["risk"] = inspected.risk
        record["findings"] = inspected.findings[:64]


def _upstream_reason(fault: Exception, scrub: Callable[[str], str] | None) -> tuple[Reason, str]:
    if isinstance(fault, UpstreamError):
        name = "fault.upstream_params" if fault.code in _PARAMS_CODES else "fault.upstream_error"
        name = "wire.capability" if fault.code == _CAPABILITY_CODE else name
        text = fault.text[:4096]
        return REASONS[name], f"{fault.code} {scrub(text) if scrub is not None else text}"
    if isinstance(fault, TimeoutError) or (isinstance(fault, UpstreamFault) and fault.timeout):
        return REASONS["fault.upstream_timeout"], str(fault)
    if isinstance(fault, UpstreamFault):
        return REASONS["fault.upstream"], str(fault)
    if isinstance(fault, DependencyFault):
        return REASONS["fault.dependency"], str(fault)
    return REASONS["fault.bug"], f"{type(fault).__name__}: {fault}"


def _upstream_public(reason: Reason, fault: Exception) -> dict[str, Any]:
    """What a client may know of a server's error: which of the protocol's own capabilities it would have needed."""
    if reason.id != "wire.capability" or not isinstance(fault, UpstreamError) or not isinstance(fault.data, dict):
        return {}
    named = fault.data.get("requiredCapabilities")
    known = ("elicitation", "sampling", "roots")
    return {"requiredCapabilities": {name: {} for name in known if isinstance(named, dict) and name in named}}
