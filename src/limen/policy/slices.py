"""The few policies that concern one approved definition, and what is left of them while a call is not known yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cedarpy

from limen.core.call import Approved
from limen.policy import cedar
from limen.policy.arguments import Shape
from limen.policy.rules import Policy

Key = tuple[object, ...]
Parsed = tuple[
    cedarpy.PolicySet,
    cedarpy.PolicySet,
    Mapping[str, str],
    bool,
    bool,
    Mapping[str, frozenset[str]],
    tuple[frozenset[str], ...],
]


@dataclass(frozen=True, slots=True)
class Slice:
    """The policies that concern one approved definition. `possible` is what they come to when arguments and flow are
    open: allow rules without their conditions on them, and only those deny rules that hold whatever they are."""

    approved: Approved
    shape: Shape
    policies: tuple[Policy, ...]
    engine: cedarpy.PolicySet
    possible: cedarpy.PolicySet
    effects: Mapping[str, str]
    reads_arguments: bool  # or the URI: a decision is then good for one call only
    reads_flow: bool  # what the caller has read: a decision is then good for one such state only
    requires: Mapping[str, frozenset[str]]
    scope_options: tuple[frozenset[str], ...]


def make_slice(approved: Approved, shape: Shape, policies: Sequence[Policy], shared: dict[Key, Parsed]) -> Slice:
    """Select and parse what concerns one definition. `shared` keeps what definitions of equal policies share."""
    concerned = tuple(policy for policy in policies if policy.concerns(approved))
    # What is left of a policy while the URI is open depends on the template; otherwise only on the policies.
    template = (approved.server, approved.name) if approved.kind == "template" else ()
    key = (template, tuple(policy.id for policy in concerned))
    parsed = shared.get(key)
    if parsed is None:
        parsed = shared[key] = _parse(approved, concerned)
    return Slice(approved, shape, concerned, *parsed)


def _parse(approved: Approved, concerned: tuple[Policy, ...]) -> Parsed:
    possible = [tree for policy in concerned if (tree := _possible(policy, approved)) is not None]
    options = dict.fromkeys(option for policy in concerned for option in policy.scope_options)
    return (
        cedar.engine([policy.tree for policy in concerned]),
        cedar.engine(possible),
        {policy.id: policy.tree.effect for policy in concerned},
        approved.kind == "template" or any(cedar.reads_context(policy.tree, "arguments") for policy in concerned),
        any(cedar.reads_context(policy.tree, "flow") for policy in concerned),
        {policy.id: policy.requires for policy in concerned},
        tuple(options),
    )


def _possible(policy: Policy, approved: Approved) -> Any | None:
    """The policy when arguments, flow, and the URI of a template, are open. None: it may turn out not to apply."""
    open_uri, tree = approved.kind == "template", policy.tree
    kept = []
    for label, clause in zip(policy.labels, tree.clauses, strict=True):
        if open_uri and label == "target":
            # Being in the slice means that the target overlaps the template.
            if not policy.permits and not policy.covers(approved):
                return None
        elif cedar.reads_context(clause) or (open_uri and cedar.reads_uri(clause)):
            if not policy.permits:
                return None
        else:
            kept.append(clause)
    scope = tree.resource
    if open_uri and cedar.names_one_entity(scope):
        if not policy.permits:
            return None
        scope = cedar.ANYTHING
    return cedar.replaced(tree, clauses=tuple(kept), resource=scope)
