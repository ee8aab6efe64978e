"""Reviewed playbooks: one is in force while as many people as the configuration asks for approved exactly these bytes.

An approval is a note signed by the key of the log (as reviews of access are): who can write to the database cannot
put a playbook in force.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from limen.core.people import person
from limen.core.ports import Table

HEADER: Final = "limen.playbook/approval/1\n"
_ROW: Final = "approved/"


class Approvals:
    """`seal` signs a text, `opened` gives the text of a note our key signed and raises ValueError for any other."""

    def __init__(
        self, table: Table, opened: Callable[[bytes], str], needed: int = 1, seal: Callable[[str], bytes] | None = None
    ) -> None:
        self._table, self._opened, self._seal, self._needed = table, opened, seal, needed
        self._known: dict[tuple[str, str], bool] = {}

    def approve(self, playbook: str, digest: str, *, by: str, reason: str, at: float) -> int:
        """One person's yes. Returns how many more are needed. Raises ValueError: said twice."""
        if self._seal is None:
            raise ValueError("nothing can be signed here")
        if not by.strip() or not by.isprintable():
            raise ValueError("who approves has a name, on one line")
        if person(by) in self._people(playbook, digest):
            raise ValueError(f"{by} has approved it already")
        said = orjson.dumps({"playbook": playbook, "digest": digest, "by": by, "reason": reason[:500], "at": at})
        place = f"{_ROW}{digest}/{at:017.6f}/{by[:100]}"
        self._table.put(place, self._seal(f"{HEADER}{said.decode()}\n"))
        self.forget()
        return max(0, self._needed - len(self._people(playbook, digest)))

    def withdraw(self, digest: str) -> int:
        """Take all approvals of it back. Returns how many there were."""
        rows = [(place, raw) for place, raw in self._table.scan(f"{_ROW}{digest}/")]
        self.forget()
        return sum(self._table.swap(place, raw, None) for place, raw in rows)

    def of(self, playbook: str, digest: str) -> list[dict[str, Any]]:
        """Approvals our key signed for exactly this; others are nothing."""
        found = []
        for _, note in self._table.scan(f"{_ROW}{digest}/"):
            try:
                text = self._opened(note)
                said = orjson.loads(text.removeprefix(HEADER)) if text.startswith(HEADER) else {}
            except ValueError:
                continue
            if isinstance(said, dict) and (said.get("playbook"), said.get("digest")) == (playbook, digest):
                found.append(said)
        return found

    def in_force(self, playbook: str, digest: str) -> bool:
        """Whether enough different people approved it. Remembered until `forget`."""
        key = (playbook, digest)
        if key not in self._known:
            self._known[key] = len(self._people(playbook, digest)) >= self._needed
        return self._known[key]

    def _people(self, playbook: str, digest: str) -> set[str]:
        return {person(one["by"]) for one in self.of(playbook, digest) if isinstance(one.get("by"), str)}

    def forget(self) -> None:
        """Look again."""
        self._known.clear()
