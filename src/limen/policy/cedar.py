"""Cedar text and syntax trees: literals that nothing can leave, and what a policy depends on."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import cedarpy
from cedarpy import pst

# Attributes of a resource that are the same for every URI a template expands to.
_UNESCAPED: Final = re.compile(r"[ !#-\[\]-~]*")
_STATIC: Final = frozenset({"server", "effect", "durable", "template"})


def literal(value: str) -> str:
    """A Cedar string literal that holds exactly this text."""
    if _UNESCAPED.fullmatch(value):
        return f'"{value}"'
    return '"' + "".join(map(_escape, value)) + '"'


def like(glob: str) -> str:
    """A Cedar `like` pattern; `*` in the glob is the wildcard, everything else stands for itself."""
    return '"' + "".join("*" if char == "*" else _escape(char) for char in glob) + '"'


def _escape(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if " " <= char <= "~" else f"\\u{{{ord(char):x}}}"


def texts(values: Iterable[str]) -> str:
    """A Cedar set of string literals, in a fixed order."""
    return "[" + ", ".join(map(literal, sorted(set(values)))) + "]"


def parse(text: str) -> tuple[pst.Template, ...]:
    """Every policy of a text, in order. Raises ValueError, also for templates with slots, which nobody would link."""
    tree = cedarpy.policies_to_pst(text)
    if tree.templates or tree.template_links:
        raise ValueError("a policy with ?principal or ?resource is a template; write the policy out")
    return tuple(sorted(tree.static_policies.values(), key=lambda policy: int(policy.id.removeprefix("policy"))))


def parse_expression(text: str) -> pst.Clause:
    """Read the text of one condition. Raises ValueError when it is more or less than one expression.

    The text is placed inside a policy of its own and the outcome is counted, so text that closes the braces to bring
    along a second condition or a whole policy is refused rather than searched for.
    """
    policies = parse(f"permit (principal, action, resource)\nwhen {{\n{text}\n}};")
    if len(policies) != 1 or len(policies[0].clauses) != 1:
        raise ValueError("not one single expression")
    return policies[0].clauses[0]


def engine(policies: Iterable[pst.Template]) -> cedarpy.PolicySet:
    """A parsed set that reports policies by their own ids."""
    return cedarpy.PolicySet.from_pst(
        pst.PolicySet(templates={}, static_policies={policy.id: policy for policy in policies}, template_links=())
    )


def render(policy: pst.Template) -> str:
    """The text of one policy."""
    return str(engine([policy])).strip()


def reads_context(node: object, member: str = "") -> bool:
    """Does the outcome depend on the request's context, or on this member of it ("arguments", "flow")?

    The context as a whole (`context == ...`, `context has ...`) counts as every member.
    """
    stack: list[Any] = [node]
    while stack:
        part = stack.pop()
        if isinstance(part, pst.GetAttr) and _is_context(part.base):
            if part.attr == member or not member:
                return True
            continue
        if _is_context(part):
            return True
        stack.extend(_parts(part))
    return False


def _is_context(part: object) -> bool:
    return isinstance(part, pst.Var) and part.name == "context"


def reads_uri(node: object) -> bool:
    """Does the outcome depend on which resource it is, beyond what all expansions of a template share?"""
    return any(isinstance(part, pst.Var) and part.name == "resource" for part in _walk(node, skip_static=True))


def _walk(node: object, *, skip_static: bool) -> Iterator[object]:
    stack: list[Any] = [node]
    while stack:
        part = stack.pop()
        yield part
        if skip_static and _is_static(part):
            if isinstance(part, pst.Is):
                stack.append(part.in_expr)
            continue
        stack.extend(_parts(part))


def _parts(part: Any) -> Iterable[Any]:
    if dataclasses.is_dataclass(part):
        return [getattr(part, field.name) for field in dataclasses.fields(part)]
    if isinstance(part, dict):
        return part.values()
    return part if isinstance(part, tuple) else ()


def _is_static(part: object) -> bool:
    base = getattr(part, "base", None)
    if not (isinstance(base, pst.Var) and base.name == "resource"):
        return False
    return isinstance(part, pst.Is) or (isinstance(part, pst.GetAttr) and part.attr in _STATIC)


def scope_admits(scope: object, kind: str, server: str, uid: str, *, any_uri: bool) -> bool:
    """Could a policy with this resource scope speak of the entity `kind::uid` in `server`?

    `any_uri`: the entity is a template, read under URIs not known yet.
    """
    match scope:
        case pst.ScopeAny():
            return True
        case pst.ScopeEq(entity=pst.EntityUid() as entity):
            same = entity.id.startswith(server + "/") if any_uri else entity.id == uid
            return str(entity.type) == kind and same
        case pst.ScopeIn(entity=pst.EntityUid() as entity):
            return _contains(entity, kind, server, uid, any_uri)
        case pst.ScopeIs(entity_type=entity_type):
            return str(entity_type) == kind
        case pst.ScopeIsIn(entity_type=entity_type, entity=pst.EntityUid() as entity):
            return str(entity_type) == kind and _contains(entity, kind, server, uid, any_uri)
    return True


def _contains(entity: pst.EntityUid, kind: str, server: str, uid: str, any_uri: bool) -> bool:
    if str(entity.type) == "Server":
        return entity.id == server
    # Cedar's `in` is reflexive: an entity is in itself.
    return scope_admits(pst.ScopeEq(entity=entity), kind, server, uid, any_uri=any_uri)


def names_one_entity(scope: object) -> bool:
    """Does this scope name a resource itself rather than its server or type?"""
    entity = getattr(scope, "entity", None)
    return isinstance(entity, pst.EntityUid) and str(entity.type) != "Server"


ANYTHING: Final = pst.ScopeAny()


def replaced(policy: pst.Template, **parts: Any) -> pst.Template:
    """The policy with these parts exchanged."""
    return dataclasses.replace(policy, **parts)
