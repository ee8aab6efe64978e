"""`limen incident timeline|impact|replay|evidence|verify|verifier`: what happened, and what proves it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from limen.cli.context import ConfigOption, JsonOption, Misused, Refused, opened
from limen.cli.incidents import IncidentArgument
from limen.cli.incidents import app as app  # with the commands of this file
from limen.cli.survey import moment, shown
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.cli.casework import Log
    from limen.config.model import Config
    from limen.core.events import Event
    from limen.incidents.forensics import Scope
    from limen.incidents.incident import Incident
    from limen.storage import State

Strings = list[str]
LogOption = Annotated[
    Strings | None, typer.Option("--log", help="Log of another replica, DIR=KEY (name+hash+key or @FILE); repeatable.")
]
_ROWS = 200


def _incident(state: State, identifier: str) -> Incident:
    from limen.incidents.incident import Incidents

    try:
        return Incidents(state.incidents, lambda event, fields: None).get(identifier)
    except LookupError as error:
        raise Refused(str(error.args[0])) from None


def _meant(
    config: Config, state: State, what: str, since: str, others: Strings | None
) -> tuple[Scope, set[str], list[Log]]:
    """An incident's scope, or that of a subject or definition since some time."""
    from limen.cli.casework import known_log, logs_of, scope_of
    from limen.incidents.forensics import Scope
    from limen.incidents.incident import read_subject

    if not known_log(config):
        raise Refused(f"{config.audit.path}: there is no log yet")
    logs = logs_of(config, others or ())
    if ":" not in what:
        return *scope_of(_incident(state, what), logs), logs
    begin = moment(since)
    if what.startswith("definition:"):
        return Scope(digests=frozenset({what.removeprefix("definition:")}), since=begin), set(), logs
    try:
        return Scope(subjects=frozenset({read_subject(what)}), since=begin), set(), logs
    except ValueError as error:
        raise Misused(str(error)) from None


WhatArgument = Annotated[
    str,
    typer.Argument(
        metavar="WHAT",
        help="Incident, caller:ISSUER SUBJECT, client:, session:, server:, tool:S/NAME, definition:DIGEST.",
    ),
]
SinceOption = Annotated[str, typer.Option(help="For what is no incident: 90d, 12h, 6w ago, or a date (UTC).")]


@app.command()
def timeline(
    context: typer.Context,
    what: WhatArgument,
    since: SinceOption = "30d",
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened, in order, over sessions and replicas. Example: limen incident timeline 1f2e3d4c5b6a"""
    from limen.cli.casework import select
    from limen.incidents.forensics import timeline as rows_of

    with opened(context, config) as (settings, state):
        scope, refs, logs = _meant(settings, state, what, since, log)
        rows = rows_of(select(logs, scope, refs))
    if as_json:
        emit(rows)
        return
    columns = ("when", "type", "subject", "session", "server", "name", "decision", "reason", "outcome", "detail")
    table(columns, [{**row, "when": shown(row["at"])} for row in rows])


@app.command()
def impact(
    context: typer.Context,
    what: WhatArgument,
    digest: Annotated[str, typer.Option(help="Of a tool: while this definition was served.")] = "",
    since: SinceOption = "30d",
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say who called it, what was read, and where it could go within a day.

    Example: limen incident impact tool:files/read_file --digest 9f86d081884c7d65
    """
    from limen.cli.casework import impact_of, impact_of_incident

    with opened(context, config) as (settings, state):
        scope, _, logs = _meant(settings, state, what, since, log)
        if ":" not in what:
            found = impact_of_incident(_incident(state, what), scope, logs)
        else:
            subject = next(iter(scope.subjects), None)
            kind, value = (subject.kind, subject.value) if subject else ("", "")
            server, _, name = value.partition("/") if kind in ("server", "tool") else ("", "", "")
            digest = digest or next(iter(scope.digests), "")
            if kind not in ("", "server", "tool", "caller"):
                raise Misused("impact is of an incident, a caller, a server, a tool or a definition")
            callers = frozenset({value}) if kind == "caller" else frozenset()
            found = impact_of(logs, server=server, name=name, digest=digest, callers=callers, since=scope.since)
    if as_json:
        emit(found)
        return
    line(f"{found['calls']} calls by {len(found['callers'])} callers, {found['sent']} bytes read")
    if found["unknown_sizes"]:
        line(f"of {found['unknown_sizes']} calls the log does not say how much was read")
    for one in found["callers"]:
        line(f"{one['subject'] or one['peer']}: {one['calls']} calls, {one['sent']} bytes, {shown(one['first'])}")
        for row in one["afterwards"][:_ROWS]:
            flow = f", {', '.join(row['flow'])}" if row["flow"] else ""
            line(f"  then {row['server']}/{row['name']}: {row['calls']} calls{flow}")
    for row in found["egress"][:_ROWS]:
        line(f"egress of {row['server']}: {row['what']} {row['target']} ({row['count']})")


@app.command()
def replay(
    context: typer.Context,
    what: WhatArgument,
    since: SinceOption = "30d",
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide again what was decided, and compare; status 1 if a decision differs.

    Example: limen incident replay "caller:https://idp.example ann" --since 7d
    """
    with opened(context, config) as (settings, state):
        scope, refs, logs = _meant(settings, state, what, since, log)
        rows = _replayed(settings, state, scope, refs, logs)
    counts = Counter(row["state"] for row in rows)
    if as_json:
        emit(
            {"same": counts["same"], "different": counts["different"], "unknown": counts["unknown"], "decisions": rows}
        )
    else:
        line(f"{counts['same']} the same, {counts['different']} different, {counts['unknown']} could not be replayed")
        for why, count in Counter(row["why"] for row in rows if row["state"] == "unknown").most_common():
            line(f"  {count}: {why}")
        for row in rows:
            if row["state"] == "different":
                line(f"{row['event']}: recorded {row['recorded']}, now {row['now']}", red=True)
    if counts["different"]:
        raise typer.Exit(1)


def _replayed(
    config: Config, state: State, scope: Scope, refs: set[str], logs: list[Log]
) -> list[dict[str, Any]]:  # fmt: skip
    from limen.cli.casework import events_of
    from limen.incidents.forensics import Selection
    from limen.opening import open_signer, registry_of
    from limen.policy.kept import rebuild
    from limen.policy.replay import Replay

    registry = registry_of(config, state.catalog, open_signer(config))
    rows: list[dict[str, Any]] = []
    for log in logs:
        again = Replay(lambda policy, version: rebuild(state.history, policy, version, registry.definition))
        selection = Selection(replace(scope, frame=False), set(refs))
        for event in events_of(log):
            again.see(event)
            if selection.belongs(event) and (made := again.again(event)) is not None:
                rows.append(asdict(made))
    return rows


@app.command()
def evidence(
    context: typer.Context,
    id: IncidentArgument,
    output: Annotated[Path, typer.Option("--out", "-o", help="The archive; must not exist yet.")],
    redact: Annotated[
        Strings | None, typer.Option(help="Subject whose name becomes a keyed digest, or 'all'; may be repeated.")
    ] = None,
    log: LogOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a signed archive that proves what happened, offline. Example: limen incident evidence 1f2e --out a.zip"""
    from limen.adapters.replace import replace_file
    from limen.audit.evidence import bundle
    from limen.cli.casework import redacted_record
    from limen.opening import open_signer

    if output.exists():
        raise Misused(f"{output} exists already")
    with opened(context, config) as (settings, state):
        incident, signer = _incident(state, id), open_signer(settings)
        logs, files, hide = _collected(settings, state, incident, redact or [], log)
        about = {"id": incident.id, "title": hide(incident.title), "created": time.time()}
        made = bundle(
            signer,
            about,
            logs,
            files,
            (lambda record: redacted_record(hide, record)) if redact else lambda record: None,
        )
        replace_file(output, made, None)
        count = sum(len(one.records) for one in logs)
        later = sum(one.later for one in logs)
        state.tell("incident", act="evidence", id=id, records=count, redacted=len(redact or []))
    if as_json:
        emit({"bundle": str(output), "records": count, "unsigned": later, "key": signer.verifier_key})
        return
    line(f"{output}: {count} records of {len(logs)} logs")
    if later:
        line(f"{later} newest records are not signed yet and left out")
    line(f"verify with: limen incident verify {output} --key {signer.verifier_key}")


def _collected(
    config: Config, state: State, incident: Incident, redact: Strings, others: Strings | None
) -> tuple[Any, dict[str, bytes], Any]:
    """Proven records, the files beside them, and what hides names."""
    from limen.cli.casework import beside, impact_of_incident, proven, redactor
    from limen.incidents.forensics import markdown
    from limen.incidents.forensics import timeline as rows_of
    from limen.opening import open_signer, registry_of

    scope, refs, logs = _meant(config, state, incident.id, "", others)
    made, events = proven(logs, scope, refs)
    signer = open_signer(config)
    names = _hidden(events, redact)
    hide = redactor(signer, incident.id, names)
    reached = hide(impact_of_incident(incident, scope, logs))
    rows = hide(rows_of(events))
    files, gaps = beside(events, registry_of(config, state.catalog, signer), state.history)
    return (
        made,
        {
            **files,
            "incident.json": _json(hide(incident.shown())),
            "timeline.json": _json(rows),
            "timeline.md": markdown(hide(incident.title), rows, reached).encode(),
            "impact.json": _json(reached),
            "gaps.json": _json(hide(gaps)),
        },
        hide,
    )


def _hidden(events: list[Event], redact: Strings) -> set[str]:
    """Names to hide: as given, or of everybody; and the addresses they came from."""
    subjects = {one.subject for one in events} if "all" in redact else set(redact)
    peers = {one.peer for one in events if one.subject in subjects} if redact else set()
    return (subjects | peers) - {"", "all"}


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)


@app.command()
def verify(
    archive: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `limen incident evidence` wrote.")],
    key: Annotated[
        Strings, typer.Option(help="Verifier key of the signer, name+hash+key or @FILE; then those of other logs.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Check every byte of an archive; status 1 if it is not what was signed.

    Example: limen incident verify bundle.zip --key @limen.pub
    """
    from limen.audit.bundle_check import MAX_BUNDLE
    from limen.audit.evidence import Wrong, check
    from limen.cli.audit import key_text

    try:
        with open(archive, "rb") as file:
            data = file.read(MAX_BUNDLE + 1)
    except OSError as fault:
        raise Misused(f"{archive}: {fault.strerror or fault}") from None
    try:
        found = check(data, [key_text(one) for one in key])
    except Wrong as fault:
        raise Refused(f"NOT what was signed: {fault}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Refused("NOT what was signed: malformed") from None
    if as_json:
        emit(found)
        return
    line(f"verified: incident {found['incident']}, {found['records']} records of {found['logs']} logs")
    if found["redacted"]:
        line(f"{found['redacted']} records are redacted: in the log by their hash, their words the signer's")
    for name in found["vouched"]:
        line(f"the key of the log {name} was not given: the signer vouches for it")


@app.command()
def verifier(as_json: JsonOption = False) -> None:
    """Print the program that verifies an archive alone. Example: limen incident verifier > verify.py"""
    from hashlib import sha256

    from limen.audit.evidence import verifier_text

    text = verifier_text()
    if as_json:
        emit({"sha256": sha256(text).hexdigest(), "text": text.decode()})
    else:
        print(text.decode(), end="")
