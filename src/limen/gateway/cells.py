"""Where local servers run: each in a cell of its own, unless its entry of the configuration says otherwise."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limen.adapters.bubblewrap import Bubblewrap
from limen.adapters.programs import find, search_path
from limen.core.cell import Cell
from limen.core.faults import ConfigFault, UpstreamFault
from limen.core.ports import Isolator
from limen.gateway.upstream_run import Launch, bare
from limen.sandbox.cell import plan

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.config.servers import ServerConfig


def private_paths(config: Config) -> tuple[str, ...]:
    """Files of ours no cell may see: log, keys, records; and where they would be made."""
    return tuple(str(path.absolute()) for path in (config.audit.path, config.audit.key, config.storage.path))


class Cells:
    """`record` is told of every start and end. One isolator of a kind, for all servers: what it tried is tried once."""

    def __init__(self, private: Sequence[str] = (), isolators: Mapping[str, Isolator] | None = None) -> None:
        self.private = tuple(private)
        self.record: Callable[[str, dict[str, Any]], None] = lambda server, event: None
        self._isolators: dict[str, Isolator] = dict(isolators or {})

    def isolator(self, kind: str) -> Isolator:
        """Made when it is first needed. Raises ConfigFault."""
        if kind not in self._isolators:
            self._isolators[kind] = _isolator(kind)
        return self._isolators[kind]

    def launcher(self, name: str, server: ServerConfig) -> Launch:
        """How this server's program is started. Raises ConfigFault."""
        argv, cwd = (str(server.command), *server.arguments()), str(server.cwd or "/")
        security, env = server.security, server.environment()
        if security.unsafe_no_sandbox:
            return bare(name, argv, env, cwd)
        isolator = self.isolator(security.isolate)

        async def launch() -> Cell:
            try:
                program = await asyncio.to_thread(find, name, argv, path=search_path(env), cwd=cwd)
                spec = plan(
                    name, program, limits=security.limits, directories=security.directories, env=env,
                    language=os.environ.get("LANG", ""), home=str(Path.home()), private=self.private,
                    root=os.getuid() == 0, uid=os.getuid(),
                )  # fmt: skip
            except ConfigFault as fault:
                raise UpstreamFault(name, str(fault)) from None
            return await isolator.start(spec)

        return launch


def _isolator(kind: str) -> Isolator:
    if kind == "bubblewrap":
        return Bubblewrap()
    raise ConfigFault(f"there is no isolator {kind!r}", "security.isolate")
