"""What an operator says about the credential of one server: `mcpServers.X.security.credential`."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from limen.core.addresses import is_loopback
from limen.credentials.attach import HeaderName
from limen.credentials.user_settings import UserCredential

_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,512}")
_TENANT: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,253}")
_EVERYBODYS: Final = frozenset({"common", "organizations", "consumers"})
_ALGORITHMS: Final = (
    (EllipticCurvePrivateKey, ("ES256",)), (Ed25519PrivateKey, ("EdDSA",)), (RSAPrivateKey, ("PS256", "RS256")),
)  # fmt: skip
Algorithm = Literal["ES256", "EdDSA", "PS256", "RS256"]


def _address(value: str) -> str:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - raises for what is none
    except ValueError:
        raise ValueError("not a URL") from None
    if not re.fullmatch(r"[\x21-\x7e]+", value) or "\\" in value or not parts.hostname or "@" in parts.netloc:
        raise ValueError("a URL reads https://host[:port]/path, without user")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ValueError("https is needed (http only on loopback)")
    if "#" in value:
        raise ValueError("a URL to call has no fragment")
    return value


def _scopes(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_SCOPE.fullmatch(scope) for scope in value):
        raise ValueError("a scope is printable ASCII without space, quote or backslash (RFC 6749 section 3.3)")
    return value


Url = Annotated[str, AfterValidator(_address)]
Scopes = Annotated[tuple[str, ...], AfterValidator(_scopes)]


class Part(BaseModel):
    """Unknown keys are errors, and messages never quote what was given."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)


class OwnClient(Part):
    """Which client we are at an authorization server, and how we prove it (RFC 6749 section 2.3, RFC 7523)."""

    id: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[\x20-\x7e]+$")]
    secret: SecretStr | None = Field(default=None, description="by reference")
    send: Literal["header", "body", "none"] = Field(
        default="header", description="where the secret goes; none: a public client, which has none"
    )
    key: SecretStr | None = Field(default=None, description="PEM of a private key, by reference: private_key_jwt")
    key_id: str = Field(default="", max_length=512, description="kid of that key")
    certificate: str | None = Field(default=None, description="PEM of its certificate, for Entra ID: x5t#S256")
    algorithm: Algorithm | None = Field(default=None, description="default: ES256, EdDSA or PS256, as the key is")

    @model_validator(mode="after")
    def _one_way(self) -> OwnClient:
        if (self.send == "none" or self.key is not None) != (self.secret is None):
            raise ValueError("a client has either secret or key, or send: none")
        if self.send == "none" and self.key is not None:
            raise ValueError("send: none goes without key")
        if self.key is None:
            if self.key_id or self.certificate or self.algorithm:
                raise ValueError("key_id, certificate and algorithm go with key")
            return self
        try:
            key = load_pem_private_key(self.key.get_secret_value().encode(), None)
        except (ValueError, TypeError):
            raise ValueError("key is not the PEM of a private key without a password") from None
        fitting = next((names for kind, names in _ALGORITHMS if isinstance(key, kind)), ())
        if not fitting or (isinstance(key, EllipticCurvePrivateKey) and not isinstance(key.curve, SECP256R1)):
            raise ValueError("key is neither P-256, Ed25519 nor RSA")
        if isinstance(key, RSAPrivateKey) and key.key_size < 2048:
            raise ValueError("an RSA key has 2048 bits at least")
        if self.algorithm is not None and self.algorithm not in fitting:
            raise ValueError(f"this key signs with {' or '.join(fitting)}")
        if self.certificate is not None:
            try:
                shown = x509.load_pem_x509_certificate(self.certificate.encode()).public_key()
            except ValueError:
                raise ValueError("certificate is not PEM") from None
            if shown != key.public_key():
                raise ValueError("certificate is of another key")
        return self


class Server(Part):
    """An authorization server of somebody else, and which client we are there."""

    issuer: Url | None = Field(default=None, description="its metadata names the token endpoint (RFC 8414, OpenID)")
    token_endpoint: Url | None = Field(default=None, description="where it is, without looking it up")
    client: OwnClient

    @model_validator(mode="after")
    def _known(self) -> Server:
        if self.issuer is None and self.token_endpoint is None:
            raise ValueError("needs issuer or token_endpoint")
        if self.issuer is not None and "?" in self.issuer:
            raise ValueError("an issuer has no query (RFC 8414 section 2)")
        return self


class Credential(Part):
    """What all kinds have: in which header it goes."""

    header: HeaderName = Field(default="Authorization", description="name of the header it is sent in")
    scheme: str = Field(default="Bearer", pattern=r"^[A-Za-z0-9-]{0,32}$", description="before the token; may be empty")


class ClientCredentials(Credential, Server):
    """A token for Limen itself, the same for all callers (RFC 6749 section 4.4)."""

    kind: Literal["client_credentials"]
    scopes: Scopes = ()
    resource: Url | None = Field(default=None, description="asked for (RFC 8707); default: none")
    audience: str | None = Field(default=None, description="asked for, where the server knows that parameter")

    @model_validator(mode="after")
    def _confidential(self) -> ClientCredentials:
        if self.client.send == "none":
            raise ValueError("a public client gets no token for itself (RFC 6749 section 4.4)")
        return self


Described = Annotated[
    Literal["headers", "client"],
    Field(description="how definitions are read, when nobody has called: with headers alone, or client_credentials"),
]


class TokenExchange(Credential, Server):
    """The caller's token for one of the upstream (RFC 8693)."""

    kind: Literal["exchange"]
    scopes: Scopes = ()
    resource: tuple[Url, ...] = Field(default=(), description="default: the server's URL, unless audience is given")
    audience: tuple[str, ...] = ()
    subject_issuer: Url | None = Field(
        default=None, description="whose tokens callers bring; default: issuer. Others are never shown to it"
    )
    describe: Described = "headers"

    @model_validator(mode="after")
    def _whose(self) -> TokenExchange:
        if self.subject_issuer is None and self.issuer is None:
            raise ValueError("needs issuer, or subject_issuer beside token_endpoint: whose tokens are exchanged")
        return self

    @property
    def subject_issuers(self) -> frozenset[str]:
        """Issuers of tokens that may be shown to it."""
        return frozenset(one for one in (self.subject_issuer or self.issuer,) if one)


class OnBehalfOf(Credential):
    """Entra ID's own form of it: the on-behalf-of flow."""

    kind: Literal["on_behalf_of"]
    tenant: str = Field(description="id or domain of the tenant")
    authority: Url = "https://login.microsoftonline.com"
    client: OwnClient
    scopes: Annotated[Scopes, Field(min_length=1, description="for example api://downstream/.default")]
    assertion_audience: tuple[str, ...] = Field(
        default=(), description="audiences of our own application; default: the client id, plain and as api://"
    )
    describe: Described = "headers"

    @field_validator("client")
    @classmethod
    def _in_the_form(cls, value: OwnClient) -> OwnClient:
        """Entra ID wants the client's id in the form."""
        return value.model_copy(update={"send": "body"}) if value.secret is not None else value

    @field_validator("tenant")
    @classmethod
    def _one_tenant(cls, value: str) -> str:
        if not _TENANT.fullmatch(value) or value.lower() in _EVERYBODYS:
            raise ValueError("tenant is the id or domain of one tenant")
        return value

    @property
    def server(self) -> Server:
        """Where tokens are asked for."""
        base = self.authority.rstrip("/")
        return Server(token_endpoint=f"{base}/{self.tenant}/oauth2/v2.0/token", client=self.client)

    @property
    def subject_issuers(self) -> frozenset[str]:
        """Both names the tenant has."""
        base = self.authority.rstrip("/")
        return frozenset({f"{base}/{self.tenant}/v2.0", f"https://sts.windows.net/{self.tenant}/"})

    @property
    def audiences(self) -> frozenset[str]:
        """What a token must be meant for, to be ours to exchange."""
        return frozenset(self.assertion_audience or (self.client.id, f"api://{self.client.id}"))


class IdJag(Credential):
    """Enterprise-managed authorization: the provider vouches to the upstream's authorization server (ID-JAG)."""

    kind: Literal["id_jag"]
    provider: Server = Field(description="who signed the person in")
    server: Server = Field(description="the upstream's authorization server; issuer is needed")
    scopes: Scopes = ()
    resource: Url | None = Field(default=None, description="default: the server's URL")
    subject: Literal["id_token", "refresh_token", "access_token"] = "id_token"

    @model_validator(mode="after")
    def _named(self) -> IdJag:
        if self.server.issuer is None:
            raise ValueError("server needs issuer: the assertion is addressed to it")
        if self.provider.issuer is None:
            raise ValueError("provider needs issuer: whose tokens are shown to it")
        return self

    @property
    def subject_issuers(self) -> frozenset[str]:
        """Whose tokens may be shown to the provider."""
        return frozenset({self.provider.issuer or ""})


class Minted(Credential):
    """A token Limen signs itself, for servers that trust its keys (`/oauth/jwks`)."""

    kind: Literal["minted"]
    audience: str | None = Field(default=None, min_length=1, description="default: the server's URL")
    scopes: dict[str, Scopes] = Field(default={}, description="tool -> scopes; others get tool:NAME")
    lifetime: Annotated[int, Field(strict=True, ge=10, le=900, description="seconds")] = 120
    bind: Literal["call", "caller"] = Field(
        default="call", description="call: good for one call, with a digest of its arguments; caller: kept and reused"
    )
    exchange: dict[str, tuple[str, ...]] = Field(
        default={}, description="client id of this server -> servers whose tokens it may exchange its own for"
    )


AnyCredential = Annotated[
    ClientCredentials | TokenExchange | OnBehalfOf | IdJag | Minted | UserCredential, Field(discriminator="kind")
]  # the one place where a kind is added


def check_credential(
    credential: AnyCredential, provider: str | None, issuers: Collection[str], minted: Collection[str]
) -> None:
    """What only the whole file shows: `provider` people sign in at through us, `issuers` of tokens callers bring,
    servers that get `minted` tokens. Raises ValueError where no call could ever get a credential."""
    if isinstance(credential, Minted):
        if unknown := {one for servers in credential.exchange.values() for one in servers} - set(minted):
            raise ValueError(f"exchange names servers without minted credentials: {', '.join(sorted(unknown))}")
        return
    if isinstance(credential, ClientCredentials):
        return
    if isinstance(credential, UserCredential):
        if provider is None:
            raise ValueError("accounts of people need oauth.provider, which says who they are")
        return
    brought = credential.subject_issuers & set(issuers)
    if isinstance(credential, IdJag) and credential.subject != "access_token":
        if provider not in credential.subject_issuers:
            raise ValueError(
                f"an {credential.subject} is there only for people who sign in through `oauth` at provider"
            )
    elif not brought and provider not in credential.subject_issuers:
        raise ValueError("no caller brings a token of its issuer, neither by identity.issuers nor by oauth.provider")
