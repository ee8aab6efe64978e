"""Guards Protect and Reveal: what a server need not know leaves as a token, and comes back in clear to whom it may.

Declared per server: which string arguments are covered, and which callers see the tokens in its answers revealed. A
tenant is an issuer: who shares one shares keys, and destroying its keys makes every token of it unreadable for good
(`limen protect destroy`). What was judged is the clear text; what is sent, mirrored headers included, holds the token.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, Final

from limen.core.call import Approved, Caller, Context, Grant, Inspected, Protected
from limen.core.verdict import Pass, Permit, Replace, ResultVerdict, Verdict, refuse
from limen.detection.inspect import Seen, note
from limen.detection.protect import KeyDestroyed, Protector
from limen.detection.settings import ContentSettings, Protection
from limen.protocol.jsonrpc import canonical

_NOTHING: Final = Pass((Protected(),))
_PASS: Final = Pass()
_DESTROYED: Final = "the keys of this tenant were destroyed"


class Protect:
    """Gives Protected. Refuses content.blocked when what must be covered is no text, or the tenant has no keys left."""

    needs = (Caller, Approved, Grant)
    gives = (Protected,)

    def __init__(self, settings: ContentSettings, protector: Protector | None, seen: Seen) -> None:
        self._rules = {name: one.protect for name, one in settings.servers.items() if one.protect}
        self._protector, self._seen = protector, seen

    def check(self, context: Context) -> Verdict:
        """Cover what the rules for this tool name. Raises DependencyFault when the keys cannot be had."""
        approved = context.get(Approved)
        rules = [one for one in self._rules.get(approved.server, ()) if fnmatchcase(approved.name, one.tool)]
        if not rules or not context.call.arguments:
            return _NOTHING
        if self._protector is None:
            return refuse("content.blocked", "arguments must be protected and no keys are configured")
        arguments, tenant, covered = context.call.read_arguments(), context.get(Caller).issuer, False
        try:
            for rule in rules:
                for holder, last in _places(arguments, rule):
                    if type(holder[last]) is not str:
                        return refuse("content.blocked", f"what must be protected is no text: {rule.arguments}")
                    holder[last] = self._protector.protect(rule.kind, holder[last], tenant, equal=rule.equal)
                    covered = True
        except KeyDestroyed:
            return refuse("content.blocked", _DESTROYED)
        except ValueError as error:
            return refuse("content.blocked", str(error))
        if not covered:
            return _NOTHING
        note(self._seen, context.reference, Inspected(0.0, ("protected.arguments",)))
        return Pass((Protected(canonical(arguments)),))


class Reveal:
    """Result guard: tokens of the caller's own tenant, for callers the server's `reveal` names. Recorded."""

    def __init__(self, settings: ContentSettings, protector: Protector | None) -> None:
        self._to = {name: one.reveal for name, one in settings.servers.items() if one.reveal}
        self._protector = protector

    def check_result(self, permit: Permit, result: dict[str, Any]) -> ResultVerdict:
        """Never refuses by itself: what cannot be revealed stays a token."""
        to = self._to.get(permit.get(Approved).server)
        if to is None or self._protector is None or not _named(permit.get(Caller), to):
            return _PASS
        tenant, found = permit.get(Caller).issuer, 0

        def shown(value: Any) -> Any:
            nonlocal found
            if type(value) is str and "lp1." in value and self._protector is not None:
                try:
                    clear = self._protector.uncover(value, tenant)
                except KeyDestroyed:
                    return value
                found += clear != value
                return clear
            if type(value) is dict:
                return {name: shown(member) for name, member in value.items()}
            return [shown(one) for one in value] if type(value) is list else value

        clear = shown(result)
        return Replace(clear, f"revealed tokens in {found} texts") if found else _PASS


def _named(caller: Caller, to: tuple[str, ...]) -> bool:
    """Who: `user:`, `role:`, `group:` or `scope:` and a name."""
    held = {
        "user": {caller.subject},
        "role": caller.roles,
        "group": caller.groups,
        "scope": caller.scopes,
    }
    return any(name in held[kind] for kind, _, name in (one.partition(":") for one in to))


def _places(arguments: dict[str, Any], rule: Protection) -> Iterator[tuple[Any, Any]]:
    """Holder and member of everything the pointers name; `*` stands for every item or member. Raises ValueError where
    something else stands on the way: what was to be covered could be in it."""
    for pointer in rule.arguments:
        holders: list[Any] = [arguments]
        steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
        for step in steps[:-1]:
            holders = [holder[member] for holder in holders for member in _members(holder, step)]
        for holder in holders:
            yield from ((holder, member) for member in _members(holder, steps[-1]))


def _members(holder: Any, step: str) -> list[Any]:
    if type(holder) is dict:
        return list(holder) if step == "*" else [step] if step in holder else []
    if type(holder) is list and step == "*":
        return list(range(len(holder)))
    raise ValueError("what must be protected is not where it was declared to be")
