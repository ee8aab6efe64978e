"""What makes later calls continue earlier ones: handles and their keys, sessions, trails, counters of misuse.

Part of the composition root: built once, outlives configurations, follows their settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from limen.adapters.geoip import Places
from limen.adapters.handlekeys import HandleKeys
from limen.core.ports import Table
from limen.identity.bind_session import Callers, States
from limen.identity.handles import Handles
from limen.identity.misuse import Misuse
from limen.identity.sessions import Sessions

if TYPE_CHECKING:
    from limen.config.model import Config

Emit = Callable[[Mapping[str, Any]], None]


class Continuity:
    """`sessions` and `spent` are tables that all replicas share, as is the directory of keys beside the storage.

    Raises ConfigFault or DependencyFault when the keys cannot be used.
    """

    def __init__(self, config: Config, sessions: Table, spent: Table, emit: Emit) -> None:
        self.emit = emit
        self.keys = HandleKeys(config.storage.path.parent / "handle-keys")
        self.handles = Handles(self.keys, spent)
        self.sessions = Sessions(sessions, config.sessions)
        self.sessions.tell = lambda act, members: emit({"t": "session", "act": act, **members})
        self.states = States(self.handles, lambda: self.sessions.settings.state)
        self.misuse = Misuse(config.sessions.misuse, emit, network=lambda at: self.sessions.settings.risk.network(at))
        self.callers = Callers()

    def adopt(self, config: Config) -> None:
        """Follow this configuration from now on."""
        self.sessions.settings, self.misuse.settings = config.sessions, config.sessions.misuse

    def renew_keys(self) -> bool:
        """A new key for handles when the one in use is old; what the old one sealed stays good. Whether it did."""
        longest = self.sessions.settings.key_days * 86_400
        return self.keys.age >= longest and self.keys.renew(longest)


def places(config: Config) -> Places | None:
    """Where addresses are, if the operator has a file of it. Raises ConfigFault."""
    return Places(config.sessions.geoip) if config.sessions.geoip is not None else None
