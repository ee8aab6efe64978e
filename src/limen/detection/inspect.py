"""Guards InspectArguments and InspectResult, messages of running calls, and definitions: findings -> risk -> action.

Above the limit for blocking nothing goes on. Above the one for holding a person must approve arguments, and anything
else is replaced by a notice while the original waits in quarantine. What is lower but not nothing is recorded. What is
recorded is ids and numbers, never the content.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import jiter

from limen.core.call import Approved, Call, Caller, Context, Era, Grant, Inspected
from limen.core.conversation import Conversation
from limen.core.faults import Fault, UpstreamFault
from limen.core.verdict import Pass, Permit, Refuse, Replace, ResultVerdict, Verdict, refuse
from limen.detection.finding import Channel, Finding
from limen.detection.fuse import NO_RISK, Action, Risk, fuse
from limen.detection.memory import keeps
from limen.detection.quarantine import filtered_notice
from limen.detection.remote import UNAVAILABLE
from limen.detection.scanner import Report, Scanner, Subject
from limen.detection.settings import ContentSettings, Guarded, Sensitive
from limen.detection.views import unread
from limen.detection.withhold import Quarantine, Redact, notice, readable, redacted

CERTAIN: Final = 0.5  # a secret or a personal number less likely than that is recorded only
_PASS: Final = Pass()
_NOTHING: Final = Pass((Inspected(),))
_SENSITIVE: Final = ("secret", "pii")
_CHANNELS: Final = {
    "resources/read": Channel.RESOURCE,
    "prompts/get": Channel.PROMPT,
    "completion/complete": Channel.COMPLETION,
}

Seen = MutableMapping[str, Inspected]  # by reference of the call: what the engine writes into its next record


class Shelf(Protocol):
    """What is read of the catalog in force."""

    @property
    def version(self) -> str: ...
    def approved(self, server: str | None = None, kind: str | None = None) -> tuple[Approved, ...]: ...


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found that nobody excepted, the risk it makes, and what the limits of the tool say to that."""

    findings: tuple[Finding, ...] = ()
    risk: Risk = NO_RISK
    action: Action = Action.PASS

    @property
    def seen(self) -> Inspected:
        """For the record."""
        return Inspected(round(self.risk.score, 3), self.risk.ids)

    @property
    def detail(self) -> str:
        """For operators: the risk, what each family brings, the ids, and why a service did not judge."""
        parts = ", ".join(f"{family} {part:.2f}" for family, part in self.risk.contributions)
        away = "".join(f"; {one.detail}" for one in self.findings if one.family == "remote")
        return f"risk {self.risk.score:.2f} ({parts}): {', '.join(self.risk.ids)}{away}"


class Judge:
    """Scanner, settings and catalog together: what every guard here asks. Built with the corridor."""

    def __init__(
        self, scanner: Scanner, settings: ContentSettings, catalog: Shelf, now: Callable[[], float] = time.time
    ) -> None:
        self.scanner, self.settings, self._now = scanner, settings, now
        self._version = catalog.version
        self._names: dict[str, set[str]] = {}
        for one in catalog.approved(kind="tool"):
            self._names.setdefault(one.server, set()).add(one.name)
        self._others: dict[str, frozenset[str]] = {}

    def look(self, server: str, name: str, channel: Channel, value: Any, definition: bytes = b"") -> Any:
        """A Report, or an awaitable of one. Raises as `Scanner.scan` does."""
        others = self._others.get(server)
        if others is None:
            names = (members for other, members in self._names.items() if other != server)
            others = self._others[server] = frozenset().union(*names)
        trusted = self.settings.trusts(server)
        subject = Subject(server, name, channel, trusted, value, definition, others)
        return self.scanner.scan(subject, self._version)

    def weigh(self, report: Report, server: str, name: str, channel: Channel) -> Judgement:
        """Leave out what is excepted now, fuse the rest, compare with the limits."""
        return weigh(self.settings, report, server, name, channel, self._now())

    def observes(self, guard: Guarded) -> bool:
        """Whether this guard only records."""
        return guard in self.settings.unsafe_observe


def weigh(settings: ContentSettings, report: Report, server: str, name: str, channel: Channel, now: float) -> Judgement:
    """Findings to an action, under the settings for one tool. Raises InvariantFault for an unknown family."""
    if not report.findings:
        return _CLEAN
    kept = tuple(one for one in report.findings if not settings.excepted(one, server, name, now))
    risk = fuse(kept, channel)
    if any(unread(one) for one in kept):
        # Some reading of the text was left out, and nothing passes unseen.
        return Judgement(kept, Risk(1.0, risk.contributions, risk.ids), Action.BLOCK)
    action = settings.limits(server, name).action(risk.score)
    if any(one.id == UNAVAILABLE for one in kept):  # whatever its score: what was not judged is not passed on
        action = _strictest(action, Action.HOLD)
    return Judgement(kept, risk, action)


_CLEAN: Final = Judgement()


class InspectArguments:
    """Guard. Refuses content.blocked and content.too_large; gives Inspected, which asks for a person where the risk
    is above the limit for holding. `asks`: whether the approval guard listens; where it does not, such calls are
    refused."""

    needs = (Caller, Approved, Grant)
    gives = (Inspected,)

    def __init__(self, judge: Judge, seen: Seen, *, asks: bool) -> None:
        self._judge, self._seen, self._asks = judge, seen, asks
        self._observe = judge.observes("arguments")

    def check(self, context: Context) -> Verdict | Awaitable[Verdict]:
        """Judge everything of the call that a caller wrote freely."""
        call, approved = context.call, context.get(Approved)
        value = _asked(call, approved)
        if not value:
            return _NOTHING
        report = self._judge.look(approved.server, approved.name, Channel.ARGUMENT, value, approved.definition)
        if isinstance(report, Report):
            return self._verdict(context, approved, report)
        return self._later(context, approved, report)

    async def _later(self, context: Context, approved: Approved, report: Awaitable[Report]) -> Verdict:
        return self._verdict(context, approved, await report)

    def _verdict(self, context: Context, approved: Approved, report: Report) -> Verdict:
        if report.too_large:
            return _NOTHING if self._observe else refuse("content.too_large", "arguments")
        if not report.findings:
            return _NOTHING
        channel = Channel.MEMORY if keeps(approved) else Channel.ARGUMENT
        judged = self._judge.weigh(report, approved.server, approved.name, channel)
        if not judged.findings:
            return _NOTHING
        seen = judged.seen
        if self._observe:
            return Pass((seen,))
        action = judged.action
        if not self._judge.settings.trusts(approved.server):
            action = _strictest(action, _sensitive_arguments(self._judge.settings, judged.findings))
        if action is Action.BLOCK or (action is Action.HOLD and not self._asks):
            self._seen[context.reference] = seen
            return refuse("content.blocked", judged.detail)
        return Pass((Inspected(seen.risk, seen.findings, action is Action.HOLD),))


class InspectResult:
    """Result guard: every text of a result. Redacts, replaces by a notice, or refuses content.filtered and
    content.too_large. It stands below ValidateResult and sees what a client would get."""

    def __init__(self, judge: Judge, seen: Seen, redact: Redact, quarantine: Quarantine | None = None) -> None:
        self._judge, self._seen, self._redact, self._quarantine = judge, seen, redact, quarantine
        self._observe = judge.observes("results")

    def check_result(self, permit: Permit, result: dict[str, Any]) -> ResultVerdict | Awaitable[ResultVerdict]:
        """Judge, at once where it is short."""
        approved, channel = permit.get(Approved), _channel(permit.call, result)
        report = self._judge.look(approved.server, approved.name, channel, readable(result))
        if isinstance(report, Report):
            return self._verdict(permit, result, channel, report)
        return self._later(permit, result, channel, report)

    async def _later(
        self, permit: Permit, result: dict[str, Any], channel: Channel, report: Awaitable[Report]
    ) -> ResultVerdict:
        return self._verdict(permit, result, channel, await report)

    def _verdict(self, permit: Permit, result: dict[str, Any], channel: Channel, report: Report) -> ResultVerdict:
        if report.too_large:
            return _PASS if self._observe else refuse("content.too_large", "result")
        approved, settings = permit.get(Approved), self._judge.settings
        judged = self._judge.weigh(report, approved.server, approved.name, channel)
        if not judged.findings:
            return _PASS
        note(self._seen, permit.reference, judged.seen)
        if self._observe:
            return _PASS
        action, taken = _sensitive_results(settings, judged.findings)
        action = _strictest(action, judged.action)
        if action is Action.PASS or action is Action.RECORD:
            if not taken:
                return _PASS
            cleaned = redacted(result, taken, self._redact)
            if cleaned is not None:
                return Replace(cleaned, f"redacted {', '.join(dict.fromkeys(one.id for one in taken))}")
        return self._withheld(permit, result, judged, refused=action is Action.BLOCK)

    def _withheld(
        self, permit: Permit, result: dict[str, Any], judged: Judgement, *, refused: bool
    ) -> Refuse | Replace:
        kept = ""
        if self._quarantine is not None:
            kept = self._quarantine.keep(permit.call, permit.reference, result, judged.risk.ids)
        detail = f"{judged.detail}; kept as {kept}" if kept else judged.detail
        shown = notice(permit.call, "resultType" in result, filtered_notice(permit.reference, kept))
        if refused or shown is None or result.get("resultType") == "input_required":
            return refuse("content.filtered", detail)
        return Replace(shown, f"withheld: {detail}")


class InspectMessages:
    """What a server may say to a client while a call runs: notifications are dropped, questions refused."""

    def __init__(self, judge: Judge, seen: Seen, redact: Redact) -> None:
        self.judge, self.seen, self.redact = judge, seen, redact
        self.observe = judge.observes("messages")

    def over(self, permit: Permit, conversation: Conversation) -> Conversation:
        """The same conversation, looked at."""
        return _Inspected(self, permit, conversation)

    def let_through(self, permit: Permit, channel: Channel, report: Report, value: Any, *, redacts: bool) -> Any | None:
        """The value, without what is to be redacted from it, or None."""
        if report.too_large:
            return value if self.observe else None
        approved = permit.get(Approved)
        judged = self.judge.weigh(report, approved.server, approved.name, channel)
        if not judged.findings:
            return value
        note(self.seen, permit.reference, judged.seen)
        if self.observe:
            return value
        action, taken = _sensitive_results(self.judge.settings, judged.findings)
        if _strictest(action, judged.action).value >= Action.HOLD.value:
            return None
        if not taken:
            return value
        return redacted(value, taken, self.redact) if redacts else None


class _Inspected:
    """Implements `Conversation`."""

    __slots__ = ("_ours", "_permit", "_theirs")

    def __init__(self, ours: InspectMessages, permit: Permit, theirs: Conversation) -> None:
        self._ours, self._permit, self._theirs = ours, permit, theirs

    @property
    def era(self) -> Era:
        return self._theirs.era

    @property
    def capabilities(self) -> Mapping[str, Any]:
        return self._theirs.capabilities

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Numbers pass. Words are judged at once; what is too long for that, or cannot be judged, is dropped."""
        shown: Any = dict(params)
        words = {name: shown[name] for name in ("message", "data", "logger") if name in shown}
        if words:
            approved = self._permit.get(Approved)
            try:
                report = self._ours.judge.look(approved.server, approved.name, Channel.NOTIFICATION, words)
            except Fault:
                report = None
            if not isinstance(report, Report):
                if report is not None:
                    report.close()
                note(self._ours.seen, self._permit.reference, Inspected(0.0, ("notification.dropped",)))
                return
            kept = self._ours.let_through(self._permit, Channel.NOTIFICATION, report, words, redacts=True)
            if kept is None:
                return
            shown.update(kept)
        self._theirs.notify(method, shown)

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """Raises UpstreamFault for a question that looks dangerous."""
        value = {key: dict(request) for key, request in requests.items()}
        approved = self._permit.get(Approved)
        report = self._ours.judge.look(approved.server, approved.name, Channel.ELICITATION, value)
        report = report if isinstance(report, Report) else await report
        if self._ours.let_through(self._permit, Channel.ELICITATION, report, value, redacts=False) is None:
            raise UpstreamFault(approved.server, "asked the client something that looks dangerous")
        return await self._theirs.ask(value)


def inspect_definition(
    scanner: Scanner, settings: ContentSettings, server: str, kind: str, item: Mapping[str, Any], now: float
) -> Judgement:
    """Findings, risk and action for what a server announces. Too much text counts as a definition to block.

    Raises InvariantFault and DependencyFault as detectors do.
    """
    channel = Channel.INSTRUCTIONS if kind == "instructions" else Channel.DEFINITION
    name = str(item.get("uri") or item.get("uriTemplate") or item.get("name") or "")
    report = scanner.scan_now(Subject(server, name, channel, settings.trusts(server), dict(item)))
    if report.too_large:
        return Judgement((), Risk(1.0), Action.BLOCK)
    return weigh(settings, report, server, name, channel, now)


def note(seen: Seen, reference: str, inspected: Inspected) -> None:
    """Add to what this call's next record says: the highest risk, every id once."""
    known = seen.get(reference)
    if known is not None:
        ids = tuple(dict.fromkeys(known.findings + inspected.findings))
        inspected = Inspected(max(known.risk, inspected.risk), ids)
    seen[reference] = inspected


def _asked(call: Call, approved: Approved) -> dict[str, Any]:
    value: dict[str, Any] = {}
    if call.arguments and call.arguments != b"{}":
        value["arguments"] = call.read_arguments()
    if call.method == "completion/complete":
        value["argument"] = call.read_rest().get("argument")
    if call.input_responses:
        value["inputResponses"] = jiter.from_json(call.input_responses)
    if approved.kind == "template":
        value["uri"] = call.name
    return value


def _channel(call: Call, result: Mapping[str, Any]) -> Channel:
    if result.get("resultType") == "input_required":
        return Channel.ELICITATION
    if result.get("isError") is True:
        return Channel.ERROR
    return _CHANNELS.get(call.method, Channel.RESULT)


def _strictest(one: Action, other: Action) -> Action:
    return one if one.value >= other.value else other


def _certain(findings: Sequence[Finding], family: str) -> list[Finding]:
    return [one for one in findings if one.family == family and one.score >= CERTAIN]


def _sensitive(settings: ContentSettings) -> tuple[tuple[Literal["secret", "pii"], Sensitive], ...]:
    return ("secret", settings.secrets), ("pii", settings.personal)


def _sensitive_arguments(settings: ContentSettings, findings: Sequence[Finding]) -> Action:
    actions = {"block": Action.BLOCK, "approve": Action.HOLD, "record": Action.RECORD}
    strictest = Action.PASS
    for family, rule in _sensitive(settings):
        if _certain(findings, family):
            strictest = _strictest(strictest, actions[rule.arguments])
    return strictest


def _sensitive_results(settings: ContentSettings, findings: Sequence[Finding]) -> tuple[Action, list[Finding]]:
    """The action where something is to be withheld, and the findings to redact."""
    action, taken = Action.PASS, list[Finding]()
    for family, rule in _sensitive(settings):
        certain = _certain(findings, family)
        if certain and rule.results == "withhold":
            action = Action.HOLD
        elif rule.results == "redact":
            taken += certain
    return action, taken
