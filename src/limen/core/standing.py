"""What callers were judged by, for the log: written when it is new or has changed, not with every call."""

from __future__ import annotations

from typing import Any, Final

from limen.core.call import Caller

_CALLERS: Final = 10_000
_LONGEST: Final = 6_000  # characters; a record holds 65 535 bytes, and some characters take six of them
_SETS: Final = ("scopes", "roles", "groups", "amr")


class Standings:
    """Remembers what one process recorded of each caller last, of a bounded number of callers."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str, str], Caller] = {}

    def note(self, record: dict[str, Any], caller: Caller) -> None:
        """Add `standing` to the record when it is not the one recorded last; null when it is too long for a record."""
        key = caller.key
        known = self._last.get(key)
        if known is caller or (known is not None and known.standing == caller.standing):
            return
        if len(self._last) >= _CALLERS:
            self._last.clear()
        self._last[key] = caller
        sets: dict[str, frozenset[str]] = {name: getattr(caller, name) for name in _SETS}
        if sum(len(text) + 3 for members in sets.values() for text in members) + len(caller.acr) > _LONGEST:
            record["standing"] = None
        else:
            record["standing"] = {**{name: sorted(members) for name, members in sets.items()}, "acr": caller.acr}

    def forget(self) -> None:
        """A record may not have been written: say everything again."""
        self._last.clear()


def recorded(issuer: str, subject: str, client: str, standing: dict[str, Any] | None) -> Caller:
    """The caller of a record, with this recorded standing; without one, what the names alone say. Raises TypeError."""
    known = standing or {}
    scopes, roles, groups, amr = (frozenset(map(_text, known.get(name, ()))) for name in _SETS)
    acr = _text(known.get("acr", ""))
    return Caller(_text(issuer), _text(subject), _text(client), scopes, roles, groups, amr, acr)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value
