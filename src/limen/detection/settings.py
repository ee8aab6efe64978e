"""`content:` in the configuration: how strictly content is judged, per server and tool; what is excepted, until when.

Levels move the three limits of the action table; `max_risk` sets the middle one by number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from limen.detection.finding import Finding
from limen.detection.fuse import Limits
from limen.detection.labels import LabelSettings
from limen.detection.rules import ArgumentSettings
from limen.detection.sinks import FlowSettings
from limen.detection.spotlight import Mode

Level = Literal["low", "medium", "high"]
Defuse = Literal["off", "loads", "links"]
Guarded = Literal["arguments", "results", "messages", "definitions"]
Asked = Literal["argument", "result", "error", "resource", "prompt", "completion", "elicitation"]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Name = Annotated[str, Field(min_length=1, max_length=256)]

LEVELS: Final = MappingProxyType(
    {"low": Limits(0.3, 0.7, 0.9), "medium": Limits(0.2, 0.5, 0.8), "high": Limits(0.1, 0.3, 0.6)}
)
FAMILIES: Final = (
    "injection", "poisoning", "secret", "pii", "argument", "exfiltration", "hidden", "flow", "feed", "harm", "remote",
)  # fmt: skip


class Part(BaseModel):
    """Unknown keys are errors, values never change, messages never quote what was given."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)


class ToolContent(Part):
    """What differs for one tool, prompt or resource of a server."""

    content_safety: Level | None = Field(default=None, description="how strictly its content is judged")
    max_risk: Share | None = Field(default=None, description="highest risk that goes on without a person")
    spotlight: Mode | None = Field(default=None, description="how its texts are marked as data")
    defuse: Defuse | None = Field(default=None, description="what is taken out of its texts")


class Protection(Part):
    """Arguments a server gets as tokens. A text in every place that is named there, or the call is refused."""

    tool: Name = Field(default="*", description="glob over tool names")
    arguments: tuple[Annotated[str, Field(pattern=r"^(/[^/]+)+$")], ...] = Field(
        min_length=1, description="JSON pointers into the arguments; * is every item of a list"
    )
    kind: str = Field(default="value", pattern=r"^[a-z][a-z0-9_]{0,39}$", description="shown in the token")
    equal: bool = Field(
        default=False, description="equal texts give equal tokens, for look-ups; whoever sees them can tell"
    )


class ServerContent(ToolContent):
    """What differs for one server. A trusted one may be sent secrets; what it says is not taken for a stranger's."""

    trusted: bool = Field(default=False, description="run by you, with content you control")
    labels: LabelSettings = Field(default=LabelSettings(), description="what reading from it does to a caller")
    protect: tuple[Protection, ...] = Field(default=(), description="arguments it gets as tokens")
    reveal: tuple[Annotated[str, Field(pattern=r"^(user|role|group|scope):.+$")], ...] = Field(
        default=(), description="callers who see tokens in its answers in clear"
    )
    tools: dict[Name, ToolContent] = Field(default={}, description="tool or prompt name, or resource URI -> settings")


class Sensitive(Part):
    """What becomes of secrets, or of personal data. Arguments are never rewritten: they go on as judged, or not."""

    arguments: Literal["block", "approve", "record"]
    results: Literal["redact", "withhold", "record"]


class SecretContent(Sensitive):
    """Keys, tokens, passwords. The setting for arguments is for servers that are not trusted."""

    arguments: Literal["block", "approve", "record"] = "block"
    results: Literal["redact", "withhold", "record"] = "redact"


class PersonalContent(Sensitive):
    """Cards, account and identity numbers, addresses of people."""

    arguments: Literal["block", "approve", "record"] = "record"
    results: Literal["redact", "withhold", "record"] = "record"


class Exempt(Part):
    """A finding that is known to be harmless here. Somebody owns it and it ends; then the finding counts again."""

    finding: str = Field(pattern=r"^[a-z]+\.[a-z0-9_*]+$", description="finding id; family.* for all of a family")
    server: Name
    tool: Name = Field(default="*", description="glob over tool and prompt names and resource URIs")
    owner: Name
    expires: date = Field(description="last day (UTC) it holds")
    reason: Name

    def covers(self, finding: Finding, server: str, name: str, now: float) -> bool:
        """Whether this finding is excepted now. `now`: seconds since the epoch."""
        return (
            self.server == server
            and fnmatchcase(finding.id, self.finding)
            and fnmatchcase(name, self.tool)
            and now < self.until
        )

    @property
    def until(self) -> float:
        """The end of its last day, seconds since the epoch."""
        return datetime.combine(self.expires, time.max, UTC).timestamp()

    @model_validator(mode="after")
    def _known(self) -> Exempt:
        family = self.finding.partition(".")[0]
        if family == "remote":
            raise ValueError("that a service did not answer cannot be excepted; see content.remote.unsafe_continue")
        if family not in FAMILIES:
            raise ValueError(f"a finding's family is one of {', '.join(FAMILIES)}")
        return self


def _over_tls(url: str, what: str) -> SplitResult:
    """The parts of an https URL, or of an http one on this machine. Raises ValueError."""
    parts = urlsplit(url)
    local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and local)):
        raise ValueError(f"{what} begins with https://")
    return parts


class FeedSettings(Part):
    """Indicators, in a file or at an address, and the Ed25519 key (standard base64, 32 bytes) that must have signed
    them. Looked at again every minute, an address every quarter of an hour."""

    path: Path | None = Field(default=None, description="absolute path")
    url: str | None = Field(default=None, max_length=2048, description="https address (http on this machine)")
    key: str = Field(pattern=r"^[A-Za-z0-9+/]{43}=$")

    @property
    def source(self) -> str:
        """Where it comes from."""
        return str(self.url or self.path)

    @model_validator(mode="after")
    def _one_source(self) -> FeedSettings:
        if (self.path is None) == (self.url is None):
            raise ValueError("a feed has either path or url")
        if self.path is not None and not self.path.is_absolute():
            raise ValueError("the path of a feed is absolute")
        if self.url is not None:
            _over_tls(self.url, "the address of a feed")
        return self


class RemoteSettings(Part):
    """A service elsewhere that judges texts as well. What it is asked about leaves this machine."""

    kind: Literal["azure_prompt_shields", "azure_text_analyze"]
    endpoint: str = Field(max_length=512, description="https://NAME.cognitiveservices.azure.com, without a path")
    key: SecretStr | None = Field(default=None, description="subscription key, as ${env:NAME} or ${file:path}")
    token: SecretStr | None = Field(default=None, description="access token of Entra ID instead, read at every reload")
    channels: frozenset[Asked] = Field(
        default=frozenset({"result", "error", "resource", "prompt", "elicitation"}),
        min_length=1,
        description="what it is asked about",
    )
    seconds: float = Field(default=3.0, ge=0.1, le=10.0, description="longest wait for all of one content")
    most: int = Field(default=100_000, ge=1000, le=1_000_000, description="characters; a longer text was not judged")
    score: Share = Field(default=0.9, description="how sure an attack is that it reports")
    severity: int = Field(default=4, ge=1, le=7, description="of azure_text_analyze: lowest that counts, of 7")
    unavailable: float = Field(
        default=0.9, gt=0.0, le=1.0, description="risk of content it did not judge, which is held at the least"
    )
    unsafe_continue: bool = Field(default=False, description="content it did not judge goes on as if it were harmless")

    @field_validator("endpoint")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = _over_tls(value, "the endpoint")
        if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("the endpoint is a scheme and a host, nothing else")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _one_credential(self) -> RemoteSettings:
        given = [one.get_secret_value() for one in (self.key, self.token) if one is not None]
        if len(given) != 1:
            raise ValueError("a remote detector has either key or token")
        if not re.fullmatch(r"[!-~]{1,16384}", given[0]):
            raise ValueError("the credential is empty, or holds what no header can")
        return self


class ContentSettings(Part):
    """Judging of what is said: arguments, results, messages of running calls, definitions."""

    content_safety: Level = Field(default="medium", description="how strictly content is judged")
    secrets: SecretContent = SecretContent()
    personal: PersonalContent = PersonalContent()
    servers: dict[Name, ServerContent] = Field(default={}, description="server -> what differs for it")
    spotlight: Mode = Field(
        default="delimit", description="how texts of servers that are not trusted are marked as data, for a model"
    )
    defuse: Defuse = Field(
        default="loads",
        description="what is taken out of texts of servers that are not trusted: what loads or runs when it is shown; "
        "with links also links that carry data out",
    )
    hosts: tuple[Name, ...] = Field(
        default=(), description="hosts (a.example, *.b.example) pictures may be loaded from"
    )
    arguments: ArgumentSettings = Field(default=ArgumentSettings(), description="what arguments of a tool may be")
    flow: FlowSettings = Field(default=FlowSettings(), description="where what was read may go")
    allow: tuple[Exempt, ...] = Field(default=(), description="findings known to be harmless, until when")
    feeds: tuple[FeedSettings, ...] = ()
    remote: tuple[RemoteSettings, ...] = Field(default=(), max_length=8, description="services asked besides")
    unsafe_observe: tuple[Guarded, ...] = Field(
        default=(), description="guards that only record: nothing is held, blocked or redacted by them"
    )

    def limits(self, server: str, name: str) -> Limits:
        """Limits for one tool of one server: the tool's own, else the server's, else those for all."""
        ours = self.servers.get(server)
        tool = ours.tools.get(name) if ours is not None else None
        chosen: Sequence[ToolContent] = [one for one in (tool, ours) if one is not None]
        level = next((one.content_safety for one in chosen if one.content_safety), self.content_safety)
        highest = next((one.max_risk for one in chosen if one.max_risk is not None), None)
        limits = LEVELS[level]
        if highest is None:
            return limits
        return Limits(min(limits.record, highest), highest, max(limits.block, highest))

    def presentation(self, server: str, name: str) -> tuple[Mode, Defuse]:
        """How results of one tool, prompt or resource are shown: its own setting, else its server's, else nothing is
        changed for a trusted server and the setting for all holds for others."""
        if "results" in self.unsafe_observe:
            return "off", "off"
        ours = self.servers.get(server)
        if ours is None:
            return self.spotlight, self.defuse
        trusted, tool = ours.trusted, ours.tools.get(name)
        mode = (tool.spotlight if tool else None) or ours.spotlight or ("off" if trusted else self.spotlight)
        harm = (tool.defuse if tool else None) or ours.defuse or ("off" if trusted else self.defuse)
        return mode, harm

    def marks(self, server: str) -> bool:
        """Whether anything of this server is marked as data."""
        ours = self.servers.get(server)
        return any(self.presentation(server, tool)[0] != "off" for tool in ("", *(ours.tools if ours else ())))

    def trusts(self, server: str) -> bool:
        """Whether this server is run by the operator."""
        ours = self.servers.get(server)
        return ours is not None and ours.trusted

    def excepted(self, finding: Finding, server: str, name: str, now: float) -> bool:
        """Whether the operator declared this finding harmless here."""
        return any(one.covers(finding, server, name, now) for one in self.allow)
