"""One question to Cedar and its answer, read strictly: a deny rule that cannot be evaluated denies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cedarpy

from limen.core.call import Approved, Caller
from limen.core.faults import InvariantFault
from limen.policy.rules import ENTITY_TYPES

NO_ARGUMENTS: Final = '{"arguments":{}}'
_ERRED: Final = re.compile(r"error while evaluating policy `([^`]+)`: (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What Cedar said. `reasons`: the permits that allow, or the forbids that deny."""

    allowed: bool
    reasons: tuple[str, ...]
    errors: Mapping[str, str]


def ask(
    engine: cedarpy.PolicySet, entities: cedarpy.Entities, request: Mapping[str, Any], effects: Mapping[str, str]
) -> Outcome:
    """Put one request to these policies. Raises InvariantFault when Cedar could not even read the question.

    Cedar skips a policy that fails to evaluate. For a permit that is right; a forbid must not be lost that way, so an
    error that is not known to come from a permit denies.
    """
    return ask_all(engine, entities, [request], effects)[0]


def ask_all(
    engine: cedarpy.PolicySet,
    entities: cedarpy.Entities,
    requests: Sequence[Mapping[str, Any]],
    effects: Mapping[str, str],
) -> list[Outcome]:
    """Many requests about the same entities, answered in their order; each as `ask` would."""
    answers = cedarpy.is_authorized_batch([dict(request) for request in requests], engine, entities)
    if len(answers) != len(requests):
        raise InvariantFault(f"Cedar gave {len(answers)} answers to {len(requests)} requests")
    return [_outcome(answer, effects) for answer in answers]


def _outcome(answer: cedarpy.AuthzResult, effects: Mapping[str, str]) -> Outcome:
    if answer.decision is cedarpy.Decision.NoDecision:
        raise InvariantFault(f"Cedar gave no decision: {answer.diagnostics.errors}")
    errors: dict[str, str] = {}
    lost: list[str] = []
    for text in answer.diagnostics.errors:
        found = _ERRED.match(text)
        name = found[1] if found else ""
        errors[name] = found[2] if found else text
        if effects.get(name) != "permit":
            lost.append(name)
    reasons = tuple(sorted(answer.diagnostics.reasons))
    if lost:
        denying = () if answer.allowed else reasons
        return Outcome(False, tuple(sorted({*denying, *lost})), errors)
    return Outcome(answer.allowed, reasons, errors)


def principal(caller: Caller) -> dict[str, str]:
    """The caller's entity id. The issuer is part of it: subjects of two issuers are two callers."""
    return {"type": "Caller", "id": f"{caller.issuer}|{caller.subject}"}


def entities(caller: Caller, scopes: frozenset[str], approved: Approved, name: str) -> cedarpy.Entities:
    """Caller, with these scopes, and resource as Cedar reads them."""
    return entities_of(caller, scopes, [(approved, name)])


def entities_of(caller: Caller, scopes: frozenset[str], resources: Sequence[tuple[Approved, str]]) -> cedarpy.Entities:
    """Caller and many resources, each with the name it is read under."""
    known = [_resource_entity(approved, name) for approved, name in resources]
    return cedarpy.Entities.from_json_str(json.dumps([_caller_entity(caller, scopes), *known]))


def _caller_entity(caller: Caller, scopes: frozenset[str]) -> dict[str, object]:
    return {
        "uid": principal(caller),
        "attrs": {
            "issuer": caller.issuer,
            "subject": caller.subject,
            "client": caller.client,
            "scopes": sorted(scopes),
            "roles": sorted(caller.roles),
            "groups": sorted(caller.groups),
            "amr": sorted(caller.amr),
            "mfa": caller.mfa,
            "acr": caller.acr,
            "machine": caller.machine,
            "device": caller.device,
            "risk": caller.risk,
            "contexts": sorted(caller.contexts),
        },
        "tags": dict(caller.facts),
        "parents": [],
    }


def resource_id(approved: Approved, name: str) -> dict[str, str]:
    """`server/name`, with the concrete URI where a template is read. No server has a slash in its name."""
    return {"type": ENTITY_TYPES[approved.kind], "id": f"{approved.server}/{name}"}


def _resource_entity(approved: Approved, name: str) -> dict[str, object]:
    attributes: dict[str, object] = {
        "server": approved.server,
        "name": name,
        "effect": approved.effect,
        "durable": approved.durable,
    }
    if ENTITY_TYPES[approved.kind] == "Resource":
        attributes["template"] = approved.name if approved.kind == "template" else ""
    return {
        "uid": resource_id(approved, name),
        "attrs": attributes,
        "parents": [{"type": "Server", "id": approved.server}],
    }


def request(caller: Caller, approved: Approved, name: str, action: str, context: str) -> dict[str, Any]:
    """A Cedar request."""
    return {
        "principal": principal(caller),
        "action": {"type": "Action", "id": action},
        "resource": resource_id(approved, name),
        "context": context,
    }
