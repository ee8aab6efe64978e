"""What the commands about definitions share: which server, which definition, and how servers are read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from limen.cli.context import Misused, Refused, load, run_async
from limen.cli.terminal import complain

if TYPE_CHECKING:
    from limen.catalog.registry import Entry, Registry
    from limen.config.load import Loaded
    from limen.config.model import Config
    from limen.core.announce import Announcement

KINDS: Final = ("tool", "prompt", "resource", "template", "instructions", "server", "set")
NAMELESS: Final = ("instructions", "server", "set")  # one of a server, without a name
T = TypeVar("T")
READ_ONLY: Final = "the gateway runs from a lock; change it there"


def _settings(context: typer.Context) -> Config | None:
    """The configuration, for completion: a shell that asks while nothing fits gets no answer, and no error."""
    from limen.core.faults import Fault

    named = context.params.get("config") or context.find_root().params.get("config")
    try:
        return load(context, Path(named) if named else None).config
    except Fault:
        return None


def complete_server(context: typer.Context, incomplete: str) -> list[str]:
    """Names of configured servers."""
    config = _settings(context)
    return [name for name in (config.mcpServers if config else ()) if name.startswith(incomplete)]


def complete_name(context: typer.Context, incomplete: str) -> list[str]:
    """Names of this server's definitions, from what is recorded: completion reads no server and makes no file."""
    from limen.core.faults import Fault

    config = _settings(context)
    server = context.params.get("from_server") or context.params.get("server") or ""
    if config is None or not (config.storage.path.exists() or config.catalog.lock):
        return []
    try:
        names = [entry.name for entry in open_registry(config).entries(server)]
    except Fault:
        return []
    return sorted({name for name in names if name and name.startswith(incomplete) and name.isprintable()})


ServerArgument = Annotated[
    str, typer.Argument(help="Server, as the configuration names it.", autocompletion=complete_server)
]
NameArgument = Annotated[
    str, typer.Argument(help="Name, as `limen tools list` shows it.", autocompletion=complete_name)
]
ServerOption = Annotated[
    str, typer.Option("--server", "-s", help="The server, instead of in first place.", autocompletion=complete_server)
]
KindOption = Annotated[list[str] | None, typer.Option("--kind", help=f"One of {', '.join(KINDS)}; may be repeated.")]
OneKindOption = Annotated[str, typer.Option("--kind", help="Where one name is used for several kinds.")]


def placed(server: str, name: str, option: str) -> tuple[str, str]:
    """Server and name, with `--server` or by place. Raises Misused when a server is named twice."""
    if not option:
        return server, name
    if name and server != option:
        raise Misused("name the server once: in first place, or with --server")
    return option, name or ("" if server == option else server)


def open_registry(config: Config) -> Registry:
    """The catalog's records, or the lock the configuration names, read-only."""
    from limen.opening import open_registry as opened

    return opened(config)


def opened(context: typer.Context, config: Path | None, server: str) -> tuple[Loaded, Registry]:
    """Configuration and records. Raises Refused for a server the configuration does not have."""
    loaded = load(context, config)
    if server and server not in loaded.config.mcpServers:
        raise Refused(f"no server named {server}; there is {', '.join(loaded.config.mcpServers) or 'none'}")
    return loaded, open_registry(loaded.config)


def writable(loaded: Loaded) -> None:
    """Raises Refused where nothing can be decided."""
    if loaded.config.catalog.lock:
        raise Refused(READ_ONLY)


def wanted(loaded: Loaded, registry: Registry, server: str, refresh: bool) -> list[str]:
    """Servers to read now: all that are asked about, or those of which nothing is known."""
    names = [name for name in loaded.config.servers if server in ("", name)]
    return names if refresh else [name for name in names if not registry.entries(name) and not registry.held(name)]


def read_servers(config: Config, names: Sequence[str], take: Callable[[Announcement], Any]) -> dict[str, str]:
    """Read these servers once and hand over what each says. Name to what went wrong."""
    if not names:
        return {}
    from limen.core.faults import UpstreamError, UpstreamFault
    from limen.gateway.run import reading

    async def read() -> dict[str, str]:
        trouble: dict[str, str] = {}
        async with reading(config) as upstreams:
            for name in watched(names, "reading servers", 2):
                try:
                    take(await upstreams.describe(name))
                except (UpstreamFault, UpstreamError) as fault:
                    trouble[name] = str(fault)
        return trouble

    answer: dict[str, str] = run_async(read())
    return answer


def watched(items: Sequence[T], label: str, least: int = 20) -> Iterator[T]:
    """The items one by one, under a progress bar if somebody is watching and there are at least so many."""
    if len(items) < least or not sys.stderr.isatty():
        yield from items
        return
    with typer.progressbar(items, label=label, file=sys.stderr) as bar:
        yield from bar


def report(trouble: dict[str, str], *, fatal: bool) -> None:
    """Say which servers could not be read; status 3 if nothing can be done without them."""
    for text in trouble.values():
        complain(text)
    if fatal:
        raise typer.Exit(3)


def selected(
    registry: Registry, server: str, name: str, all_: bool, kinds: list[str] | None, digest: str
) -> list[Entry]:
    """What a decision is about. Instructions steer a model like a tool does not: they are always named by kind."""
    if unknown := [kind for kind in kinds or () if kind not in KINDS]:
        raise Misused(f"{unknown[0]} is not a kind; there is {', '.join(KINDS)}")
    if all_:
        if name or digest:
            raise Misused("--all goes with neither a name nor --digest")
        waiting = [one for one in registry.entries(server) if one.pending and one.kind in (kinds or ("tool",))]
        if not waiting:
            raise Refused(f"{server}: nothing waits for a decision")
        return waiting
    if not name and (kinds is None or len(kinds) != 1 or kinds[0] not in NAMELESS):
        raise Misused(f"give a name, --all, or --kind {' or '.join(NAMELESS)}")
    entry = one(registry, server, name, kinds)
    if not entry.pending and not digest:
        raise Refused(f"{server}/{entry.name}: nothing waits for a decision; it is {entry.state}{_because(entry)}")
    return [entry]


def one(registry: Registry, server: str, name: str, kinds: list[str] | None) -> Entry:
    """The one definition of this name. Raises Refused when there is none, Misused when there are several."""
    allowed = kinds or [kind for kind in KINDS if kind not in NAMELESS]
    found = [entry for entry in registry.entries(server) if entry.name == name and entry.kind in allowed]
    if not found:
        held = next((entry.reason for entry in registry.held(server) if entry.name == name), "")
        raise Refused(f"{server}/{name}: {f'held: {held}' if held else 'never announced'}")
    if len(found) > 1:
        raise Misused(f"{name} names several things; say --kind {' or '.join(entry.kind for entry in found)}")
    return found[0]


def label(server: str, kind: str, name: str) -> str:
    """How one definition is named in a line."""
    return f"{server}/{name}" if name else f"{server}/{kind}"


def full_digest(registry: Registry, entry: Entry, digest: str) -> str:
    """The kept version this digest names, by its first eight characters or more. For looking only: a decision names
    all of it, because a server can make a definition that shares a few."""
    versions = registry.versions(entry.server, entry.kind, entry.name)
    found = [version.digest for version in versions if version.digest.startswith(digest)]
    if len(digest) < 8 or not found:
        raise Refused(f"{label(entry.server, entry.kind, entry.name)}: no kept version has the digest {digest}")
    if len(found) > 1:
        raise Misused(f"{digest} is the start of {len(found)} digests; give more of it")
    return found[0]


def _because(entry: Entry) -> str:
    why = entry.held or entry.withheld
    return f": {why}" if why else ""
