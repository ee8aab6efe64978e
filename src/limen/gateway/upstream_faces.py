"""As whom we read a server. One that shows every client the same has nothing to fear from being asked twice.

A server can keep its poison for those it was made for: it looks at clientInfo, at the declared capabilities, at
User-Agent, or counts requests (a cloaked rug pull). So a server is read now and then by what looks like a well-known
client, on a connection of its own, in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from limen import __version__
from limen.gateway import eras


@dataclass(frozen=True, slots=True)
class Face:
    """What a client says of itself. `words`: capabilities in the vocabulary of `eras.declared`; whatever is asked on
    the strength of them is refused, as with our own face."""

    client: Mapping[str, str]
    agent: str
    words: frozenset[str] = frozenset()
    backwards: bool = False

    @property
    def name(self) -> str:
        """Its clientInfo.name."""
        return self.client["name"]


def _client(name: str, version: str) -> Mapping[str, str]:
    return MappingProxyType({"name": name, "version": version})


OWN: Final = Face(eras.CLIENT_INFO, f"limen/{__version__}")
OTHERS: Final = (
    Face(_client("claude-ai", "0.1.0"), "Claude-User", frozenset({"sampling", "form"}), backwards=True),
    Face(_client("cursor-vscode", "1.0.0"), "Cursor/2.0.43 (linux x64)", frozenset({"roots", "form"}), backwards=True),
    Face(
        _client("Visual Studio Code", "1.106.0"),
        "node",
        frozenset({"roots", "sampling", "form", "url"}),
        backwards=True,
    ),
)
