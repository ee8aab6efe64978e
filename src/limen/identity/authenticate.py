"""Guard: who is calling? An access token, bound or not, a key of ours, or the local user of a stdio client."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Final

from limen.core.call import Caller, Context, Presented
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Refuse, Verdict, refuse
from limen.identity.api_keys import PREFIX, ApiKeys
from limen.identity.binding import unproven
from limen.identity.dpop import Proofs
from limen.identity.introspect import introspector
from limen.identity.issuers import IdentitySettings, Issuer, Issuers
from limen.identity.keys import signature_holds
from limen.identity.token import MAX_TOKEN, Compact, TokenRefused, read_caller, read_compact

# RFC 6750 section 2.1, RFC 9449 section 7.1, RFC 9110 section 11.4: the scheme in any case, one space, one token68.
_TOKEN: Final = re.compile(rb"(?:[Bb][Ee][Aa][Rr][Ee][Rr]|[Dd][Pp][Oo][Pp]) ([A-Za-z0-9._~+/-]+=*)\Z")
_DPOP: Final = (b"D", b"d")  # first letters of an Authorization value that passed the pattern
_MAX_VALUE: Final = MAX_TOKEN + len(b"Bearer ")
_CacheKey = tuple[bytes, str]
_Entry = tuple[Pass, float, Issuer, int]


class TokenVerifier:
    """Access token and resource to verdict. Remembers what it verified, by digest, until expiry or a change of keys."""

    def __init__(
        self,
        issuers: Issuers,
        settings: IdentitySettings,
        *,
        capacity: int = 10_000,
        first: Callable[[Caller, str], object] | None = None,
    ) -> None:
        """`first` is told of every JWT that was not remembered, and of its resource."""
        self._first = first
        self._opaque = introspector(issuers, settings)
        self._issuers, self._settings, self._now = issuers, settings, issuers.now
        self._capacity, self._epoch = capacity, 0
        self._verified: dict[_CacheKey, _Entry] = {}

    def revoke_all(self) -> None:
        """Forget every verified token; verifications under way are not remembered either."""
        self._epoch += 1
        self._verified.clear()
        if self._opaque is not None:
            self._opaque.forget()

    def verify(self, authorization: bytes, resource: str) -> Verdict | Awaitable[Verdict]:
        """Judge one Authorization value for one resource (RFC 6750, RFC 9068 section 4, RFC 8707).

        Answers at once where the keys are known, else hands back an awaitable that may raise DependencyFault.
        Says nothing about possession: what the caller is bound to has to be proven by each request.
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
        match = _TOKEN.match(authorization) if len(authorization) <= _MAX_VALUE else None
        if match is None:
            raise TokenRefused("identity.invalid", "not one bearer or DPoP token")
        if match[1].startswith(PREFIX):  # also where it is not taken: an issuer who is asked about it has it
            raise TokenRefused("identity.invalid", "an API key, which is not accepted here")
        if self._opaque is not None and match[1].count(b".") != 2:
            return self._opaque.verify(match[1], key[1])
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
        if self._first is not None:
            self._first(caller, key[1])
        return answer


class Authenticate:
    """Establishes the Caller. The first guard of the chain: nothing is disclosed above it.

    `audiences` maps the name of a route to its canonical resource URI ("" is the bundle), `demands` a route to the
    kinds of binding every caller of it must prove. Without `proofs` no DPoP-bound token is good, without `keys` no
    API key.
    Refusals: identity.missing, .ambiguous (RFC 6750 section 3.1), .audience, .binding, .exposed, and those of
    TokenVerifier, Proofs and ApiKeys.
    """

    needs: tuple[type, ...] = ()
    gives: tuple[type, ...] = (Caller,)

    def __init__(
        self,
        issuers: Issuers,
        audiences: Mapping[str, str],
        settings: IdentitySettings,
        *,
        proofs: Proofs | None = None,
        keys: ApiKeys | None = None,
        demands: Mapping[str, frozenset[str]] = MappingProxyType({}),
        first: Callable[[Caller, str], object] | None = None,
    ) -> None:
        self._verifier = TokenVerifier(issuers, settings, first=first)
        self._audiences, self._demands = dict(audiences), {name: kinds for name, kinds in demands.items() if kinds}
        self._anonymous = settings.unsafe_anonymous
        self._proofs, self._keys = proofs, keys
        self._local: dict[str, Pass] = {}

    def revoke_all(self) -> None:
        """Forget every verified token."""
        self._verifier.revoke_all()

    def check(self, context: Context) -> Verdict | Awaitable[Verdict]:
        presented, call = context.presented, context.call
        values = presented.authorization
        if presented.local_user:
            if call.peer.transport != "stdio" or values or presented.proofs or presented.api_keys:
                return refuse("identity.ambiguous", "a local user over a network, or with a token besides")
            return self._local_user(presented.local_user)
        if len(values) > 1:
            return refuse("identity.ambiguous", "more than one Authorization header")
        demands = self._demands.get(call.route, _NOTHING)
        if self._keys is not None and presented.api_keys:
            if values or len(presented.api_keys) > 1:
                return refuse("identity.ambiguous", "an API key and another credential")
            return self._by_key(self._keys, presented.api_keys[0], context, demands)
        if not values:
            if self._anonymous and not demands:
                return _ANYBODY
            return refuse("identity.missing")
        resource, value = self._audiences.get(call.route), values[0]
        if not resource or presented.resource != resource:
            return refuse("identity.audience", "the request was addressed to another resource than its route")
        if self._keys is not None and value[7:13] == PREFIX and value[:7].lower() == b"bearer ":
            return self._by_key(self._keys, value[7:], context, demands)
        verdict = self._verifier.verify(value, resource)
        if type(verdict) is Pass or type(verdict) is Refuse:
            return self._possessed(verdict, value, presented, demands)
        assert not isinstance(verdict, Pass | Refuse)
        return self._later(verdict, value, presented, demands)

    def _local_user(self, name: str) -> Verdict:
        """The same Caller each time: who is the same object need not be compared by whoever remembers callers."""
        known = self._local.get(name)
        if known is None:
            if len(self._local) >= _LOCAL_USERS:
                self._local.clear()
            known = self._local[name] = Pass((Caller(issuer="local", subject=name),))
        return known

    async def _later(
        self, verdict: Awaitable[Verdict], value: bytes, presented: Presented, demands: frozenset[str]
    ) -> Verdict:
        answer = self._possessed(await verdict, value, presented, demands)
        return answer if isinstance(answer, Pass | Refuse) else await answer

    def _possessed(
        self, verdict: Verdict, value: bytes, presented: Presented, demands: frozenset[str]
    ) -> Verdict | Awaitable[Verdict]:
        """The same verdict, if the request proves what the token is bound to. Asked for every request, whether the
        token was remembered or not."""
        if type(verdict) is not Pass:
            return verdict
        caller, dpop = verdict.facts[0], value[:1] in _DPOP
        assert isinstance(caller, Caller)
        binding = caller.binding
        if binding is None and not dpop and not demands:
            return verdict
        if missing := unproven(binding, presented, demands, dpop=dpop):
            return refuse("identity.binding", missing)
        if binding is None or not binding.jkt:
            return verdict
        if self._proofs is None:
            return refuse("identity.binding", "proofs of possession cannot be checked here")
        return self._proofs.check(presented, value.partition(b" ")[2], binding, verdict)

    def _by_key(
        self, keys: ApiKeys, key: bytes, context: Context, demands: frozenset[str]
    ) -> Verdict | Awaitable[Verdict]:
        if not context.presented.private:
            return refuse("identity.exposed", "an API key over plain HTTP: whoever listened has it")
        if demands:
            return refuse("identity.binding", "an API key is bound to nothing, which this route demands")
        return keys.verify(key, context.call.route)


_NOTHING: Final[frozenset[str]] = frozenset()
_ANYBODY: Final = Pass((Caller(issuer="anonymous", subject="anonymous"),))
_LOCAL_USERS: Final = 256
