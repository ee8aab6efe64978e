"""SARIF 2.1.0 (OASIS, errata 01): what `limen tools lock --check` found, as code scanning services read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from limen import __version__
from limen.catalog.text import printable

if TYPE_CHECKING:
    from limen.catalog.locked import Drift

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS: Final = {
    "": "warning",
    "none": "note",
    "descriptive": "note",
    "low": "note",
    "medium": "warning",
    "high": "error",
    "critical": "error",
}
EVENTS: Final = {
    "changed": "A server announces another definition than the lock has.",
    "new": "A server announces a definition the lock does not have.",
    "gone": "A definition of the lock is no longer announced.",
    "held": "A definition of the lock is now announced in a form that nobody can approve.",
    "decided": "The lock says something else about a definition than the records it was made from.",
}
_FLOOR: Final = {"held": "error", "gone": "warning", "new": "warning", "changed": "warning", "decided": "warning"}
_ORDER: Final = ("note", "warning", "error")


def report(drifts: Sequence[Drift], lock: Path, trouble: Mapping[str, str], status: int) -> dict[str, Any]:
    """A log of one run. Each drift is a result of rule `lock.EVENT`, each finding about it one more of its own rule.

    `trouble` names servers that could not be read and why; `status` is the exit status the program ends with.
    """
    results: list[dict[str, Any]] = []
    weights: dict[str, float] = {}
    where = _artifact(lock)
    for drift in drifts:
        for rule, weight, level, text, part in _found(drift):
            weights[rule] = max(weights.get(rule, 0.0), weight)
            results.append(_result(drift, rule, level, text, part, where))
    indices = {rule: index for index, rule in enumerate(sorted(weights))}
    for result in results:
        result["ruleIndex"] = indices[result["ruleId"]]
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "limen",
                        "semanticVersion": __version__,
                        "rules": [_rule(rule, weights[rule]) for rule in indices],
                    }
                },
                "automationDetails": {"id": "limen-tools-lock/"},
                "columnKind": "utf16CodeUnits",
                "invocations": [_invocation(trouble, status)],
                "results": results,
            }
        ],
    }


def _found(drift: Drift) -> Iterator[tuple[str, float, str, str, str]]:
    """Rule, weight, level, text and part of the definition, of the drift itself and of every finding about it."""
    said = LEVELS.get(drift.level, "warning")
    level = max(said, _FLOOR.get(drift.event, "warning"), key=_ORDER.index)
    yield f"lock.{drift.event}", drift.score, level, drift.detail, ""
    for finding in drift.findings:
        at = f" (at {finding.path})" if finding.path else ""
        yield finding.id, finding.weight, said, f"{finding.detail}{at}", finding.path


def _result(drift: Drift, rule: str, level: str, text: str, part: str, where: dict[str, Any]) -> dict[str, Any]:
    about = f"{drift.server}/{drift.kind}/{drift.name}".rstrip("/")
    mark = "\n".join((drift.server, drift.kind, drift.name, rule, part, drift.after))
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": printable(f"{about}: {text}")},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": where, "region": {"startLine": max(1, drift.line)}},
                "logicalLocations": [{"fullyQualifiedName": printable(about), "kind": "member"}],
            }
        ],
        "partialFingerprints": {"limenDrift/v1": sha256(mark.encode()).hexdigest()},
        "properties": {"risk": drift.level, "score": drift.score, "before": drift.before, "after": drift.after},
    }


def _rule(rule: str, weight: float) -> dict[str, Any]:
    room, _, event = rule.partition(".")
    text = EVENTS[event] if room == "lock" else f"The definition shows {rule.replace('.', ': ').replace('_', ' ')}."
    return {
        "id": rule,
        "shortDescription": {"text": text},
        # How code scanning services sort: 0.0 to 10.0.
        "properties": {"security-severity": f"{10 * min(1.0, max(0.0, weight)):.1f}", "tags": ["security", "mcp"]},
    }


def _invocation(trouble: Mapping[str, str], status: int) -> dict[str, Any]:
    notes = [
        {"level": "error", "message": {"text": printable(f"{name}: {text}")}, "descriptor": {"id": "lock.unread"}}
        for name, text in trouble.items()
    ]
    made: dict[str, Any] = {"executionSuccessful": not trouble and status in (0, 1), "exitCode": status}
    return {**made, "toolExecutionNotifications": notes} if notes else made


def _artifact(lock: Path) -> dict[str, Any]:
    """The lock as the checked-out sources have it, or its address on this machine."""
    absolute = lock.absolute()
    try:
        return {"uri": quote(absolute.relative_to(Path.cwd()).as_posix()), "uriBaseId": "%SRCROOT%"}
    except ValueError:
        return {"uri": absolute.as_uri()}
