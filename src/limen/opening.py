"""What commands open of the house without running it: records, policy, keys, addresses."""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import jiter

from limen.adapters.keys import FileSigner
from limen.adapters.lockfile import load_lock, own_key
from limen.catalog.locked import LockedRegistry
from limen.catalog.registry import Registry
from limen.catalog.snapshot import Catalog
from limen.config.bundles import routes
from limen.core.call import Approved
from limen.core.ports import Kept, Signer
from limen.inspection import Reviewer
from limen.policy.compile import compile_policy
from limen.policy.decision import PolicySet
from limen.storage import State

if TYPE_CHECKING:
    from limen.config.model import Config

CALLABLE: Final = frozenset({"tool", "prompt", "resource", "template"})  # kinds of definitions a rule can name


def open_registry(config: Config) -> Registry:
    """The catalog's records, or the lock the configuration names, for commands. Raises ConfigFault."""
    return registry_of(config, State.open(config).catalog, open_signer(config))


def registry_of(config: Config, table: Kept, signer: Signer) -> Registry:
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


def directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def local_user() -> str:
    """The operating-system user a stdio client acts as (A14)."""
    return pwd.getpwuid(os.getuid()).pw_name
