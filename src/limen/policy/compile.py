"""From settings and catalog to one immutable policy set."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from limen.core.call import Approved
from limen.core.faults import ConfigFault
from limen.policy import cedar
from limen.policy.arguments import EMPTY, shape_of
from limen.policy.decision import PolicySet
from limen.policy.rules import Policy, PolicySettings, RuleSettings, cedar_policies, rule_policy
from limen.policy.targets import ACTIONS, parse_target
from limen.policy.validate import validate


def compile_policy(
    settings: PolicySettings,
    catalog: Sequence[Approved],
    *,
    servers: Collection[str] | None = None,
    announced: Sequence[Approved] = (),
    now: Callable[[], float] = time.time,
) -> PolicySet:
    """One policy for one snapshot; the same input gives the same digest.

    Raises ConfigFault, with the rule's number and key, for a rule that is not valid Cedar, names a server not
    configured, a name that matches nothing approved, an argument no definition has, or that can never match.
    `servers` are those configured; without it, a server of which nothing is approved is taken to be one. `announced`
    are names that wait for approval, or once were approved: a rule may name them before (and after) they are in use.
    """
    callable_ = (item for item in catalog if item.kind in ACTIONS)  # a server's instructions are approved, not called
    items = sorted(callable_, key=lambda item: (item.server, item.kind, item.name))
    policies: list[Policy] = []
    warnings: list[str] = []
    for number, rule in enumerate(settings.rules, 1):
        policy = rule_policy(number, rule, items)
        warnings.extend(_unmatched(f"policy rule {number}, call", rule, items, servers, announced))
        policies.append(policy)
    for number, text in enumerate(settings.cedar, 1):
        found = cedar_policies(number, text)
        for policy in found:
            if not any(policy.concerns(item) for item in items):
                warnings.append(f"{policy.where}: concerns nothing that is approved; not validated")
        policies.extend(found)
    _distinct(policies)
    reading = [policy for policy in policies if cedar.reads_context(policy.tree, "arguments")]
    # What no policy asks about arguments of is the same to all of them, whatever its arguments.
    shapes = [shape_of(item) if any(policy.concerns(item) for policy in reading) else EMPTY for item in items]
    schema, more = validate(policies, items, shapes)
    step_up = {str(name): values for name, values in settings.step_up.items()}
    return PolicySet(policies, schema, (*warnings, *more), zip(items, shapes, strict=True), step_up, now)


def _unmatched(
    where: str,
    rule: RuleSettings,
    items: Sequence[Approved],
    servers: Collection[str] | None,
    announced: Sequence[Approved],
) -> list[str]:
    """Warnings for targets nothing can be said about yet. Raises ConfigFault for those that are wrong.

    Rules of a server of which nothing is approved are kept without validation. They cannot grant anything: Resolve
    refuses every name that is not approved, and approving one compiles the policy again.
    """
    warnings: list[str] = []
    for text in rule.targets:
        targets = parse_target(text, rule.operations)
        if any(target.matches(item) for target in targets for item in items):
            continue
        server = targets[0].server
        if server != "*" and servers is not None and server not in servers:
            raise ConfigFault(f"{text!r}: there is no server {server!r}", where)
        if any(target.matches(item) for target in targets for item in announced):
            warnings.append(f"{where}: {text!r}: not approved yet; the rule is not validated")
            continue
        if any(item.server == server or server == "*" for item in items):
            raise ConfigFault(f"{text!r} matches nothing that is approved", where)
        warnings.append(f"{where}: {text!r}: nothing of this server is approved yet; the rule is not validated")
    return warnings


def _distinct(policies: Sequence[Policy]) -> None:
    seen: dict[str, str] = {}
    for policy in policies:
        if policy.id in seen:
            raise ConfigFault(f"has the same @id as {seen[policy.id]}", policy.where)
        seen[policy.id] = policy.where
