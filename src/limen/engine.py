"""Admit, decide, record, forward, inspect, record: the one path every call takes. Decides nothing itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

import orjson

from limen import records
from limen.core.call import (
    Approved,
    Call,
    Caller,
    Cleared,
    Context,
    Era,
    Grant,
    Inspected,
    Presented,
    Protected,
    Weighed,
)
from limen.core.chain import run_result
from limen.core.conversation import Conversation
from limen.core.faults import DependencyFault, UpstreamError, UpstreamFault
from limen.core.reasons import REASONS, Reason
from limen.core.standing import Standings
from limen.core.unforeseen import Unforeseen
from limen.core.verdict import Permit, Refusal, Refuse
from limen.corridor import Corridor, Log, Outbound, Shelf
from limen.policy.slots import Held, Slots
from limen.posture import METHODS, Forward, Local
from limen.protocol.outbound import hide

_HIDING = frozenset({"Resolve", "Authorize", "ValidateArguments", "RequireApproval", "AttachCredential"})
_UNKNOWN = REASONS["catalog.unknown"]
_CAPABILITY_CODE = -32021
_PARAMS_CODES = frozenset({-32602, -32002})

Render = Callable[[Permit, dict[str, Any]], bytes]  # a result that was judged -> its bytes, as its caller is given them


class Engine:
    """Holds the corridor in force and walks calls through it."""

    def __init__(
        self,
        corridor: Corridor,
        log: Log,
        upstreams: Outbound,
        timeouts: Mapping[str, float],
        seen: MutableMapping[str, Inspected] | None = None,
        slots: Slots | None = None,
    ) -> None:
        self.corridor, self.log, self._upstreams, self._timeouts = corridor, log, upstreams, timeouts
        self._references, self._slots = Unforeseen(8), slots  # references: 64 bits
        # What inspection found, by reference of the call, until that call's next record takes it.
        self._seen: MutableMapping[str, Inspected] = {} if seen is None else seen
        self.on_refusal: Callable[[str, Context | Permit], None] = lambda reason, context: None  # id of the reason
        self.on_rejected: Callable[[Permit, UpstreamFault], None] = lambda permit, fault: None  # 401 or 403 of a server
        self._standings, self._met = Standings(), records.Met()
        self.held = ""  # why no call may be made now, such as a follower of the log that is too far behind

    def timeout(self, server: str) -> float:
        """Seconds a call to this server may take in all."""
        return self._timeouts.get(server, 60.0)

    async def decide(self, call: Call, presented: Presented) -> tuple[Permit | Context | Refusal, Corridor]:
        """A Permit for what is forwarded, a Context for what is answered here, or a Refusal. Refusals are recorded."""
        corridor, reference = self.corridor, self._references.next()
        deadline = time.monotonic() + self.timeout(call.server)
        context = Context(call, presented, deadline, reference)
        route = METHODS.get(call.method)
        if self.held:
            return self._refused(Refusal(REASONS["fault.audit"], reference, "engine", self.held), context), corridor
        if route is None:
            return self._refused(Refusal(REASONS["wire.unknown_method"], reference), context), corridor
        if isinstance(route, Local):
            walked = await corridor.caller.run(context)
            if not self._introduced(walked if isinstance(walked, Context) else walked[1]):
                return Refusal(REASONS["fault.audit"], reference, "engine"), corridor
            if isinstance(walked, Context):
                return walked, corridor
            return self._refused(*walked), corridor
        if isinstance(route, Forward):
            walked = await corridor.call.run(context)
            if not self._introduced(walked if isinstance(walked, Context) else walked[1]):
                return Refusal(REASONS["fault.audit"], reference, "engine"), corridor
            if isinstance(walked, Context):
                return corridor.call.permit(walked), corridor
            return self._hidden(corridor, self._refused(*walked), walked[1]), corridor
        raise AssertionError(route)

    def _introduced(self, context: Context) -> bool:
        """The first use of a credential in this process is on record. False: it cannot be put there."""
        record = self._met.first(context)
        if record is None:
            return True
        if not self._write(record):
            return False
        self._met.know(record)
        return True

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
        if refusal.reason.id in ("identity.scope", "identity.step_up", "credentials.interaction"):
            return refusal  # a rule names this caller's way in: the challenge is meant to be seen
        return hide(refusal, _UNKNOWN, echo)

    async def forward(
        self, permit: Permit, corridor: Corridor, conversation: Conversation, render: Render
    ) -> bytes | Refusal:
        """Take a place among the calls under way, and give it back whatever ends this one."""
        if self._slots is None:
            return await self._forward(permit, corridor, conversation, render)
        try:
            held = self._slots.enter(permit)
            if not isinstance(held, Held):
                held = held if isinstance(held, Refuse) else await held
        except DependencyFault as fault:
            held = Refuse(REASONS["fault.dependency"], str(fault))
        if isinstance(held, Refuse):
            return self._refused(Refusal(held.reason, permit.reference, "slots", held.detail, held.public), permit)
        try:
            return await self._forward(permit, corridor, conversation, render)
        finally:
            held.leave()

    async def _forward(
        self, permit: Permit, corridor: Corridor, conversation: Conversation, render: Render
    ) -> bytes | Refusal:
        """Record the intent, send, judge what comes back, render it, record the outcome with what it takes. Upstreams
        keep their own time limits."""
        call, approved, grant = permit.call, permit.get(Approved), permit.get(Grant)
        started = time.monotonic()
        common = records.shared(permit, corridor)
        try:
            kept = corridor.parameters
            parameters = None
            if kept is not None and kept.kept(approved.server):
                parameters = await kept.of(call, approved.server, permit.get(Caller), permit.reference)
            index = self.log.append(self._intent(permit, common, parameters))
            closely = permit.get(Weighed).closely
            if corridor.durable or approved.durable or closely or "durable" in grant.requires:
                await self.log.durable(index)
        except DependencyFault as fault:
            self._standings.forget()  # what was to be recorded may not have been
            return Refusal(REASONS["fault.audit"], permit.reference, "engine", str(fault))
        headers = corridor.param_headers(approved, permit.get(Protected).over(call)) if call.era is Era.MODERN else ()
        if corridor.messages is not None:
            conversation = corridor.messages.over(permit, conversation)
        try:
            result = await self._upstreams.forward(permit, conversation, headers)
        except asyncio.CancelledError:
            self._outcome(permit, common, "call.cancelled", started)
            raise
        except Exception as fault:  # noqa: BLE001 - our own bug must not pass a result on
            reason, detail = _fault_reason(fault, corridor.scrub)
            self._outcome(permit, common, reason.id, started, detail)
            if isinstance(fault, UpstreamFault) and fault.status in (401, 403):
                self.on_rejected(permit, fault)
            return Refusal(reason, permit.reference, "upstream", detail, _upstream_public(reason, fault))
        judged = run_result(corridor.result, permit, result, self.timeout(call.server))
        if not isinstance(judged, tuple) and not isinstance(judged, Refusal):
            try:
                judged = await judged
            except asyncio.CancelledError:
                self._outcome(permit, common, "call.cancelled", started)
                raise
        if isinstance(judged, Refusal):
            self._outcome(permit, common, judged.reason.id, started, judged.detail)
            return judged
        result, notes = judged
        try:
            body = render(permit, result)
        except Exception as fault:  # noqa: BLE001 - what cannot be rendered is not passed on
            reason, detail = _fault_reason(fault, corridor.scrub)
            self._outcome(permit, common, reason.id, started, detail)
            return Refusal(reason, permit.reference, "render", detail)
        plain = corridor.plain_resources
        if not self._outcome(permit, common, "ok", started, "; ".join(notes), result, len(body), plain):
            return Refusal(REASONS["fault.audit"], permit.reference, "engine", "outcome not recorded")
        return body

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
        if self._write(records.local(context, corridor)):
            return None
        return Refusal(REASONS["fault.audit"], context.reference, "engine")

    def refused(self, reason: str, detail: str, context: Context) -> Refusal:
        """Record a refusal that is found out where the call is answered."""
        return self._refused(Refusal(REASONS[reason], context.reference, "gateway", detail), context)

    def ended(self, facts: Context | Permit, reason: str) -> Refusal:
        """Record that a call or a stream was ended while it was under way: by the id of the reason."""
        guard = "Revoked" if reason == "identity.revoked" else "Contained"
        return self._refused(Refusal(REASONS[reason], facts.reference, guard, "ended under way"), facts)

    def _refused(self, refusal: Refusal, context: Context | Permit) -> Refusal:
        record = records.refusal(self.corridor, context, refusal.reason.id, refusal.guard, refusal.detail)
        if self._seen:
            _risk(record, self._seen.pop(refusal.reference, None))
        self._write(record)
        try:
            self.on_refusal(refusal.reason.id, context)
        except DependencyFault as fault:  # an alert that cannot be recorded: the refusal stands
            return replace(refusal, detail=f"{refusal.detail}; {fault}")
        return refusal

    def _intent(self, permit: Permit, common: bytes, parameters: dict[str, Any] | None) -> bytes:
        record: dict[str, Any] = {"t": "intent", "ts": time.time()}
        _risk(record, permit.find(Inspected), permit.find(Weighed))
        if (cleared := permit.find(Cleared)) is not None and cleared.findings:
            record["flow"] = cleared.findings
        if parameters is not None:
            record["parameters"] = parameters
        self._standings.note(record, permit.get(Caller))
        return records.joined(record, common)

    def _outcome(
        self, permit: Permit, common: bytes, reason: str, started: float, detail: str = "",
        result: dict[str, Any] | None = None, sent: int = 0, plain: bool = False,
    ) -> bool:  # fmt: skip
        """The intent is on record, so this one may share the next record's write (see `Ledger.defer`)."""
        record = records.outcome(reason, started, detail, result, sent, plain)
        if self._seen:
            _risk(record, self._seen.pop(permit.reference, None))
        try:
            self.log.defer(records.joined(record, common))
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


def _risk(record: dict[str, Any], inspected: Inspected | None, weighed: Weighed | None = None) -> None:
    """Add what was found: numbers and ids, never the content. `weighed`: what each source brings, and the events."""
    if inspected is not None and (inspected.findings or inspected.risk):
        record["risk"] = inspected.risk
        record["findings"] = inspected.findings[:64]
    if weighed is not None and weighed.parts:
        record["own_risk"] = inspected.risk if inspected is not None else 0.0
        record["risk"] = weighed.risk
        record["weighed"] = dict(weighed.parts)
        record["because"] = weighed.because


def _fault_reason(fault: Exception, scrub: Callable[[str], str] | None) -> tuple[Reason, str]:
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
