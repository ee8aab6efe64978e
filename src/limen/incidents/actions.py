"""What can be done to contain an attack: one table, used by people, playbooks and the interface alike."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

# kind -> what `value` names. Each can be taken back with `Hands.release`.
ACTIONS: Final = MappingProxyType(
    {
        "end_session": "digest of a session",
        "lock_caller": "subject, of `issuer` or of any",
        "block_client": "client id",
        "revoke_token": "token id",
        "revoke_grants": "subject, of `issuer`: its grants, consents and connections end, and this is not undone",
        "quarantine_tool": "server/name",
        "quarantine_server": "server",
        "cut_egress": "server: none of its processes reaches the network",
        "read_only": "server, or * for all: only what was approved as reading",
        "stop_all": "*: nothing is called at all",
    }
)


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do. `until`: seconds since the epoch, None: until it is taken back."""

    kind: str
    value: str
    issuer: str = ""
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """An action in force. The same action applied twice is in force once and has one id. `waits`: a second person must
    agree before it is in force (or, when asked to release, before it is taken back)."""

    id: str
    action: Action
    by: str
    reason: str
    at: float
    incident: str = ""
    waits: bool = False


class Hands(Protocol):
    """Puts actions in force on every replica within a second, and takes them back. All raise DependencyFault."""

    def apply(self, action: Action, *, by: str, reason: str, incident: str = "") -> Applied:
        """Raises ValueError for an action that means nothing."""
        ...

    def release(self, identifier: str, *, by: str, reason: str) -> Applied:
        """Raises LookupError when there is none, ValueError when it cannot be taken back."""
        ...

    def in_force(self) -> list[Applied]:
        """All of them, oldest first."""
        ...
