"""Guard Weigh: everything suspicious about a call, its own content and what is known of all who take part, as one risk.

The guards above judged the content by itself, under the limits of the tool. Here what they found is added to what
went before: from `record` on the intent is on disk first, from `ask` on a person must approve, from `block` on it is
refused.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from hashlib import sha256
from typing import Final, Protocol

from limen.core.call import Approved, Caller, Cleared, Context, Inspected, Session, Weighed
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Verdict, refuse
from limen.incidents.risk import Limits, combined, explained, rescaled, together
from limen.incidents.risk_settings import ThreatSettings
from limen.incidents.threats import Standing, Threats

# What the facts of this very call are worth besides its content. The approved definition is what is served, so a
# drifted one is a reason to look, not to stop; a flow rule that had something to say but let it pass likewise.
DRIFTED: Final = 0.25
FLOWS: Final = 0.25
_NOTHING: Final = Pass((Weighed(),))
_MOST: Final = 8
_SUMS: Final = 4096
_Sum = tuple[float, tuple[tuple[str, float], ...], tuple[str, ...]]


class OfTool(Protocol):
    """Risk of content above which it is recorded, held, blocked."""

    @property
    def record(self) -> float: ...
    @property
    def hold(self) -> float: ...
    @property
    def block(self) -> float: ...


class Weigh:
    """Refuses `threat.blocked`; gives Weighed, which asks for a person. `content`: the limits content is judged by, for
    a server and a name. `seen` carries the risk of a refused call to the engine's record."""

    needs = (Caller, Session, Approved, Inspected, Cleared)
    gives = (Weighed,)

    def __init__(
        self,
        threats: Threats,
        settings: ThreatSettings,
        content: Callable[[str, str], OfTool],
        seen: MutableMapping[str, Inspected],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._threats, self._settings, self._content, self._seen = threats, settings, content, seen
        self._age = settings.age
        self._now = now
        self._limits: dict[tuple[str, str], tuple[Limits, Limits]] = {}
        self._second, self._sums = -1, dict[tuple[object, ...], _Sum]()

    def check(self, context: Context) -> Verdict | Awaitable[Verdict]:
        """At once while the copy is fresh. Raises DependencyFault when what is suspected cannot be read."""
        if self._threats.age > self._age:
            return self._after_reading(context)
        return self._judge(context)

    async def _after_reading(self, context: Context) -> Verdict:
        for _ in range(2):  # the first may have begun long before we asked
            await self._threats.current()
            if self._threats.age <= self._age:
                return self._judge(context)
        raise DependencyFault("threats", "what is suspected took too long to read")

    def _judge(self, context: Context) -> Verdict:
        get = context.get
        inspected, cleared, approved = get(Inspected), get(Cleared), get(Approved)
        nothing_own = not (inspected.risk or cleared.findings or approved.drifted)
        if nothing_own and not self._threats.known:
            return _NOTHING
        own, limits = self._of(approved)
        standings = self._standings(context, approved)
        if nothing_own and not standings:
            return _NOTHING
        ours: dict[str, float] = {}
        if inspected.risk:
            ours["content"] = rescaled(inspected.risk, own)
        if approved.drifted:
            ours["catalog"] = DRIFTED
        if cleared.findings:
            ours["flow"] = FLOWS
        risk, shown, because = self._sum(standings, ours)
        if risk >= limits.block and not self._settings.unsafe_observe:
            self._seen[context.reference] = Inspected(round(risk, 3), (*inspected.findings, *cleared.findings))
            named = ", ".join(f"{name} {part:.2f}" for name, part in shown)
            return refuse("threat.blocked", f"risk {risk:.2f} ({named}): {', '.join(because) or 'this call alone'}")
        ask = risk >= limits.hold and not self._settings.unsafe_observe
        return Pass((Weighed(round(risk, 3), shown, because, ask, risk >= limits.record),))

    def _of(self, approved: Approved) -> tuple[Limits, Limits]:
        """How content of this tool is judged, and the limits that hold here: the stricter of it and those for all."""
        key = (approved.server, approved.name)
        found = self._limits.get(key)
        if found is None:
            tool = self._content(*key)
            own = Limits(tool.record, tool.hold, tool.block)
            found = self._limits[key] = (own, self._settings.limits.stricter(own))
        return found

    def _standings(self, context: Context, approved: Approved) -> list[Standing]:
        found = []
        for kind, held in self._threats.of.items():
            standing = held.get(_value(kind, context, approved))
            if standing is not None:
                found.append(standing)
        return found

    def _sum(self, standings: list[Standing], ours: dict[str, float]) -> _Sum:
        """The risk, what each source brings, and the events behind it. Calls alike within a second are summed once."""
        now = self._now()
        if int(now) != self._second or len(self._sums) >= _SUMS:
            self._second, self._sums = int(now), {}
        key = (*standings, *ours.items())
        found = self._sums.get(key)
        if found is None:
            parts = _parts([one.sources(now) for one in standings], ours)
            own = [one.sources(now) for one in standings if one.suspect.subject.kind in ("caller", "session")]
            shared = parts.keys() - set(ours) - {source for sources in own for source in sources}
            found = self._sums[key] = (combined(parts, shared), explained(parts), _events(standings))
        return found


def _parts(every: list[dict[str, tuple[float, list[float]]]], ours: dict[str, float]) -> dict[str, float]:
    """What each source brings. One event may be held against a caller and a session: it counts once."""
    parts: dict[str, float] = {}
    for source in {*ours, *(name for sources in every for name in sources)}:
        known = [sources[source] for sources in every if source in sources]
        if source not in ours:
            parts[source] = max(worth for worth, _ in known)
        else:
            parts[source] = max([ours[source], *(together([*scores, ours[source]]) for _, scores in known)])
    return parts


def _value(kind: str, context: Context, approved: Approved) -> str:
    """Who of this kind takes part, as signals name it; "" for nobody."""
    caller = context.get(Caller)
    if kind == "caller":
        return f"{caller.issuer}\0{caller.subject}"
    if kind == "client":
        return caller.client
    if kind == "server":
        return approved.server
    if kind == "tool":
        return f"{approved.server}/{approved.name}"
    session = context.get(Session)
    return sha256(session.id.encode()).hexdigest()[:16] if session.id else ""


def _events(standings: list[Standing]) -> tuple[str, ...]:
    """Ids of the events behind it, newest first, each once."""
    newest = sorted((one for standing in standings for one in standing.events[:_MOST]), reverse=True)
    return tuple(dict.fromkeys(event for _, event in newest))[:_MOST]
