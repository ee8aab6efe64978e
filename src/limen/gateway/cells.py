"""Where local servers run: each in a cell of its own, unless its entry of the configuration says otherwise."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakSet

import orjson

from limen.adapters.bubblewrap import Bubblewrap
from limen.adapters.egress_proxy import Barred, EgressGate
from limen.adapters.podman import Podman
from limen.adapters.programs import find, search_path
from limen.core.cell import Cell, CellSpec
from limen.core.faults import ConfigFault, DependencyFault, UpstreamFault
from limen.core.ports import Isolator
from limen.credentials.vault_settings import FileKeys
from limen.gateway.upstream_packaged import Start
from limen.gateway.upstream_run import bare
from limen.oauth.settings import CONSENT_KEY
from limen.opening import TOKEN_KEYS, VAULT_KEYS, log_key
from limen.sandbox.cell import containerised, plan
from limen.sandbox.egress_rules import EgressSettings
from limen.sandbox.launch import Plan

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.config.servers import ServerConfig


STATES: Final = "cells.json"
TOLD_EVERY: Final = 2.0  # seconds


def states_path(config: Config) -> Path:
    """Where a running gateway says how its local servers are, beside its records."""
    return config.storage.path.parent / STATES


async def tell_states(path: Path, states: Callable[[], list[dict[str, Any]]]) -> None:
    """Write how the local servers are, for `limen servers status`. Runs until cancelled, and removes what it wrote."""
    written, beside = b"", path.with_suffix(f".{os.getpid()}")
    try:
        while True:
            found = states()
            document = orjson.dumps({"pid": os.getpid(), "ts": time.time(), "servers": found})
            if found or written:
                descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
                with os.fdopen(descriptor, "wb") as sink:
                    sink.write(document)
                os.replace(beside, path)
                written = document
            await asyncio.sleep(TOLD_EVERY)
    finally:
        if written:
            _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def private_paths(config: Config) -> tuple[str, ...]:
    """Files of ours no cell may see: log, keys, records; and where they would be made."""
    storage = config.storage.path
    ours = ("handle-keys", "quarantine.key", "datakeys", VAULT_KEYS, TOKEN_KEYS, CONSENT_KEY, STATES)
    kept = [storage.with_name(name) for name in ours]
    if isinstance(config.vault.keys, FileKeys) and config.vault.keys.directory is not None:
        kept.append(config.vault.keys.directory)
    busy = [
        storage.with_name(f"{storage.stem}-{name}{storage.suffix}")
        for name in ("seen", "sessions", "counts", "attempts")
    ]
    own = (
        config.audit.path,
        config.audit.key,
        log_key(config),
        log_key(config).with_name(log_key(config).name + ".next"),
    )
    return tuple(str(path.absolute()) for path in (*own, storage, *kept, *busy))


def _no_log(event: dict[str, Any]) -> None:
    raise DependencyFault("audit", "there is no log to record connections in")


async def _unknown(server: str) -> str:
    return "contained.unknown"


class MakesGates(Protocol):
    """What makes the network of one server."""

    def __call__(
        self, server: str, settings: EgressSettings, record: Callable[[dict[str, Any]], None], *, barred: Barred
    ) -> EgressGate: ...


class Cells:
    """`record` is told of every start and end. One isolator for all servers: what it tried is tried once."""

    def __init__(
        self,
        private: Sequence[str] = (),
        isolator: Isolator | None = None,
        gate: MakesGates = EgressGate,
    ) -> None:
        self.private, self._gate = tuple(private), gate
        self.record: Callable[[str, dict[str, Any]], None] = lambda server, event: None
        self.egress: Callable[[dict[str, Any]], None] = _no_log  # without a log no cell has a network
        self.isolator = isolator or Bubblewrap()
        self.podman: Isolator = Podman()
        self.gates: dict[str, EgressGate] = {}
        self._every: WeakSet[EgressGate] = WeakSet()  # also of servers that are configured otherwise by now
        self.barred: Callable[[str], Awaitable[str]] = _unknown  # without records of what is cut off nothing leaves

    def launcher(self, name: str, server: ServerConfig) -> Start:
        """How this server's program is started, once it is known what that is."""
        security, declared, cwd = server.security, server.environment(), str(server.cwd or "/")
        gate = self.gates[name] = self._gate(
            name, security.egress, lambda event: self.egress(event), barred=partial(self._barred, name)
        )
        self._every.add(gate)

        async def start(planned: Plan) -> Cell:
            argv, env = planned.argv, {**declared, **planned.env}
            if security.unsafe_no_sandbox:
                return await bare(name, argv, env, cwd)()
            if planned.image:
                return await self.podman.start(_containerised(name, server, planned, env, self.private))
            try:
                program = await asyncio.to_thread(find, name, argv, path=search_path(env), cwd=cwd)
                program = replace(program, trees=(*program.trees, *((mount, "") for mount in planned.mounts)))
                spec = plan(
                    name, program, limits=security.limits, directories=security.directories, env=env,
                    language=os.environ.get("LANG", ""), home=str(Path.home()), private=self.private,
                    root=os.getuid() == 0, uid=os.getuid(),
                )  # fmt: skip
            except ConfigFault as fault:
                raise UpstreamFault(name, str(fault)) from None
            if gate.ports:
                spec = replace(spec, ports=gate.ports, attend=gate.attend)
            return await self.isolator.start(spec)

        return start

    async def _barred(self, server: str) -> str:
        return await self.barred(server)

    def cut(self, names: frozenset[str]) -> None:
        """What these servers have open ends. Whether they may connect anew, `barred` says."""
        for gate in list(self._every):
            if gate.server in names:
                gate.sever()

    def states(self, servers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """With what each server's network did since it was configured, where it has one."""
        return [
            {**one, "egress": dict(gate.counters)} if gate is not None and gate.ports else dict(one)
            for one in servers
            for gate in (self.gates.get(one["server"]),)
        ]


def _containerised(
    name: str, server: ServerConfig, planned: Plan, env: Mapping[str, str], private: Sequence[str]
) -> CellSpec:
    """Raises UpstreamFault."""
    try:
        return containerised(
            name, planned.image, planned.argv, limits=server.security.limits, directories=server.security.directories,
            env=env, cwd=str(server.cwd or ""), home=str(Path.home()), private=private, root=os.getuid() == 0,
            uid=os.getuid(),
        )  # fmt: skip
    except ConfigFault as fault:
        raise UpstreamFault(name, str(fault)) from None
