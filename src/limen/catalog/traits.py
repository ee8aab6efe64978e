"""What one definition is by itself, wherever it came from: claims that do not fit, fields that ask for too much."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from limen.catalog.differences import step
from limen.catalog.findings import Finding, quote
from limen.catalog.text import names_a_secret
from limen.catalog.wording import Traits, wording

# TP-12: parameters a model fills with what it was told in confidence; the second set is often honest.
# Spelled without case and separators.
_HARVEST: Final = frozenset({
    "conversationhistory", "chathistory", "messagehistory", "dialoghistory", "previousmessages", "priormessages",
    "fullconversation", "conversationcontext", "conversationsofar", "systemprompt", "systemmessage",
    "systeminstructions", "developerprompt", "originalprompt", "userprompt", "fullprompt", "toolslist", "toollist",
    "listoftools", "availabletools", "alltools", "othertools", "chainofthought", "fullcontext", "hiddencontext",
    "sessioncontext", "contextwindow", "sidenote", "innerthoughts", "internalreasoning", "toolresults",
    "previousresults",
})  # fmt: skip
_CURIOUS: Final = frozenset({
    "modelname", "modelid", "agentname", "reasoning", "rationale", "transcript", "conversation",
})  # fmt: skip
_READING: Final = frozenset({
    "get", "list", "read", "search", "find", "show", "describe", "check", "count", "is", "has", "fetch", "query",
    "preview", "validate", "view", "lookup", "explain", "inspect", "status", "diff", "compare", "browse", "dry",
    "test",
})  # fmt: skip
_DESTROYING: Final = frozenset({
    "delete", "remove", "drop", "destroy", "erase", "wipe", "purge", "kill", "terminate", "truncate", "revoke",
    "reset", "rm",
})  # fmt: skip
_WRITING: Final = frozenset({
    "write", "create", "update", "insert", "send", "post", "upload", "move", "rename", "set", "put", "patch",
    "install", "publish", "transfer", "pay", "add", "edit", "modify", "append", "save", "store", "commit", "push",
    "merge", "deploy", "grant", "approve", "submit", "invite", "enable", "disable", "start", "stop", "restart",
})  # fmt: skip
_NAME_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_CONTENT: Final = frozenset({"default", "const", "enum", "examples", "example"})
_PROSE: Final = 160  # characters in a default, an example or an enum value: more is no value, it is a text
_PROSE_NAME: Final = re.compile(r"(?:\w+[ ,.:;!?]+){4}|.{65}", re.DOTALL)
_HOST: Final = re.compile(r"[a-z][a-z0-9+.-]*://([^/?#]{1,255})", re.IGNORECASE)
_RENDERED: Final = re.compile(r"(?:ui://|text/html|<(?:html|script|svg|iframe)\b)", re.IGNORECASE)


def traits(kind: str, name: str, definition: Any) -> Traits:
    """Findings in one definition by itself, each under a key by which the same one is known in another version."""
    if type(definition) is not dict or kind == "set":  # a set holds names only, and those are judged one by one
        return {}
    if kind == "server":
        definition = {member: value for member, value in definition.items() if member != "identity"}  # our own words
    addresses = {"/uri", "/uriTemplate"} if kind in ("resource", "template") else set()
    addresses |= {finding.path for finding in _pictures(definition)}  # reported as pictures
    found = wording(definition, frozenset(addresses))
    for finding in (*_claims(kind, name, definition), *_pictures(definition), *_rendered(definition)):
        found.setdefault((finding.id, finding.path + finding.detail), finding)
    for schema in ("inputSchema", "outputSchema"):
        for finding in _fields(definition.get(schema), f"/{schema}"):
            found.setdefault((finding.id, finding.path + finding.detail), finding)
    for finding in _arguments(definition.get("arguments")):
        found.setdefault((finding.id, finding.path + finding.detail), finding)
    return found


def leading_verb(name: str) -> str:
    """What the name says it does: "read", "write", "destroy", or "" when no word of it tells. The first that tells
    counts: `get_deleted_items` and `preview_delete` read."""
    for word in _NAME_WORD.findall(name[:256]):
        low = word.lower()
        for said, words in (("read", _READING), ("destroy", _DESTROYING), ("write", _WRITING)):
            if low in words:
                return said
    return ""


def _claims(kind: str, name: str, definition: dict[str, Any]) -> Iterator[Finding]:
    """TP-13: hints that do not fit the name. Clients ask fewer questions where a tool claims to be harmless."""
    hints = definition.get("annotations")
    if kind != "tool" or type(hints) is not dict:
        return
    said = leading_verb(name)
    read_only, destructive = hints.get("readOnlyHint") is True, hints.get("destructiveHint")
    if read_only and said in ("destroy", "write"):
        weight = 0.6 if said == "destroy" else 0.5
        detail = "claims to only read, and is named after something else"
        yield Finding("annotation.lying", weight, "/annotations/readOnlyHint", detail)
    if not read_only and destructive is False and said == "destroy":
        detail = "claims to destroy nothing, and is named after destroying"
        yield Finding("annotation.lying", 0.45, "/annotations/destructiveHint", detail)
    if read_only and destructive is True:
        detail = "claims to only read and to be destructive"
        yield Finding("annotation.contradiction", 0.35, "/annotations", detail)


def _fields(schema: Any, path: str) -> Iterator[Finding]:
    """Every property anywhere in a schema: what it is called, what is put into it without asking."""
    if type(schema) is list:
        for at, member in enumerate(schema):
            yield from _fields(member, step(path, at))
    if type(schema) is not dict:
        return
    for keyword, value in schema.items():
        here = step(path, keyword)
        if keyword in ("properties", "patternProperties") and type(value) is dict:
            for name, member in value.items():
                yield from _field(name, step(here, name), asked=path.startswith("/inputSchema"))
                yield from _fields(member, step(here, name))
        elif keyword in _CONTENT:
            yield from _values(value, here)
        elif keyword == "x-mcp-header":
            detail = f"the argument is copied into a header named {quote(str(value))}"
            yield Finding("header.mirrored", 0.2, here, detail)
        elif keyword != "required":
            yield from _fields(value, here)


def _field(name: str, path: str, *, asked: bool) -> Iterator[Finding]:
    squeezed = re.sub(r"[\W_]+", "", name).casefold()
    weight = 0.6 if squeezed in _HARVEST else 0.15 if squeezed in _CURIOUS else 0.0
    if asked and weight:
        detail = f"the parameter {quote(name)} asks for what only the model knows"
        yield Finding("schema.harvest", weight, path, detail)
    if asked and names_a_secret(name):
        yield Finding("schema.secret", 0.35, path, f"the parameter {quote(name)} asks for a secret")
    if _PROSE_NAME.match(name):
        yield Finding("schema.prose", 0.4, path, "the name of a parameter is a whole text")


def _values(value: Any, path: str) -> Iterator[Finding]:
    for at, one in enumerate(value if type(value) is list else [value]):
        if type(one) is str and len(one) > _PROSE:
            where = step(path, at) if type(value) is list else path
            yield Finding("schema.prose", 0.3, where, f"a value of {len(one)} characters: no value, a text")


def _arguments(arguments: Any) -> Iterator[Finding]:
    for at, argument in enumerate(arguments if type(arguments) is list else ()):
        if type(argument) is dict and type(argument.get("name")) is str:
            yield from _field(argument["name"], f"/arguments/{at}/name", asked=True)


def _pictures(definition: dict[str, Any]) -> Iterator[Finding]:
    """Icons are fetched by clients: whoever owns the host sees who looks, and can change the picture."""
    icons = definition.get("icons")
    for at, icon in enumerate(icons if type(icons) is list else ()):
        source = icon.get("src") if type(icon) is dict else None
        if type(source) is str and (match := _HOST.match(source)):
            detail = f"clients fetch a picture from {quote(match[1].casefold())}"
            yield Finding("icon.host", 0.15, f"/icons/{at}/src", detail)


def _rendered(definition: dict[str, Any]) -> Iterator[Finding]:
    """Content that a client renders or runs rather than reads (TP-17)."""
    for path, value in (("/_meta", definition.get("_meta")), ("/mimeType", definition.get("mimeType"))):
        stack = [value]
        while stack:
            one = stack.pop()
            stack.extend(one.values() if type(one) is dict else one if type(one) is list else ())
            if type(one) is str and _RENDERED.search(one):
                yield Finding("content.rendered", 0.35, path, f"clients may render it: {quote(one)}")
