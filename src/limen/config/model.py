"""The file's shape: one key per room, each room's settings its own. Exported as JSON Schema.

Every field has a default except what only the operator can know. What loosens a control is named `unsafe_*`.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from limen.catalog.decoys import DecoySettings
from limen.catalog.govern import MAX_APPROVERS, Governance
from limen.config.addresses import split_bind, split_url
from limen.config.bundles import check_bundles, routes
from limen.config.kept import AuditConfig, StorageConfig
from limen.config.part import Part
from limen.config.servers import ServerConfig, check_names
from limen.core.addresses import is_loopback
from limen.credentials.settings import Minted, check_credential
from limen.credentials.vault_settings import VaultSettings
from limen.detection.behavior_settings import BehaviorSettings
from limen.detection.canaries import plantable
from limen.detection.settings import ContentSettings
from limen.identity.issuers import IdentitySettings
from limen.identity.sessions import SessionSettings
from limen.incidents.alert_settings import AlertSettings
from limen.incidents.risk_settings import ThreatSettings
from limen.incidents.settings import IncidentSettings
from limen.oauth.settings import OAuthSettings
from limen.policy.limit import LimitSettings
from limen.policy.rules import PolicySettings

DEFAULT_URL = "http://127.0.0.1:8300"


class Tls(Part):
    """PEM files of the server's own certificate chain and its key."""

    certificate: Path
    key: Path
    client_ca: Path | None = Field(default=None, description="PEM of the authorities whose client certificates we take")
    require_client_certificate: bool = Field(default=False, description="no connection without one")

    @model_validator(mode="after")
    def _of_somebody(self) -> Tls:
        if self.require_client_certificate and self.client_ca is None:
            raise ValueError("require_client_certificate needs client_ca")
        return self


class ForwardedCertificate(Part):
    """The header in which a proxy that terminates TLS hands on the client's certificate."""

    header: str = Field(default="Client-Cert", pattern=r"^[A-Za-z0-9-]{1,64}$")
    form: Literal["rfc9440", "nginx"] = Field(default="rfc9440", description="nginx: $ssl_client_escaped_cert")
    peers: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="addresses or networks of the proxies; nobody else may send it"),
    ]

    @field_validator("peers")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for peer in value:
            if ip_network(peer).prefixlen == 0:
                raise ValueError("every address there is cannot be the proxy's")
        return value

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The same, to compare addresses with."""
        return tuple(ip_network(peer) for peer in self.peers)


class Listen(Part):
    """Where clients reach us (`url`) and where we listen (`bind`)."""

    url: str = Field(default=DEFAULT_URL, description="public base URL; resource URIs and audiences are built from it")
    bind: str | None = Field(default=None, description="host:port; default: the host and port of a loopback url")
    tls: Tls | None = None
    client_certificate: ForwardedCertificate | None = None
    origins: tuple[str, ...] = Field(default=(), description="values of Origin accepted besides our own")
    trusted_proxies: tuple[str, ...] = Field(
        default=(),
        description="proxies, as addresses or prefixes: X-Forwarded-For says where a request came from, and "
        "X-Forwarded-Proto whether over TLS, which signing in needs",
    )
    unsafe_plain_http: bool = Field(default=False, description="no TLS on an address others can reach")

    @field_validator("url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        parts = split_url(value.rstrip("/"))
        if parts.path or parts.query or parts.fragment:
            raise ValueError("a base URL has no path, query or fragment")
        return f"{parts.scheme}://{parts.netloc.lower()}"

    @field_validator("bind")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None:
            split_bind(value)
        return value

    @field_validator("origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = split_url(origin)
            if origin != f"{parts.scheme}://{parts.netloc}" or origin != origin.lower():
                raise ValueError("an origin reads scheme://host or scheme://host:port, in lower case")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        found = [ip_network(one) for one in value]
        if any(network.prefixlen == 0 for network in found):
            raise ValueError("trusting every address means believing whatever a client writes")
        return tuple(map(str, found))

    @model_validator(mode="after")
    def _reachable_safely(self) -> Listen:
        parts = split_url(self.url)
        if self.bind is None and not is_loopback(parts.hostname or ""):
            raise ValueError("bind is needed (host:port) when url does not name this machine's loopback")
        exposed = not is_loopback(self.address[0])
        if exposed and self.tls is None and not self.unsafe_plain_http:
            raise ValueError(
                "bind is reachable from other machines without TLS: give tls.certificate and tls.key, bind to "
                "127.0.0.1, or set unsafe_plain_http: true behind a proxy that terminates TLS"
            )
        if parts.scheme == "http" and self.tls is not None:
            raise ValueError("url must be https when tls is given")
        if parts.scheme == "http" and not is_loopback(parts.hostname or "") and not self.unsafe_plain_http:
            raise ValueError("url must be https unless it names loopback (or unsafe_plain_http: true)")
        return self

    @property
    def certificates(self) -> bool:
        """Whether client certificates can reach us at all."""
        return self.client_certificate is not None or (self.tls is not None and self.tls.client_ca is not None)

    @property
    def secure(self) -> bool:
        """Whether nobody on the way reads along: TLS, or this machine's own loopback."""
        base = split_url(self.url)
        return base.scheme == "https" or is_loopback(base.hostname or "")

    @property
    def proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """`trusted_proxies`, to compare addresses with."""
        return tuple(ip_network(one) for one in self.trusted_proxies)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        if self.bind is not None:
            return split_bind(self.bind)
        parts = split_url(self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _is_below(url: str, base: str) -> bool:
    """Whether it is an address of this origin, as near as spelling it otherwise could come."""
    near, ours = urlsplit(url), urlsplit(base)
    return (near.scheme.lower(), near.netloc.lower()) == (ours.scheme.lower(), ours.netloc.lower())


class CatalogConfig(Part):
    """How often servers are read again, and who must approve what they offer, for how long, with which words."""

    refresh: Annotated[float, Field(ge=5, le=86_400, description="seconds between readings of a server")] = 300.0
    approvers: Annotated[int, Field(ge=1, le=MAX_APPROVERS, description="distinct people who must approve")] = 1
    expires: Annotated[float, Field(ge=60, le=1e9)] | None = Field(
        default=None, description="seconds an approval is good for; default: for ever"
    )
    reason_from: Literal["none", "descriptive", "low", "medium", "high", "critical"] = Field(
        default="high", description="risk from which a decision needs a reason"
    )
    auto_accept: Literal["none", "descriptive"] = Field(
        default="none", description="changes of approved definitions up to this risk wait for nobody"
    )
    lock: Path | None = Field(default=None, description="run from this lock alone; nothing else can be approved")
    lock_keys: tuple[str, ...] = Field(
        default=(), description="verifier keys (name+hash+key) of which one must have signed the lock; default: our own"
    )

    @property
    def governance(self) -> Governance:
        """The rules of approval."""
        return Governance(self.approvers, self.expires, self.reason_from, self.auto_accept)


class Config(Part):
    """One file, read and checked. Paths are absolute once `load_config` has returned it."""

    model_config = ConfigDict(title="Limen configuration")

    version: Literal[1] = 1
    listen: Listen = Listen()
    include: tuple[Path, ...] = Field(
        default=(), description="client files; only their mcpServers (or servers) is read"
    )
    mcpServers: dict[str, ServerConfig] = Field(default={}, description="as client files write it")  # noqa: N815 - clients' name
    bundles: dict[str, tuple[str, ...]] = Field(
        default={}, description="name -> servers offered together at /mcp/NAME; /mcp offers all of them"
    )
    identity: IdentitySettings = IdentitySettings()
    oauth: OAuthSettings | None = Field(default=None, description="sign clients in ourselves, in front of a provider")
    policy: PolicySettings = PolicySettings()
    limits: LimitSettings = LimitSettings()
    sessions: SessionSettings = SessionSettings()
    catalog: CatalogConfig = CatalogConfig()
    content: ContentSettings = ContentSettings()
    incidents: IncidentSettings = IncidentSettings()
    risk: ThreatSettings = Field(default=ThreatSettings(), description="what follows from suspicion")
    alerts: AlertSettings = Field(default=AlertSettings(), description="which alerts are raised, and who is told")
    audit: AuditConfig = AuditConfig()
    storage: StorageConfig = StorageConfig()
    vault: VaultSettings = VaultSettings()
    behavior: BehaviorSettings = BehaviorSettings()
    decoys: DecoySettings = DecoySettings()

    @field_validator("mcpServers")
    @classmethod
    def _names(cls, value: dict[str, ServerConfig]) -> dict[str, ServerConfig]:
        check_names(value)
        return value

    @field_validator("bundles")
    @classmethod
    def _bundles(cls, value: dict[str, tuple[str, ...]], info: ValidationInfo) -> dict[str, tuple[str, ...]]:
        if "mcpServers" in info.data:  # else what is wrong with the servers has been said
            check_bundles(value, info.data["mcpServers"])
        return value

    @model_validator(mode="after")
    def _content_of_servers(self) -> Config:
        named = {*self.content.servers, *(one.server for one in self.content.allow)}
        if unknown := sorted(named - self.mcpServers.keys()):
            raise ValueError(f"content names a server that mcpServers does not have: {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _decoys_that_can_be_told(self) -> Config:
        if unknown := sorted({one.server for one in self.decoys.tools} - self.mcpServers.keys()):
            raise ValueError(f"decoys names a server that mcpServers does not have: {', '.join(unknown)}")
        if plain := sorted(name for name, value in self.decoys.canary_values.items() if not plantable(value)):
            raise ValueError(f"decoys.canaries: too short or too plain to be told from ordinary text: {plain[0]}")
        return self

    @property
    def inspected(self) -> tuple[object, ...]:
        """All that decides how content is looked at, and for what."""
        return self.content, self.mcpServers, self.decoys

    @model_validator(mode="after")
    def _certificates_where_demanded(self) -> Config:
        if not self.listen.certificates and any("mtls" in kinds for kinds in self.demands.values()):
            raise ValueError("sender_constrained: mtls needs listen.tls.client_ca or listen.client_certificate")
        return self

    @model_validator(mode="after")
    def _sign_in_where_it_can_work(self) -> Config:
        url = split_url(self.listen.url)
        if self.oauth is not None and url.scheme != "https" and not is_loopback(url.hostname or ""):
            raise ValueError("oauth: people sign in over https only, so listen.url is an https URL (or names loopback)")
        return self

    @model_validator(mode="after")
    def _credentials_that_can_work(self) -> Config:
        provider = self.oauth.provider.issuer if self.oauth is not None else None
        issuers = {one.issuer for one in self.identity.each_issuer}
        minted = {name for name, one in self.servers.items() if isinstance(one.security.credential, Minted)}
        for name, server in self.servers.items():
            credential = server.security.credential
            if credential is None:
                continue
            try:
                check_credential(credential, provider, issuers, minted)
                if isinstance(credential, Minted) and _is_below(
                    credential.audience or server.url or "", self.listen.url
                ):
                    raise ValueError("audience is our own address: the server could use the token here")
            except ValueError as error:
                raise ValueError(f"mcpServers.{name}.security.credential: {error}") from None
        return self

    @property
    def demands(self) -> dict[str, frozenset[str]]:
        """Kinds of proof every caller of a route must give; of a bundle, what any of its servers demands."""
        own = {name: server.security.demands for name, server in self.servers.items()}
        nothing: frozenset[str] = frozenset()
        joined = {
            route: nothing.union(*(own[name] for name in names)) for route, names in routes(self.bundles, own).items()
        }
        return {**joined, **own}

    @property
    def authorization_servers(self) -> tuple[str, ...]:
        """Where clients are sent to sign in (RFC 9728): to us alone, once we stand in front of the provider."""
        return self.identity.authorization_servers if self.oauth is None else (self.listen.url,)

    @property
    def issuers(self) -> tuple[str, ...]:
        """The names of all whose tokens are taken, ourselves first."""
        ours = () if self.oauth is None else (self.listen.url,)
        return (*ours, *(one.issuer for one in self.identity.each_issuer))

    @property
    def issuing(self) -> tuple[object, ...]:
        """All that decides whose tokens are taken."""
        return self.identity, self.oauth is not None, self.listen.url

    @property
    def servers(self) -> dict[str, ServerConfig]:
        """The servers that are in use."""
        return {name: server for name, server in self.mcpServers.items() if not server.disabled}

    @property
    def parameters(self) -> dict[str, Literal["digest", "redacted", "encrypted"]]:
        """What the log keeps of arguments, of the servers that have a say of their own."""
        return {name: kind for name, one in self.servers.items() if (kind := one.security.parameters) is not None}


def loosened(part: BaseModel, path: str = "") -> Iterator[str]:
    """Key paths of every `unsafe_*` switch that is on."""
    for name in type(part).model_fields:
        value, here = getattr(part, name), f"{path}.{name}" if path else name
        if name.startswith("unsafe_") and value:
            yield here
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else ()
        if isinstance(value, BaseModel):
            yield from loosened(value, here)
        for key, item in inner:
            if isinstance(item, BaseModel):
                yield from loosened(item, f"{here}[{key}]" if isinstance(key, int) else f"{here}.{key}")
