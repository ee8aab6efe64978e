"""`limen audit prune`, `hold`, `logs`: what is kept, for how long, and who may end that."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer

from limen.cli.audit_query import moment
from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, ReasonOption, Refused, group, opened, user
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.audit.prune import Pruning
    from limen.config.model import Config
    from limen.storage import State

hold_app = group("What must not be removed, whatever its age.")
_HOLDS: Final = ("id", "kind", "value", "issuer", "since", "until", "by", "reason", "lifting")


def prune(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would go, and what stays and why.")
    ] = False,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove records that audit.retention lets go. Where audit.deleters says so, others must run it as well.

    Example: limen audit prune --dry-run
    """
    with opened(context, config) as (settings, state):
        pruning, now, people = _pruning(settings, state), time.time(), settings.audit.deleters
        plan = pruning.plan(now)
        shown: dict[str, Any] = {"records": plan.bundles * 256, "bytes": plan.freed, "stays": dict(plan.stays)}
        if settings.audit.retention.days is None and settings.audit.retention.size is None:
            raise Refused("audit.retention is not set: nothing is ever removed")
        if dry_run:
            _told(shown, f"{plan.bundles * 256} records ({plan.freed} bytes) would go", as_json)
            return
        if not reason.strip() and people > 1:
            raise Misused("say --reason: it is what the others agree to, and stands in the signed note")
        names, why = [user(by)], reason.strip() or "older than audit.retention"
        if people > 1:
            if not plan.ranges:
                raise Refused("there is nothing to remove")
            wish, agreed = pruning.wish(names[0], why, now, people)
            names, why = [*wish.by], wish.reason
            if agreed is None:
                left = people - len(wish.by)
                state.tell("prune", act="asked", by=names[-1], reason=why, ranges=[list(one) for one in wish.ranges])
                _told({**shown, "waits": left}, f"waits for {left} more to run `limen audit prune`", as_json)
                return
            plan = agreed
        from limen.logbook import forget

        gone = pruning.remove(plan.ranges, names, why, now, lambda fields: state.tell("pruned", **fields))
        forget(settings, pruning.log, gone)
    count = sum(last - first for first, last in gone)
    _told({**shown, "records": count * 256, "by": names}, f"removed: {count * 256} records", as_json)


def _pruning(settings: Config, state: State) -> Pruning:
    from limen.audit.prune import Pruning
    from limen.opening import open_log_signer

    signer = open_log_signer(settings)
    return Pruning(settings.audit.path, signer, settings.audit.retention, state.logs, state.cursors)


def _told(answer: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        emit(answer)
        return
    line(text)
    for why, count in answer["stays"].items():
        line(f"stays: {count * 256} records, {why}")


@hold_app.command()
def add(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="all|time|caller|incident")],
    value: Annotated[str, typer.Argument(help="Subject, or id of an incident.")] = "",
    issuer: Annotated[str, typer.Option(help="Of a caller; default: any.")] = "",
    since: Annotated[str, typer.Option(help="Only records from then on: 2026-11-20, or 7d ago.")] = "",
    until: Annotated[str, typer.Option(help="Only records until then.")] = "",
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep records until the hold is lifted. Example: limen audit hold add caller alice --reason "case 2026-17" """
    from limen.audit.holds import Hold, Holds, Kind

    if kind not in get_args(Kind) or (kind in ("caller", "incident")) != bool(value):
        raise Misused("say what: all, time --since --until, caller SUBJECT, incident ID")
    if (kind == "time") and not (since or until):
        raise Misused("a time needs --since or --until")
    if not reason.strip():
        raise Misused("say --reason: whoever lifts the hold must know what it was for")
    made = Hold("", kind, user(by), reason, time.time(), value, issuer, moment(since), moment(until))  # type: ignore[arg-type] # checked above
    with opened(context, config) as (_, state):
        hold = Holds(state.logs).add(made)
        state.tell("hold", act="added", id=hold.id, what=kind, value=value, issuer=issuer, by=hold.by, reason=reason)
    emit(asdict(hold)) if as_json else line(f"hold {hold.id}: nothing it covers is removed, on any replica")


@hold_app.command("list")
def holds(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show all holds. Example: limen audit hold list"""
    from limen.audit.holds import Holds

    with opened(context, config) as (_, state):
        found = [asdict(hold) for hold in Holds(state.logs).every()]
    emit(found) if as_json else table(_HOLDS, found)


@hold_app.command()
def release(
    context: typer.Context,
    identifier: Annotated[str, typer.Argument(metavar="ID")],
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lift a hold; as many must do so as a deletion needs. Example: limen audit hold release 1f2e3d4c --reason end"""
    from limen.audit.holds import Holds

    if not reason.strip():
        raise Misused("say --reason")
    with opened(context, config) as (settings, state):
        people = settings.audit.deleters
        try:
            still = Holds(state.logs).lift(identifier, user(by), people)
        except LookupError as error:
            raise Refused(str(error)) from None
        act = "lifted" if still is None else "lifting"
        state.tell("hold", act=act, id=identifier, by=user(by), reason=reason)
    left = 0 if still is None else people - len(still.lifting)
    if as_json:
        emit({"id": identifier, "lifted": still is None, "waits": left})
    else:
        line(f"hold {identifier} is lifted" if still is None else f"hold {identifier} stands: {left} more must lift it")


def logs(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the logs of all replicas of this storage. Example: limen audit logs"""
    from limen.audit.logs import LIVE, Logs

    now = time.time()
    with opened(context, config) as (_, state):
        found = [
            {"log": head.name, "written": now - head.at < LIVE, "place": head.place, "key": head.key}
            for head in Logs(state.logs).every()
        ]
    emit(found) if as_json else table(("log", "written", "place", "key"), found)
