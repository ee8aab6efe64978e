"""What an operator says about a server at which each caller has an account: `security.credential` of kind `user`."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from limen.core.addresses import is_loopback
from limen.credentials.attach import HeaderName
from limen.credentials.challenge import MOST_SCOPES
from limen.credentials.upstream_client import Identity

_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def _issuer(value: str) -> str:
    parts = urlsplit(value)
    if not re.fullmatch(r"[\x21-\x7e]+", value) or not parts.hostname or "@" in parts.netloc or "?" in value:
        raise ValueError("an issuer is a URL without user and query (RFC 8414 section 2)")
    plain = parts.scheme == "http" and is_loopback(parts.hostname)
    if "#" in value or (parts.scheme != "https" and not plain):
        raise ValueError("an issuer is an https URL without fragment (http only on loopback)")
    return value


class Part(BaseModel):
    """Unknown keys are errors, and messages never quote what was given."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)


class RegisteredClient(Part):
    """The client an operator registered for us by hand."""

    id: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[\x21-\x7e]+$")]
    secret: SecretStr | None = Field(default=None, description="by reference; without one a public client")
    send: Literal["header", "body"] = Field(default="header", description="where the secret goes")

    @property
    def identity(self) -> Identity:
        """The same, unwrapped."""
        if self.secret is None:
            return Identity(self.id)
        method: Literal["client_secret_basic", "client_secret_post"] = (
            "client_secret_basic" if self.send == "header" else "client_secret_post"
        )
        return Identity(self.id, method, self.secret.get_secret_value())


class UserCredential(Part):
    """Each caller connects an account of their own, once, at the server's own authorization server."""

    kind: Literal["user"]
    issuer: Annotated[str, AfterValidator(_issuer)] | None = Field(
        default=None, description="its authorization server; default: the first it names, which is then kept to"
    )
    client: RegisteredClient | None = Field(
        default=None, description="default: our metadata document, else dynamic registration"
    )
    scopes: tuple[str, ...] | None = Field(
        default=None, description="all that is ever asked for; default: what the server says it needs"
    )
    hosts: tuple[str, ...] = Field(default=(), description="hosts besides the issuer's on which its endpoints may be")
    private: bool = Field(default=False, description="the server and its sign-in are in a private network")
    header: HeaderName = Field(default="Authorization", description="name of the header the token is sent in")

    @field_validator("scopes")
    @classmethod
    def _scope_tokens(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (len(value) > MOST_SCOPES or not all(_SCOPE.fullmatch(scope) for scope in value)):
            raise ValueError("a scope is printable ASCII without space, quote or backslash (RFC 6749 section 3.3)")
        return value

    @field_validator("hosts")
    @classmethod
    def _host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_HOST.fullmatch(host) for host in value):
            raise ValueError("a host is a name in lower case, without scheme, port and path")
        return value

    @model_validator(mode="after")
    def _client_of_somebody(self) -> UserCredential:
        if self.client is not None and self.issuer is None:
            raise ValueError("a client is one of an authorization server: name its issuer")
        return self
