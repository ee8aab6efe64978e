"""The compiled policy of one snapshot, and its decisions.

`decide` answers one call; `visible` answers "could this caller call it with some arguments". Both ask Cedar, about the
few policies that concern the definition in question. A decision that no argument can change is remembered; whether
the sign-in is as strong and as fresh as its rules require is looked at every time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, cast

import cedarpy
import jiter

from limen.core.call import NOTHING_READ, Approved, Caller, FlowState, Grant
from limen.core.reasons import REASONS
from limen.core.verdict import Pass, Verdict, refuse
from limen.policy import cedar
from limen.policy.arguments import EMPTY, Mistyped, Shape, context_of
from limen.policy.assurance import StepUp, unsatisfied
from limen.policy.evaluate import NO_ARGUMENTS, Outcome, ask, ask_all, entities, entities_of, request
from limen.policy.explain import explain
from limen.policy.rules import Policy
from limen.policy.scopes import needed_scopes, used_scopes
from limen.policy.slices import Key, Parsed, Slice, make_slice
from limen.policy.targets import ACTIONS

_REMEMBERED: Final = 20_000
_SAME: Final = 4096
_TOGETHER: Final = 500


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason` is empty when allowed, else the id of the refusal; `rules` are the policies that decided."""

    allowed: bool
    reason: str
    rules: tuple[str, ...]
    requires: frozenset[str]
    scopes: tuple[str, ...]
    verdict: Verdict


class PolicySet:
    """Immutable, apart from what it remembers. Made by `compile_policy`."""

    def __init__(
        self,
        policies: Sequence[Policy],
        schema: str,
        warnings: tuple[str, ...],
        definitions: Iterable[tuple[Approved, Shape]],
        step_up: StepUp = MappingProxyType({}),
        now: Callable[[], float] = time.time,
    ) -> None:
        self.cedar_text, self.schema, self.warnings = "\n\n".join(one.text for one in policies), schema, warnings
        self.size = len(policies)
        asked = "".join(f"\n// {name}: {' '.join(values)}" for name, values in sorted(step_up.items()))
        self.text = f"{self.cedar_text}\n{schema}{asked}"  # all that decides
        self.digest = hashlib.sha256(self.text.encode()).hexdigest()
        self._step_up, self._now = step_up, now
        self._policies = tuple(policies)
        self.reads_flow = any(cedar.reads_context(one.tree, "flow") for one in policies)  # some rule asks what was read
        self._definitions = {(item.server, item.kind, item.name): (item, shape) for item, shape in definitions}
        self._slices: dict[tuple[str, str, str], Slice] = {}
        self._parsed: dict[Key, Parsed] = {}
        self._decisions: dict[Key, Decision] = {}
        # The same by the very objects: a key of all a policy can read of a caller costs more than the rest of a call's
        # decision (1.5 us). They are kept here, so that no other object can have their ids.
        self._same: dict[Key, tuple[Caller, Approved, Decision]] = {}
        self._visible: dict[Key, bool] = {}
        self._entities: dict[Key, cedarpy.Entities] = {}

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Every policy, in the order of the rules, those written in Cedar last."""
        return self._policies

    def slice(self, approved: Approved) -> Slice | None:
        """What concerns this definition; None when this policy was not compiled with exactly it."""
        key = (approved.server, approved.kind, approved.name)
        compiled_with, shape = self._definitions.get(key, (None, None))
        if compiled_with is None or shape is None:
            return None
        if (compiled_with.digest, compiled_with.effect, compiled_with.durable) != (
            approved.digest,
            approved.effect,
            approved.durable,
        ):
            return None
        found = self._slices.get(key)
        if found is None:  # cut when it is first asked for: few of many thousand definitions ever are
            found = self._slices[key] = make_slice(compiled_with, shape, self._policies, self._parsed)
        return found

    def decide(
        self,
        caller: Caller,
        approved: Approved,
        arguments: bytes | Mapping[str, Any] = b"",
        *,
        action: str = "",
        name: str = "",
        flow: FlowState = NOTHING_READ,
    ) -> Decision:
        """May this caller do this? Default deny; deny wins; what cannot be evaluated never helps the caller.

        `action`: "call", "get", "read" or "complete"; default: what the definition is for. `name`: the concrete URI
        where a template is read. `flow`: what the caller has read. Raises InvariantFault when Cedar gives no decision.
        """
        action = action or _primary(approved)
        these = (id(caller), id(approved), action)
        if flow is NOTHING_READ and (same := self._same.get(these)) is not None:
            return same[2]
        key = _key(caller, approved, action)
        if self.reads_flow and flow != NOTHING_READ and (part := self.slice(approved)) and part.reads_flow:
            key = (*key, flow)
        known = self._decisions.get(key)
        if known is not None:
            if known.requires:
                return self._assured(caller, approved, action, known)
            if flow is NOTHING_READ:
                if len(self._same) >= _SAME:  # callers are new objects with each new token: none is kept for long
                    self._same.clear()
                self._same[these] = (caller, approved, known)
            return known
        part = self.slice(approved)
        if part is None or action not in ACTIONS[approved.kind]:
            return _refused("policy.not_visible", "the policy in force was not compiled for this")
        if approved.kind == "template" and action == "read" and not name:
            return _refused("policy.denied", "a template is read under a URI, and none was given")
        decision = self._decide(caller, part, arguments, action, name or approved.name, flow)
        if not part.reads_arguments:
            _remember(self._decisions, key, decision)
        return self._assured(caller, approved, action, decision) if decision.requires else decision

    def _assured(self, caller: Caller, approved: Approved, action: str, decision: Decision) -> Decision:
        """The same decision, or the step-up it takes: a sign-in ages, so this is not remembered."""
        verdict = unsatisfied(decision.requires, caller, self._now(), self._step_up)
        if verdict is None:
            return decision
        reason = verdict.reason
        if reason.id == "policy.denied" and not self.visible(caller, approved, action=action):
            reason = REASONS["policy.not_visible"]
        detail = f"allowed by {', '.join(decision.rules)}, but {verdict.detail}"
        public = verdict.public
        part = self.slice(approved)
        scopes = used_scopes(part.policies, decision.rules, caller.scopes) if part is not None else []
        if scopes and reason.id == "identity.step_up":
            public = MappingProxyType({**public, "scopes": scopes})
        refused = replace(verdict, reason=reason, detail=detail, public=public)
        return Decision(False, reason.id, decision.rules, decision.requires, (), refused)

    def _decide(
        self,
        caller: Caller,
        part: Slice,
        arguments: bytes | Mapping[str, Any],
        action: str,
        name: str,
        flow: FlowState,
    ) -> Decision:
        try:
            context = _context(part, arguments, action, flow)
        except Mistyped as wrong:
            reason = "policy.denied" if self.visible(caller, part.approved, action=action) else "policy.not_visible"
            return _refused(reason, f"argument {wrong} is not of its approved type, and rules depend on arguments")

        question = request(caller, part.approved, name, action, context)

        def with_scopes(scopes: frozenset[str]) -> Outcome:
            return ask(part.engine, entities(caller, scopes, part.approved, name), question, part.effects)

        outcome = ask(part.engine, self._about(caller, part.approved, name), question, part.effects)
        if outcome.allowed:
            requires = frozenset[str]().union(*(part.requires[rule] for rule in outcome.reasons))
            grant = Grant(outcome.reasons, self.digest, requires)
            return Decision(True, "", outcome.reasons, requires, (), Pass((grant,)))
        if not outcome.reasons:
            needed = needed_scopes(part.scope_options, caller.scopes, lambda scopes: with_scopes(scopes).allowed)
            if needed:
                return _refused(
                    "identity.scope", "a rule allows this with more scopes", scopes=needed, held=caller.scopes
                )
        detail = _why(outcome, flow if part.reads_flow else NOTHING_READ)
        if not self.visible(caller, part.approved, action=action):
            return _refused("policy.not_visible", detail, rules=outcome.reasons)
        return _refused("policy.denied", detail, rules=outcome.reasons)

    def visible(self, caller: Caller, approved: Approved, *, action: str = "") -> bool:
        """Could this caller do this with some arguments (and, for a template, some URI), whatever it has read?

        Never less than what `decide` permits; exactly that where no policy depends on arguments or on what was read.
        What was read changes with every call: a list that followed it would tell of it, and hide what can be had back.
        """
        action = action or _primary(approved)
        key = _key(caller, approved, action)
        known = self._visible.get(key)
        if known is not None:
            return known
        part = self.slice(approved)
        if part is None or action not in ACTIONS[approved.kind]:
            return False
        answer = _could(caller, part, self._open(caller, part, action))
        _remember(self._visible, key, answer)
        return answer

    def ways(self, caller: Caller, approved: Approved) -> tuple[str, ...]:
        """Ids of the allow policies by which this caller could do this with some arguments; none if not `visible`."""
        part = self.slice(approved)
        if part is None:
            return ()
        outcome = self._open(caller, part, _primary(approved))
        return outcome.reasons if _could(caller, part, outcome) else ()

    def _open(self, caller: Caller, part: Slice, action: str) -> Outcome:
        """What Cedar says while arguments are not known."""
        question = request(caller, part.approved, part.approved.name, action, NO_ARGUMENTS)
        return ask(part.possible, self._about(caller, part.approved, part.approved.name), question, part.effects)

    def foresee(self, caller: Caller, items: Sequence[Approved]) -> None:
        """Answer `visible` for all of these that were never asked about, together: a list of hundreds costs Cedar one
        reading of the caller instead of hundreds."""
        groups: dict[int, list[tuple[Key, Slice]]] = {}
        for approved in items:
            key = _key(caller, approved, _primary(approved))
            if key not in self._visible and (part := self.slice(approved)) is not None:
                groups.setdefault(id(part.possible), []).append((key, part))
        for group in groups.values():
            for start in range(0, len(group), _TOGETHER):
                some = group[start : start + _TOGETHER]
                first, names = some[0][1], [(part.approved, part.approved.name) for _, part in some]
                about = entities_of(caller, caller.scopes, names)
                questions = [
                    request(caller, approved, name, _primary(approved), NO_ARGUMENTS) for approved, name in names
                ]
                outcomes = ask_all(first.possible, about, questions, first.effects)
                for (key, part), outcome in zip(some, outcomes, strict=True):
                    _remember(self._visible, key, _could(caller, part, outcome))

    def _about(self, caller: Caller, approved: Approved, name: str) -> cedarpy.Entities:
        """Caller and resource, parsed once where they will be asked about again."""
        if name != approved.name:
            return entities(caller, caller.scopes, approved, name)
        key = _key(caller, approved, "")
        known = self._entities.get(key)
        if known is None:
            known = entities(caller, caller.scopes, approved, name)
            _remember(self._entities, key, known)
        return known

    def explain(
        self,
        caller: Caller,
        approved: Approved,
        arguments: bytes | Mapping[str, Any] = b"",
        *,
        action: str = "",
        name: str = "",
        flow: FlowState = NOTHING_READ,
    ) -> dict[str, Any]:
        """The decision, and for each policy that concerns the definition why it matched or not. For operators."""
        decision = self.decide(caller, approved, arguments, action=action, name=name, flow=flow)
        part = self.slice(approved)
        action = action or _primary(approved)
        report: dict[str, Any] = {
            "allowed": decision.allowed,
            "reason": decision.reason,
            "detail": getattr(decision.verdict, "detail", ""),
            "rules": list(decision.rules),
            "requires": sorted(decision.requires),
            "missing_scopes": list(decision.scopes),
            "challenge": dict(getattr(decision.verdict, "public", {})),
            "policy": self.digest,
            "flow": {"read": list(flow.names), "asked": part is not None and part.reads_flow},
            "policies": [],
            "not_concerned": self.size - (len(part.policies) if part else 0),
        }
        if part is not None:
            try:
                context = _context(part, arguments, action, flow)
            except Mistyped as wrong:
                report["mistyped"], context = str(wrong), _context(part, {}, "complete", flow)
            report["policies"] = explain(part.policies, caller, approved, name or approved.name, action, context)
        return report


def _context(part: Slice, arguments: bytes | Mapping[str, Any], action: str, flow: FlowState) -> str:
    """The request's context. A completion has no arguments to judge yet. Raises Mistyped."""
    read = flow if part.reads_flow else None
    if not part.reads_arguments or action == "complete":
        return context_of(EMPTY, {}, read) if read else NO_ARGUMENTS
    if isinstance(arguments, bytes):
        arguments = cast("dict[str, Any]", jiter.from_json(arguments)) if arguments else {}
    return context_of(part.shape, arguments, read)


def _could(caller: Caller, part: Slice, outcome: Outcome) -> bool:
    """An application is not shown what only persons may call, unless it depends on the call which rules will apply."""
    if not outcome.allowed or not caller.machine or part.reads_arguments or part.reads_flow:
        return outcome.allowed
    return not any("user" in part.requires[rule] for rule in outcome.reasons)


def _why(outcome: Outcome, flow: FlowState) -> str:
    parts = [f"denied by {', '.join(outcome.reasons)}" if outcome.reasons else "no rule allows this"]
    if flow.names:
        parts.append(f"the caller has read: {', '.join(flow.names)}")
    parts.extend(f"{rule} cannot be evaluated: {error}" for rule, error in sorted(outcome.errors.items()))
    return "; ".join(parts)[:2000]


def _refused(
    reason: str,
    detail: str,
    *,
    rules: tuple[str, ...] = (),
    scopes: frozenset[str] = frozenset(),
    held: frozenset[str] = frozenset(),
) -> Decision:
    """`scopes`: all the call needs, which is what a client is told (RFC 6750 section 3); the decision keeps those that
    are missing. A client that asks for exactly what it is told must not lose what it had."""
    public = {"scopes": sorted(scopes)} if scopes else {}
    missing = tuple(sorted(scopes - held))
    return Decision(False, reason, rules, frozenset(), missing, refuse(reason, detail, **public))


def _primary(approved: Approved) -> str:
    """What a definition is for; empty for kinds nobody can call."""
    return ACTIONS.get(approved.kind, ("",))[0]


def _key(caller: Caller, approved: Approved, action: str) -> Key:
    """All that a decision without arguments depends on. The policy compares the rest of `approved` on a miss."""
    return (
        approved.digest,
        approved.name,
        approved.server,
        approved.kind,
        approved.effect,
        approved.durable,
        action,
        *caller.standing,
    )


def _remember(memory: dict[Key, Any], key: Key, value: object) -> None:
    if len(memory) >= _REMEMBERED:
        memory.pop(next(iter(memory)), None)
    memory[key] = value
