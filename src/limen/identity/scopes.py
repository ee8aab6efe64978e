"""Which scopes stand for which others: declared, transitively closed, free of circles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,255}\Z")  # RFC 6749 section 3.3
MAX_DECLARED: Final = 1000


def closure(declared: Mapping[str, tuple[str, ...]]) -> Mapping[str, frozenset[str]]:
    """Scope -> all it stands for, itself included. Raises ValueError for a circle and for what is no scope."""
    if len(declared) > MAX_DECLARED:
        raise ValueError(f"scope_implies declares more than {MAX_DECLARED} scopes")
    done: dict[str, frozenset[str]] = {}
    for scope in declared:
        _close(scope, declared, done, ())
    return {scope: all_ for scope, all_ in done.items() if scope in declared}


def _close(
    scope: str, declared: Mapping[str, tuple[str, ...]], done: dict[str, frozenset[str]], above: tuple[str, ...]
) -> frozenset[str]:
    if not SCOPE.match(scope):
        raise ValueError(f"scope_implies: {scope!r} is not a scope")
    if scope in above:
        raise ValueError(f"scope_implies goes in a circle: {' -> '.join((*above, scope))}")
    if len(above) > 64:
        raise ValueError("scope_implies: more than 64 steps")
    if scope not in done:
        inner = (_close(one, declared, done, (*above, scope)) for one in declared.get(scope, ()))
        done[scope] = frozenset({scope}).union(*inner)
    return done[scope]


def held(scopes: frozenset[str], implied: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The scopes of a token and all they stand for."""
    if not implied:
        return scopes
    return scopes.union(*(implied[scope] for scope in scopes if scope in implied))
