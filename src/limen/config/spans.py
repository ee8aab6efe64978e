"""Where things stand in a client's file, so that one of them can be exchanged and every other byte stays.

JSON with what editors allow in it (comments, a comma before a closing bracket, a byte order mark), and tables of TOML.
Nothing is ever written anew: an edit is a span and its replacement, and `without` shows that nothing else changed its
meaning.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from limen.core.faults import ConfigFault

MAX_DEPTH: Final = 64
_SPACE: Final = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING: Final = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")
_ONE_LINE: Final = re.compile(r"""[^"'#]|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_HEADER: Final = re.compile(r"[ \t]*\[")
_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One value and its span in the text. `members`: of an object, by name."""

    start: int
    end: int
    value: Any
    members: dict[str, Node] = field(default_factory=dict)

    def at(self, path: Sequence[str]) -> Node | None:
        """The node at the end of this path of names."""
        node: Node | None = self
        for name in path:
            node = node.members.get(name) if node is not None else None
        return node


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self.text, self.file, self.at = text, file, 1 if text.startswith("\ufeff") else 0

    def fault(self, message: str) -> ConfigFault:
        line = self.text.count("\n", 0, self.at) + 1
        column = self.at - self.text.rfind("\n", 0, self.at)
        return ConfigFault(message, f"{self.file}:{line}:{column}")

    def space(self) -> str:
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.text[self.at : self.at + 1]

    def value(self, depth: int = 0) -> Node:
        first, start = self.space(), self.at
        if depth > MAX_DEPTH:
            raise self.fault("nested too deep")
        if first == "{":
            members = self._object(depth)
            return Node(start, self.at, {name: node.value for name, node in members.items()}, members)
        if first == "[":
            items = self._array(depth)
            return Node(start, self.at, items)
        value = self._token(_STRING if first == '"' else _SCALAR)
        return Node(start, self.at, value)

    def _token(self, pattern: re.Pattern[str]) -> Any:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise self.fault("a value was expected" if self.at < len(self.text) else "the file ends in the middle")
        try:
            value = json.loads(found[0])
        except ValueError:
            raise self.fault("not a value of JSON") from None
        self.at = found.end()
        return value

    def _object(self, depth: int) -> dict[str, Node]:
        members: dict[str, Node] = {}
        self.at += 1
        while self.space() != "}":
            if self.text[self.at : self.at + 1] != '"':
                raise self.fault("a name in double quotes was expected")
            name = self._token(_STRING)
            if name in members:
                raise self.fault("this name stands twice")
            if self.space() != ":":
                raise self.fault("a colon was expected")
            self.at += 1
            members[name] = self.value(depth + 1)
            self._comma("}")
        self.at += 1
        return members

    def _array(self, depth: int) -> list[Any]:
        items: list[Any] = []
        self.at += 1
        while self.space() != "]":
            items.append(self.value(depth + 1).value)
            self._comma("]")
        self.at += 1
        return items

    def _comma(self, closing: str) -> None:
        found = self.space()
        if found == ",":
            self.at += 1
        elif found != closing:
            raise self.fault("a comma was expected")


def read_json(text: str, file: str) -> Node:
    """The whole file as one value with spans. Raises ConfigFault with line and column."""
    reader = _Reader(text, file)
    node = reader.value()
    if reader.space():
        raise reader.fault("something follows the end of the value")
    return node


def read_toml(text: str, file: str) -> dict[str, Any]:
    """Its meaning. Raises ConfigFault with line and column."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+), column (\d+)", str(error))
        place = f"{file}:{found[1]}:{found[2]}" if found else file
        raise ConfigFault("not TOML", place) from None


def toml_table(text: str, table: str, name: str) -> tuple[int, int] | None:
    """Span of `[table.name]` and the tables below it, from its header to its last line that is no comment.

    None when it is not written as tables that follow each other.
    """
    own = re.compile(
        rf"[ \t]*\[[ \t]*{re.escape(table)}[ \t]*\.[ \t]*(?P<key>{_KEY})[ \t]*(?P<below>\.[^\]]*)?\][ \t]*(?:#.*)?"
    )
    start = end = -1
    offset, inside, left = 0, False, False
    quotes = ""  # which kind of text over several lines we are in
    for line in text.splitlines(keepends=True):
        within, quotes = quotes, _quotes(line, quotes)
        if within:
            end = offset + len(line.rstrip("\r\n")) if inside else end
        elif (
            _HEADER.match(line) and (header := own.fullmatch(line.rstrip("\r\n"))) and _unquoted(header["key"]) == name
        ):
            if left or (start < 0 and header["below"]):
                return None
            start, inside = (offset if start < 0 else start), True
        elif _HEADER.match(line) and line.rstrip().split("#")[0].rstrip().endswith("]") and _is_header(line):
            inside, left = False, start >= 0
        if inside and not within and line.strip() and not line.lstrip().startswith("#"):
            end = offset + len(line.rstrip("\r\n"))
        offset += len(line)
    return (start, end) if start >= 0 else None


def _is_header(line: str) -> bool:
    return (
        re.fullmatch(rf"[ \t]*\[\[?[ \t]*{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*[ \t]*\]\]?[ \t]*(?:#.*)?", line.rstrip("\r\n"))
        is not None
    )


def _quotes(line: str, quotes: str) -> str:
    """The delimiter that is open at the end of a line, given the one at its start; "" for none."""
    at = 0
    while at < len(line):
        if quotes:
            end = line.find(quotes, at)
            if end < 0:
                return quotes
            at, quotes = end + 3, ""
        elif line.startswith(('"""', "'''"), at):
            at, quotes = at + 3, line[at : at + 3]
        elif found := _ONE_LINE.match(line, at):
            at = found.end()
        else:
            return ""  # a comment
    return quotes


def _unquoted(key: str) -> str:
    if key.startswith("'"):
        return key[1:-1]
    return str(tomllib.loads(f"k = {key}")["k"]) if key.startswith('"') else key


def edited(text: str, edits: Iterable[tuple[int, int, str]]) -> str:
    """The text with these spans replaced. Raises ValueError when two overlap."""
    ordered = sorted(edits)
    if any(one[1] > other[0] for one, other in pairwise(ordered)):
        raise ValueError("edits overlap")
    for start, end, new in reversed(ordered):
        text = text[:start] + new + text[end:]
    return text


def without(value: Any, paths: Iterable[Path]) -> Any:
    """A copy of plain values in which what stands at these paths is None, for comparing what is left."""
    gone = {path[0]: [other[1:] for other in paths if other[:1] == path[:1]] for path in paths if path}
    if not isinstance(value, dict):
        return value
    return {
        name: None if () in gone.get(name, []) else without(inner, gone[name]) if name in gone else inner
        for name, inner in value.items()
    }
