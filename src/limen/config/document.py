"""Text -> plain values and the place of each. YAML 1.2 without its dangerous half; JSON is read as the subset it is.

Refused: anchors, aliases, tags, merge keys, duplicate keys, keys that are not text, several documents, deep nesting.
Only `true` and `false` are booleans; dates and base-60 numbers are text (YAML 1.2 core schema, section 10.3.2).
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Final

import yaml

from limen.core.faults import ConfigFault

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands. Lines and columns count from 1; line 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(slots=True)
class Document:
    """Values of one file (or of several, merged), with the places of values and of keys by path."""

    value: Any
    places: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)

    def where(self, path: Path, *, key: bool = False) -> str:
        """`file:line:column key.path` of the nearest thing that has a place."""
        known = path
        order = (self.keys, self.places) if key else (self.places, self.keys)
        while known and not any(known in places for places in order):
            known = known[:-1]
        place = next((places[known] for places in order if known in places), None)
        shown = dotted(path)
        return f"{place} {shown}".strip() if place else shown


def dotted(path: Path) -> str:
    """`mcpServers.github.args[0]`"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_file(path: FilePath, what: str, *, limit: int = MAX_BYTES, follow: bool = False) -> bytes:
    """Bytes of a regular file that not everybody can write to. Judges the opened file, not its name.

    Raises ConfigFault: missing, a symbolic link (unless `follow`), not a regular file, writable by all, too large.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    if not follow:
        if path.is_symlink():
            raise ConfigFault(f"{what} is a symbolic link; name the file it points to", str(path))
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as stream:
            about = os.fstat(stream.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ConfigFault(f"{what} is not a regular file", str(path))
            if about.st_mode & stat.S_IWOTH:
                raise ConfigFault(f"everybody may write to {what}; take that away (chmod o-w)", str(path))
            data = stream.read(limit + 1)
        folder = path.resolve().parent.stat().st_mode
    except OSError as fault:
        raise ConfigFault(f"{what} cannot be read: {fault.strerror or fault}", str(path)) from None
    if folder & stat.S_IWOTH and not folder & stat.S_ISVTX:
        raise ConfigFault(f"everybody may replace {what}: its directory is writable by all", str(path))
    if len(data) > limit:
        raise ConfigFault(f"{what} is larger than {limit} bytes", str(path))
    return data


def parse(data: bytes, file: str) -> Document:
    """One YAML (or `.json`) document. Raises ConfigFault with file, line and column."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        raise ConfigFault("not UTF-8 text", str(Place(file, line, 1))) from None
    if file.endswith(".json"):
        text = _json_for_yaml(text, file)
    try:
        node = compose(text)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        raise ConfigFault(str(fault.problem or fault.context or "not YAML"), str(place)) from None
    except yaml.reader.ReaderError as fault:
        line = text.count("\n", 0, int(fault.position)) + 1
        raise ConfigFault("a control character stands in the text", str(Place(file, line, 1))) from None
    document = Document(None)
    if node is not None:
        document.value = _build(node, (), document, file)
    return document


def compose(text: str) -> yaml.Node | None:
    """The syntax tree of one document, with the place of everything in it. Raises yaml.YAMLError."""
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _json_for_yaml(text: str, file: str) -> str:
    """Valid JSON, made palatable to a YAML reader: outside strings JSON has tabs as space only, inside none at all."""
    try:
        json.loads(text)
    except ValueError as fault:
        place = Place(file, getattr(fault, "lineno", 0), getattr(fault, "colno", 0))
        raise ConfigFault(f"not JSON: {getattr(fault, 'msg', fault)}", str(place)) from None
    except RecursionError:
        raise ConfigFault("nested too deep", file) from None
    return text.replace("\t", " ")


class _Loader(yaml.SafeLoader):
    """Composes nodes only; nothing is ever constructed by tag."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the base class's own protocol

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not allowed", problem_mark=event.start_mark)
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem="tags are not allowed", problem_mark=event.start_mark)
        if self._depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deep", problem_mark=event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first, *([""] if _tag == "null" else [])]
    )


def _build(node: yaml.Node, path: Path, document: Document, file: str) -> Any:
    place = Place(file, node.start_mark.line + 1, node.start_mark.column + 1)
    document.places[path] = place
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), document, file) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, path, document, file)
    return _scalar(node, place)


def _build_mapping(node: yaml.MappingNode, path: Path, document: Document, file: str) -> dict[str, Any]:
    built: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = Place(file, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.tag.endswith(":str"):
            raise ConfigFault("a key must be text; put it in quotes", f"{place} {dotted(path)}".strip())
        key = _text(key_node.value, place)
        if "${" in key:
            raise ConfigFault("references are allowed in values only, not in keys", f"{place} {dotted(path)}".strip())
        here = (*path, key)
        if key in built:
            raise ConfigFault(
                f"this key stands twice; first at line {document.keys[here].line}", f"{place} {dotted(here)}"
            )
        document.keys[here] = place
        built[key] = _build(value_node, here, document, file)
    return built


def _scalar(node: yaml.Node, place: Place) -> Any:
    text, kind = str(node.value), node.tag.rpartition(":")[2]
    if kind == "bool":
        return text.lower() == "true"
    if kind == "null":
        return None
    if kind in ("int", "float") and len(text) > 40:
        raise ConfigFault("a number this long is not meant as one; put it in quotes", str(place))
    if kind == "int":
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(text) if kind == "float" else _text(text, place)


def _text(text: str, place: Place) -> str:
    """JSON writes characters beyond the first plane as two escapes: put them together again."""
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise ConfigFault("half a character is escaped here", str(place)) from None
