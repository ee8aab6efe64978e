"""Which JSON Schemas we are willing to run: bounded, self-contained, and cheap for every possible instance.

A schema is code a stranger wrote that runs on every call. Without bounds, twenty lines of `allOf` and `$ref` keep a
validator busy for years (2 to the 32nd evaluations), and a remote `$ref` makes it fetch what the stranger likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

import jsonschema_rs

MAX_DEPTH: Final = 32
MAX_NODES: Final = 2000
MAX_MEMBERS: Final = 20_000
MAX_PATTERN: Final = 256
MAX_STEPS: Final = 5_000  # evaluations along one chain of nested instance values
DEEPEST: Final = 64  # what admission lets an instance nest
LEAST_DEPTH: Final = 3

DIALECTS: Final = {
    "https://json-schema.org/draft/2020-12/schema": jsonschema_rs.Draft202012Validator,
    "http://json-schema.org/draft-07/schema": jsonschema_rs.Draft7Validator,
}
_DEFAULT: Final = "https://json-schema.org/draft/2020-12/schema"
_PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=1 << 20, dfa_size_limit=1 << 20)

# Where schemas stand inside a schema. "same": applied to the same instance value. "below": to a value inside it.
_ONE: Final = {
    **dict.fromkeys(("not", "if", "then", "else"), "same"),
    **dict.fromkeys(("items", "additionalItems", "additionalProperties", "unevaluatedItems"), "below"),
    **dict.fromkeys(("unevaluatedProperties", "contains", "propertyNames"), "below"),
    "contentSchema": "never",
}
_LIST: Final = {**dict.fromkeys(("allOf", "anyOf", "oneOf"), "same"), "prefixItems": "below", "items": "below"}
_MAP: Final = {
    **dict.fromkeys(("dependentSchemas", "dependencies"), "same"),
    **dict.fromkeys(("$defs", "definitions"), "never"),
    "properties": "property",
    "patternProperties": "below",
}
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_FOREIGN: Final = ("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary")


class UnsafeSchema(ValueError):
    """The schema breaks a bound. The message is for the operator and holds no text from the schema."""


@dataclass(slots=True)
class Position:
    """One schema inside the schema, and where evaluation goes from it."""

    schema: Any
    pointer: str
    properties: tuple[str, ...] | None  # names from the root through `properties` only, or None
    same: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)
    property: list[str] = field(default_factory=list)
    never: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A schema ready to run. `depth` is how deep an instance may nest before evaluation could become costly."""

    validator: jsonschema_rs.Validator
    depth: int = DEEPEST

    def accepts(self, instance: Any) -> bool:
        """True when the instance is valid. Raises ValueError for what is not JSON (lone surrogates)."""
        return (self.depth >= DEEPEST or not _deeper(instance, self.depth)) and self.validator.is_valid(instance)

    def first_error(self, instance: Any) -> str:
        """Where the instance fails, as a path and a keyword: never a value."""
        if self.depth < DEEPEST and _deeper(instance, self.depth):
            return f"nested deeper than {self.depth}, which this recursive schema cannot be evaluated for"
        for error in self.validator.iter_errors(instance):
            return "/" + "/".join(str(step)[:64] for step in error.instance_path[:32]) + f": {error.kind.name}"
        return ""


def compile_schema(schema: Any) -> Compiled:
    """Check every bound and compile. Raises UnsafeSchema.

    Dialect 2020-12 unless `$schema` says draft-07; any other is refused, as half its keywords would be ignored.
    """
    if type(schema) is not dict:
        raise UnsafeSchema("not an object")
    _measure(schema)
    dialect = schema.get("$schema", _DEFAULT)
    validator = DIALECTS.get(dialect.removesuffix("#")) if type(dialect) is str else None
    if validator is None:
        raise UnsafeSchema("$schema names a dialect other than 2020-12 and draft-07")
    positions = {position.pointer: position for position in walk(schema)}
    depth = _affordable_depth(positions)
    try:
        compiled = validator(schema, offline=True, pattern_options=_PATTERNS, validate_formats=False)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise UnsafeSchema(f"does not compile: {_kind(error)}") from None
    return Compiled(compiled, depth)


def _kind(error: Exception) -> str:
    if isinstance(error, jsonschema_rs.ValidationError):
        return "/" + "/".join(str(step)[:64] for step in error.instance_path[:32]) + f" ({error.kind.name})"
    return type(error).__name__


def _measure(schema: Any) -> None:
    """Depth, size and references, wherever they stand. Raises UnsafeSchema."""
    nodes = members = 0
    stack: list[tuple[Any, int]] = [(schema, 1)]
    while stack:
        value, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise UnsafeSchema(f"nested deeper than {MAX_DEPTH}")
        nodes, members = nodes + 1, members + len(value)
        if nodes > MAX_NODES or members > MAX_MEMBERS:
            raise UnsafeSchema(f"more than {MAX_NODES} objects and lists or {MAX_MEMBERS} members")
        if type(value) is dict:
            for name in _REFERENCES:
                # Also where it is plain data (an example, a default): the next reader may resolve it all the same.
                if type(target := value.get(name)) is str and not target.startswith("#"):
                    raise UnsafeSchema(f"{name} that leaves the schema")
            value = value.values()
        stack.extend((member, depth + 1) for member in value if type(member) in (dict, list))


def walk(schema: Any) -> Iterator[Position]:
    """Every position of the schema at which a schema stands, the root first. Raises UnsafeSchema."""
    stack = [Position(schema, "", ())]
    while stack:
        position = stack.pop()
        if type(position.schema) is dict:
            _check_keywords(position)
            for child, kind, name in _children(position):
                getattr(position, kind).append(child.pointer)
                if kind == "property" and position.properties is not None:
                    child.properties = (*position.properties, name)
                stack.append(child)
        elif type(position.schema) is not bool:
            raise UnsafeSchema("something that is neither object nor boolean stands where a schema belongs")
        yield position


def _check_keywords(position: Position) -> None:
    schema = position.schema
    for keyword in _FOREIGN:
        if keyword in schema:
            raise UnsafeSchema(f"{keyword} is not supported")
    if position.pointer and ("$id" in schema or "$schema" in schema):
        raise UnsafeSchema("$id or $schema inside the schema")
    if type(base := schema.get("$id", "")) is not str or "json-schema.org" in base.lower():
        raise UnsafeSchema("$id is not text, or poses as a meta-schema")
    patterns = [schema.get("pattern", "")]
    if type(schema.get("patternProperties")) is dict:
        patterns.extend(schema["patternProperties"])
    for pattern in patterns:
        if type(pattern) is not str or len(pattern) > MAX_PATTERN:
            raise UnsafeSchema(f"a pattern that is not text of at most {MAX_PATTERN} characters")


def _children(position: Position) -> Iterator[tuple[Position, str, str]]:
    for keyword, value in position.schema.items():
        here = f"{position.pointer}/{keyword}"
        if type(value) is dict and keyword in _MAP:
            for name, child in value.items():
                if keyword == "dependencies" and type(child) is list:
                    continue
                step = name.replace("~", "~0").replace("/", "~1")
                yield Position(child, f"{here}/{step}", None), _MAP[keyword], name
        elif type(value) is list and keyword in _LIST:
            for index, child in enumerate(value):
                yield Position(child, f"{here}/{index}", None), _LIST[keyword], ""
        elif keyword in _ONE:
            yield Position(value, here, None), _ONE[keyword], ""


def _affordable_depth(positions: dict[str, Position]) -> int:
    """How deep an instance may nest with at most MAX_STEPS evaluations along any chain of nested values.

    Counted as if every branch were taken. Raises UnsafeSchema when less than LEAST_DEPTH is affordable, and for
    references that lead nowhere or back to themselves without looking at anything deeper.
    """
    references = _references(positions)
    if not references:
        return DEEPEST  # a tree: no more evaluations than nodes
    nodes = _numbered(positions, references)
    previous = [0] * len(nodes)
    for depth in range(DEEPEST):
        cost = [0] * len(nodes)
        for at, (same, below, beside) in enumerate(nodes):
            steps = 1 + sum([cost[child] for child in same]) + sum([previous[child] for child in below])
            if beside:  # properties stand side by side: a chain of values goes through one of them
                steps += max([previous[child] for child in beside])
            cost[at] = min(steps, MAX_STEPS + 1)
        if max(cost) > MAX_STEPS:
            if depth <= LEAST_DEPTH:
                raise UnsafeSchema("references multiply: evaluation would be too costly")
            return depth
        if cost == previous:
            return DEEPEST
        previous = cost
    return DEEPEST


def _numbered(
    positions: dict[str, Position], references: dict[str, str]
) -> list[tuple[list[int], list[int], list[int]]]:
    """The graph by number, each node after those applied to the same value. What only refers is its target."""
    order = _order(positions, references)
    numbers: dict[str, int] = {}
    kept: list[str] = []
    for pointer in order:
        position = positions[pointer]
        if pointer in references and not (position.same or position.below or position.property):
            numbers[pointer] = numbers[references[pointer]]
        else:
            numbers[pointer] = len(kept)
            kept.append(pointer)
    nodes = []
    for pointer in kept:
        position = positions[pointer]
        same = [numbers[child] for child in position.same]
        if pointer in references:
            same.append(numbers[references[pointer]])
        beside = {numbers[child] for child in position.property}
        nodes.append((same, [numbers[child] for child in position.below], list(beside)))
    return nodes


def _references(positions: dict[str, Position]) -> dict[str, str]:
    """Pointer of each position with a `$ref` to the pointer of its target."""
    anchors: dict[str, str] = {}
    for pointer, position in positions.items():
        if type(position.schema) is dict and type(anchor := position.schema.get("$anchor")) is str:
            if anchor in anchors:
                raise UnsafeSchema("the same $anchor twice")
            anchors[anchor] = pointer
        if type(position.schema) is dict and type(old := position.schema.get("$id")) is str and old.startswith("#"):
            raise UnsafeSchema("$id used as an anchor")
    found: dict[str, str] = {}
    for pointer, position in positions.items():
        if type(position.schema) is not dict or "$ref" not in position.schema:
            continue
        target = position.schema["$ref"]
        if type(target) is not str or not target.startswith("#"):
            raise UnsafeSchema("$ref that leaves the schema")
        fragment = unquote(target[1:])
        resolved = anchors.get(fragment, fragment)
        if resolved not in positions:
            raise UnsafeSchema("$ref to something that is not a schema here")
        found[pointer] = resolved
    return found


def _order(positions: dict[str, Position], references: dict[str, str]) -> list[str]:
    """Positions such that each stands after those applied to the same value. Raises UnsafeSchema on a cycle."""
    order: list[str] = []
    state: dict[str, int] = {}
    for start in positions:
        stack = [(start, False)]
        while stack:
            pointer, left = stack.pop()
            if left:
                state[pointer] = 2
                order.append(pointer)
                continue
            if pointer in state:
                continue
            state[pointer] = 1
            stack.append((pointer, True))
            following = list(positions[pointer].same)
            if pointer in references:
                following.append(references[pointer])
            for child in following:
                if state.get(child) == 1:
                    raise UnsafeSchema("$ref that comes back to itself without progress")
                if child not in state:
                    stack.append((child, False))
    return order


def _deeper(instance: Any, depth: int) -> bool:
    level = [instance]
    for _ in range(depth):
        level = [
            member
            for value in level
            if type(value) in (dict, list)
            for member in (value.values() if type(value) is dict else value)
        ]
        if not level:
            return False
    return True
