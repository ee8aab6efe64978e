"""Which scopes a challenge names: all that the call needs, so that a client that asks for just those gets through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from limen.policy.rules import Policy

_HYPOTHESES: Final = 32


def needed_scopes(
    options: Sequence[frozenset[str]], held: frozenset[str], allowed: Callable[[frozenset[str]], bool]
) -> frozenset[str]:
    """What a rule asks for that would make the answer yes; of several, the one of which least is missing."""
    lacking = [option for option in options if not option <= held]
    for option in sorted(lacking, key=lambda one: (len(one - held), sorted(one - held)))[:_HYPOTHESES]:
        if allowed(held | option):
            return option
    return frozenset()


def used_scopes(policies: Sequence[Policy], rules: Sequence[str], held: frozenset[str]) -> list[str]:
    """The scopes by which these rules applied: whoever signs in anew must not come back without them."""
    used = frozenset[str]()
    for policy in policies:
        options = [option for option in policy.scope_options if option <= held]
        if policy.id in rules and options:
            used |= min(options, key=lambda option: (len(option), sorted(option)))
    return sorted(used)
