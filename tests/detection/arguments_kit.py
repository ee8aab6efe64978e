"""One argument of one tool, judged: the strongest score and every id."""

from __future__ import annotations

from typing import Any

from limen.detection.arguments import ArgumentRules
from limen.detection.finding import Finding
from limen.detection.rules import ArgumentSettings

HOLD, BLOCK = 0.5, 0.8  # above these a call waits for a person, or is refused


def judge(
    name: str,
    value: Any,
    *,
    tool: str = "srv/do_it",
    rule: dict[str, Any] | None = None,
    declared: dict[str, Any] | None = None,
    **more: Any,
) -> list[Finding]:
    """`declared`: the parameter's schema; `rule`: what the operator says; `more`: other arguments."""
    settings = ArgumentSettings.model_validate({"tools": {tool: {name: rule}} if rule else {}})
    schema = {"type": "object", "properties": {name: declared or {}, **{key: {} for key in more}}}
    return ArgumentRules(settings).check(tool, schema, {name: value, **more})


def score(name: str, value: Any, **options: Any) -> float:
    """The strongest finding's."""
    return max((finding.score for finding in judge(name, value, **options)), default=0.0)
