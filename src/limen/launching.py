"""From a configured server to what is started for it: the second half of `security` that is about the program
itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import jiter

from limen.adapters.local_programs import digest_of
from limen.adapters.lockfile import load_lock, own_key
from limen.adapters.package_store import PackageStore
from limen.core.faults import ConfigFault, DependencyFault, UpstreamFault
from limen.core.ports import Signer
from limen.sandbox.launch import Image, Local, NotLaunchable, Plan, compare
from limen.sandbox.packages import Package

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.config.servers import ServerConfig

__all__ = ["Launches"]


class Launches:
    """How the servers of one configuration are started. `signer` opens our key; it is not asked for before a server
    needs what is installed."""

    def __init__(self, config: Config, signer: Callable[[], Signer]) -> None:
        self._config, self._signer = config, signer

    @cached_property
    def store(self) -> PackageStore:
        """What `limen servers install` put on this disk. Raises ConfigFault, DependencyFault for the key."""
        return PackageStore(self._config.storage.path.parent / "packages", self._signer())

    def plan(self, name: str, server: ServerConfig) -> Plan:
        """What to start now, verified now. Waits for the disk. Raises UpstreamFault: then nothing is started."""
        try:
            return self._plan(name, server)
        except (NotLaunchable, DependencyFault, ConfigFault) as fault:
            raise UpstreamFault(name, f"not started: {fault}") from None

    def expected(self, name: str, server: ServerConfig) -> dict[str, str]:
        """Who names the artifact of this server, and its digest. Raises ConfigFault when the lock cannot be used."""
        named = {"security.artifact": server.security.artifact, "the lock": self._locked.get(name, "")}
        return {who: digest for who, digest in named.items() if digest}

    def _plan(self, name: str, server: ServerConfig) -> Plan:
        command = str(server.command)
        if server.security.unsafe_unverified:
            return Plan((command, *server.arguments()))
        form, expected = server.form(), self.expected(name, server)
        if isinstance(form, Package):
            return self.store.plan(form, expected)
        if isinstance(form, Image):
            compare(form.digest, expected)
            if server.security.isolate == "podman":
                return Plan(form.argv, digest=form.digest, image=form.name)
            return Plan((command, *form.arguments), digest=form.digest)
        return _local(form, server, expected)

    @cached_property
    def _locked(self) -> dict[str, str]:
        """The artifact digests of a lock that this gateway runs from."""
        path = self._config.catalog.lock
        if path is None:
            return {}
        lock = load_lock(path, self._config.catalog.lock_keys or [own_key(self._config.audit.key)])
        servers = (
            (entry.server, jiter.from_json(entry.definition)) for entry in lock.entries if entry.kind == "server"
        )
        return {name: str(known["identity"].get("artifact", "")) for name, known in servers}


def _local(form: Local, server: ServerConfig, expected: dict[str, str]) -> Plan:
    """A program on this disk. Its own digest is recorded with every reading anyway; it is compared if it is named."""
    if not expected:
        return Plan(form.argv)
    path = server.environment().get("PATH", os.environ.get("PATH", os.defpath))
    found = digest_of(form, path, str(server.cwd or "/"))
    compare(found, expected)
    argv = form.argv
    if form.kind == "module":  # byte code is not part of the digest, so none is read
        argv = (argv[0], "-B", "-X", "pycache_prefix=/dev/null", *argv[1:])
    return Plan(argv, digest=found)
