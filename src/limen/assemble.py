"""Composition root: configuration in, running gateway out. The only place that knows every concrete class.

What one call reads (policy, catalog, guards) is compiled into a Corridor and swapped as one; a call in flight keeps
the corridor it entered.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import jiter
import orjson

from limen import posture
from limen.adapters.http import HttpFetch
from limen.adapters.keys import FileSigner
from limen.adapters.lockfile import load_lock, own_key
from limen.adapters.sqlite import SqliteTable
from limen.audit.ledger import Ledger
from limen.catalog.headers import param_headers
from limen.catalog.locked import LockedRegistry
from limen.catalog.registry import Registry
from limen.catalog.resolve import Resolve
from limen.catalog.schema import ValidateArguments, ValidateResult
from limen.catalog.snapshot import Catalog
from limen.config.bundles import routes
from limen.core.announce import Announcement
from limen.core.call import Approved, Inspected
from limen.core.chain import Chain
from limen.core.faults import ConfigFault
from limen.core.ports import Signer
from limen.credentials.attach import AttachCredential
from limen.engine import Corridor, Engine, Outbound
from limen.identity.authenticate import Authenticate
from limen.identity.bind_session import BindSession, Sessions, StateSeal
from limen.identity.issuers import Issuers
from limen.inspection import Inspection, Reviewer
from limen.policy.approval import RequireApproval
from limen.policy.authorize import Authorize
from limen.policy.compile import compile_policy
from limen.policy.decision import PolicySet
from limen.policy.limit import Limit

if TYPE_CHECKING:
    from limen.config.model import Config

CHECKPOINT: Final = 1.0  # seconds between signed checkpoints; records are on disk within 50 ms
FEEDS: Final = 60.0  # seconds between looks at files of indicators
POLL: Final = 0.25  # seconds between looks at the state other processes may have changed
CALLABLE: Final = frozenset({"tool", "prompt", "resource", "template"})  # kinds of definitions a rule can name
_AUDITED: Final = "audited-history"


class Servers(Outbound, Protocol):
    """The servers behind us, as far as the house uses them."""

    @property
    def by_name(self) -> Mapping[str, object]: ...
    async def close(self) -> None: ...


Connect = Callable[["Config", Callable[[str], None]], Servers]


@dataclass(slots=True)
class State:
    """What is kept on disk: definitions, their approvals, held calls, how far the log has followed them, reviews."""

    catalog: SqliteTable
    approvals: SqliteTable
    marks: SqliteTable
    labels: SqliteTable
    quarantine: SqliteTable
    told: SqliteTable
    reviews: SqliteTable

    @classmethod
    def open(cls, config: Config) -> State:
        """Raises DependencyFault when the database cannot be used."""
        path = config.storage.path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(*(SqliteTable(path, name) for name in cls.__slots__))

    def close(self) -> None:
        """Close the database."""
        for name in self.__slots__:
            getattr(self, name).close()

    def tell(self, event: str, **fields: object) -> None:
        """For commands: what an operator did, for the log. The running gateway, or the next one, writes it there."""
        key = f"{time.time_ns():020d}.{secrets.token_hex(4)}"
        self.told.put(key, orjson.dumps({"event": event, "at": time.time(), **fields}))


def open_registry(config: Config) -> Registry:
    """The catalog's records, or the lock the configuration names, for commands. Raises ConfigFault."""
    return _registry(config, State.open(config).catalog, open_signer(config))


def _registry(config: Config, table: SqliteTable, signer: Signer) -> Registry:
    """Where approvals are: in our records, or all of them in one signed file that nothing can be added to here."""
    path = config.catalog.lock
    if path is None:
        detectors = [Reviewer(config, time.time)]
        return Registry(table, governance=config.catalog.governance, signer=signer, detectors=detectors)
    return LockedRegistry(load_lock(path, config.catalog.lock_keys or [own_key(config.audit.key)]))


def open_policy(config: Config, registry: Registry, catalog: Catalog | None = None) -> PolicySet:
    """The policy compiled against what is approved now. Raises ConfigFault."""
    names = [Approved(server, kind, name, "", b"{}") for server, kind, name in announced(registry)]
    approved = (catalog or registry.snapshot()).approved(withheld=True)
    return compile_policy(config.policy, approved, servers=config.servers, announced=names)


def announced(registry: Registry) -> set[tuple[str, str, str]]:
    """Server, kind and name of whatever a rule may name. A lock knows what was left out of it from the locked sets."""
    found = set(registry.names())
    if isinstance(registry, LockedRegistry):
        sets = ((one.server, jiter.from_json(one.definition)) for one in registry.lock.entries if one.kind == "set")
        found |= {(server, row[0], row[1]) for server, known in sets for row in known["announced"]}
    return {place for place in found if place[1] in CALLABLE}


def open_signer(config: Config) -> FileSigner:
    """The key that signs the log's checkpoints; made on first use."""
    config.audit.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return FileSigner.open(config.audit.key, config.audit.name)


def resources(config: Config) -> dict[str, str]:
    """Canonical resource URI of each route, servers and bundles; "" is the bundle of all servers (RFC 8707)."""
    base = f"{config.listen.url}/mcp"
    names = (*routes(config.bundles, config.servers), *config.servers)
    return {name: f"{base}/{name}" if name else base for name in names}


@dataclass(frozen=True, slots=True)
class Plan:
    """One configuration, compiled whole. Nothing of it is in force before `House.adopt`."""

    config: Config
    registry: Registry
    issuers: Issuers
    inspection: Inspection
    fixed: Mapping[type, Any]
    policy: PolicySet
    catalog: Catalog
    corridor: Corridor


class House:
    """Everything that runs, and how it changes while it runs."""

    def __init__(self, config: Config, connect: Connect, say: Callable[[str], None]) -> None:
        self.say = say
        self.state = State.open(config)
        self.signer = open_signer(config)
        self.ledger = Ledger.open(_directory(config.audit.path), self.signer, checkpoint_interval=CHECKPOINT)
        if self.ledger.recovered:
            self.ledger.append(b'{"t":"recovered","detail":"the log was cut to its last whole record"}')
        self.sessions = Sessions()
        self.seal = StateSeal(StateSeal.new_key())
        self.on_change: Callable[[], None] = lambda: None
        self.on_announced: Callable[[str], None] = lambda name: None
        self.upstreams = connect(config, lambda name: self.on_announced(name))
        self._timeouts: dict[str, float] = {}
        self._seen: dict[str, Inspected] = {}
        self._put(self.plan(config))
        self.engine = Engine(self.corridor, self.ledger, self.upstreams, self._timeouts, self._seen)
        self._record_feeds(first=True)

    # configuration

    def plan(self, config: Config, before: Plan | None = None, registry: Registry | None = None) -> Plan:
        """Compile a configuration. What it shares with `before` is kept: keys that were fetched, callers' limits.

        Raises ConfigFault when it cannot be put in force.
        """
        if registry is None and before is not None and before.config.catalog == config.catalog:
            registry = before.registry if config.catalog.lock is None else None  # a lock may be another one by now
        if registry is None:
            registry = _registry(config, self.state.catalog, self.signer)
        same_identity = before is not None and before.config.identity == config.identity
        issuers = before.issuers if before is not None and same_identity else Issuers(config.identity, HttpFetch())
        same_limits = before is not None and before.config.limits == config.limits
        headers = {name: server.header_values() for name, server in config.servers.items()}
        inspection = self._inspection(config, before)
        fixed: dict[type, Any] = {
            Authenticate: Authenticate(issuers, resources(config), config.identity),
            BindSession: BindSession(self.sessions, self.seal),
            Limit: before.fixed[Limit] if before is not None and same_limits else Limit(config.limits),
            RequireApproval: RequireApproval(self.state.approvals),
            AttachCredential: AttachCredential(headers),
        }
        catalog = registry.snapshot()
        policy = open_policy(config, registry, catalog)
        corridor = _corridor(fixed, inspection, catalog, policy, config.audit.durable)
        if isinstance(registry, LockedRegistry):
            event = {"t": "lock", "ts": time.time(), "digest": registry.lock.digest, "key": registry.lock.key}
            self.ledger.append(orjson.dumps(event))
        return Plan(config, registry, issuers, inspection, fixed, policy, catalog, corridor)

    def _inspection(self, config: Config, before: Plan | None) -> Inspection:
        """What it is made of is how content is judged, and the secrets of the servers."""
        if before is not None and (before.config.content, before.config.mcpServers) == (
            config.content,
            config.mcpServers,
        ):
            return before.inspection
        kept = self.state
        return Inspection(config, kept.labels, kept.quarantine, kept.marks, self._seen)

    def adopt(self, plan: Plan) -> None:
        """Put a plan in force, all of it at once: calls in flight keep the corridor they entered."""
        before = self.plan_in_force.inspection
        self._put(plan)
        self.engine.corridor = self.corridor
        if plan.inspection is not before:
            before.retire()
            self._record_feeds(first=True)
        self.swap()
        self.on_change()

    def _put(self, plan: Plan) -> None:
        self.plan_in_force, self.config, self.registry = plan, plan.config, plan.registry
        self.issuers, self.policy, self.corridor = plan.issuers, plan.policy, plan.corridor
        self._expiry, self._followed = plan.catalog.next_expiry, 0
        self._timeouts.clear()
        self._timeouts.update((name, server.call_timeout) for name, server in plan.config.servers.items())

    # corridor

    def build_corridor(self) -> Corridor:
        """Compile catalog and policy anew. A rule that no longer fits the catalog does not take the policy away: the
        rules in force keep deciding, about the new catalog."""
        catalog = self.registry.snapshot()
        try:
            self.policy = open_policy(self.config, self.registry, catalog)
        except ConfigFault as fault:
            self.say(f"policy not recompiled: {fault}")
        self._expiry = catalog.next_expiry
        plan = self.plan_in_force
        return _corridor(plan.fixed, plan.inspection, catalog, self.policy, self.config.audit.durable)

    def swap(self) -> None:
        """Put a freshly compiled corridor in force and tell listeners; record what changed."""
        before, after = self.engine.corridor, self.build_corridor()
        self.record_history()
        if after.catalog.version == before.catalog.version and after.policy == before.policy:
            return
        self.corridor = self.engine.corridor = after
        self.engine.event("swap", catalog=after.catalog.version, policy=after.policy)
        self.on_change()

    def record_history(self) -> None:
        """Every approval, rejection and observed change goes to the log once, in order, whoever made it."""
        last = newest = self._audited()
        for row in self.registry.history(last):
            if row.sequence > last:
                self.engine.event(
                    "catalog", **{"change" if name == "event" else name: value for name, value in asdict(row).items()}
                )
                newest = max(newest, row.sequence)
        if newest > last and isinstance(self.registry, LockedRegistry):
            self._followed = newest
        elif newest > last:
            self.state.marks.put(_AUDITED, str(newest).encode())

    def _audited(self) -> int:
        """How far the log has followed. A lock's history begins anew in every process, our records' never does."""
        if isinstance(self.registry, LockedRegistry):
            return self._followed
        raw = self.state.marks.get(_AUDITED)
        return int(raw) if raw else 0

    # servers

    async def observe(self, announcement: Announcement) -> None:
        """Compare one reading of a server with what is approved, and put in force what that changes."""
        # In a thread: it waits for the disk, and a schema built to be costly takes its time.
        for change in await asyncio.to_thread(self.registry.observe, announcement):
            self.say(f"{change.server}/{change.name or change.kind}: {change.event}")
        self.swap()

    def unreachable(self, server: str, detail: str) -> None:
        """A server cannot be read; what is approved of it stays in service."""
        self.engine.event("unreachable", server=server, detail=detail[:500])
        self.say(f"server {detail}" if detail.startswith(f"{server}:") else f"server {server}: {detail}")

    def reachable(self, server: str) -> None:
        """It can be read again."""
        self.engine.event("reachable", server=server)
        self.say(f"server {server}: answers again")

    def found(self, server: str, finding: str) -> None:
        """A server was caught at something a person must look at."""
        self.engine.event("finding", server=server, detail=finding[:2000])
        self.say(f"FINDING {server}: {finding}")

    async def watch_state(self) -> None:
        """Approvals made by other processes, and the end of one, take effect within a second. Runs until cancelled."""
        seen, feeds_read = self.state.catalog.change_token(), time.monotonic()
        told: object = None
        while True:
            await asyncio.sleep(POLL)
            if self.plan_in_force.inspection.feeds and time.monotonic() - feeds_read >= FEEDS:
                feeds_read = time.monotonic()
                self._record_feeds()
            if (heard := self.state.told.change_token()) != told:
                told = heard
                self._record_told()
            token = self.state.catalog.change_token()
            if token != seen or self._expiry <= time.time():
                seen = token
                self.swap()

    def _record_told(self) -> None:
        """What commands did goes to the log, and is dropped here once it is there."""
        for key, raw in list(self.state.told.scan("")):
            fields = orjson.loads(raw)
            self.engine.event(fields.pop("event"), **fields)
            self.state.told.swap(key, raw, None)

    def _record_feeds(self, *, first: bool = False) -> None:
        for path, text in self.plan_in_force.inspection.read_feeds(first=first).items():
            self.engine.event("feed", path=str(path), state=text)
            self.say(f"feed {path}: {text}")

    async def close(self) -> None:
        """Stop servers, then the log, then the database."""
        await self.upstreams.close()
        self.plan_in_force.inspection.close()
        await self.issuers.close()
        await self.ledger.close()
        self.state.close()


def _corridor(
    fixed: Mapping[type, Any], inspection: Inspection, catalog: Catalog, policy: PolicySet, durable: bool
) -> Corridor:
    built: dict[type, Any] = {
        **fixed,
        **inspection.guards(catalog),
        Resolve: Resolve(catalog),
        Authorize: Authorize(policy),
        ValidateArguments: ValidateArguments(catalog),
        ValidateResult: ValidateResult(catalog),
    }
    return Corridor(
        call=Chain([_built(built, kind) for kind in posture.CALL], posture.PERMIT),
        caller=Chain([_built(built, kind) for kind in posture.CALLER]),
        result=tuple(_built(built, kind) for kind in posture.RESULT),
        authorize=built[Authorize],
        catalog=catalog,
        policy=policy.digest,
        param_headers=param_headers,
        durable=durable,
        messages=_built(built, posture.MESSAGES),
        marks=inspection.marks,
        scrub=inspection.scrub,
    )


def _built(built: dict[type, Any], kind: type) -> Any:
    if kind not in built:
        raise ConfigFault(f"the posture lists {kind.__name__}, which was not built")
    return built[kind]


def _directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def local_user() -> str:
    """The operating-system user a stdio client acts as (A14)."""
    return pwd.getpwuid(os.getuid()).pw_name
