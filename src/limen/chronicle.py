"""What decided, and what became of the catalog, goes on record: kept under digests for replays, and told in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from limen.catalog.locked import LockedRegistry
from limen.catalog.registry import Registry
from limen.catalog.snapshot import Catalog
from limen.core.faults import DependencyFault
from limen.corridor import Corridor
from limen.history import keep_policy
from limen.policy.decision import PolicySet
from limen.policy.kept import Keeper
from limen.policy.rules import PolicySettings
from limen.storage import State

_AUDITED: Final = "audited-history"


class Chronicle:
    """Of one process. `record` puts an event on record."""

    def __init__(
        self, state: State, record: Callable[[str, Mapping[str, Any]], None], say: Callable[[str], None]
    ) -> None:
        self._state, self._record, self._say = state, record, say
        self._kept: tuple[str, str] = ("", "")
        self._followed = 0  # how far the log has followed a lock

    def keep(self, corridor: Corridor, policy: PolicySet, settings: PolicySettings) -> None:
        """What decides is kept under its digests, for replays. That it cannot be kept now stops no revocation and no
        approval from taking effect: it is said, and tried again at the next change."""
        pair = (corridor.policy, corridor.catalog.version)
        if pair == self._kept:
            return
        keeper = Keeper(self._state.history)
        try:
            keeper.policy(policy, settings)
            keep_policy(self._state.history, corridor.policy)
            if isinstance(corridor.catalog, Catalog):
                keeper.catalog(corridor.catalog.version, corridor.catalog.pinned)
        except DependencyFault as fault:
            self._say(f"policy not kept: {fault}")
        else:
            self._kept = pair

    def begin(self) -> None:
        """Another registry: what is known of a lock's history is no longer true."""
        self._followed = 0

    def follow(self, registry: Registry) -> None:
        """Every approval, rejection and observed change goes to the log once, in order, whoever made it."""
        locked = isinstance(registry, LockedRegistry)
        last = newest = self._audited(locked)
        for row in registry.history(last):
            if row.sequence > last:
                told = {"change" if name == "event" else name: value for name, value in asdict(row).items()}
                self._record("catalog", told)
                newest = max(newest, row.sequence)
        if newest > last and locked:
            self._followed = newest
        elif newest > last:
            self._state.marks.put(_AUDITED, str(newest).encode())

    def _audited(self, locked: bool) -> int:
        """How far the log has followed. A lock's history begins anew in every process, our records' never does."""
        if locked:
            return self._followed
        raw = self._state.marks.get(_AUDITED)
        return int(raw) if raw else 0
