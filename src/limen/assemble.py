"""Composition root: configuration in, running gateway out. The only place that knows every concrete class.

What one call reads (policy, catalog, guards) is compiled into a Corridor and swapped as one; a call in flight keeps
the corridor it entered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from limen import posture
from limen.adapters.http import HttpFetch
from limen.adapters.public_http import PublicHttp
from limen.adapters.signing_keys import SigningKeys
from limen.audit.ledger import Ledger
from limen.audit.parameters import Parameters
from limen.catalog.decoys import Decoy
from limen.catalog.headers import param_headers
from limen.catalog.locked import LockedRegistry
from limen.catalog.registry import Registry
from limen.catalog.resolve import Resolve
from limen.catalog.schema import ValidateArguments, ValidateResult
from limen.catalog.snapshot import Catalog
from limen.chronicle import Chronicle
from limen.continuity import Continuity, places
from limen.core.announce import Announcement
from limen.core.call import Caller, Context, Inspected
from limen.core.chain import Chain
from limen.core.faults import ConfigFault, DependencyFault
from limen.core.verdict import Permit
from limen.corridor import Corridor, Outbound
from limen.credentials.attach import AttachCredential
from limen.credentials.vault import Vault
from limen.delegation import Delegated, Delegation
from limen.detection.feeds import MAX_SIZE
from limen.engine import Engine
from limen.identity.api_keys import ApiKeys
from limen.identity.authenticate import Authenticate
from limen.identity.bind_session import BindSession, SpendState
from limen.identity.dpop import Proofs
from limen.identity.issuers import Issuers
from limen.identity.revoked import Revocation, Revocations, Revoked, as_row, described
from limen.incidents.contain import Contained, Containments, Halted, Standing
from limen.incidents.threats import Threats
from limen.incidents.weigh import Weigh
from limen.inspection import Feeding, Inspection
from limen.logbook import Logbook
from limen.opening import (
    directory,
    needs_keys,
    open_log_signer,
    open_policy,
    open_signer,
    open_token_keys,
    open_vault,
    registry_of,
    resources,
    settle_log_key,
)  # fmt: skip
from limen.policy.approval import RequireApproval
from limen.policy.authorize import Authorize
from limen.policy.decision import PolicySet
from limen.policy.limit import Limit, Spend
from limen.storage import Counts, Followed, Look, State

if TYPE_CHECKING:
    from limen.config.model import Config

CHECKPOINT: Final = 1.0  # seconds between signed checkpoints; records are on disk within 50 ms


class Servers(Outbound, Protocol):
    """The servers behind us, as far as the house uses them."""

    @property
    def by_name(self) -> Mapping[str, object]: ...
    async def close(self) -> None: ...


Connect = Callable[["Config", Callable[[str], None]], Servers]


@dataclass(frozen=True, slots=True)
class Plan:
    """One configuration, compiled whole. Nothing of it is in force before `House.adopt`."""

    config: Config
    registry: Registry
    issuers: Issuers
    inspection: Inspection
    delegated: Delegated
    fixed: Mapping[type, Any]
    policy: PolicySet
    catalog: Catalog
    corridor: Corridor


class House:
    """Everything that runs, and how it changes while it runs."""

    def __init__(self, config: Config, connect: Connect, say: Callable[[str], None]) -> None:
        self.say = say
        self.vault: Vault | None = None
        self.token_keys: SigningKeys | None = None
        state = self.state = State.open(config)
        self.signer = open_signer(config)
        self.logbook = Logbook(config, self.signer, open_log_signer(config), self.state, say)
        log, signer = directory(config.audit.path), self.logbook.signer
        self.ledger = Ledger.open(log, signer, checkpoint_interval=CHECKPOINT)
        settle_log_key(config)
        if self.ledger.recovered:
            self.ledger.append(b'{"t":"recovered","detail":"the log was cut to its last whole record"}')
        self.continuity = Continuity(config, self.state.sessions, self.state.spent, self._emit)
        self.revocations = Revocations(self.state.revocations, remote=self.state.remote)
        self.revocations.refresh()  # a start that cannot know whom to refuse is none
        self.revocations.on_change = self._revoked
        self.threats = Threats(self.state.threats)
        self.threats.refresh()
        self.on_revoked: Callable[[], object] = lambda: None
        self.containments = Containments(self.state.contained, remote=self.state.remote)
        self.containments.refresh()
        self.containments.on_change = self._contained
        self.on_contained: Callable[[], object] = lambda: None
        self.counts = Counts(self.state, config.limits, say)
        self.on_change: Callable[[], None] = lambda: None
        self.on_first_use: Callable[[Caller, str], object] = lambda caller, resource: None
        self.on_announced: Callable[[str], None] = lambda name: None
        self.upstreams = connect(config, lambda name: self.on_announced(name))
        self._timeouts: dict[str, float] = {}
        self._seen: dict[str, Inspected] = {}
        self.delegation = Delegation(state.vault, state.oauth, PublicHttp(), PublicHttp(private=True), self.record)
        self.chronicle = Chronicle(self.state, self.record, say)
        self._put(self.plan(config))
        self.chronicle.keep(self.corridor, self.policy, config.policy)
        self.plan_in_force.delegated.serve(self.upstreams.by_name)
        self.engine = Engine(self.corridor, self.ledger, self.upstreams, self._timeouts, self._seen, self.counts.slots)
        self.engine.on_refusal = self._refused
        self.engine.on_rejected = self.delegation.rejected
        self._feeds = Feeding(HttpFetch(max_size=MAX_SIZE), self.engine.event, say)
        self._feeds.first(self.plan_in_force.inspection)

    # configuration
    def plan(self, config: Config, before: Plan | None = None, registry: Registry | None = None) -> Plan:
        """Compile a configuration. What it shares with `before` is kept: keys that were fetched, callers' limits.

        Raises ConfigFault when it cannot be put in force.
        """
        if registry is None and before is not None and before.config.catalog == config.catalog:
            registry = before.registry if config.catalog.lock is None else None  # a lock may be another one by now
        if registry is None:
            registry = registry_of(config, self.state.catalog, self.signer)
        issuers = before.issuers if before is not None and before.config.issuing == config.issuing else None
        self._open_keys(config)
        issuers = issuers or Issuers(config.identity, HttpFetch(), own=self._own(config))
        kept = before.fixed if before is not None and before.config.limits == config.limits else None
        headers = {name: server.header_values() for name, server in config.servers.items()}
        inspection = self._inspection(config, before)
        delegated = self.delegation.plan(config, before.delegated if before is not None else None)
        lasts, where = self.continuity, places(config)
        fixed: dict[type, Any] = {
            Authenticate: self._authenticate(config, issuers),
            Revoked: Revoked(self.revocations),
            Halted: Halted(self.containments, self.revocations.ends),
            Contained: Contained(self.containments),
            BindSession: BindSession(lasts.sessions, lasts.states, lasts.misuse, self._emit, lasts.callers, where),
            SpendState: SpendState(lasts.states),
            **(self._limits(config) if kept is None else {kind: kept[kind] for kind in (Limit, Spend)}),
            Weigh: Weigh(self.threats, config.risk, inspection.own_limits, self._seen),
            RequireApproval: RequireApproval(self.state.approvals),
            AttachCredential: AttachCredential(headers, delegated.sources),
        }
        catalog = registry.snapshot()
        policy = open_policy(config, registry, catalog)
        corridor = _corridor(fixed, inspection, catalog, policy, config, self._parameters(config, inspection))
        if isinstance(registry, LockedRegistry):
            self._emit({"t": "lock", "digest": registry.lock.digest, "key": registry.lock.key})
        return Plan(config, registry, issuers, inspection, delegated, fixed, policy, catalog, corridor)

    def _open_keys(self, config: Config) -> None:
        """The vault and the keys of our own tokens, as soon as something needs them."""
        if self.vault is None and needs_keys(config):
            self.vault, self.token_keys = open_vault(config, self.state), open_token_keys(config)
            self.delegation.vault, self.delegation.keys = self.vault, self.token_keys

    def _own(self, config: Config) -> tuple[str, Callable[[], bytes]] | None:
        """Our name as an issuer, and its keys."""
        keys = self.token_keys
        return (config.listen.url, keys.key_set) if config.oauth is not None and keys is not None else None

    def _authenticate(self, config: Config, issuers: Issuers) -> Authenticate:
        identity, kept = config.identity, self.state
        return Authenticate(
            issuers,
            resources(config),
            identity,
            proofs=Proofs(identity.dpop, identity.leeway, kept.seen),
            keys=ApiKeys(kept.keys, kept.seen, implied=identity.implied) if identity.api_keys else None,
            demands=config.demands,
            first=lambda caller, resource: self.on_first_use(caller, resource),
        )

    def _limits(self, config: Config) -> dict[type, Any]:
        limits, counts = config.limits, self.counts
        return {Limit: Limit(limits, counts.rates), Spend: Spend(limits, counts.rates, counts.budgets)}

    def _inspection(self, config: Config, before: Plan | None) -> Inspection:
        """What it is made of is how content is judged, and the secrets of the servers."""
        if before is not None and before.config.inspected == config.inspected:
            return before.inspection
        kept = self.state
        return Inspection(config, kept.labels, kept.quarantine, kept.marks, self._seen, kept.behavior, self._emit)

    def _parameters(self, config: Config, inspection: Inspection) -> Parameters | None:
        """What is kept of arguments, where that is more than a digest."""
        default, named = config.audit.parameters, config.parameters
        if {default, *named.values()} == {"digest"}:
            return None
        return Parameters(default, named, inspection.redacted, lambda: self.vault)

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        """The same, from the authorization server and what obtains credentials."""
        self._emit({**fields, "t": event})

    def _emit(self, event: Mapping[str, Any]) -> None:
        """An event of security that is not a call."""
        self.ledger.append(orjson.dumps({**event, "ts": time.time()}))

    def _refused(self, reason: str, facts: Context | Permit) -> None:
        self.continuity.misuse.refused(self.revocations.held_against(reason, facts), facts)
        self.plan_in_force.inspection.refused(reason, facts)

    def adopt(self, plan: Plan) -> None:
        """Put a plan in force, all of it at once: calls in flight keep the corridor they entered."""
        before = self.plan_in_force.inspection
        self._put(plan)
        self.counts.slots.adopt(plan.config.limits)
        self.engine.corridor = self.corridor
        if plan.inspection is not before:
            before.retire()
            self._feeds.first(plan.inspection)
        self.swap()
        self.on_change()

    def _put(self, plan: Plan) -> None:
        self.plan_in_force, self.config, self.registry = plan, plan.config, plan.registry
        self.delegation.adopt(plan.delegated, plan.fixed[AttachCredential])
        self.issuers, self.policy, self.corridor = plan.issuers, plan.policy, plan.corridor
        self.continuity.adopt(plan.config)
        self.containments.abroad = frozenset(name for name, one in plan.config.servers.items() if not one.confined)
        self._expiry = plan.catalog.next_expiry
        self.chronicle.begin()
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
        return _corridor(plan.fixed, plan.inspection, catalog, self.policy, self.config, plan.corridor.parameters)

    def swap(self) -> None:
        """Put a freshly compiled corridor in force and tell listeners; record what changed."""
        before, after = self.engine.corridor, self.build_corridor()
        self.chronicle.follow(self.registry)
        self.chronicle.keep(after, self.policy, self.config.policy)
        if after.catalog.version == before.catalog.version and after.policy == before.policy:
            return
        self.corridor = self.engine.corridor = after
        self.engine.event("swap", catalog=after.catalog.version, policy=after.policy)
        self.on_change()

    # servers

    async def observe(self, announcement: Announcement) -> None:
        """Compare one reading of a server with what is approved, and put in force what that changes."""
        # In a thread: it waits for the disk, and a schema built to be costly takes its time.
        while True:
            try:
                for change in await asyncio.to_thread(self.registry.observe, announcement):
                    self.say(f"{change.server}/{change.name or change.kind}: {change.event}")
                return self.swap()
            except DependencyFault as fault:  # of another machine: it comes back, and calls are refused until it does
                if not (self.state.remote and fault.retryable) or fault.port == "audit":
                    raise
                await asyncio.sleep(1.0)

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
        """What other processes did (approvals, revocations) and the end of an approval take effect within a second.
        Runs until cancelled. Raises DependencyFault when it is of no use to look again."""
        followed = Followed(self.state.bus, self.say)
        look = Look(self.state, self.engine.event, self.continuity.renew_keys, lambda: self._expiry, self.swap)
        looks = {
            "revocations": self.revocations.current, "containments": self.containments.current,
            "threats": self.threats.current, "records": look.once,
            "canaries": lambda: self.plan_in_force.inspection.read_canaries(),
        }  # fmt: skip
        await followed.all(looks, self.counts.slots.renew())

    def _revoked(self, added: list[Revocation], gone: list[Revocation]) -> None:
        """End what is under way, keep no credential of whom it is about, tell and record what changed."""
        self.on_revoked()
        self.delegation.forget(added)
        for kind, records in (("revoked", added), ("unrevoked", gone)):
            for record in records:
                self.engine.event(kind, **as_row(record))
                self.say(f"{kind}: {described(record)}")

    def _contained(self, added: list[Standing], gone: list[Standing]) -> None:
        """End what is under way, tell whoever listens that lists differ, record when this replica took it over."""
        self.on_contained()
        ids = {"added": [one.id for one in added], "gone": [one.id for one in gone]}
        self.engine.event("containment", **ids, in_force=self.containments.version)
        for what, records in (("contained", added), ("released", gone)):
            for record in records:
                self.say(f"{what}: {record.kind} {record.value}, {record.id}")
        self.on_change()

    async def watch_feeds(self) -> None:
        """Newer indicators, from files and from elsewhere. Runs until cancelled."""
        await self._feeds.run(lambda: self.plan_in_force.inspection)

    async def close(self) -> None:
        """Stop servers, then the log, then the database."""
        await self.upstreams.close()
        await self.delegation.close()
        self.plan_in_force.inspection.close()
        await self.issuers.close()
        await self.ledger.close()
        with suppress(DependencyFault):  # it counts as not being written any more soon enough
            self.logbook.close()
        await self.counts.close()
        self.state.close()


def _corridor(
    fixed: Mapping[type, Any], inspection: Inspection, catalog: Catalog, policy: PolicySet, config: Config,
    parameters: Parameters | None,
) -> Corridor:  # fmt: skip
    built: dict[type, Any] = {
        **fixed,
        **inspection.guards(catalog, flow_asked=policy.reads_flow),
        Resolve: Resolve(catalog),
        Authorize: Authorize(policy),
        ValidateArguments: ValidateArguments(catalog),
        ValidateResult: ValidateResult(catalog),
    }
    return Corridor(
        call=Chain([_built(built, kind) for kind in posture.CALL], posture.PERMIT),
        caller=Chain([_built(built, kind) for kind in posture.CALLER]),
        result=tuple(_built(built, kind) for kind in posture.RESULT),
        authorize=built[Contained].shown(built[Authorize]),
        catalog=catalog,
        policy=policy.digest,
        param_headers=param_headers,
        durable=config.audit.durable,
        parameters=parameters,
        plain_resources=config.audit.resources == "plain",
        messages=_built(built, posture.MESSAGES),
        decoys=built[Contained].offered(built[Decoy].offered),
        marks=inspection.marks,
        scrub=inspection.scrub,
    )


def _built(built: dict[type, Any], kind: type) -> Any:
    if kind not in built:
        raise ConfigFault(f"the posture lists {kind.__name__}, which was not built")
    return built[kind]
