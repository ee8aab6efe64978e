"""What an operator writes under `security.egress`, and what it means.

`api.example.com:443` is that host on that port. `*.example.org:443` is every name with one or more labels before
`.example.org`, and not `example.org` itself. An address stands for itself: `192.0.2.7:5432`, `[2001:db8::7]:443`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from limen.core.addresses import Address, kind

MAX_RULES: Final = 200
MAX_PORTS: Final = 60
DNS_PORT: Final = 53
LEARN_PORTS: Final = (22, 25, 80, 443, 465, 587, 993, 3000, 3306, 5000, 5432, 6379, 8000, 8080, 8443, 9200, 27017)
SHARED: Final = (  # anyone can have a name under these
    "amazonaws.com", "appspot.com", "azurecontainerapps.io", "azureedge.net", "azurewebsites.net",
    "blob.core.windows.net", "cloudapp.azure.com", "cloudflare.net", "cloudfront.net", "fastly.net", "fly.dev",
    "github.io", "gitlab.io", "googleusercontent.com", "herokuapp.com", "netlify.app", "ngrok-free.app", "ngrok.io",
    "onrender.com", "pages.dev", "r2.dev", "run.app", "supabase.co", "trycloudflare.com", "vercel.app", "web.app",
    "workers.dev",
)  # fmt: skip
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DEVIATING: Final = frozenset("ßς\u200c\u200d")  # IDNA 2003 and 2008 make different names of these
Protocol = Literal["tls", "http", "tcp"]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Rule:
    """One compiled entry. `name` is in A-labels and lower case; "" where the rule is for an address."""

    text: str
    name: str
    wildcard: bool
    address: Address | None
    port: int
    protocol: Protocol
    methods: frozenset[str] = METHODS
    allow_private: bool = False

    @property
    def shared(self) -> bool:
        """Does the wildcard take in names anyone can get?"""
        return self.wildcard and any(self.name == one or self.name.endswith(f".{one}") for one in SHARED)


def _or_text(member: str, text: dict[str, Any] | None) -> Any:
    """JSON Schema: the short form beside the long one."""

    def extend(schema: dict[str, Any]) -> None:
        long = dict(schema)
        schema.clear()
        schema["anyOf"] = [text or {"type": "array", "items": long["properties"][member]["items"]}, long]

    return extend


class EgressRule(BaseModel):
    """One destination. As text: `host:port`."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        json_schema_extra=_or_text("to", {"type": "string", "description": "host:port"}),
    )

    to: str = Field(description="host:port, *.domain:port or address:port")
    protocol: Protocol | None = Field(default=None, description="default: http on port 80, tls elsewhere")
    methods: tuple[Method, ...] = Field(default=(), description="of plain http; default: all but CONNECT and TRACE")
    allow_private: bool = Field(default=False, description="the name may resolve to a private address")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"to": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _means_something(self) -> EgressRule:
        self.compiled()
        return self

    def compiled(self) -> Rule:
        """Raises ValueError that says what is wrong."""
        name, wildcard, address, port = parse_destination(self.to)
        protocol: Protocol = self.protocol or ("http" if port == 80 else "tls")
        if self.methods and protocol != "http":
            raise ValueError("methods can be told apart in plain http only; set protocol: http, or leave them out")
        if self.allow_private and address is not None:
            raise ValueError("an address stands for itself; allow_private is for names")
        methods = frozenset(self.methods) or METHODS
        return Rule(self.to, name, wildcard, address, port, protocol, methods, self.allow_private)


class EgressLimits(BaseModel):
    """What one running server may use of the network. Bytes and names are counted per hour."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    connections: Annotated[int, Field(ge=1, le=1024)] = Field(default=64, description="open at a time")
    opened: Annotated[int, Field(ge=1, le=1000)] = Field(default=50, description="new connections per second")
    hello: Annotated[float, Field(gt=0, le=60)] = Field(default=5.0, description="seconds until a destination is named")
    idle: Annotated[float, Field(gt=0, le=86_400)] = Field(default=300.0, description="seconds without a byte")
    total: Annotated[float, Field(gt=0, le=604_800)] = Field(default=14_400.0, description="seconds a connection lasts")
    sent: Annotated[int, Field(ge=1024)] = Field(default=256 << 20, description="bytes out, per hour")
    received: Annotated[int, Field(ge=1024)] = Field(default=4 << 30, description="bytes in, per hour")
    questions: Annotated[int, Field(ge=1, le=1000)] = Field(default=20, description="DNS questions per second")
    names: Annotated[int, Field(ge=1, le=100_000)] = Field(default=120, description="new names under *., per hour")


class EgressSettings(BaseModel):
    """Where a sandboxed server may connect to. Without rules it has no network at all."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, json_schema_extra=_or_text("allow", None)
    )

    mode: Literal["enforce", "learn"] = Field(
        default="enforce", description="learn: refuses the same, and finds out which rules would be needed"
    )
    allow: Annotated[tuple[EgressRule, ...], Field(max_length=MAX_RULES)] = ()
    unsafe_ech: bool = Field(default=False, description="accept TLS whose true destination is encrypted")
    limits: EgressLimits = EgressLimits()

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"allow": value} if isinstance(value, list | tuple) else value

    @field_validator("allow")
    @classmethod
    def _once_each(cls, value: tuple[EgressRule, ...]) -> tuple[EgressRule, ...]:
        rules = [one.compiled() for one in value]
        if len({(rule.name, rule.wildcard, rule.address, rule.port) for rule in rules}) < len(rules):
            raise ValueError("a destination is listed twice")
        if len({rule.port for rule in rules}) > MAX_PORTS:
            raise ValueError(f"more than {MAX_PORTS} different ports")
        return value

    @property
    def active(self) -> bool:
        """Is there a network at all?"""
        return bool(self.allow) or self.mode == "learn"

    @property
    def ports(self) -> tuple[int, ...]:
        """Every TCP port a cell needs a listener on; in learning also those that are commonly wanted."""
        wanted = sorted({one.compiled().port for one in self.allow})
        if self.mode == "learn":
            wanted += [port for port in LEARN_PORTS if port not in wanted][: MAX_PORTS - len(wanted)]
        return tuple(wanted)


def parse_destination(text: str) -> tuple[str, bool, Address | None, int]:
    """Name in A-labels, whether it is a wildcard, address, port. Raises ValueError that does not quote the text."""
    host, colon, digits = text.rpartition(":")
    if not colon or not digits.isascii() or not digits.isdigit() or len(digits) > 5 or not 0 < int(digits) < 65_536:
        raise ValueError("a destination reads host:port, for example api.example.com:443")
    port = int(digits)
    if port == DNS_PORT:
        raise ValueError("names are resolved by Limen; port 53 cannot be opened")
    if host.startswith("[") and host.endswith("]"):
        return "", False, _written_address(host[1:-1], 6), port
    if ":" in host:
        raise ValueError("an IPv6 address stands in brackets: [2001:db8::1]:443")
    if "/" in host:
        raise ValueError("networks cannot be listed, only names and single addresses")
    wildcard = host.startswith("*.")
    bare = host[2:] if wildcard else host
    if "*" in bare:
        raise ValueError("* stands only for what comes before a domain: *.example.org")
    if not wildcard and _NUMERIC.fullmatch(bare.lower().rpartition(".")[2]):
        return "", False, _written_address(bare, 4), port
    name = to_ascii(bare)
    if wildcard and "." not in name:
        raise ValueError("a wildcard needs a domain of at least two labels")
    if name.rpartition(".")[2] == "localhost":
        raise ValueError("write the address of this machine, if that is what is meant")
    return name, wildcard, None, port


def _written_address(text: str, version: int) -> Address:
    """An address in its usual notation and no other."""
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError("an address is written as four decimal numbers, or as IPv6 in brackets") from None
    if address.version != version or "%" in text:
        raise ValueError("an IPv4 address stands without brackets, an IPv6 address without a zone")
    if kind(address) in ("multicast", "unspecified", "embedded"):
        raise ValueError("multicast, unspecified and embedded addresses cannot be destinations")
    return address


def to_ascii(name: str) -> str:
    """A host name in A-labels (RFC 5890), lower case, without a final dot. Raises ValueError."""
    bare = name.removesuffix(".").lower()
    if not bare.isascii():
        if _DEVIATING & set(name):
            raise ValueError("two versions of IDNA read this name differently: write it in its xn-- form")
        try:
            bare = bare.encode("idna").decode("ascii").lower()
        except UnicodeError:
            raise ValueError("not a host name that can be written in ASCII") from None
    labels = bare.split(".")
    if len(bare) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or _NUMERIC.fullmatch(labels[-1]):
        raise ValueError("not a host name")
    return bare


class Rules:
    """Rules, compiled to be asked. An exact name goes before a wildcard, a longer wildcard before a shorter."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._exact: dict[str, dict[int, Rule]] = {}
        self._under: dict[str, dict[int, Rule]] = {}
        self._addresses: dict[tuple[Address, int], Rule] = {}
        for rule in rules:
            if rule.address is not None:
                self._addresses[rule.address, rule.port] = rule
            else:
                (self._under if rule.wildcard else self._exact).setdefault(rule.name, {})[rule.port] = rule

    def of_name(self, name: str) -> dict[int, Rule]:
        """Port -> the rule for this name; empty where none allows it. Which rule holds is settled per port."""
        found: dict[int, Rule] = {}
        for port, rule in self._exact.get(name, {}).items():
            found[port] = rule
        _, _, domain = name.partition(".")
        while domain and self._under:
            for port, rule in self._under.get(domain, {}).items():
                found.setdefault(port, rule)
            _, _, domain = domain.partition(".")
        return found

    def of_address(self, address: Address, port: int) -> Rule | None:
        """The rule that lists exactly this."""
        return self._addresses.get((address, port))

    def by_wildcard(self, name: str) -> bool:
        """Is the name allowed by wildcards only, so that whoever asks chooses what is asked outside?"""
        return name not in self._exact
