"""How one JSON Schema differs from another: what is allowed now that was not, what is asked for now that was not.

Keyword by keyword, from tables. What a keyword cannot tell the direction of is reported as altered, never left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import jiter

from limen.catalog.differences import match, step
from limen.catalog.findings import Finding, quote
from limen.protocol.jsonrpc import canonical

# id: (weight for what a caller sends, weight for what a server answers)
WEIGHTS: Final[Mapping[str, tuple[float, float]]] = {
    "widened": (0.35, 0.2),
    "narrowed": (0.15, 0.15),
    "altered": (0.3, 0.2),
    "opened": (0.4, 0.2),  # additionalProperties and its kin: anything may be sent along
    "property_added": (0.25, 0.15),
    "property_removed": (0.15, 0.15),
    "required_added": (0.45, 0.15),
    "required_removed": (0.2, 0.15),
    "default": (0.2, 0.15),  # what is sent when nobody decides
    "text": (0.02, 0.02),
    "annotation": (0.02, 0.02),
    "header": (0.4, 0.4),  # x-mcp-header: the argument is copied into a header, which every hop may log
}
_UPPER: Final = frozenset(
    {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxContains"}  # smaller is stricter
)
_LOWER: Final = frozenset(
    {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains"}  # larger is stricter
)
_ANY: Final = frozenset(
    {"additionalProperties", "additionalItems", "unevaluatedProperties", "unevaluatedItems", "items"}  # absent: true
)
_MAPS: Final = frozenset({"patternProperties", "dependentSchemas", "$defs", "definitions"})
_TEXTS: Final = frozenset({"title", "description", "$comment", "examples", "example"})
_NOTES: Final = frozenset({"deprecated", "readOnly", "writeOnly", "$schema", "$id", "$anchor"})
_BARRIERS: Final = frozenset(
    {"pattern", "format", "multipleOf", "not", "propertyNames", "contains", "dependentRequired", "uniqueItems"}
)
_TYPES: Final = ("null", "boolean", "object", "array", "number", "integer", "string")


def schema_findings(before: Any, after: Any, pointer: str, *, output: bool = False) -> Iterator[Finding]:
    """What changed between two schemas at this pointer. Of an output schema the ids begin with "output."."""
    yield from _Comparison(output).schema(before, after, pointer)


class _Comparison:
    __slots__ = ("_output",)

    def __init__(self, output: bool) -> None:
        self._output = output

    def found(self, what: str, path: str, detail: str) -> Finding:
        room = "text" if what == "text" else "output" if self._output else "schema"
        name = "changed" if what == "text" else what
        return Finding(f"{room}.{name}", WEIGHTS[what][self._output], path, detail)

    def schema(self, before: Any, after: Any, path: str) -> Iterator[Finding]:
        if type(before) is not dict or type(after) is not dict:
            if canonical(before) != canonical(after):
                yield self._replaced(before, after, path)
            return
        yield from self._properties(before, after, path)
        yield from self._values(before, after, path)
        yield from self._type(before, after, path)
        for keyword in sorted({*before, *after} - {"properties", "required", "enum", "const", "type"}):
            here = step(path, keyword)
            if keyword in _ANY and type(before.get(keyword)) is not list and type(after.get(keyword)) is not list:
                yield from self._any(before.get(keyword, True), after.get(keyword, True), here)
            elif canonical(before.get(keyword)) != canonical(after.get(keyword)) or (
                (keyword in before) != (keyword in after)
            ):
                yield from self._keyword(keyword, before, after, here)

    def _replaced(self, before: Any, after: Any, path: str) -> Finding:
        if after is True or before is False:
            return self.found("opened", path, "anything is allowed here now")
        if after is False or before is True:
            return self.found("narrowed", path, "what is allowed here is restricted now")
        return self.found("altered", path, "is another schema now")

    def _any(self, before: Any, after: Any, path: str) -> Iterator[Finding]:
        if canonical(before) == canonical(after):
            return
        if type(before) is dict and type(after) is dict:
            yield from self.schema(before, after, path)
        else:
            yield self._replaced(before, after, path)

    def _properties(self, before: dict[str, Any], after: dict[str, Any], path: str) -> Iterator[Finding]:
        old, new = _mapping(before, "properties"), _mapping(after, "properties")
        old_required, new_required = _names(before), _names(after)
        place = step(path, "properties")
        for name in sorted(new.keys() - old.keys() - new_required):
            yield self.found("property_added", step(place, name), f"a new optional parameter {quote(name)}")
        for name in sorted(new_required - old_required):
            what = "a new required parameter" if name not in old else "now required:"
            where = step(place, name) if name in new else step(path, "required")
            yield self.found("required_added", where, f"{what} {quote(name)}")
        for name in sorted(old_required - new_required):
            yield self.found("required_removed", step(path, "required"), f"no longer required: {quote(name)}")
        for name in sorted(old.keys() - new.keys()):
            yield self.found("property_removed", step(place, name), f"the parameter {quote(name)} is gone")
        for name in sorted(old.keys() & new.keys()):
            yield from self.schema(old[name], new[name], step(place, name))

    def _values(self, before: dict[str, Any], after: dict[str, Any], path: str) -> Iterator[Finding]:
        old, new = _allowed(before), _allowed(after)
        keyword = "const" if "const" in before or "const" in after else "enum"
        here = step(path, keyword)
        if old is None and new is not None:
            yield self.found("narrowed", here, f"only {len(new)} values are allowed now")
        elif old is not None and new is None:
            yield self.found("widened", here, "any value is allowed now, no longer one of a list")
        elif old is not None and new is not None:
            for value in sorted(new - old):
                yield self.found("widened", here, f"also allows {_shown(value)}")
            for value in sorted(old - new):
                yield self.found("narrowed", here, f"no longer allows {_shown(value)}")

    def _type(self, before: dict[str, Any], after: dict[str, Any], path: str) -> Iterator[Finding]:
        old, new, here = _types(before), _types(after), step(path, "type")
        if added := sorted(new - old):
            yield self.found("widened", here, f"also allows {', '.join(map(_type_name, added))}")
        if gone := sorted(old - new):
            yield self.found("narrowed", here, f"no longer allows {', '.join(map(_type_name, gone))}")

    def _keyword(self, keyword: str, before: dict[str, Any], after: dict[str, Any], here: str) -> Iterator[Finding]:
        old, new = before.get(keyword), after.get(keyword)
        if keyword in _UPPER or keyword in _LOWER:
            yield self._bound(keyword, before, after, here)
        elif keyword in _BARRIERS:
            yield self._barrier(keyword, before, after, here)
        elif keyword in _TEXTS:
            yield self.found("text", here, f"{keyword} differs")
        elif keyword in _NOTES:
            yield self.found("annotation", here, f"{keyword} differs")
        elif keyword == "default":
            yield self.found("default", here, "the value that is sent when none is given differs")
        elif keyword == "x-mcp-header":
            yield self.found("header", here, _mirrored(old, new))
        elif keyword in _MAPS and type(old) is dict and type(new) is dict:
            yield from self._map(old, new, here)
        elif keyword in ("anyOf", "oneOf", "allOf", "prefixItems", "items") and type(old) is type(new) is list:
            yield from self._branches(keyword, old, new, here)
        elif keyword in ("anyOf", "oneOf", "allOf", "$ref", "if", "then", "else"):
            loose = keyword in before and keyword not in after
            yield self.found("widened" if loose else "altered", here, f"{keyword} {_verb(keyword, before, after)}")
        else:
            yield self.found("altered", here, f"{quote(keyword)} {_verb(keyword, before, after)}")

    def _bound(self, keyword: str, before: dict[str, Any], after: dict[str, Any], here: str) -> Finding:
        if keyword not in before:
            return self.found("narrowed", here, "a new limit")
        if keyword not in after:
            return self.found("widened", here, "the limit is gone")
        old, new = before[keyword], after[keyword]
        if type(old) not in (int, float) or type(new) not in (int, float) or old == new:
            return self.found("altered", here, "is another limit now")
        looser = new > old if keyword in _UPPER else new < old
        return self.found("widened" if looser else "narrowed", here, f"the limit is {new!r:.40}, it was {old!r:.40}")

    def _barrier(self, keyword: str, before: dict[str, Any], after: dict[str, Any], here: str) -> Finding:
        if not before.get(keyword):
            return self.found("narrowed", here, f"{keyword} restricts the value now")
        if not after.get(keyword):
            return self.found("widened", here, f"{keyword} no longer restricts the value")
        return self.found("altered", here, f"{keyword} is another one now")

    def _map(self, old: dict[str, Any], new: dict[str, Any], here: str) -> Iterator[Finding]:
        for name in sorted(old.keys() ^ new.keys()):
            yield self.found("altered", step(here, name), f"{quote(name)} is {'new' if name in new else 'gone'}")
        for name in sorted(old.keys() & new.keys()):
            yield from self.schema(old[name], new[name], step(here, name))

    def _branches(self, keyword: str, old: list[Any], new: list[Any], here: str) -> Iterator[Finding]:
        gone, added, reordered = match(old, new)
        if reordered:
            yield self.found("altered", here, "stands in another order")
            return
        for one, other in zip(gone, added, strict=False):
            yield from self.schema(old[one], new[other], step(here, other))
        alternative = keyword in ("anyOf", "oneOf")
        for at in added[len(gone) :]:
            yield self.found("widened" if alternative else "narrowed", step(here, at), f"one more schema in {keyword}")
        for at in gone[len(added) :]:
            yield self.found("narrowed" if alternative else "widened", step(here, at), f"one schema less in {keyword}")


def _mapping(schema: dict[str, Any], keyword: str) -> dict[str, Any]:
    value = schema.get(keyword)
    return value if type(value) is dict else {}


def _names(schema: dict[str, Any]) -> set[str]:
    value = schema.get("required")
    return {name for name in value if type(name) is str} if type(value) is list else set()


def _allowed(schema: dict[str, Any]) -> set[bytes] | None:
    """Canonical values `enum` or `const` allow; None: all."""
    if "const" in schema:
        return {canonical(schema["const"])}
    return {canonical(one) for one in schema["enum"]} if type(schema.get("enum")) is list else None


def _shown(value: bytes) -> str:
    text = jiter.from_json(value)
    return quote(text if type(text) is str else value.decode())


def _types(schema: dict[str, Any]) -> set[str]:
    value = schema.get("type", list(_TYPES))
    named = {value} if type(value) is str else {one for one in value if type(one) is str} if type(value) is list else ()
    return {*named, "integer"} if "number" in named else set(named)


def _type_name(name: str) -> str:
    return name if name in _TYPES else quote(name)


def _verb(keyword: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    return "is new" if keyword not in before else "is gone" if keyword not in after else "differs"


def _mirrored(old: Any, new: Any) -> str:
    if new is None:
        return "the argument is no longer copied into a header"
    return f"the argument is copied into a header named {quote(str(new))}" + (
        ", another one than before" if old else ""
    )
