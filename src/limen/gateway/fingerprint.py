"""What one reading of a server comes down to, and what two of them differ in. Order never matters; members a server
adds to its answers outside the definitions never do either."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from limen.catalog.text import printable
from limen.core.announce import Announcement
from limen.protocol.jsonrpc import canonical

FLAP_SECONDS: Final = 30.0
SHOWN: Final = 5  # definitions named in one text; the rest are counted
_KEPT: Final = 8
_KEYS: Final = (("tool", "tools", "name"), ("prompt", "prompts", "name"), ("resource", "resources", "uri"),
                ("template", "templates", "uriTemplate"))  # fmt: skip

Print = tuple[tuple[str, str, str], ...]
"""Sorted (kind, name, SHA-256 of the canonical definition): one for each definition announced."""


def fingerprint(announcement: Announcement) -> Print:
    """Digests of everything a model can be shown. Takes milliseconds for hundreds of definitions."""
    found = [
        (kind, _name(item, key), _digest(item)) for kind, member, key in _KEYS for item in getattr(announcement, member)
    ]
    if announcement.instructions is not None:
        found.append(("instructions", "", _digest(announcement.instructions)))
    return tuple(sorted(found))


def difference(one: Print, other: Print) -> str:
    """Which definitions differ, for the operator: safe for a terminal, at most SHOWN of them. "" when none does."""
    before, after = _by_name(one), _by_name(other)
    parts = []
    for place in sorted({*before, *after}):
        old, new = before.get(place, ""), after.get(place, "")
        if old != new:
            kind, name = place
            what = f"{kind} {printable(name[:120])}".rstrip()
            parts.append(f"{what} is {new or 'missing'} instead of {old or 'missing'}")
    more = f"; and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    return "; ".join(parts[:SHOWN]) + more


@dataclass(frozen=True, slots=True)
class Sight:
    """One reading with our own face. `at`: seconds on a steady clock; `told`: the server had said that it changed."""

    at: float
    seen: Print
    told: bool


class Sights:
    """The last few readings of one server."""

    def __init__(self) -> None:
        self._kept: deque[Sight] = deque(maxlen=_KEPT)

    def add(self, sight: Sight) -> bool:
        """Remember it. Whether it is a change that the server kept quiet about."""
        quiet = bool(self._kept) and self._kept[-1].seen != sight.seen and not sight.told
        self._kept.append(sight)
        return quiet

    def unsteady(self) -> str:
        """What is wrong with the last three readings when they differ without a word and within seconds, or ""."""
        if len(self._kept) < 3:
            return ""
        first, second, third = list(self._kept)[-3:]
        if second.told or third.told or third.at - second.at > FLAP_SECONDS:
            return ""
        if first.seen == second.seen or second.seen == third.seen:
            return ""
        if first.seen == third.seen:
            return f"changed its list and changed it back without saying so: {difference(third.seen, second.seen)}"
        return f"announces something else at every reading without saying so: {difference(second.seen, third.seen)}"


def _name(item: Any, key: str) -> str:
    name = item.get(key) if type(item) is dict else None
    return name if type(name) is str else ""


def _digest(item: Any) -> str:
    try:
        data = canonical(item)
    except (TypeError, ValueError, RecursionError):
        data = b"what cannot be written as JSON is held, whatever it says"
    return sha256(data).hexdigest()


def _by_name(seen: Print) -> dict[tuple[str, str], str]:
    """Digests of each name, shortened; a name announced twice has two."""
    found: dict[tuple[str, str], str] = {}
    for kind, name, digest in seen:
        found[kind, name] = f"{found[kind, name]}+{digest[:16]}" if (kind, name) in found else digest[:16]
    return found
