"""What differs between two definitions: for the person who decides, and for calls made while nobody has decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True, slots=True)
class Edit:
    """One difference as it is, for code that shows it in its own way: `had` and `has` tell absent from null."""

    path: str
    before: Any
    after: Any
    had: bool = True
    has: bool = True


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
    """Member by member, what differs. Paths are JSON pointers; every text is safe for a terminal.

    Definitions whose canonical bytes differ have at least one change. In a list, a pointer counts positions of the
    newer list for what is there, of the older one for what is gone; a mere change of order is shown as a whole.
    """
    return tuple(_shown(edit) for edit in edits(before, after))


def edits(before: bytes | None, after: bytes | None) -> Iterator[Edit]:
    """The same, with the values themselves. Raises ValueError for what is not JSON."""
    old = jiter.from_json(before) if before else {}
    new = jiter.from_json(after) if after else {}
    yield from compare("", old, new)


def step(pointer: str, name: str | int) -> str:
    """The pointer one step further (RFC 6901), printable."""
    return f"{pointer}/{name}" if type(name) is int else f"{pointer}/{_escaped(str(name))}"


def _escaped(name: str) -> str:
    return printable(name.replace("~", "~0").replace("/", "~1"))


def compare(path: str, old: Any, new: Any) -> Iterator[Edit]:
    """What differs between two JSON values, from the outside in. Linear in their size, times their depth."""
    if type(old) is dict and type(new) is dict:
        for name in sorted({*old, *new}):
            if name not in new:
                yield Edit(step(path, name), old[name], None, has=False)
            elif name not in old:
                yield Edit(step(path, name), None, new[name], had=False)
            else:
                yield from compare(step(path, name), old[name], new[name])
    elif type(old) is list and type(new) is list:
        yield from _compare_lists(path, old, new)
    elif type(old) is not type(new) or canonical(old) != canonical(new):
        yield Edit(path, old, new)


def match(old: Sequence[Any], new: Sequence[Any]) -> tuple[list[int], list[int], bool]:
    """Positions of what only the one and only the other list has, and whether the rest stands in another order."""
    left, right = [canonical(one) for one in old], [canonical(one) for one in new]
    if len(left) == len(right):
        return (*_unequal(left, right), False) if not _shuffled(left, right) else ([], [], True)
    gone, added = _surplus(left, right), _surplus(right, left)
    gone_set, added_set = set(gone), set(added)
    kept_left = [one for at, one in enumerate(left) if at not in gone_set]
    kept_right = [one for at, one in enumerate(right) if at not in added_set]
    return gone, added, kept_left != kept_right


def _compare_lists(path: str, old: list[Any], new: list[Any]) -> Iterator[Edit]:
    gone, added, reordered = match(old, new)
    if reordered:
        yield Edit(path, old, new)
        return
    for one, other in zip(gone, added, strict=False):
        yield from compare(step(path, other), old[one], new[other])
    for at in gone[len(added) :]:
        yield Edit(step(path, at), old[at], None, has=False)
    for at in added[len(gone) :]:
        yield Edit(step(path, at), None, new[at], had=False)


def _unequal(left: list[bytes], right: list[bytes]) -> tuple[list[int], list[int]]:
    places = [at for at, (one, other) in enumerate(zip(left, right, strict=True)) if one != other]
    return places, list(places)


def _shuffled(left: list[bytes], right: list[bytes]) -> bool:
    return left != right and Counter(left) == Counter(right)


def _surplus(these: list[bytes], those: list[bytes]) -> list[int]:
    """Positions of what the first list has more often than the second, the later ones of equals."""
    left = Counter(those)
    places = []
    for at, one in enumerate(these):
        if left[one] > 0:
            left[one] -= 1
        else:
            places.append(at)
    return places


def _shown(edit: Edit) -> Change:
    same = edit.had and edit.has and type(edit.before) is type(edit.after)
    quoted = edit.had and edit.has and not same
    before = _text(edit.before, quoted=quoted) if edit.had else None
    return Change(edit.path, before, _text(edit.after, quoted=quoted) if edit.has else None)


def _text(value: Any, *, quoted: bool = False) -> str:
    return printable(value if type(value) is str and not quoted else canonical(value).decode())
