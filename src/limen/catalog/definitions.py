"""What a server may announce, and the digest that pins it. Everything else is held, with a reason for the operator.

A digest covers the whole definition, members we do not know included: whatever a model can see cannot change unseen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from limen.catalog.bounds import UnsafeSchema, compile_schema
from limen.catalog.headers import mirrors
from limen.catalog.templates import template_fault, uri_fault
from limen.catalog.text import hidden_character, printable
from limen.core.announce import Announcement
from limen.protocol.jsonrpc import canonical

__all__ = ["Definition", "Held", "Intake", "check", "digest_of", "intake", "printable"]

KINDS: Final = ("tool", "prompt", "resource", "template", "instructions", "server", "set")
NAMELESS: Final = frozenset({"instructions", "server", "set"})  # one per server, with the name ""
MAX_ITEMS: Final = 512
MAX_DEFINITION: Final = 256 << 10
MAX_SET: Final = 2 << 20  # four full lists of long addresses
MAX_SERVER: Final = 8 << 20
MAX_SERVER_NODES: Final = 50_000  # objects and lists, references weighing more
MAX_REMEMBERED: Final = 16_384
MAX_TEXT: Final = 16 << 10
MAX_DEPTH: Final = 48
_NAME: Final = re.compile(r"[A-Za-z0-9._/-]{1,128}")
_RESERVED: Final = frozenset({"__proto__"})
_ICON: Final = re.compile(
    r"https://[^\s\\]{1,2040}|data:image/(?:png|jpe?g|webp|gif|svg\+xml);base64,[A-Za-z0-9+/]+={0,2}"
)
_HINTS: Final = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
_KEY: Final = {"tool": "name", "prompt": "name", "resource": "uri", "template": "uriTemplate"}


@dataclass(frozen=True, slots=True)
class Definition:
    """One well-formed definition: canonical bytes and their sha256."""

    kind: str
    name: str
    digest: str
    canonical: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """Something announced that nobody can approve as it is. `name` is printable and short."""

    kind: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Intake:
    """One reading, sorted. With `whole` everything of the server is held for that reason."""

    accepted: tuple[Definition, ...]
    held: tuple[Held, ...]
    whole: str = ""


class _Unfit(ValueError):
    """This definition is held. The message is the reason."""


def digest_of(data: bytes) -> str:
    """Digest of a canonical definition."""
    return sha256(data).hexdigest()


def intake(announcement: Announcement) -> Intake:
    """Sort one complete reading of a server into what can be approved and what is held. Never raises for content."""
    groups: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("tool", announcement.tools),
        ("prompt", announcement.prompts),
        ("resource", announcement.resources),
        ("template", announcement.templates),
    )
    accepted: list[Definition] = []
    held: list[Held] = []
    _take("server", server_record(announcement), accepted, held)
    for kind, items in groups:
        if len(items) > MAX_ITEMS:
            whole = f"announces {len(items)} definitions of kind {kind}: more than {MAX_ITEMS}"
            return Intake(tuple(accepted), tuple(held), whole)
    if whole := _too_much([item for _, items in groups for item in items]):
        return Intake(tuple(accepted), tuple(held), whole)
    for kind, items in groups:
        twice = _twice(kind, items)
        for item in items:
            try:
                definition = check(kind, item)
                if _fold(kind, definition.name) in twice:
                    raise _Unfit("announced more than once, or in two spellings")
                accepted.append(definition)
            except _Unfit as error:
                held.append(Held(kind, _shown(kind, item), str(error)))
    if announcement.instructions:
        _take("instructions", {"instructions": announcement.instructions}, accepted, held)
    _take("set", _set_record(groups, announcement.instructions), accepted, held)
    return Intake(tuple(accepted), tuple(held))


def server_record(announcement: Announcement) -> dict[str, Any]:
    """Who the server says it is and can do, beside what we found ourselves connected to."""
    return {
        "serverInfo": announcement.info,
        "capabilities": announcement.capabilities,
        "identity": dict(announcement.identity),
    }


def _set_record(groups: tuple[tuple[str, tuple[Any, ...]], ...], instructions: str | None) -> dict[str, Any]:
    """Kind and name of all that is announced, as often as it is, held or not. A name that cannot be shown as it is
    stands with the digest of its definition."""
    rows = [_listed(kind, item) for kind, items in groups for item in items]
    rows += [["instructions", ""]] if instructions else []
    return {"announced": sorted(rows)}


def _listed(kind: str, item: Any) -> list[str]:
    name = item.get(_KEY[kind]) if type(item) is dict else None
    if type(name) is str and len(name) <= 512 and not hidden_character(name):
        return [kind, name]
    data = _written(item)
    return [kind, _shown(kind, item), digest_of(data) if data is not None else ""]


def _take(kind: str, item: dict[str, Any], accepted: list[Definition], held: list[Held]) -> None:
    try:
        accepted.append(check(kind, item))
    except _Unfit as error:
        held.append(Held(kind, "", str(error)))


def check(kind: str, item: Any) -> Definition:
    """The definition if it can be approved. Raises ValueError with the reason it is held.

    Verdicts are remembered by digest: a server that is read every minute is judged once.
    """
    if type(item) is not dict:
        raise _Unfit("not an object")
    data = _written(item)
    if data is None:
        raise _Unfit("cannot be written as JSON")
    if len(data) > (most := MAX_SET if kind == "set" else MAX_DEFINITION):
        raise _Unfit(f"larger than {most} bytes")
    digest = digest_of(data)
    reason = _verdicts.get((kind, digest))
    if reason is None:
        try:
            _judge(kind, item)
            reason = ""
        except _Unfit as error:
            reason = str(error)
        if len(_verdicts) >= MAX_REMEMBERED:
            _verdicts.clear()
        _verdicts[kind, digest] = reason
    if reason:
        raise _Unfit(reason)
    return Definition(kind, "" if kind in NAMELESS else item[_KEY[kind]], digest, data)


_verdicts: Final[dict[tuple[str, str], str]] = {}


def _judge(kind: str, item: dict[str, Any]) -> None:
    if kind not in NAMELESS:
        _check_name(kind, item)
    for text in _texts(item):
        if found := hidden_character(text):
            raise _Unfit(f"contains the invisible or control character {found}")
    for member in ("title", "description", "instructions", "mimeType"):
        if type(text := item.get(member, "")) is not str or len(text.encode()) > MAX_TEXT:
            raise _Unfit(f"{member} is not text of at most {MAX_TEXT} bytes")
    _CHECKS[kind](item)


def _written(item: Any) -> bytes | None:
    try:
        return canonical(item)
    except (TypeError, ValueError, RecursionError):
        return None


def _too_much(items: list[Any]) -> str:
    """Why judging these would take too long, or "". What is too large by itself is held by itself."""
    size = nodes = 0
    for item in items:
        data = _written(item) or b""
        if len(data) <= MAX_DEFINITION:
            size += len(data)
            nodes += data.count(b"{") + data.count(b"[") + 8 * data.count(b'"$ref"')  # a reference is dear to judge
    if size > MAX_SERVER or nodes > MAX_SERVER_NODES:
        return f"announces {size} bytes and {nodes} objects: more than {MAX_SERVER} or {MAX_SERVER_NODES}"
    return ""


def _check_name(kind: str, item: dict[str, Any]) -> None:
    name: object = item.get(_KEY[kind])
    if kind in ("tool", "prompt"):
        if type(name) is not str or not _NAME.fullmatch(name) or name in _RESERVED:
            raise _Unfit("name is not 1 to 128 of A-Z a-z 0-9 . _ / -")
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise _Unfit("name has an empty or relative path segment")
        return
    fault = uri_fault(name) if kind == "resource" else template_fault(name)
    if fault:
        raise _Unfit(f"{_KEY[kind]}: {fault}")
    if type(item.get("name")) is not str or len(item["name"]) > 256:
        raise _Unfit("name is not text of at most 256 characters")


def _fold(kind: str, name: str) -> str:
    return name.casefold() if kind in ("tool", "prompt") else name


def _twice(kind: str, items: tuple[Any, ...]) -> frozenset[str]:
    names = (item.get(_KEY[kind]) for item in items if type(item) is dict)
    counted = Counter(_fold(kind, name) for name in names if type(name) is str)
    return frozenset(name for name, count in counted.items() if count > 1)


def _shown(kind: str, item: Any) -> str:
    name = item.get(_KEY[kind]) if type(item) is dict else None
    return printable(name[:120]) if type(name) is str else ""


def _texts(item: Any) -> Iterator[str]:
    """Every text in the value, member names included. Raises _Unfit when it is nested too deeply."""
    level = [item]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if type(value) is dict:
                yield from value
                below.extend(value.values())
            elif type(value) is list:
                below.extend(value)
            elif type(value) is str:
                yield value
        if not below:
            return
        level = below
    raise _Unfit(f"nested deeper than {MAX_DEPTH}")


def _check_tool(item: dict[str, Any]) -> None:
    schema = item.get("inputSchema")
    if type(schema) is not dict or schema.get("type") != "object":
        raise _Unfit("inputSchema is not an object schema of type object")
    for member in ("inputSchema", "outputSchema"):
        if member not in item:
            continue
        try:
            compile_schema(item[member])
            if member == "inputSchema":
                mirrors(item[member])
        except UnsafeSchema as error:
            raise _Unfit(f"{member}: {error}") from None
    hints = item.get("annotations", {})
    if type(hints) is not dict or any(type(hints.get(hint, False)) is not bool for hint in _HINTS):
        raise _Unfit("annotations are not an object of boolean hints")
    if type(hints.get("title", "")) is not str or type(item.get("execution", {})) is not dict:
        raise _Unfit("annotations.title is not text, or execution is not an object")
    _check_icons(item)


def _check_prompt(item: dict[str, Any]) -> None:
    arguments = item.get("arguments", [])
    if type(arguments) is not list or len(arguments) > 64:
        raise _Unfit("arguments are not a list of at most 64")
    names = []
    for argument in arguments:
        if type(argument) is not dict or type(argument.get("name")) is not str or not 0 < len(argument["name"]) <= 128:
            raise _Unfit("an argument without a name of 1 to 128 characters")
        if type(argument.get("required", False)) is not bool:
            raise _Unfit("an argument's required is not a boolean")
        if any(type(argument.get(member, "")) is not str for member in ("title", "description")):
            raise _Unfit("an argument's title or description is not text")
        names.append(argument["name"].casefold())
    if len(set(names)) < len(names):
        raise _Unfit("two arguments of the same name")
    _check_icons(item)


def _check_resource(item: dict[str, Any]) -> None:
    if type(item.get("annotations", {})) is not dict or type(item.get("size", 0)) is not int:
        raise _Unfit("annotations are not an object, or size is not an integer")
    _check_icons(item)


def _check_instructions(item: dict[str, Any]) -> None:
    if set(item) != {"instructions"}:
        raise _Unfit("not the instructions of a server")


def _check_server(item: dict[str, Any]) -> None:
    if set(item) != {"serverInfo", "capabilities", "identity"} or any(type(part) is not dict for part in item.values()):
        raise _Unfit("not the record of a server")
    if any(type(value) is not str for value in item["identity"].values()):
        raise _Unfit("identity is not a set of texts")
    for member in ("name", "title", "version", "description", "websiteUrl"):
        if type(text := item["serverInfo"].get(member, "")) is not str or len(text.encode()) > MAX_TEXT:
            raise _Unfit(f"serverInfo.{member} is not text of at most {MAX_TEXT} bytes")
    _check_icons(item["serverInfo"])


def _check_set(item: dict[str, Any]) -> None:
    rows = item.get("announced")
    if set(item) != {"announced"} or type(rows) is not list:
        raise _Unfit("not the list of what a server announces")
    for row in rows:
        if type(row) is not list or len(row) not in (2, 3) or any(type(part) is not str for part in row):
            raise _Unfit("a row of the list is not a kind and a name")


def _check_icons(item: dict[str, Any]) -> None:
    """Only https and image data: a client that shows an icon fetches it or interprets it."""
    icons = item.get("icons", [])
    if type(icons) is not list or len(icons) > 16:
        raise _Unfit("icons are not a list of at most 16")
    for icon in icons:
        if type(icon) is not dict or type(icon.get("src")) is not str or not _ICON.fullmatch(icon["src"]):
            raise _Unfit("an icon that is neither https nor image data")
    if type(item.get("_meta", {})) is not dict:
        raise _Unfit("_meta is not an object")


_CHECKS: Final = {
    "tool": _check_tool,
    "prompt": _check_prompt,
    "resource": _check_resource,
    "template": _check_resource,
    "instructions": _check_instructions,
    "server": _check_server,
    "set": _check_set,
}
