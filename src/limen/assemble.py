"""Composition root: configuration in, running gateway out. The only place that knows every concrete class.

What one call reads (policy, catalog, guards) is compiled into a Corridor and swapped as one; a call in flight keeps
the corridor it entered.
"""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from limen import posture
from limen.adapters.http import HttpFetch
from limen.adapters.keys import FileSigner
from limen.adapters.sqlite import SqliteTable
from limen.audit.ledger import Ledger
from limen.catalog.headers import param_headers
from limen.catalog.registry import Registry
from limen.catalog.resolve import Resolve
from limen.catalog.schema import ValidateArguments, ValidateResult
from limen.catalog.snapshot import Catalog
from limen.core.announce import Announcement
from limen.core.call import Approved
from limen.core.chain import Chain
from limen.core.faults import ConfigFault, UpstreamFault
from limen.credentials.attach import AttachCredential
from limen.engine import Corridor, Engine, Outbound
from limen.identity.authenticate import Authenticate
from limen.identity.bind_session import BindSession, Sessions, StateSeal
from limen.identity.issuers import Issuers
from limen.policy.approval import RequireApproval
from limen.policy.authorize import Authorize
from limen.policy.compile import compile_policy
from limen.policy.decision import PolicySet
from limen.policy.limit import Limit

if TYPE_CHECKING:
    from limen.config.model import Config

CHECKPOINT: Final = 1.0  # seconds between signed checkpoints; records are on disk within 50 ms
POLL: Final = 0.25  # seconds between looks at the state other processes may have changed
_AUDITED: Final = "audited-history"


class Servers(Outbound, Protocol):
    """The servers behind us, as far as the house uses them."""

    @property
    def by_name(self) -> Mapping[str, object]: ...
    async def describe(self, name: str) -> Announcement: ...
    async def close(self) -> None: ...


Connect = Callable[["Config", Callable[[str], None]], Servers]


@dataclass(slots=True)
class State:
    """What is kept on disk: definitions and their approvals, held calls, and how far the log has followed them."""

    catalog: SqliteTable
    approvals: SqliteTable
    marks: SqliteTable

    @classmethod
    def open(cls, config: Config) -> State:
        """Raises DependencyFault when the database cannot be used."""
        path = config.storage.path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(SqliteTable(path, "catalog"), SqliteTable(path, "approvals"), SqliteTable(path, "marks"))

    def close(self) -> None:
        """Close the database."""
        for table in (self.catalog, self.approvals, self.marks):
            table.close()


def open_registry(config: Config) -> Registry:
    """The catalog's records, for commands."""
    return Registry(State.open(config).catalog)


def open_policy(config: Config, registry: Registry, catalog: Catalog | None = None) -> PolicySet:
    """The policy compiled against what is approved now. Raises ConfigFault."""
    announced = [
        Approved(entry.server, entry.kind, entry.name, "", b"{}")
        for entry in registry.entries()
        if entry.kind != "instructions"
    ]
    approved = (catalog or registry.snapshot()).approved(withheld=True)
    return compile_policy(config.policy, approved, servers=config.servers, announced=announced)


def open_signer(config: Config) -> FileSigner:
    """The key that signs the log's checkpoints; made on first use."""
    config.audit.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return FileSigner.open(config.audit.key, config.audit.name)


def resources(config: Config) -> dict[str, str]:
    """Canonical resource URI of each route: "" is the bundle of all servers (RFC 8707)."""
    base = config.listen.url
    table = {name: f"{base}/mcp/{name}" for name in config.servers}
    return {"": f"{base}/mcp", **table}


class House:
    """Everything that runs, and how it changes while it runs."""

    def __init__(self, config: Config, connect: Connect, say: Callable[[str], None]) -> None:
        self.config, self.say = config, say
        self.state = State.open(config)
        self.registry = Registry(self.state.catalog)
        self.ledger = Ledger.open(_directory(config.audit.path), open_signer(config), checkpoint_interval=CHECKPOINT)
        if self.ledger.recovered:
            self.ledger.append(b'{"t":"recovered","detail":"the log was cut to its last whole record"}')
        self.upstreams = connect(config, self._announced_change)
        issuers = Issuers(config.identity, HttpFetch())
        self.issuers = issuers
        self.sessions = Sessions()
        self.seal = StateSeal(StateSeal.new_key())
        self.fixed: dict[type, Any] = {
            Authenticate: Authenticate(issuers, resources(config), config.identity),
            BindSession: BindSession(self.sessions, self.seal),
            Limit: Limit(config.limits),
            RequireApproval: RequireApproval(self.state.approvals),
            AttachCredential: AttachCredential(
                {name: server.header_values() for name, server in config.servers.items()}
            ),
        }
        self.policy: PolicySet | None = None
        self.corridor = self.build_corridor()
        timeouts = {name: server.call_timeout for name, server in config.servers.items()}
        self.engine = Engine(self.corridor, self.ledger, self.upstreams, timeouts)
        self.on_change: Callable[[], None] = lambda: None
        self._stale: set[str] = set()
        self._wake = asyncio.Event()

    # corridor

    def build_corridor(self) -> Corridor:
        """Compile catalog and policy. Raises ConfigFault when the policy cannot be compiled and none is in force."""
        catalog = self.registry.snapshot()
        try:
            self.policy = open_policy(self.config, self.registry, catalog)
        except ConfigFault as fault:
            if self.policy is None:
                raise
            # A rule no longer fits the catalog: the rules in force keep deciding, about the new catalog.
            self.say(f"policy not recompiled: {fault}")
        assert self.policy is not None
        return self._corridor(catalog, self.policy)

    def _corridor(self, catalog: Catalog, policy: PolicySet) -> Corridor:
        built: dict[type, Any] = {
            **self.fixed,
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
            durable=self.config.audit.durable,
        )

    def swap(self) -> None:
        """Put a freshly compiled corridor in force and tell listeners; record what changed."""
        before = self.engine.corridor
        after = self.build_corridor()
        self.record_history()
        if after.catalog.version == before.catalog.version and after.policy == before.policy:
            return
        self.engine.corridor = after
        self.engine.event("swap", catalog=after.catalog.version, policy=after.policy)
        self.on_change()

    def record_history(self) -> None:
        """Every approval, rejection and observed change goes to the log once, in order, whoever made it."""
        raw = self.state.marks.get(_AUDITED)
        last = int(raw) if raw else 0
        newest = last
        for row in self.registry.history(last):
            if row.sequence > last:
                self.engine.event(
                    "catalog", **{"change" if name == "event" else name: value for name, value in asdict(row).items()}
                )
                newest = max(newest, row.sequence)
        if newest > last:
            self.state.marks.put(_AUDITED, str(newest).encode())

    # servers

    def _announced_change(self, name: str) -> None:
        self._stale.add(name)
        self._wake.set()

    async def read_server(self, name: str) -> str:
        """Read one server's definitions. Returns what is wrong, or ""."""
        try:
            announcement: Announcement = await self.upstreams.describe(name)
        except UpstreamFault as fault:
            self.engine.event("unreachable", server=name, detail=str(fault)[:500])
            return str(fault)
        # In a thread: it waits for the disk, and a schema built to be costly takes its time.
        for change in await asyncio.to_thread(self.registry.observe, announcement):
            self.say(f"{change.server}/{change.name or change.kind}: {change.event}")
        self.swap()
        return ""

    async def read_all(self) -> dict[str, str]:
        """Read every server at once. Name to trouble, for those that have any."""
        names = list(self.upstreams.by_name)
        answers = await asyncio.gather(*(self.read_server(name) for name in names))
        return {name: trouble for name, trouble in zip(names, answers, strict=True) if trouble}

    async def watch_servers(self) -> None:
        """Read again what announced a change, and everything once per interval. Runs until cancelled."""
        interval = self.config.catalog.refresh
        while True:
            try:
                async with asyncio.timeout(interval):
                    await self._wake.wait()
            except TimeoutError:
                self._stale.update(self.upstreams.by_name)
            self._wake.clear()
            names, self._stale = sorted(self._stale), set()
            await asyncio.gather(*(self.read_server(name) for name in names))
            await asyncio.sleep(1.0)  # a storm of announcements is one reading a second

    async def watch_state(self) -> None:
        """Approvals made by other processes take effect within a second. Runs until cancelled."""
        seen = self.state.catalog.change_token()
        while True:
            await asyncio.sleep(POLL)
            token = self.state.catalog.change_token()
            if token != seen:
                seen = token
                self.swap()

    async def close(self) -> None:
        """Stop servers, then the log, then the database."""
        await self.upstreams.close()
        await self.issuers.close()
        await self.ledger.close()
        self.state.close()


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
