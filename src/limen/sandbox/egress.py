"""May this running server reach that? Every decision about the network of a cell, and the words for it. Pure.

A connection is allowed when its destination was handed out to this very cell as the address of a name, a rule allows
that name on that port, the address is one the rule may lead to, and the client itself says the same name (TLS server
name, or Host). Or when a rule lists the address itself.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import Final

from limen.core.addresses import Address, kind
from limen.sandbox.egress_rules import EgressSettings, Rule, Rules

ANSWER_TTL: Final = 60
PIN_SECONDS: Final = 900.0  # longer than the answer lives: clients keep addresses; each was judged when handed out
LEARN_TTL: Final = 5
MAX_PINS: Final = 4096
HOUR: Final = 3600.0
MAX_BITS: Final = 230.0  # what a name below a wildcard may say; a random UUID says about 130
MAX_BELOW: Final = 100
_SINKS: Final = IPv4Address("192.88.99.1")  # RFC 7526: nobody's any more; looks public to programs that check

REASONS: Final = MappingProxyType(
    {  # why -> for the operator
        "dns.not_allowed": "no rule allows this name",
        "dns.malformed": "a DNS message that cannot be read",
        "dns.type": "records of this type are not answered",
        "dns.rate": "too many DNS questions",
        "dns.names": "too many different names below a wildcard",
        "dns.shape": "the name looks like data being carried out",
        "dns.address": "the name leads to an address that is not public",
        "dns.failed": "the name could not be resolved",
        "connect.unnamed": "the address was not given to this server as that of an allowed name",
        "connect.address": "the address is not public",
        "connect.port": "no rule allows this port of the name",
        "connect.rate": "too many connections in a short time",
        "connect.many": "too many connections at a time",
        "connect.failed": "the destination did not answer",
        "hello.slow": "it did not say in time whom it wants",
        "tls.malformed": "not a TLS hello that can be read",
        "tls.plain": "plain bytes where TLS is expected",
        "tls.unnamed": "the TLS hello names no server",
        "tls.name": "the TLS hello names another server",
        "tls.ech": "the TLS hello hides its destination",
        "http.malformed": "not a request that can be read in one way only",
        "http.host": "the request names another host",
        "http.method": "the rule does not allow this method",
        "http.connect": "CONNECT would open a tunnel",
        "contained.cut": "the network of this server was cut off",
        "contained.unknown": "whether the network of this server was cut off cannot be told",
        "traffic.sent": "more was sent than this hour allows",
        "traffic.received": "more was received than this hour allows",
        "traffic.idle": "nothing was said for too long",
        "traffic.total": "the connection lasted too long",
        "learn.wanted": "noted while learning, and refused",
        "fault.audit": "the log cannot be written",
        "fault.bug": "an error of Limen's own",
    }
)


@dataclass(frozen=True, slots=True)
class Denied:
    """`target` is what was wanted, `detail` what else the operator should know."""

    reason: str
    target: str
    detail: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """A destination that may be reached if the client names it: name -> its rule. "" is the address itself."""

    address: Address
    port: int
    rules: dict[str, Rule]

    @property
    def target(self) -> str:
        """For people."""
        names = [name for name in self.rules if name]
        return f"{names[0] if names else _bracketed(self.address)}:{self.port}"

    def protocol(self, first: int | None = None) -> str:
        """What is to be spoken; where rules differ about it, the first byte tells TLS from HTTP."""
        spoken = {rule.protocol for rule in self.rules.values()}
        if "tcp" in spoken:
            return "tcp"
        if len(spoken) == 1:
            return spoken.pop()
        return "tls" if first == 22 else "http"


@dataclass(slots=True)
class Window:
    """A number per hour. The hour begins with the first use after the last one ended."""

    limit: int
    began: float = -HOUR
    used: int = 0

    def take(self, count: int, now: float) -> bool:
        """Count this. False: the limit is passed."""
        if now - self.began >= HOUR:
            self.began, self.used = now, 0
        self.used += count
        return self.used <= self.limit


@dataclass(slots=True)
class Bucket:
    """A number per second, with five seconds' worth in hand."""

    rate: int
    level: float = 0.0
    at: float = -1e9

    def take(self, now: float) -> bool:
        """One more. False: too many."""
        self.level = min(5.0 * self.rate, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


@dataclass(slots=True)
class Memory:
    """What one running cell was told and has used. Nothing of it outlives the cell."""

    sent: Window
    received: Window
    questions: Bucket
    opened: Bucket
    names: Window
    pins: OrderedDict[Address, dict[str, float]] = field(default_factory=OrderedDict)
    known: OrderedDict[str, None] = field(default_factory=OrderedDict)
    sinks: OrderedDict[str, IPv4Address] = field(default_factory=OrderedDict)

    def pin(self, name: str, addresses: Sequence[Address], now: float) -> None:
        """These were handed out as addresses of this name."""
        for address in addresses:
            self.pins.setdefault(address, {})[name] = now + PIN_SECONDS
            self.pins.move_to_end(address)
        while len(self.pins) > MAX_PINS:
            self.pins.popitem(last=False)

    def names_of(self, address: Address, now: float) -> list[str]:
        """Names this address was handed out for, the latest first."""
        found = self.pins.get(address, {})
        return sorted((name for name, until in found.items() if until > now), key=lambda name: -found[name])

    def sink(self, name: str) -> IPv4Address:
        """An address that leads nowhere, to see on which port a refused name is wanted."""
        if name not in self.sinks:
            taken = self.sinks.popitem(last=False)[1] if len(self.sinks) >= 250 else _SINKS + len(self.sinks)
            self.sinks[name] = taken
        return self.sinks[name]

    def sunk(self, address: Address) -> str:
        """The name an address of `sink` stands for, or ""."""
        return next((name for name, sink in self.sinks.items() if sink == address), "")


class Egress:
    """The decisions for one configured server. State is in the Memory of each of its cells.

    `own` tells whether an address is one of this machine's: behind a public address of ours may be what trusts us.
    """

    def __init__(
        self, server: str, settings: EgressSettings, own: Callable[[Address], bool] = lambda address: False
    ) -> None:
        self.server, self.settings, self._own = server, settings, own
        self.rules = tuple(one.compiled() for one in settings.allow)
        self.learning = settings.mode == "learn"
        self._rules = Rules(self.rules)

    def memory(self) -> Memory:
        """For a new cell."""
        limits = self.settings.limits
        sent, received = Window(limits.sent), Window(limits.received)
        return Memory(sent, received, Bucket(limits.questions), Bucket(limits.opened), Window(limits.names))

    # names

    def question(self, name: str, memory: Memory, now: float) -> Denied | None:
        """May this name be looked up outside? What is asked outside can be read by whoever answers for the domain."""
        rules = self._rules.of_name(name)
        if not rules:
            return Denied("dns.not_allowed", name)
        if not self._rules.by_wildcard(name):
            return None
        rule = max(rules.values(), key=lambda one: len(one.name))
        below = name.removesuffix(f".{rule.name}")
        if data_like(below):
            return Denied("dns.shape", name, f"{len(below)} characters below {rule.name}", rule.text)
        if name in memory.known:
            memory.known.move_to_end(name)
            return None
        if not memory.names.take(1, now):
            return Denied("dns.names", name, f"the limit is {memory.names.limit} an hour", rule.text)
        memory.known[name] = None
        while len(memory.known) > MAX_PINS:
            memory.known.popitem(last=False)
        return None

    def usable(self, name: str, addresses: Sequence[Address]) -> tuple[list[Address], str]:
        """Those of the resolved addresses any rule of the name may lead to; and what was wrong with another."""
        rules = self._rules.of_name(name).values()
        kept = [one for one in addresses if any(self._leads(rule, one) for rule in rules)]
        odd = next((f"{one} ({self._kind(one)})" for one in addresses if one not in kept), "")
        return kept, odd

    def _kind(self, address: Address) -> str:
        what = kind(address)
        return "of this machine" if what in ("", "private") and self._own(address) else what

    def _leads(self, rule: Rule, address: Address) -> bool:
        what = self._kind(address)
        if not what or (what == "private" and rule.allow_private):
            return True
        return self._rules.of_address(address, rule.port) is not None

    # connections

    def connect(self, address: Address, port: int, memory: Memory, now: float) -> Route | Denied:
        """May a connection to this address begin? Judged anew although the address was judged when handed out."""
        literal = self._rules.of_address(address, port)
        found = {"": literal} if literal is not None else {}
        names, barred = memory.names_of(address, now), False
        for name in names:
            rule = self._rules.of_name(name).get(port)
            if rule is not None and self._leads(rule, address):
                found[name] = rule
            barred = barred or rule is not None
        if found:
            return Route(address, port, found)
        target = f"{_bracketed(address)}:{port}"
        if names and not barred:
            return Denied("connect.port", f"{names[0]}:{port}", str(address))
        if name := memory.sunk(address):
            return Denied("learn.wanted", f"{name}:{port}")
        if what := self._kind(address):
            return Denied("connect.address", target, what)
        return Denied("connect.unnamed", target)

    def others(self, route: Route, name: str, memory: Memory, now: float) -> list[Address]:
        """Where else this may be reached: addresses handed out for the same name, judged like the first."""
        wanted = [one for one, names in memory.pins.items() if name in names and one != route.address] if name else []
        routes = [(one, self.connect(one, route.port, memory, now)) for one in wanted]
        return [one for one, found in routes if isinstance(found, Route) and name in found.rules]

    def tls(self, route: Route, name: str, encrypted: bool) -> Rule | Denied:
        """The hello names `name`, "" for none."""
        if name not in route.rules:
            reason = "tls.name" if name else "tls.unnamed"
            return Denied(reason, route.target, f"it names {name}" if name else "")
        rule = route.rules[name]
        if encrypted and not self.settings.unsafe_ech:
            return Denied("tls.ech", route.target, "", rule.text)
        if rule.protocol != "tls":
            return Denied("tls.malformed", route.target, f"the rule is for {rule.protocol}", rule.text)
        return rule

    def http(self, route: Route, method: str, host: str, port: int | None) -> Rule | Denied:
        """One request: `host` and `port` as its Host says."""
        literal = route.rules.get("")
        rule = route.rules.get(host) if host else None
        if rule is None and literal is not None and host == str(route.address):
            rule = literal
        if rule is None or (port is not None and port != route.port):
            return Denied("http.host", route.target, f"it names {host}" + (f":{port}" if port is not None else ""))
        if method not in rule.methods:
            return Denied("http.method", route.target, method, rule.text)
        if rule.protocol != "http":
            return Denied("http.malformed", route.target, f"the rule is for {rule.protocol}", rule.text)
        return rule

    def explain(self, name: str, address: Address | None, port: int) -> Rule | Denied:
        """What would be decided, as far as it can be told without a connection. Looks nothing up."""
        memory = self.memory()
        if address is not None:
            route = self.connect(address, port, memory, 0.0)
            return route if isinstance(route, Denied) else next(iter(route.rules.values()))
        if denied := self.question(name, memory, 0.0):
            return denied
        return self._rules.of_name(name).get(port) or Denied("connect.port", f"{name}:{port}")

    # words

    def say(self, denied: Denied) -> str:
        """One line for the operator: which server, what, why, and what to do if it should be allowed."""
        detail = f" ({denied.detail})" if denied.detail else ""
        rule = f", rule {denied.rule}" if denied.rule else ""
        return f"{self.server}: {denied.target} refused{rule}: {REASONS[denied.reason]}{detail}. {self.remedy(denied)}"

    def remedy(self, denied: Denied) -> str:
        """What an operator does about it."""
        place, target = f"mcpServers.{self.server}.security.egress", denied.target
        match denied.reason:
            case "dns.not_allowed":
                return f'To allow it, add "{target}:PORT" to {place}; with mode: learn the port is found out'
            case "connect.port" | "learn.wanted":
                return f'To allow it, add "{target}" to {place}'
            case "connect.unnamed" | "connect.address":
                return f'If it must be reached by its address, add "{target}" to {place}'
            case "dns.address":
                return f'If this is wanted, write {{to: "{target}:PORT", allow_private: true}} in {place}'
            case "tls.plain" | "tls.malformed":
                return f"If this is not TLS, write the rule in {place} with protocol: http or tcp"
            case "http.malformed":
                return f"If this is not plain HTTP, write the rule in {place} with protocol: tls or tcp"
            case "http.method":
                return f"To allow it, add it to the rule's methods in {place}"
            case "tls.ech":
                return f"Where the true destination need not be known, set unsafe_ech: true in {place}"
            case "tls.name" | "http.host" | "tls.unnamed":
                return f"A name it should reach needs a rule in {place}, and to be asked for by that name"
            case "dns.rate" | "dns.names" | "connect.rate" | "connect.many" | "hello.slow":
                return f"More is set in {place}: limits"
            case "contained.cut":
                return "It is given back with: limen contain release"
            case reason if reason.startswith("traffic."):
                return f"More is set in {place}: limits"
        return "There is nothing to allow here"


def data_like(below: str) -> bool:
    """Does what stands before a domain say more than a name would? Estimated by the entropy of its characters."""
    text = below.replace(".", "")
    if len(below) > MAX_BELOW or below.count(".") > 5:
        return True
    total = len(text)
    bits = -sum(count * math.log2(count / total) for count in Counter(text).values())
    return bits > MAX_BITS


def _bracketed(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)
