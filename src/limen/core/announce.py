"""What a server says it offers, as read by us on our own connection. Untrusted until approved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Announcement:
    """One complete reading of one server. Items are parsed JSON values of any shape: nothing is validated yet.

    `identity` says what we connected to, by our own observation and never by the server's word: the digest of the
    program and its arguments, or the URL and the certificate's key. `findings` are things noticed while reading.
    """

    server: str
    revision: str
    info: dict[str, Any] = field(default_factory=dict)
    capabilities: dict[str, Any] = field(default_factory=dict)
    instructions: str | None = None
    tools: tuple[Any, ...] = ()
    prompts: tuple[Any, ...] = ()
    resources: tuple[Any, ...] = ()
    templates: tuple[Any, ...] = ()
    identity: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    findings: tuple[str, ...] = ()
