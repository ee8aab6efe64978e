"""Mcp-Param-* headers (2026-07-28 transports, "Custom Headers from Tool Parameters"): what may be mirrored, and how.

The approved definition alone says which arguments are mirrored; a header is never copied, always computed again.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import jiter

from limen.catalog.bounds import UnsafeSchema, walk
from limen.catalog.text import names_a_secret
from limen.core.call import Approved, Call
from limen.protocol.inbound import decode_header

KEYWORD: Final = "x-mcp-header"
PREFIX: Final = "Mcp-Param-"
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_PLAIN: Final = re.compile(r"[\x20-\x7e]*")
_DECIMAL: Final = re.compile(r"(-?[0-9]{1,64})(?:\.0{1,64})?")
_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Mirror:
    """One argument that is mirrored: where it stands, its type, and the name of its header."""

    path: tuple[str, ...]
    type: str
    header: str


def mirrors(schema: Any) -> tuple[Mirror, ...]:
    """What the schema asks to be mirrored. Raises UnsafeSchema for an annotation the specification forbids:
    not a token, not on a string, integer or boolean, not unique, not reachable through `properties` alone.
    Also for a parameter that names a secret: headers end up in the logs of every hop.
    """
    found: dict[str, Mirror] = {}
    for position in walk(schema):
        if type(position.schema) is not dict or KEYWORD not in position.schema:
            continue
        token, kind = position.schema[KEYWORD], position.schema.get("type")
        if not position.properties:
            raise UnsafeSchema(f"{KEYWORD} where a chain of properties does not lead")
        if type(token) is not str or not _TOKEN.fullmatch(token):
            raise UnsafeSchema(f"{KEYWORD} is not an RFC 9110 token")
        if kind not in ("string", "integer", "boolean"):
            raise UnsafeSchema(f"{KEYWORD} on something else than a string, integer or boolean")
        if token.lower() in found:
            raise UnsafeSchema(f"the same {KEYWORD} twice")
        if names_a_secret(token) or names_a_secret(position.properties[-1]):
            raise UnsafeSchema(f"{KEYWORD} on a parameter that names a secret")
        found[token.lower()] = Mirror(position.properties, kind, PREFIX + token)
    return tuple(found[token] for token in sorted(found))


@lru_cache(maxsize=8192)
def _mirrors_of(definition: bytes) -> tuple[Mirror, ...]:
    if KEYWORD.encode() not in definition:
        return ()
    return mirrors(jiter.from_json(definition).get("inputSchema", {}))


def param_headers(approved: Approved, call: Call) -> tuple[tuple[str, str], ...]:
    """The headers to send upstream with this call's arguments. Raises UnsafeSchema if the definition cannot be used."""
    declared = _mirrors_of(approved.definition) if approved.kind == "tool" else ()
    if not declared:
        return ()
    arguments = call.read_arguments()
    found = []
    for mirror in declared:
        rendered = _render(_at(arguments, mirror.path))
        if rendered is not None:
            found.append((mirror.header, encode(rendered)))
    return tuple(found)


def encode(value: str) -> str:
    """As is where it survives an HTTP field, else in the base64 sentinel."""
    if _PLAIN.fullmatch(value) and value == value.strip(" ") and not (value[:9] == "=?base64?" and value[-2:] == "?="):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def disagreement(approved: Approved, call: Call, arguments: Mapping[str, Any]) -> str:
    """Why the presented Mcp-Param-* headers do not match the body, or "". Headers nobody declared are ignored."""
    for mirror in _mirrors_of(approved.definition):
        wanted = mirror.header.lower()
        presented = [value for name, value in call.param_headers if name == wanted]
        value = _at(arguments, mirror.path)
        rendered = _render(value)
        if not presented and rendered is None:
            continue
        if len(presented) != 1:
            return f"{wanted}: {'missing' if not presented else 'more than once'}"
        decoded = decode_header(presented[0]) if _PLAIN.fullmatch(presented[0]) else None
        if decoded is None:
            return f"{wanted}: cannot be decoded"
        if rendered is None:
            return f"{wanted}: the body has no such argument"
        if decoded != rendered and not (mirror.type == "integer" and _same_number(value, decoded)):
            return f"{wanted}: differs from the body"
    return ""


def _at(arguments: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = arguments
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return _ABSENT
        value = value[name]
    return value


def _render(value: Any) -> str | None:
    """The header's text for an argument; None where there is nothing to mirror (absent, null, not a scalar)."""
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is float and value.is_integer():
        return str(int(value))
    return str(value) if type(value) in (str, int, float) else None


def _same_number(value: Any, text: str) -> bool:
    """Compared exactly, without a detour through floating point: 42 equals 42.0, and nothing is rounded."""
    match = _DECIMAL.fullmatch(text)
    if match is None or type(value) not in (int, float) or value != value // 1:
        return False
    return int(match[1]) == int(value)
