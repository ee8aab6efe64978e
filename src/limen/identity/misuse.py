"""Signs that tokens are misused, told from what refusals and uses have in common (B8).

Counts are kept in memory, bounded, by network or by caller; what is raised names neither tokens nor their ids. An alert
of one kind about one party is raised once per `quiet` seconds, and at most `MOST` alerts a minute leave this process:
the next one says how many were held back.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from limen.core.call import Call, Caller, Context
from limen.core.verdict import Permit
from limen.identity.session_risk import network

Raise = Callable[[dict[str, Any]], None]  # an audit event; may raise DependencyFault
MOST: Final = 60
_MINUTE: Final = 60.0


class MisuseSettings(BaseModel):
    """How many refusals within `window` seconds are a burst; 0 turns one kind off."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    window: Annotated[float, Field(gt=0, le=3600)] = 60.0
    quiet: Annotated[float, Field(ge=1, le=86_400, description="seconds before the same alert is raised again")] = 300.0
    audience: Annotated[int, Field(ge=0, le=10_000, description="tokens for somebody else, from one network")] = 5
    expired: Annotated[int, Field(ge=0, le=10_000, description="expired tokens, from one network")] = 10
    invalid: Annotated[int, Field(ge=0, le=10_000, description="tokens that are not valid, from one network")] = 20
    revoked: Annotated[int, Field(ge=0, le=10_000, description="revoked tokens, from one network")] = 1
    handles: Annotated[int, Field(ge=0, le=10_000, description="sessions and states not the caller's own")] = 5
    networks: bool = Field(default=True, description="one token used from two networks in turn")
    remembered: Annotated[int, Field(ge=16, le=1_000_000, description="parties and tokens kept in mind")] = 10_000


@dataclass(frozen=True, slots=True)
class _Burst:
    event: str
    setting: str
    severity: str
    of_caller: bool = False


_BURSTS: Final = MappingProxyType(
    {  # reason of a refusal -> what many of them mean
        "identity.audience": _Burst("token.wrong_audience", "audience", "warning"),
        "identity.expired": _Burst("token.expired_burst", "expired", "notice"),
        "identity.invalid": _Burst("token.invalid_burst", "invalid", "warning"),
        "identity.revoked": _Burst("token.revoked_use", "revoked", "error"),
        "identity.session": _Burst("handle.probing", "handles", "warning", of_caller=True),
        "identity.state": _Burst("handle.probing", "handles", "warning", of_caller=True),
    }
)


@dataclass(slots=True)
class _Use:
    """The networks one token was used from last, one after the other."""

    address: str
    network: str
    before: str = ""
    left: float = 0.0  # when `before` was left


class Misuse:
    """Watches uses and refusals. `emit` gets each alert as an audit event without its time."""

    def __init__(
        self,
        settings: MisuseSettings,
        emit: Raise,
        now: Callable[[], float] = time.time,
        network: Callable[[str], str] = network,
    ) -> None:
        self.settings = settings
        self._emit, self._now, self._network = emit, now, network
        self._refused: OrderedDict[tuple[str, str], deque[tuple[float, int]]] = OrderedDict()
        self._tokens: OrderedDict[tuple[str, str, bool], _Use] = OrderedDict()
        self._raised: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._minute: deque[float] = deque()
        self._held_back = 0

    def used(self, caller: Caller, address: str) -> None:
        """A token was accepted. Two networks in turn, not one after the other, are two users."""
        if not address or not self.settings.networks:
            return
        key = (caller.issuer, caller.token_id, ":" in address)  # a device may have an address of each family
        use = self._tokens.get(key)
        if use is not None and use.address == address:
            return
        here, now = self._network(address), self._now()
        if use is None:
            self._tokens[key] = _Use(address, here)
            while len(self._tokens) > self.settings.remembered:
                self._tokens.popitem(last=False)
            return
        use.address = address
        if use.network == here:
            return
        returned = use.before == here and now - use.left <= self.settings.window
        use.before, use.left, use.network = use.network, now, here
        self._tokens.move_to_end(key)
        if returned:
            self._alert(
                "token.two_networks", "error", f"{caller.issuer} {caller.token_id}", iss=caller.issuer,
                sub=caller.subject, client=caller.client, networks=sorted((use.before, here)),
            )  # fmt: skip

    def refused(self, reason: str, context: Context | Permit) -> None:
        """A call was refused for this reason."""
        burst = _BURSTS.get(reason)
        if burst is None:
            return
        limit = getattr(self.settings, burst.setting)
        if not limit:
            return
        caller, address = context.find(Caller), context.call.peer.address
        here = self._network(address)
        party = "\0".join(caller.key) if burst.of_caller and caller is not None else here
        now, key = self._now(), (burst.event, party)
        times = self._refused.get(key)
        if times is None:
            times = self._refused[key] = deque(maxlen=limit)
            while len(self._refused) > self.settings.remembered:
                self._refused.popitem(last=False)
        self._refused.move_to_end(key)
        handle = hash(_presented(reason, context.call))
        if handle and any(handle == other for _, other in times):
            return  # many calls of one session that ended are one mistake: who probes has many handles
        times.append((now, handle))
        if len(times) == limit and now - times[0][0] <= self.settings.window:
            who = {"iss": caller.issuer, "sub": caller.subject, "client": caller.client} if caller is not None else {}
            self._alert(burst.event, burst.severity, party, network=here, count=limit, **who)

    def alert(self, event: str, severity: str, party: str, **members: Any) -> None:
        """Raise an alert found elsewhere, under the same limits. `party`: whom it is about."""
        self._alert(event, severity, party, **members)

    def _alert(self, event: str, severity: str, party: str, **members: Any) -> None:
        now, key = self._now(), (event, party)
        last = self._raised.get(key)
        if last is not None and 0 <= now - last < self.settings.quiet:
            return
        while self._minute and not 0 <= now - self._minute[0] < _MINUTE:
            self._minute.popleft()
        if len(self._minute) >= MOST:
            self._held_back += 1
            return
        self._minute.append(now)
        self._raised[key] = now
        self._raised.move_to_end(key)
        while len(self._raised) > self.settings.remembered:
            self._raised.popitem(last=False)
        if self._held_back:
            members["held_back"], self._held_back = self._held_back, 0
        self._emit({"t": "security", "event": event, "severity": severity, **members})


def _presented(reason: str, call: Call) -> str:
    """The handle that was not the caller's own; "" where it is none."""
    return {"identity.session": call.session, "identity.state": call.request_state}.get(reason) or ""
