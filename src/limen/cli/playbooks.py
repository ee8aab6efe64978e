"""`limen playbook`: what is done about attacks by itself, once people have looked at it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

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
    opened,
    user,
)
from limen.cli.survey import moment, shown
from limen.cli.terminal import block, emit, line, table

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.core.events import Event
    from limen.incidents.approved import Approvals
    from limen.storage import State

app = group("Playbooks: what is done about attacks by itself.")
SourceArgument = Annotated[str, typer.Argument(metavar="FILE", help="File, or shipped:NAME.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Id, as `limen playbook runs` shows it.")]
_WATCHED: Final = 20_000


def _approvals(config: Config, state: State, *, sign: bool = False) -> Approvals:
    from functools import partial

    from limen.audit.note import VerifierKey, open_note, sign_note
    from limen.incidents.approved import Approvals
    from limen.opening import open_signer

    signer = open_signer(config)
    key = VerifierKey(signer.name, signer.public_key)
    seal = partial(sign_note, signer) if sign else None
    return Approvals(state.incidents, partial(open_note, key=key), config.incidents.approvers, seal)


@app.command("list")
def list_(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show those the configuration names, and those that come with Limen. Example: limen playbook list"""
    from limen.config.playbooks import SHIPPED, load_playbooks, shipped

    with opened(context, config) as (settings, state):
        approvals, rows = _approvals(settings, state), []
        for one in load_playbooks(settings.incidents):
            name = one.playbook.playbook if one.playbook else ""
            in_force = bool(name) and approvals.in_force(name, one.digest)
            people = [str(said["by"]) for said in approvals.of(name, one.digest)] if name else []
            state_ = one.fault or ("in force" if in_force else "not approved")
            rows.append({"source": one.source, "name": name, "digest": one.digest, "state": state_, "by": people})
    named = {row["source"] for row in rows}
    rows += [
        {"source": f"{SHIPPED}{one}", "state": "not enabled"} for one in shipped() if f"{SHIPPED}{one}" not in named
    ]
    if as_json:
        emit(rows)
    else:
        table(("source", "name", "state", "by", "digest"), rows)


@app.command()
def show(source: SourceArgument, as_json: JsonOption = False) -> None:
    """Check one and print it with its digest; status 2 if wrong. Example: limen playbook show shipped:bulk-read"""
    from limen.config.playbooks import playbook_text, read_playbook
    from limen.incidents.playbooks import digest_of

    text = playbook_text(source)
    playbook = read_playbook(text, source)
    if as_json:
        emit({"digest": digest_of(text), **playbook.model_dump(mode="json", by_alias=True, exclude_defaults=True)})
        return
    block(text.decode())
    line(f"# digest {digest_of(text)}")


@app.command()
def approve(
    context: typer.Context,
    source: SourceArgument,
    digest: Annotated[str, typer.Option(help="Digest of what you looked at; refused if the file is another one.")] = "",
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that exactly this text may be carried out. Example: limen playbook approve shipped:stolen-session --by ann"""
    from limen.config.playbooks import playbook_text, read_playbook
    from limen.incidents.playbooks import digest_of

    with opened(context, config) as (settings, state):
        text = playbook_text(_source(settings, source))
        name, found = read_playbook(text, source).playbook, digest_of(text)
        if digest and digest != found:
            raise Refused(f"{source} is {found}, not what you looked at")
        try:
            approvals, who = _approvals(settings, state, sign=True), user(by)
            left = approvals.approve(name, found, by=who, reason=reason, at=time.time())
        except ValueError as error:
            raise Refused(str(error)) from None
        state.tell("playbook", act="approved", playbook=name, digest=found, by=who, reason=reason[:500])
    if as_json:
        emit({"playbook": name, "digest": found, "by": who, "needed": left})
    else:
        line(f"{name} {found}: {'in force' if not left else f'{left} more must approve'}")


@app.command()
def withdraw(
    context: typer.Context,
    digest: Annotated[str, typer.Argument(help="Digest, as `limen playbook list` shows it.")],
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take its approvals back; it is not carried out any more. Example: limen playbook withdraw 9f86d0..."""
    with opened(context, config) as (settings, state):
        count = _approvals(settings, state).withdraw(digest)
        if not count:
            raise Refused(f"{digest}: nobody approved it")
        state.tell("playbook", act="withdrawn", digest=digest, by=user(by), reason=reason[:500])
    if as_json:
        emit({"digest": digest, "withdrawn": count})
    else:
        line(f"{digest}: {count} approvals withdrawn")


@app.command("dry-run")
def dry_run(
    context: typer.Context,
    source: SourceArgument,
    since: Annotated[str, typer.Option(help="Start of the period: 90d, 12h, 6w ago, or a date (UTC).")] = "30d",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what it would have done in the recorded past. Example: limen playbook dry-run my.yaml --since 30d"""
    from limen.config.playbooks import playbook_text, read_playbook
    from limen.incidents.playbooks import digest_of
    from limen.incidents.rehearsal import rehearse

    settings, begin = load(context, config).config, moment(since)
    text = playbook_text(_source(settings, source))
    playbook = read_playbook(text, source)
    if not settings.audit.path.is_dir():
        raise Refused(f"{settings.audit.path}: there is no log yet")
    found = rehearse(playbook, digest_of(text), _history(settings, begin), settings.incidents)
    if as_json:
        emit(found)
        return
    line(f"{playbook.playbook} over {found['events']} events since {shown(begin)}: fired {found['fired']} times")
    line(f"kept back by limits {found['limited']}, by protection {found['protected']}")
    line(f"nobody was proven to be meant {found['nobody_meant']} times")
    for what in ("on", "actions"):
        line(f"{what}: {', '.join(f'{name} ({count})' for name, count in found[what].items()) or 'nothing'}")
    for run in found["runs"]:
        line(f"{shown(run['at'])} {run['event']}: {'; '.join(run['steps'])}")


@app.command()
def runs(
    context: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="All of the last 90 days; default: the newest 50.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what playbooks did, and what waits for a person. Example: limen playbook runs"""
    from limen.incidents.ran import Runs

    with opened(context, config) as (_, state):
        found = Runs(state.incidents).all()[: None if all_ else 50]
    if as_json:
        emit([one.shown() for one in found])
        return
    rows = [{**one.shown(), "when": shown(one.at), "on": [*one.about.values()]} for one in found]
    table(("id", "state", "when", "playbook", "on", "steps", "by", "incident"), rows)


@app.command()
def agree(
    context: typer.Context, run: RunArgument, by: ByOption = "", reason: ReasonOption = "", config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Let a run that waits go ahead. Example: limen playbook agree 1f2e3d4c5b6a7980 --reason "talked to her team" """
    _decide(context, config, run, "agreed", by, reason, as_json)


@app.command()
def refuse(
    context: typer.Context, run: RunArgument, by: ByOption = "", reason: ReasonOption = "", config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Let a run that waits not happen. Example: limen playbook refuse 1f2e3d4c5b6a7980"""
    _decide(context, config, run, "refused", by, reason, as_json)


@app.command()
def rollback(
    context: typer.Context, run: RunArgument, by: ByOption = "", reason: ReasonOption = "", config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Take back what a run did; the running gateway does it. Example: limen playbook rollback 1f2e3d4c5b6a7980"""
    _decide(context, config, run, "undo", by, reason or "rolled back", as_json)


def _decide(
    context: typer.Context, config: Path | None, run: str, state: Literal["agreed", "refused", "undo"], by: str,
    reason: str, as_json: bool,
) -> None:  # fmt: skip
    from limen.incidents.ran import Runs

    with opened(context, config) as (_, kept):
        try:
            made = Runs(kept.incidents).decide(run, state, user(by), reason, time.time())
        except (LookupError, ValueError) as error:
            raise Refused(str(error.args[0])) from None
        kept.tell("playbook", act=state, id=run, playbook=made.playbook, digest=made.digest, by=made.by, reason=reason)
    if as_json:
        emit(made.shown())
    else:
        line(f"{made.playbook} {made.id}: {made.state}, by {made.by}")


def _source(config: Config, source: str) -> str:
    """A file as given; where the configuration names it, as it stands there."""
    from limen.config.playbooks import SHIPPED

    if source.startswith(SHIPPED):
        return source
    path = Path(source).absolute()
    if not path.exists() and source not in config.incidents.playbooks:
        raise Misused(f"{source}: no such file")
    return str(path)


def _history(config: Config, begin: float) -> Iterator[Event]:
    """Events of our own log since then."""
    from limen.audit.read import read

    records: Any = read(config.audit.path)
    if sys.stderr.isatty():
        size = sum(1 for _ in read(config.audit.path))
        if size >= _WATCHED:
            with typer.progressbar(records, length=size, label="reading the log", file=sys.stderr) as bar:
                yield from (one for one in _events(config, bar) if one.at >= begin)
            return
    yield from (one for one in _events(config, records) if one.at >= begin)


def _events(config: Config, records: Any) -> Iterator[Event]:
    from limen.audit.events import read_event
    from limen.audit.logs import name_of

    name = name_of(config.audit.path, config.audit.name)
    for index, record in records:
        yield read_event(name, index, record)
