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
from limen.core.verdict import Pass, Verdict, refuse
from limen.incidents.risk import Limits, explained, fused, rescaled, together
from limen.incidents.risk_settings import ThreatSettings
from limen.incidents.threats import Standing, Threats

# What the facts of this very call are worth besides its content. The approved definition is what is served, so a
# drifted one is a reason to look, not to stop; a flow rule that had something to say but let it pass likewise.
DRIFTED: Final = 0.25
FLOWS: Final = 0.25
_NOTHING: Final = Pass((Weighed(),))
_MOST: Final = 8


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
        self._now = now
        self._limits: dict[tuple[str, str], tuple[Limits, Limits]] = {}

    def check(self, context: Context) -> Verdict | Awaitable[Verdict]:
        """At once while the copy is fresh. Raises DependencyFault when what is suspected cannot be read."""
        if self._threats.age > self._settings.age:
            return self._after_reading(context)
        return self._judge(context)

    async def _after_reading(self, context: Context) -> Verdict:
        await self._threats.current()
        return self._judge(context)

    def _judge(self, context: Context) -> Verdict:
        inspected, cleared, approved = context.get(Inspected), context.get(Cleared), context.get(Approved)
        nothing_own = not (inspected.risk or cleared.findings or approved.drifted)
        if nothing_own and not self._threats.known:
            return _NOTHING
        own, limits = self._of(approved)
        standings = self._standings(context, approved)
        if nothing_own and not standings:
            return _NOTHING
        parts = self._parts(standings, inspected, cleared, approved, own)
        risk = fused(parts.values())
        because = _events(standings)
        shown = explained(parts)
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

    def _standings(self, context: Context, approved: Approved) -> list[tuple[str, Standing]]:
        if not self._threats.known:
            return []
        caller, session, find = context.get(Caller), context.get(Session), self._threats.find
        wanted = [
            ("caller", f"{caller.issuer}\0{caller.subject}"),
            ("client", caller.client),
            ("server", approved.server),
            ("tool", f"{approved.server}/{approved.name}"),
        ]
        if session.id:
            wanted.append(("session", sha256(session.id.encode()).hexdigest()[:16]))
        return [(kind, found) for kind, value in wanted if value and (found := find(kind, value)) is not None]

    def _parts(
        self, standings: list[tuple[str, Standing]], inspected: Inspected, cleared: Cleared, approved: Approved,
        own: Limits,
    ) -> dict[str, float]:  # fmt: skip
        """What each source brings. One event may be held against a caller and a session: it counts once."""
        now = self._now()
        ours: dict[str, float] = {}
        if inspected.risk:
            ours["content"] = rescaled(inspected.risk, own)
        if approved.drifted:
            ours["catalog"] = DRIFTED
        if cleared.findings:
            ours["flow"] = FLOWS
        every = [one.sources(now) for _, one in standings]
        parts: dict[str, float] = {}
        for source in {*ours, *(name for sources in every for name in sources)}:
            mine = [ours[source]] if source in ours else []
            worth = max((together([*sources[source], *mine]) for sources in every if source in sources), default=0.0)
            parts[source] = max(worth, *mine) if mine else worth
        return parts


def _events(standings: list[tuple[str, Standing]]) -> tuple[str, ...]:
    """Ids of the events behind it, newest first, each once."""
    signals = [one for _, standing in standings for one in standing.suspect.signals if one.event]
    return tuple(dict.fromkeys(one.event for one in sorted(signals, key=lambda one: -one.at)))[:_MOST]
