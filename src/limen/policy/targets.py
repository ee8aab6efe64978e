"""Which approved definitions a rule speaks of: `server/name-glob`, where `*` stands for any run of characters.

Resources are matched on the URI that is read. A template stands for many URIs, so two questions are asked of it: does
the glob *cover* it (every URI it expands to), does it *overlap* it (at least one).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from limen.core.call import Approved

KINDS: Final = ("tool", "prompt", "resource")
ACTIONS: Final = {
    "tool": ("call",),
    "prompt": ("get", "complete"),
    "resource": ("read", "complete"),
    "template": ("read", "complete"),
}
_SERVER: Final = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
_NAME_GLOB: Final = re.compile(r"[A-Za-z0-9._/*-]{1,256}\Z")
_VARIABLE: Final = re.compile(r"\{[^{}]*\}")
_OPAQUE: Final = "\ue000"  # stands for an expanded variable: no glob can name it, only `*` can take it


@dataclass(frozen=True, slots=True)
class Target:
    """One kind, one server (or `*`), one glob over names or URIs."""

    kind: str
    server: str
    glob: str

    def matches(self, approved: Approved) -> bool:
        """Could a call of this definition be one the target means?"""
        if self.server not in ("*", approved.server):
            return False
        if approved.kind == "template":
            return self.kind == "resource" and overlaps(self.glob, approved.name)
        return self.kind == approved.kind and _pattern(self.glob).match(approved.name) is not None

    def covers(self, approved: Approved) -> bool:
        """Is every call of this definition one the target means?"""
        if approved.kind != "template":
            return self.matches(approved)
        opaque = _VARIABLE.sub(_OPAQUE, approved.name)
        return (
            self.kind == "resource"
            and self.server in ("*", approved.server)
            and _pattern(self.glob).match(opaque) is not None
        )

    def meets(self, other: Target) -> bool:
        """Is there something that both could mean?"""
        if self.kind != other.kind or (self.server != other.server and "*" not in (self.server, other.server)):
            return False
        return _meet(_wild(self.glob), _wild(other.glob))

    @property
    def wildcard(self) -> bool:
        """Does it mean more than one name?"""
        return self.server == "*" or "*" in self.glob


def parse_target(text: str, kinds: tuple[str, ...]) -> tuple[Target, ...]:
    """`files/read_*`, or with a kind of its own `prompt:files/*`. Raises ValueError."""
    for kind in KINDS:
        if text.startswith(kind + ":"):
            kinds, text = (kind,), text[len(kind) + 1 :]
            break
    server, slash, glob = text.partition("/")
    if not slash or not glob:
        raise ValueError(f"{text!r} is not of the form server/name")
    if server != "*" and not _SERVER.match(server):
        raise ValueError(f"{server!r} is neither a server's name nor *")
    for kind in kinds:
        if kind != "resource" and not _NAME_GLOB.match(glob):
            raise ValueError(f"{glob!r} holds characters no {kind} name can have; * is the only wildcard")
    return tuple(Target(kind, server, glob) for kind in kinds)


def overlaps(glob: str, template: str) -> bool:
    """Is there a URI that both the glob and an expansion of the template give? Variables count as `*`."""
    right: list[str | None] = []
    position = 0
    for variable in _VARIABLE.finditer(template):
        right.extend(template[position : variable.start()])
        right.append(None)
        position = variable.end()
    right.extend(template[position:])
    return _meet(_wild(glob), right)


def _wild(glob: str) -> list[str | None]:
    return [None if char == "*" else char for char in glob]


def _meet(left: list[str | None], right: list[str | None]) -> bool:
    """Is there a text both patterns match? None stands for any run of characters."""
    row = _step(None, right, None)
    for char in left:
        row = _step(char, right, row)
    return row[-1]


def _step(char: str | None, right: list[str | None], above: list[bool] | None) -> list[bool]:
    """One row of: which prefixes of both patterns have a string in common. `above` is None for the empty prefix."""
    row = [above is None or (char is None and above[0])]
    for index, other in enumerate(right):
        if above is None:
            row.append(row[index] and other is None)
            continue
        skip_left = above[index + 1] and (char is None or other is None)
        skip_right = row[index] and (char is None or other is None)
        row.append(skip_left or skip_right or (above[index] and char == other))
    return row


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    # Runs of `*` are folded so that matching stays quadratic at worst whatever an operator writes.
    parts = re.split(r"\*+", glob)
    return re.compile(r".*".join(map(re.escape, parts)) + r"\Z", re.DOTALL)
