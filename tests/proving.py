"""A DPoP client for tests: makes proofs, honest or not, with PyJWT's primitives and RFC 7638 worked out by hand."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from itertools import count
from typing import Any

from contracts.memory import MemoryTable
from limen.core.call import Presented
from limen.core.verdict import Pass, Refuse, Verdict
from limen.identity.dpop import Proofs
from limen.identity.settings import DpopSettings
from minting import NOW, RESOURCE, Clock, Key, World, b64, context, without

_NUMBERS = count(1)
_REQUIRED = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}


def thumb(jwk: Mapping[str, Any]) -> str:
    """RFC 7638."""
    members = {name: jwk[name] for name in _REQUIRED[jwk["kty"]]}
    return b64(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest())


class Holder:
    """Whoever holds the private key a token is bound to."""

    def __init__(self, algorithm: str = "ES256", **members: Any) -> None:
        self.key = Key(algorithm, kid=None, **members)
        self.jwk = {name: self.key.jwk[name] for name in _REQUIRED[self.key.jwk["kty"]]}

    @property
    def cnf(self) -> dict[str, str]:
        return {"jkt": thumb(self.jwk)}

    def header(self, **changes: Any) -> dict[str, Any]:
        return without({"typ": "dpop+jwt", "alg": self.key.algorithm, "jwk": self.jwk, **changes})

    def claims(self, token: str, **changes: Any) -> dict[str, Any]:
        honest = {
            "jti": f"p-{next(_NUMBERS)}",
            "htm": "POST",
            "htu": RESOURCE,
            "iat": NOW,
            "ath": b64(hashlib.sha256(token.encode()).digest()),
        }
        return without({**honest, **changes})

    def proof(self, token: str, header: Mapping[str, Any] | None = None, **changes: Any) -> str:
        return self.key.sign(self.header(**(header or {})), self.claims(token, **changes))


class Door:
    """Authenticate with proofs of possession, in front of one issuer."""

    def __init__(self, *keys: Key, seen: Any = None, clock: Clock | None = None, **settings: Any) -> None:
        self.clock = clock or Clock()
        dpop = DpopSettings(**settings.pop("dpop", {}))
        demands = settings.pop("demands", {})
        self.seen = seen if seen is not None else MemoryTable(self.clock)
        self.proofs = Proofs(dpop, 30, self.seen, self.clock)
        parts = {"proofs": self.proofs, "demands": demands}
        self.world = World(*keys, clock=self.clock, parts=parts, dpop=dpop, **settings)

    async def ask(self, value: str, *proofs: str | bytes, **presented: Any) -> Verdict:
        raw = tuple(one if isinstance(one, bytes) else one.encode() for one in proofs)
        shown = {"resource": RESOURCE, "method": "POST", "proofs": raw, "private": True, **presented}
        answer = self.world.guard.check(context(Presented((value.encode(),), **shown)))
        return answer if isinstance(answer, Pass | Refuse) else await answer

    def judge(self, value: str, *proofs: str | bytes, **presented: Any) -> Verdict:
        async def run() -> Verdict:
            await self.world.issuers.warm()
            return await self.ask(value, *proofs, **presented)

        return asyncio.run(run())
