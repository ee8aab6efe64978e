"""The narrower policy as a diff of the configuration's text, or why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.cli.survey import Rules
from limen.config.document import Path, parse, read_file
from limen.config.edit import difference, edited
from limen.core.faults import ConfigFault
from limen.policy.narrow import Change, Proposal, propose, prove
from limen.policy.review import concerned, place_of, used_rules
from limen.policy.usage import Usage

if TYPE_CHECKING:
    from limen.config.load import Loaded


def proposal(loaded: Loaded, rules: Rules, usage: Usage, *, by_caller: bool) -> dict[str, Any]:
    """What would be enough for what was done. `why_not` says why nothing, or no diff, is offered."""
    empty: dict[str, Any] = {"changes": [], "left": [], "diff": "", "proved": 0, "why_not": ""}
    if not usage.complete:
        return {**empty, "why_not": "not every use could be counted, and what is missing here might be needed"}
    if not usage.uses:
        return {**empty, "why_not": "no call was made in the period, so nothing is known of what is needed"}
    settings = loaded.config.policy
    used = used_rules(usage, concerned(rules.policy, rules.items))
    made = propose(settings, rules.policy, used, rules.names, rules.compiles, by_caller=by_caller)
    found = {**empty, "left": [{"where": one.where, "why": one.why} for one in made.left]}
    if not made.changes:
        return {**found, "why_not": "" if made.left else "every rule was used as wide as it is"}
    proposed = rules.compiles(made.settings)
    callers = [caller for caller in usage.callers.values() if caller is not None]
    items = {place_of(item): item for item in rules.items}
    uses = [
        (caller, items[place])
        for key, place in usage.uses
        if place in items and (caller := usage.callers.get(key)) is not None
    ]
    found["proved"] = prove(rules.policy, made, proposed, rules.items, callers, uses)
    found["changes"] = [_shown(change) for change in made.changes]
    try:
        found["diff"] = _diff(loaded, made)
    except ConfigFault as fault:
        found["why_not"] = f"no diff: {fault}"
    return found


def _shown(change: Change) -> dict[str, Any]:
    return {
        "rule": change.rule,
        "act": "remove" if change.removes else "narrow",
        "why": change.why,
        "call": {str(index): list(texts) for index, texts in change.call.items()},
        "who": {str(index): list(texts) for index, texts in change.who.items()},
    }


def _diff(loaded: Loaded, made: Proposal) -> str:
    """Edits of the file the configuration was loaded from. Raises ConfigFault when its layout allows none."""
    data = read_file(loaded.path, "the configuration")
    name = loaded.path.name
    document = parse(data, name)
    written = document.value.get("policy", {}).get("rules")
    if not isinstance(written, list) or len(written) != len(loaded.config.policy.rules):
        raise ConfigFault("the file was changed while it was looked at", name)
    edits: dict[Path, tuple[str, ...]] = {}
    for change in made.changes:
        place: Path = ("policy", "rules", change.rule - 1)
        if change.removes:
            edits[place] = ()
            continue
        for member, replaced in (("call", change.call), ("allow", change.who)):
            listed = isinstance(written[change.rule - 1].get(member), list)
            edits.update({(*place, member, index) if listed else (*place, member): t for index, t in replaced.items()})
    return difference(data.decode("utf-8-sig"), edited(data, name, edits).removeprefix("\ufeff"), name)
