"""Starts the program of one server anew while calls run (J4).

Always from the artifact that is pinned, every byte of it verified again, in a new cell with nothing left of the former
one; what it then announces is compared with what is approved before it gets a call. Usually the new one is read first
and the former one ends when its calls have; a *clean* restart ends the former one first, and the calls it had fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from limen.core.faults import ConfigFault, UpstreamFault
from limen.errands import Errand
from limen.gateway.upstream_packaged import VerifiedUpstream
from limen.gateway.upstreams import Upstream, Upstreams

if TYPE_CHECKING:
    from limen.assemble import House
    from limen.config.model import Config
    from limen.config.servers import ServerConfig
    from limen.core.announce import Announcement

READING: Final = 30.0  # seconds in which the new program must have described itself


class Restart:
    """`build` makes the connection to a server as `Reload` does; `follow` is told that servers were exchanged.
    `changing` is held by whoever exchanges servers: one at a time."""

    def __init__(
        self,
        house: House,
        build: Callable[[Config], Callable[[str, ServerConfig], Upstream]],
        follow: Callable[[], None],
    ) -> None:
        assert isinstance(house.upstreams, Upstreams)
        self._house, self._upstreams, self._build, self._follow = house, house.upstreams, build, follow
        self.changing = asyncio.Lock()

    async def asked(self, errand: Errand) -> str:
        """What was done, in words. Raises ConfigFault, UpstreamFault, DependencyFault."""
        name, clean = errand.about, errand.urgent
        about = {"server": name, "clean": clean, "by": errand.by, "reason": errand.reason}
        try:
            async with self.changing:
                artifact = await self._exchange(name, clean)
        except (ConfigFault, UpstreamFault) as fault:
            self._house.engine.event("restart", ok=False, detail=str(fault)[:500], **about)
            self._house.say(f"server {name} was not started again: {fault}")
            raise
        self._house.engine.event("restart", ok=True, artifact=artifact, **about)
        self._house.say(f"server {name}: started again" + (f" from {artifact}" if artifact else ""))
        return "started again" + (f" from {artifact}" if artifact else "")

    async def _exchange(self, name: str, clean: bool) -> str:
        house, upstreams = self._house, self._upstreams
        server, former = house.config.servers.get(name), upstreams.by_name.get(name)
        if server is None or former is None:
            raise ConfigFault("no such server is in use", name)
        if server.command is None:
            raise ConfigFault("is reached at an address: nothing of it runs here", name)
        fresh = self._build(house.config)(name, server)
        house.plan_in_force.delegated.serve({name: fresh})
        if clean:
            await former.close()
        try:
            await house.observe(await self._read(fresh))
        except UpstreamFault:
            if clean:
                self._put(name, fresh)  # it refuses every call, and says why, until it can be started
            else:
                await fresh.close()
            raise
        self._put(name, fresh)
        return fresh.artifact if isinstance(fresh, VerifiedUpstream) else ""

    async def _read(self, fresh: Upstream) -> Announcement:
        try:
            async with asyncio.timeout(READING):
                return await fresh.describe()
        except TimeoutError:
            raise UpstreamFault(fresh.name, "did not describe itself in time", timeout=True) from None

    def _put(self, name: str, fresh: Upstream) -> None:
        self._upstreams.replace([fresh if one.name == name else one for one in self._each()])
        self._follow()

    def _each(self) -> list[Upstream]:
        return list(self._upstreams.by_name.values())
