"""What an upstream gets to see of our credentials: the headers an operator configured for it, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from limen.core.call import Approved, Caller, Context, Grant, UpstreamCredential
from limen.core.faults import ConfigFault
from limen.core.verdict import Pass, Verdict

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_LONGEST: Final = 8192
_TAKEN: Final = frozenset(
    {
        "host", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect", "date", "via",
        "user-agent", "origin", "referer", "range", "forwarded", "last-event-id", "http2-settings",
    }
)  # fmt: skip
_TAKEN_PREFIXES: Final = ("mcp-", "content-", "accept", "proxy-", "sec-", "if-", "access-control-")


class AttachCredential:
    """Guard. Decides nothing: states which configured headers go with the call. Never reads what the caller presented.

    Raises ConfigFault at construction for a header that would collide with the protocol's own (RFC 9110 section 5.1,
    RFC 9112 section 6) or whose value could start another header.
    """

    needs: tuple[type, ...] = (Caller, Approved, Grant)
    gives: tuple[type, ...] = (UpstreamCredential,)

    def __init__(self, headers: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        self._answers: Mapping[str, Pass] = MappingProxyType(
            {server: Pass((UpstreamCredential(checked(server, pairs)),)) for server, pairs in headers.items()}
        )
        self._nothing = Pass((UpstreamCredential(),))

    def check(self, context: Context) -> Verdict:
        """A server without configured headers gets the explicit nothing."""
        return self._answers.get(context.get(Approved).server, self._nothing)


def checked(server: str, pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Headers as they may be sent, names in lower case. Raises ConfigFault; the message never holds a value."""
    seen: set[str] = set()
    kept: list[tuple[str, str]] = []
    for name, value in pairs:
        where, lower = f"servers.{server}.headers", name.lower()
        if not _TOKEN.fullmatch(name):
            raise ConfigFault(f"{name[:40]!r} is not a header name", where)
        if lower in _TAKEN or lower.startswith(_TAKEN_PREFIXES):
            raise ConfigFault(f"{name!r} is a header of the protocol", where)
        if lower in seen:
            raise ConfigFault(f"{name!r} is set twice", where)
        if len(value) > _LONGEST or not _VALUE.fullmatch(value):
            raise ConfigFault(f"the value of {name!r} is empty, too long, or not plain visible ASCII", where)
        seen.add(lower)
        kept.append((lower, value))
    return tuple(kept)
