"""What an upstream gets to see: headers an operator configured for it, what was obtained for it, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Final

from pydantic import AfterValidator

from limen.core.call import Approved, Call, Caller, Context, Grant, Presented, UpstreamCredential
from limen.core.faults import ConfigFault, UpstreamFault
from limen.core.verdict import Pass, Permit, Verdict, refuse
from limen.credentials.sources import Source

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_LONGEST: Final = 8192
_TAIL: Final = 24  # bytes of the end of a credential that are enough to know it by
_TAKEN: Final = frozenset(
    {
        "host", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect", "date", "via",
        "user-agent", "origin", "referer", "range", "forwarded", "last-event-id", "http2-settings",
    }
)  # fmt: skip
_TAKEN_PREFIXES: Final = ("mcp-", "content-", "accept", "proxy-", "sec-", "if-", "access-control-")


class AttachCredential:
    """Guard. Decides nothing: states which headers go with the call. What the caller presented goes no further: a
    source may show it to the authorization server it came from, and what comes back is another token (B1).

    `sources` answer for their servers instead of the headers, which they were given. Raises ConfigFault at construction
    for a header that would collide with the protocol's own (RFC 9110 section 5.1, RFC 9112 section 6) or whose value
    could start another header.
    """

    needs: tuple[type, ...] = (Caller, Approved, Grant)
    gives: tuple[type, ...] = (UpstreamCredential,)

    def __init__(
        self, headers: Mapping[str, Sequence[tuple[str, str]]], sources: Mapping[str, Source] = MappingProxyType({})
    ) -> None:
        self._answers: Mapping[str, Pass] = MappingProxyType(
            {
                server: Pass((UpstreamCredential(checked(server, pairs)),))
                for server, pairs in headers.items()
                if server not in sources
            }
        )
        self._sources = sources
        self._nothing = Pass((UpstreamCredential(),))

    def check(self, context: Context) -> Verdict | Awaitable[Verdict]:
        """A server without configured headers and without a source gets the explicit nothing."""
        presented = context.presented
        if (presented.authorization or presented.api_keys) and carried(context.call, presented):
            return refuse("credentials.exposed", "what the client authenticates with stands in the call itself")
        server = context.get(Approved).server
        answer = self._answers.get(server)
        if answer is not None:
            return answer
        source = self._sources.get(server)
        return self._nothing if source is None else source.credential(context)

    def rejected(self, permit: Permit, fault: UpstreamFault) -> None:
        """A server did not take what it was given. The call is over; what is known of the credential may be."""
        source = self._sources.get(permit.get(Approved).server)
        if source is not None:
            source.rejected(permit.get(Caller), fault.status, fault.challenge)

    def forget(self, caller: Caller) -> None:
        """Keep nothing that was obtained for this issuer, subject and client; a part that is "" stands for any."""
        for source in self._sources.values():
            source.forget(caller)

    async def close(self) -> None:
        """Let go of what is being obtained."""
        for source in self._sources.values():
            await source.close()


def carried(call: Call, presented: Presented) -> bool:
    """Whether the end of a presented token or key (of a JWT, part of its signature) stands in what would be sent.

    A model that was talked into passing its client's token on is stopped here; a client that disguises it is not.
    """
    for value in (*presented.authorization, *presented.api_keys):
        end = value[-_TAIL:]
        if len(value) < _TAIL:
            continue
        if end in call.arguments or end in call.rest or end in call.input_responses or end in call.name.encode():
            return True
        if call.trace and any(end in one.encode() for one in call.trace.values()):
            return True
    return False


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


def _sendable(name: str) -> str:
    try:
        checked("", [(name, "x")])
    except ConfigFault as fault:
        raise ValueError(fault.message) from None
    return name


HeaderName = Annotated[str, AfterValidator(_sendable)]  # of a header a credential may be sent in
