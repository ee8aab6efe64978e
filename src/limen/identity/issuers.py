"""Whom we trust: issuers by exact name, their algorithms, and their keys as published now.

Keys never mix between issuers. A rotated key is picked up without a restart; an identity provider that cannot be
reached keeps its known keys in service until `key_max_age`, then every token of it is refused.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from limen.core.faults import ConfigFault, DependencyFault
from limen.core.ports import Fetch
from limen.identity.discovery import discover, require_safe_url
from limen.identity.keys import ASYMMETRIC, AlgorithmList, KeySet, VerificationKey, read_key_set
from limen.identity.profiles import GUID, PROFILES, TENANT, Kind, Rules, rules_of
from limen.identity.scopes import closure
from limen.identity.settings import DpopSettings, IntrospectionSettings

AT_JWT: Final = frozenset({"at+jwt", "application/at+jwt"})
_NOT_ACCESS_TOKENS: Final = ("dpop+jwt", "logout+jwt", "secevent+jwt", "oauth-id-jag+jwt", "id_token", "jwe")
OWN_REFRESH: Final = 1.0  # seconds between looks at our own keys
_CLOCK_STEP: Final = 60.0  # a wall clock that was set back by no more than this counts as standing still
Seconds = Annotated[int, Field(strict=True)]
Name = Annotated[str, Field(min_length=1, max_length=1024)]
_FACT_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
_FACTS: Final = {"device": "deviceTrustLevel", "risk": "riskLevel"}


class IssuerSettings(BaseModel):
    """One trusted issuer, as the operator wrote it."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    issuer: str
    kind: Kind = "generic"
    tenants: tuple[str, ...] = ()  # Entra: the tenants `{tid}` in `issuer` stands for, and no others
    policies: tuple[str, ...] = ()  # Azure AD B2C: the user flows whose tokens are accepted
    subject: Literal["sub", "oid"] = "sub"  # oid: the same for every application of the tenant, as OID@TENANT
    machines: bool = True  # whether tokens nobody signed in for are accepted at all
    audience: Name | tuple[Name, ...] | None = None  # accepted besides the resource URI of the route
    audiences: dict[str, Name] = {}  # resource URI of a route -> what tokens for that route, and no other, name instead
    algorithms: tuple[str, ...] = ("RS256", "ES256", "PS256", "EdDSA")
    jwks_uri: str | None = None
    jwks: str | None = None  # a JWK set as text: nothing is fetched
    token_types: tuple[str, ...] = ("at+jwt", "application/at+jwt", "JWT")  # "" admits a header without `typ`
    require_at_jwt: bool = False
    scope_claim: str | None = None  # default: `scope` and `scp`; where both are present, what both say
    introspection: IntrospectionSettings | None = None  # ask about tokens that are not JWTs

    @model_validator(mode="before")
    @classmethod
    def _profiled(cls, data: Any) -> Any:
        """What is not written is as the kind of issuer has it."""
        kind = data.get("kind", "generic") if isinstance(data, Mapping) else None
        profile = PROFILES.get(kind) if isinstance(kind, str) else None
        return data if profile is None else {**dict(profile.defaults), **data}

    @field_validator("issuer", "jwks_uri")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return None if value is None else require_safe_url(value)

    @field_validator("algorithms")
    @classmethod
    def _algorithms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not ASYMMETRIC.issuperset(value):
            raise ValueError(f"choose from {', '.join(sorted(ASYMMETRIC))}")
        return value

    @field_validator("token_types")
    @classmethod
    def _types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or any(name.casefold().removeprefix("application/") in _NOT_ACCESS_TOKENS for name in value):
            raise ValueError("at least one type, and only types of access tokens")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> IssuerSettings:
        if self.introspection is not None and self.introspection.endpoint is not None:
            require_safe_url(self.introspection.endpoint)
        if self.jwks is not None:
            if self.jwks_uri is not None:
                raise ValueError("jwks and jwks_uri exclude each other")
            if not read_key_set(self.jwks.encode()).keys:
                raise ValueError("jwks holds no usable key")
        return self

    @model_validator(mode="after")
    def _of_its_kind(self) -> IssuerSettings:
        allowed = self.rules.profile.algorithms
        if allowed is not None and not allowed.issuperset(self.algorithms):
            raise ValueError(f"an issuer of kind {self.kind} signs with {', '.join(sorted(allowed))} only")
        if (TENANT in self.issuer) != bool(self.tenants):
            raise ValueError(f"`tenants` lists what {TENANT} in `issuer` stands for: give both or neither")
        if not all(GUID.match(tenant) for tenant in self.tenants) or len({*self.tenants}) < len(self.tenants):
            raise ValueError(
                "tenants are lower-case GUIDs, each once; an alias such as common or organizations is none"
            )
        return self

    @cached_property
    def rules(self) -> Rules:
        """What tokens of this issuer must be like. Raises ValueError, which validation has ruled out."""
        return rules_of(
            self.kind,
            self.issuer,
            policies=self.policies,
            audiences=() if self.audience is None else _listed(self.audience),
            audience_of=self.audiences,
            subject=self.subject,
            machines=self.machines,
        )

    def each(self) -> tuple[IssuerSettings, ...]:
        """One per exact issuer name: a template is written out for every tenant that is listed."""
        if not self.tenants:
            return (self,)
        names = (self.issuer.replace(TENANT, tenant) for tenant in self.tenants)
        as_written = {name: getattr(self, name) for name in type(self).model_fields}
        return tuple(type(self).model_validate({**as_written, "issuer": name, "tenants": ()}) for name in names)

    @property
    def accepted_types(self) -> frozenset[str]:
        """Lower-case `typ` values this issuer's access tokens may carry; "" stands for none."""
        named = frozenset(name.casefold() for name in self.token_types)
        return AT_JWT if self.require_at_jwt else named


def _listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


class IdentitySettings(BaseModel):
    """Who may call at all. Durations are in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    issuers: tuple[IssuerSettings, ...] = ()
    max_token_lifetime: Annotated[Seconds, Field(gt=0)] = 86_400
    leeway: Annotated[Seconds, Field(ge=0, le=60)] = 30
    unsafe_anonymous: bool = False
    dpop: DpopSettings = DpopSettings()
    api_keys: bool = False  # take keys that `limen keys api create` made, of clients that cannot do OAuth
    groups_claim: str = "groups"  # "a.b" reads member b of claim a; "" reads none
    roles_claim: str = "roles"
    claims: dict[str, str] = {}  # fact -> claim: `device`, `risk`, and any other name as a Cedar tag of the principal
    accepted_risk: tuple[str, ...] = ("none", "low")  # every other value of the risk claim refuses the token
    scope_implies: dict[str, tuple[str, ...]] = {}  # scope -> scopes that whoever holds it holds as well
    key_refresh: Annotated[Seconds, Field(ge=10)] = 900
    key_refetch_interval: Annotated[Seconds, Field(ge=1)] = 10
    key_max_age: Annotated[Seconds, Field(ge=60)] = 86_400

    @model_validator(mode="after")
    def _distinct(self) -> IdentitySettings:
        names = [one.issuer for one in self.each_issuer]
        if len(set(names)) < len(names):
            raise ValueError("the same issuer is configured twice")
        if not all(_FACT_NAME.match(name) and path for name, path in self.claims.items()):
            raise ValueError("claims maps the name of a fact (letters, digits, _) to the path of a claim")
        if any(level != level.casefold() for level in self.accepted_risk):
            raise ValueError("accepted_risk is compared in lower case")
        _ = self.implied
        if sum(one.introspection is not None for one in self.each_issuer) > 1:
            raise ValueError("an opaque token does not say whose it is: one issuer may have introspection")
        return self

    @cached_property
    def each_issuer(self) -> tuple[IssuerSettings, ...]:
        """Every issuer by its exact name."""
        return tuple(exact for one in self.issuers for exact in one.each())

    @cached_property
    def authorization_servers(self) -> tuple[str, ...]:
        """Where clients are sent to sign in (RFC 9728)."""
        return tuple(dict.fromkeys(one.rules.server for one in self.each_issuer))

    @cached_property
    def facts(self) -> Mapping[str, str]:
        """Fact -> claim, with those that need no configuration."""
        return {**_FACTS, **self.claims}

    @cached_property
    def implied(self) -> Mapping[str, frozenset[str]]:
        """Scope -> everything it stands for, itself included. Raises ValueError for a circle."""
        return closure(self.scope_implies)


class Issuer:
    """One trusted issuer at run time. `generation` changes whenever the usable keys do."""

    def __init__(self, settings: IssuerSettings, identity: IdentitySettings, fetch: Fetch, now: Callable[[], float]):
        self.settings, self.algorithms = settings, AlgorithmList(settings.algorithms)
        self.accepted_types = settings.accepted_types
        self.generation, self.failure = 0, "never fetched"
        self.due = -math.inf  # until then `usable` has nothing to do
        self._identity, self.fetch, self._now = identity, fetch, now
        self._keys, self._fetched, self._attempted = KeySet(), -math.inf, -math.inf
        self._flight: asyncio.Task[None] | None = None
        if settings.jwks is not None:
            self._keys = read_key_set(settings.jwks.encode(), settings.rules.key_issuers)
            self.failure, self.due = "", math.inf

    def find(self, algorithm: str, kid: str | None) -> tuple[VerificationKey, ...]:
        """Keys of this issuer that fit; check `usable` first."""
        return self._keys.find(algorithm, kid)

    def usable(self) -> bool:
        """Whether the known keys may be used without waiting. Starts a refresh in the background when one is due."""
        if self._now() < self.due:
            return True
        age = self._elapsed(self._fetched)
        if age > self._identity.key_max_age:
            return False
        if age > 2 * self._identity.key_refresh and not self.failure:
            return False  # nobody asked for long: a retired key must not slip in before the first refresh
        self._start()
        return True

    async def renew(self) -> None:
        """Fetch the keys, at most one fetch at a time and one per `key_refetch_interval`.

        Raises DependencyFault when there are no keys young enough to use afterwards.
        """
        if self.settings.jwks is not None:
            return
        flight = self._start()
        if flight is not None:
            await asyncio.shield(flight)  # a caller that gives up must not take the others' answer with it
        if self._elapsed(self._fetched) > self._identity.key_max_age:
            raise DependencyFault("identity provider", f"no keys of {self.settings.issuer}: {self.failure}")

    @property
    def emptiness(self) -> str:
        """For the operator: set when no published key can be used."""
        return "" if self._keys.keys else "publishes no usable key"

    def stop(self) -> None:
        """Drop a fetch that is under way."""
        if self._flight is not None:
            self._flight.cancel()

    def _elapsed(self, since: float) -> float:
        age = self._now() - since
        return math.inf if age < -_CLOCK_STEP else max(0.0, age)

    def _start(self) -> asyncio.Task[None] | None:
        if self._flight is not None and not self._flight.done():
            return self._flight
        if self._elapsed(self._attempted) < self._identity.key_refetch_interval:
            return None
        self._attempted = self._now()
        self._flight = asyncio.get_running_loop().create_task(self._refresh())
        return self._flight

    async def _refresh(self) -> None:
        try:
            settings = self.settings
            uri = settings.jwks_uri or await discover(settings.issuer, self.fetch, "jwks_uri", settings.rules.metadata)
            keys = read_key_set(await self.fetch.get_json(uri), settings.rules.key_issuers)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the old keys stay until their age forbids it
            self.failure = f"{type(error).__name__}: {error}"
            return
        if keys.keys != self._keys.keys:
            self.generation += 1
        self._keys, self._fetched, self.failure = keys, self._now(), ""
        self.due = self._fetched + self._identity.key_refresh


class OwnIssuer(Issuer):
    """Ourselves: the keys are here, and are looked at again every second and whenever one is not known. `key_set` reads
    what is published. Raises DependencyFault while that cannot be read."""

    def __init__(
        self,
        settings: IssuerSettings,
        identity: IdentitySettings,
        fetch: Fetch,
        now: Callable[[], float],
        key_set: Callable[[], bytes],
    ) -> None:
        super().__init__(settings, identity, fetch, now)
        self._key_set, self._published = key_set, b""
        self._look()

    def usable(self) -> bool:
        """False once, when the keys have just changed: what was verified with the ones before is verified anew."""
        return self._now() < self.due or not self._look()

    async def renew(self) -> None:
        """Look now."""
        self._look()

    def _look(self) -> bool:
        """Whether the keys are others than before."""
        published, changed = self._key_set(), False
        if published != self._published:
            keys = read_key_set(published)
            changed = keys.keys != self._keys.keys
            self.generation += changed
            self._keys, self._published = keys, published
        self.failure, self._fetched = "", self._now()
        self.due = self._fetched + OWN_REFRESH
        return changed


class Issuers:
    """All trusted issuers, found by exact string only."""

    def __init__(
        self,
        settings: IdentitySettings,
        fetch: Fetch,
        now: Callable[[], float] = time.time,
        *,
        own: tuple[str, Callable[[], bytes]] | None = None,
    ) -> None:
        """`own`: our name as an issuer, and what reads the JWK set we publish. Raises ConfigFault when the operator
        lists that name as well, DependencyFault."""
        self.now = now
        self._issuers = {one.issuer: Issuer(one, settings, fetch, now) for one in settings.each_issuer}
        if own is not None:
            name, key_set = own
            if name in self._issuers:
                raise ConfigFault(f"{name} is our own name, and needs no entry", "identity.issuers")
            ours = IssuerSettings(issuer=name, require_at_jwt=True)
            self._issuers[name] = OwnIssuer(ours, settings, fetch, now, key_set)

    def find(self, issuer: str) -> Issuer | None:
        """The issuer of exactly this name, or None."""
        return self._issuers.get(issuer)

    async def warm(self) -> dict[str, str]:
        """Fetch all keys once. Issuer name -> problem, for those whose tokens cannot be verified yet."""
        issuers = tuple(self._issuers.values())
        await asyncio.gather(*(one.renew() for one in issuers), return_exceptions=True)
        return self.problems()

    def problems(self) -> dict[str, str]:
        """Issuer name -> why its last key fetch failed, or that it publishes no key we can use."""
        found = {name: one.failure or one.emptiness for name, one in self._issuers.items()}
        return {name: text for name, text in found.items() if text}

    async def close(self) -> None:
        """Stop fetching."""
        for one in self._issuers.values():
            one.stop()
