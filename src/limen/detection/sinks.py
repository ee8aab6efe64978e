"""Where labelled data may go: decided from what was read and where the call leads, never from how a text sounds.

One rule is always there: a caller that holds both a stranger's words and private data does not reach outside on its
own. It needs no detector and no pattern, so nothing an attacker writes can get around it.
"""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from limen.core.call import Approved, Caller
from limen.detection.dataflow import TTL, LabelSet, Read
from limen.detection.finding import Finding
from limen.detection.labels import Label, Marking

Stop = Literal["approval", "refuse"]
Effect = Literal["read", "write", "destructive", "unknown"]
Text = Annotated[str, Field(min_length=1, max_length=512)]
_RANK: Final = {"pass": 0, "approval": 1, "refuse": 2}
_WHERE: Final = {"external": "the outside", "internal": "a place inside", "none": "nowhere"}
_UNPRINTED: Final = re.compile(r"[^\x21-\x7e]+")


class FlowRule(BaseModel):
    """One more thing that must not happen. Rules only add: what they do not mention stays as it is.

    `labels`: all of these were read. `to`: glob over `server/name`. `effects`, `sinks`: any of these; empty: all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    labels: frozenset[Label] = Field(min_length=1)
    to: Text = "*"
    effects: frozenset[Effect] = frozenset()
    sinks: frozenset[Literal["internal", "external"]] = frozenset({"external"})
    action: Stop = "approval"


class CallerLabels(BaseModel):
    """What callers hold by what they are: a client that browses the web by itself has always read untrusted things.

    Exactly one of `user` (the subject), `client`, `group` and `role`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    user: Text | None = None
    client: Text | None = None
    group: Text | None = None
    role: Text | None = None
    reads: frozenset[Label] = Field(min_length=1)

    @model_validator(mode="after")
    def _one(self) -> CallerLabels:
        if sum(value is not None for value in (self.user, self.client, self.group, self.role)) != 1:
            raise ValueError("name exactly one of user, client, group and role")
        return self

    def covers(self, caller: Caller) -> bool:
        """Whether this caller is meant."""
        return (
            (self.user is not None and self.user == caller.subject)
            or (self.client is not None and self.client == caller.client)
            or self.group in caller.groups
            or self.role in caller.roles
        )


class FlowSettings(BaseModel):
    """`content.flow`. There is no off; `unsafe_observe` reports and lets pass."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    ttl: float = Field(default=TTL, ge=60, le=30 * 86_400, description="seconds a label stays after the last read")
    private: Stop = Field(default="approval", description="untrusted and private were read, and the call reaches out")
    secret: Stop = Field(default="refuse", description="untrusted and secret were read, and the call reaches out")
    secret_alone: Stop | Literal["pass"] = Field(default="approval", description="only secret was read, and it does")
    rules: tuple[FlowRule, ...] = Field(default=(), max_length=200)
    callers: tuple[CallerLabels, ...] = Field(default=(), max_length=200)
    unsafe_observe: bool = False


@dataclass(frozen=True, slots=True)
class FlowDecision:
    """`action` is what happens, `rule` the strongest rule that says so, `detail` for the audit and the approver."""

    action: Literal["pass", "approval", "refuse"]
    rule: str = ""
    detail: str = ""
    findings: tuple[Finding, ...] = ()


_PASS: Final = FlowDecision("pass")


class Flow:
    """The rules, compiled."""

    def __init__(self, settings: FlowSettings) -> None:
        self._settings = settings
        self._rules = [
            (f"flow.rule.{number}", re.compile(fnmatch.translate(rule.to.casefold())), rule)
            for number, rule in enumerate(settings.rules, 1)
        ]

    def held(self, caller: Caller, labels: LabelSet) -> LabelSet:
        """What this caller read, and what it holds by what it is."""
        if not self._settings.callers:
            return labels
        return labels.having(label for row in self._settings.callers if row.covers(caller) for label in row.reads)

    def judge(self, labels: LabelSet, marking: Marking, approved: Approved) -> FlowDecision:
        """May a caller that holds these labels make a call that does this?"""
        if not labels.labels:
            return _PASS
        stops = list(self._stops(labels, marking, approved))
        if not stops:
            return _PASS
        action, rule = max(stops, key=lambda stop: _RANK[stop[0]])
        detail = f"{chain(labels)}; {approved.server}/{approved.name} leads to {_WHERE[marking.sink]}: {marking.why}"
        findings = tuple(Finding(name, "flow", 1.0, detail=detail) for _, name in stops)
        return FlowDecision("pass" if self._settings.unsafe_observe else action, rule, detail, findings)

    def _stops(self, labels: LabelSet, marking: Marking, approved: Approved) -> Iterable[tuple[Stop, str]]:
        settings, outside = self._settings, marking.sink == "external"
        if outside and labels.trifecta:
            yield (settings.secret if labels.secret else settings.private), "flow.trifecta"
        elif outside and labels.secret and settings.secret_alone != "pass":
            yield settings.secret_alone, "flow.secret"
        target = f"{approved.server}/{approved.name}".casefold()
        held = labels.labels | ({Label.PRIVATE} if labels.private else frozenset())
        for name, pattern, rule in self._rules:
            if (
                rule.labels <= held
                and (not rule.effects or approved.effect in rule.effects)
                and (not rule.sinks or marking.sink in rule.sinks)
                and pattern.match(target)
            ):
                yield rule.action, name


def chain(labels: LabelSet) -> str:
    """The first read behind each label, for people. Names are shown in printable ASCII only."""
    parts = []
    for label in sorted(labels.labels):
        read = next((read for read in labels.reads if label in read.labels), None)
        parts.append(f"{label} {_origin(read)}" if read else f"{label} by what the caller is")
    return "; ".join(parts)


def _origin(read: Read) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(read.first))
    name = _UNPRINTED.sub("?", read.name[:120])
    return f"since {when} from {read.server}/{name} (definition {read.digest[:12]})"
