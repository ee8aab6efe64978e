"""Handshake-era sessions (2025-11-25 transports): stored, shared by replicas, bounded, mortal (C6, C8).

The table holds the truth; each process believes for a second what it was told, so that a call costs a look into a dict
and the end of a session reaches every replica within a second. A session is never authentication: it is looked up under
the caller whom this request's own token proved.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from limen.core.call import Caller
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.identity import handles
from limen.identity.misuse import MisuseSettings
from limen.identity.session_risk import RiskSettings, Trail

FRESH: Final = 1.0  # seconds for which what the table said is believed
_TOUCH: Final = 8  # the time of last use is written when it is older than an eighth of `idle`
_TRIES: Final = 5
_MEMO: Final = 4096


class SessionSettings(BaseModel):
    """How long sessions live, how many there may be, and what ends them early. Times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    idle: Annotated[float, Field(ge=1, le=86_400)] = 1800.0
    absolute: Annotated[float, Field(ge=1, le=30 * 86_400)] = 86_400.0
    per_caller: Annotated[int, Field(ge=1, le=10_000, description="the oldest gives way")] = 32
    total: Annotated[int, Field(ge=1, le=1_000_000, description="known to one process; the idlest gives way")] = 100_000
    state: Annotated[float, Field(ge=10, le=86_400, description="how long a requestState is good for")] = 600.0
    key_days: Annotated[float, Field(gt=0, le=365, description="days after which the sealing key is replaced")] = 30.0
    geoip: Path | None = Field(default=None, description="a MaxMind DB of places, for impossible travel")
    risk: RiskSettings = RiskSettings()
    misuse: MisuseSettings = MisuseSettings()

    @model_validator(mode="after")
    def _ordered(self) -> SessionSettings:
        if self.idle > self.absolute:
            raise ValueError("idle is not longer than absolute")
        return self


@dataclass(slots=True, eq=False)
class Held:
    """A live session as this process knows it. Times in seconds since the epoch."""

    key: str  # where it lies in the table; says nothing about the id the client holds
    revision: str
    capabilities: bytes  # canonical JSON, as the client declared them
    client: str
    created: float
    used: float
    privileges: str
    trail: Trail
    log_level: str | None = None  # set by logging/setLevel: until then no log messages are passed on
    raw: bytes = b""  # as stored
    stored: float = 0.0  # time of use as stored
    checked: float = 0.0  # when the table was asked last

    def encode(self) -> bytes:
        """As stored."""
        return _fitted(
            orjson.dumps(
                {
                    "rev": self.revision, "caps": self.capabilities.decode(), "client": self.client,
                    "created": self.created, "used": self.used, "priv": self.privileges,
                    "level": self.log_level, "trail": self.trail.plain(),
                }
            )
        )  # fmt: skip


def _fitted(rendered: bytes) -> bytes:
    """A copy: what orjson returns holds on to the 4 KiB it was rendered in."""
    return bytes(memoryview(rendered))


class Sessions:
    """Methods raise DependencyFault when the table does. `on_end` is told the key of each session that ended; `tell`,
    for the log, of each that began, ended, or was not known to this process: what happened, and its members."""

    def __init__(
        self, table: Table, settings: SessionSettings | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self.settings = settings or SessionSettings()
        self._table, self._now = table, now
        self._live: OrderedDict[str, Held] = OrderedDict()  # the idlest first
        self._memo: dict[tuple[object, ...], str] = {}
        self.on_end: Callable[[str], None] = lambda key: None
        self.tell: Callable[[str, dict[str, Any]], None] = lambda act, members: None

    def __len__(self) -> int:
        return len(self._live)

    def open(
        self,
        caller: Caller,
        route: str,
        revision: str,
        capabilities: dict[str, Any],
        client: str,
        trail: Trail,
        ref: str = "",
    ) -> str:
        """The id of a new session of this caller. At a bound the caller's oldest gives way, or the idlest of all."""
        now, prefix = self._now(), handles.prefix(handles.SESSION, caller.key)
        mine = sorted(self._table.scan(prefix), key=lambda row: float(orjson.loads(row[1])["created"]))
        for key, _ in mine[: max(0, len(mine) - self.settings.per_caller + 1)]:
            self.end(key, "too many of this caller")
        while len(self._live) >= self.settings.total:
            self.end(next(iter(self._live)), "too many in all")
        identifier = handles.new_id()
        key = handles.name(handles.SESSION, caller.key, route, identifier)
        declared = _fitted(orjson.dumps(capabilities))
        held = Held(key, revision, declared, client, now, now, self._privileges(caller), trail)
        held.raw, held.stored, held.checked = held.encode(), now, now
        whose = {"iss": caller.issuer, "sub": caller.subject, "client": caller.client, "server": route, "ref": ref}
        self._tell("begun", key, agent=client, revision=revision, **whose)
        self._table.put(key, held.raw, self._expires(held))
        self._live[key] = held
        return identifier

    def find(self, identifier: str, caller: Caller, route: str) -> Held | None:
        """The live session with this id if it is this caller's, with these privileges, on this route; else None.

        A caller whose privileges changed has no session any more: it ends here (rotation, C6).
        """
        held = self._current(handles.name(handles.SESSION, caller.key, route, identifier))
        if held is None:
            return None
        if held.privileges != self._privileges(caller):
            self.end(held.key, "its caller's rights changed")
            return None
        return held

    def alive(self, key: str) -> bool:
        """Whether the session at this key lives; counts as a use of it."""
        return self._current(key) is not None

    def again(self, held: Held) -> Held | None:
        """As the table has it now: somebody else changed it."""
        held.checked = 0.0
        return self._current(held.key)

    def keep(self, held: Held) -> bool:
        """Store what was changed in `held`. False where somebody else changed it meanwhile: see `again`."""
        changed = held.encode()
        if not self._table.swap(held.key, held.raw, changed, self._expires(held)):
            return False
        held.raw, held.stored = changed, held.used
        return True

    def set_level(self, key: str, level: str) -> bool:
        """Remember the lowest level of log messages its client asked for. False when the session is over."""
        for _ in range(_TRIES):
            if (held := self._current(key)) is None:
                return False
            held.log_level = level
            if self.keep(held):
                return True
            held.checked = 0.0
        raise DependencyFault("sessions", "a session kept changing")

    def end(self, key: str, why: str = "ended by its client") -> None:
        """End the session at this key, here and (within a second) in every replica. Unknown keys are ignored."""
        for _ in range(_TRIES):
            stored = self._table.get(key)
            if stored is None or self._table.swap(key, stored, None):
                self._forget(key, why, known=stored is not None)
                return
        raise DependencyFault("sessions", "a session could not be ended: it kept changing")

    def end_all(self, owner: tuple[str, ...], why: str = "all of its caller's were ended") -> int:
        """End every session of (issuer, subject) or (issuer, subject, client). How many there were. Called on the
        gateway's event loop, like all of this."""
        keys = [key for key, _ in self._table.scan(handles.prefix(handles.SESSION, owner))]
        for key in keys:
            self.end(key, why)
        return len(keys)

    def sweep(self) -> None:
        """Let go of what nobody used for long, even if nobody asks for it again. Replicas may have used it since."""
        now = self._now()
        while self._live:
            held = next(iter(self._live.values()))
            if now - held.used <= self.settings.idle and now - held.created <= self.settings.absolute:
                return
            held.checked = 0.0
            if self._current(held.key, use=False) is not None:
                self._live.move_to_end(held.key)

    def _current(self, key: str, use: bool = True) -> Held | None:
        now = self._now()
        held = self._live.get(key)
        if held is None or not 0 <= now - held.checked <= FRESH:
            held = self._load(key, held, now)
            if held is None:
                return None
        settings = self.settings
        if now - held.used > settings.idle or now - held.created > settings.absolute:
            self.end(key, self._over(held, now))
            return None
        if use:
            held.used = now
            self._live.move_to_end(key)
            if now - held.stored > settings.idle / _TOUCH and not self.keep(held):
                return self._load(key, held, now)
        return held

    def _load(self, key: str, known: Held | None, now: float) -> Held | None:
        raw = self._table.get(key)
        if raw is None:
            self._forget(key, self._over(known, now) if known is not None else "")
            return None
        if known is not None and raw == known.raw:
            known.checked = now
            return known
        try:
            row = orjson.loads(raw)
            held = Held(
                key, row["rev"], row["caps"].encode(), row["client"], row["created"], row["used"], row["priv"],
                Trail.read(row["trail"]), row["level"], raw, row["used"], now,
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DependencyFault("sessions", f"a record cannot be read: {error!r}", retryable=False) from None
        if known is not None:
            held.used = max(held.used, known.used)
        if known is None:
            self._tell("resumed", key, agent=held.client, why="begun in another process, or not used for long")
        self._live[key] = held
        while len(self._live) > self.settings.total:  # of another replica: out of mind, not at its end
            self._live.popitem(last=False)
        return held

    def _forget(self, key: str, why: str, known: bool = False) -> None:
        """`known`: it was there until now, if not in this process."""
        held = self._live.pop(key, None)
        if held is not None:
            self.on_end(key)
        if held is not None or known:
            self._tell("ended", key, why=why, **({"agent": held.client} if held is not None else {}))

    def _over(self, held: Held, now: float) -> str:
        """Why it is."""
        if now - held.created > self.settings.absolute:
            return "its time was up"
        return "unused for long" if now - held.used > self.settings.idle else "ended elsewhere"

    def _tell(self, act: str, key: str, **members: Any) -> None:
        self.tell(act, {"session": sha256(key.encode()).hexdigest()[:16], **members})

    def _expires(self, held: Held) -> float:
        """The table may let go then: no replica has written a use that is later than an eighth of `idle` before."""
        settings = self.settings
        return min(held.created + settings.absolute, held.used + settings.idle * (1 + 1 / _TOUCH))

    def _privileges(self, caller: Caller) -> str:
        """Digest of whatever a rule may read of a caller: with more or less of it, it is another session."""
        standing = caller.standing
        found = self._memo.get(standing)
        if found is None:
            plain = [sorted(one) if isinstance(one, frozenset) else one for one in standing]
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            found = self._memo[standing] = sha256(orjson.dumps(plain, default=str)).hexdigest()[:32]
        return found
