"""Names of everything known, of all servers: which of them a new name could be taken for, and who mentions whom."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from limen.catalog.findings import Finding, quote
from limen.catalog.lookalike import skeleton, squat_key
from limen.catalog.wording import Traits, fold, texts

Place = tuple[str, str]  # (server, name)
MAX_LISTED: Final = 3
MAX_MENTIONS: Final = 64  # in one text
_NAMED: Final = frozenset({"tool", "prompt"})
_CALLABLE: Final = re.compile(r"[a-z0-9][a-z0-9_./-]{1,126}[a-z0-9]")
_DISTINCTIVE: Final = re.compile(r"[_./0-9-]|[a-z][A-Z]")
_QUOTES: Final = "`\"'"
_NEAR: Final = 80
# Words that make a mention an order. Telling how two tools of one server go together takes the milder ones.
_STEERING: Final = re.compile(
    r"\b(?:always|must|never|instead|whenever|when|before|after|first|then|do not|don'?t|should|use|using|call|calling"
    r"|replace|override|prefer|send|pass|run|invoke|every)\b"
)
_ORDERING: Final = re.compile(r"\b(?:always|must|never|instead of|whenever|before|do not|don'?t|every)\b")


class Neighbours:
    """An index of names. Reading is thread-safe; a name that appears later needs another index."""

    __slots__ = ("_exact", "_mentioned", "_servers", "_skeletons", "_squats", "_whole")

    def __init__(self, names: Iterable[tuple[str, str, str]]) -> None:
        """`names`: (server, kind, name), of everything announced or approved; duplicates are no harm."""
        self._exact: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._skeletons: dict[tuple[str, str], set[Place]] = defaultdict(set)
        self._squats: dict[tuple[str, str], set[Place]] = defaultdict(set)
        self._whole: dict[tuple[str, str], set[Place]] = defaultdict(set)  # server and name read as one name
        self._mentioned: dict[str, set[Place]] = defaultdict(set)
        self._servers: dict[str, set[str]] = defaultdict(set)
        for server, kind, name in names:
            self._servers[squat_key(server)].add(server)
            if not name:
                continue
            self._exact[kind, name].add(server)
            self._skeletons[kind, skeleton(name)].add((server, name))
            if kind in _NAMED:
                self._squats[kind, squat_key(name)].add((server, name))
                self._whole[kind, squat_key(f"{server}_{name}")].add((server, name))
                self._mentioned[name.casefold()].add((server, name))

    def names(self, server: str, kind: str, name: str) -> Traits:
        """What this name could be taken for."""
        found: Traits = {}
        if kind == "server":
            found |= self._server(server)
        if not name:
            return found
        if others := self._exact.get((kind, name), set()) - {server}:
            detail = f"the same name as at {_listed((other, name) for other in others)}"
            found["name.shadow", ""] = Finding("name.shadow", 0.35, "", detail)
        same = {(server, name)} | {(other, name) for other in others}
        alike = self._skeletons.get((kind, skeleton(name)), set()) - same
        if alike:
            found["name.lookalike", ""] = Finding("name.lookalike", 0.7, "", f"looks like {_listed(alike)}")
        if kind in _NAMED:
            found |= self._squatted(server, kind, name, same | alike)
        return found

    def _squatted(self, server: str, kind: str, name: str, known: set[Place]) -> Traits:
        found: Traits = {}
        key = squat_key(name)
        near = self._squats.get((kind, key), set()) - known
        variants = {place for place in near if _style(place[1]) == _style(name)}
        if variants:
            detail = f"differs only in case or separators from {_listed(variants)}"
            found["name.variant", ""] = Finding("name.variant", 0.35, "", detail)
        if near - variants:
            detail = f"differs only in doubled letters or digits from {_listed(near - variants)}"
            found["name.lookalike", "key"] = Finding("name.lookalike", 0.6, "", detail)
        # "github__issue" beside github's "issue", and the same text cut in two places: a__b + c, a + b__c.
        posing = {*self._whole.get((kind, key), ()), *self._whole.get((kind, key.removeprefix("mcp")), ())}
        posing |= self._whole.get((kind, squat_key(f"{server}_{name}")), set())
        if posing := {place for place in posing if place[0] != server}:
            detail = f"with its prefix, reads like {_listed(posing)}"
            found["name.prefix", ""] = Finding("name.prefix", 0.5, "", detail)
        return found

    def _server(self, server: str) -> Traits:
        others = {one for one in self._servers.get(squat_key(server), set()) if one != server}
        if not others:
            return {}
        detail = f"the server is named like {_listed((one, '') for one in others)}"
        return {("server.lookalike", ""): Finding("server.lookalike", 0.6, "", detail)}

    def mentions(self, server: str, kind: str, name: str, definition: object) -> Traits:
        """Texts that speak of another server's tool at all, or of an own one in the tone of an order (TP-09)."""
        found: Traits = {}
        if not self._mentioned:
            return found
        for path, text in texts(definition):
            if len(text) > len(name) or text != name:
                for key, finding in self._mentions(server, name, path, fold(text)):
                    found.setdefault(key, finding)
        return found

    def _called(self, text: str) -> set[Place]:
        """The tools of this name, or of its last part: "files/read_file", "files.read_file"."""
        return self._mentioned.get(text) or self._mentioned.get(re.split(r"[/.:]", text)[-1]) or set()

    def _mentions(self, server: str, name: str, path: str, folded: str) -> Iterator[tuple[tuple[str, str], Finding]]:
        seen = 0
        for match in _CALLABLE.finditer(folded):
            places = self._called(match[0])
            if not places or match[0] == name.casefold() or not _means_a_tool(folded, match, places):
                continue
            seen += 1
            near = folded[max(0, match.start() - _NEAR) : match.end() + _NEAR]
            own = any(place[0] == server for place in places)
            if seen > MAX_MENTIONS:  # the rest as one, under the whole text
                yield ("shadow.names", folded), Finding("shadow.names", 0.6, path, "speaks of many other tools")
                return
            if own and _ORDERING.search(near):
                yield (
                    ("shadow.sibling", near),
                    Finding("shadow.sibling", 0.25, path, f"directs the use of {_listed(places)}: {quote(near)}"),
                )
            elif not own:
                orders = _STEERING.search(near) is not None
                what, weight = ("shadow.directs", 0.65) if orders else ("shadow.names", 0.25)
                verb = "directs the use of" if orders else "speaks of"
                yield (what, near), Finding(what, weight, path, f"{verb} {_listed(places)}: {quote(near)}")


def _means_a_tool(folded: str, match: re.Match[str], places: set[Place]) -> bool:
    """A name like `read_file` always; a word like "search" only in quotation marks or called a tool."""
    if any(_DISTINCTIVE.search(name) for _, name in places):
        return True
    before, after = folded[match.start() - 1 : match.start()], folded[match.end() : match.end() + 10].lstrip()
    return (before != "" and before in _QUOTES) or after.startswith(("tool", "prompt", "function"))


def _style(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _listed(places: Iterable[Place]) -> str:
    ordered = sorted(places)
    shown = ", ".join(quote("/".join(part for part in place if part)) for place in ordered[:MAX_LISTED])
    return shown + (f" and {len(ordered) - MAX_LISTED} more" if len(ordered) > MAX_LISTED else "")
