"""What an operator chooses about the authorization server. Durations in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from limen.oauth.client_proof import ClientProof
from limen.oauth.model import AuthMethod
from limen.oauth.provider_kinds import KINDS, SIGNED_WITH
from limen.oauth.redirects import lint
from limen.oauth.web import SCOPE, OAuthError, plain_url

Host = Annotated[str, Field(pattern=r"^(?:[a-z0-9_-]+\.)+[a-z0-9-]+$", max_length=253)]
Grant = Literal["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"]
Seconds = Annotated[int, Field(strict=True, ge=1)]


class Part(BaseModel):
    """Unknown keys are errors, and messages never quote what was given."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)


class ProviderSettings(Part):
    """Who signs people in, and which client of theirs we are."""

    issuer: str
    kind: Literal["generic", "entra"] = "generic"
    client_id: Annotated[str, Field(min_length=1, max_length=255)]
    client_secret: SecretStr | None = Field(
        default=None, description="by reference; without one we are a public client"
    )
    client_key: SecretStr | None = Field(
        default=None, description="PEM of a private key, by reference: private_key_jwt instead of a secret"
    )
    client_key_id: str = Field(default="", max_length=512, description="kid of that key")
    client_certificate: str = Field(default="", description="PEM of its certificate, which is what Entra ID knows")
    scopes: tuple[str, ...] = Field(default=("openid", "profile"), description="asked of the provider")
    refresh: bool = Field(default=False, description="ask for a refresh token, where a server's credential needs one")
    resource: str | None = Field(default=None, description="RFC 8707, for providers that issue tokens by it")
    algorithms: tuple[str, ...] = Field(default=(), description="of ID tokens; default: the usual ones of the kind")
    groups_claim: str = Field(default="groups", description="of the ID token; empty: none is read")
    roles_claim: str = Field(default="roles", description="of the ID token; empty: none is read")

    @field_validator("issuer", "resource")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return None if value is None else plain_url(value)

    @field_validator("scopes")
    @classmethod
    def _scopes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(SCOPE.match(one) for one in value):
            raise ValueError("one scope in each entry (RFC 6749 section 3.3)")
        return value

    @model_validator(mode="after")
    def _of_its_kind(self) -> ProviderSettings:
        kind = KINDS[self.kind]
        if not kind.issuer.match(self.issuer):
            raise ValueError(f"an issuer of kind {self.kind} reads {kind.hint}")
        if self.resource is not None and not kind.takes_resource:
            raise ValueError(f"a provider of kind {self.kind} refuses `resource`: name a scope of the API instead")
        if not set(self.algorithms) <= set(kind.algorithms):
            raise ValueError(f"choose from {', '.join(kind.algorithms)}")
        if self.client_secret is not None and self.client_key is not None:
            raise ValueError("either client_secret or client_key")
        if self.client_key is None and (self.client_key_id or self.client_certificate):
            raise ValueError("client_key_id and client_certificate go with client_key")
        self.proof(time.time)
        return self

    def proof(self, now: Callable[[], float]) -> ClientProof:
        """How we show which client we are. Raises ValueError, which validation has ruled out."""
        secret, key = (
            one.get_secret_value() if one is not None else "" for one in (self.client_secret, self.client_key)
        )
        return ClientProof(self.client_id, secret, key, self.client_key_id, self.client_certificate, now)

    @property
    def signed_with(self) -> tuple[str, ...]:
        """Algorithms an ID token may be signed with, and no others."""
        return self.algorithms or tuple(one for one in SIGNED_WITH if one in KINDS[self.kind].algorithms)


class TokenSettings(Part):
    """How long what we issue is good for."""

    access: Annotated[Seconds, Field(le=900, description="an access token")] = 600
    code: Annotated[Seconds, Field(le=60, description="an authorization code")] = 60
    refresh: Annotated[Seconds, Field(le=31_536_000, description="a refresh token that is not used")] = 1_209_600
    grant: Annotated[
        Seconds, Field(le=31_536_000, description="what began with one sign-in, however often refreshed")
    ] = 7_776_000
    retry: Annotated[int, Field(strict=True, ge=0, le=10, description="in which a client may repeat a refresh")] = 10
    device: bool = Field(default=False, description="the device authorization grant (RFC 8628), open to phishing")


class KnownClient(Part):
    """A client an operator vouches for, under the id it has in `known`."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    redirect_uris: tuple[str, ...] = Field(
        default=(), description="compared byte for byte; the port may vary, but only of a loopback IP address"
    )
    auth_method: AuthMethod = "none"
    secret: Annotated[SecretStr, Field(min_length=16)] | None = Field(
        default=None, description="by reference, for client_secret_basic and client_secret_post"
    )
    jwks: str | None = Field(default=None, description="its public keys as a JWK set, for private_key_jwt")
    grants: tuple[Grant, ...] = Field(
        default=("authorization_code", "refresh_token"), min_length=1, description="how it may get tokens"
    )
    scopes: tuple[str, ...] = Field(default=(), description="all it may ask for; none named: what its resource offers")
    uri: str = ""

    @field_validator("redirect_uris")
    @classmethod
    def _fit_to_be_redirected_to(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return lint(value, (), configured=True) if value else ()
        except OAuthError as error:
            raise ValueError(error.description) from None

    @model_validator(mode="after")
    def _proves_itself_in_one_way(self) -> KnownClient:
        if (self.secret is not None) != self.auth_method.startswith("client_secret"):
            raise ValueError("a secret is for client_secret_basic and client_secret_post, which need one")
        if ("authorization_code" in self.grants) != bool(self.redirect_uris):
            raise ValueError("redirect_uris are for the grant authorization_code, which needs them")
        if (self.jwks is not None) != (self.auth_method == "private_key_jwt"):
            raise ValueError("jwks is for private_key_jwt, which needs it")
        return self


class DocumentSettings(Part):
    """Clients whose id is the address of a document about them (Client ID Metadata Documents)."""

    enabled: bool = True
    trusted_hosts: tuple[Host, ...] = Field(default=(), description="hosts whose documents an operator vouches for")
    blocked_hosts: tuple[Host, ...] = Field(default=(), description="no documents of these hosts and those below them")
    inside_hosts: tuple[Host, ...] = Field(
        default=(), description="hosts in a private network whose documents are fetched all the same"
    )
    only_trusted: bool = Field(default=False, description="documents of trusted hosts and no others")
    unsafe_foreign_redirects: bool = Field(
        default=False, description="documents may name redirect addresses of other hosts; people are warned"
    )
    min_age: Annotated[int, Field(strict=True, ge=0, le=600, description="for which a document is kept at least")] = 10
    max_age: Annotated[Seconds, Field(le=86_400, description="for which a document is kept at most")] = 3600


class RegistrationLimits(Part):
    """What keeps strangers from filling the store."""

    most: Annotated[Seconds, Field(le=100_000, description="clients that registered themselves")] = 1000
    hourly: Annotated[Seconds, Field(le=10_000, description="registrations from one address")] = 20
    unused: Annotated[Seconds, Field(le=604_800, description="in which a client has to get its first token")] = 3600
    idle: Annotated[Seconds, Field(le=31_536_000, description="after which a client is forgotten")] = 7_776_000


class ClientSettings(Part):
    """Who may ask for tokens."""

    known: dict[Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,255}$")], KnownClient] = Field(
        default={}, description="clients by id, written down here"
    )
    documents: DocumentSettings = DocumentSettings()
    registration: bool = Field(default=False, description="dynamic registration (RFC 7591), for older clients")
    unsafe_localhost_ports: bool = Field(
        default=False, description="let the port of http://localhost vary as that of 127.0.0.1 may"
    )
    limits: RegistrationLimits = Field(default=RegistrationLimits(), description="of dynamic registration")


class ConsentSettings(Part):
    """What people are asked, and how long their answer holds."""

    expires: Annotated[Seconds, Field(le=31_536_000, description="consent is asked again after")] = 7_776_000
    explain: dict[str, Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default={}, description="what a scope allows, in words for the people who are asked; by scope"
    )


class RecorderSettings(Part):
    """What is kept of attempts to sign in. Never a token, code or secret."""

    days: Annotated[int, Field(strict=True, ge=1, le=90, description="an attempt is kept after its last step")] = 14
    attempts: Annotated[
        int, Field(strict=True, ge=50, le=100_000, description="kept of people who signed in; as many of nobody known")
    ] = 2000
    people: Literal["shown", "hidden"] = Field(
        default="shown", description="hidden: pseudonyms instead of names and e-mail addresses, networks of addresses"
    )


class OAuthSettings(Part):
    """The authorization server in front of the provider."""

    provider: ProviderSettings
    tokens: TokenSettings = TokenSettings()
    clients: ClientSettings = ClientSettings()
    consent: ConsentSettings = ConsentSettings()
    attempts: RecorderSettings = RecorderSettings()
