"""Guard Decoy: tools that exist for one purpose, to be called by somebody who has no business here.

A decoy is listed like a real tool and leads nowhere: no server knows it. Whoever calls it is answered as the policy
answers, and is on record. A real definition of the same name wins: an operator's decoy never takes a tool away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from limen.catalog.snapshot import Catalog
from limen.core.call import Approved, Caller, Context
from limen.core.verdict import Pass, Verdict, refuse

_PASS: Final = Pass()
_NAME: Final = r"^[A-Za-z0-9_.-]{1,128}$"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Whom(_Part):
    """Callers: those of these groups, and those whose subject fits one of these patterns (`*` and `?`)."""

    groups: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()

    def __contains__(self, caller: object) -> bool:
        if not isinstance(caller, Caller):
            return False
        if not caller.groups.isdisjoint(self.groups):
            return True
        return any(fnmatchcase(caller.subject, pattern) for pattern in self.subjects)


class HoneyTool(_Part):
    """A tool that is none."""

    server: str = Field(description="the server in whose list it appears")
    name: str = Field(pattern=_NAME)
    description: str = Field(min_length=1, max_length=2_000, description="worth a thief's while, and nobody else's")
    input_schema: dict[str, Any] = Field(default={"type": "object"}, description="JSON Schema of its arguments")
    shown_to: Whom = Field(default=Whom(subjects=("*",)), description="default: everybody who is not exempt")

    @field_validator("input_schema")
    @classmethod
    def _object(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value.get("type") != "object" or not isinstance(value.get("properties", {}), dict):
            raise ValueError("arguments are an object: type: object, with properties")
        if re.search(r'"\$(ref|dynamicRef)"', orjson.dumps(value).decode()):
            raise ValueError("a decoy's schema refers to nothing")
        return value

    @property
    def approved(self) -> Approved:
        """As it is listed."""
        shape = {"properties": {}, **self.input_schema}
        definition = {"description": self.description, "inputSchema": shape, "name": self.name}
        raw = orjson.dumps(definition, option=orjson.OPT_SORT_KEYS)
        return Approved(self.server, "tool", self.name, sha256(raw).hexdigest(), raw)


class DecoySettings(_Part):
    """Tools and values that nobody has a reason to touch."""

    tools: tuple[HoneyTool, ...] = Field(default=(), max_length=64)
    exempt: Whom = Field(default=Whom(), description="who is shown none, and is not reported: scanners of your own")
    canaries: dict[str, SecretStr] = Field(
        default={}, description="name -> value planted somewhere; see also `limen decoys canary`"
    )

    @property
    def canary_values(self) -> dict[str, str]:
        """The values themselves: for whom looks for them."""
        return {name: value.get_secret_value() for name, value in self.canaries.items()}

    @field_validator("tools")
    @classmethod
    def _once(cls, value: tuple[HoneyTool, ...]) -> tuple[HoneyTool, ...]:
        if len({(one.server, one.name) for one in value}) != len(value):
            raise ValueError("a decoy of this name is there already")
        return value


class Decoy:
    """Guard. Refuses catalog.decoy, or catalog.unknown to those who could not have seen it. `emit` puts it on record;
    when that fails the call is refused all the same."""

    needs = (Caller,)
    gives: tuple[type, ...] = ()

    def __init__(self, settings: DecoySettings, catalog: Catalog, emit: Callable[[Mapping[str, Any]], None]) -> None:
        self._exempt, self._emit = settings.exempt, emit
        # What the catalog knows by this name, whatever its state, is a server's.
        self._tools = {
            (one.server, one.name): (one, one.approved)
            for one in settings.tools
            if catalog.state(one.server, "tool", one.name) == "unknown"
        }

    def check(self, context: Context) -> Verdict:
        if not self._tools:
            return _PASS
        call = context.call
        held = self._tools.get((call.server, call.name)) if call.method == "tools/call" else None
        if held is None:
            return _PASS
        caller = context.get(Caller)
        if caller in self._exempt:
            return refuse("catalog.unknown", "a decoy, called by somebody exempt")
        self._emit(
            {
                "t": "security", "event": "decoy.called", "severity": "critical", "ref": context.reference,
                "iss": caller.issuer, "sub": caller.subject, "client": caller.client, "token": caller.token_id,
                "peer": call.peer.address, "agent": call.client, "server": call.server, "name": call.name,
                "method": call.method, "args": sha256(call.arguments).hexdigest() if call.arguments else "",
            }
        )  # fmt: skip
        shown = caller in held[0].shown_to
        return refuse("catalog.decoy" if shown else "catalog.unknown", "a decoy was called")

    def offered(self, caller: Caller, kind: str, servers: Sequence[str]) -> Iterable[Approved]:
        """Those this caller is shown among what these servers offer."""
        if kind != "tool" or not self._tools or caller in self._exempt:
            return ()
        return [item for one, item in self._tools.values() if one.server in servers and caller in one.shown_to]
