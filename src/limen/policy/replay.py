"""Decisions decided again: does the recorded policy, asked again, say what the record says?

What a record does not hold is not guessed: the arguments of a call, what its caller had read, and members of the
caller's standing that were not recorded. Where a policy asks for one of them, that is said, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from limen.core.call import Approved, Caller
from limen.core.events import Event
from limen.core.standing import recorded
from limen.policy.authorize import ACTIONS
from limen.policy.decision import PolicySet
from limen.policy.kept import NotKept

Rebuild = Callable[[str, str], tuple[PolicySet, list[Approved]]]
_UNRECORDED: Final = ("machine", "device", "risk", "contexts", "tags")
_KINDS: Final = {"tools/call": "tool", "prompts/get": "prompt"}


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision. `state`: same, different, or unknown with the reason in `why`. `now`: what is decided again."""

    event: str
    ref: str
    at: float
    state: Literal["same", "different", "unknown"]
    recorded: str
    now: str = ""
    why: str = ""


class Replay:
    """Goes through one log from its beginning, because a caller's standing is recorded when it changes. Nothing is
    believed to be known that was recorded before the gateway started anew."""

    def __init__(self, rebuild: Rebuild) -> None:
        self._rebuild = rebuild
        self._standing: dict[tuple[str, str, str], Any] = {}
        self._catalog: dict[str, str] = {}  # policy -> catalog last seen with it
        self._built: dict[tuple[str, str], tuple[PolicySet, dict[tuple[str, str, str], Approved]] | str] = {}

    def see(self, event: Event) -> None:
        """Remember what later records rely on."""
        if event.type == "start":
            self._standing.clear()
        if "standing" in event.record:
            self._standing[(event.issuer, event.subject, event.client)] = event.record["standing"]
        if event.policy and event.catalog:
            self._catalog[event.policy] = event.catalog

    def again(self, event: Event) -> Replayed | None:
        """The decision of one record, after `see`; None for records that are none."""
        allowed = event.type == "call.intent"
        if not allowed and not (event.type == "call.refused" and event.guard == "Authorize"):
            return None
        said = f"allow by {', '.join(event.rules)}" if allowed else f"deny: {event.reason}"

        def unknown(why: str) -> Replayed:
            return Replayed(event.id, event.ref, event.at, "unknown", said, why=why)

        version = event.catalog or self._catalog.get(event.policy, "")
        if not event.policy or not version:
            return unknown("which policy and definitions were in force is not recorded")
        built = self._build(event.policy, version)
        if isinstance(built, str):
            return unknown(built)
        policy, items = built
        approved = self._meant(event, items)
        if approved is None:
            return unknown("which definition was meant is not recorded")
        caller = self._caller(event)
        if isinstance(caller, str):
            return unknown(caller)
        if why := self._missing(policy, approved, event):
            return unknown(why)
        name = event.name if approved.kind == "template" else ""
        decision = policy.decide(caller, approved, action=ACTIONS.get(event.method, ""), name=name)
        now = f"allow by {', '.join(decision.rules)}" if decision.allowed else f"deny: {decision.reason}"
        if allowed and not decision.allowed and decision.rules == event.rules:
            return Replayed(
                event.id,
                event.ref,
                event.at,
                "same",
                said,
                now,
                "but for the age of the sign-in, which is not recorded",
            )
        same = decision.allowed == allowed and (decision.rules == event.rules if allowed else now == said)
        if not same and not allowed and "standing" not in event.record:
            return unknown(f"the standing of refused callers is not recorded; with the last known one: {now}")
        return Replayed(event.id, event.ref, event.at, "same" if same else "different", said, now)

    def _build(self, policy: str, version: str) -> tuple[PolicySet, dict[tuple[str, str, str], Approved]] | str:
        key = (policy, version)
        if key not in self._built:
            try:
                made, items = self._rebuild(policy, version)
                self._built[key] = (made, {(one.server, one.kind, one.name): one for one in items})
            except NotKept as error:
                self._built[key] = str(error)
        return self._built[key]

    def _meant(self, event: Event, items: dict[tuple[str, str, str], Approved]) -> Approved | None:
        """By server, name and digest; of templates the record names the URI, and the digest says which."""
        server, named = event.server, str(event.record.get("tool") or event.name)
        kind = _KINDS.get(event.method)
        found = items.get((server, kind, named)) if kind else None
        fitting = [one for one in items.values() if one.server == server and one.digest == event.digest]
        if found is None and len(fitting) == 1:
            found = fitting[0]
        return found if found is not None and event.digest in ("", found.digest) else None

    def _caller(self, event: Event) -> Caller | str:
        key = (event.issuer, event.subject, event.client)
        if not event.subject:
            return "nobody is named"
        if key not in self._standing:
            return "the caller's standing was not recorded"
        standing = self._standing[key]
        if standing is None:
            return "the caller's standing was too long for a record"
        try:
            return recorded(*key, standing)
        except TypeError:
            return "the caller's standing cannot be read"

    def _missing(self, policy: PolicySet, approved: Approved, event: Event) -> str:
        part = policy.slice(approved)
        if part is None:
            return "the policy was not compiled with this definition"
        if part.reads_arguments:
            return "a rule asks about arguments, of which the record has the digest only"
        if part.reads_flow:
            return "a rule asks what the caller had read, which is not recorded"
        known = self._standing[(event.issuer, event.subject, event.client)] or {}
        text = "\n".join(one.text for one in part.policies)
        for member in _UNRECORDED:
            asked = "getTag" in text or "hasTag" in text if member == "tags" else f"principal.{member}" in text
            if asked and member not in known:
                return f"a rule asks for the caller's {member}, which is not recorded"
        return ""
