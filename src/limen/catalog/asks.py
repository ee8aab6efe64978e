"""What a server may ask a client for: a flat form with no secrets in it (2026-07-28 elicitation and input requests).

Sampling and roots are refused: they hand the client's model or its directory names to whoever asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from limen.catalog.blocks import Rebuild, Unacceptable
from limen.catalog.text import names_a_secret

MAX_REQUESTS: Final = 16
MAX_FIELDS: Final = 64
MAX_TEXT: Final = 4096
MAX_CHOICES: Final = 256
_FORMATS: Final = ("email", "uri", "date", "date-time")
_NUMBERS: Final = (int, float)
_SHAPES: Final[Mapping[str, Mapping[str, tuple[type, ...]]]] = {
    "string": {"minLength": (int,), "maxLength": (int,), "default": (str,)},
    "number": {"minimum": _NUMBERS, "maximum": _NUMBERS, "default": _NUMBERS},
    "integer": {"minimum": _NUMBERS, "maximum": _NUMBERS, "default": _NUMBERS},
    "boolean": {"default": (bool,)},
    "array": {"minItems": (int,), "maxItems": (int,)},
}


def judge_requests(requests: object, rebuild: Rebuild) -> dict[str, dict[str, Any]]:
    """The input requests as a client may see them. Raises Unacceptable."""
    if type(requests) is not dict or not 0 < len(requests) <= MAX_REQUESTS:
        raise Unacceptable(f"input requests are not 1 to {MAX_REQUESTS} named requests")
    judged = {}
    for name, request in requests.items():
        if not 0 < len(name) <= 128 or rebuild.text(name) is not name or type(request) is not dict:
            raise Unacceptable("an input request whose name or shape is not usable")
        if request.get("method") != "elicitation/create":
            raise Unacceptable("the server asks for something else than a form: sampling and roots are not let through")
        rebuild.only(request, "method", "params")
        judged[name] = {"method": "elicitation/create", "params": judge_form(request.get("params"), rebuild)}
    return judged


def judge_form(params: object, rebuild: Rebuild) -> dict[str, Any]:
    """Parameters of elicitation/create in form mode, built again. Raises Unacceptable.

    Refused: other modes, nesting, and forms that ask for credentials by the name, the title or the format of a field,
    or by a message above a free text field.
    """
    if type(params) is not dict or params.get("mode", "form") != "form":
        raise Unacceptable("an elicitation in another mode than form")
    message, schema = params.get("message"), params.get("requestedSchema")
    if type(message) is not str or len(message) > MAX_TEXT:
        raise Unacceptable(f"an elicitation without a message of at most {MAX_TEXT} characters")
    if type(schema) is not dict or schema.get("type") != "object" or type(schema.get("properties")) is not dict:
        raise Unacceptable("an elicitation without a flat object schema")
    if len(schema["properties"]) > MAX_FIELDS:
        raise Unacceptable(f"a form of more than {MAX_FIELDS} fields")
    rebuild.only(params, "mode", "message", "requestedSchema")
    rebuild.only(schema, "type", "properties", "required")
    fields = {name: _field(name, field, rebuild) for name, field in schema["properties"].items()}
    free = any(field["type"] == "string" and not {"enum", "oneOf"} & field.keys() for field in fields.values())
    if free and names_a_secret(message):
        raise Unacceptable("a form that asks for a secret in its message")
    built: dict[str, Any] = {"type": "object", "properties": fields}
    required = schema.get("required", [])
    if type(required) is not list or any(name not in fields for name in required):
        raise Unacceptable("a form that requires what it does not have")
    if required:
        built["required"] = list(required)
    form = {"message": rebuild.text(message), "requestedSchema": built}
    return {"mode": "form", **form} if "mode" in params else form


def _field(name: str, field: object, rebuild: Rebuild) -> dict[str, Any]:
    if not 0 < len(name) <= 128 or rebuild.text(name) is not name:
        raise Unacceptable("a field whose name is not usable")
    kind = field.get("type") if type(field) is dict else None
    if type(field) is not dict or type(kind) is not str or kind not in _SHAPES:
        raise Unacceptable("a field that is not text, a number, a choice or yes and no")
    built: dict[str, Any] = {"type": kind}
    for member in ("title", "description"):
        if type(text := field.get(member, "")) is not str or len(text) > MAX_TEXT:
            raise Unacceptable(f"a field whose {member} is not text")
        if text:
            built[member] = rebuild.text(text)
    shown = (name, built.get("title", ""))
    if kind != "boolean" and (any(names_a_secret(text) for text in shown) or field.get("format") == "password"):
        raise Unacceptable("a form that asks for a secret")
    for member, types in _SHAPES[kind].items():
        if member in field:
            if type(field[member]) not in types:
                raise Unacceptable(f"a field whose {member} is of the wrong type")
            built[member] = rebuild.json(field[member])
    if kind == "string":
        _choices(field, built, rebuild, ("enum", "enumNames", "oneOf"))
        if field.get("format") in _FORMATS:
            built["format"] = field["format"]
    elif kind == "array":
        items = field.get("items")
        if type(items) is not dict:
            raise Unacceptable("a list that is not a choice")
        built["items"] = {"type": "string"} if "type" in items else {}
        _choices(items, built["items"], rebuild, ("enum", "anyOf"))
        if not {"enum", "anyOf"} & built["items"].keys():
            raise Unacceptable("a list that is not a choice")
        if "default" in field:
            built["default"] = _texts(field["default"], rebuild)
    for member in field:
        if member not in built:
            rebuild.note("a member that is not passed on")
    return built


def _choices(field: dict[str, Any], built: dict[str, Any], rebuild: Rebuild, members: tuple[str, ...]) -> None:
    for member in members:
        if member not in field:
            continue
        if member in ("enum", "enumNames"):
            built[member] = _texts(field[member], rebuild)
            continue
        options = field[member]
        if type(options) is not list or not 0 < len(options) <= MAX_CHOICES:
            raise Unacceptable("a choice that is not a list")
        pairs = []
        for option in options:
            if type(option) is not dict or type(option.get("const")) is not str or type(option.get("title")) is not str:
                raise Unacceptable("an option without a value and a title")
            rebuild.only(option, "const", "title")
            pairs.append({"const": rebuild.text(option["const"]), "title": rebuild.text(option["title"])})
        built[member] = pairs


def _texts(value: object, rebuild: Rebuild) -> list[str]:
    if type(value) is not list or len(value) > MAX_CHOICES or any(type(text) is not str for text in value):
        raise Unacceptable("a choice that is not a list of texts")
    return [rebuild.text(text) for text in value]
