"""`limen audit followers`: how far everybody has come who gets the log."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from limen.cli.context import ConfigOption, JsonOption, Refused, opened
from limen.cli.terminal import emit, line


def followers(
    context: typer.Context,
    forget: Annotated[
        str, typer.Option(metavar="NAME", help="Drop the cursor of one that is not in the configuration any more.")
    ] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show each follower's lag, last success and last error; status 1 if one is behind. Example: limen audit followers

    Cursors of followers that were taken out of the configuration are shown too: the log is kept for them until they
    are forgotten.
    """
    from limen.audit.follow import cursor_key, read_standing, state_key
    from limen.audit.logs import name_of

    with opened(context, config) as (settings, state):
        log = name_of(settings.audit.path, settings.audit.name)
        known = {one.name: one.kind for one in settings.audit.followers}
        limits = {one.name: one.limit for one in settings.audit.followers}
        before = cursor_key(log, "")
        kept = {key.removeprefix(before): int(value) for key, value in state.cursors.scan(before)}
        if forget:
            if forget in known or forget not in kept:
                raise Refused(f"{forget}: {'is in the configuration' if forget in known else 'no such follower'}")
            for key in (cursor_key(log, forget), state_key(log, forget)):
                state.cursors.swap(key, state.cursors.get(key), None)
            state.tell("follower", act="forgotten", name=forget, next=kept[forget])
            line(f"{forget}: forgotten at record {kept[forget]}")
            return
        now, rows = time.time(), list[dict[str, Any]]()
        for name in sorted({*known, *kept}):
            standing = read_standing(state.cursors.get(state_key(log, name)))
            records, seconds = standing.lag(now)
            # What it told last may be older than its being behind.
            late = standing.behind or bool(records and name in limits and limits[name].exceeded(records, seconds))
            row = {"name": name, "kind": known.get(name, ""), "next": kept.get(name, 0), "records_behind": records}
            row |= {"seconds_behind": round(seconds, 1), "behind": late, "sent": standing.sent}
            row |= {"dead_letters": standing.dead, "last_success": standing.success or None}
            rows.append({**row, "last_error": standing.error or None, "failures": standing.failures})
    if as_json:
        emit(rows)
    else:
        _show(rows, now)
    if any(row["behind"] for row in rows if row["kind"]):
        raise typer.Exit(1)


def _show(rows: list[dict[str, Any]], now: float) -> None:
    if not rows:
        line("nobody follows this log; see audit.followers in the configuration")
    for row in rows:
        about = row["kind"] or "not configured any more: limen audit followers --forget " + row["name"]
        sent = f"{now - row['last_success']:.0f} s ago" if row["last_success"] else "never"
        text = f"{row['name']} ({about}): at record {row['next']}, {row['records_behind']} behind, last sent {sent}"
        dead = f", {row['dead_letters']} put aside" if row["dead_letters"] else ""
        error = f"; {row['last_error']}" if row["last_error"] else ""
        line(f"{text}{dead}{error}", red=bool(row["behind"]))
