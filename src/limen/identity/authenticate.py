"""Guard: who is calling? A bearer token from the Authorization header, or the local user of a stdio client."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from hashlib import sha256
from typing import Final

from limen.core.call import Caller, Context
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Verdict, refuse
from limen.identity.issuers import IdentitySettings, Issuer, Issuers
from limen.identity.keys import signature_holds
from limen.identity.token import MAX_TOKEN, Compact, TokenRefused, read_caller, read_compact

# RFC 6750 section 2.1 and RFC 9110 section 11.4: the scheme in any case, one space, one b64token, nothing else.
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] ([A-Za-z0-9._~+/-]+=*)\Z")
_MAX_VALUE: Final = MAX_TOKEN + len(b"Bearer ")
_CacheKey = tuple[bytes, str]
_Entry = tuple[Pass, float, Issuer, int]


class TokenVerifier:
    """Access token and resource to verdict. Remembers what it verified, by digest, until expiry or a change of keys."""

    def __init__(self, issuers: Issuers, settings: IdentitySettings, *, capacity: int = 10_000) -> None:
        self._issuers, self._settings, self._now = issuers, settings, issuers.now
        self._capacity, self._epoch = capacity, 0
        self._verified: dict[_CacheKey, _Entry] = {}

    def revoke_all(self) -> None:
        """Forget every verified token; verifications under way are not remembered either."""
        self._epoch += 1
        self._verified.clear()

    def verify(self, authorization: bytes, resource: str) -> Verdict | Awaitable[Verdict]:
        """Judge one Authorization value for one resource (RFC 6750, RFC 9068 section 4, RFC 8707).

        Answers at once where the keys are known, else hands back an awaitable that may raise DependencyFault.
        Refusals: identity.invalid, identity.audience, identity.expired.
        """
        key = (sha256(authorization).digest(), resource)
        entry = self._verified.get(key)
        if entry is not None:
            answer, until, issuer, generation = entry
            now = self._now()
            if now < until and generation == issuer.generation and (now < issuer.due or issuer.usable()):
                return answer
            del self._verified[key]
        try:
            return self._examine(key, authorization)
        except TokenRefused as refused:
            return refuse(refused.reason, refused.detail)

    def _examine(self, key: _CacheKey, authorization: bytes) -> Verdict | Awaitable[Verdict]:
        match = _BEARER.match(authorization) if len(authorization) <= _MAX_VALUE else None
        if match is None:
            raise TokenRefused("identity.invalid", "not one bearer token")
        compact = read_compact(match[1])
        issuer = self._issuers.find(compact.issuer)
        if issuer is None:
            raise TokenRefused("identity.invalid", "unknown issuer")
        if compact.algorithm not in issuer.settings.algorithms:
            raise TokenRefused("identity.invalid", "algorithm not accepted from this issuer")
        if compact.kind not in issuer.accepted_types:
            raise TokenRefused("identity.invalid", "typ not accepted from this issuer")
        caller: Caller | TokenRefused
        try:
            caller = read_caller(compact, issuer.settings, self._settings, key[1], self._now())
        except TokenRefused as refused:
            caller = refused
        if issuer.usable() and issuer.find(compact.algorithm, compact.kid):
            return self._conclude(key, compact, issuer, caller)
        if isinstance(caller, TokenRefused):  # refused either way: no reason to trouble the identity provider
            raise TokenRefused("identity.invalid", f"unknown key; {caller.detail}")
        return self._renew(key, compact, issuer, caller)

    async def _renew(self, key: _CacheKey, compact: Compact, issuer: Issuer, caller: Caller) -> Verdict:
        epoch = self._epoch
        await issuer.renew()
        if issuer.failure and not issuer.find(compact.algorithm, compact.kid):
            raise DependencyFault("identity provider", f"key not known: {issuer.failure}")
        try:
            return self._conclude(key, compact, issuer, caller, epoch)
        except TokenRefused as refused:
            return refuse(refused.reason, refused.detail)

    def _conclude(
        self, key: _CacheKey, compact: Compact, issuer: Issuer, caller: Caller | TokenRefused, epoch: int | None = None
    ) -> Verdict:
        """Check the signature with this issuer's one fitting key, then let the claims speak."""
        keys = issuer.find(compact.algorithm, compact.kid)
        if len(keys) != 1:
            raise TokenRefused("identity.invalid", f"{len(keys)} keys fit where one must")
        if not signature_holds(compact.token, keys[0], issuer.algorithms):
            raise TokenRefused("identity.invalid", "the signature does not hold")
        if isinstance(caller, TokenRefused):
            raise caller
        answer = Pass((caller,))
        if epoch is None or epoch == self._epoch:
            if len(self._verified) >= self._capacity:
                self._verified.pop(next(iter(self._verified)))
            self._verified[key] = (answer, caller.expires + self._settings.leeway, issuer, issuer.generation)
        return answer


class Authenticate:
    """Establishes the Caller. The first guard of the chain: nothing is disclosed above it.

    `audiences` maps the name of a route to its canonical resource URI ("" is the bundle). Refusals:
    identity.missing, identity.ambiguous (RFC 6750 section 3.1), identity.audience, and those of TokenVerifier.
    """

    needs: tuple[type, ...] = ()
    gives: tuple[type, ...] = (Caller,)

    def __init__(self, issuers: Issuers, audiences: Mapping[str, str], settings: IdentitySettings) -> None:
        self._verifier = TokenVerifier(issuers, settings)
        self._audiences = dict(audiences)
        self._anonymous = settings.unsafe_anonymous

    def revoke_all(self) -> None:
        """Forget every verified token."""
        self._verifier.revoke_all()

    def check(self, context: Context) -> Verdict | Awaitable[Verdict]:
        presented, call = context.presented, context.call
        values = presented.authorization
        if presented.local_user:
            if call.peer.transport != "stdio" or values:
                return refuse("identity.ambiguous", "a local user over a network, or with a token besides")
            return Pass((Caller(issuer="local", subject=presented.local_user),))
        if len(values) > 1:
            return refuse("identity.ambiguous", "more than one Authorization header")
        if not values:
            if self._anonymous:
                return Pass((Caller(issuer="anonymous", subject="anonymous"),))
            return refuse("identity.missing")
        resource = self._audiences.get(call.route)
        if not resource or presented.resource != resource:
            return refuse("identity.audience", "the request was addressed to another resource than its route")
        return self._verifier.verify(values[0], resource)
