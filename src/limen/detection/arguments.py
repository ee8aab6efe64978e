"""Control D6, the content half: is an argument what its parameter is for? (attack classes CI-01 to CI-15, EX-05, EX-09)

A definition is compiled once into a tree of parameters with roles; a call is one walk over its values. Violations of
what an operator declared score 1.0; guesses from names and descriptions are calibrated probabilities, so that ordinary
use of a code or search tool stays below the limit for holding. Linear in the size of the arguments.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final

import jiter

from limen.detection import interpreters, judging
from limen.detection.finding import Finding
from limen.detection.roles import Role, infer, reads_only, writes
from limen.detection.rules import ArgumentSettings, Constraint

_PLANS: Final = 4096
_FIELDS: Final = 1000  # parameters compiled per definition; what lies deeper is judged by its name alone
_DEPTH: Final = 8
_CLOSE: Final = 262_144  # characters of one call that are judged as something else than text
_LIGHT: Final = frozenset({Role.TEXT, Role.CODE, Role.BLOB, Role.CELL, Role.FIXED})
_KEPT: Final = 8  # findings of one id and family that are kept, the strongest


class Parameter:
    """One parameter, or member of one: its role, the rules on it, its members and items."""

    __slots__ = ("constraints", "declared", "items", "judge", "members", "name", "role", "tool")

    def __init__(self, tool: str, name: str, role: Role, constraints: tuple[Constraint, ...], read_only: bool) -> None:
        self.tool, self.name, self.constraints = tool, name, constraints
        roles = [one.role for one in constraints if one.role is not None]
        self.role = roles[0] if roles else role
        self.declared = bool(roles)
        self.judge = judging.judge_of(self.role, constraints, writes=writes(tool, name), read_only=read_only)
        self.members: dict[str, Parameter] = {}
        self.items: Parameter | None = None


_COPIES: Final = frozenset({"cc", "bcc"})


class ArgumentRules:
    """`ArgumentRules(settings)`; then `check_call` for each. Compiled definitions are kept, the oldest go first."""

    def __init__(self, settings: ArgumentSettings | None = None) -> None:
        self._rules = [
            (re.compile(".*".join(map(re.escape, target.split("*"))) + r"\Z", re.DOTALL), "*" not in target, rules)
            for target, rules in (settings or ArgumentSettings()).tools.items()
        ]
        self._plans: OrderedDict[tuple[str, bytes], _Plan] = OrderedDict()

    def check_call(self, tool: str, definition: bytes, arguments: Mapping[str, Any]) -> list[Finding]:
        """`tool`: server/name. `definition`: the approved canonical definition of a tool or prompt, compiled once.

        Paths of findings are JSON pointers into the arguments. Raises ValueError for a definition that is no JSON.
        """
        key = (tool, definition)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._plan(tool, jiter.from_json(definition) if definition else {})
            while len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return plan.check(arguments)

    def check(self, tool: str, schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[Finding]:
        """As `check_call`, for an input schema that is not kept."""
        return self._plan(tool, {"inputSchema": schema}).check(arguments)

    def _plan(self, tool: str, definition: Mapping[str, Any]) -> _Plan:
        rules: dict[str, list[Constraint]] = {}
        exact: set[str] = set()
        for pattern, literal, declared in self._rules:
            if pattern.match(tool):
                for name, rule in declared.items():
                    rules.setdefault(name, []).append(Constraint(rule))
                    if literal:
                        exact.add(name)
        return _Plan(tool, definition, rules, exact)


class _Plan:
    """One definition, ready to judge its calls."""

    def __init__(
        self, tool: str, definition: Mapping[str, Any], rules: Mapping[str, list[Constraint]], exact: set[str]
    ) -> None:
        schema = definition.get("inputSchema")
        if not isinstance(schema, dict):
            schema = _schema_of_prompt(definition.get("arguments"))
        description = definition.get("description")
        self._tool, self._rules, self._left = tool, rules, _FIELDS
        self._read_only = reads_only(tool, description if isinstance(description, str) else "")
        self._schema = schema
        self._met: set[str] = set()
        self._root = self._compile("", "", schema, 0)
        # A rule that meets no parameter is a misspelling, and a misspelled limit is none.
        self._unmet = sorted(exact - self._met) if self._root.members else []
        self._strays: dict[tuple[Parameter, str], Parameter] = {}

    def _compile(self, path: str, name: str, schema: Any, depth: int) -> Parameter:
        schema = self._resolved(schema)
        constraints = tuple(self._rules.get(path, ()))
        if constraints:
            self._met.add(path)
        parameter = Parameter(self._tool, name, infer(self._tool, name, schema), constraints, self._read_only)
        if depth >= _DEPTH:
            return parameter
        for part in self._parts(schema):
            properties = part.get("properties")
            for key, inner in properties.items() if isinstance(properties, dict) else ():
                self._left -= 1
                if self._left >= 0 and key not in parameter.members:
                    below = f"{path}/{key}" if path else key
                    parameter.members[key] = self._compile(below, key, inner, depth + 1)
            items = part.get("items")
            if isinstance(items, dict) and parameter.items is None and self._left > 0:
                self._left -= 1
                parameter.items = self._compile(path, name, _described(items, schema), depth + 1)
        return parameter

    def _parts(self, schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The schema itself and what it is put together from."""
        yield schema
        for key in ("anyOf", "oneOf", "allOf"):
            options = schema.get(key)
            for option in options[:20] if isinstance(options, list) else ():
                yield self._resolved(option)

    def _resolved(self, schema: Any) -> Mapping[str, Any]:
        for _ in range(_DEPTH):
            reference = schema.get("$ref") if isinstance(schema, dict) else None
            if not isinstance(reference, str) or not reference.startswith("#/"):
                break
            node: Any = self._schema
            for step in reference[2:].split("/"):
                node = node.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
            schema = node
        return schema if isinstance(schema, dict) else {}

    def check(self, arguments: Mapping[str, Any]) -> list[Finding]:
        """Every string, number, list and name of the arguments."""
        found = _Found()
        for name in self._unmet:
            found.add("argument.rule", 1.0, "", 0, f"no parameter {name[:80]!r} for a declared rule")
        work: list[tuple[Parameter, Any, str]] = [(self._root, arguments, "")]
        left = _CLOSE
        while work:
            parameter, value, pointer = work.pop()
            kind = type(value)
            if kind is str:
                if parameter.role not in _LIGHT:
                    left -= len(value)
                    if left < 0:
                        found.add("argument.long", 0.85, "", 0, f"more than {_CLOSE} characters to read closely")
                        break
                if parameter.constraints:
                    self._constrained(parameter, value, pointer, found)
                for sign in parameter.judge(value):
                    found.add(*sign[:2], pointer, len(value), sign[2])
            elif kind is dict:
                self._object(parameter, value, pointer, found, work)
            elif kind is list:
                if parameter.constraints:
                    self._constrained(parameter, value, pointer, found)
                item = parameter.items or parameter
                work.extend((item, one, f"{pointer}/{at}") for at, one in enumerate(value))
            elif parameter.constraints:
                self._constrained(parameter, value, pointer, found)
        # Whether the schema declares them or not: one that declares nothing lets everything through.
        if mail := [name for name in arguments if name.lower() in _COPIES]:
            for added in judging.added_recipients(arguments, mail):
                found.add(*added)
        return found.all()

    def _object(
        self,
        parameter: Parameter,
        value: dict[str, Any],
        pointer: str,
        found: _Found,
        work: list[tuple[Parameter, Any, str]],
    ) -> None:
        if parameter.constraints:
            self._constrained(parameter, value, pointer, found)
        members = parameter.members
        for key, inner in value.items():
            below = members.get(key)
            if below is None:
                below = self._stray(parameter, key, pointer)
                if parameter.role is not Role.TEXT:
                    for sign in judging.judge_name(key):
                        found.add(*sign[:2], pointer, 0, sign[2])
            work.append((below, inner, f"{pointer}/{_escaped(key)}"))
        for sign in interpreters.check_keys(value, filters=parameter.role is Role.FILTER):
            found.add(*sign[:2], pointer, 0, sign[2])

    def _stray(self, parent: Parameter, key: str, pointer: str) -> Parameter:
        """A member no schema declares: judged by its own name, or as its parent where that says more."""
        known = self._strays.get((parent, key))
        if known is not None and not self._rules:
            return known
        steps = [step for step in pointer.split("/") if step and not step.isdigit()]
        constraints = tuple(self._rules.get("/".join((*steps, key)), ()))
        role = infer(self._tool, key, {})
        vague = role in (Role.OTHER, Role.IDENTIFIER, Role.TEXT)
        if not constraints and (parent.declared or (vague and parent.role not in (Role.OTHER, Role.FIXED))):
            role, constraints = parent.role, parent.constraints
        known = Parameter(self._tool, key, role, constraints, self._read_only)
        if len(self._strays) < _FIELDS:
            self._strays[parent, key] = known
        return known

    @staticmethod
    def _constrained(parameter: Parameter, value: Any, pointer: str, found: _Found) -> None:
        for constraint in parameter.constraints:
            for sign in constraint.broken(value):
                found.add(*sign[:2], pointer, 0, sign[2])


class _Found:
    """The strongest findings of each id; a million bad strings are not a million findings."""

    __slots__ = ("_by_id",)

    def __init__(self) -> None:
        self._by_id: dict[str, dict[str, Finding]] | None = None

    def add(self, id_: str, score: float, pointer: str, length: int, detail: str) -> None:
        if self._by_id is None:
            self._by_id = {}
        places = self._by_id.setdefault(id_, {})
        known = places.get(pointer)
        if known is not None:
            if known.score >= score:
                return
        elif len(places) >= _KEPT:
            weakest = min(places.values(), key=lambda finding: finding.score)
            if weakest.score >= score:
                return
            del places[weakest.path]
        places[pointer] = Finding(id_, id_.partition(".")[0], score, pointer, (0, length), "plain", detail)

    def all(self) -> list[Finding]:
        if self._by_id is None:
            return []
        return sorted((one for places in self._by_id.values() for one in places.values()), key=lambda one: -one.score)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1") if "/" in key or "~" in key else key


def _described(items: dict[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
    """Items of a list say what they are in the description of the list."""
    said = outer.get("description")
    return {"description": said, **items} if isinstance(said, str) and "description" not in items else items


def _schema_of_prompt(declared: Any) -> dict[str, Any]:
    """The arguments of a prompt, as a schema."""
    named = [item for item in declared if isinstance(item, dict)] if isinstance(declared, list) else []
    return {"properties": {str(item["name"]): item for item in named if "name" in item}}
