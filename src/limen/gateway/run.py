"""Runs a House behind a transport: HTTP for many clients, or standard input and output for one local client."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson
import uvloop

from limen import __version__
from limen.assemble import House, local_user, resources
from limen.core.faults import ConfigFault, DependencyFault, Fault
from limen.gateway.app import Gateway
from limen.gateway.http import HttpSurface, Site, endpoints
from limen.gateway.server import HttpServer, tls_context
from limen.gateway.stdio import StdioSurface
from limen.gateway.upstreams import HttpUpstream, StdioUpstream, Upstreams
from limen.identity.metadata import challenge, metadata_url, protected_resource_metadata, well_known_paths
from limen.protocol.methods import HANDSHAKE_REVISIONS

if TYPE_CHECKING:
    from limen.config.load import Loaded
    from limen.config.model import Config

FIRST_READING: Final = 5.0  # seconds to wait for slow servers before listening; they are read on behind
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


def say(text: str) -> None:
    """One line for the operator, on standard error: standard output may be a protocol."""
    sys.stderr.write(f"limen: {''.join(c if c.isprintable() else '?' for c in text)}\n")
    sys.stderr.flush()


def connect(config: Config, on_change: Callable[[str], None] | None = None) -> Upstreams:
    """One upstream per server in use. Raises ConfigFault."""
    built: list[HttpUpstream | StdioUpstream] = []
    for name, server in config.servers.items():
        if server.url is not None:
            if server.transport == "sse":
                raise ConfigFault("the HTTP+SSE transport of 2024 is not spoken yet", f"mcpServers.{name}.type")
            headers = server.header_values()
            built.append(HttpUpstream(name, server.url, describe_headers=headers, timeout=server.call_timeout))
        else:
            argv = [str(server.command), *server.arguments()]
            cwd = str(server.cwd) if server.cwd else None
            built.append(StdioUpstream(name, argv, env=server.environment(), cwd=cwd, timeout=server.call_timeout))
    return Upstreams(built, on_change)


async def probe(loaded: Loaded) -> list[tuple[str, bool, str]]:
    """Connect to every server once: name, whether it answered, and what it offers or what is wrong."""
    upstreams = connect(loaded.config)
    answers: list[tuple[str, bool, str]] = []
    try:
        for name in upstreams.by_name:
            try:
                said = await upstreams.describe(name)
                answers.append((name, True, f"{said.revision}: {len(said.tools)} tools"))
            except Fault as fault:
                answers.append((name, False, str(fault)))
    finally:
        await upstreams.close()
    return answers


def site(config: Config, port: int) -> Site:
    """Every address we answer at, built from the configuration alone."""
    base = urlsplit(config.listen.url)
    hosts = {base.netloc.lower()}
    origins = {config.listen.url, *config.listen.origins}
    if base.hostname in ("127.0.0.1", "localhost", "::1"):
        hosts |= {f"{host}:{port}" for host in _LOOPBACK}
        origins |= {f"{base.scheme}://{host}:{port}" for host in _LOOPBACK}
    servers = config.servers
    issuers = [issuer.issuer for issuer in config.identity.issuers]
    metadata: dict[bytes, bytes] = {}
    for name, resource in resources(config).items():
        if not issuers:
            break
        scopes = servers[name].security.scopes if name else _all_scopes(config)
        document = orjson.dumps(protected_resource_metadata(resource, issuers, scopes))
        paths = well_known_paths(urlsplit(resource).path)
        metadata[paths[0].encode()] = document
        if not name:
            metadata[paths[-1].encode()] = document
    scopes_of = {
        resource: servers[name].security.scopes if name else _all_scopes(config)
        for name, resource in resources(config).items()
    }

    def challenged(reason: str, resource: str, public: Mapping[str, Any]) -> str:
        return challenge(reason, metadata_url(resource), scopes_of[resource], public)

    table = endpoints(config.listen.url, list(servers), frozenset(hosts), frozenset(origins))
    return Site(table, metadata, challenged)


def _all_scopes(config: Config) -> tuple[str, ...]:
    return tuple(dict.fromkeys(scope for server in config.servers.values() for scope in server.security.scopes))


def _gateway(house: House) -> Gateway:
    upstreams = house.upstreams
    assert isinstance(upstreams, Upstreams)

    def suspends(server: str) -> bool:
        upstream = upstreams.by_name.get(server)
        return upstream is not None and upstream.revision in HANDSHAKE_REVISIONS

    gateway = Gateway(house.engine, house.sessions, house.seal, suspends)
    gateway.on_session_end = upstreams.end_session
    house.on_change = gateway.changed
    return gateway


async def _background(house: House, gateway: Gateway, failed: asyncio.Event) -> list[asyncio.Task[None]]:
    """Long-running duties. One that dies takes the gateway down: better no gateway than one that stopped watching."""

    async def guarded(duty: Any) -> None:
        try:
            await duty
        except DependencyFault as fault:
            say(f"stopping: {fault}")
            failed.set()
        except ConfigFault as fault:
            say(f"stopping: {fault}")
            failed.set()

    duties = (house.watch_servers(), house.watch_state(), gateway.sweep())
    return [asyncio.create_task(guarded(duty)) for duty in duties]


def serve(loaded: Loaded, port: int | None = None) -> int:
    """Run the gateway until stopped. Returns the exit status."""
    # The ledger's thread waits for the disk and wants the interpreter for microseconds: give it up sooner than 5 ms.
    sys.setswitchinterval(0.0005)
    return uvloop.run(_serve(loaded, port))


async def _serve(loaded: Loaded, port: int | None) -> int:
    config = loaded.config
    host, configured = config.listen.address
    if port is not None:
        config = _on_port(config, port)
        configured = port
    house = House(config, connect, say)
    for issuer, trouble in (await house.issuers.warm()).items():
        say(f"issuer {issuer}: {trouble}; tokens are refused until it answers")
    gateway = _gateway(house)
    surface = HttpSurface(gateway, site(config, configured), lambda: house.ledger.healthy)
    server = HttpServer(surface)
    tls = config.listen.tls
    context = tls_context(str(tls.certificate), str(tls.key)) if tls is not None else None
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    house.engine.event("start", version=__version__, policy=house.engine.corridor.policy)
    reading = asyncio.create_task(_read_servers(house))
    await asyncio.wait({reading}, timeout=FIRST_READING)
    _settle_memory()
    await server.start(host, configured, context)
    _announce(house, host, configured)
    tasks = [reading, *await _background(house, gateway, stop)]
    await stop.wait()
    say("stopping: finishing calls in flight")
    await server.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    gateway.stopped("asked to")
    await house.close()
    return 0


def _settle_memory() -> None:
    """What start-up built stays; the collector need not walk it again, nor look after every 700 objects of a call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _read_servers(house: House) -> None:
    for name, trouble in (await house.read_all()).items():
        say(f"server {name}: {trouble}")


def _on_port(config: Config, port: int) -> Config:
    """The same configuration on another port of the same host; a loopback URL follows."""
    base = urlsplit(config.listen.url)
    changes: dict[str, Any] = {"bind": f"{_bracketed(config.listen.address[0])}:{port}"}
    if base.hostname in ("127.0.0.1", "localhost", "::1"):
        changes["url"] = f"{base.scheme}://{_bracketed(base.hostname or '')}:{port}"
    return config.model_copy(update={"listen": config.listen.model_copy(update=changes)})


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _announce(house: House, host: str, port: int) -> None:
    """Where we listen, what is loosened, what to do next."""
    from limen.config.model import loosened

    say(f"listening on {host}:{port}")
    for name, resource in resources(house.config).items():
        say(f"  {name or 'all servers':<20} {resource}")
    for switch in loosened(house.config):
        say(f"LOOSENED {switch}")
    waiting = [entry for entry in house.registry.entries() if entry.state in ("pending", "drifted")]
    if waiting:
        say(f"{len(waiting)} definitions wait for approval: limen tools list; limen tools approve SERVER NAME")


def serve_stdio(loaded: Loaded, name: str) -> int:
    """Offer one server (or "" for all) to a local client over standard input and output."""
    return uvloop.run(_serve_stdio(loaded, name))


async def _serve_stdio(loaded: Loaded, name: str) -> int:
    config = loaded.config
    if name and name not in config.servers:
        raise ConfigFault(f"no server named {name!r}: {', '.join(config.servers)}", "mcpServers")
    house = House(config, connect, say)
    gateway = _gateway(house)
    house.engine.event("start", version=__version__, policy=house.engine.corridor.policy, transport="stdio")
    reading = asyncio.create_task(_read_servers(house))
    await asyncio.wait({reading}, timeout=FIRST_READING)
    tasks = [reading, *await _background(house, gateway, asyncio.Event())]
    surface = StdioSurface(gateway, name, resources(config)[name], local_user())
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await surface.run()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gateway.stopped("the client closed its end")
        await house.close()
    return 0
