"""What is in force: an immutable picture of the registry that calls are judged by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from typing import Final

import jiter
import orjson

from limen.catalog.templates import Template, template_fault
from limen.core.call import Approved

_NOT_OFFERED: Final = frozenset({"server", "set"})


@dataclass(frozen=True, slots=True)
class Item:
    """One name. `state`: pending, approved, drifted, rejected, held or gone. With `approved` set, `why` says what
    keeps it out of service ("": nothing)."""

    server: str
    kind: str
    name: str
    state: str
    approved: Approved | None
    why: str = ""


class Catalog:
    """Immutable. Lookups are dictionary reads; nothing is parsed here but templates and instructions.

    `next_expiry`: seconds since the epoch when an approval in it ends and a new snapshot is due; infinite: never.
    """

    __slots__ = ("_all", "_instructions", "_items", "_served", "_templates", "next_expiry", "version")

    def __init__(self, items: Iterable[Item] = (), next_expiry: float = inf) -> None:
        self.next_expiry = next_expiry
        self._items = {(item.server, item.kind, item.name): item for item in items}
        ordered = [self._items[place] for place in sorted(self._items)]
        known = [
            (item, item.approved) for item in ordered if item.approved is not None and item.kind not in _NOT_OFFERED
        ]
        self._all = _grouped(approved for _, approved in known)
        self._served = _grouped(approved for item, approved in known if not item.why)
        self._instructions: dict[str, str] = {}
        self._templates: dict[str, list[tuple[Template, str]]] = {}
        for item, approved in known:
            if item.kind == "instructions" and not item.why:
                self._instructions[item.server] = jiter.from_json(approved.definition)["instructions"]
            elif item.kind == "template" and not template_fault(item.name):
                self._templates.setdefault(item.server, []).append((Template.compile(item.name), item.name))
        self.version: str = sha256(_pinned(ordered)).hexdigest()

    def pinned(self) -> bytes:
        """The JSON whose SHA-256 is `version`: a row for each name, with digest, effect and durable where approved."""
        return _pinned(self._items[place] for place in sorted(self._items))

    def find(self, server: str, kind: str, name: str) -> Approved | None:
        """The approved definition of this name, in service or withheld (see `withheld`)."""
        item = self._items.get((server, kind, name))
        return item.approved if item is not None else None

    def state(self, server: str, kind: str, name: str) -> str:
        """approved, drifted, pending, rejected, held or gone; "unknown" for a name never announced."""
        item = self._items.get((server, kind, name))
        return item.state if item is not None else "unknown"

    def withheld(self, server: str, kind: str, name: str) -> str:
        """Why the approved definition must not be used now (the server dropped it, or asks for more), or ""."""
        item = self._items.get((server, kind, name))
        return item.why if item is not None and item.approved is not None else ""

    def approved(
        self, server: str | None = None, kind: str | None = None, *, withheld: bool = False
    ) -> tuple[Approved, ...]:
        """What can be called, of one server or all, of one kind or all; with `withheld` what is approved at all.

        The records of a server and of its set are approved but offered to nobody: `find` has them, this has not."""
        return (self._all if withheld else self._served).get((server, kind), ())

    def instructions(self, server: str) -> str | None:
        """The approved instructions of this server."""
        return self._instructions.get(server)

    def fitting(self, server: str, uri: str) -> list[str]:
        """The approved templates this URI fits."""
        return [name for template, name in self._templates.get(server, ()) if template.matches(uri)]


def _pinned(items: Iterable[Item]) -> bytes:
    """Pins the set and not only its members: what waits or was rejected is part of what calls are judged by."""
    rows = []
    for item in items:
        row: list[object] = [item.server, item.kind, item.name, item.state, item.why]
        if (approved := item.approved) is not None:
            row += [approved.digest, approved.effect, approved.durable]
        rows.append(row)
    return orjson.dumps(rows)


def _grouped(items: Iterable[Approved]) -> dict[tuple[str | None, str | None], tuple[Approved, ...]]:
    groups: dict[tuple[str | None, str | None], list[Approved]] = {}
    for one in items:
        for group in ((None, None), (one.server, None), (None, one.kind), (one.server, one.kind)):
            groups.setdefault(group, []).append(one)
    return {group: tuple(members) for group, members in groups.items()}
