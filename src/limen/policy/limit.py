"""Guards Limit and Spend: how often, how much and what for, for each caller, client, tool and server.

Limit stands early: what one caller or client may ask in a second. Spend stands last: what a server, a tool and a day
allow is taken only from calls that are about to be made, so a stranger cannot use up what others are entitled to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from limen.core.call import Approved, Caller, Context
from limen.core.ports import Counter, Quota, Taken
from limen.core.verdict import Pass, Refuse, Verdict, refuse
from limen.policy.shares import Shares

_PASS = Pass()
DAY: Final = 86_400


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Daily(_Part):
    """Budgets of one day (UTC): calls, bytes of what is sent, and cost (see `tools`)."""

    calls: int | None = Field(default=None, ge=1, le=10**12)
    bytes: int | None = Field(default=None, ge=1, le=10**15)
    cost: int | None = Field(default=None, ge=1, le=10**12)


class Bounds(_Part):
    """Of one caller, client, server, or of what a pattern names. What is left out is not limited."""

    rate: float | None = Field(default=None, gt=0, le=1_000_000, description="calls a second in the long run")
    burst: int | None = Field(
        default=None, ge=1, le=1_000_000, description="calls at once; default: two seconds' worth"
    )
    concurrency: int | None = Field(default=None, ge=1, le=100_000, description="calls under way")
    bytes: int | None = Field(default=None, ge=2, le=2**31, description="of the arguments of one call")
    daily: Daily = Daily()

    @model_validator(mode="after")
    def _burst_of_a_rate(self) -> Bounds:
        if self.burst is not None and self.rate is None:
            raise ValueError("burst needs a rate")
        return self

    @property
    def quota(self) -> Quota | None:
        """The bucket of `rate` and `burst`."""
        if self.rate is None:
            return None
        return Quota(float(self.burst or max(1, math.ceil(self.rate * 2))), self.rate)


class ToolBounds(Bounds):
    """Of everything a pattern names together. `cost` of one call counts against daily cost budgets."""

    cost: int = Field(default=1, ge=0, le=10**9)


class LimitSettings(_Part):
    """`rate` calls a second in the long run, `burst` at once, for each caller; at most `callers` are remembered, the
    idlest go first. `caller` and `client` hold for each of them, `servers` and `tools` for all callers together."""

    rate: float = Field(default=100.0, gt=0, le=1_000_000)
    burst: int = Field(default=200, ge=1, le=1_000_000)
    callers: int = Field(default=10_000, ge=1, le=1_000_000)
    caller: Bounds = Bounds(concurrency=64)
    client: Bounds = Bounds()
    servers: dict[str, Bounds] = Field(default={}, description="server -> bounds")
    tools: dict[str, ToolBounds] = Field(default={}, description="server/name, * and ? as in rules -> bounds")

    @property
    def of_caller(self) -> Quota:
        """The bucket of each caller."""
        return self.caller.quota or Quota(float(self.burst), self.rate)


class Step(NamedTuple):
    """One thing to take: from which bucket, how much, and what running out of it is called."""

    key: str
    amount: float
    quota: Quota
    reason: str
    what: str
    told: Callable[[str, float], None] | None = None  # hears what is left


Steps = Iterator[tuple[Counter, Step]]


def walk(steps: Steps, taken: list[tuple[Counter, Step]] | None = None) -> Verdict | Awaitable[Verdict]:
    """Take one after the other; give back what was taken when one refuses. Raises DependencyFault."""
    taken = [] if taken is None else taken
    for counter, step in steps:
        answer = counter.take(step.key, step.amount, step.quota)
        if not isinstance(answer, Taken):
            return _walk_on(answer, counter, step, steps, taken)
        _tell(step, answer)
        if answer.granted <= 0:
            return _given_back(_refused(step, answer), taken)
        taken.append((counter, step))
    return _PASS


async def _walk_on(
    pending: Awaitable[Taken], counter: Counter, step: Step, steps: Steps, taken: list[tuple[Counter, Step]]
) -> Verdict:
    answer = await pending
    _tell(step, answer)
    verdict: Any = _given_back(_refused(step, answer), taken) if answer.granted <= 0 else None
    if verdict is None:
        taken.append((counter, step))
        verdict = walk(steps, taken)
    return verdict if isinstance(verdict, Pass | Refuse) else await verdict


def _tell(step: Step, answer: Taken) -> None:
    if step.told is not None:
        step.told(step.key, answer.left)


def _given_back(refusal: Refuse, taken: list[tuple[Counter, Step]]) -> Verdict | Awaitable[Verdict]:
    pending = [counter.take(step.key, -step.amount, step.quota) for counter, step in taken]
    waiting = [one for one in pending if not isinstance(one, Taken)]
    return _after(refusal, waiting) if waiting else refusal


async def _after(refusal: Refuse, waiting: list[Awaitable[Taken]]) -> Verdict:
    for one in waiting:
        await one
    return refusal


def _refused(step: Step, answer: Taken) -> Refuse:
    wait = 1 if math.isinf(answer.wait) else max(1, math.ceil(answer.wait))
    return refuse(step.reason, f"{step.what} of {step.key}", retry_after=wait)


class Limit:
    """Refuses `policy.limit` with the seconds to wait. A bucket belongs to issuer and subject.

    The client is left out of a caller's bucket on purpose: with open client registration a caller could have as many
    as it likes.
    """

    needs = (Caller,)
    gives: tuple[type, ...] = ()

    def __init__(self, settings: LimitSettings, rates: Counter) -> None:
        self._rates, self._caller, self._client = rates, settings.of_caller, settings.client.quota

    def check(self, context: Context) -> Verdict | Awaitable[Verdict]:
        """Take one token, or say when there will be one."""
        caller = context.get(Caller)
        if self._client is not None:
            return walk(self._steps(caller, self._client))
        answer = self._rates.take(f"caller|{caller.issuer}|{caller.subject}", 1.0, self._caller)
        if not isinstance(answer, Taken):
            return self._later(answer)
        return _PASS if answer.granted else self._refused(answer)

    async def _later(self, pending: Awaitable[Taken]) -> Verdict:
        answer = await pending
        return _PASS if answer.granted else self._refused(answer)

    def _refused(self, answer: Taken) -> Refuse:
        return _refused(Step("the caller", 1.0, self._caller, "policy.limit", "rate"), answer)

    def _steps(self, caller: Caller, client: Quota) -> Steps:
        of = f"{caller.issuer}|{caller.subject}"
        yield self._rates, Step(f"caller|{of}", 1.0, self._caller, "policy.limit", "rate")
        if caller.client:
            key = f"client|{caller.issuer}|{caller.client}"
            yield self._rates, Step(key, 1.0, client, "policy.limit", "rate")


@dataclass(frozen=True, slots=True)
class Counted:
    """What one call counts against, each with the key of its counts, and its cost."""

    who: str  # the caller
    places: tuple[tuple[str, int, bool], ...]  # of which so many; for all callers?
    sizes: tuple[tuple[str, int], ...]
    rates: tuple[tuple[str, Quota], ...]  # of servers and patterns
    daily: tuple[tuple[str, str, int], ...]  # "calls", "bytes" or "cost", and how many
    cost: int


class Matching:
    """Which bounds hold for a call: of its caller, client, server, and every pattern that names it."""

    def __init__(self, settings: LimitSettings) -> None:
        self._settings = settings
        self._named = lru_cache(maxsize=10_000)(self._find)
        self._of = lru_cache(maxsize=10_000)(self._collect)

    def of(self, caller: Caller, approved: Approved) -> Counted:
        """What is for all callers comes first: it is the scarcer."""
        return self._of(caller.issuer, caller.subject, caller.client, approved.server, approved.name)

    def _find(self, server: str, name: str) -> tuple[list[tuple[str, Bounds]], int]:
        settings, full = self._settings, f"{server}/{name}"
        # Brackets are letters here, as they are in rules.
        found = {one: bounds for one, bounds in settings.tools.items() if fnmatchcase(full, one.replace("[", "[[]"))}
        each: list[tuple[str, Bounds]] = [(f"tool|{pattern}", bounds) for pattern, bounds in found.items()]
        if server in settings.servers:
            each.append((f"server|{server}", settings.servers[server]))
        return each, max((bounds.cost for bounds in found.values()), default=1)

    def _collect(self, issuer: str, subject: str, client: str, server: str, name: str) -> Counted:
        named, cost = self._named(server, name)
        who, settings = f"{issuer}|{subject}", self._settings
        own = [(f"caller|{who}", settings.caller)]
        if client:
            own.append((f"client|{issuer}|{client}", settings.client))
        every = [*named, *own]
        return Counted(
            who,
            tuple((key, one.concurrency, one is not settings.caller) for key, one in every if one.concurrency),
            tuple((key, one.bytes) for key, one in every if one.bytes),
            tuple((key, one.quota) for key, one in named if one.quota),
            tuple((key, unit, most) for key, one in every for unit, most in one.daily if most),
            cost,
        )


class Spend:
    """Refuses `policy.payload`, `policy.limit` for servers and tools, and `policy.budget` for what a day allows."""

    needs = (Caller, Approved)
    gives: tuple[type, ...] = ()

    def __init__(
        self,
        settings: LimitSettings,
        rates: Counter,
        budgets: Counter,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._matching, self._rates, self._budgets, self._now = Matching(settings), rates, budgets, now
        self._shares = Shares(now)
        every = [settings.caller, settings.client, *settings.servers.values(), *settings.tools.values()]
        shared = [*settings.servers.values(), *settings.tools.values()]
        self._idle = not any(one.bytes or one.daily != Daily() for one in every) and not any(one.rate for one in shared)

    def check(self, context: Context) -> Verdict | Awaitable[Verdict]:
        """Take what this call costs everywhere it counts, or nothing."""
        if self._idle:
            return _PASS
        call = context.call
        counted = self._matching.of(context.get(Caller), context.get(Approved))
        size = len(call.arguments) + len(call.rest)
        for key, most in counted.sizes:
            if size > most:
                return refuse("policy.payload", f"{size} bytes, {key} allows {most}")
        for key, quota in counted.rates:
            if not self._shares.fair(key, counted.who, quota):
                return refuse("policy.limit", f"more than a fair share of {key}", retry_after=1)
        return walk(self._steps(counted, size))

    def _steps(self, counted: Counted, size: int) -> Steps:
        for key, quota in counted.rates:
            yield self._rates, Step(key, 1.0, quota, "policy.limit", "rate", self._shares.left)
        day = int(self._now() // DAY)
        for key, unit, most in counted.daily:
            amount = 1 if unit == "calls" else size if unit == "bytes" else counted.cost
            if amount > 0:
                budget = Quota(float(most), 0.0, float((day + 1) * DAY))
                yield self._budgets, Step(f"{key}|{unit}|{day}", float(amount), budget, "policy.budget", "budget")
