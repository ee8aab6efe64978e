"""`limen signins`: the flight recorder. Every attempt to sign in, how far it came, and what to do about it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ConfigOption, JsonOption, Refused, group, load
from limen.cli.terminal import block, emit, line, table

if TYPE_CHECKING:
    from limen.core.ports import Kept

app = group("Attempts to sign in, step by step.")
_COLUMNS: Final = ("id", "last", "client", "user", "resource", "leg", "state", "outcome")
_EVERY: Final = 1.0  # seconds between looks of `watch`
FailedOption = Annotated[bool, typer.Option("--failed", help="Only those that ended with an error.")]
ServerOption = Annotated[str, typer.Option(help="Only of this server or bundle.")]
UserOption = Annotated[str, typer.Option(help="Only of this person (subject).")]
ClientOption = Annotated[str, typer.Option(help="Only of this client.")]
MostOption = Annotated[int, typer.Option("--count", "-n", min=1, max=10_000, help="The newest so many.")]


def _open(context: typer.Context, config: Path | None) -> Kept:
    from limen.storage import State

    return State.open(load(context, config).config).attempts


def summary(id: str, row: dict[str, Any], now: float) -> dict[str, Any]:
    """One attempt in one line: where it is, or where it ended."""
    from limen.oauth.attempts import newest, state
    from limen.oauth.remedies import remedy

    last = newest(row)
    return {
        "id": id, "began": _when(row["at"]), "last": _when(row["last"]), "client": row["client"], "user": row["user"],
        "resource": row["resource"], "address": row["address"], "leg": last["leg"], "state": state(row, now),
        "outcome": last["outcome"], "field": last["field"],
        "remedy": remedy(last["leg"], last["outcome"], last["field"], last["detail"]),
    }  # fmt: skip


def _chosen(
    context: typer.Context, config: Path | None, failed: bool, server: str, user: str, client: str
) -> list[dict[str, Any]]:
    from limen.oauth.attempts import kept

    now = time.time()
    rows = [summary(id, row, now) for id, row in kept(_open(context, config))]
    return [
        row
        for row in sorted(rows, key=lambda row: (str(row["last"]), str(row["id"])))
        if (not failed or row["state"] == "failed")
        and (not server or row["resource"].endswith(f"/mcp/{server}"))
        and (not user or row["user"] == user)
        and (not client or row["client"] == client)
    ]


@app.command("list")
def list_(
    context: typer.Context,
    failed: FailedOption = False,
    server: ServerOption = "",
    user: UserOption = "",
    client: ClientOption = "",
    most: MostOption = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """One line for each attempt, the newest last. Example: limen signins list --failed --server hr"""
    rows = _chosen(context, config, failed, server, user, client)[-most:]
    if as_json:
        emit(rows)
    else:
        table(_COLUMNS, [{**row, "bad": row["state"] == "failed"} for row in rows], red="bad")


@app.command()
def show(
    context: typer.Context,
    id: Annotated[str, typer.Argument(help="Id, as `limen signins list` shows it; `last` is the newest.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every step of one attempt, with what was wrong and what to do. Example: limen signins show last"""
    from limen.oauth.attempts import find, kept
    from limen.oauth.remedies import remedy

    attempts = _open(context, config)
    if id == "last":
        latest = max(kept(attempts), key=lambda found: found[1]["last"], default=None)
        id = latest[0] if latest is not None else id
    row = find(attempts, id)
    if row is None:
        raise Refused(f"no attempt {id!r}: limen signins list")
    steps = [
        {**step, "remedy": remedy(step["leg"], step["outcome"], step["field"], step["detail"])} for step in row["steps"]
    ]
    if as_json:
        told = {name: row[name] for name in ("resource", "client", "user", "address", "agent", "transaction", "grant")}
        emit({**summary(id, row, time.time()), **told, "steps": steps, "more": row["more"]})
        return
    about = summary(id, row, time.time())
    line(f"{id}: {about['state']}")
    for name in ("resource", "client", "user", "address", "agent"):
        line(f"  {name:<9}{row[name] or '-'}")
    for step in steps:
        _rung(step)
    if row["more"]:
        line(f"  and {row['more']} more steps that were not kept")


def _rung(step: dict[str, Any]) -> None:
    """One step of the ladder."""
    bad = step["outcome"] != "ok"
    times = f" (x{step['times']})" if step["times"] > 1 else ""
    wrong = f" [{step['field']}]" if step["field"] else ""
    line(f"  {_when(step['at'])}  {'x' if bad else '|'} {step['leg']:<18}{step['outcome']}{wrong}{times}", red=bad)
    indent = " " * 25
    if step["detail"]:
        line(f"{indent}{step['detail']}")
    if step["remedy"]:
        block(f"{indent}-> {step['remedy']}")


@app.command()
def watch(
    context: typer.Context,
    failed: FailedOption = False,
    server: ServerOption = "",
    user: UserOption = "",
    client: ClientOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Follow attempts as they go on, until interrupted. Example: limen signins watch --failed"""
    seen: dict[str, Any] = {row["id"]: row for row in _chosen(context, config, False, server, user, client)}
    try:
        while True:
            time.sleep(_EVERY)
            for row in _chosen(context, config, False, server, user, client):
                if seen.get(row["id"]) != row and not (failed and row["state"] != "failed"):
                    _tell(row, as_json)
                seen[row["id"]] = row
    except KeyboardInterrupt:
        raise typer.Exit from None


def _tell(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(row)
        return
    wrong = f" [{row['field']}]" if row["field"] else ""
    who = f"{row['client'] or '?'} {row['user'] or '?'} {row['resource']}"
    line(f"{row['last']} {row['id']} {who}: {row['leg']} {row['outcome']}{wrong}", red=row["state"] == "failed")
    if row["remedy"]:
        line(f"  -> {row['remedy']}")


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
