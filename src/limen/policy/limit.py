"""Guard Limit: one token bucket per caller, in memory."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from limen.core.call import Caller, Context
from limen.core.verdict import Pass, Verdict, refuse

_PASS = Pass()


class LimitSettings(BaseModel):
    """`rate` calls a second in the long run, `burst` at once; at most `callers` are remembered, the idlest go first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: float = Field(default=100.0, gt=0, le=1_000_000)
    burst: int = Field(default=200, ge=1, le=1_000_000)
    callers: int = Field(default=10_000, ge=1, le=1_000_000)


class Limit:
    """Refuses `policy.limit` with the seconds to wait. A bucket belongs to issuer and subject.

    The client is left out on purpose: with open client registration a caller could have as many as it likes.
    """

    needs = (Caller,)
    gives: tuple[type, ...] = ()

    def __init__(self, settings: LimitSettings, now: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._callers, self._now = settings.rate, settings.burst, settings.callers, now
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def check(self, context: Context) -> Verdict:
        """Take one token, or say when there will be one."""
        caller = context.get(Caller)
        key, now = (caller.issuer, caller.subject), self._now()
        tokens, then = self._buckets.get(key, (float(self._burst), now))
        # A clock that steps back must neither fill a bucket nor drain it.
        tokens = min(float(self._burst), tokens + max(0.0, now - then) * self._rate)
        allowed = tokens >= 1.0
        self._buckets[key] = (tokens - 1.0 if allowed else tokens, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._callers:
            self._buckets.popitem(last=False)
        if allowed:
            return _PASS
        return refuse("policy.limit", "bucket empty", retry_after=math.ceil((1.0 - tokens) / self._rate))
