"""What the log keeps of the arguments of calls: their digest, a redacted text, or the arguments sealed for later.

Sealed arguments are under a key of their caller's own: who destroys that key makes them unreadable for good, and the
log verifies as before.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, cast

import jiter
import orjson

from limen.core.call import Call, Caller
from limen.core.faults import DependencyFault
from limen.core.ports import Sealer, owner_of

Kind = Literal["digest", "redacted", "encrypted"]
Redact = Callable[[str, str], str]  # a text and the name of the member it stands in -> the text without what is private
SHOWN: Final = 2048  # characters of redacted arguments in a record
SEALED: Final = 16 << 10  # bytes of arguments that are sealed: a record holds 64 KiB in all


class Parameters:
    """What is kept for each server. `sealer` is asked for when something is to be sealed."""

    def __init__(
        self, default: Kind, servers: Mapping[str, Kind], redact: Redact, sealer: Callable[[], Sealer | None]
    ) -> None:
        self._default, self._servers, self._redact, self._sealer = default, dict(servers), redact, sealer

    def kept(self, server: str) -> bool:
        """Whether more than the digest is."""
        return self._servers.get(server, self._default) != "digest"

    async def of(self, call: Call, server: str, caller: Caller, reference: str) -> dict[str, Any]:
        """The member `parameters` of the call's record. Raises DependencyFault when it cannot be made."""
        size, kind = len(call.arguments), self._servers.get(server, self._default)
        if kind == "redacted":
            try:
                text = await asyncio.to_thread(self._redacted, call.arguments)
            except (ValueError, RecursionError) as error:
                raise DependencyFault("audit", f"arguments cannot be redacted: {type(error).__name__}") from None
            return {"kind": kind, "value": text[:SHOWN], "size": size, **({"cut": True} if len(text) > SHOWN else {})}
        sealer = self._sealer()
        if sealer is None:
            raise DependencyFault("audit", "arguments are to be encrypted, and there is no vault", retryable=False)
        owner, part = owner_of(caller.issuer, caller.subject), call.arguments[:SEALED]
        sealed = await asyncio.to_thread(sealer.seal, owner, _place(reference), part)
        value = base64.b64encode(sealed).decode()
        return {"kind": "encrypted", "value": value, "size": size, **({"cut": True} if size > SEALED else {})}

    def _redacted(self, arguments: bytes) -> str:
        found = self._without(jiter.from_json(arguments), "") if arguments else {}
        return orjson.dumps(found).decode()

    def _without(self, value: Any, name: str) -> Any:
        if isinstance(value, str):
            return self._redact(value, name)
        if isinstance(value, dict):
            return {self._redact(key, ""): self._without(member, key) for key, member in value.items()}
        if isinstance(value, list):
            return [self._without(member, name) for member in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            plain = str(value)
            covered = self._redact(plain, name)
            return value if covered == plain else covered
        return value


def opened(record: Mapping[str, Any], sealer: Callable[[], Sealer]) -> bytes:
    """The arguments that a record keeps, as far as it keeps them. `sealer` is only asked for where they are sealed.

    Raises LookupError when it keeps none, DependencyFault when they cannot be opened: the key is gone, or the record
    is not the one they were sealed for.
    """
    kept = record.get("parameters")
    if not isinstance(kept, dict) or kept.get("kind") not in ("redacted", "encrypted"):
        raise LookupError("only the digest of these arguments was kept")
    if kept["kind"] == "redacted":
        return cast("str", kept["value"]).encode()
    try:
        sealed = base64.b64decode(kept["value"], validate=True)
    except (binascii.Error, ValueError):
        raise DependencyFault("audit", "what was sealed is damaged", retryable=False) from None
    owner = owner_of(str(record.get("iss", "")), str(record.get("sub", "")))
    return sealer().open(owner, _place(str(record.get("ref", ""))), sealed)


def _place(reference: str) -> str:
    return f"audit/{reference}"
