"""Runs a House behind a transport: HTTP for many clients, or standard input and output for one local client."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson
import uvloop

from limen import __version__
from limen.adapters.hardening import harden
from limen.adapters.public_http import PublicHttp
from limen.assemble import House
from limen.config.bundles import routes
from limen.config.load import check_consistency, load_config, with_port
from limen.core.addresses import is_loopback
from limen.core.faults import ConfigFault, Fault
from limen.delegation import Delegation
from limen.exporting import open_exporter, open_metrics
from limen.gateway.app import Gateway
from limen.gateway.cells import Cells, private_paths, states_path, tell_states
from limen.gateway.certificates import ForwardedCertificates
from limen.gateway.front import Front, offered_scopes, required_scopes
from limen.gateway.http import HttpSurface, Site, endpoints
from limen.gateway.reload import Reload
from limen.gateway.server import HttpServer, tls_context
from limen.gateway.stdio import StdioSurface
from limen.gateway.upstream_packaged import VerifiedUpstream
from limen.gateway.upstreams import HttpUpstream, StdioUpstream, Upstream, Upstreams
from limen.gateway.watch import Watch
from limen.identity.metadata import Possession, challenges, metadata_url, protected_resource_metadata, well_known_paths
from limen.launching import Launches
from limen.opening import local_user, needs_keys, open_signer, open_token_keys, open_vault
from limen.protocol.methods import HANDSHAKE_REVISIONS
from limen.protocol.naming import Bundle, LongNames
from limen.signin import check_signin
from limen.storage import State
from limen.watching import Watcher, open_watches

if TYPE_CHECKING:
    from limen.config.load import Loaded
    from limen.config.model import Config
    from limen.config.servers import ServerConfig

FIRST_READING: Final = 5.0  # seconds to wait for slow servers before listening; they are read on behind
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


def say(text: str) -> None:
    """One line for the operator, on standard error: standard output may be a protocol."""
    sys.stderr.write(f"limen: {''.join(c if c.isprintable() else '?' for c in text)}\n")
    sys.stderr.flush()


def connect(config: Config, on_change: Callable[[str], None] | None = None, cells: Cells | None = None) -> Upstreams:
    """One upstream per server in use. Raises ConfigFault."""
    cells, launches = cells or Cells(private_paths(config)), launcher(config)
    return Upstreams([build(name, server, cells, launches) for name, server in config.servers.items()], on_change)


def launcher(config: Config) -> Launches:
    """What the local servers of this configuration are started from."""
    return Launches(config, partial(open_signer, config))


def build(name: str, server: ServerConfig, cells: Cells, launches: Launches) -> Upstream:
    """The connection to one server; nothing is started or sent yet. Raises ConfigFault."""
    if server.url is not None:
        if server.transport == "sse":
            raise ConfigFault("the HTTP+SSE transport of 2024 is not spoken yet", f"mcpServers.{name}.type")
        headers = server.header_values()
        pins = server.security.pin
        return HttpUpstream(name, server.url, describe_headers=headers, timeout=server.call_timeout, pins=pins)
    argv = [str(server.command), *server.arguments()]
    shown = [str(server.command), *(one if isinstance(one, str) else "(secret)" for one in server.args)]
    cwd = str(server.cwd) if server.cwd else None
    return VerifiedUpstream(
        name, argv, plan=partial(launches.plan, name, server), start=cells.launcher(name, server),
        env=server.environment(), cwd=cwd, timeout=server.call_timeout, shown=shown, bounds=server.security.bounds,
        record=lambda event: cells.record(name, event),
    )  # fmt: skip


def _house(config: Config) -> tuple[House, Cells]:
    """The house and the cells of its servers, which tell its log of every start and end."""
    cells = Cells(private_paths(config))
    house = House(config, lambda config, heard: connect(config, heard, cells), say)
    cells.record = lambda name, event: house.engine.event("cell", server=name, **event)
    cells.egress = lambda event: house.engine.event("egress", **event)
    return house, cells


@contextlib.asynccontextmanager
async def reading(config: Config) -> AsyncIterator[Upstreams]:
    """For commands: connections, each with the credential of ours its server is read with.

    Raises ConfigFault, and DependencyFault when the records or the vault cannot be opened.
    """
    async with contextlib.AsyncExitStack() as stack:
        upstreams = connect(config)
        stack.push_async_callback(upstreams.close)
        if needs_keys(config):
            state = State.open(config)
            stack.callback(state.close)
            keys = open_vault(config, state), open_token_keys(config)
            ways = PublicHttp(), PublicHttp(private=True)
            delegation = Delegation(
                state.vault, state.oauth, *ways, lambda event, told: state.tell(event, **told), *keys
            )  # fmt: skip
            stack.push_async_callback(delegation.close)
            delegation.sources(config)
            delegation.serve(upstreams.by_name)
        yield upstreams


async def probe(loaded: Loaded) -> list[tuple[str, bool, str]]:
    """Connect to every server once: name, whether it answered, and what it offers or what is wrong."""
    answers: list[tuple[str, bool, str]] = []
    async with reading(loaded.config) as upstreams:
        for name in upstreams.by_name:
            try:
                said = await upstreams.describe(name)
                answers.append((name, True, f"{said.revision}: {len(said.tools)} tools"))
            except Fault as fault:
                upstream = upstreams.by_name[name]
                last = (
                    upstream.stderr.decode(errors="replace").split("\n") if isinstance(upstream, StdioUpstream) else []
                )
                answers.append((name, False, ": ".join((str(fault), *[one[:300] for one in last if one.strip()][-1:]))))
    return answers


def offer(config: Config, long: LongNames) -> dict[str, Bundle]:
    """What every route for several servers offers, by route; `long` is shared by all of them."""
    return {route: Bundle(servers, long) for route, servers in routes(config.bundles, config.servers).items()}


def site(config: Config, port: int, bundles: Mapping[str, Bundle]) -> Site:
    """Every address we answer at, built from the configuration alone."""
    base = urlsplit(config.listen.url)
    hosts = {base.netloc.lower()}
    origins = {config.listen.url, *config.listen.origins}
    if base.hostname in ("127.0.0.1", "localhost", "::1"):
        hosts |= {f"{host}:{port}" for host in _LOOPBACK}
        origins |= {f"{base.scheme}://{host}:{port}" for host in _LOOPBACK}
    table = endpoints(config.listen.url, config.servers, bundles, frozenset(hosts), frozenset(origins))
    scopes_of = {endpoint.resource: required_scopes(config, endpoint.server) for endpoint in table.values()}
    issuers = config.authorization_servers
    possession = {endpoint.resource: _possession(config, endpoint.server) for endpoint in table.values()}
    metadata: dict[bytes, bytes] = {}
    for endpoint in table.values() if issuers else ():
        resource = endpoint.resource
        offered = offered_scopes(config, endpoint.server)
        document = orjson.dumps(protected_resource_metadata(resource, issuers, offered, possession[resource]))
        paths = well_known_paths(urlsplit(resource).path)
        metadata[paths[0].encode()] = document
        if not endpoint.server:
            metadata[paths[-1].encode()] = document

    def challenged(reason: str, resource: str, public: Mapping[str, Any], dpop: bool) -> str:
        return challenges(
            reason, metadata_url(resource), scopes_of[resource], public, possession=possession[resource], dpop=dpop
        )

    told = config.listen.client_certificate
    certificates = ForwardedCertificates(told.header, told.form, told.networks) if told is not None else None
    trusted = tuple(ip_network(one) for one in config.listen.trusted_proxies)
    secure = base.scheme == "https" or is_loopback(base.hostname or "")
    return Site(table, metadata, challenged, secure, certificates, trusted)


def _possession(config: Config, route: str) -> Possession:
    """What is offered and demanded on a route; no proof is worth anything where no token is."""
    offered = config.identity.dpop.algorithms if config.authorization_servers else ()
    return Possession(offered, config.listen.certificates, config.demands.get(route, frozenset()))


def _gateway(house: House, bundles: Mapping[str, Bundle], long: LongNames) -> Gateway:
    upstreams = house.upstreams
    assert isinstance(upstreams, Upstreams)

    def suspends(server: str) -> bool:
        upstream = upstreams.by_name.get(server)
        return upstream is not None and upstream.revision in HANDSHAKE_REVISIONS

    gateway = Gateway(house.engine, house.continuity, suspends, bundles)
    gateway.on_session_end = upstreams.end_session
    house.on_revoked = lambda: gateway.flights.end(house.revocations.find)

    def changed() -> None:
        # What awaits approval has its name too: a call of it ends the same way on a bundle as on the server's route.
        entries = house.registry.entries()
        long.learn((entry.server, entry.name) for entry in entries if entry.kind in ("tool", "prompt"))
        gateway.changed()

    changed()
    house.on_change = changed
    return gateway


def _background(failed: asyncio.Event, *duties: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    """Long-running duties. One that dies takes the gateway down: better no gateway than one that stopped watching."""

    async def guarded(duty: Coroutine[Any, Any, None]) -> None:
        try:
            await duty
        except Fault as fault:
            say(f"stopping: {fault}")
            failed.set()
        except Exception as error:  # noqa: BLE001 - a bug in a duty is no reason to go on without it
            say(f"stopping: {type(error).__name__}: {error}")
            failed.set()

    return [asyncio.create_task(guarded(duty)) for duty in duties]


def serve(loaded: Loaded, port: int | None = None) -> int:
    """Run the gateway until stopped. Returns the exit status."""
    harden()
    # The ledger's thread waits for the disk and wants the interpreter for microseconds: give it up sooner than 5 ms.
    sys.setswitchinterval(0.0005)
    return uvloop.run(_serve(with_port(loaded, port), port))


async def _serve(loaded: Loaded, port: int | None) -> int:
    config = loaded.config
    host, configured = config.listen.address
    stop, again = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, again.set)
    house, cells = _house(config)
    for issuer, trouble in (await house.issuers.warm()).items():
        say(f"issuer {issuer}: {trouble}; tokens are refused until it answers")
    long = LongNames()
    bundles = offer(config, long)
    gateway = _gateway(house, bundles, long)
    place = site(config, configured, bundles)
    front = Front(house)
    server = HttpServer(HttpSurface(gateway, place, lambda: house.ledger.healthy, *front.open(config)))
    tls = config.listen.tls
    context = None
    if tls is not None:
        authorities = str(tls.client_ca) if tls.client_ca is not None else None
        required = tls.require_client_certificate
        context = tls_context(str(tls.certificate), str(tls.key), authorities, required=required)
    house.engine.event("start", version=__version__, policy=house.engine.corridor.policy)
    watch = await _watch(house)

    def read() -> Config:
        """The file as it is now. Raises ConfigFault."""
        found = with_port(load_config(loaded.path), port).config
        check_consistency(found)
        check_signin(found)
        return found

    def answering(config: Config) -> Callable[[], None]:
        """What makes us answer at the addresses of this configuration. What is under way has its own already."""
        found, pages = offer(config, long), front.open(config)

        def put() -> None:
            bundles.clear()
            bundles.update(found)
            addresses = site(config, configured, bundles)
            server.app = HttpSurface(gateway, addresses, lambda: house.ledger.healthy, *pages)
            house.on_change()

        return put

    def builder(config: Config) -> Callable[[str, ServerConfig], Upstream]:
        return partial(build, cells=cells, launches=launcher(config))

    reload = Reload(house, watch, again, read, builder, answering)
    following = _watched(house)
    _settle_memory()
    await server.start(host, configured, context)
    _announce(house, place, host, configured)
    watches = (
        house.watch_state(),
        house.watch_feeds(),
        _tell(house, config, cells),
        *(one() for one in following),
        *front.duties(),
    )
    tasks = _background(stop, watch.run(), *watches, gateway.sweep(), reload.run())
    await stop.wait()
    say("stopping: finishing calls in flight")
    await server.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    gateway.stopped("asked to")
    await house.close()
    return 0


def _watched(house: House) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """Show what happens to those who watch, and send it to those who follow from elsewhere. Raises ConfigFault."""
    audit, state = house.config.audit, house.state

    def hold(why: str) -> None:
        house.engine.held = why

    exporter = open_exporter(house.config, state, house.record, house.say, hold, house.signer.verifier_key)
    counted, serving = open_metrics(house.config, exporter, house.ledger)
    watches = [*open_watches(house.config, state, house.record, house.say), *counted]
    return [Watcher(audit.path, audit.name, watches, state.cursors, house.say).run, exporter.run, *serving]


async def _tell(house: House, config: Config, cells: Cells) -> None:
    """Say how the local servers are, where `limen servers status` reads it."""
    assert isinstance(house.upstreams, Upstreams)
    upstreams = house.upstreams
    await tell_states(states_path(config), lambda: cells.states(upstreams.states()))


def _settle_memory() -> None:
    """What start-up built stays; the collector need not walk it again, nor look after every 700 objects of a call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _watch(house: House) -> Watch:
    """Begin to read the servers. Slow ones are read on behind."""
    assert isinstance(house.upstreams, Upstreams)
    watch = Watch(house.upstreams, house, house.config.catalog.refresh)
    house.on_announced = watch.heard
    watch.follow()
    await asyncio.wait({asyncio.create_task(watch.settled())}, timeout=FIRST_READING)
    return watch


def _announce(house: House, place: Site, host: str, port: int) -> None:
    """Where we listen, what is loosened, what to do next."""
    from limen.config.model import loosened

    say(f"listening on {host}:{port}")
    for endpoint in place.endpoints.values():
        inside = "" if endpoint.bundle is None or not endpoint.server else f" ({', '.join(endpoint.bundle.servers)})"
        say(f"  {endpoint.server or 'all servers':<20} {endpoint.resource}{inside}")
    for switch in loosened(house.config):
        say(f"LOOSENED {switch}")
    waiting = [entry for entry in house.registry.entries() if entry.state in ("pending", "drifted")]
    if waiting:
        say(f"{len(waiting)} definitions wait for approval: limen tools list; limen tools approve SERVER NAME")


def serve_stdio(loaded: Loaded, name: str) -> int:
    """Offer one server or bundle (or "" for all servers) to a local client over standard input and output."""
    harden()
    return uvloop.run(_serve_stdio(loaded, name))


async def _serve_stdio(loaded: Loaded, name: str) -> int:
    config = loaded.config
    long = LongNames()
    bundles = offer(config, long)
    offered = endpoints(config.listen.url, config.servers, bundles, frozenset(), frozenset())
    endpoint = next((endpoint for endpoint in offered.values() if endpoint.server == name), None)
    if endpoint is None:
        known = ", ".join((*config.servers, *config.bundles))
        raise ConfigFault(f"no server or bundle named {name!r}: {known}", "mcpServers")
    house, cells = _house(config)
    gateway = _gateway(house, bundles, long)
    house.engine.event("start", version=__version__, policy=house.engine.corridor.policy, transport="stdio")
    watch = await _watch(house)
    following = [one() for one in _watched(house)]
    watches = (house.watch_state(), house.watch_feeds(), _tell(house, config, cells), *following)
    tasks = _background(asyncio.Event(), watch.run(), *watches, gateway.sweep())
    surface = StdioSurface(gateway, endpoint, local_user())
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
