"""Rules as an operator writes them, and their one meaning: each becomes one Cedar policy.

A rule is printed by `limen policy show` exactly as Cedar decides it. What a rule asks for beyond Cedar (`require`) is
written as an annotation of its policy, so the text and its digest hold everything that is in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from cedarpy import pst
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from limen.core.call import Approved
from limen.core.faults import ConfigFault
from limen.policy import cedar
from limen.policy.assurance import requirement
from limen.policy.targets import ACTIONS, KINDS, Target, parse_target

Requirement = Annotated[str, Field(max_length=1024), AfterValidator(requirement)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
ENTITY_TYPES: Final = {"tool": "Tool", "prompt": "Prompt", "resource": "Resource", "template": "Resource"}
_WHO: Final = {
    "user": "principal.subject == {}",
    "client": "principal.client == {}",
    "group": "principal.groups.contains({})",
    "role": "principal.roles.contains({})",
    "scope": "principal.scopes.contains({})",
}


class RuleSettings(BaseModel):
    """One rule. Deny rules win over allow rules, whatever their order; what no rule allows is denied.

    `allow`/`deny`: any of "anyone", "user:SUBJECT", "group:G", "role:R", "client:C", "scope:S". A subject is matched
    whichever configured issuer vouches for it; add `when: principal.issuer == "..."` to pin one.
    `call`: any of "server/name-glob"; `operations` says of what kind the names are, "prompt:" and "resource:" in front
    of one target override it. `scopes`: all of them. `when`, `unless`: Cedar expressions over `principal`, `resource`,
    `context.arguments` and `context.flow` (what the caller has read: `untrusted`, `private`, `secret`); one that
    cannot be evaluated makes an allow rule fail and a deny rule hold.
    `require`: applies on top of the permission. Where several allow rules match, everything any of them requires is
    required: a lenient rule never takes away what a stricter one asks for. See `policy.assurance` for its forms.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    allow: Text | tuple[Text, ...] | None = None
    deny: Text | tuple[Text, ...] | None = None
    call: Text | tuple[Text, ...]
    operations: tuple[Literal["tool", "prompt", "resource"], ...] = ("tool",)
    scopes: tuple[Text, ...] = ()
    when: Text | None = None
    unless: Text | None = None
    require: tuple[Requirement, ...] = ()

    @model_validator(mode="after")
    def _one_effect(self) -> RuleSettings:
        if (self.allow is None) == (self.deny is None):
            raise ValueError("a rule has either allow or deny")
        if not self.who or not self.targets or not self.operations:
            raise ValueError("an empty list means nobody and nothing; leave the rule out instead")
        if self.deny is not None and (self.scopes or self.require):
            raise ValueError("scopes and require belong to allow rules")
        return self

    @property
    def who(self) -> tuple[str, ...]:
        """Any of these."""
        return _listed(self.allow if self.allow is not None else self.deny)

    @property
    def targets(self) -> tuple[str, ...]:
        """Any of these."""
        return _listed(self.call)


class PolicySettings(BaseModel):
    """Rules, and full Cedar beside them (texts; whoever loads the configuration reads the files)."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    rules: tuple[RuleSettings, ...] = ()
    cedar: tuple[str, ...] = ()
    review_every: Annotated[int, Field(ge=1, le=3650)] | None = Field(
        default=None, description="days after which `limen check` and `limen doctor` ask for an access review"
    )
    step_up: dict[Literal["mfa", "device"], tuple[Text, ...]] = {}  # acr values to ask for; each is proof as well

    @field_validator("step_up")
    @classmethod
    def _values(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for values in value.values():
            requirement(f"acr({' '.join(values)})")
        return value

    def scopes(self, server: str) -> tuple[str, ...]:
        """Every scope a rule about this server asks for (RFC 9728 `scopes_supported`), in order of the rules.

        Rules that compile have targets that can be read; for others raises ValueError.
        """
        found: dict[str, None] = {}
        for rule in self.rules:
            servers = {target.server for text in rule.targets for target in parse_target(text, rule.operations)}
            if rule.allow is not None and servers & {"*", server}:
                asked = (entry.removeprefix("scope:") for entry in rule.who if entry.startswith("scope:"))
                found.update(dict.fromkeys((*rule.scopes, *asked)))
        return tuple(found)


def _listed(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy, ready to be sliced. `targets` is empty for policies written in Cedar: their scope is read instead."""

    id: str
    where: str  # for messages: "policy rule 3"
    text: str
    tree: pst.Template
    labels: tuple[str, ...]  # what each clause stands for
    requires: frozenset[str] = frozenset()
    scope_options: tuple[frozenset[str], ...] = ()  # each would satisfy what this rule asks of scopes
    targets: tuple[Target, ...] = ()

    @property
    def permits(self) -> bool:
        """Allow or deny."""
        return self.tree.effect == "permit"

    def concerns(self, approved: Approved) -> bool:
        """Could this policy apply to a call of this definition?"""
        if self.targets:
            return any(target.matches(approved) for target in self.targets)
        uid = f"{approved.server}/{approved.name}"
        kind, template = ENTITY_TYPES[approved.kind], approved.kind == "template"
        return cedar.scope_admits(self.tree.resource, kind, approved.server, uid, any_uri=template)

    def covers(self, approved: Approved) -> bool:
        """Does it name every call of this definition, as far as its targets go?"""
        return any(target.covers(approved) for target in self.targets)


def rule_policy(number: int, rule: RuleSettings, catalog: Sequence[Approved]) -> Policy:
    """Rule `number` (counted from 1) as a Cedar policy. Raises ConfigFault with the rule's number and key."""
    where = f"policy rule {number}"
    targets = _targets(where, rule)
    clauses: list[tuple[str, str]] = []
    if "anyone" not in rule.who:
        clauses.append(("who", f"when {{ {_who_condition(where, rule)} }}"))  # first: it ends most evaluations
    clauses.append(("target", f"when {{ {_target_condition(rule, targets, catalog)} }}"))
    if rule.scopes:
        clauses.append(("scopes", f"when {{ principal.scopes.containsAll({cedar.texts(rule.scopes)}) }}"))
    for key, expression in (("when", rule.when), ("unless", rule.unless)):
        if expression is not None:
            try:
                cedar.parse_expression(expression)
            except ValueError as error:
                raise ConfigFault(f"not a Cedar expression: {error}", f"{where}, {key}") from None
            clauses.append((key, f"{key} {{\n{expression}\n}}"))
    effect = "permit" if rule.allow is not None else "forbid"
    name = f"rule-{number}"
    actions = sorted({action for target in targets for action in ACTIONS[target.kind]})
    lines = [f'@id("{name}")']
    if rule.require:
        lines.append(f'@require("{",".join(sorted(set(rule.require)))}")')  # no requirement holds a quote or a comma
    scope = ", ".join(f'Action::"{action}"' for action in actions)
    lines.append(f"{effect} (principal is Caller, action in [{scope}], resource)")
    text = "\n".join(lines + [clause for _, clause in clauses]) + ";"
    tree = _read_back(where, text, effect, len(clauses))
    return Policy(
        name,
        where,
        text,
        _renamed(tree, name),
        tuple(label for label, _ in clauses),
        frozenset(rule.require),
        _scope_options(rule),
        targets,
    )


def _read_back(where: str, text: str, effect: str, clauses: int) -> pst.Template:
    """What Cedar understands must be what was meant, however odd the pieces: exactly one policy of this form."""
    try:
        policies = cedar.parse(text)
    except ValueError as error:
        raise ConfigFault(f"Cedar does not accept the rule: {error}", where) from None
    if len(policies) != 1 or policies[0].effect != effect or len(policies[0].clauses) != clauses:
        raise ConfigFault("the rule's conditions are more than conditions", where)
    return policies[0]


def _renamed(tree: pst.Template, name: str) -> pst.Template:
    return pst.Template(name, tree.effect, tree.principal, tree.action, tree.resource, tree.clauses, tree.annotations)


def _targets(where: str, rule: RuleSettings) -> tuple[Target, ...]:
    targets: list[Target] = []
    for text in rule.targets:
        try:
            targets.extend(parse_target(text, tuple(kind for kind in KINDS if kind in rule.operations)))
        except ValueError as error:
            raise ConfigFault(str(error), f"{where}, call") from None
    return tuple(dict.fromkeys(targets))


def _target_condition(rule: RuleSettings, targets: Iterable[Target], catalog: Sequence[Approved]) -> str:
    options: list[str] = []
    for target in targets:
        parts = [f"resource is {ENTITY_TYPES[target.kind]}"]
        if target.server != "*":
            parts.append(f"resource in Server::{cedar.literal(target.server)}")
        if target.glob != "*":
            parts.append(f"resource.name like {cedar.like(target.glob)}")
        options.append(" && ".join(parts))
    if rule.deny is not None and (partly := _partly_denied(targets, catalog)):
        # Completion of a template tells names of resources before a URI exists to judge. Where some of them are
        # denied, the completion is.
        uids = ", ".join(f"Resource::{cedar.literal(uid)}" for uid in partly)
        options.append(f'action == Action::"complete" && resource in [{uids}]')
    return options[0] if len(options) == 1 else " || ".join(f"({option})" for option in options)


def _partly_denied(targets: Iterable[Target], catalog: Sequence[Approved]) -> list[str]:
    targets = tuple(targets)
    return sorted(
        f"{item.server}/{item.name}"
        for item in catalog
        if item.kind == "template" and any(t.matches(item) and not t.covers(item) for t in targets)
    )


def _who_condition(where: str, rule: RuleSettings) -> str:
    options: list[str] = []
    for entry in rule.who:
        kind, colon, value = entry.partition(":")
        if not colon or not value or kind not in _WHO:
            key = "allow" if rule.allow is not None else "deny"
            raise ConfigFault(
                f"{entry!r} is neither anyone nor user:, group:, role:, client: or scope:", f"{where}, {key}"
            )
        options.append(_WHO[kind].format(cedar.literal(value)))
    return " || ".join(options)


def _scope_options(rule: RuleSettings) -> tuple[frozenset[str], ...]:
    if rule.allow is None:
        return ()
    base = frozenset(rule.scopes)
    named = [entry.removeprefix("scope:") for entry in rule.who if entry.startswith("scope:")]
    return tuple(dict.fromkeys(option for option in (base, *(base | {name} for name in named)) if option))


def cedar_policies(number: int, text: str) -> tuple[Policy, ...]:
    """The policies of one Cedar text. Raises ConfigFault. `@require("mfa,approval")` is understood here as well."""
    where = f"policy cedar text {number}"
    try:
        trees = cedar.parse(text)
    except ValueError as error:
        raise ConfigFault(f"not Cedar: {error}", where) from None
    return tuple(_cedar_policy(f"{where}, policy {index}", number, index, tree) for index, tree in enumerate(trees, 1))


def _cedar_policy(where: str, number: int, index: int, tree: pst.Template) -> Policy:
    parts = (part.strip() for part in tree.annotations.get("require", "").split(","))
    try:
        requires = frozenset(requirement(part) for part in parts if part)
    except ValueError as error:
        raise ConfigFault(f"@require: {error}", where) from None
    if requires and tree.effect != "permit":
        raise ConfigFault("@require is for permit only", where)
    name = f"cedar-{number}-{index}"
    label = tree.annotations.get("id", "")
    if label and all(char.isascii() and (char.isalnum() or char in "._-") for char in label) and len(label) <= 64:
        name = f"cedar-{number}-{label}"
    renamed = _renamed(tree, name)
    labels = tuple(
        f"{'when' if isinstance(clause, pst.When) else 'unless'} {position}"
        for position, clause in enumerate(tree.clauses, 1)
    )
    return Policy(name, where, cedar.render(renamed), renamed, labels, requires)
