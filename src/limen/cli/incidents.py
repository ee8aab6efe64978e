"""`limen incident`: what people work on after an attack."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, ReasonOption, Refused, group, opened, user
from limen.cli.survey import shown
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.incidents.incident import Incident, Incidents

app = group("Incidents: notes, timeline, impact, replay, evidence.")
Strings = list[str]
IncidentArgument = Annotated[str, typer.Argument(help="Id, as `limen incident list` shows it.")]
_COLUMNS: Final = ("id", "status", "severity", "title", "owner", "opened", "events", "contained")


@contextmanager
def of(context: typer.Context, config: Path | None) -> Iterator[Incidents]:
    """The incidents of a configuration. What is done is told to the gateway's log."""
    from limen.incidents.incident import Incidents

    with opened(context, config) as (_, state):
        yield Incidents(state.incidents, lambda event, fields: state.tell(event, **fields))


def _changed(
    context: typer.Context, config: Path | None, as_json: bool, change: Callable[[Incidents, float], Incident]
) -> None:
    with of(context, config) as incidents:
        try:
            made = change(incidents, time.time())
        except (LookupError, ValueError) as error:
            raise Refused(str(error.args[0])) from None
    if as_json:
        emit(made.shown())
    else:
        line(f"{made.id}: {made.status}, {made.severity}: {made.title}")


@app.command("open")
def open_(
    context: typer.Context,
    title: Annotated[str, typer.Argument(help="What happened, on one line.")],
    severity: Annotated[str, typer.Option(help="info, low, medium, high or critical.")] = "high",
    event: Annotated[Strings | None, typer.Option(help="Id of an event (log:number); may be repeated.")] = None,
    subject: Annotated[
        Strings | None,
        typer.Option(help="caller:ISSUER SUBJECT, client:ID, session:DIGEST, server:NAME, tool:S/NAME; repeatable."),
    ] = None,
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open one by hand. Example: limen incident open "Stolen laptop" --subject "caller:https://idp.example ann" """
    from limen.incidents.incident import read_subject

    def change(incidents: Incidents, now: float) -> Incident:
        for one in subject or ():
            read_subject(one)
        return incidents.open(title, severity, by=user(by), at=now, events=event or (), subjects=subject or ())

    _changed(context, config, as_json, change)


@app.command("list")
def list_(
    context: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="Closed ones as well.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the incidents, newest first. Example: limen incident list --all"""
    with of(context, config) as incidents:
        found = [one for one in incidents.all() if all_ or one.status != "closed"]
    if as_json:
        emit([one.shown() for one in found])
        return
    rows = [{**one.shown(), "opened": shown(one.at), "events": len(one.events)} for one in found]
    table(_COLUMNS, [{**row, "contained": len(row["containments"])} for row in rows])


@app.command()
def show(
    context: typer.Context, id: IncidentArgument, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Show one with its notes and links. Example: limen incident show 1f2e3d4c5b6a"""
    with of(context, config) as incidents:
        try:
            one = incidents.get(id)
        except LookupError as error:
            raise Refused(str(error.args[0])) from None
    if as_json:
        emit(one.shown())
        return
    line(f"{one.id}: {one.title}")
    line(f"{one.status}, {one.severity}, opened {shown(one.at)} by {one.by}, owner {one.owner or 'nobody'}")
    for name in ("subjects", "alerts", "containments", "events"):
        links: Any = getattr(one, name)
        line(f"{name}: {', '.join(links[:20]) or 'none'}{f' and {len(links) - 20} more' if len(links) > 20 else ''}")
    if one.missed:
        line(f"{one.missed} more links did not fit", red=True)
    for note_ in one.notes:
        line(f"{shown(note_['at'])} {note_['by']}: {note_['text']}")


@app.command()
def note(
    context: typer.Context,
    id: IncidentArgument,
    text: Annotated[str, typer.Argument(help="What was found or done.")],
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a note. Example: limen incident note 1f2e3d4c5b6a "Called ann: it was not her" """
    _changed(context, config, as_json, lambda incidents, now: incidents.note(id, text, by=user(by), at=now))


@app.command()
def assign(
    context: typer.Context,
    id: IncidentArgument,
    owner: Annotated[str, typer.Argument(help="Who works on it.")],
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give it to somebody. Example: limen incident assign 1f2e3d4c5b6a bob"""
    _changed(context, config, as_json, lambda incidents, now: incidents.assign(id, owner, by=user(by), at=now))


@app.command()
def link(
    context: typer.Context,
    id: IncidentArgument,
    event: Annotated[Strings | None, typer.Option(help="Id of an event (log:number); may be repeated.")] = None,
    alert: Annotated[Strings | None, typer.Option(help="Id of an alert; may be repeated.")] = None,
    containment: Annotated[Strings | None, typer.Option(help="Id of a containment; may be repeated.")] = None,
    subject: Annotated[Strings | None, typer.Option(help="As for `incident open`; may be repeated.")] = None,
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add events, alerts, containments or subjects. Example: limen incident link 1f2e3d4c5b6a --event limen:4711"""
    from limen.incidents.incident import read_subject

    def change(incidents: Incidents, now: float) -> Incident:
        for one in subject or ():
            read_subject(one)
        links = {"events": event, "alerts": alert, "containments": containment, "subjects": subject}
        return incidents.link(id, by=user(by), at=now, **links)

    _changed(context, config, as_json, change)


@app.command()
def status(
    context: typer.Context,
    id: IncidentArgument,
    new: Annotated[str, typer.Argument(metavar="STATUS", help="open, investigating or contained.")],
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how far it is. Example: limen incident status 1f2e3d4c5b6a investigating"""
    _changed(context, config, as_json, lambda held, now: held.move(id, new, by=user(by), at=now, reason=reason))


@app.command()
def close(
    context: typer.Context,
    id: IncidentArgument,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Close it, with a reason. Example: limen incident close 1f2e3d4c5b6a --reason "token revoked, laptop wiped" """
    _changed(context, config, as_json, lambda held, now: held.move(id, "closed", by=user(by), at=now, reason=reason))
