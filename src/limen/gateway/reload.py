"""Reads the configuration file again while calls run, and puts it in force whole or not at all.

Policy, servers, bundles, issuers, limits and the catalog's rules change at once, as one new corridor; a call in flight
ends on the one it entered. What a running process cannot exchange is named and stays as it was until a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from limen.assemble import House, Plan
from limen.config.digest import config_digest
from limen.config.load import ConfigFaults
from limen.config.model import loosened
from limen.core.faults import ConfigFault, DependencyFault, UpstreamFault
from limen.detection.behavior_settings import BehaviorSettings
from limen.errands import Errand
from limen.gateway.upstreams import Upstream, Upstreams
from limen.gateway.watch import Watch
from limen.history import keep_config
from limen.incidents.alert_settings import AlertSettings
from limen.incidents.settings import IncidentSettings

if TYPE_CHECKING:
    from limen.catalog.registry import Registry
    from limen.config.load import Loaded
    from limen.config.model import Config
    from limen.config.servers import ServerConfig

READING: Final = 5.0  # seconds in which servers that are new or exchanged should have been read before they are used
_FIXED: Final = {
    "listen": ("url", "bind", "tls", "unsafe_plain_http"),
    "audit": ("path", "key", "name", "followers", "metrics", "index", "retention", "witness", "deleters"),
    "behavior": tuple(BehaviorSettings.model_fields),
    "alerts": tuple(AlertSettings.model_fields),
    "incidents": tuple(IncidentSettings.model_fields),
    "storage": ("kind", "path", "url", "redis"),
}


class Reload:
    """`run` does it whenever `asked` is set (a signal handler may), one at a time.

    `read` gives the file as it is now, checked, and has it remembered once it is in force; `build` gives what makes
    connections to servers; `answering` builds what answers at the addresses, and gives what puts it in force. All of
    them raise ConfigFault and change nothing. `changing` is held while servers are exchanged.
    """

    def __init__(
        self,
        house: House,
        watch: Watch,
        asked: asyncio.Event,
        read: Callable[[], Loaded],
        build: Callable[[Config], Callable[[str, ServerConfig], Upstream]],
        answering: Callable[[Plan], Callable[[], None]],
        changing: asyncio.Lock | None = None,
    ) -> None:
        assert isinstance(house.upstreams, Upstreams)
        self._house, self._watch, self._upstreams = house, watch, house.upstreams
        self._read, self._build, self._answering = read, build, answering
        self._asked, self._changing = asked, changing or asyncio.Lock()

    async def run(self) -> None:
        """Until cancelled; requests made while the file is being read count as one more.

        Raises DependencyFault when the log or the records cannot be written.
        """
        while True:
            await self._asked.wait()
            self._asked.clear()
            async with self._changing:
                await self.once()

    async def asked(self, errand: Errand) -> str:
        """For a command that changed the file. Raises ConfigFault when it was not taken over."""
        async with self._changing:
            if not await self.once():
                raise ConfigFault("not taken over; the gateway's own log says why")
        return f"policy {self._house.policy.digest[:12]}"

    async def once(self) -> bool:
        """Whether what the file says now is in force. A file that cannot be used changes nothing."""
        house, made = self._house, dict[str, Upstream]()
        try:
            read = await asyncio.to_thread(self._read)
            config, waiting = keep_fixed(house.config, read.config)
            plan = house.plan(config, house.plan_in_force)
            made = self._new(config)
            plan.delegated.serve(made)
            for issuer, trouble in (await plan.issuers.warm()).items():
                house.say(f"issuer {issuer}: {trouble}; tokens are refused until it answers")
            await self._read_new(made, plan.registry)
            plan = house.plan(config, plan, plan.registry)  # what was read of them may change what is in service
            put = self._answering(plan)
        except ConfigFault as fault:
            await asyncio.gather(*(upstream.close() for upstream in made.values()))
            self._refused(fault)
            return False
        except DependencyFault as fault:
            await asyncio.gather(*(upstream.close() for upstream in made.values()))
            if not (house.state.remote and fault.retryable):
                raise
            self._refused(ConfigFault(f"the database does not answer: {fault}"))
            return False
        except BaseException:
            await asyncio.gather(*(upstream.close() for upstream in made.values()))
            raise
        changed = _changes(house.config, config)
        before = house.policy.digest
        kept = keep_config(house.state.history, read, plan.policy.digest)
        house.engine.event(
            "reload", ok=True, config_before=config_digest(house.config), config=config_digest(config), text=kept,
            policy_before=before, policy=plan.policy.digest, servers=changed, restart=waiting,
            loosened=list(loosened(config)),
        )  # fmt: skip
        same = {name: upstream for name, upstream in self._upstreams.by_name.items() if name in config.servers}
        anew = plan.registry is not house.registry
        house.adopt(plan)
        self._upstreams.replace([{**same, **made}[name] for name in config.servers])
        put()
        self._watch.follow(config.catalog.refresh, again=anew)
        self._tell(before, changed, waiting)
        return True

    def _new(self, config: Config) -> dict[str, Upstream]:
        """Connections to servers that are new or configured otherwise than before. Nothing is sent yet."""
        before, build = self._house.config.servers, self._build(config)
        return {name: build(name, server) for name, server in config.servers.items() if before.get(name) != server}

    async def _read_new(self, made: dict[str, Upstream], registry: Registry) -> None:
        """A server that was exchanged behind its name is compared with what is approved before it gets a call."""

        async def read(upstream: Upstream) -> None:
            try:
                announcement = await upstream.describe()
                await asyncio.to_thread(registry.observe, announcement)
            except UpstreamFault as fault:
                self._house.unreachable(upstream.name, str(fault))

        tasks = [asyncio.ensure_future(read(upstream)) for upstream in made.values()]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=READING)
        finally:
            for task in tasks:
                task.cancel()
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(done, Exception):
                raise done

    def _refused(self, fault: ConfigFault) -> None:
        faults = fault.faults if isinstance(fault, ConfigFaults) else (fault,)
        self._house.engine.event(
            "reload",
            ok=False,
            config=config_digest(self._house.config),
            policy=self._house.policy.digest,
            detail="; ".join(map(str, faults))[:2000],
        )
        for one in faults:
            self._house.say(f"configuration not taken over: {one}")
        self._house.say("the configuration read before stays in force")

    def _tell(self, before: str, changed: dict[str, list[str]], waiting: list[str]) -> None:
        house = self._house
        after = house.policy.digest
        policy = f"policy {after[:12]}" + (f" instead of {before[:12]}" if before != after else " as before")
        parts = [f"{what}: {', '.join(names)}" for what, names in changed.items() if names]
        house.say("; ".join(["configuration taken over", policy, *parts]))
        for where in waiting:
            house.say(f"{where}: changed in the file, and needs a restart to take effect")
        for switch in loosened(house.config):
            house.say(f"LOOSENED {switch}")


def keep_fixed(before: Config, after: Config) -> tuple[Config, list[str]]:
    """The new configuration with what cannot change in a running process as it was, and the keys this is true of."""
    update: dict[str, Any] = {}
    waiting: list[str] = []
    for part, names in _FIXED.items():
        old, new = getattr(before, part), getattr(after, part)
        waiting += [f"{part}.{name}" for name in names if getattr(old, name) != getattr(new, name)]
        update[part] = new.model_copy(update={name: getattr(old, name) for name in names})
    return after.model_copy(update=update), waiting


def _changes(before: Config, after: Config) -> dict[str, list[str]]:
    return dict(_named(before.servers, after.servers))


def _named(before: dict[str, ServerConfig], after: dict[str, ServerConfig]) -> Iterator[tuple[str, list[str]]]:
    yield "added", [name for name in after if name not in before]
    yield "removed", [name for name in before if name not in after]
    yield "changed", [name for name in after if name in before and after[name] != before[name]]
