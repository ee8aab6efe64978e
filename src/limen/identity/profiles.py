"""What each make of identity provider puts into its access tokens, as data: one profile per kind, one shape per form
its issuer names take, and from both the rules for the tokens of one exact issuer.

Sources: learn.microsoft.com "Access token claims reference", "Access tokens: validate the issuer" and "Azure AD B2C
tokens"; Keycloak "Server Administration: protocol mappers"; Auth0 "Access token profiles"; Okta "Access token payload".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import urlsplit

Kind = Literal["generic", "entra", "keycloak", "auth0", "okta", "google"]
_GUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
GUID: Final = re.compile(_GUID + r"\Z")
_TID: Final = rf"(?P<tid>{_GUID}|\{{tid\}})"
TENANT: Final = "{tid}"
# Microsoft Graph, in both spellings: its tokens are for Graph alone and cannot be verified by anybody else.
_GRAPH: Final = frozenset({"00000003-0000-0000-c000-000000000000", "https://graph.microsoft.com"})


@dataclass(frozen=True, slots=True)
class Shape:
    """One form of issuer names. `pinned`: claims that must say exactly this; `{tid}` is the issuer's own tenant."""

    pattern: re.Pattern[str]
    pinned: tuple[tuple[str, str], ...] = ()
    metadata: str = ""  # where the keys are announced when not at the issuer's own well-known places
    server: str = ""  # where clients sign in, when that is not the issuer's name
    policies: bool = False  # tokens come from user flows, of which the accepted ones are listed
    user_claim: str = ""  # tokens without it belong to no user
    machine_needs_roles: bool = False
    client_auth: bool = False  # tokens say how their client authenticated
    client_id_audience: bool = False  # tokens name the resource by its client id and never by its URI


@dataclass(frozen=True, slots=True)
class Profile:
    """One make. `defaults` are settings an operator may narrow; the rest is fixed."""

    shapes: tuple[Shape, ...]
    hint: str = ""  # how issuer names of this kind look
    defaults: tuple[tuple[str, tuple[str, ...] | str], ...] = ()
    hosts: tuple[str, ...] = ()  # ends of host names that are this make and no other
    algorithms: frozenset[str] | None = None  # no others, whatever is configured
    client_claims: tuple[str, ...] = ("client_id", "azp")
    needs_client: bool = False
    required: tuple[str, ...] = ()
    token_kinds: tuple[str, ...] = ()  # what the payload's own `typ` must be
    role_paths: tuple[tuple[str, ...], ...] = ()
    roles_of_clients: str = ""  # claim with client -> {"roles": [...]}; a role is then "client:role"
    context_claim: str = ""  # authentication contexts besides `acr`
    also_audience: str = ""  # what the issuer adds to `aud` for itself
    machine_values: tuple[tuple[str, str], ...] = ()
    machine_claims: tuple[str, ...] = ()
    machine_prefix: tuple[str, str] | None = None


_ANY: Final = re.compile(r".+\Z", re.DOTALL)
_ENTRA: Final = (
    Shape(  # v2.0, also of External ID (ciamlogin.com) and the sovereign clouds
        re.compile(rf"https://[^/]+/{_TID}/v2\.0\Z"),
        (("tid", TENANT), ("ver", "2.0")),
        user_claim="scp",
        machine_needs_roles=True,
        client_auth=True,
        client_id_audience=True,
    ),
    Shape(  # v1.0
        re.compile(rf"https://sts\.windows\.net/{_TID}/\Z"),
        (("tid", TENANT), ("ver", "1.0")),
        metadata="https://login.microsoftonline.com/{tid}/.well-known/openid-configuration",
        server="https://login.microsoftonline.com/{tid}/v2.0",
        user_claim="scp",
        machine_needs_roles=True,
        client_auth=True,
    ),
    Shape(
        re.compile(rf"https://sts\.chinacloudapi\.cn/{_TID}/\Z"),
        (("tid", TENANT), ("ver", "1.0")),
        metadata="https://login.partner.microsoftonline.cn/{tid}/.well-known/openid-configuration",
        server="https://login.partner.microsoftonline.cn/{tid}/v2.0",
        user_claim="scp",
        machine_needs_roles=True,
        client_auth=True,
    ),
    Shape(  # B2C: a slash at the end, and no `tid` or version to rely on
        re.compile(rf"https://(?P<host>[^/]+)/{_TID}/v2\.0/\Z"),
        metadata="https://{host}/{tid}/{policy}/v2.0/.well-known/openid-configuration",
        server="https://{host}/{tid}/{policy}/v2.0",
        policies=True,
        user_claim="scp",
        machine_needs_roles=True,
        client_id_audience=True,
    ),
    Shape(  # B2C with the policy in the issuer
        re.compile(rf"https://(?P<host>[^/]+)/tfp/{_TID}/(?P<policy>[^/]+)/v2\.0/\Z"),
        metadata="https://{host}/tfp/{tid}/{policy}/v2.0/.well-known/openid-configuration",
        server="https://{host}/tfp/{tid}/{policy}/v2.0",
        policies=True,
        user_claim="scp",
        machine_needs_roles=True,
        client_id_audience=True,
    ),
)
PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        "generic": Profile((Shape(_ANY),)),
        "entra": Profile(
            _ENTRA,
            "https://login.microsoftonline.com/TENANT/v2.0 (v2 tokens), https://sts.windows.net/TENANT/ (v1 tokens) or "
            "https://NAME.b2clogin.com/TENANT/v2.0/ (B2C), where TENANT is a lower-case GUID, or {tid} with `tenants`",
            (("algorithms", ("RS256",)), ("token_types", ("JWT", "at+jwt")), ("scope_claim", "scp")),
            hosts=("login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn",
                   "sts.windows.net", "sts.chinacloudapi.cn", ".b2clogin.com", ".ciamlogin.com"),
            algorithms=frozenset({"RS256"}),
            client_claims=("azp", "appid"),
            needs_client=True,  # an id token names no client
            context_claim="acrs",
            machine_values=(("idtyp", "app"),),
        ),
        "keycloak": Profile(
            (Shape(re.compile(r"https?://.+/realms/[^/]+\Z")),),
            "https://HOST/realms/REALM, without a slash at the end",
            (("scope_claim", "scope"),),
            needs_client=True,
            token_kinds=("Bearer",),
            role_paths=(("realm_access", "roles"),),
            roles_of_clients="resource_access",
            machine_claims=("client_id",),  # put in by the client scope service_account
            machine_prefix=("preferred_username", "service-account-"),
        ),
        "auth0": Profile(
            (Shape(re.compile(r"https://[^/]+/\Z")),),
            "https://TENANT.REGION.auth0.com/ or a custom domain, with a slash at the end",
            (("algorithms", ("RS256", "PS256")), ("scope_claim", "scope")),
            hosts=(".auth0.com",),
            needs_client=True,
            role_paths=(("permissions",),),
            also_audience="{issuer}userinfo",
            machine_values=(("gty", "client-credentials"),),
        ),
        "okta": Profile(
            (Shape(re.compile(r"https://[^/]+/oauth2/[^/]+\Z"), user_claim="uid"),),
            "https://DOMAIN/oauth2/AUTHORIZATION_SERVER; access tokens of the org server (https://DOMAIN) are for Okta "
            "alone",
            (("algorithms", ("RS256",)), ("token_types", ("JWT", "at+jwt", "")), ("scope_claim", "scp")),
            hosts=(".okta.com", ".oktapreview.com", ".okta-emea.com"),
            algorithms=frozenset({"RS256"}),
            client_claims=("cid",),
            needs_client=True,
            required=("scp", "ver"),
        ),
    }
)  # fmt: skip
_GOOGLE: Final = (
    "Google issues no access token that names a resource of yours: its access tokens are opaque and for Google, and "
    "an id token is for the client that asked for it. Put an authorization server in front that signs people in "
    "with Google"
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What tokens of one exact issuer must be like, beyond what every token must."""

    issuer: str
    profile: Profile
    shape: Shape
    pinned: tuple[tuple[str, str], ...] = ()
    policies: tuple[str, ...] = ()
    audiences: frozenset[str] = frozenset()  # accepted besides the resource's URI
    audience_of: Mapping[str, str] = field(default_factory=dict)  # the same, for one resource each
    beside: str = ""
    metadata: str = ""
    server: str = ""  # where clients sign in
    key_issuers: frozenset[str] | None = None  # what the `issuer` of a key may be, where keys have one (Entra)
    subject: str = "sub"
    machines: bool = True

    def is_audience(self, named: str, resource: str) -> bool:
        """Whether a token whose only audience is `named` is for this resource."""
        return named == resource or named in self.audiences or self.audience_of.get(resource) == named

    def violation(self, claims: Mapping[str, Any]) -> str:
        """The first rule these claims break; "" when none."""
        for name, value in self.pinned:
            if claims.get(name) != value:
                return f"{name} does not agree with the issuer"
        for name in self.profile.required:
            if name not in claims:
                return f"no {name}: not an access token of this kind of issuer"
        if self.profile.needs_client and not any(name in claims for name in self.profile.client_claims):
            return "names no client: not an access token"
        if self.profile.token_kinds and claims.get("typ") not in self.profile.token_kinds:
            return "the payload's typ is not that of an access token"
        if self.policies and claims.get("tfp", claims.get("acr")) not in self.policies:
            return "from a user flow that is not listed"
        if self.shape.client_auth and claims.get("azpacr", claims.get("appidacr")) not in ("0", "1", "2"):
            return "does not say how its client authenticated: not an access token"
        return ""

    def is_machine(self, claims: Mapping[str, Any], subject: str, client: str) -> bool:
        """Whether no person is behind the token. RFC 9068 section 2.2: then `sub` is the client. Raises ValueError when
        the token contradicts itself, or is one an identity provider gives to any application that asks."""
        profile, user = self.profile, self.shape.user_claim
        said = any(claims.get(name) == value for name, value in profile.machine_values)
        if user and said and user in claims:
            raise ValueError("says that it is of an application and of a user")
        machine = said or bool(client and subject in (client, f"{client}@clients"))
        machine = machine or bool(user and user not in claims)
        machine = machine or any(name in claims for name in profile.machine_claims)
        if profile.machine_prefix is not None:
            name, prefix = profile.machine_prefix
            machine = machine or str(claims.get(name, "")).startswith(prefix)
        if not machine:
            return False
        if claims.get("idtyp", "app") == "user" and profile.machine_values:
            raise ValueError("a user's token without scp")
        if self.shape.machine_needs_roles and not claims.get("roles"):
            raise ValueError("an application without a role: any application of the tenant can get such a token")
        if self.shape.client_auth and claims.get("azpacr", claims.get("appidacr")) == "0":
            raise ValueError("an application that did not authenticate")
        return True


def rules_of(
    kind: str,
    issuer: str,
    *,
    policies: tuple[str, ...] = (),
    audiences: tuple[str, ...] = (),
    audience_of: Mapping[str, str] | None = None,
    subject: str = "sub",
    machines: bool = True,
) -> Rules:
    """The rules for one issuer by its exact name (or its template, for checking). Raises ValueError."""
    if kind == "google" or urlsplit(issuer).hostname == "accounts.google.com":
        raise ValueError(_GOOGLE)
    profile, host = PROFILES[kind], urlsplit(issuer).hostname or ""
    for name, other in PROFILES.items():
        if name != kind and host.endswith(other.hosts):
            raise ValueError(f"{host} is of kind {name}: say so, for what its keys sign besides access tokens")
    for shape in profile.shapes:
        match = shape.pattern.match(issuer)
        if match is not None:
            break
    else:
        raise ValueError(f"an issuer of kind {kind} reads {profile.hint}")
    named = match.groupdict()
    if subject == "oid" and not shape.pinned:
        raise ValueError("subject: oid is for Entra work and school tenants")
    if policies and not shape.policies:
        raise ValueError("policies are user flows of Azure AD B2C, whose issuers end in /v2.0/")
    if shape.policies:
        policies = policies or ((named["policy"],) if "policy" in named else ())
        if not policies:
            raise ValueError("a B2C issuer needs `policies`: the user flows whose tokens are accepted")
    audience_of = audience_of or {}
    all_audiences = (*audiences, *audience_of.values())
    if _GRAPH.intersection(one.rstrip("/") for one in all_audiences):
        raise ValueError("tokens for Microsoft Graph are for Graph alone; register an application of your own")
    if shape.client_id_audience and not any(GUID.match(one) for one in all_audiences):
        raise ValueError("v2 and B2C tokens name a resource by its client id: give it as `audience` or in `audiences`")
    values = {"policy": next(iter(policies), ""), **named, "issuer": issuer}
    return Rules(
        issuer,
        profile,
        shape,
        tuple((name, _filled(text, values)) for name, text in shape.pinned),
        policies,
        frozenset(audiences),
        dict(audience_of),
        _filled(profile.also_audience, values),
        _filled(shape.metadata, values),
        _filled(shape.server, values) or issuer,
        _key_issuers(shape, values) if kind == "entra" else None,
        subject,
        machines,
    )


def _filled(template: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        template = template.replace("{" + name + "}", value)
    return template


def _key_issuers(shape: Shape, values: Mapping[str, str]) -> frozenset[str]:
    """A shared key set marks each key with the issuer it signs for; `{tenantid}` stands for every tenant. Keys for v1
    tokens carry no mark, or that of the v2 issuer of the same tenant."""
    names = {values["issuer"]} | ({_filled(shape.server, values)} if shape.server and not shape.policies else set())
    return frozenset(names | {name.replace(values["tid"], "{tenantid}") for name in names})
