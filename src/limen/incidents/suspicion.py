"""Watch Suspicion: what in the log makes whom suspicious, by how much, for how long. One table, with reasons.

How the weights were set: 0.8 alone stops a subject, so only proofs are worth that much (a decoy called, a session seen
in two hands); 0.5 alone asks a person, so it stands for what honest use does not do at all; what honest use does now
and then (an agent that was talked into something by a page it read) is worth 0.1 to 0.3, so that it takes a second kind
of evidence to ask a person. The limits were checked against the attack rows of the tests and their honest twins, not
against traffic of an organisation. A refusal for risk is not a reason for more risk.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, cast

from limen.core.events import Event, Signal, Subject
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.incidents.threats import KINDS, LONGEST, MAX_SUBJECTS, make_room, note

HOUR: Final = 3600.0
DAY: Final = 86_400.0
SOURCES: Final = ("content", "catalog", "behaviour", "flow", "session", "sandbox", "intelligence", "decoy", "operator")
_PENDING: Final = 10_000  # subjects waiting to be written
_CALLS: Final = 4096  # calls under way whose outcome may come
_ROOM: Final = 60.0  # seconds between looks at how many there are
# What is unusual about what many use may be the doing of one of them, who must not be able to take it from the others:
# even repeated it stays below asking. People are told all the same (rule risk_signal).
_SHARED: Final = frozenset({"client", "server", "tool"})
_OF_ALL: Final = 0.24
_FROM: Final = 0.5  # risk of content from which it is held against somebody

Kind = Literal["caller", "client", "session", "server", "tool"]


@dataclass(frozen=True, slots=True)
class Weight:
    """What one kind of event is worth against whom. `scaled`: times the risk of its content."""

    source: str
    why: str
    on: Mapping[Kind, float]
    seconds: float = HOUR
    scaled: bool = False


WEIGHTS: Final[Mapping[str, Weight]] = MappingProxyType(
    {  # event type, with the reason of a refusal behind a slash
        # What somebody sends, or has its agent send. An agent can be tricked: the session is doubted more than the
        # person, and content alone never stops either.
        "call.refused/content.blocked": Weight(
            "content", "arguments that look dangerous", {"session": 0.3, "caller": 0.2, "client": 0.1}, scaled=True
        ),
        # What a tool answers is often a stranger's text: whoever can plant a text must not be able to take the tool
        # away from everybody, so all that texts do to a tool or server stays below asking. The session that read it
        # may act on it.
        "call.outcome": Weight(
            "content", "an answer that looks dangerous", {"tool": 0.15, "server": 0.1, "session": 0.25}, scaled=True
        ),
        # Known bad things do not turn up by accident as often as suspicious words do.
        "sent/feed": Weight("intelligence", "a known indicator was sent", {"caller": 0.4, "session": 0.4}, DAY),
        "answered/feed": Weight("content", "a known indicator came back", {"tool": 0.15, "session": 0.3}, DAY),
        # Somebody (or an agent that was talked into it) tried to carry out what it had read.
        "call.refused/flow.blocked": Weight("flow", "data on its way out", {"session": 0.4, "caller": 0.25}, 4 * HOUR),
        # A person looked at a call and said no.
        "call.refused/policy.denied": Weight("operator", "a person refused it", {"session": 0.3, "caller": 0.3}, DAY),
        # Two hands on one session is theft until somebody signs in anew, which begins another session.
        "security.session.hijack": Weight("session", "used by somebody else", {"session": 0.9, "caller": 0.3}, DAY),
        "security.session.step_up": Weight("session", "may be another person", {"session": 0.4}, HOUR),
        "security.session.changed": Weight("session", "changed its surroundings", {"session": 0.1}, HOUR),
        "security.token.two_networks": Weight("session", "one token in two networks", {"caller": 0.5}, 4 * HOUR),
        "security.token.revoked_use": Weight("session", "used a revoked token", {"caller": 0.3}, 4 * HOUR),
        "security.handle.probing": Weight("session", "tried handles of others", {"caller": 0.45}, 4 * HOUR),
        "connect_by_another": Weight("session", "took up somebody else's link", {"caller": 0.3}, 4 * HOUR),
        # The approved definition stays in service, so a change is a reason to look at what it does.
        "catalog.changed": Weight("catalog", "announces another definition", {"tool": 0.2}, DAY),
        "catalog.rejected_again": Weight("catalog", "announces what was rejected", {"tool": 0.35, "server": 0.2}, DAY),
        # Below asking: what was approved of it stays in service; people are told, and calls are watched closely.
        "finding": Weight("catalog", "was caught at something", {"server": 0.25}, DAY),
        "call.outcome/catalog.result": Weight("catalog", "answers other than approved", {"tool": 0.1}, DAY),
        # A server that wants where it may not go. Learning what it needs is no attack, and is not counted.
        "egress.refused": Weight("sandbox", "wanted where it may not go", {"server": 0.2}, DAY),
        "cell.refused": Weight("sandbox", "could not be confined", {"server": 0.2}, HOUR),
    }
)


class Suspicion:
    """Turns events into signals and puts them on record, once a second. `wake`: tells other replicas to look."""

    name = "suspicion"

    def __init__(self, table: Table, wake: Callable[[], None] = lambda: None) -> None:
        self._table, self._wake = table, wake
        self._pending: dict[Subject, list[Signal]] = {}
        self._calls: OrderedDict[str, Event] = OrderedDict()  # of those that went ahead, until their outcome
        self._looked = 0.0

    def see(self, event: Event) -> None:
        """One event. Raises DependencyFault when too much waits to be written."""
        if len(self._pending) >= _PENDING:
            raise DependencyFault("threats", "too much waits to be written")
        for signal in self._signals(event):
            self._pending.setdefault(signal.subject, []).append(signal)

    def settle(self, now: float) -> None:
        """Write down what was seen."""
        changed = False
        for subject, signals in list(self._pending.items()):
            changed |= note(self._table, subject, signals, now)
            del self._pending[subject]
        if now - self._looked >= _ROOM:
            self._looked = now
            changed |= make_room(self._table, MAX_SUBJECTS, now) > 0
        if changed:
            with suppress(DependencyFault):  # they look by themselves four times a second
                self._wake()

    def _signals(self, event: Event) -> Iterator[Signal]:
        if event.type == "call.intent":
            self._calls[event.ref] = event
            if len(self._calls) > _CALLS:
                self._calls.popitem(last=False)
            return
        if event.type == "signal":
            if (told := read_signal(event)) is not None:
                yield told
            return
        about = event
        if event.type == "call.outcome":
            begun = self._calls.pop(event.ref, None)
            about = event if event.server or begun is None else begun
        for name, risk in _names(event):
            weight = WEIGHTS.get(name)
            for kind, score in weight.on.items() if weight is not None else ():
                value = _value(kind, about)
                if weight is not None and value:
                    worth = score * risk if weight.scaled else score
                    why = f"{weight.why} ({event.reason or event.type})"
                    yield Signal(Subject(kind, value), weight.source, worth, why, event.at, event.id, weight.seconds)


def _names(event: Event) -> Iterator[tuple[str, float]]:
    """Rows of the table this event is one of, and the risk of its content."""
    if event.type == "call.refused":
        if event.reason == "policy.denied" and event.guard != "RequireApproval":
            return  # a rule said no: that is how rules work
        yield f"call.refused/{event.reason}", event.risk
        if any(one.startswith("feed.") for one in event.findings):
            yield "sent/feed", event.risk
    elif event.type == "call.outcome":
        if event.findings and event.risk >= _FROM:
            yield "call.outcome", event.risk
            if any(one.startswith("feed.") for one in event.findings):
                yield "answered/feed", event.risk
        yield f"call.outcome/{event.reason}", event.risk
    elif event.type != "call.local":
        yield event.type, event.risk


def _value(kind: Kind, event: Event) -> str:
    if kind == "tool":
        return f"{event.server}/{event.name}" if event.server and event.name else ""
    return {"caller": event.caller, "client": event.client, "session": event.session, "server": event.server}[kind]


def read_signal(event: Event) -> Signal | None:
    """The signal a record of type `signal` tells of. None for what means nothing, which the record shows anyway."""
    row: Mapping[str, Any] = event.record
    kind, value, source, score = row.get("about"), row.get("value"), row.get("source"), row.get("score")
    seconds = row.get("seconds", HOUR)
    if kind not in KINDS or not isinstance(value, str) or not value or source not in SOURCES:
        return None
    if not isinstance(score, int | float) or not isinstance(seconds, int | float) or isinstance(score, bool):
        return None
    if not 0.0 < score <= 1.0 or not 1.0 <= seconds <= LONGEST:
        return None
    if source == "behaviour" and kind in _SHARED:
        score = min(score, _OF_ALL)
    why, of = str(row.get("why", ""))[:300], str(row.get("event") or event.id)
    return Signal(Subject(cast("Kind", kind), value), source, float(score), why, event.at, of, float(seconds))
