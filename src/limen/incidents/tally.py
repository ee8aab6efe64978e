"""What one rule has counted so far, per group, bounded, and as it survives a restart."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from limen.core.events import Event
from limen.incidents.rules import Rule, member, of_kind, test_of

GROUPS: Final = 512  # groups a rule remembers; the one that was quiet longest is forgotten
KNOWN: Final = 5000  # values a rule has seen


@dataclass(frozen=True, slots=True)
class Fired:
    """A rule found what it looks for. `events`: ids, the newest last; `about`: what it is grouped by."""

    rule: Rule
    title: str
    about: tuple[tuple[str, str], ...]
    at: float
    events: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The same for the same rule and group, on every replica."""
        return sha256(orjson.dumps([self.rule.id, self.about])).hexdigest()[:24]


class Tally:
    """One rule at work. Windows are of the events' own times."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._kind, self._test = of_kind(rule.match), test_of(rule.match)
        self._then_kind = of_kind(rule.then.match) if rule.then is not None else None
        self._then = test_of(rule.then.match) if rule.then is not None else None
        self._groups: OrderedDict[str, Any] = OrderedDict()
        self._since: float | None = None
        self._met = list[str]()  # values a rule about first times saw last
        self.dirty = False

    def fits(self, event: Event) -> bool:
        """Whether events of this `kind_of` can matter."""
        return self._kind(event) or (self._then_kind is not None and self._then_kind(event))

    def see(self, event: Event) -> Fired | None:
        """One event that fits."""
        rule = self.rule
        if rule.then is not None:
            return self._sequence(event)
        if not self._test(event):
            return None
        if rule.count is not None:
            return self._counted(event)
        if rule.distinct is not None:
            return self._different(event)
        if rule.first is not None:
            return self._new(event)
        if rule.absent is not None:
            self._since, self.dirty = event.at, True
            return None
        return self._fired(event, (event.id,))

    def missing(self, now: float) -> Fired | None:
        """For rules about what does not happen."""
        absent = self.rule.absent
        if absent is None:
            return None
        if self._since is None:
            self._since, self.dirty = now, True
        if now - self._since < absent.within:
            return None
        silent, self._since, self.dirty = self._since, now, True  # again after as long
        return Fired(self.rule, self.rule.titled(None), (), now, (f"silent since {silent:.0f}",))

    def _fired(self, event: Event, events: tuple[str, ...]) -> Fired:
        about = tuple((name, member(event, name)) for name in self.rule.group)
        return Fired(self.rule, self.rule.titled(event), about, event.at, events)

    def _group(self, event: Event, empty: Any) -> tuple[str, Any]:
        """Where it is counted, and what was. Names of strangers are no keys."""
        values = [member(event, name) for name in self.rule.group]
        key = sha256(orjson.dumps(values)).hexdigest()[:24]
        found = self._groups.pop(key, empty)
        self._groups[key] = found
        while len(self._groups) > GROUPS:
            self._groups.popitem(last=False)
        self.dirty = True
        return key, found

    def _counted(self, event: Event) -> Fired | None:
        count = self.rule.count
        assert count is not None
        key, found = self._group(event, [])
        found = [one for one in found if event.at - one[0] < count.within][-count.at_least :]
        found.append([event.at, event.id])
        if len(found) < count.at_least:
            self._groups[key] = found
            return None
        del self._groups[key]
        return self._fired(event, tuple(one[1] for one in found))

    def _different(self, event: Event) -> Fired | None:
        distinct = self.rule.distinct
        assert distinct is not None
        value = member(event, distinct.member)
        if not value:
            return None
        key, found = self._group(event, {})
        recent = {name: one for name, one in found.items() if event.at - one[0] < distinct.within}
        recent[sha256(value.encode("utf-8", "replace")).hexdigest()[:16]] = [event.at, event.id]
        if len(recent) < distinct.at_least:
            self._groups[key] = recent
            return None
        del self._groups[key]
        return self._fired(event, tuple(one[1] for one in recent.values()))

    def _sequence(self, event: Event) -> Fired | None:
        then, kind, test = self.rule.then, self._then_kind, self._then
        assert then is not None
        assert kind is not None
        assert test is not None
        if kind(event) and test(event):
            key, began = self._group(event, None)
            if began is not None and 0 <= event.at - began[0] < then.within:
                del self._groups[key]
                return self._fired(event, (began[1], event.id))
            if began is None:
                del self._groups[key]
        if self._kind(event) and self._test(event):
            key, _ = self._group(event, None)
            self._groups[key] = [event.at, event.id]
        return None

    def _new(self, event: Event) -> Fired | None:
        first = self.rule.first
        assert first is not None
        values = [member(event, name) for name in first.members]
        if not any(values):
            return None
        if self._since is None:
            self._since = event.at
        if values == self._met:
            return None  # as the one before, whose values are the newest already
        self._met = values
        key = sha256(orjson.dumps(values)).hexdigest()[:24]
        known = key in self._groups
        self._groups[key] = 1
        self._groups.move_to_end(key)
        while len(self._groups) > KNOWN:
            self._groups.popitem(last=False)
        if known:
            return None
        self.dirty = True
        return None if event.at - self._since < first.learn else self._fired(event, (event.id,))

    def encode(self, seen: int) -> bytes:
        """As stored. `seen`: number of the last event that is counted in."""
        plain = {"rule": self._print, "seen": seen, "since": self._since, "groups": list(self._groups.items())}
        return orjson.dumps(plain)

    def adopt(self, raw: bytes) -> int:
        """Go on from there. Returns the number of the last event that is counted in, -1 for none. What another rule of
        this name counted, or another version, is left."""
        try:
            row = orjson.loads(raw)
            if row["rule"] != self._print:
                return -1
            groups = OrderedDict((str(key), value) for key, value in row["groups"])
            since, seen = row["since"], int(row["seen"])
        except (ValueError, KeyError, TypeError):
            return -1
        self._groups, self._since = groups, since
        return seen

    @property
    def _print(self) -> str:
        return sha256(self.rule.model_dump_json(exclude={"title", "severity", "cooldown"}).encode()).hexdigest()[:16]
