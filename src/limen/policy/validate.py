"""Proves at compile time that each policy can be evaluated and can match something, against Cedar's own validator.

Every approved definition gives Cedar a schema: its kind and the types of its arguments. Definitions with the same
types share one. A policy must be valid for at least one definition it concerns; where it is not valid for others, that
is a warning and, at run time, the strict reading (allow: no, deny: yes), so that approving one more tool can never make
a running configuration unusable.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Final

import cedarpy

from limen.core.call import Approved, FlowState
from limen.core.faults import ConfigFault
from limen.policy.arguments import Shape
from limen.policy.rules import ENTITY_TYPES, Policy
from limen.policy.targets import ACTIONS

_COMMON: Final = """\
entity Server;
entity Caller = {
  issuer: String, subject: String, client: String, scopes: Set<String>, roles: Set<String>, groups: Set<String>,
  amr: Set<String>, mfa: Bool, acr: String, contexts: Set<String>, machine: Bool, device: String, risk: String
} tags String;
entity Tool in [Server] = { server: String, name: String, effect: String, durable: Bool };
entity Prompt in [Server] = { server: String, name: String, effect: String, durable: Bool };
entity Resource in [Server] = { server: String, name: String, effect: String, durable: Bool, template: String };
"""
_FLOW: Final = "{" + ", ".join(f"{one.name}: Bool" for one in fields(FlowState)) + "}"
# Cedar's validator only warns about a policy that can never match, and the binding drops warnings. But it does not look
# past a conjunction it knows to be false, so an attribute nobody has, read last, is complained about exactly when the
# policy can match.
_PROBE: Final = "limen_reachable"
_OPTIONAL: Final = "unable to guarantee safety of access to optional attribute"
_NO_ACTION: Final = "unable to find an applicable action"


@lru_cache(maxsize=65_536)
def schema_text(kind: str, arguments: str) -> str:
    """The Cedar schema of a definition of this kind whose arguments have this Cedar type."""
    lines = [_COMMON]
    for action in sorted({action for actions in ACTIONS.values() for action in actions}):
        applies = (
            f" appliesTo {{ principal: [Caller], resource: [{ENTITY_TYPES[kind]}], "
            f"context: {{ arguments: {arguments}, flow: {_FLOW} }} }}"
        )
        lines.append(f'action "{action}"{applies if action in ACTIONS[kind] else ""};')
    return "\n".join(lines)


@dataclass(slots=True)
class _Findings:
    """What validation said about one policy."""

    fine: int = 0
    unreachable: int = 0
    optional: str = ""
    wrong: list[tuple[Approved, str]] = field(default_factory=list)


def validate(
    policies: Sequence[Policy], catalog: Sequence[Approved], shapes: Sequence[Shape]
) -> tuple[str, tuple[str, ...]]:
    """Returns all schemas (for the digest) and warnings. Raises ConfigFault. `shapes` runs along `catalog`."""
    groups: dict[tuple[str, str], tuple[Approved, Shape, dict[str, Policy]]] = {}
    for approved, shape in zip(catalog, shapes, strict=True):
        key = (schema_text(approved.kind, shape.cedar()), approved.kind)
        _, _, concerned = groups.setdefault(key, (approved, shape, {}))
        concerned.update((policy.id, policy) for policy in policies if policy.concerns(approved))
    findings: dict[str, _Findings] = defaultdict(_Findings)
    for (schema, kind), (example, shape, concerned) in sorted(groups.items(), key=lambda item: item[0]):
        if concerned:
            relaxed = schema_text(kind, shape.cedar(all_required=True))
            _check_group(tuple(concerned.values()), example, schema, relaxed, findings)
    warnings = [
        warning for policy in policies if policy.id in findings for warning in _judge(policy, findings[policy.id])
    ]
    return "\n".join(sorted({schema for schema, _ in groups})), tuple(warnings)


def _check_group(
    policies: Sequence[Policy], example: Approved, schema: str, relaxed: str, findings: dict[str, _Findings]
) -> None:
    """Validate policies that concern definitions of one schema."""
    handle = _schema(schema)
    errors = _errors(policies, handle)
    reachable = {name for name, found in _errors(policies, handle, probe=True).items() if found}
    unguarded = [
        policy for policy in policies if policy.id in errors and all(_OPTIONAL in e for e in errors[policy.id])
    ]
    if unguarded:
        # Reading an optional argument without asking `has` first is allowed: its absence refuses. The rest of such a
        # condition is checked as if the argument were always there.
        again = _errors(unguarded, _schema(relaxed))
        for policy in unguarded:
            findings[policy.id].optional = findings[policy.id].optional or errors[policy.id][0]
            errors[policy.id] = again.get(policy.id, [])
    for policy in policies:
        found, wrong = findings[policy.id], errors.get(policy.id, [])
        serious = [error for error in wrong if _NO_ACTION not in error]
        if serious:
            found.wrong.append((example, serious[0]))
        elif wrong or policy.id not in reachable:
            found.unreachable += 1
        else:
            found.fine += 1


def _schema(text: str) -> cedarpy.Schema:
    return cedarpy.Schema.from_str(text)


def _errors(policies: Sequence[Policy], schema: cedarpy.Schema, *, probe: bool = False) -> dict[str, list[str]]:
    """Errors by policy id. Cedar numbers policies by position."""
    tail = f"\nwhen {{ context.{_PROBE} }};"
    texts = [policy.text.rstrip().removesuffix(";") + tail if probe else policy.text for policy in policies]
    found: dict[str, list[str]] = defaultdict(list)
    for error in cedarpy.validate_policies("\n".join(texts), schema).errors:
        position = error.policy_id.removeprefix("policy")
        if not position.isdigit() or int(position) >= len(policies):
            raise ConfigFault(f"Cedar does not accept the policies: {error.error}", "policy")
        found[policies[int(position)].id].append(error.error)
    return found


def _judge(policy: Policy, found: _Findings) -> list[str]:
    """A fault when nothing is left that the policy could sensibly apply to; otherwise what an operator should know."""
    keys = [label for label in policy.labels if label.startswith(("when", "unless"))]
    where = ", ".join([policy.where, "/".join(keys)]) if keys else policy.where
    if not found.fine:
        if found.wrong:
            approved, error = found.wrong[0]
            raise ConfigFault(f"for {approved.server}/{approved.name}: {_plain(error)}", where)
        raise ConfigFault("the rule can never match", where)
    warnings = []
    consequence = "then never allows" if policy.permits else "then always denies"
    if found.wrong:
        approved, error = found.wrong[0]
        warnings.append(f"{where}: {consequence} {approved.server}/{approved.name} and its like: {_plain(error)}")
    if found.optional:
        warnings.append(f"{where}: {consequence} when an optional argument is absent: {_plain(found.optional)}")
    return warnings


def _plain(error: str) -> str:
    """Cedar's message without its own numbering of policies."""
    head, _, tail = error.partition("`, ")
    return tail if head.startswith("for policy `") else error
