"""A narrower policy from what was used. Every change only takes away, and what cannot be taken away safely stays.

Three changes are known: an allow rule nothing went through is removed; a target that was not used is removed, and one
with a wildcard is replaced by the names that were used; "anyone" is replaced by those who came (only when asked for).
Deny rules, conditions, scopes and policies written in Cedar are never touched.

One trap: where several allow rules match, everything any of them requires is required. An allow rule that asks for
approval or a second factor is therefore also a restriction of other rules, and taking it away could loosen. It stays
unless no other allow policy can meet it, or all that can ask for at least as much.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from limen.core.call import Approved, Caller
from limen.core.faults import ConfigFault, InvariantFault
from limen.policy.decision import PolicySet
from limen.policy.review import Pair, concerned
from limen.policy.rules import Policy, PolicySettings, RuleSettings
from limen.policy.targets import KINDS, Target, parse_target
from limen.policy.usage import Place

MOST_NAMES: Final = 50  # more than this many names are no clearer than their wildcard
MOST_CALLERS: Final = 20
_PROVED: Final = 100_000  # questions put to both policies
_PREFIX: Final = re.compile(rf"({'|'.join(KINDS)}):")
_PLAIN_NAME: Final = re.compile(r"[!-)+-~]{1,512}\Z")  # ASCII without spaces, and without `*`
_PLAIN_SUBJECT: Final = re.compile(r"[!-~]{1,512}\Z")
_NOBODY: Final = ("anonymous",)


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one allow rule. `call`, `who`: replacements of entries by their position, () removes an entry;
    with neither, the rule is removed."""

    rule: int  # counted from 1, as in the present policy
    why: str
    call: Mapping[int, tuple[str, ...]]
    who: Mapping[int, tuple[str, ...]]

    @property
    def removes(self) -> bool:
        """The whole rule?"""
        return not self.call and not self.who


@dataclass(frozen=True, slots=True)
class Left:
    """A rule, or part of one, that is wider than its use and was not narrowed."""

    where: str
    why: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """The narrower settings, how they come from the present ones, and what was left."""

    settings: PolicySettings
    changes: tuple[Change, ...]
    left: tuple[Left, ...]


class _Narrowing:
    """One run over the rules. `used`: who used what, by policy id; `names`: definitions that may be named in a rule."""

    def __init__(
        self,
        settings: PolicySettings,
        policies: Sequence[Policy],
        used: Mapping[str, set[Pair]],
        names: Collection[Place],
    ) -> None:
        self._settings, self._policies, self._used, self._names = settings, policies, used, names
        self.left: list[Left] = []

    def changes(self, by_caller: bool) -> Iterable[Change]:
        """Each rule's change, if it has one."""
        for policy in self._policies:
            kind, _, number = policy.id.rpartition("-")
            if not policy.permits:
                continue
            if kind != "rule":
                if policy.id not in self._used:
                    self._leave(policy, "not used in the period; it is written in Cedar and edited by hand")
                continue
            change = self._change(int(number), policy, by_caller)
            if change is None:
                continue
            if other := self._loosening(policy):
                asked = ", ".join(sorted(policy.requires))
                self._leave(policy, f"could be narrower, but it makes {other} require {asked} where both match")
                continue
            yield change

    def _leave(self, policy: Policy, why: str) -> None:
        self.left.append(Left(policy.where, why))

    def _loosening(self, policy: Policy) -> str:
        """An allow policy that could be left without what this one requires; "" if there is none."""
        for other in self._policies:
            if other.id == policy.id or not other.permits or policy.requires <= other.requires:
                continue
            if not other.targets or any(one.meets(two) for one in policy.targets for two in other.targets):
                return other.where
        return ""

    def _change(self, number: int, policy: Policy, by_caller: bool) -> Change | None:
        rule, used = self._settings.rules[number - 1], self._used.get(policy.id, set())
        if not used:
            return Change(number, "nothing went through it in the period", {}, {})
        call = self._call(policy, rule, {place for _, place in used})
        if call is None:
            return Change(number, "what went through it is not there any more", {}, {})
        who = self._who(policy, rule, sorted({caller for caller, _ in used})) if by_caller else {}
        if not call and not who:
            return None
        parts = ["only part of what it names was used"] if call else []
        parts += ["few of those it allows came"] if who else []
        return Change(number, "; ".join(parts), call, who)

    def _call(self, policy: Policy, rule: RuleSettings, used: set[Place]) -> dict[int, tuple[str, ...]] | None:
        """Replacements of targets; None when nothing would be left."""
        call: dict[int, tuple[str, ...]] = {}
        given = set(rule.targets)
        for index, text in enumerate(rule.targets):
            kinds = tuple(kind for kind in KINDS if kind in rule.operations)
            targets = parse_target(text, kinds)
            mine = {place for place in used if any(_matches(target, place) for target in targets)}
            if not mine:
                call[index] = ()
            elif any(target.wildcard for target in targets):
                names = self._listed(policy, text, targets, mine, bare=len(kinds) == 1 and not _PREFIX.match(text))
                if names is not None:
                    call[index] = tuple(name for name in names if name not in given)
                    given |= set(names)
        kept = [index for index in range(len(rule.targets)) if call.get(index) != ()]
        return call if kept else None

    def _listed(
        self, policy: Policy, text: str, targets: Sequence[Target], mine: set[Place], *, bare: bool
    ) -> list[str] | None:
        """The names that were used in place of a wildcard; None to leave it as it is."""
        meant = {place for place in self._names if any(_matches(target, place) for target in targets)}
        there = mine & meant
        if there == meant and there:
            return None
        if any(kind == "template" for _, kind, _ in mine):
            self._leave(policy, f"{text!r}: resources were read through a template, under addresses nobody can list")
            return None
        if len(there) > MOST_NAMES:
            self._leave(policy, f"{text!r}: {len(there)} names were used, more than a rule should list")
            return None
        if any(not _writable(name) for _, _, name in there):
            self._leave(policy, f"{text!r}: a used name holds characters that cannot be written into a rule exactly")
            return None
        return sorted(f"{server}/{name}" if bare else f"{kind}:{server}/{name}" for server, kind, name in there)

    def _who(
        self, policy: Policy, rule: RuleSettings, callers: Sequence[tuple[str, str, str]]
    ) -> dict[int, tuple[str, ...]]:
        if "anyone" not in rule.who:
            return {}
        subjects = sorted({subject for _, subject, _ in callers})
        if len(subjects) > MOST_CALLERS:
            self._leave(policy, f"anyone: {len(subjects)} callers came, more than a rule should list")
        elif any(not _PLAIN_SUBJECT.match(one) or "${" in one or one in _NOBODY for one in subjects):
            self._leave(policy, "anyone: a caller has no name that can be written into a rule")
        else:
            users = tuple(f"user:{subject}" for subject in subjects)
            return {index: () if index != rule.who.index("anyone") else users for index in _places(rule, "anyone")}
        return {}


def _places(rule: RuleSettings, entry: str) -> list[int]:
    return [index for index, one in enumerate(rule.who) if one == entry]


def _matches(target: Target, place: Place) -> bool:
    server, kind, name = place
    return target.matches(Approved(server, kind, name, "", b"{}"))


def _writable(name: str) -> bool:
    """A name that stands for itself alone in a target and in a configuration file."""
    return _PLAIN_NAME.match(name) is not None and "${" not in name


def propose(
    settings: PolicySettings,
    present: PolicySet,
    used: Mapping[str, set[Pair]],
    names: Collection[Place],
    compiles: Callable[[PolicySettings], PolicySet],
    *,
    by_caller: bool = False,
) -> Proposal:
    """What could be narrower. `names`: definitions a rule may name; `compiles` raises ConfigFault for what does not.

    A change that gives a policy which does not compile (a condition on an argument that only unused tools have) is left
    out.
    """
    run = _Narrowing(settings, present.policies, used, names)
    changes = list(run.changes(by_caller))
    try:
        compiles(narrowed(settings, changes))
    except ConfigFault:
        changes = _compiling(settings, changes, compiles, run.left)
    return Proposal(narrowed(settings, changes), tuple(changes), tuple(run.left))


def _compiling(
    settings: PolicySettings,
    changes: Sequence[Change],
    compiles: Callable[[PolicySettings], PolicySet],
    left: list[Left],
) -> list[Change]:
    """Those of the changes that can be made one after another."""
    good: list[Change] = []
    for change in changes:
        try:
            compiles(narrowed(settings, [*good, change]))
        except ConfigFault as fault:
            left.append(
                Left(f"policy rule {change.rule}", f"narrowing it gives a policy that is refused: {fault.message}")
            )
        else:
            good.append(change)
    return good


def narrowed(settings: PolicySettings, changes: Iterable[Change]) -> PolicySettings:
    """The settings with these changes made."""
    by_rule = {change.rule: change for change in changes}
    rules: list[RuleSettings] = []
    for number, rule in enumerate(settings.rules, 1):
        change = by_rule.get(number)
        if change is None:
            rules.append(rule)
        elif not change.removes:
            call, who = _replaced(rule.targets, change.call), _replaced(rule.who, change.who)
            rules.append(rule.model_copy(update={"call": call, "allow": who}))
    return settings.model_copy(update={"rules": tuple(rules)})


def _replaced(entries: Sequence[str], changes: Mapping[int, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(text for index, entry in enumerate(entries) for text in changes.get(index, (entry,)))


def prove(
    present: PolicySet,
    proposal: Proposal,
    proposed: PolicySet,
    items: Sequence[Approved],
    callers: Sequence[Caller],
    uses: Iterable[tuple[Caller, Approved]],
) -> int:
    """Ask both policies, and refuse to show a proposal that allows anything new or loses a call that was made.

    The rules were built to be narrower; this is for the day they were built wrong. Returns how many questions were
    asked. Raises InvariantFault.
    """
    _denies_stay(present, proposed)
    removed = {f"rule-{change.rule}" for change in proposal.changes if change.removes}
    kept = [one.id for one in present.policies if one.id not in removed]
    origin = dict(zip((one.id for one in proposed.policies), kept, strict=True))
    before, after = concerned(present, items), concerned(proposed, items)
    asks = {one.id: one.requires for one in present.policies}
    for place, rules in after.items():
        left = {origin[rule] for rule in rules}
        if not left <= set(before[place]):
            raise InvariantFault(f"the proposal would widen a rule about {'/'.join(place)}; it is not shown")
        if any(not asks[gone] <= asks[rule] for gone in set(before[place]) - left for rule in left):
            raise InvariantFault(f"the proposal would ask for less of {'/'.join(place)}; it is not shown")
    asked = 0
    for caller in callers:
        if asked + len(items) > _PROVED:
            break
        asked += len(items)
        for policy in (present, proposed):
            policy.foresee(caller, items)
        if wider := next((i for i in items if proposed.visible(caller, i) and not present.visible(caller, i)), None):
            raise InvariantFault(f"the proposal would open {wider.server}/{wider.name} to somebody; it is not shown")
    for caller, item in uses:
        asked += 1
        if present.visible(caller, item) and not proposed.visible(caller, item):
            raise InvariantFault(f"the proposal would close {item.server}/{item.name}, which was used; it is not shown")
    return asked


def _denies_stay(present: PolicySet, proposed: PolicySet) -> None:
    before, after = ([_body(one) for one in each.policies if not one.permits] for each in (present, proposed))
    if before != after:
        raise InvariantFault("the proposal would change a deny rule; it is not shown")


def _body(policy: Policy) -> str:
    """Its text without its name, which follows its place in the list."""
    return policy.text.partition("\n")[2] if policy.id.startswith("rule-") else policy.text
