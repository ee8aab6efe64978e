"""Change single values of a configuration's text and leave the rest of it, comments and layout, as it is.

Edits are made on the text between two places of the syntax tree, then the result is read again: it must hold exactly
the values that were meant, or nothing is returned.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, Final

import yaml

from limen.config.document import Path, compose, parse
from limen.core.faults import ConfigFault

_BOM: Final = "\ufeff"
Span = tuple[int, int, str]  # characters from, to, and what stands there instead


def edited(data: bytes, file: str, edits: Mapping[Path, tuple[str, ...]]) -> str:
    """The text with the value at each path replaced by these texts; () takes an item out of its list.

    A path that ends in a number is an item of a list and may become several; one that ends in a key is a value and
    becomes a list where there is more than one text. Raises ConfigFault for a layout this cannot be done in.
    """
    text = data.decode("utf-8-sig")
    root = compose(text.replace("\t", " ") if file.endswith(".json") else text)
    spans: list[Span] = []
    lists: dict[Path, dict[int, tuple[str, ...]]] = {}
    for path, texts in edits.items():
        if isinstance(path[-1], int):
            lists.setdefault(path[:-1], {})[path[-1]] = texts
        else:
            node = _find(root, path)
            spans.append((node.start_mark.index, _end(node), texts_of(texts)))
    for path, items in lists.items():
        node = _find(root, path)
        if not isinstance(node, yaml.SequenceNode):
            raise ConfigFault("is not a list", file)
        spans.extend(_items(text, node, items))
    changed = _apply(text, spans)
    if parse(changed.encode(), file).value != _meant(parse(data, file).value, edits):
        raise ConfigFault("the layout of the file cannot be edited; make the changes by hand", file)
    return (_BOM if data.startswith(_BOM.encode()) else "") + changed


def difference(before: str, after: str, file: str) -> str:
    """A unified diff that `patch` understands."""
    lines = difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), file, file)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def texts_of(texts: tuple[str, ...]) -> str:
    """One quoted text, or a list of them on one line. JSON's quoting is YAML's, and holds in both."""
    quoted = [json.dumps(text) for text in texts]
    return quoted[0] if len(quoted) == 1 else f"[{', '.join(quoted)}]"


def _find(node: yaml.Node | None, path: Path) -> yaml.Node:
    for part in path:
        found = None
        if isinstance(node, yaml.MappingNode) and isinstance(part, str):
            found = next((value for key, value in node.value if key.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node.value[part]
        node = found
    if node is None:
        raise ConfigFault("there is no such value to change", ".".join(map(str, path)))
    return node


def _end(node: yaml.Node) -> int:
    """Where its last character stands. A block's own end mark lies beyond the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(node, yaml.MappingNode) else last)
    return int(node.end_mark.index)


def _items(text: str, node: yaml.SequenceNode, items: Mapping[int, tuple[str, ...]]) -> list[Span]:
    every: list[yaml.Node] = node.value
    gone = [index for index, texts in items.items() if not texts]
    if len(gone) == len(every):
        return [
            (node.start_mark.index, _end(node), "[]" if node.flow_style else " []")
        ]  # a block may start below its key
    spans: list[Span] = []
    for index, texts in items.items():
        start, end = every[index].start_mark.index, _end(every[index])
        if texts and node.flow_style:
            spans.append((start, end, ", ".join(map(json.dumps, texts))))
        elif texts:
            lead = text[text.rfind("\n", 0, start) + 1 : start]
            if not lead.strip() == "-":
                raise ConfigFault("the layout of the file cannot be edited; make the changes by hand", "")
            spans.append((start, end, f"\n{lead}".join(map(json.dumps, texts))))
        elif not node.flow_style:
            spans.append((*_lines(text, start, end), ""))
    if node.flow_style:
        spans.extend(_flow_gaps(every, set(gone)))
    return spans


def _flow_gaps(every: list[yaml.Node], gone: set[int]) -> list[Span]:
    """An item goes with the comma after it; the last ones with the comma before them."""
    last = max(index for index in range(len(every)) if index not in gone)
    spans = [
        (every[index].start_mark.index, every[index + 1].start_mark.index, "") for index in sorted(gone) if index < last
    ]
    if last + 1 < len(every):
        spans.append((_end(every[last]), _end(every[-1]), ""))
    return spans


def _lines(text: str, start: int, end: int) -> tuple[int, int]:
    """From the line of an item's dash to the end of the line it ends on, with the comment there."""
    dash = start
    while dash > 0 and text[dash - 1] in " \t\r\n":
        dash -= 1
    if not dash or text[dash - 1] != "-":
        raise ConfigFault("the layout of the file cannot be edited; make the changes by hand", "")
    first = text.rfind("\n", 0, dash) + 1
    if text[first : dash - 1].strip():
        raise ConfigFault("the layout of the file cannot be edited; make the changes by hand", "")
    if end > 0 and text[end - 1] == "\n":
        return first, end  # a block of text ends with its line
    following = text.find("\n", end)
    return first, len(text) if following < 0 else following + 1


def _apply(text: str, spans: list[Span]) -> str:
    """All replacements. One inside another (a value of an item that is taken out) would be a mistake of the caller."""
    pieces, at = [], 0
    for start, end, instead in sorted(spans):
        if start < at:
            raise ConfigFault("two changes overlap; make the changes by hand", "")
        pieces += [text[at:start], instead]
        at = end
    return "".join([*pieces, text[at:]])


def _meant(value: Any, edits: Mapping[Path, tuple[str, ...]]) -> Any:
    """The same edits on the plain values, from the end so that positions hold."""
    for path, texts in sorted(edits.items(), key=lambda one: [(isinstance(part, int), part) for part in one[0]])[::-1]:
        inner = value
        for part in path[:-1]:
            inner = inner[part]
        last = path[-1]
        if isinstance(last, int):
            inner[last : last + 1] = list(texts)
        else:
            inner[last] = texts[0] if len(texts) == 1 else list(texts)
    return value
