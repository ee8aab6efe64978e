"""`limen tools`: what servers offer, what changed, and who said yes to it.

Definitions are written by strangers. What is printed is escaped; what is approved is pinned by the digest that was
looked at, so a server cannot exchange a definition between looking and approving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import (
    ByOption,
    ConfigOption,
    JsonOption,
    Misused,
    ReasonOption,
    Refused,
    group,
    load,
    run_async,
    user,
)
from limen.cli.terminal import complain, emit, line, table

if TYPE_CHECKING:
    from limen.catalog.registry import Entry, Registry
    from limen.config.load import Loaded

app = group("What servers offer, and what of it is approved.")
KINDS: Final = ("tool", "prompt", "resource", "template", "instructions")
EFFECTS: Final = ("read", "write", "destructive", "unknown")
_COLUMNS: Final = ("server", "kind", "name", "state", "effect", "digest", "note")
ServerArgument = Annotated[str, typer.Argument(help="Server, as the configuration names it.")]
NameArgument = Annotated[str, typer.Argument(help="Name, as `limen tools list` shows it.")]
KindOption = Annotated[list[str] | None, typer.Option("--kind", help=f"One of {', '.join(KINDS)}; may be repeated.")]
AllOption = Annotated[bool, typer.Option("--all", help="All that wait; of kind tool unless --kind says more.")]
DigestOption = Annotated[str, typer.Option(help="This version instead of the one that waits.")]


@app.command("list")
def list_(
    context: typer.Context,
    server: Annotated[str, typer.Argument(help="Only this server.")] = "",
    refresh: Annotated[bool, typer.Option("--refresh", help="Read the servers again first.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every definition and its state. A server never read before is read now. Example: limen tools list files"""
    loaded, registry = _open(context, config, server)
    trouble = _read(loaded, registry, _wanted(loaded, registry, server, refresh))
    entries = registry.entries(server or None)
    held = {name: registry.held(name) for name in ([server] if server else loaded.config.servers)}
    if as_json:
        rows = [asdict(entry) for entry in entries]
        emit(
            {
                "entries": rows,
                "held": {name: [asdict(one) for one in rest] for name, rest in held.items()},
                "trouble": trouble,
            }
        )
    else:
        table(_COLUMNS, [_row(entry) for entry in entries], red="loud")
        for name, rest in held.items():
            for one in rest:
                line(f"held: {name} {one.kind} {one.name}: {one.reason}", red=True)
    _report(trouble, fatal=bool(trouble) and not entries)


@app.command()
def diff(
    context: typer.Context,
    server: ServerArgument,
    name: NameArgument = "",
    kind: Annotated[str, typer.Option(help="Where one name is used for several kinds.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what waits against what is approved. Status 1 if they differ. Example: limen tools diff files read_file"""
    from limen.catalog.registry import NothingPending

    _, registry = _open(context, config, server)
    entry = _one(registry, server, name, [kind] if kind else None)
    if not entry.pending:
        if as_json:
            emit({"before": entry.approved, "after": entry.approved, "changes": []})
        else:
            line(f"nothing waits; {entry.state}")
        return
    try:
        difference = registry.diff(server, entry.kind, entry.name)
    except NothingPending as error:
        raise Refused(str(error)) from None
    if as_json:
        emit(asdict(difference))
    else:
        line(f"approved {difference.before or 'nothing'}")
        line(f"waiting  {difference.after}")
        for change in difference.changes:
            line(change.path or "/")
            for sign, text in (("-", change.before), ("+", change.after)):
                if text is not None:
                    line(f"  {sign} {text}")
    raise typer.Exit(1)


@app.command()
def approve(
    context: typer.Context,
    server: ServerArgument,
    name: NameArgument = "",
    all_: AllOption = False,
    kind: KindOption = None,
    effect: Annotated[str, typer.Option(help=f"What it does: {', '.join(EFFECTS)}.")] = "",
    durable: Annotated[bool, typer.Option("--durable", help="Calls wait until their intent is on disk.")] = False,
    digest: DigestOption = "",
    reason: ReasonOption = "",
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put what waits into service. Example: limen tools approve files read_file --effect read --reason reviewed"""
    from limen.catalog.registry import NothingPending

    if effect and effect not in EFFECTS:
        raise typer.BadParameter(f"effect is one of {', '.join(EFFECTS)}")
    loaded, registry = _open(context, config, server)
    trouble = _read(loaded, registry, _wanted(loaded, registry, server, refresh=False))
    _report(trouble, fatal=bool(trouble))
    security = loaded.config.mcpServers[server].security
    done: list[dict[str, Any]] = []
    for entry in _selected(registry, server, name, all_, kind, digest):
        decided = effect or (security.effects.get(entry.name) if entry.kind == "tool" else None)
        try:
            approved = registry.approve(
                server,
                entry.kind,
                entry.name,
                user(by),
                reason,
                digest or entry.pending,
                decided,
                durable or security.durable,
            )
        except (NothingPending, ValueError) as error:
            raise Refused(_after(done, str(error))) from None
        done.append(_told(approved.server, approved.kind, approved.name, approved.digest, effect=approved.effect))
    _say_done("approved", done, as_json, ("server", "kind", "name", "effect", "digest"))


@app.command()
def reject(
    context: typer.Context,
    server: ServerArgument,
    name: NameArgument = "",
    all_: AllOption = False,
    kind: KindOption = None,
    digest: DigestOption = "",
    reason: ReasonOption = "",
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse what waits; with --digest take an approved version out of service. Example: limen tools reject files rm"""
    from limen.catalog.registry import NothingPending

    _, registry = _open(context, config, server)
    done: list[dict[str, Any]] = []
    for entry in _selected(registry, server, name, all_, kind, digest):
        try:
            chosen = registry.reject(server, entry.kind, entry.name, user(by), reason, digest or entry.pending)
        except (NothingPending, ValueError) as error:
            raise Refused(_after(done, str(error))) from None
        done.append(_told(server, entry.kind, entry.name, chosen))
    _say_done("rejected", done, as_json, ("server", "kind", "name", "digest"))


def _open(context: typer.Context, config: Path | None, server: str) -> tuple[Loaded, Registry]:
    from limen.assemble import open_registry

    loaded = load(context, config)
    if server and server not in loaded.config.mcpServers:
        raise Refused(f"no server named {server}; there is {', '.join(loaded.config.mcpServers) or 'none'}")
    return loaded, open_registry(loaded.config)


def _wanted(loaded: Loaded, registry: Registry, server: str, refresh: bool) -> list[str]:
    """Servers to read now: all that are asked about, or those of which nothing is known."""
    names = [name for name in loaded.config.servers if server in ("", name)]
    return names if refresh else [name for name in names if not registry.entries(name) and not registry.held(name)]


def _read(loaded: Loaded, registry: Registry, names: Sequence[str]) -> dict[str, str]:
    """Read these servers once. Name to what went wrong."""
    if not names:
        return {}
    from limen.core.faults import UpstreamError, UpstreamFault
    from limen.gateway.run import connect

    async def read() -> dict[str, str]:
        upstreams, trouble = connect(loaded.config), {}
        try:
            for name in names:
                try:
                    registry.observe(await upstreams.describe(name))
                except (UpstreamFault, UpstreamError) as fault:
                    trouble[name] = str(fault)
        finally:
            await upstreams.close()
        return trouble

    answer: dict[str, str] = run_async(read())
    return answer


def _report(trouble: dict[str, str], *, fatal: bool) -> None:
    for text in trouble.values():
        complain(text)
    if fatal:
        raise typer.Exit(3)


def _selected(
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
    if not name and kinds != ["instructions"]:
        raise Misused("give a name, --all, or --kind instructions")
    entry = _one(registry, server, name, kinds)
    if not entry.pending and not digest:
        raise Refused(f"{server}/{entry.name}: nothing waits for a decision; it is {entry.state}{_because(entry)}")
    return [entry]


def _one(registry: Registry, server: str, name: str, kinds: list[str] | None) -> Entry:
    wanted = kinds or [kind for kind in KINDS if kind != "instructions"]
    found = [one for one in registry.entries(server) if one.name == name and one.kind in wanted]
    if not found:
        held = next((one.reason for one in registry.held(server) if one.name == name), "")
        raise Refused(f"{server}/{name}: {f'held: {held}' if held else 'never announced'}")
    if len(found) > 1:
        raise Misused(f"{name} names several things; say --kind {' or '.join(one.kind for one in found)}")
    return found[0]


def _because(entry: Entry) -> str:
    why = entry.held or entry.withheld
    return f": {why}" if why else ""


def _row(entry: Entry) -> dict[str, Any]:
    note = entry.held or entry.withheld or (f"waits: {entry.pending[:12]}" if entry.approved and entry.pending else "")
    shown = {**asdict(entry), "digest": (entry.approved or entry.pending)[:12], "note": note}
    return {**shown, "loud": entry.state in ("drifted", "held")}


def _told(server: str, kind: str, name: str, digest: str, **more: str) -> dict[str, Any]:
    return {"server": server, "kind": kind, "name": name, "digest": digest, **more}


def _after(done: Sequence[dict[str, Any]], text: str) -> str:
    return f"{text} ({len(done)} decided before this one)" if done else text


def _say_done(verb: str, done: list[dict[str, Any]], as_json: bool, columns: Sequence[str]) -> None:
    if as_json:
        emit({verb: done})
        return
    table(columns, done)
    line(f"{verb}: {len(done)}")
