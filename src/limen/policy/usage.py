"""What the log says was used: one pass over its records, in memory bounded by callers times definitions.

Only calls that were allowed and sent count as use. A call that another policy decided (an earlier one, or the same
rules about another catalog) names rules of that policy: it counts for every present allow rule that speaks of what it
named, because any of them may be the one that would be missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from limen.core.call import Approved, Caller
from limen.core.standing import recorded

Place = tuple[str, str, str]  # server, kind, name
CallerKey = tuple[str, str, str]  # issuer, subject, client
_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "tools/call": ("tool",),
    "prompts/get": ("prompt",),
    "resources/read": ("resource", "template"),
    "resources/subscribe": ("resource", "template"),
    "resources/unsubscribe": ("resource", "template"),
    "completion/complete": ("prompt", "template", "resource"),
}


@dataclass(slots=True)
class Use:
    """Calls of one definition by one caller. `rules`: calls by allow policy, as the present policy's own records name
    them; `elsewhere`: calls decided by another policy. Times are seconds since the epoch."""

    count: int = 0
    first: float = 0.0
    last: float = 0.0
    rules: dict[str, int] = field(default_factory=dict)
    elsewhere: int = 0


class Usage:
    """Feed it records with `absorb`, in order; read it when all were absorbed and the log proved sound.

    `definitions`: what is known by name now. `policy`: digest of the policy in force. `most`: pairs of caller and
    definition that are kept apart; beyond, `overflow` is true and no conclusion may be drawn from what is missing.
    """

    def __init__(
        self, definitions: Iterable[Approved], policy: str, since: float, until: float, *, most: int = 100_000
    ) -> None:
        self._digests = {(one.server, one.kind, one.name): one.digest for one in definitions}
        self._policy, self._most = policy, most
        self.since, self.until = since, until
        self.uses: dict[tuple[CallerKey, Place], Use] = {}
        self.refused: dict[tuple[CallerKey, Place], int] = {}
        self.refused_unknown = 0  # of names never announced, or without a caller
        self.callers: dict[CallerKey, Caller | None] = {}  # with the standing last recorded; None: it is not known
        self.records = self.unreadable = 0
        self.begins: float | None = None  # the first record of all, whenever it was
        self.policy_since: float | None = None  # the first record under the policy in force
        self.overflow = False

    def absorb(self, raw: bytes) -> None:
        """Take one record in."""
        try:
            record = orjson.loads(raw)
            kind, stamp = record["t"], record.get("ts", 0.0)
            if not isinstance(stamp, int | float):
                raise TypeError("ts is no number")
            if kind == "intent":
                self._intent(record, float(stamp))
            elif kind == "refusal" and "sub" in record:
                self._refusal(record, float(stamp))
            elif kind == "refusal" and self.since <= stamp <= self.until:
                self.refused_unknown += 1
        except (ValueError, TypeError, KeyError, AttributeError):
            self.unreadable += 1
            return
        if stamp:
            self.begins = stamp if self.begins is None else min(self.begins, stamp)
            self.records += self.since <= stamp <= self.until
            if self.policy_since is None and record.get("policy") == self._policy:
                self.policy_since = float(stamp)

    def _intent(self, record: dict[str, Any], stamp: float) -> None:
        caller = _key(record)
        if "standing" in record:
            self._standing(caller, record["standing"])
        place = self._place(record["method"], record["upstream"], record["tool"], record["digest"])
        policy, rules = record["policy"], [str(rule) for rule in record["rules"]]
        if place is None:
            raise ValueError("a method this version does not know: something was used, and we cannot say what")
        if not self.since <= stamp <= self.until:
            return
        use = self._use(caller, place)
        if use is None:
            return
        use.count += 1
        use.first = min(use.first or stamp, stamp)
        use.last = max(use.last, stamp)
        if policy == self._policy:
            for rule in rules:
                use.rules[rule] = use.rules.get(rule, 0) + 1
        else:
            use.elsewhere += 1

    def _standing(self, caller: CallerKey, standing: Any) -> None:
        if caller in self.callers or len(self.callers) < self._most:
            self.callers[caller] = recorded(*caller, standing) if isinstance(standing, dict) else None
        else:
            self.overflow = True

    def _refusal(self, record: dict[str, Any], stamp: float) -> None:
        caller = _key(record)
        if not self.since <= stamp <= self.until:
            return
        place = self._place(record["method"], record["server"], record["name"], str(record.get("digest", "")))
        if place is None or place not in self._digests:
            self.refused_unknown += 1  # names a caller made up would fill the memory
        elif (caller, place) in self.refused or len(self.refused) < self._most:
            self.refused[caller, place] = self.refused.get((caller, place), 0) + 1
        else:
            self.refused_unknown += 1

    def _place(self, method: str, server: str, name: str, digest: str) -> Place | None:
        """The definition a record names. One that is not known any more is taken for the first kind it can be."""
        kinds = _KINDS.get(method)
        if kinds is None:
            return None
        places: list[Place] = [(str(server), kind, str(name)) for kind in kinds]
        known = [place for place in places if place in self._digests]
        same = [place for place in known if self._digests[place] == digest]
        return (same or known or places)[0]

    def _use(self, caller: CallerKey, place: Place) -> Use | None:
        use = self.uses.get((caller, place))
        if use is None and len(self.uses) < self._most:
            use = self.uses[caller, place] = Use()
        self.overflow = self.overflow or use is None
        return use

    @property
    def complete(self) -> bool:
        """May a rule that was not seen in use be called unused?"""
        return not self.overflow and not self.unreadable


def _key(record: Mapping[str, Any]) -> CallerKey:
    key = (record["iss"], record["sub"], record["client"])
    if not all(isinstance(part, str) for part in key):
        raise TypeError("a caller's names are text")
    return key
