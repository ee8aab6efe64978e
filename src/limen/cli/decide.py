"""`limen tools approve`, `reject` and `rollback`: what a person decides, after being shown what it would mean."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, ReasonOption, Refused, user
from limen.cli.definitions import (
    KindOption,
    NameArgument,
    ServerArgument,
    ServerOption,
    label,
    one,
    opened,
    placed,
    read_servers,
    report,
    selected,
    wanted,
    watched,
    writable,
)
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.catalog.registry import Entry, Registry

EFFECTS: Final = ("read", "write", "destructive", "unknown")
_ASK_FROM: Final = "high"
AllOption = Annotated[bool, typer.Option("--all", help="All that wait; of kind tool unless --kind says more.")]
DigestOption = Annotated[str, typer.Option(help="This version, by its whole digest, instead of the one that waits.")]


def approve(
    context: typer.Context,
    server: ServerArgument = "",
    name: NameArgument = "",
    from_server: ServerOption = "",
    all_: AllOption = False,
    kind: KindOption = None,
    effect: Annotated[str, typer.Option(help=f"What it does: {', '.join(EFFECTS)}.")] = "",
    durable: Annotated[bool, typer.Option("--durable", help="Calls wait until their intent is on disk.")] = False,
    digest: DigestOption = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, however great the risk.")] = False,
    reason: ReasonOption = "",
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put what waits into service, after showing its risk.

    Example: limen tools approve files rm --effect destructive --reason "read it"
    On a terminal a high risk is asked about first, unless --yes. The first --all of a server also approves what the
    server is and the set of what it announces.
    Status: 0 approved, or one of several approvals recorded; 1 refused; 2 usage, or a reason is needed; 3 the server
    could not be read.
    """
    server, name = _server(placed(server, name, from_server))
    if effect and effect not in EFFECTS:
        raise typer.BadParameter(f"effect is one of {', '.join(EFFECTS)}")
    loaded, registry = opened(context, config, server)
    writable(loaded)
    trouble = read_servers(loaded.config, wanted(loaded, registry, server, refresh=False), registry.observe)
    report(trouble, fatal=bool(trouble))
    entries = selected(registry, server, name, all_, kind, digest)
    also = _first_of(registry, server, entries) if all_ else []
    _warn(registry, [*entries, *also], digest, ask=not (yes or as_json), quiet=as_json)
    security = loaded.config.mcpServers[server].security
    made: dict[str, list[dict[str, Any]]] = {"approved": [], "waiting": [], "also": []}
    for entry in watched([*entries, *also], "approving"):
        decided = effect or (security.effects.get(entry.name) if entry.kind == "tool" else None)
        told = _approve(
            registry, entry, user(by), reason, digest or entry.pending, decided, durable or security.durable, made
        )
        into = "waiting" if "needed" in told else "also" if entry in also else "approved"
        made[into].append(told)
    if as_json:
        emit(made)
        return
    if made["approved"]:
        table(("server", "kind", "name", "effect", "digest"), made["approved"])
    for each in made["also"]:
        line(f"also approved, as the first of {server}: its {_NAMELESS.get(each['kind'], each['kind'])}")
    for each in made["waiting"]:
        votes = ", ".join(each["votes"])
        place = label(each["server"], each["kind"], each["name"])
        line(f"{place}: approved by {votes}; {each['needed']} more of other people needed")
    line(f"approved: {len(made['approved'])}")


def reject(
    context: typer.Context,
    server: ServerArgument = "",
    name: NameArgument = "",
    from_server: ServerOption = "",
    all_: AllOption = False,
    kind: KindOption = None,
    digest: DigestOption = "",
    reason: ReasonOption = "",
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse what waits; with --digest take an approved version out of service.

    Example: limen tools reject files rm --reason "sends notes elsewhere"
    Status: 0 rejected, 1 refused, 2 usage.
    """
    from limen.catalog.registry import NothingPending

    server, name = _server(placed(server, name, from_server))
    loaded, registry = opened(context, config, server)
    writable(loaded)
    done: list[dict[str, Any]] = []
    for entry in watched(selected(registry, server, name, all_, kind, digest), "rejecting"):
        try:
            chosen = registry.reject(server, entry.kind, entry.name, user(by), reason, digest or entry.pending)
        except (NothingPending, ValueError) as error:
            raise Refused(_after(done, str(error))) from None
        done.append(_told(entry, chosen))
    _say_done("rejected", done, as_json)


def rollback(
    context: typer.Context,
    server: ServerArgument = "",
    name: NameArgument = "",
    from_server: ServerOption = "",
    kind: KindOption = None,
    steps: Annotated[int, typer.Option(min=1, help="How many approved versions to go back.")] = 1,
    reason: ReasonOption = "",
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the version approved before back into service. Forward again: approve --digest.

    Status: 0 done, 1 refused or there is no earlier one, 2 usage, or a reason is needed.
    Example: limen tools rollback files read_file --steps 2 --reason "the new one fails"
    """
    from limen.catalog.registry import NeedsReason, NothingPending

    server, name = _server(placed(server, name, from_server))
    loaded, registry = opened(context, config, server)
    writable(loaded)
    entry = one(registry, server, name, kind)
    try:
        approved = registry.rollback(server, entry.kind, entry.name, user(by), reason, steps)
    except NeedsReason as error:
        raise Misused(f"{error}; give --reason") from None
    except (NothingPending, ValueError) as error:
        raise Refused(str(error)) from None
    _say_done("rolled back", [_told(entry, approved.digest, effect=approved.effect)], as_json)


def print_risk(risk: Mapping[str, Any]) -> None:
    """Level, score and reasons of one assessment. Texts in it are a server's: letters that pose as others are named."""
    from limen.catalog.visible import visible

    line(f"risk {risk['level']} ({risk['score']:.2f})", red=_serious(str(risk["level"])))
    for finding in risk["findings"]:
        line(f"  {finding['id']} {visible(finding['path'] or '/')}: {visible(finding['detail'])}")


_NAMELESS: Final = {"server": "identity", "set": "list of definitions", "instructions": "instructions"}


def _server(place: tuple[str, str]) -> tuple[str, str]:
    if not place[0]:
        raise Misused("give a server, in first place or with --server")
    return place


def _first_of(registry: Registry, server: str, chosen: Sequence[Entry]) -> list[Entry]:
    """The server's own records, if nobody has ever approved them."""
    places = {(entry.kind, entry.name) for entry in chosen}
    return [
        entry
        for entry in registry.entries(server)
        if entry.kind in ("server", "set") and entry.pending and not entry.approved
        if (entry.kind, entry.name) not in places
    ]


def _serious(level: str) -> bool:
    from limen.catalog.govern import at_least

    return at_least(level, _ASK_FROM)


def _warn(registry: Registry, entries: Sequence[Entry], digest: str, *, ask: bool, quiet: bool) -> None:
    """Show the risk of each before anything is decided, and ask a person at a terminal about the great ones."""
    from limen.catalog.registry import NothingPending

    serious = 0
    for entry in entries:
        try:
            risk = registry.assessment(entry.server, entry.kind, entry.name, digest or entry.pending)
        except NothingPending as error:
            raise Refused(str(error)) from None
        serious += _serious(risk.level)
        if not quiet:
            line(f"{label(entry.server, entry.kind, entry.name)} ({entry.kind})")
            print_risk(asdict(risk))
    if serious and ask and sys.stdin.isatty() and sys.stdout.isatty():
        what = "This is" if len(entries) == 1 else f"{serious} of these are"
        if not typer.confirm(f"{what} of {_ASK_FROM} risk or more. Approve all the same?"):
            raise Refused("nothing was approved")


def _approve(
    registry: Registry,
    entry: Entry,
    by: str,
    reason: str,
    digest: str,
    effect: str | None,
    durable: bool,
    made: Mapping[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    """One approval, or one voice of several. What stands is told when a later one fails."""
    from limen.catalog.registry import NeedsReason, NothingPending, Vote

    done = [each for several in made.values() for each in several]
    try:
        answer = registry.approve(
            entry.server, entry.kind, entry.name, by, reason, digest, effect, durable, source="cli"
        )
    except NeedsReason as error:
        raise Misused(_after(done, f"{error}; give --reason")) from None
    except (NothingPending, ValueError) as error:
        raise Refused(_after(done, str(error))) from None
    if isinstance(answer, Vote):
        return _told(entry, digest, votes=list(answer.votes), needed=answer.needed)
    return _told(entry, answer.digest, effect=answer.effect)


def _told(entry: Entry, digest: str, **more: Any) -> dict[str, Any]:
    return {"server": entry.server, "kind": entry.kind, "name": entry.name, "digest": digest, **more}


def _after(done: Sequence[dict[str, Any]], text: str) -> str:
    return f"{text} ({len(done)} decided before this one)" if done else text


def _say_done(verb: str, done: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        emit({verb.replace(" ", "_"): done})
        return
    table(("server", "kind", "name", "effect", "digest"), done)
    line(f"{verb}: {len(done)}")
