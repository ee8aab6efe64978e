"""How much a new or changed definition should worry the person who decides about it, and why.

An assessment is made of findings. Rules about one definition (`traits`, `neighbours`) apply to first contact as a
whole and to a change as far as the approved version does not have them; rules about a change compare member by member.
Every difference gives at least one finding: what no rule names is reported as it is. Weights stand in the tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import jiter

from limen.catalog.differences import edits, match, step
from limen.catalog.findings import LEVELS, THRESHOLDS, Assessment, Detector, Finding, conclude, quote
from limen.catalog.neighbours import Neighbours
from limen.catalog.schema_changes import schema_findings
from limen.catalog.traits import traits
from limen.catalog.wording import Traits
from limen.protocol.jsonrpc import canonical

__all__ = ["LEVELS", "THRESHOLDS", "Assessment", "Detector", "Finding", "Neighbours", "assess"]

# The member at the top of a definition: what a change of it is called, its weight, and in words.
_MEMBERS: Final[Mapping[str, tuple[str, float, str]]] = {
    "title": ("text.changed", 0.02, "the title differs"),
    "description": ("text.changed", 0.02, "the description differs"),
    "instructions": ("instructions.changed", 0.2, "the instructions of the server differ"),
    "annotations": ("annotation.stated", 0.02, "an annotation differs that clients do not act on"),
    "icons": ("icon.changed", 0.02, "a picture differs"),
    "size": ("resource.size", 0.02, "the size differs"),
    "mimeType": ("content.type", 0.2, "the kind of content differs"),
    "_meta": ("meta.changed", 0.2, "data for clients differs"),
    "execution": ("execution.changed", 0.2, "how it is executed differs"),
    "serverInfo": ("server.info", 0.02, "what the server says about itself differs"),
    "capabilities": ("server.capability", 0.25, "what the server can do differs"),
    "identity": ("server.identity", 0.7, "it is another program, address or certificate"),
}
_OTHER: Final = ("definition.changed", 0.2, "a member differs")
_RESOURCE_NAME: Final = ("text.changed", 0.02, "the display name differs")
# What the specification assumes where a hint is absent, and the weight of a change to true and to false.
_HINTS: Final[Mapping[str, tuple[bool, float, float]]] = {
    "readOnlyHint": (False, 0.4, 0.45),  # true: clients ask less from now on; false: it admits to write
    "destructiveHint": (True, 0.5, 0.4),
    "idempotentHint": (False, 0.2, 0.2),
    "openWorldHint": (True, 0.4, 0.2),
}


def assess(
    server: str,
    kind: str,
    name: str,
    before: bytes | None,
    after: bytes,
    neighbours: Neighbours,
    detectors: Sequence[Detector] = (),
) -> Assessment:
    """What this version adds to the approved one, or with `before` None to nothing (first contact).

    `before` and `after` are canonical JSON. Equal versions give level "none". A detector that fails is a critical
    finding. Raises ValueError for what is not JSON.
    """
    if before == after:
        return conclude(())
    new = jiter.from_json(after)
    fresh = _all_traits(server, kind, name, new, neighbours, detectors)
    if before is None:
        first = Finding("contact.first", 0.15, "", "no approved version to compare with")
        return conclude([first, *fresh.values()])
    old = jiter.from_json(before)
    known = _all_traits(server, kind, name, old, neighbours, detectors)
    found = [finding for key, finding in fresh.items() if key not in known or finding.id == "detector.failed"]
    compared = [*_compared(kind, old, new)]
    return conclude([*found, *compared, *_remaining(kind, before, after, compared)])


def _all_traits(
    server: str,
    kind: str,
    name: str,
    definition: Any,
    neighbours: Neighbours,
    detectors: Sequence[Detector],
) -> Traits:
    found: Traits = {
        **traits(kind, name, definition),
        **neighbours.names(server, kind, name),
        **({} if kind == "set" else neighbours.mentions(server, kind, name, definition)),
    }
    for detector in detectors:
        for finding in _detected(detector, kind, definition):
            found[finding.id, f"{finding.path}\0{finding.weight}\0{finding.detail}"] = finding
    return found


def _detected(detector: Detector, kind: str, definition: Any) -> Iterable[Finding]:
    try:
        return list(detector(kind, definition))
    except Exception as error:  # noqa: BLE001 - a check that crashes has found the worst
        return [Finding("detector.failed", 1.0, "", f"a check failed: {type(error).__name__}")]


def _compared(kind: str, old: Any, new: Any) -> Iterator[Finding]:
    """Rules about pairs of versions."""
    if type(old) is list and type(new) is list:
        yield from _set(old, new, "")
    if type(old) is not dict or type(new) is not dict:
        return
    if kind == "set":
        for member in sorted(old.keys() & new.keys()):
            if type(old[member]) is type(new[member]) is list:
                yield from _set(old[member], new[member], step("", member))
        return
    if type(old.get("inputSchema")) is dict and type(new.get("inputSchema")) is dict:
        yield from schema_findings(old["inputSchema"], new["inputSchema"], "/inputSchema")
    yield from _output(old.get("outputSchema"), new.get("outputSchema"))
    yield from _hints(old.get("annotations"), new.get("annotations"))
    if type(new.get("arguments", [])) is list and type(old.get("arguments", [])) is list:
        yield from _arguments(old.get("arguments", []), new.get("arguments", []))
    names = [info.get("name") for one in (old, new) if type(info := one.get("serverInfo")) is dict]
    if len(names) == 2 and names[0] != names[1]:
        yield Finding("server.name", 0.5, "/serverInfo/name", "the server goes by another name")


def _output(old: Any, new: Any) -> Iterator[Finding]:
    if type(old) is dict and type(new) is dict:
        yield from schema_findings(old, new, "/outputSchema", output=True)
    elif old is not None and new is None:
        yield Finding("output.unchecked", 0.35, "/outputSchema", "answers are no longer described, so not checked")
    elif new is not None:
        yield Finding("output.altered", 0.2, "/outputSchema", "answers have another description now")


def _hints(old: Any, new: Any) -> Iterator[Finding]:
    before, after = (hints if type(hints) is dict else {} for hints in (old, new))
    for hint, (assumed, to_true, to_false) in _HINTS.items():
        was, now = before.get(hint, assumed) is True, after.get(hint, assumed) is True
        if was != now:
            detail = f"{hint} was {_word(was)} and is {_word(now)}"
            yield Finding("annotation.flipped", to_true if now else to_false, f"/annotations/{hint}", detail)


def _arguments(old: list[Any], new: list[Any]) -> Iterator[Finding]:
    """Arguments of a prompt, by name."""
    before, after = _by_name(old), _by_name(new)
    for name, (at, argument) in after.items():
        was_required = name in before and before[name][1].get("required") is True
        if argument.get("required") is True and not was_required:
            what = "now required:" if name in before else "a new required argument"
            yield Finding("schema.required_added", 0.45, f"/arguments/{at}", f"{what} {quote(name)}")
        elif name not in before:
            detail = f"a new optional argument {quote(name)}"
            yield Finding("schema.property_added", 0.25, f"/arguments/{at}", detail)
        elif was_required and argument.get("required") is not True:
            detail = f"no longer required: {quote(name)}"
            yield Finding("schema.required_removed", 0.2, f"/arguments/{at}", detail)
        elif argument.get("description") != before[name][1].get("description"):
            yield Finding("text.changed", 0.02, f"/arguments/{at}/description", "the description differs")
    for name, (at, _) in before.items():
        if name not in after:
            yield Finding("schema.property_removed", 0.15, f"/arguments/{at}", f"the argument {quote(name)} is gone")


def _by_name(arguments: list[Any]) -> dict[str, tuple[int, dict[str, Any]]]:
    return {
        argument["name"]: (at, argument)
        for at, argument in enumerate(arguments)
        if type(argument) is dict and type(argument.get("name")) is str
    }


def _set(old: list[Any], new: list[Any], path: str) -> Iterator[Finding]:
    """The list of what a server announces."""
    gone, added, _ = match(old, new)
    counted = Counter(canonical(item) for item in new)
    for at in added:
        twice = counted[canonical(new[at])] > 1
        what, weight, detail = ("duplicate", 0.4, "is there twice") if twice else ("added", 0.15, "is new")
        yield Finding(f"set.{what}", weight, step(path, at), f"{_spoken(new[at])} {detail}")
    for at in gone:
        yield Finding("set.removed", 0.1, step(path, at), f"{_spoken(old[at])} is gone")


def _remaining(kind: str, before: bytes, after: bytes, found: Sequence[Finding]) -> Iterator[Finding]:
    """One finding for each difference no rule named, so that nothing changes without being listed."""
    named = {finding.path for finding in found if finding.path}
    required = ("schema.required_added", "output.required_added")
    named |= {_list_of(finding.path) for finding in found if finding.id in required}
    above = {path[:at] for path in named for at, one in enumerate(path) if one == "/" and at}
    for edit in edits(before, after):
        if edit.path in above or any(part in named for part in _ways(edit.path)):
            continue
        member = edit.path.split("/", 2)[1] if "/" in edit.path else ""
        row = _MEMBERS.get(member, _OTHER)
        if member == "name" and kind in ("resource", "template"):
            row = _RESOURCE_NAME
        found_id, weight, words = row
        yield Finding(found_id, weight, edit.path, words)


def _list_of(path: str) -> str:
    """The list that makes the property at this pointer a required one."""
    return f"{path.rpartition('/properties/')[0]}/required"


def _ways(path: str) -> Iterator[str]:
    """The pointer and every pointer above it."""
    yield path
    for at in range(len(path) - 1, 0, -1):
        if path[at] == "/":
            yield path[:at]


def _spoken(item: Any) -> str:
    parts = item if type(item) is list else list(item.values()) if type(item) is dict else [item]
    return " ".join(quote(str(part)) for part in parts[:4])


def _word(value: bool) -> str:
    return "true" if value else "false"
