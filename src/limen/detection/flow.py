"""Guards ReadFlow, CheckFlow and RecordFlow: what a caller has read decides where its next call may lead; no text is
looked at.

They are idle while nothing is declared private and no rule asks for more: then there is nothing to protect.
"""

from __future__ import annotations

from typing import Any, Final

from limen.core.call import NOTHING_READ, Approved, Call, Caller, Cleared, Context, FlowState, Grant, Inspected
from limen.core.verdict import Pass, Permit, ResultVerdict, Verdict, refuse
from limen.detection.dataflow import Labels, Principal, Read
from limen.detection.inspect import Seen, note
from limen.detection.labels import Marking, Markings
from limen.detection.settings import ContentSettings
from limen.detection.sinks import Flow

_CLEARED: Final = Pass((Cleared(),))
_NOTHING_READ: Final = Pass((NOTHING_READ,))
_PASS: Final = Pass()


class Watch:
    """Rules, declarations and the labels in force: what both guards share. `labels` keeps the table's faults."""

    def __init__(self, settings: ContentSettings, labels: Labels) -> None:
        declared = {
            name: one.labels.model_copy(update={"trusted": one.labels.trusted or one.trusted})
            for name, one in settings.servers.items()
        }
        self.markings, self.flow, self.labels = Markings(declared), Flow(settings.flow), labels
        self.idle = not (self.markings.private_somewhere() or settings.flow.rules or settings.flow.callers)

    def marking(self, call: Call, approved: Approved) -> Marking:
        """What this call reads, and where it can carry data."""
        name = call.name if approved.kind == "template" else ""
        return self.markings.of(approved, name, call.read_arguments())


class ReadFlow:
    """Guard. Gives FlowState, for policies; `asked`: whether the one in force reads it. It stands above Resolve, so
    that labels that cannot be read refuse every name alike."""

    needs = (Caller,)
    gives = (FlowState,)

    def __init__(self, watch: Watch, *, asked: bool) -> None:
        self._watch, self._asked = watch, asked

    def check(self, context: Context) -> Verdict:
        """Raises DependencyFault when labels cannot be read: nobody can say then what the rules would."""
        if not self._asked:
            return _NOTHING_READ
        watch, caller = self._watch, context.get(Caller)
        held = watch.flow.held(caller, watch.labels.read(_principal(caller)))
        return Pass((FlowState(**held.context()),)) if held.labels else _NOTHING_READ


class CheckFlow:
    """Guard. Refuses flow.blocked; gives Cleared, which asks for a person where the rules say so. `asks`: whether the
    approval guard listens; where it does not, such calls are refused."""

    needs = (Caller, Approved, Grant, Inspected)
    gives = (Cleared,)

    def __init__(self, watch: Watch, seen: Seen, *, asks: bool) -> None:
        self._watch, self._seen, self._asks = watch, seen, asks

    def check(self, context: Context) -> Verdict:
        """Raises DependencyFault when labels cannot be read: then nothing is sent anywhere."""
        watch = self._watch
        if watch.idle:
            return _CLEARED
        caller, approved = context.get(Caller), context.get(Approved)
        held = watch.flow.held(caller, watch.labels.read(_principal(caller)))
        if not held.labels:
            return _CLEARED
        decision = watch.flow.judge(held, watch.marking(context.call, approved), approved)
        ids = tuple(dict.fromkeys(finding.id for finding in decision.findings))
        if decision.action == "refuse" or (decision.action == "approval" and not self._asks):
            note(self._seen, context.reference, Inspected(1.0, ids))
            return refuse("flow.blocked", decision.detail)
        return Pass((Cleared(ids, decision.action == "approval"),))


class RecordFlow:
    """Result guard. Labels are in the table before the result goes on; raises DependencyFault when they cannot be.
    `asked`: as for ReadFlow."""

    def __init__(self, watch: Watch, *, asked: bool = False) -> None:
        self._watch, self._idle = watch, watch.idle and not asked

    def check_result(self, permit: Permit, result: dict[str, Any]) -> ResultVerdict:
        """Never refuses by itself."""
        if self._idle:
            return _PASS
        watch = self._watch
        call, approved = permit.call, permit.get(Approved)
        name = call.name if approved.kind == "template" else approved.name
        reads = watch.marking(call, approved).reads
        if reads:
            read = Read(approved.server, approved.kind, name, approved.digest, reads, reference=permit.reference)
            watch.labels.add(_principal(permit.get(Caller)), read)
        return _PASS


def _principal(caller: Caller) -> Principal:
    return (caller.issuer, caller.subject)
