"""Every method a client may send, per revision: what it names and which members are carried on. No default row.

Sources: schema.ts of 2025-03-26, 2025-06-18, 2025-11-25 and 2026-07-28. A test compares them with the SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from limen.core.call import Era

HANDSHAKE_REVISIONS: Final = ("2025-03-26", "2025-06-18", "2025-11-25")
MODERN_REVISIONS: Final = ("2026-07-28",)
SUPPORTED: Final = (*HANDSHAKE_REVISIONS, *MODERN_REVISIONS)
LATEST_HANDSHAKE: Final = HANDSHAKE_REVISIONS[-1]

META_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
META_CLIENT: Final = "io.modelcontextprotocol/clientInfo"
META_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
META_LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
META_SERVER: Final = "io.modelcontextprotocol/serverInfo"
META_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"


def era_of(revision: str) -> Era | None:
    """The era a revision belongs to, or None when it is not supported."""
    if revision in MODERN_REVISIONS:
        return Era.MODERN
    return Era.HANDSHAKE if revision in HANDSHAKE_REVISIONS else None


@dataclass(frozen=True, slots=True)
class Method:
    """One row. `names`: the params member that names the target. `carries`: further members that may be read."""

    eras: frozenset[Era]
    request: bool = True
    names: str = ""
    arguments: bool = False
    carries: frozenset[str] = frozenset()
    resumable: bool = False  # may carry requestState and inputResponses (2026-07-28)


_BOTH: Final = frozenset(Era)
_OLD: Final = frozenset({Era.HANDSHAKE})
_NEW: Final = frozenset({Era.MODERN})

METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {
        "initialize": Method(_OLD, carries=frozenset({"protocolVersion", "capabilities", "clientInfo"})),
        "ping": Method(_OLD),
        "logging/setLevel": Method(_OLD, carries=frozenset({"level"})),
        "tools/list": Method(_BOTH, carries=frozenset({"cursor"})),
        "tools/call": Method(_BOTH, names="name", arguments=True, resumable=True),
        "resources/list": Method(_BOTH, carries=frozenset({"cursor"})),
        "resources/templates/list": Method(_BOTH, carries=frozenset({"cursor"})),
        "resources/read": Method(_BOTH, names="uri", resumable=True),
        "resources/subscribe": Method(_OLD, names="uri"),
        "resources/unsubscribe": Method(_OLD, names="uri"),
        "prompts/list": Method(_BOTH, carries=frozenset({"cursor"})),
        "prompts/get": Method(_BOTH, names="name", arguments=True, resumable=True),
        "completion/complete": Method(_BOTH, carries=frozenset({"ref", "argument", "context"})),
        "server/discover": Method(_NEW),
        "subscriptions/listen": Method(_NEW, carries=frozenset({"notifications"})),
        "notifications/initialized": Method(_OLD, request=False),
        "notifications/cancelled": Method(_BOTH, request=False, carries=frozenset({"requestId", "reason"})),
        "notifications/progress": Method(_OLD, request=False),
        "notifications/roots/list_changed": Method(_OLD, request=False),
    }
)
"""Left out: tasks/* (experimental in 2025-11-25, an extension since): refused as unknown."""
