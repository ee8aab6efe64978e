"""`alerts:` in the configuration: rules besides those that are shipped, and who is told."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import ConfigDict, Field, SecretStr, TypeAdapter, field_validator, model_validator

from limen.core.events import SEVERITIES, Severity
from limen.incidents.rules import Name, Part, Rule

Mailbox = Annotated[str, Field(pattern=r"^[^\s<>@,;:\"()\\\[\]]{1,64}@[A-Za-z0-9.-]{1,255}$")]
PAGERDUTY = "https://events.pagerduty.com/v2/enqueue"


class Route(Part):
    """Somebody who is told. Of one lower than `severity` nothing is told; more than `per_minute` waits."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    name: Name
    severity: Severity = Field(default="medium", description="told from here on")
    rules: tuple[str, ...] = Field(default=("*",), min_length=1, description="globs over ids of rules")
    per_minute: Annotated[int, Field(ge=1, le=600)] = 20


def _address(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and local)):
        raise ValueError("begins with https:// (http:// on this machine)")
    return value


class HookRoute(Route):
    """Sent by HTTP POST to an address that is a secret itself where the receiver knows us by nothing else."""

    url: SecretStr = Field(description="as ${env:NAME} where it holds a secret")

    @field_validator("url")
    @classmethod
    def _over_tls(cls, value: SecretStr) -> SecretStr:
        return _address(value)


class WebhookRoute(HookRoute):
    """JSON, signed."""

    kind: Literal["webhook"]
    secret: SecretStr = Field(description="key of the signature (Standard Webhooks), at least 24 characters")

    @field_validator("secret")
    @classmethod
    def _long(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < 24:
            raise ValueError("shorter than 24 characters")
        return value


class SlackRoute(HookRoute):
    """An incoming webhook of Slack."""

    kind: Literal["slack"]


class TeamsRoute(HookRoute):
    """A workflow of Teams that is started by a webhook request."""

    kind: Literal["teams"]


class PagerDutyRoute(Route):
    """Events API v2."""

    kind: Literal["pagerduty"]
    key: SecretStr = Field(description="integration (routing) key")
    url: SecretStr = SecretStr(PAGERDUTY)

    @field_validator("url")
    @classmethod
    def _over_tls(cls, value: SecretStr) -> SecretStr:
        return _address(value)


class MailRoute(Route):
    """SMTP. Without TLS only on this machine."""

    kind: Literal["smtp"]
    host: str = Field(pattern=r"^[A-Za-z0-9.:-]{1,255}$")
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    user: str | None = None
    password: SecretStr | None = None
    sender: Mailbox
    recipients: tuple[Mailbox, ...] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def _sealed(self) -> MailRoute:
        if self.tls == "none" and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("tls: none leaves this machine readable")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password, or neither")
        return self


AnyRoute = Annotated[
    WebhookRoute | SlackRoute | TeamsRoute | PagerDutyRoute | MailRoute, Field(discriminator="kind")
]  # fmt: skip


class AlertSettings(Part):
    """Which alerts are raised, and who is told. A rule with the id of a shipped one replaces it."""

    rules: tuple[Rule, ...] = Field(default=(), max_length=200, description="besides those that are shipped")
    disable: tuple[Name, ...] = Field(default=(), description="ids of shipped rules that are not used")
    routes: tuple[AnyRoute, ...] = Field(default=(), max_length=32)
    give_up: Annotated[float, Field(ge=3600, le=30 * 86_400)] = Field(
        default=86_400.0, description="seconds after which what nobody takes is set aside (`limen alerts dead`)"
    )

    @model_validator(mode="after")
    def _sound(self) -> AlertSettings:
        for names, what in (
            ([one.id for one in self.rules], "rules"),
            ([one.name for one in self.routes], "routes"),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"two {what} have the same name")
        if self.disable and (unknown := sorted(set(self.disable) - {one.id for one in shipped()})):
            raise ValueError(f"no shipped rule: {', '.join(unknown)}")
        return self

    @property
    def in_force(self) -> tuple[Rule, ...]:
        """All rules that are used."""
        own = {one.id for one in self.rules}
        return (*(one for one in shipped() if one.id not in own and one.id not in self.disable), *self.rules)

    def told(self, severity: Severity, rule: str) -> Sequence[str]:
        """Names of the routes that are told of this."""
        grave = SEVERITIES.index(severity)
        return [
            one.name
            for one in self.routes
            if grave >= SEVERITIES.index(one.severity) and any(fnmatchcase(rule, pattern) for pattern in one.rules)
        ]


@cache
def shipped() -> tuple[Rule, ...]:
    """The rules that come with this release."""
    text = files("limen.incidents").joinpath("data/alerts.yaml").read_text("utf-8")
    return TypeAdapter(tuple[Rule, ...]).validate_python(yaml.safe_load(text))
