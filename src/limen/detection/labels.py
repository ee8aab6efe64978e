"""What reading something does to a caller, and where calling something may carry data: declared, or derived strictly.

Three labels say what a caller has read: `untrusted` (a stranger may have written it), `private` (not for everybody) and
`secret`. A sink says where a call can carry data: nowhere, to a place the operator vouches for, or outside. What nobody
declared is derived so that a mistake asks too often and never too rarely: a server that is not trusted gives
`untrusted`, and what writes, destroys, reaches out or is of unknown effect is an external sink. What a server says
about itself is believed only where it makes matters stricter. Only people declare what is private.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from limen.core.call import Approved

Sink = Literal["none", "internal", "external"]
Glob = Annotated[str, Field(min_length=1, max_length=512)]
_LONGEST: Final = (
    4096  # characters of a value a `where` looks at; what is longer cannot be told, so it is the strictest
)
_REMEMBERED: Final = 10_000
_FORMATS: Final = frozenset({"uri", "uri-reference", "uri-template", "iri", "iri-reference", "url", "hostname"})
_ADDRESS: Final = re.compile(
    r"(?:^|[_\-. ])(?:urls?|uris?|href|links?|endpoints?|webhooks?|hosts?|hostname|domains?|callback)$"
)
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Label(StrEnum):
    """What a caller has read."""

    UNTRUSTED = "untrusted"
    PRIVATE = "private"
    SECRET = "secret"


class LabelRule(BaseModel):
    """For some tools, prompts or resources of a server, with some arguments. Globs (`*`, `?`, `[...]`) ignore case.

    `match`: a tool's or prompt's name, or a resource's URI. `where`: argument -> glob; all must match.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    match: Glob
    where: dict[str, Glob] = {}
    trusted: bool | None = None
    reads: frozenset[Label] | None = None
    sink: Sink | None = None


class LabelSettings(BaseModel):
    """`security.labels` of one server. `reads` comes on top of `untrusted`, which only `trusted: true` takes away.

    Each of `trusted`, `reads` and `sink` is decided by the first rule that matches and states it, else by the server's
    own line, else derived.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    trusted: bool = Field(default=False, description="nobody but people you trust can write what this server returns")
    reads: frozenset[Label] = Field(default=frozenset(), description="what everything this server returns is, besides")
    sink: Sink | None = Field(default=None, description="where calls to this server can carry data")
    rules: tuple[LabelRule, ...] = Field(default=(), max_length=500)


@dataclass(frozen=True, slots=True)
class Marking:
    """What one call does. `why` says how the sink was found, for operators."""

    reads: frozenset[Label]
    sink: Sink
    why: str


@dataclass(frozen=True, slots=True)
class _Rule:
    match: re.Pattern[str]
    where: tuple[tuple[str, re.Pattern[str]], ...]
    settings: LabelRule


class Markings:
    """Every server's declarations, compiled. A server nobody declared anything about has the defaults."""

    def __init__(self, servers: Mapping[str, LabelSettings]) -> None:
        self._servers = dict(servers)
        self._rules = {server: tuple(map(_compiled, settings.rules)) for server, settings in servers.items()}
        self._memory: dict[tuple[str, ...], Marking] = {}

    def of(self, approved: Approved, name: str = "", arguments: Mapping[str, Any] | None = None) -> Marking:
        """What calling or reading this does. `name`: the concrete URI where a template is read."""
        name = name or approved.name
        key = (approved.server, approved.kind, name, approved.digest, approved.effect)
        known = self._memory.get(key)
        if known is not None:
            return known
        rules = [rule for rule in self._rules.get(approved.server, ()) if _matches(rule.match, name)]
        marking = self._find(approved, name, rules, arguments or {})
        if not any(rule.where for rule in rules) and len(name) <= _LONGEST:
            if len(self._memory) >= _REMEMBERED:
                self._memory.pop(next(iter(self._memory)), None)
            self._memory[key] = marking
        return marking

    def private_somewhere(self) -> bool:
        """Whether anything at all is declared private or secret: without that nothing private can be protected."""
        stated = [s.reads for s in self._servers.values()]
        stated += [rule.reads or frozenset() for s in self._servers.values() for rule in s.rules]
        return any(reads & {Label.PRIVATE, Label.SECRET} for reads in stated)

    def _find(self, approved: Approved, name: str, rules: list[_Rule], arguments: Mapping[str, Any]) -> Marking:
        server = self._servers.get(approved.server, _DEFAULT)
        holding: list[LabelRule] = []
        for rule in rules:
            holds = _holds(rule, arguments)
            if holds is None:  # cannot be told: everything any of them says, and the strictest of it
                reads = server.reads.union({Label.UNTRUSTED}, *(one.settings.reads or () for one in rules))
                return Marking(reads, "external", "an argument is too long to be matched")
            if holds:
                holding.append(rule.settings)
        trusted = next((rule.trusted for rule in holding if rule.trusted is not None), server.trusted)
        reads = next((rule.reads for rule in holding if rule.reads is not None), server.reads)
        sink = next((rule.sink for rule in holding if rule.sink is not None), server.sink)
        why = "declared"
        if sink is None:
            sink, why = _derived(approved, name)
        return Marking(reads if trusted else reads | {Label.UNTRUSTED}, sink, why)


_DEFAULT: Final = LabelSettings()


def _compiled(rule: LabelRule) -> _Rule:
    where = tuple((name, _glob(pattern)) for name, pattern in rule.where.items())
    return _Rule(_glob(rule.match), where, rule)


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern.casefold()))


def _matches(pattern: re.Pattern[str], text: str) -> bool:
    """Overlong names match every rule: what they name cannot be told."""
    return len(text) > _LONGEST or pattern.match(text.casefold()) is not None


def _holds(rule: _Rule, arguments: Mapping[str, Any]) -> bool | None:
    """None: a value is too long to tell."""
    for name, pattern in rule.where:
        if name not in arguments:
            return False
        value = arguments[name]
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        if len(text) > _LONGEST:
            return None
        if pattern.match(text.casefold()) is None:
            return False
    return True


def _derived(approved: Approved, name: str) -> tuple[Sink, str]:
    if approved.kind in ("resource", "template"):
        # A template with a web address is a tool that fetches what it is told to.
        far = approved.kind == "template" and name.casefold().startswith(("http:", "https:"))
        return ("external", "a template of web addresses") if far else ("none", "reads")
    if approved.kind != "tool":
        return "none", "reads"
    if approved.effect != "read":
        return "external", f"its effect is {approved.effect}"
    definition = approved.read()
    annotations = definition.get("annotations")
    if isinstance(annotations, dict) and annotations.get("openWorldHint") is True:
        return "external", "it says that it reaches out (openWorldHint)"
    address = _address(definition.get("inputSchema"))
    return ("external", f"the argument {address!r} is an address") if address else ("none", "reads")


def _address(schema: Any) -> str:
    """The first argument that says where to go: a read that can be sent anywhere can carry anything there."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    for name, inner in properties.items() if isinstance(properties, dict) else ():
        if isinstance(inner, dict) and inner.get("format") in _FORMATS:
            return str(name)[:80]
        if _ADDRESS.search(_CAMEL.sub("_", str(name)[:256]).lower()):
            return str(name)[:80]
    return ""
