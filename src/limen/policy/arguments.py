"""What Cedar gets to see of arguments: the part of an approved input schema that has a Cedar type.

Strings, integers, booleans, lists of these (as sets) and nested objects of these. Numbers with a fraction, unions and
free-form values have no Cedar type: they are left out of the schema and of every request, so no policy can refer to
them. Conditions run before schema validation, so a value that does not have its approved type is reported as `Mistyped`
and the caller of this module refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Final

import jiter

from limen.core.call import Approved, FlowState
from limen.policy.cedar import literal

_SCALARS: Final = {"string": "String", "integer": "Long", "boolean": "Bool"}
_DEPTH: Final = 4
_FIELDS: Final = 500  # a few references to each other could otherwise unfold without end
_ESCAPES: Final = frozenset({"__entity", "__extn", "__expr"})  # Cedar's JSON form gives these a meaning of their own
_INT64: Final = 1 << 63


class Mistyped(ValueError):
    """An argument does not have its approved type. The message is the path to it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """`type` is "string", "integer", "boolean", "set" (of `element`) or "record" (of `fields`)."""

    type: str
    element: str = ""
    fields: Mapping[str, tuple[Shape, bool]] = field(default_factory=dict)  # name -> shape, required

    def cedar(self, *, all_required: bool = False) -> str:
        """The type in Cedar's schema language."""
        if self.type == "set":
            return f"Set<{_SCALARS[self.element]}>"
        if self.type != "record":
            return _SCALARS[self.type]
        members = (
            f"{literal(name)}{'' if required or all_required else '?'}: {shape.cedar(all_required=all_required)}"
            for name, (shape, required) in sorted(self.fields.items())
        )
        return "{" + ", ".join(members) + "}"


EMPTY: Final = Shape("record")
_PLAIN: Final = {name: Shape(name) for name in _SCALARS}


def shape_of(approved: Approved) -> Shape:
    """The record of arguments this definition declares, as far as Cedar can say it."""
    return _shape(approved.kind, approved.definition)


@lru_cache(maxsize=65_536)
def _shape(kind: str, canonical: bytes) -> Shape:
    """Remembered: an approval of one definition compiles the policy about all of them."""
    definition: dict[str, Any] = jiter.from_json(canonical)
    if kind == "prompt":
        declared = definition.get("arguments") or []
        return Shape(
            "record", fields={item["name"]: (Shape("string"), item.get("required") is True) for item in declared}
        )
    schema = definition.get("inputSchema")
    if kind != "tool" or not isinstance(schema, dict):
        return EMPTY
    return _Reader(schema).record(schema, 0)


class _Reader:
    """Walks one JSON Schema within a budget of fields."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root, self.left = root, _FIELDS

    def record(self, schema: dict[str, Any], depth: int) -> Shape:
        properties = schema.get("properties")
        required = schema.get("required")
        needed = set(required) if isinstance(required, list) else set()
        fields: dict[str, tuple[Shape, bool]] = {}
        for name, inner in sorted(properties.items()) if isinstance(properties, dict) else ():
            self.left -= 1
            if self.left < 0 or name in _ESCAPES:
                continue
            found = self.value(inner, depth + 1)
            if found is not None:
                shape, nullable = found
                fields[name] = (shape, name in needed and not nullable)
        return Shape("record", fields=fields)

    def value(self, schema: Any, depth: int) -> tuple[Shape, bool] | None:
        """Shape and whether null is allowed as well; None where Cedar has no such type."""
        if not isinstance(schema, dict) or depth > _DEPTH:
            return None
        if isinstance(reference := schema.get("$ref"), str):
            return self.value(self.resolve(reference), depth + 1)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self.union(schema[key], depth) if "type" not in schema else None
        kinds = schema.get("type")
        if kinds is None:
            kinds = _type_of_enum(schema)
        names = kinds if isinstance(kinds, list) else [kinds]
        rest = [name for name in names if name != "null"]
        if len(rest) != 1:
            return None
        shape = self.typed(rest[0], schema, depth)
        return (shape, len(rest) != len(names)) if shape else None

    def union(self, options: Any, depth: int) -> tuple[Shape, bool] | None:
        """`X or null`, which is how optional values are often written; other unions have no Cedar type."""
        rest = [option for option in options if option != {"type": "null"}] if isinstance(options, list) else []
        if len(rest) != 1:
            return None
        found = self.value(rest[0], depth + 1)
        return (found[0], True) if found else None

    def typed(self, name: Any, schema: dict[str, Any], depth: int) -> Shape | None:
        if name in _SCALARS:
            return _PLAIN[name]
        if name == "object":
            return self.record(schema, depth)
        if name == "array":
            found = self.value(schema.get("items"), depth + 1)
            if found and found[0].type in _SCALARS and not found[1]:
                return Shape("set", element=found[0].type)
        return None

    def resolve(self, reference: str) -> Any:
        node: Any = self.root
        if not reference.startswith("#/"):
            return None
        for part in reference[2:].split("/"):
            node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
        return node


def _type_of_enum(schema: dict[str, Any]) -> str | None:
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return "string" if isinstance(values, list) and values and all(isinstance(v, str) for v in values) else None


def convert(shape: Shape, value: Any, path: str = "") -> Any:
    """The part of a value Cedar gets to see. Raises Mistyped."""
    if shape.type == "record":
        if not isinstance(value, Mapping):
            raise Mistyped(path or "arguments")
        seen: dict[str, Any] = {}
        for name, (inner, required) in shape.fields.items():
            if name not in value or (value[name] is None and not required):
                continue  # absent: a condition that reads it cannot be evaluated, and that refuses
            seen[name] = convert(inner, value[name], f"{path}/{name}")
        return seen
    if shape.type == "set":
        if not isinstance(value, list):
            raise Mistyped(path)
        return [_scalar(shape.element, item, path) for item in value]
    return _scalar(shape.type, value, path)


def _scalar(name: str, value: Any, path: str) -> Any:
    if name == "integer" and isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        value = int(value)  # JSON Schema counts 3.0 as an integer
    good = {
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64,
    }[name]
    if not good:
        raise Mistyped(path)
    return value


def context_of(shape: Shape, arguments: Mapping[str, Any], flow: FlowState | None = None) -> str:
    """The request's context as JSON; with `flow`, what the caller has read. Raises Mistyped."""
    context: dict[str, Any] = {"arguments": convert(shape, arguments)}
    if flow is not None:
        context["flow"] = asdict(flow)
    return json.dumps(context)
