"""Who can reach what, through which rule, and what of that was used: the report of an access review.

The policy is never read a second time here. What reaches what is asked of the compiled policy; what a rule says is
shown in the words its author wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from limen.core.call import Approved, Caller
from limen.policy import cedar
from limen.policy.decision import PolicySet
from limen.policy.rules import Policy, PolicySettings
from limen.policy.usage import CallerKey, Place, Usage, Use

Pair = tuple[CallerKey, Place]


@dataclass(frozen=True, slots=True)
class Way:
    """One policy that concerns a definition. `who`, `call`: any of these, as the rule says it; empty for policies in
    Cedar, whose `text` says it. `arguments`, `flow`: whether it depends on the arguments of a call, or on what its
    caller has read. `whole`: a deny rule that
    nobody and no argument escapes."""

    id: str
    where: str
    effect: str
    who: tuple[str, ...]
    call: tuple[str, ...]
    scopes: tuple[str, ...]
    when: str
    unless: str
    requires: tuple[str, ...]
    arguments: bool
    flow: bool
    whole: bool
    text: str


def way_of(policy: Policy, settings: PolicySettings, approved: Approved) -> Way:
    """A compiled policy in the words of the configuration."""
    kind, _, number = policy.id.rpartition("-")
    rule = settings.rules[int(number) - 1] if kind == "rule" else None
    who = rule.who if rule else ()
    when, unless = (rule.when or "", rule.unless or "") if rule else ("", "")
    whole = not policy.permits and "anyone" in who and not when and not unless and policy.covers(approved)
    return Way(
        policy.id,
        policy.where,
        "allow" if policy.permits else "deny",
        who,
        rule.targets if rule else (),
        rule.scopes if rule else (),
        when,
        unless,
        tuple(sorted(policy.requires)),
        cedar.reads_context(policy.tree, "arguments"),
        cedar.reads_context(policy.tree, "flow"),
        whole,
        policy.text,
    )


def ways(policy: PolicySet, settings: PolicySettings, approved: Approved) -> tuple[Way, ...]:
    """Every policy that concerns this definition, in the order of the rules."""
    part = policy.slice(approved)
    return tuple(way_of(one, settings, approved) for one in part.policies) if part else ()


def reachable(
    policy: PolicySet, caller: Caller, items: Sequence[Approved]
) -> Iterator[tuple[Approved, tuple[str, ...]]]:
    """What this caller could call with some arguments, whatever it has read, and by which allow policies.

    As lists show it to the caller.
    """
    policy.foresee(caller, items)
    for item in items:
        if policy.visible(caller, item):
            yield item, policy.ways(caller, item)


def concerned(policy: PolicySet, items: Iterable[Approved]) -> dict[Place, tuple[str, ...]]:
    """Ids of the allow policies that speak of each definition."""
    found: dict[Place, tuple[str, ...]] = {}
    for item in items:
        part = policy.slice(item)
        found[place_of(item)] = tuple(one.id for one in part.policies if one.permits) if part else ()
    return found


def place_of(approved: Approved) -> Place:
    """Server, kind and name."""
    return (approved.server, approved.kind, approved.name)


def label(place: Place) -> str:
    """`server/name` for tools, with the kind in front for everything else."""
    server, kind, name = place
    return f"{server}/{name}" if kind == "tool" else f"{kind}:{server}/{name}"


def holders(policy: PolicySet, usage: Usage, approved: Approved) -> list[dict[str, Any]]:
    """Callers known from the log and what they are to this definition: can they reach it, by what, did they use it."""
    rows = []
    place = place_of(approved)
    used = {caller for caller, at in usage.uses if at == place}
    for key in sorted({*used, *usage.callers}):
        known = usage.callers.get(key)
        caller = known or Caller(*key)
        by = policy.ways(caller, approved)
        use = usage.uses.get((key, place))
        if not by and use is None:
            continue
        rows.append(
            {
                **_named(key),
                "reaches": bool(by),
                "rules": list(by),
                "standing": "as last recorded" if known else "not recorded: judged by name alone",
                "used": use.count if use else 0,
                "last": use.last if use else None,
                "refused": usage.refused.get((key, place), 0),
            }
        )
    return rows


def _named(key: CallerKey) -> dict[str, str]:
    return dict(zip(("issuer", "subject", "client"), key, strict=True))


def used_rules(usage: Usage, speaking: Mapping[Place, tuple[str, ...]]) -> dict[str, set[Pair]]:
    """By allow policy: who used what through it, as the log says, or perhaps did where another policy decided."""
    found: dict[str, set[Pair]] = {}
    for pair, use in usage.uses.items():
        for rule in {*use.rules, *(speaking.get(pair[1], ()) if use.elsewhere else ())}:
            found.setdefault(rule, set()).add(pair)
    return found


def build(policy: PolicySet, settings: PolicySettings, items: Sequence[Approved], usage: Usage) -> dict[str, Any]:
    """The report: definitions with their rules, rules with their use, callers, and what nobody used."""
    through = used_rules(usage, concerned(policy, items))
    by_place: dict[Place, list[tuple[CallerKey, int]]] = {}
    for (caller, place), use in usage.uses.items():
        by_place.setdefault(place, []).append((caller, use.count))
    known = {place_of(item) for item in items}
    definitions = [_definition(policy, settings, item, by_place.get(place_of(item), [])) for item in items]
    return {
        "definitions": definitions,
        "rules": [_rule(way, through.get(way.id, set()), usage) for way in _all_ways(policy, settings, items)],
        "callers": _callers(usage),
        "never_used": [one["definition"] for one in definitions if one["reachable"] and not one["used"]],
        "used_but_gone": sorted(label(place) for place in by_place if place not in known),
        "refused_unknown": usage.refused_unknown,
    }


def _definition(
    policy: PolicySet, settings: PolicySettings, item: Approved, used: list[tuple[CallerKey, int]]
) -> dict[str, Any]:
    found = ways(policy, settings, item)
    allowing = [way for way in found if way.effect == "allow"]
    denying = [way for way in found if way.effect == "deny"]
    return {
        "definition": label(place_of(item)),
        "server": item.server,
        "kind": item.kind,
        "name": item.name,
        "effect": item.effect,
        "reachable": bool(allowing) and not any(way.whole for way in denying),
        "allowed_by": [way.id for way in allowing],
        "denied_by": [way.id for way in denying],
        "who": list(dict.fromkeys(one for way in allowing for one in way.who or (f"Cedar: {way.id}",))),
        "used": sum(count for _, count in used),
        "callers": len(used),
    }


def _all_ways(policy: PolicySet, settings: PolicySettings, items: Sequence[Approved]) -> list[Way]:
    nothing = Approved("", "", "", "", b"{}")
    return [
        next((way_of(one, settings, item) for item in items if one.concerns(item)), way_of(one, settings, nothing))
        for one in policy.policies
    ]


def _rule(way: Way, used: set[Pair], usage: Usage) -> dict[str, Any]:
    """What went through an allow rule. What a deny rule stopped is not in the log by rule: null."""
    row = {name: value for name, value in asdict(way).items() if name not in ("text", "whole")}
    if way.effect == "deny":
        return {**row, "calls": None, "perhaps": None, "callers": None, "definitions": None, "last": None}
    return {
        **row,
        "calls": sum(usage.uses[pair].rules.get(way.id, 0) for pair in used),
        "perhaps": sum(usage.uses[pair].elsewhere for pair in used),
        "callers": len({caller for caller, _ in used}),
        "definitions": len({place for _, place in used}),
        "last": max((usage.uses[pair].last for pair in used), default=None),
    }


def _callers(usage: Usage) -> list[dict[str, Any]]:
    """Who used something in the period, how much, and with which standing."""
    uses: dict[CallerKey, dict[Place, Use]] = {}
    for (caller, place), use in usage.uses.items():
        uses.setdefault(caller, {})[place] = use
    refused: dict[CallerKey, int] = {}
    for (caller, _), count in usage.refused.items():
        refused[caller] = refused.get(caller, 0) + count
    return [
        {
            **_named(key),
            "standing": _standing(usage.callers.get(key)),
            "calls": sum(use.count for use in uses.get(key, {}).values()),
            "refused": refused.get(key, 0),
            "used": sorted(label(place) for place in uses.get(key, {})),
            "last": max((use.last for use in uses.get(key, {}).values()), default=None),
        }
        for key in sorted({*uses, *refused})
    ]


def _standing(known: Caller | None) -> dict[str, list[str]] | None:
    return {name: sorted(getattr(known, name)) for name in ("scopes", "roles", "groups")} if known else None
