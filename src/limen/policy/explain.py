"""Why each policy matched a call or did not, clause by clause, as Cedar itself sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from cedarpy import pst

from limen.core.call import Approved, Caller
from limen.policy import cedar
from limen.policy.evaluate import ask, entities, request
from limen.policy.rules import Policy

_MEANING: Final = {
    "target": "the rule is about something else",
    "who": "the caller is not one of those the rule names",
    "scopes": "the caller lacks scopes the rule asks for",
}


def explain(
    policies: Sequence[Policy], caller: Caller, approved: Approved, name: str, action: str, context: str
) -> list[dict[str, Any]]:
    """One entry per policy: text, whether it matched, and the state of each clause (true, false, or an error)."""
    about = entities(caller, caller.scopes, approved, name)
    question = request(caller, approved, name, action, context)
    report: list[dict[str, Any]] = []
    for policy in policies:
        probes = _probes(policy)
        engine = cedar.engine(probes)
        outcome = ask(engine, about, question, {probe.id: "permit" for probe in probes})
        clauses: list[dict[str, Any]] = []
        for label, probe in zip(("scope", *policy.labels), probes, strict=True):
            state = "error" if probe.id in outcome.errors else "true" if probe.id in outcome.reasons else "false"
            clause = {"clause": label, "state": state}
            if state == "error":
                clause["why"] = outcome.errors[probe.id]
            elif state == "false":
                clause["why"] = _MEANING.get(label, "the condition does not hold")
            clauses.append(clause)
        report.append(
            {
                "id": policy.id,
                "where": policy.where,
                "effect": "allow" if policy.permits else "deny",
                "text": policy.text,
                "requires": sorted(policy.requires),
                "matched": all(clause["state"] == "true" for clause in clauses),
                "clauses": clauses,
            }
        )
    return report


def _probes(policy: Policy) -> list[pst.Template]:
    """The policy's scope, and each of its clauses, as allow policies of their own: Cedar reports those that hold."""
    tree = policy.tree
    anywhere = dataclasses.replace(
        tree, effect="permit", principal=pst.ScopeAny(), action=pst.ScopeAny(), resource=pst.ScopeAny()
    )
    scope = dataclasses.replace(tree, id="probe-0", effect="permit", clauses=())
    return [
        scope,
        *(
            dataclasses.replace(anywhere, id=f"probe-{number}", clauses=(clause,))
            for number, clause in enumerate(tree.clauses, 1)
        ),
    ]
