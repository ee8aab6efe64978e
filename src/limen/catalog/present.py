"""A definition, or what changed in it, for a person who has never seen it and has to decide.

Each line says by its beginning whose words it holds, and no text of a server can begin a line:

    "= "     ours alone: what it is, the risk, counts, digests. No character in it comes from the server.
    "  @ "   a JSON pointer          "  - "  how it was          "  + "  how it is now
    "  * "   a name or a fact        "  ! "  what a finding is about

After the mark stands "|", or ":" where the line above goes on. Unusual characters are spelled out between ⟦ and ⟧,
removed words stand in ⟦-...-⟧, new ones in ⟦+...+⟧. Texts are never cut: the last line counts what was shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import jiter

from limen.catalog.definitions import digest_of
from limen.catalog.differences import Edit, edits
from limen.catalog.risk import Assessment, Neighbours, assess
from limen.catalog.visible import WIDTH, fold, lines, visible
from limen.catalog.words import mark_words

_NO_NEIGHBOURS: Final = Neighbours(())
_OURS: Final = "= "
_KINDS: Final[Mapping[str, str]] = {
    "tool": "a tool: a model may call it, the server then acts",
    "prompt": "a prompt: a text the server writes for a conversation",
    "resource": "a resource: content the server hands out under one address",
    "template": "a template of resources: content under many addresses",
    "instructions": "the instructions of a server: a model reads them before anything else",
    "server": "who the server is: what it says of itself, and what we connected to",
    "set": "the list of everything the server announces",
    "": "a definition",
}
_HINTS: Final[Mapping[str, tuple[str, str]]] = {
    "readOnlyHint": ("claims to only read", "claims to change things"),
    "destructiveHint": ("claims it may destroy", "claims to destroy nothing"),
    "idempotentHint": ("claims that calling twice does no more than once", "claims that each call does more"),
    "openWorldHint": ("claims to reach the outside world", "claims to reach nothing outside"),
}
_NAMES: Final = ("name", "title", "uri", "uriTemplate")


def diff_lines(
    before: bytes | None,
    after: bytes,
    *,
    server: str = "",
    kind: str = "",
    name: str = "",
    assessment: Assessment | None = None,
) -> list[str]:
    """The lines, none longer than `visible.WIDTH` columns. `before` and `after` are canonical JSON; `before` None:
    first contact, and all of it is shown. Without `assessment` one is made that knows no other definitions.

    Raises ValueError for what is not JSON.
    """
    new = jiter.from_json(after)
    guessed = kind or kind_of(new)
    if assessment is None:
        assessment = assess(server, guessed, name or _name_of(new), before, after, _NO_NEIGHBOURS)
    shown = [*_introduction(guessed, new), *_judgement(before, assessment)]
    differences = list(edits(before, after)) if before is not None else list(edits(b"{}", after))
    shown.append(_OURS.rstrip())
    shown.append(f"{_OURS}{_fields(before, len(differences))}")
    for edit in differences:
        shown.extend(_edit(edit))
    shown.append(_OURS.rstrip())
    if before is not None:
        shown.append(f"{_OURS}sha256 of what is approved: {digest_of(before)[:32]}")
        shown.append(f"{_OURS}                            {digest_of(before)[32:]}")
    shown.append(f"{_OURS}sha256 of what is shown:    {digest_of(after)[:32]}")
    shown.append(f"{_OURS}                            {digest_of(after)[32:]}")
    shown.append(f"{_OURS}end of {len(differences)} fields in {len(shown) + 1} lines")
    return shown


def kind_of(definition: Any) -> str:
    """What kind of definition this is, by its members; "" when none fits."""
    if type(definition) is not dict:
        return ""
    for member, kind in (
        ("inputSchema", "tool"),
        ("uriTemplate", "template"),
        ("uri", "resource"),
        ("instructions", "instructions"),
        ("identity", "server"),
        ("announced", "set"),
        ("name", "prompt"),
    ):
        if member in definition:
            return kind
    return ""


def _name_of(definition: Any) -> str:
    if type(definition) is not dict:
        return ""
    given = definition.get("uri", definition.get("uriTemplate", definition.get("name", "")))
    return given if type(given) is str else ""


def _introduction(kind: str, definition: Any) -> Iterator[str]:
    yield f"{_OURS}This is {_KINDS.get(kind, _KINDS[''])}."
    if type(definition) is not dict:
        return
    for member in _NAMES:
        if type(text := definition.get(member)) is str:
            yield f"{_OURS}{member}:"
            yield from _theirs("*", text)
    hints = definition.get("annotations")
    if kind == "tool" and type(hints) is dict:
        for hint, (if_true, if_false) in _HINTS.items():
            if hints.get(hint) in (True, False) and type(hints[hint]) is bool:
                yield f"{_OURS}it {if_true if hints[hint] else if_false}"
    if kind == "tool":
        yield from _parameters(definition.get("inputSchema"))


def _parameters(schema: Any) -> Iterator[str]:
    properties = schema.get("properties") if type(schema) is dict else None
    if type(properties) is not dict or not properties:
        yield f"{_OURS}It names no parameters."
        return
    listed = schema.get("required")
    required = {name for name in listed if type(name) is str} if type(listed) is list else set()
    for must, words in ((True, "required"), (False, "optional")):
        names = [name for name in sorted(properties) if (name in required) is must]
        if names:
            yield f"{_OURS}parameters, {words}: {len(names)}"
            for name in names:
                yield from _theirs("*", name)


def _judgement(before: bytes | None, assessment: Assessment) -> Iterator[str]:
    yield _OURS.rstrip()
    what = "There is no approved version to compare with." if before is None else "Compared with what is approved."
    yield f"{_OURS}{what} Risk: {assessment.level} ({assessment.score:.2f} of 1)"
    for finding in assessment.findings:
        yield f"{_OURS}{finding.weight:.2f} {_id(finding.id)}"
        if finding.path:
            yield from _theirs("@", finding.path)
        yield from _theirs("!", finding.detail)


def _id(text: str) -> str:
    """Ids are ours or a detector's; one that is made of anything but words and dots is not shown."""
    return text if text.isascii() and text.replace(".", "").replace("_", "").isalnum() and len(text) <= 48 else "other"


def _fields(before: bytes | None, count: int) -> str:
    if before is None:
        return f"All of it, {count} fields:"
    return f"{count} fields differ:" if count else "Nothing differs."


def _edit(edit: Edit) -> Iterator[str]:
    texts = [one for one, there in ((edit.before, edit.had), (edit.after, edit.has)) if there]
    both = len(texts) == 2
    what = "changed" if both else "new" if edit.has else "gone"
    yield f"{_OURS}{what}, {' and '.join(dict.fromkeys(_type(text) for text in texts))}:"
    yield from _theirs("@", edit.path or "/")
    if both and type(edit.before) is type(edit.after) is str:
        old, new = mark_words(edit.before, edit.after)
        yield from _marked("-", old)
        yield from _marked("+", new)
        return
    if edit.had:
        yield from _marked("-", _spelled(edit.before))
    if edit.has:
        yield from _marked("+", _spelled(edit.after))


def _type(value: Any) -> str:
    return "text" if type(value) is str else "JSON"


def _spelled(value: Any) -> Iterator[str]:
    """Texts line by line as they are, anything else as indented JSON with sorted names."""
    if type(value) is str:
        yield from lines(value)
        return
    for line in json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True).split("\n"):
        content = line.lstrip(" ")  # JSON has no line end inside a text: the indentation is ours
        yield " " * min(len(line) - len(content), WIDTH // 3) + visible(content)


def _theirs(mark: str, text: str) -> Iterator[str]:
    """Lines that hold a server's text, behind a mark the text cannot imitate."""
    yield from _marked(mark, lines(text))


def _marked(mark: str, shown: Iterable[str]) -> Iterator[str]:
    for line in shown:
        for number, piece in enumerate(fold(line, WIDTH - 6)):
            yield f"  {mark} {':' if number else '|'} {piece}".rstrip(" ")
