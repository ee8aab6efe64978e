"""`audit.followers` and `audit.metrics` in the configuration: where the log goes besides the disk."""

from __future__ import annotations

import base64
import binascii
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from limen.audit.export import Selection, Tolerance
from limen.core.addresses import is_loopback
from limen.core.events import Category, Severity

Form = Literal["ocsf", "record"]
_LEAST_SECRET: Final = 24  # bytes of a key that signs (Standard Webhooks)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)


class MaxBehind(_Part):
    """Further behind than this, and the sink counts as behind: recorded, and with `when_behind: refuse` no call is made
    before it has caught up."""

    records: int = Field(default=100_000, ge=1, le=10**9)
    seconds: float = Field(default=300.0, ge=1, le=10**7)


class FollowerSettings(_Part):
    """What every kind has. Empty filters let everything through."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="its cursor is kept under this name")
    categories: tuple[Category, ...] = ()
    types: tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] = Field(
        default=(), description="globs over types of events, such as call.*"
    )
    severity: Severity = Field(default="info", description="and above")
    batch: int = Field(default=500, ge=1, le=5000, description="records sent together")
    timeout: float = Field(default=10.0, ge=0.1, le=120, description="seconds one batch may take")
    when_behind: Literal["continue", "refuse"] = "continue"
    max_behind: MaxBehind = MaxBehind()
    since: Literal["beginning", "now"] = Field(default="beginning", description="where a new follower begins")

    @property
    def selection(self) -> Selection:
        return Selection(frozenset(self.categories), self.types, self.severity)

    @property
    def limit(self) -> Tolerance:
        behind = self.max_behind
        return Tolerance(behind.records, behind.seconds, self.when_behind == "refuse")


class FileFollower(FollowerSettings):
    """JSON lines, one a record, synced; a full file is renamed to path.1 and so on."""

    kind: Literal["file"]
    path: Path
    form: Form = "ocsf"
    rotate: int = Field(default=64 << 20, ge=1 << 10, le=1 << 40, description="bytes of one file")
    keep: int = Field(default=10, ge=1, le=10_000, description="files kept besides the one being written")


class SyslogFollower(FollowerSettings):
    """RFC 5424, over TLS (RFC 5425) unless it stays on this machine. UDP tells nobody whether anything arrived."""

    kind: Literal["syslog"]
    address: str = Field(description="host:port")
    transport: Literal["tls", "tcp", "udp"] = "tls"
    form: Literal["cef", "ocsf", "record"] = "cef"
    ca: Path | None = Field(default=None, description="PEM of the authorities of the receiver; default: the system's")
    certificate: Path | None = Field(default=None, description="PEM of our own certificate chain and key")
    confirm: Literal["close", "written"] = Field(
        default="close", description="close: a batch counts once the receiver has read to its end and closed"
    )
    unsafe_plain: bool = Field(default=False, description="without TLS to another machine")

    @field_validator("address")
    @classmethod
    def _place(cls, value: str) -> str:
        parts = urlsplit(f"//{value}")
        if not parts.hostname or not parts.port or parts.path or parts.username is not None:
            raise ValueError("an address reads host:port")
        return value

    @model_validator(mode="after")
    def _sealed(self) -> SyslogFollower:
        if self.transport != "tls" and not is_loopback(self.place[0]) and not self.unsafe_plain:
            raise ValueError("leaves this machine without TLS: use transport: tls, or set unsafe_plain: true")
        return self

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(f"//{self.address}")
        return parts.hostname or "", parts.port or 0


class _Http(FollowerSettings):
    url: str
    ca: Path | None = Field(default=None, description="PEM of the authorities of the receiver; default: the system's")

    @field_validator("url")
    @classmethod
    def _reachable(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.username is not None or parts.fragment or not parts.hostname:
            raise ValueError("a URL with a host, without user or fragment")
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
            raise ValueError("https is needed (http only on loopback)")
        return value


class SplunkFollower(_Http):
    """The HTTP Event Collector. `acknowledge`: a batch counts once its indexers have it."""

    kind: Literal["splunk_hec"]
    token: SecretStr
    index: str = Field(default="", max_length=255)
    source: str = Field(default="limen", max_length=255)
    sourcetype: str = Field(default="", max_length=255, description="default: limen:ocsf or limen:record")
    form: Form = "ocsf"
    acknowledge: bool = False


class WebhookFollower(_Http):
    """JSON signed with HMAC-SHA-256 as Standard Webhooks does: webhook-id, webhook-timestamp, webhook-signature."""

    kind: Literal["webhook"]
    secret: SecretStr = Field(description="whsec_ and base64, or text; at least 24 bytes")
    form: Form = "ocsf"

    @field_validator("secret")
    @classmethod
    def _long(cls, value: SecretStr) -> SecretStr:
        if len(signing_key(value.get_secret_value())) < _LEAST_SECRET:
            raise ValueError(f"a secret of at least {_LEAST_SECRET} bytes")
        return value


class OtlpFollower(_Http):
    """OpenTelemetry over HTTP with protobuf: url/v1/traces, url/v1/metrics, url/v1/logs."""

    kind: Literal["otlp"]
    signals: Annotated[tuple[Literal["traces", "metrics", "logs"], ...], Field(min_length=1)] = ("traces", "logs")
    headers: dict[str, SecretStr] = Field(default={}, description="sent with each request, such as an API key")


class AzureFollower(_Http):
    """Azure Monitor (and Microsoft Sentinel, which reads its tables) through the Logs Ingestion interface."""

    kind: Literal["azure_monitor"]
    rule: str = Field(pattern=r"^dcr-[0-9a-zA-Z]{1,64}$", description="immutable id of the data collection rule")
    stream: str = Field(pattern=r"^Custom-[A-Za-z0-9_]{1,100}$")
    tenant: str = Field(pattern=r"^[0-9A-Za-z.-]{1,128}$")
    client_id: str = Field(min_length=1, max_length=128)
    client_secret: SecretStr
    authority: str = "https://login.microsoftonline.com"

    @field_validator("authority")
    @classmethod
    def _authority(cls, value: str) -> str:
        return cls._reachable(value.rstrip("/"))


Follower = Annotated[
    FileFollower | SyslogFollower | SplunkFollower | WebhookFollower | OtlpFollower | AzureFollower,
    Field(discriminator="kind"),
]


class MetricsSettings(_Part):
    """Prometheus text at http://bind/metrics, for this machine alone."""

    bind: str = Field(description="host:port on loopback")

    @field_validator("bind")
    @classmethod
    def _loopback(cls, value: str) -> str:
        host, port = split(value)
        try:
            near = ip_address(host).is_loopback
        except ValueError:
            near = False
        if not near or not 0 <= port < 65536:
            raise ValueError("an address of loopback and a port, such as 127.0.0.1:9464")
        return value

    @property
    def address(self) -> tuple[str, int]:
        return split(self.bind)


def split(bind: str) -> tuple[str, int]:
    """Host and port of host:port. Raises ValueError."""
    host, colon, port = bind.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError("an address reads host:port")
    return host.strip("[]"), int(port)


def signing_key(secret: str) -> bytes:
    """The key a webhook's secret stands for. Raises ValueError."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise ValueError("what follows whsec_ is base64") from None
