"""`limen alerts`: what needs somebody's attention, who takes it up, who is told, and what could not be delivered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, ReasonOption, Refused, group, opened, user
from limen.cli.revoke import read_until
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.incidents.alerts import Alert

app = group("What needs somebody's attention, and who is told.")
IdArgument = Annotated[str, typer.Argument(help="Id, as `limen alerts list` shows it.")]
_COLUMNS = ("id", "severity", "state", "title", "count", "last")
_ANSWERING = ("pagerduty", "webhook")  # kinds of routes that are told who took an alert up, and that it is closed


@app.command("list")
def list_(
    context: typer.Context,
    closed: Annotated[bool, typer.Option("--closed", help="Those closed within 30 days instead.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show open alerts, newest last. Example: limen alerts list --json"""
    from limen.incidents.alerts import alerts

    with opened(context, config) as (_, state):
        found = alerts(state.alerts, closed=closed)
    if as_json:
        emit([_row(one) for one in found])
        return
    rows = [{**asdict(one), "last": _when(one.last), "loud": one.severity in ("high", "critical")} for one in found]
    table(_COLUMNS, rows, red="loud")


@app.command()
def show(context: typer.Context, id: IdArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one alert and the events behind it. Example: limen alerts show 5e884898da280471"""
    from limen.incidents.alerts import find

    with opened(context, config) as (_, state):
        try:
            one = find(state.alerts, id)
        except LookupError as error:
            raise Refused(str(error.args[0])) from None
    if as_json:
        emit(_row(one))
        return
    line(f"{one.severity}: {one.title} ({one.rule}, {one.state})", red=one.severity in ("high", "critical"))
    for name, value in one.about:
        line(f"  {name}: {value}")
    line(f"  {one.count} times, from {_when(one.first)} to {_when(one.last)}, told {one.notices} times")
    line(f"  events: {', '.join(one.events)}")
    if one.by:
        line(f"  {one.state} by {one.by}: {one.reason}")


@app.command()
def ack(
    context: typer.Context,
    id: IdArgument,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take an alert up: nobody is told of it again. Example: limen alerts ack 5e884898da280471 --by ann"""
    _decide(context, config, id, "acknowledged", by, reason, as_json)


@app.command()
def close(
    context: typer.Context,
    id: IdArgument,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Close an alert; what comes next is a new one. Example: limen alerts close 5e884898da280471 --reason "a drill" """
    _decide(context, config, id, "closed", by, reason, as_json)


def _decide(
    context: typer.Context, file: Path | None, id: str, to: Literal["acknowledged", "closed"], by: str, reason: str,
    as_json: bool,
) -> None:  # fmt: skip
    from limen.incidents.alerts import decide
    from limen.incidents.outbox import put

    with opened(context, file) as (config, state):
        try:
            one = decide(state.alerts, id, to, user(by), reason)
        except LookupError as error:
            raise Refused(str(error.args[0])) from None
        state.tell("alert_decided", act=to, id=one.id, rule=one.rule, by=user(by), reason=reason)
        told = set(config.alerts.told(one.severity, one.rule))
        for route in config.alerts.routes:
            if route.name in told and route.kind in _ANSWERING:
                act: Literal["resolve", "acknowledge"] = "resolve" if to == "closed" else "acknowledge"
                put(state.alerts, route.name, act, asdict(one), time.time())
    if as_json:
        emit(_row(one))
        return
    line(f"{one.state}: {one.title}")


@app.command()
def suppress(
    context: typer.Context,
    rule: Annotated[str, typer.Argument(help="Id of a rule, or a glob over ids.")],
    until: Annotated[str, typer.Option(help="When it ends: 90s, 15m, 8h, 30d, or a time; at most 90 days.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    about: Annotated[
        list[str] | None, typer.Option(metavar="MEMBER=VALUE", help="Only for this group; may be repeated.")
    ] = None,
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Raise no such alerts until then. Example: limen alerts suppress rug_pull --until 8h --reason "a release" """
    from limen.incidents.alerts import suppress as put

    pairs = [one.partition("=") for one in about or ()]
    if any(not name or not equals for name, equals, _ in pairs):
        raise Misused("--about reads MEMBER=VALUE")
    now = time.time()
    end = read_until(until, now)
    with opened(context, config) as (settings, state):
        _known(settings, rule)
        try:
            made = put(state.alerts, rule, {name: value for name, _, value in pairs}, user(by), reason, end or now, now)
        except ValueError as error:
            raise Misused(str(error)) from None
        state.tell("alert_suppression", act="begun", **_plain(made), by=user(by))
    if as_json:
        emit(asdict(made))
        return
    line(f"suppressed until {_when(made.until)}: {made.rule}; take it back with: limen alerts unsuppress {made.id}")


@app.command()
def unsuppress(
    context: typer.Context,
    id: Annotated[str, typer.Argument(help="Id, as `limen alerts suppressions` shows it.")],
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Raise such alerts again. Example: limen alerts unsuppress 5e884898da28"""
    from limen.incidents.alerts import unsuppress as take_back

    with opened(context, config) as (_, state):
        try:
            take_back(state.alerts, id)
        except LookupError as error:
            raise Refused(str(error.args[0])) from None
        state.tell("alert_suppression", act="ended", id=id, by=user(by))
    if as_json:
        emit({"ended": id})
        return
    line(f"no longer suppressed: {id}")


@app.command()
def suppressions(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show which alerts are not raised, whose decision that is, until when. Example: limen alerts suppressions"""
    from limen.incidents.alerts import suppressions as of

    with opened(context, config) as (_, state):
        rows = [asdict(one) for one in of(state.alerts)]
    if as_json:
        emit(rows)
        return
    table(("id", "rule", "about", "owner", "reason", "until"), [{**row, "until": _when(row["until"])} for row in rows])


@app.command()
def rules(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the rules in force and who is told. Example: limen alerts rules --json"""
    from limen.cli.context import load

    settings = load(context, config).config.alerts
    rows = [
        {**one.model_dump(mode="json", exclude_defaults=True), "told": list(settings.told(one.severity, one.id))}
        for one in settings.in_force
    ]
    if as_json:
        emit(rows)
        return
    table(("id", "severity", "title", "told"), rows)


@app.command()
def dead(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what could not be delivered and was given up. Example: limen alerts dead"""
    _waiting(context, config, as_json, dead=True)


@app.command()
def outbox(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what is still to be delivered. Example: limen alerts outbox --json"""
    _waiting(context, config, as_json, dead=False)


def _waiting(context: typer.Context, config: Path | None, as_json: bool, *, dead: bool) -> None:
    from limen.incidents.outbox import entries

    with opened(context, config) as (_, state):
        rows = [
            {"id": one.id, "route": one.route, "act": one.act, "alert": one.alert["id"], "title": one.alert["title"],
             "since": one.since, "due": one.due, "attempts": one.attempts, "error": one.error}
            for one in entries(state.alerts, dead=dead)
        ]  # fmt: skip
    if as_json:
        emit(rows)
        return
    table(("id", "route", "title", "attempts", "error"), rows)


@app.command()
def retry(
    context: typer.Context,
    id: Annotated[str, typer.Argument(help="Id, as `limen alerts dead` shows it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send what was given up once more. Example: limen alerts retry 0a1b2c3d4e5f60718293a4b5"""
    from limen.incidents.outbox import revive

    with opened(context, config) as (_, state):
        try:
            entry = revive(state.alerts, id, time.time())
        except LookupError as error:
            raise Refused(str(error.args[0])) from None
        state.tell("delivery", act="revived", route=entry.route, alert=entry.alert["id"], entry=id, by=user())
    if as_json:
        emit({"id": entry.id, "route": entry.route})
        return
    line(f"waits for delivery again: {entry.id} by {entry.route}")


@app.command("test")
def try_(
    context: typer.Context,
    route: Annotated[str, typer.Argument(metavar="[ROUTE]", help="One route; default: all of them.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a test to those who are told, now, from here. Example: limen alerts test pager --json"""
    from limen.cli.context import load, run_async

    settings = load(context, config).config
    names = [one.name for one in settings.alerts.routes if route in ("", one.name)]
    if not names:
        raise Refused(f"no route {route} in the configuration" if route else "no routes in the configuration")
    rows: Sequence[dict[str, Any]] = run_async(_test(settings, names))
    if as_json:
        emit(rows)
    else:
        table(("route", "ok", "detail"), rows)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(3)


async def _test(settings: Config, names: Sequence[str]) -> list[dict[str, Any]]:
    from limen.adapters.hooks import Hooks
    from limen.alerting import open_mailer
    from limen.core.faults import DependencyFault
    from limen.incidents.delivery import way
    from limen.incidents.outbox import Entry

    now, rows = time.time(), []
    alert = {"id": f"test-{int(now)}", "rule": "test", "severity": "info", "title": f"A test, by {user()}",
             "about": [], "count": 1, "first": now, "last": now, "events": []}  # fmt: skip
    for one in settings.alerts.routes:
        if one.name in names:
            entry = Entry(f"test-{int(now)}-{one.name}", one.name, "test", alert, now, now)
            row: dict[str, Any] = {"route": one.name, "kind": one.kind, "ok": True, "detail": ""}
            try:
                await way(one, Hooks(), open_mailer, settings.listen.url).send(entry)
            except (DependencyFault, ValueError) as error:
                row.update(ok=False, detail=str(error))
            rows.append(row)
    return rows


def _known(settings: Config, rule: str) -> None:
    from fnmatch import fnmatchcase

    if not any(fnmatchcase(one.id, rule) for one in settings.alerts.in_force):
        raise Refused(f"no rule {rule} is in force; see `limen alerts rules`")


def _row(one: Alert) -> dict[str, Any]:
    return {**asdict(one), "about": dict(one.about)}


def _plain(made: Any) -> dict[str, Any]:
    row = asdict(made)
    return {**row, "about": dict(row["about"])}


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
