"""`limen tools`: what servers offer, what changed, and who said yes to it.

Definitions are written by strangers. What is printed is escaped; what is approved is pinned by the digest that was
looked at, so a server cannot exchange a definition between looking and approving.
"""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli import decide, lock
from limen.cli.context import ConfigOption, JsonOption, Refused, group
from limen.cli.definitions import (
    NAMELESS,
    NameArgument,
    OneKindOption,
    ServerArgument,
    ServerOption,
    full_digest,
    label,
    one,
    opened,
    placed,
    read_servers,
    report,
    wanted,
)
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.catalog.findings import Assessment
    from limen.catalog.registry import Entry, Registry

app = group("What servers offer, and what of it is approved.")
app.command()(decide.approve)
app.command()(decide.reject)
app.command()(decide.rollback)
app.command()(lock.lock)
_COLUMNS: Final = ("server", "kind", "name", "state", "effect", "digest", "risk", "note")
_HISTORY: Final = ("sequence", "at", "by", "event", "server", "kind", "name", "digest", "reason")
_VERSIONS: Final = ("digest", "state", "first_seen", "by", "at", "source", "reason")


@app.command("list")
def list_(
    context: typer.Context,
    server: ServerArgument = "",
    from_server: ServerOption = "",
    waiting: Annotated[bool, typer.Option("--waiting", help="Only what waits for a decision.")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Read the servers again first.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every definition, its state and risk. A server never read before is read now.

    Example: limen tools list files --waiting
    Status: 0 shown, 1 no such server, 2 usage, 3 nothing could be read.
    """
    server, _ = placed(server, "", from_server)
    loaded, registry = opened(context, config, server)
    trouble = read_servers(loaded.config, wanted(loaded, registry, server, refresh), registry.observe)
    every = registry.entries(server or None)
    entries = [entry for entry in every if entry.pending or not waiting]
    held = {name: registry.held(name) for name in ([server] if server else loaded.config.servers)}
    if as_json:
        rest = {name: [asdict(each) for each in found] for name, found in held.items()}
        emit({"entries": [asdict(entry) for entry in entries], "held": rest, "trouble": trouble})
    else:
        table(_COLUMNS, [_row(entry) for entry in entries], red="loud")
        for name, found in held.items():
            for each in found:
                line(f"held: {name} {each.kind} {each.name}: {each.reason}", red=True)
    report(trouble, fatal=bool(trouble) and not every)


@app.command()
def show(
    context: typer.Context,
    server: ServerArgument = "",
    name: NameArgument = "",
    from_server: ServerOption = "",
    kind: OneKindOption = "",
    digest: Annotated[str, typer.Option(help="This version; default: the approved one, else the one waiting.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print one definition in full, marked where it could deceive.

    Example: limen tools show files read_file
    Status: 0 shown, 1 no such definition, 2 usage.
    """
    from limen.catalog.present import diff_lines

    entry, registry = _named(context, config, placed(server, name, from_server), kind)
    chosen = full_digest(registry, entry, digest) if digest else entry.approved or entry.pending
    if not chosen:
        raise Refused(f"{label(entry.server, entry.kind, entry.name)}: nothing to show; it is {entry.state}")
    content = registry.definition(entry.server, entry.kind, entry.name, chosen)
    if as_json:
        emit({**asdict(entry), "digest": chosen, "definition": json.loads(content)})
        return
    place = (entry.server, entry.kind, entry.name)
    standing = {entry.pending: "waits", entry.approved: "is approved"}.get(chosen, "is neither approved nor waiting")
    line(f"{label(*place)} ({entry.kind}), {entry.state}; this version {standing}")
    for about, text in (("effect", entry.effect), ("withheld", entry.withheld), ("held", entry.held)):
        if text:
            line(f"{about}: {text}")
    for text in diff_lines(None, content, server=entry.server, kind=entry.kind, name=entry.name):
        line(text)


@app.command()
def diff(
    context: typer.Context,
    server: ServerArgument = "",
    name: NameArgument = "",
    from_server: ServerOption = "",
    kind: OneKindOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what waits against what is approved, with its risk. Without a name: everything that waits.

    Status: 0 nothing differs, 1 something waits, or there is no such definition, 2 usage.
    Example: limen tools diff files read_file
    """
    server, name = placed(server, name, from_server)
    if name or kind in NAMELESS:
        entry, registry = _named(context, config, (server, name), kind)
        if not entry.pending and as_json:
            emit({"before": entry.approved, "after": entry.approved, "changes": [], "lines": []})
        elif not entry.pending:
            line(f"nothing waits; {entry.state}")
        else:
            found = _difference(registry, entry)
            emit(found) if as_json else _print_difference(found)
        raise typer.Exit(1 if entry.pending else 0)
    _, registry = opened(context, config, server)
    waiting = [each for each in registry.entries(server or None) if each.pending and kind in ("", each.kind)]
    every = [_difference(registry, each) for each in waiting]
    if as_json:
        emit({"differences": every})
    for each in () if as_json else every:
        _print_difference(each)
    if not every and not as_json:
        line("nothing waits")
    raise typer.Exit(1 if every else 0)


@app.command()
def history(
    context: typer.Context,
    server: ServerArgument = "",
    name: NameArgument = "",
    from_server: ServerOption = "",
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="The last so many rows; 0: all.")] = 50,
    after: Annotated[int, typer.Option(min=0, help="Only rows after this sequence number.")] = 0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was seen and who decided what, oldest first.

    Example: limen tools history files read_file -n 10
    Status: 0 shown, 1 no such server, 2 usage.
    """
    server, name = placed(server, name, from_server)
    _, registry = opened(context, config, server)
    rows = [asdict(row) for row in deque(registry.history(after, server or None, name=name), maxlen=count or None)]
    if as_json:
        emit(rows)
    else:
        table(_HISTORY, [{**row, "at": moment(row["at"]), "digest": row["digest"][:12]} for row in rows])


@app.command()
def versions(
    context: typer.Context,
    server: ServerArgument = "",
    name: NameArgument = "",
    from_server: ServerOption = "",
    kind: OneKindOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every kept version of one definition, with who decided about it.

    Example: limen tools versions files read_file
    Status: 0 shown, 1 no such definition, 2 usage.
    """
    entry, registry = _named(context, config, placed(server, name, from_server), kind)
    rows = [asdict(version) for version in registry.versions(entry.server, entry.kind, entry.name)]
    if as_json:
        emit(rows)
    else:
        times = [{"at": moment(row["at"]), "first_seen": moment(row["first_seen"])} for row in rows]
        table(_VERSIONS, [{**row, **when} for row, when in zip(rows, times, strict=True)])


def moment(seconds: float) -> str:
    """A time for people, UTC; "" for never."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) if seconds else ""


def _named(context: typer.Context, config: Any, place: tuple[str, str], kind: str) -> tuple[Entry, Registry]:
    from limen.cli.context import Misused

    server, name = place
    if not server or not (name or kind in NAMELESS):
        raise Misused(f"give a server and a name, or --kind {' or '.join(NAMELESS)}")
    _, registry = opened(context, config, server)
    return one(registry, server, name, [kind] if kind else None), registry


def _difference(registry: Registry, entry: Entry) -> dict[str, Any]:
    """What waits against what is approved: the changes for programs, the lines for people, and the risk."""
    from limen.catalog.present import diff_lines
    from limen.catalog.registry import NothingPending

    place = (entry.server, entry.kind, entry.name)
    try:
        difference = registry.diff(*place)
        before = registry.definition(*place, difference.before) if difference.before else None
        after = registry.definition(*place, difference.after)
        risk: Assessment = registry.assessment(*place, difference.after)
    except NothingPending as error:  # decided by somebody else in this moment
        raise Refused(str(error)) from None
    return {
        "server": entry.server,
        "kind": entry.kind,
        "name": entry.name,
        **asdict(difference),
        "lines": diff_lines(before, after, server=entry.server, kind=entry.kind, name=entry.name, assessment=risk),
        "risk": asdict(risk),
        "votes": list(entry.votes),
    }


def _print_difference(found: dict[str, Any]) -> None:
    line(f"{label(found['server'], found['kind'], found['name'])} ({found['kind']})")
    line(f"approved {found['before'] or 'nothing'}")
    line(f"waiting  {found['after']}")
    for text in found["lines"]:
        line(text)
    if found["votes"]:
        line(f"approved so far by {', '.join(found['votes'])}")


def _row(entry: Entry) -> dict[str, Any]:
    notes = [entry.held or entry.withheld]
    if entry.pending and (entry.approved or entry.votes):
        notes.append(f"waits: {entry.pending[:12]}")
    if entry.votes:
        notes.append(f"approved so far by {', '.join(entry.votes)}")
    if entry.approved and entry.expires:
        notes.append(f"good until {moment(entry.expires)}")
    shown = {**asdict(entry), "digest": (entry.approved or entry.pending)[:12], "note": "; ".join(filter(None, notes))}
    loud = entry.state in ("drifted", "held") or entry.risk in ("high", "critical")
    return {**shown, "loud": loud}
