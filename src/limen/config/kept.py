"""Where what must last is kept: the log, and the records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from limen.audit.follow_settings import Follower, MetricsSettings
from limen.audit.retention import RetentionSettings
from limen.config.part import STATE, Part
from limen.core.addresses import is_loopback


class AuditConfig(Part):
    """The log of every decision, its signing key, and whether every call waits for the disk."""

    path: Path = Path(STATE, "audit")
    key: Path = Path(STATE, "audit.key")
    name: str = Field(default="limen", pattern=r"^[A-Za-z0-9._/-]{1,255}$", description="name of the log and its key")
    durable: bool = Field(default=False, description="every call waits until its intent is on disk")
    parameters: Literal["digest", "redacted", "encrypted"] = Field(
        default="digest", description="what is kept of arguments; a server's security.parameters goes first"
    )
    resources: Literal["digest", "plain"] = Field(
        default="digest", description="how the URIs in what servers answer stand in the log"
    )
    retention: RetentionSettings = RetentionSettings()
    deleters: Annotated[int, Field(ge=1, le=5)] = Field(
        default=1, description="distinct people who must agree before records are removed or a hold is lifted"
    )
    index: bool = Field(default=True, description="keep an index for `limen audit query`, rebuildable from the log")
    witness: Annotated[float, Field(ge=5, le=86_400)] | None = Field(
        default=60.0, description="seconds between signed statements over the logs of all replicas"
    )
    followers: tuple[Follower, ...] = Field(default=(), description="where the log goes besides the disk")
    metrics: MetricsSettings | None = Field(default=None, description="Prometheus text, on loopback")

    @field_validator("followers")
    @classmethod
    def _told_apart(cls, value: tuple[Follower, ...]) -> tuple[Follower, ...]:
        if len({one.name for one in value}) != len(value):
            raise ValueError("each follower needs a name of its own: its place in the log is kept under it")
        return value


class RedisConfig(Part):
    """Counts that replicas share, and a way to wake them."""

    url: SecretStr = Field(description="redis://, or rediss:// for TLS; ${env:NAME} where it holds a password")

    @field_validator("url")
    @classmethod
    def _known(cls, value: SecretStr) -> SecretStr:
        return _store_url(value, ("redis", "rediss"))


class StorageConfig(Part):
    """Records that must survive a restart: approvals, definitions, revocations. Several replicas share PostgreSQL."""

    kind: Literal["sqlite", "postgres"] = "sqlite"
    path: Path = Field(default=Path(STATE, "limen.db"), description="the file of kind sqlite")
    url: SecretStr | None = Field(default=None, description="of kind postgres: postgresql://user@host/database")
    redis: RedisConfig | None = Field(default=None, description="default: limits are shared through the database")

    @field_validator("url")
    @classmethod
    def _known(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else _store_url(value, ("postgresql", "postgres"))

    @model_validator(mode="after")
    def _has_place(self) -> StorageConfig:
        if (self.kind == "postgres") != (self.url is not None):
            raise ValueError("url is for kind postgres, which needs one")
        return self

    @property
    def place(self) -> Path | str:
        """Where the records are: a file or a URL."""
        return self.path if self.url is None else self.url.get_secret_value()


def _store_url(value: SecretStr, schemes: tuple[str, ...]) -> SecretStr:
    """A URL of these schemes whose way leads over TLS or stays on this machine. Raises ValueError."""
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in schemes:
        raise ValueError(f"a URL of {' or '.join(schemes)}")
    options = dict(parse_qsl(parts.query))
    host = parts.hostname or options.get("host", "")
    sealed = parts.scheme == "rediss" or options.get("sslmode") in ("verify-full", "verify-ca")
    if host and not host.startswith("/") and not is_loopback(host) and not sealed:
        raise ValueError("leaves this machine without TLS: use rediss://, or add sslmode=verify-full")
    return value
