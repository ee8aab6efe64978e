"""One entry of `mcpServers`, exactly as clients write it; what is ours stands under `security`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from limen.config.addresses import split_url
from limen.config.references import CREDENTIAL_NAME
from limen.core.addresses import is_loopback
from limen.core.cell import Bounds
from limen.core.faults import ConfigFault
from limen.credentials.attach import checked
from limen.credentials.settings import AnyCredential, IdJag, TokenExchange
from limen.credentials.user_settings import UserCredential
from limen.sandbox.egress_rules import EgressSettings
from limen.sandbox.launch import Form, Image, NotLaunchable, Package, contained, environment, read
from limen.sandbox.settings import Directory, Limits

NO_EFFECT: Final = ("alwaysAllow", "autoApprove", "description")  # clients write these; they decide nothing here
CELL: Final = ("directories", "limits", "isolate", "image")  # what is said about a cell under `security`
_SERVER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_PIN: Final = re.compile(r"sha256/[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
Seconds = Annotated[float, Field(gt=0, le=3600)]
Effect = Literal["read", "write", "destructive"]


class ServerSecurity(BaseModel):
    """What Limen adds to a server."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    directories: tuple[Directory, ...] = Field(default=(), description="what it sees of the disk besides its program")
    limits: Limits = Field(default=Limits(), description="what it may use")
    isolate: Literal["bubblewrap", "podman"] = Field(
        default="bubblewrap", description="what confines it: namespaces of this host, or a container of an image"
    )
    image: str | None = Field(default=None, description="NAME@sha256:HEX in which the command is; for isolate: podman")
    unsafe_no_sandbox: bool = Field(default=False, description="run the command as your own user, unconfined")
    unsafe_unverified: bool = Field(default=False, description="start the command as written, fetching what it likes")
    artifact: str | None = Field(
        default=None, pattern=r"^sha256-[0-9a-f]{64}$", description="digest of what is run; any other is not started"
    )
    timeout: Seconds = Field(default=60.0, description="seconds a call may take in all")
    durable: bool = Field(default=False, description="calls wait until their intent is on disk")
    parameters: Literal["digest", "redacted", "encrypted"] | None = Field(
        default=None, description="what the log keeps of its arguments; default: as in audit.parameters"
    )
    scopes: tuple[str, ...] = Field(default=(), description="scopes_supported of this server's metadata (RFC 9728)")
    sender_constrained: bool | Literal["dpop", "mtls"] = Field(
        default=False, description="only tokens bound to a key: by DPoP, by a client certificate, or (true) by either"
    )
    pin: tuple[str, ...] = Field(
        default=(), description="sha256/BASE64 of the public key, or of the certificate, one of which it must show"
    )
    effects: dict[str, Effect] = Field(default={}, description="tool -> what it does, over what the server claims")
    egress: EgressSettings = Field(default=EgressSettings(), description="where a sandboxed command may connect to")
    credential: AnyCredential | None = Field(
        default=None, description="a token that is obtained for it, beside `headers`: see docs/upstream-credentials.md"
    )

    @property
    def demands(self) -> frozenset[str]:
        """Kinds of proof every caller must give."""
        asked = self.sender_constrained
        return frozenset([asked if isinstance(asked, str) else "any"] if asked else [])

    @field_validator("pin")
    @classmethod
    def _pins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_PIN.fullmatch(one) for one in value):
            raise ValueError("a pin reads sha256/ and 32 bytes in base64")
        return value

    @property
    def bounds(self) -> Bounds | None:
        """Of its cell; None where it has none."""
        return None if self.unsafe_no_sandbox else self.limits.bounds

    @field_validator("scopes")
    @classmethod
    def _scope_tokens(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_SCOPE.fullmatch(scope) for scope in value):
            raise ValueError("a scope is printable ASCII without space, quote or backslash (RFC 6749 section 3.3)")
        return value


class ServerConfig(BaseModel):
    """A server behind us. What came in by reference is wrapped: read it with the three functions at the end."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    type: Literal["stdio", "http", "streamable-http", "sse"] | None = None
    command: Annotated[str, Field(min_length=1)] | None = None
    args: tuple[str | SecretStr, ...] = ()
    env: dict[str, SecretStr] = {}
    cwd: Path | None = None
    url: str | None = None
    headers: dict[str, SecretStr] = {}
    disabled: bool = False
    timeout: Seconds | None = Field(default=None, description="seconds; security.timeout goes first")
    security: ServerSecurity = ServerSecurity()

    @field_validator("url")
    @classmethod
    def _upstream(cls, value: str | None) -> str | None:
        if value is not None:
            parts = split_url(value)
            if "#" in value:
                raise ValueError("a URL to call has no fragment")
            if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
                raise ValueError("https is needed (http only on loopback)")
            if any(CREDENTIAL_NAME.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
                raise ValueError("a secret in a URL ends up in logs; put it into headers, by reference")
        return value

    @field_validator("env")
    @classmethod
    def _environment(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, text in value.items():
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{name[:40]!r} is not a name of an environment variable")
            if "\0" in text.get_secret_value():
                raise ValueError(f"the value of {name} holds a NUL character")
        return value

    @field_validator("headers")
    @classmethod
    def _headers(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        try:
            checked("", [(name, text.get_secret_value()) for name, text in value.items()])
        except ConfigFault as fault:
            raise ValueError(fault.message) from None
        return value

    @field_validator("args")
    @classmethod
    def _arguments(cls, value: tuple[str | SecretStr, ...]) -> tuple[str | SecretStr, ...]:
        if any("\0" in plain(one) for one in value):
            raise ValueError("an argument holds a NUL character")
        return value

    @property
    def confined(self) -> bool:
        """Whether it runs here, with no other network than we give it."""
        return self.command is not None and not self.security.unsafe_no_sandbox

    @model_validator(mode="after")
    def _one_kind(self) -> ServerConfig:
        if (self.command is None) == (self.url is None):
            raise ValueError("a server has either command or url")
        local = self.command is not None
        if self.type is not None and (self.type == "stdio") is not local:
            raise ValueError(f"type {self.type} does not go with {'command' if local else 'url'}")
        stray = ("headers",) if local else ("args", "env", "cwd")
        if found := [name for name in stray if getattr(self, name)]:
            raise ValueError(f"{found[0]} does not go with {'command' if local else 'url'}")
        if self.security.pin and not (self.url or "").startswith("https:"):
            raise ValueError("pin needs an https url: without TLS there is no certificate")
        if self.security.egress.active and not local:
            raise ValueError("security.egress is for a local command; what a remote server reaches is out of our hands")
        if self.security.egress.active and self.security.unsafe_no_sandbox:
            raise ValueError("security.egress holds inside the sandbox only; it does not go with unsafe_no_sandbox")
        named = self.security.model_fields_set
        if not local and (found := [name for name in CELL if name in named]):
            raise ValueError(f"security.{found[0]} goes with command: a server at a url runs elsewhere")
        self._check_credential()
        self._check_container()
        if self.security.artifact and (not local or self.security.unsafe_unverified):
            raise ValueError("security.artifact goes with a command that is verified")
        if local and not self.disabled and not self.security.unsafe_unverified:
            self._check_launch()
        return self

    def _check_credential(self) -> None:
        credential = self.security.credential
        if credential is None:
            return
        if self.url is None:
            raise ValueError("security.credential goes with url: a local command is given secrets in env")
        both = credential.header.lower() in {name.lower() for name in self.headers}
        if both and not isinstance(credential, UserCredential):  # without a person, it is read with the one in headers
            raise ValueError(f"the header {credential.header} is both in headers and in security.credential")
        needs_resource = isinstance(credential, TokenExchange | IdJag) and not credential.resource
        if needs_resource and "?" in self.url:
            raise ValueError("security.credential.resource is needed: a url with a query names no resource")

    def _check_container(self) -> None:
        security = self.security
        if security.isolate != "podman":
            if security.image is not None:
                raise ValueError("security.image goes with security.isolate: podman")
            return
        if security.egress.active:
            raise ValueError(
                "security.egress is not enforced for a container: it has no network at all. For destinations, install "
                "the server on this host and leave isolate out"
            )
        if loose := [name for name in ("unsafe_no_sandbox", "unsafe_unverified") if getattr(security, name)]:
            raise ValueError(f"security.isolate: podman does not go with {loose[0]}")

    def _check_launch(self) -> None:
        try:
            form = self.form()
            own = self.security.isolate == "podman" or self.security.unsafe_no_sandbox
            if isinstance(form, Image) and not own:
                raise ValueError(
                    f"{form.engine} run does not work in the sandbox, which has no container engine: set "
                    "security.isolate: podman, and Limen starts the image itself, confined"
                )
            environment(form, self.environment(), pinned=self.security.artifact is not None)
        except NotLaunchable as fault:
            raise ValueError(f"{fault}. Or set security.unsafe_unverified: true to start it unseen") from None

    def form(self) -> Form:
        """Where the program comes from. Raises NotLaunchable."""
        if self.security.isolate == "podman":
            return contained(self.command or "", self.arguments(), self.security.image)
        form = read(self.command or "", self.arguments())
        if isinstance(form, Package) and any(not isinstance(one, str) for one in self.args[: -len(form.rest) or None]):
            raise NotLaunchable("a package is not named by reference: its name is recorded")
        return form

    @property
    def transport(self) -> Literal["stdio", "http", "sse"]:
        """How we speak to it."""
        if self.command is not None:
            return "stdio"
        return "sse" if self.type == "sse" else "http"

    @property
    def call_timeout(self) -> float:
        """Seconds a call may take in all."""
        given = "timeout" in self.security.model_fields_set
        return self.security.timeout if given or self.timeout is None else self.timeout

    @property
    def target(self) -> str:
        """For people: what is started or reached, without arguments or query."""
        if self.url is None:
            return self.command or ""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"

    def header_values(self) -> tuple[tuple[str, str], ...]:
        """Headers to send, unwrapped."""
        return tuple((name, value.get_secret_value()) for name, value in self.headers.items())

    def environment(self) -> dict[str, str]:
        """Variables to set, unwrapped."""
        return {name: value.get_secret_value() for name, value in self.env.items()}

    def arguments(self) -> list[str]:
        """Arguments of the command, unwrapped."""
        return [plain(one) for one in self.args]


def plain(value: str | SecretStr) -> str:
    """The text itself."""
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def check_names(servers: Mapping[str, object]) -> None:
    """Names that are safe in a path and cannot be taken for each other. Raises ValueError."""
    for name in servers:
        if not _SERVER.fullmatch(name):
            raise ValueError(
                f"{name[:80]!r} is not a server name: 1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit"
            )
        if "__" in name or name.endswith("_"):
            raise ValueError(f"{name!r} is not a server name: two underscores separate server and tool on a bundle")
    if twins := _twins(servers):
        raise ValueError(f"server names differ in upper and lower case only: {' and '.join(twins)}")


def _twins(names: Iterable[str]) -> tuple[str, str] | None:
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.casefold(), name)) != name:
            return other, name
    return None
