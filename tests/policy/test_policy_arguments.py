"""What of an input schema Cedar gets to see."""

from __future__ import annotations

import json

import pytest
from policy_material import INTEGER, STRING, prompt, resource, tool

from limen.policy.arguments import Mistyped, context_of, convert, shape_of


def cedar(properties: dict[str, object], **rest: object) -> str:
    return shape_of(tool("s", "t", properties, **rest)).cedar()  # type: ignore[arg-type]


def test_types() -> None:
    assert cedar({"a": STRING, "b": INTEGER, "c": {"type": "boolean"}}, required=["b"]) == (
        '{"a"?: String, "b": Long, "c"?: Bool}'
    )
    assert cedar({"a": {"type": "array", "items": STRING}}) == '{"a"?: Set<String>}'
    assert cedar({"o": {"type": "object", "properties": {"x": STRING}, "required": ["x"]}}) == ('{"o"?: {"x": String}}')
    assert cedar({"a": {"enum": ["x", "y"]}, "b": {"const": "z"}}) == '{"a"?: String, "b"?: String}'


def test_a_null_makes_it_optional() -> None:
    either = {"anyOf": [STRING, {"type": "null"}]}
    assert cedar({"a": either, "b": {"type": ["integer", "null"]}}, required=["a", "b"]) == (
        '{"a"?: String, "b"?: Long}'
    )
    shape = shape_of(tool("s", "t", {"a": either}))
    assert convert(shape, {"a": None}) == {}


def test_what_has_no_cedar_type_is_left_out() -> None:
    assert cedar({"n": {"type": "number"}, "u": {"type": ["string", "integer"]}, "f": {}, "t": True}) == "{}"
    assert cedar({"a": {"type": "array", "items": {"type": "object"}}, "o": {"oneOf": [STRING, INTEGER]}}) == "{}"
    assert cedar({"__entity": STRING, "__extn": STRING}) == "{}"
    shape = shape_of(tool("s", "t", {"n": {"type": "number"}}))
    assert context_of(shape, {"n": 1.5, "other": {"__entity": {"type": "Caller", "id": "x"}}}) == '{"arguments": {}}'


def test_references_are_followed_within_bounds() -> None:
    made = tool(
        "s",
        "t",
        {"a": {"$ref": "#/$defs/A"}, "far": {"$ref": "https://x.example/"}},
        **{"$defs": {"A": {"type": "object", "properties": {"again": {"$ref": "#/$defs/A"}, "x": STRING}}}},
    )
    text = shape_of(made).cedar()
    assert '"x"?: String' in text
    assert text.count("again") < 6
    many = {f"p{i}": {"$ref": "#/$defs/A"} for i in range(50)}
    wide = tool("s", "t", many, **{"$defs": {"A": {"type": "object", "properties": many}}})
    assert shape_of(wide).cedar().count(":") <= 500


def test_prompts_have_strings_and_resources_nothing() -> None:
    assert shape_of(prompt("s", "p", "style")).cedar() == '{"style": String}'
    assert shape_of(resource("s", "file:///x")).cedar() == "{}"


@pytest.mark.parametrize("value", [1, True, None, [], {}, {"__extn": {"fn": "ip", "arg": "10.0.0.1"}}])
def test_a_value_that_is_not_of_its_type_is_reported(value: object) -> None:
    shape = shape_of(tool("s", "t", {"o": {"type": "object", "properties": {"a": STRING}, "required": ["a"]}}))
    with pytest.raises(Mistyped, match="/o/a"):
        convert(shape, {"o": {"a": value}})
    assert json.loads(context_of(shape, {"o": {"a": "x"}})) == {"arguments": {"o": {"a": "x"}}}


@pytest.mark.parametrize(("value", "good"), [(3, True), (3.0, True), (3.5, False), (True, False), (1 << 63, False)])
def test_integers(value: object, good: bool) -> None:
    shape = shape_of(tool("s", "t", {"n": INTEGER}))
    if good:
        assert convert(shape, {"n": value}) == {"n": 3}
    else:
        with pytest.raises(Mistyped):
            convert(shape, {"n": value})
