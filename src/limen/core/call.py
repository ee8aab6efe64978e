"""What is asked, by whom, and the facts proven so far. All of it immutable."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar, cast

import jiter

Fact = TypeVar("Fact")


class Era(Enum):
    """HANDSHAKE: initialize and sessions (2025-03-26 to 2025-11-25). MODERN: self-contained requests (2026-07-28)."""

    HANDSHAKE = "handshake"
    MODERN = "modern"


class Peer(NamedTuple):
    """What the transport knows of the other side. `address` is the socket's; a header's only where the socket's is a
    proxy the configuration trusts."""

    transport: str  # "http" | "stdio"
    address: str = ""
    user_agent: str = ""
    origin: str = ""


_SOMEBODY: Final = Peer("http")


@dataclass(frozen=True, slots=True)
class Call:
    """One parsed request or notification. What is sent upstream is rendered from this and from nothing else.

    Values that have members of their own are kept as canonical JSON bytes; `read()` gives each reader a copy of its
    own, so no reader can change what the next one judges.
    """

    method: str
    server: str  # the server that is meant; "" where a call on the bundle names none
    route: str  # the endpoint it came in on: a server's name, or "" for the bundle of all servers
    era: Era
    revision: str
    id: str | int | None = None  # None: a notification
    name: str = ""  # tool or prompt name, resource URI, completion reference; "" where the method names nothing
    arguments: bytes = b""  # canonical JSON object; b"" where absent
    rest: bytes = b""  # canonical JSON of the other members this method may carry
    progress_token: str | int | None = None
    trace: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # W3C traceparent and tracestate
    capabilities: bytes = b"{}"
    log_level: str | None = None  # lowest level of log messages the client asked for with this call
    client: str = ""  # unverified name and version: for logs only
    cursor: str | None = None
    session: str | None = None  # as presented; bound or refused by BindSession
    request_state: str | None = None
    input_responses: bytes = b""
    param_headers: tuple[tuple[str, str], ...] = ()  # Mcp-Param-* as presented, lower-case names
    peer: Peer = _SOMEBODY

    def read_arguments(self) -> dict[str, Any]:
        """A fresh copy of the arguments."""
        return cast("dict[str, Any]", jiter.from_json(self.arguments)) if self.arguments else {}

    def read_rest(self) -> dict[str, Any]:
        """A fresh copy of the remaining members."""
        return cast("dict[str, Any]", jiter.from_json(self.rest)) if self.rest else {}

    def read_capabilities(self) -> dict[str, Any]:
        """A fresh copy of what the client declared it can do."""
        return cast("dict[str, Any]", jiter.from_json(self.capabilities)) if self.capabilities != b"{}" else {}


@dataclass(frozen=True, slots=True)
class Presented:
    """The credential as it came in. It lives in the Context only: a Permit has no way to reach it (B1)."""

    authorization: tuple[bytes, ...] = field(default=(), repr=False)
    resource: str = ""  # canonical URI of the resource the request was addressed to
    local_user: str = ""  # operating-system user of a stdio client
    method: str = ""  # HTTP method of the request: what a proof of possession must name
    proofs: tuple[bytes, ...] = field(default=(), repr=False)  # values of the DPoP header (RFC 9449)
    api_keys: tuple[bytes, ...] = field(default=(), repr=False)  # values of X-API-Key
    certificate: str = ""  # SHA-256 of the client certificate whose key the TLS peer proved, base64url (RFC 8705)
    private: bool = False  # came over TLS, or never left this machine


@dataclass(frozen=True, slots=True)
class Binding:
    """What a token is bound to (RFC 7800 `cnf`): every part that is not empty must be proven with each request."""

    jkt: str = ""  # RFC 7638 thumbprint of a DPoP key (RFC 9449 section 6.1)
    x5t: str = ""  # SHA-256 of a client certificate (RFC 8705 section 3.1)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of proof that are asked for."""
        return frozenset(kind for kind, value in (("dpop", self.jkt), ("mtls", self.x5t)) if value)


@dataclass(frozen=True, slots=True)
class Caller:
    """Fact: who is calling. Holds claims, never the token."""

    issuer: str
    subject: str
    client: str = ""
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    amr: frozenset[str] = frozenset()
    acr: str = ""
    auth_time: int | None = None
    expires: float = 0.0  # seconds since the epoch; 0: does not expire (local users)
    token_id: str = ""  # `jti`, or a digest: for audit and revocation
    claims: str = "{}"  # other claims, canonical JSON
    binding: Binding | None = None  # None: whoever holds the credential may use it
    machine: bool = False  # nobody signed in for this: a program on its own account
    device: str = ""  # how far the issuer trusts the device, in the issuer's words
    risk: str = ""  # the issuer's level of risk, in lower case; levels that are not accepted never get here
    contexts: frozenset[str] = frozenset()  # authentication contexts fulfilled besides `acr` (Entra's `acrs`)
    facts: tuple[tuple[str, str], ...] = ()  # claims the operator gave names to, in order of name
    issued: float = 0.0  # seconds since the epoch; 0: the credential does not say
    key_id: str = ""  # `kid` of the key that signed the token, or the id of an API key: for revocation

    @property
    def mfa(self) -> bool:
        """RFC 8176: the token says that more than one factor was used."""
        return bool(self.amr & {"mfa", "otp", "hwk", "swk", "fpt", "face", "pop", "sc"}) and (
            "mfa" in self.amr or len(self.amr) > 1
        )

    @property
    def key(self) -> tuple[str, str, str]:
        """What handles are bound to."""
        return (self.issuer, self.subject, self.client)

    @property
    def provider(self) -> str:
        """Who the person signed in at, where the token's issuer only stands in front of it (`idp`); else ""."""
        others = jiter.from_json(self.claims.encode()) if '"idp"' in self.claims else None
        named = others.get("idp") if isinstance(others, dict) else None
        return named if isinstance(named, str) else ""

    @property
    def standing(self) -> tuple[object, ...]:
        """Everything a policy can read of a caller: two callers of equal standing are shown the same."""
        return (
            *self.key,
            self.scopes,
            self.roles,
            self.groups,
            self.amr,
            self.acr,
            self.machine,
            self.device,
            self.risk,
            self.contexts,
            self.facts,
        )


@dataclass(frozen=True, slots=True)
class FlowState:
    """Fact: what this caller has read, as far as rules ask. What is secret is private as well."""

    untrusted: bool = False
    private: bool = False
    secret: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Those that hold."""
        return tuple(name for name in self.__slots__ if getattr(self, name))


NOTHING_READ: Final = FlowState()


@dataclass(frozen=True, slots=True)
class Approved:
    """Fact: the one approved definition this call names. `effect` is ours, as approved, not the server's claim."""

    server: str
    kind: str  # "tool" | "prompt" | "resource" | "template"
    name: str  # as the server knows it
    digest: str  # sha256 of the canonical definition
    definition: bytes  # canonical JSON as approved
    effect: str = "unknown"  # "read" | "write" | "destructive" | "unknown"
    durable: bool = False  # the intent must be on disk before this is forwarded
    drifted: bool = False  # the server now announces something else

    def read(self) -> dict[str, Any]:
        """A fresh copy of the approved definition."""
        return cast("dict[str, Any]", jiter.from_json(self.definition))


@dataclass(frozen=True, slots=True)
class Grant:
    """Fact: which rules allow this call, under which policy, and what they require on top."""

    rules: tuple[str, ...]
    policy: str  # digest of the policy in force
    requires: frozenset[str] = frozenset()  # "approval", "mfa", "durable"


@dataclass(frozen=True, slots=True)
class Inspected:
    """Fact: the content was looked at. `risk` 0..1 and ids of what was found, never the text. With `ask` a person must
    approve although no rule asks for it."""

    risk: float = 0.0
    findings: tuple[str, ...] = ()
    ask: bool = False


@dataclass(frozen=True, slots=True)
class Cleared:
    """Fact: what this caller has read may go where this call leads. `findings`: rules that had something to say; with
    `ask` a person must approve."""

    findings: tuple[str, ...] = ()
    ask: bool = False


@dataclass(frozen=True, slots=True)
class Weighed:
    """Fact: all that is suspicious about this call, fused into one `risk` 0..1. `parts`: what each source brings by
    itself, strongest first; `because`: ids of the events behind it. With `ask` a person must approve; with `closely`
    the intent is on disk before the call goes on."""

    risk: float = 0.0
    parts: tuple[tuple[str, float], ...] = ()
    because: tuple[str, ...] = ()
    ask: bool = False
    closely: bool = False


@dataclass(frozen=True, slots=True)
class Approval:
    """Fact: nobody had to be asked (`id` is empty), or a person said yes to exactly this call."""

    id: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Protected:
    """Fact: what the server need not know is covered. `arguments`: canonical JSON that is sent in place of the call's
    own; empty: nothing had to be covered."""

    arguments: bytes = field(default=b"", repr=False)

    def over(self, call: Call) -> Call:
        """The call as it is sent."""
        return replace(call, arguments=self.arguments) if self.arguments else call


@dataclass(frozen=True, slots=True)
class UpstreamCredential:
    """Fact: what this upstream gets to see. An empty tuple is the explicit "nothing"."""

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    kind: str = "headers"  # how it was come by, for the audit: "headers" are configured
    account: str = ""  # whom it speaks for, the same when it was renewed; "": the headers say it all
    place: str = ""  # the one URL it may be sent to; "": the server the headers are configured for


@dataclass(frozen=True, slots=True)
class Session:
    """Fact: what this call continues. `id`: our own name of its handshake-era session (never the id its client holds),
    or empty. `state`: the server's own requestState, opened from the sealed one the client presented; `suspended`: a
    call of ours that waits for input; `spends`: what is used up when the call goes ahead, remembered until then."""

    id: str = ""
    state: str | None = None
    suspended: str = ""
    log_level: str | None = None  # lowest level of log messages its client asked for
    capabilities: bytes = b"{}"  # canonical JSON: what its client declared when the session began
    spends: str = ""
    spends_until: float = 0.0  # seconds since the epoch


class Context:
    """A call, its presented credential, its deadline, and what has been proven. Facts are keyed by their type.

    Guards can only read it. The chain adds the facts they establish, each once.
    """

    __slots__ = ("_facts", "call", "deadline", "presented", "reference")

    def __init__(
        self,
        call: Call,
        presented: Presented,
        deadline: float,
        reference: str,
        facts: Mapping[type, object] | None = None,
    ) -> None:
        self._facts: dict[type, Any]  # each is of the type it stands under
        self.call: Call
        self.presented: Presented
        self.deadline: float
        self.reference: str
        _SET_CALL(self, call)
        _SET_PRESENTED(self, presented)
        _SET_DEADLINE(self, deadline)  # time.monotonic() seconds
        _SET_REFERENCE(self, reference)  # correlation id shown to the client on refusal
        _SET_FACTS(self, dict(facts) if facts else {})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Context is immutable: {name}")

    def having(self, facts: tuple[object, ...]) -> Context:
        """A new context with these facts added. Raises TypeError: a fact once established cannot be replaced."""
        context = Context(self.call, self.presented, self.deadline, self.reference, self._facts)
        if facts:
            context._establish(tuple(map(type, facts)), facts)
        return context

    def _establish(self, kinds: tuple[type, ...], facts: tuple[object, ...]) -> None:
        """For `core.chain` alone, on a context of its own. Raises TypeError unless there is one new fact of each."""
        known = self._facts
        if len(facts) == 1:  # what nearly every guard that establishes anything establishes
            fact = facts[0]
            kind = type(fact)
            if kinds == (kind,) and kind not in known:
                known[kind] = fact
                return
        new = {type(fact): fact for fact in facts}
        if not len(new) == len(facts) == len(kinds) or new.keys() != set(kinds) or not known.keys().isdisjoint(new):
            raise TypeError(f"not one new fact of each: {', '.join(kind.__name__ for kind in kinds)}")
        known.update(new)

    def get(self, kind: type[Fact]) -> Fact:
        """The fact of this type. Raises KeyError when it was not established: the chain turns that into a refusal."""
        fact: Fact = self._facts[kind]
        return fact

    def find(self, kind: type[Fact]) -> Fact | None:
        """The fact of this type, or None."""
        fact: Fact | None = self._facts.get(kind)
        return fact

    @property
    def facts(self) -> Mapping[type, object]:
        """Read-only view of what has been proven."""
        return MappingProxyType(self._facts)

    @property
    def remaining(self) -> float:
        """Seconds until the call's deadline."""
        return self.deadline - time.monotonic()


# The setters of the slots themselves: a context is made twice for every call, and these take two thirds of the time
# that `object.__setattr__` takes (0.5 us instead of 0.8).
_SET_CALL, _SET_PRESENTED, _SET_DEADLINE, _SET_REFERENCE, _SET_FACTS = (
    getattr(Context, name).__set__ for name in ("call", "presented", "deadline", "reference", "_facts")
)
