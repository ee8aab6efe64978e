"""Guard Neutralise: what strangers wrote goes on as data, without anything that acts when it is shown.

For servers that are not trusted. Texts lose pictures that are fetched, active HTML, addresses that run and what a
terminal obeys, and are put between marks that nobody can foresee (`beacons`, `spotlight`). What is judged dangerous was
withheld before; this is for what nobody found. `structuredContent` must keep its approved schema: it is only inspected.
"""

from __future__ import annotations

from typing import Any, Final

from limen.core.call import Approved, Inspected
from limen.core.verdict import Pass, Permit, Replace, ResultVerdict
from limen.detection.beacons import Allowed, defuse
from limen.detection.finding import Finding
from limen.detection.inspect import Seen, note
from limen.detection.settings import ContentSettings, Defuse
from limen.detection.spotlight import spotlight_result

_PASS: Final = Pass()
_MEMBERS: Final = ("content", "contents", "messages")


class Neutralise:
    """Result guard, the last one: it never refuses, and nothing that came before sees the marks."""

    def __init__(self, settings: ContentSettings, seen: Seen) -> None:
        self._settings, self._seen = settings, seen
        self._allowed = Allowed(settings.hosts)

    def check_result(self, permit: Permit, result: dict[str, Any]) -> ResultVerdict:
        """Replace the result by one that is safer to show and to read."""
        approved = permit.get(Approved)
        mode, harm = self._settings.presentation(approved.server, approved.name)
        if (mode == "off" and harm == "off") or result.get("resultType") == "input_required":
            return _PASS
        found: list[Finding] = []
        shown = self._defused(result, harm, found) if harm != "off" else result
        if found:
            ids = tuple(dict.fromkeys(one.id for one in found))
            note(self._seen, permit.reference, Inspected(max(one.score for one in found), ids))
        shown = spotlight_result(shown, mode)
        if shown is result:
            return _PASS
        return Replace(shown, "; ".join(dict.fromkeys(f"took out {one.detail}" for one in found)))

    def _defused(self, result: dict[str, Any], harm: Defuse, found: list[Finding]) -> dict[str, Any]:
        def text(value: str) -> str:
            done, notes = defuse(value, self._allowed, links=harm == "links")
            found.extend(notes)
            return done

        def part(one: Any) -> Any:
            if type(one) is not dict:
                return one
            if type(one.get("text")) is str:
                done = text(one["text"])
                return one if done is one["text"] else {**one, "text": done}
            for member in ("resource", "content"):
                if type(inner := one.get(member)) is dict and (done := part(inner)) is not inner:
                    return {**one, member: done}
            return one

        changed = {}
        for member in _MEMBERS:
            if type(listed := result.get(member)) is list:
                done = [part(one) for one in listed]
                if done != listed:
                    changed[member] = done
        return {**result, **changed} if changed else result
