"""A client proves with its own key that it is that client (RFC 7523 section 3), once for each proof."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Protocol

from limen.core.faults import DependencyFault
from limen.core.ports import Exchange, Table
from limen.oauth.model import Client

KIND: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LARGEST: Final = 8 << 10  # bytes
_LIFETIME: Final = 300  # seconds
_LEEWAY: Final = 30
_TEXT: Final = 256  # characters of a jti
_KEPT: Final = 200  # key sets
_FRESH: Final = 600.0  # seconds a key set is used
_AGAIN: Final = 30.0  # and in which an unknown key, or an outage, does not have it fetched again
_ACCEPT: Final = "application/jwk-set+json, application/json"


class ClientKeys(Protocol):
    """Reads what was signed, which another room knows how to."""

    def check(self, key_set: bytes) -> None:
        """Raises ValueError unless there is a key in it that can verify."""
        ...

    def subject(self, token: bytes) -> str:
        """Whose it says it is. Nothing of it is proven. Raises ValueError."""
        ...

    def read(self, token: bytes, key_set: bytes) -> dict[str, Any]:
        """The claims, once exactly one key of the set has signed them. Raises ValueError, LookupError (no such key)."""
        ...


class NotProven(Exception):
    """The proof is not accepted. The message is for the operator."""


@dataclass(slots=True)
class _KeySet:
    asked: float = -math.inf  # when they were last asked for
    got: float = -math.inf  # and when they last came
    data: bytes = field(default=b"", repr=False)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Assertions:
    """Checks proofs. `issuer` is ours; a proof names it or the endpoint it was sent to, and nothing else."""

    def __init__(
        self, table: Table, keys: ClientKeys, exchange: Exchange, issuer: str, now: Callable[[], float] = time.time
    ) -> None:
        self._table, self.keys, self._exchange, self._issuer, self._now = table, keys, exchange, issuer, now
        self._sets: OrderedDict[str, _KeySet] = OrderedDict()

    async def check(self, client: Client, assertion: bytes, endpoint: str) -> None:
        """Raises NotProven, and DependencyFault when it cannot be remembered as used."""
        if len(assertion) > LARGEST:
            raise NotProven("larger than a proof may be")
        try:
            claims = await self._read(client, assertion)
        except (ValueError, LookupError) as error:
            raise NotProven(str(error)) from None
        until = self._judge(claims, client.id, endpoint)
        key = "assertion/" + sha256(f"{client.id}\n{claims['jti']}".encode()).hexdigest()
        if not await asyncio.to_thread(self._table.swap, key, None, b"1", until):
            raise NotProven("jti was used before")

    async def _read(self, client: Client, assertion: bytes) -> dict[str, Any]:
        """Claims signed by a key of this client. Raises ValueError, LookupError, NotProven."""
        if client.jwks:
            return self.keys.read(assertion, client.jwks.encode())
        kept = self._sets.setdefault(client.jwks_uri, _KeySet())
        self._sets.move_to_end(client.jwks_uri)
        if len(self._sets) > _KEPT:
            self._sets.popitem(last=False)
        key_set = await self._key_set(client.jwks_uri, kept, _FRESH)
        try:
            return self.keys.read(assertion, key_set)
        except LookupError:
            again = await self._key_set(client.jwks_uri, kept, _AGAIN)
            return self.keys.read(assertion, again)

    async def _key_set(self, url: str, kept: _KeySet, age: float) -> bytes:
        """Keys no older than that if they can be had, and never older than _FRESH. Raises NotProven."""
        async with kept.lock:
            now = self._now()
            if now >= kept.got + age and now >= kept.asked + _AGAIN:
                kept.asked, trouble = now, await self._fetch(url, kept)
                if trouble and now >= kept.got + _FRESH:
                    raise NotProven(f"keys cannot be fetched: {trouble}")
            if now >= kept.got + _FRESH:
                raise NotProven("keys could not be fetched a moment ago")
            return kept.data

    async def _fetch(self, url: str, kept: _KeySet) -> str:
        """What went wrong, or ""."""
        try:
            answer = await self._exchange.get(url, _ACCEPT)
            if answer.status != 200:
                return f"status {answer.status}"
            self.keys.check(answer.body)
        except (DependencyFault, ValueError) as error:
            return str(error)
        kept.got, kept.data = self._now(), answer.body
        return ""

    def _judge(self, claims: Mapping[str, Any], client_id: str, endpoint: str) -> float:
        """RFC 7523 section 3, each claim. Until when the proof could be used. Raises NotProven."""
        if claims.get("iss") != client_id or claims.get("sub") != client_id:
            raise NotProven("iss and sub are not the client")
        audience = claims.get("aud")
        named = audience[0] if isinstance(audience, list) and len(audience) == 1 else audience
        if not isinstance(named, str) or named not in (self._issuer, endpoint):
            raise NotProven("aud is not this server alone")
        now, expires = self._now(), claims.get("exp")
        if type(expires) is not int or not now < expires + _LEEWAY or expires > now + _LIFETIME + _LEEWAY:
            raise NotProven("exp is missing, over, or too far away")
        for name in ("nbf", "iat"):
            if name in claims and (type(claims[name]) is not int or claims[name] > now + _LEEWAY):
                raise NotProven(f"{name} lies in the future")
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 0 < len(jti) <= _TEXT:
            raise NotProven("jti is not a short text")
        return float(expires + _LEEWAY + 1)
