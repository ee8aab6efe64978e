"""What differs between two definitions: for the person who decides, and for calls made while nobody has decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jiter

from limen.catalog.text import printable
from limen.protocol.jsonrpc import canonical


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `path` is a JSON pointer, texts are safe to show in a terminal, None stands for absent."""

    path: str
    before: str | None
    after: str | None


def new_requirement(kind: str, approved: bytes, announced: Any) -> str:
    """The first parameter the server now insists on that the approved definition does not, or ""."""
    if type(announced) is not dict:
        return ""
    before, after = _required(kind, jiter.from_json(approved)), _required(kind, announced)
    return next(iter(sorted(after - before)), "")


def _required(kind: str, item: dict[str, Any]) -> set[str]:
    if kind == "prompt" and type(item.get("arguments")) is list:
        listed = [one.get("name") for one in item["arguments"] if type(one) is dict and one.get("required") is True]
    elif kind == "tool" and type(item.get("inputSchema")) is dict:
        listed = item["inputSchema"].get("required", [])
    else:
        return set()
    return {name for name in listed if type(name) is str} if type(listed) is list else set()


def changes(before: bytes | None, after: bytes | None) -> tuple[Change, ...]:
    """Member by member, what differs. Paths are JSON pointers; every text is safe for a terminal."""
    old = jiter.from_json(before) if before else {}
    new = jiter.from_json(after) if after else {}
    return tuple(_compare("", old, new))


def _compare(path: str, old: Any, new: Any) -> Iterator[Change]:
    if type(old) is dict and type(new) is dict:
        for name in sorted({*old, *new}):
            step = f"{path}/{printable(name.replace('~', '~0').replace('/', '~1'))}"
            if name not in new:
                yield Change(step, _text(old[name]), None)
            elif name not in old:
                yield Change(step, None, _text(new[name]))
            else:
                yield from _compare(step, old[name], new[name])
    elif type(old) is list and type(new) is list and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _compare(f"{path}/{index}", one, other)
    elif type(old) is not type(new) or old != new:
        same = type(old) is type(new)
        yield Change(path, _text(old, quoted=not same), _text(new, quoted=not same))


def _text(value: Any, *, quoted: bool = False) -> str:
    return printable(value if type(value) is str and not quoted else canonical(value).decode())
