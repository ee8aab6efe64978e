"""`limen behavior` and `limen decoys`: what is usual for somebody, and what is planted for thieves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, ReasonOption, Refused, group, opened, user
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.detection.behavior_profile import Profile
    from limen.storage import State

app = group("What is usual for each caller, client, server and tool.")
decoys = group("Tools and values planted for thieves.")
KindOption = Annotated[str, typer.Option("--kind", help="caller, client, server or tool; default: whichever fits.")]
SubjectArgument = Annotated[
    str,
    typer.Argument(metavar="SUBJECT", help="[KIND:]VALUE: a caller's `sub`, a client id, a server, or server/tool."),
]
_KINDS: Final = ("caller", "client", "server", "tool")


def _found(state: State, subject: str, kind: str) -> list[Profile]:
    """All profiles of that name. Raises Misused, Refused."""
    from limen.detection.behavior import read_profiles

    before, colon, name = subject.partition(":")
    if colon and not kind and before in _KINDS:  # as `limen risk` names them
        kind, subject = before, name
    if kind and kind not in _KINDS:
        raise Misused(f"--kind is one of {', '.join(_KINDS)}")
    found = [
        one
        for one in read_profiles(state.behavior, kind)
        if subject in (one.value, one.value.rpartition("\0")[2], one.value.replace("\0", " "))
    ]
    if not found:
        raise Refused(f"nothing is known of {subject!r}; see: limen behavior list")
    return found


@app.command("list")
def list_(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Of whom something is known. Example: limen behavior list --json"""
    from limen.detection.behavior import read_profiles

    with opened(context, config) as (settings, state):
        rows = [_row(one, settings.behavior) for one in read_profiles(state.behavior)]
    if as_json:
        emit(rows)
        return
    table(("kind", "subject", "days", "calls", "judged"), rows)


def _row(profile: Profile, settings: Any) -> dict[str, Any]:
    ready = profile.ready(settings.warm_up_days, settings.warm_up_calls)
    shown = profile.value.replace("\0", " ")
    return {"kind": profile.kind, "subject": shown, "days": profile.days, "calls": profile.calls, "judged": ready}


@app.command()
def show(
    context: typer.Context,
    subject: SubjectArgument,
    kind: KindOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """What is usual for one of them, in words. Example: limen behavior show alice"""
    from limen.detection.behavior_words import usual

    with opened(context, config) as (settings, state):
        known = settings.behavior
        rows = [usual(one, one.ready(known.warm_up_days, known.warm_up_calls)) for one in _found(state, subject, kind)]
    if as_json:
        emit(rows)
        return
    for row in rows:
        line(f"{row['kind']} {row['subject']}: {row['calls']} calls on {row['days']} days")
        if not row["judged"]:
            line("  still being learnt: nothing is said about it yet")
        for name in ("calls_an_hour", "calls_a_day", "data_a_day", "hours"):
            line(f"  {name.replace('_', ' ')}: {row[name] or '-'}")
        for name in ("tools", "servers", "networks", "programs", "destinations", "then"):
            if row[name]:
                line(f"  {name}: {', '.join(row[name])}")


@app.command()
def forget(
    context: typer.Context,
    subject: SubjectArgument,
    kind: KindOption = "",
    reason: ReasonOption = "",
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Drop what is known of one of them; learning begins anew. Example: limen behavior forget alice --reason left"""
    from limen.detection.behavior import forget as drop

    with opened(context, config) as (_, state):
        whom = sorted({(one.kind, one.value) for one in _found(state, subject, kind)})
        for each, value in whom:
            drop(state.behavior, each, value, time.time())
            state.tell("behavior.forgotten", about=each, value=value, by=user(by), reason=reason)
    if as_json:
        emit([{"kind": each, "subject": value.replace("\0", " ")} for each, value in whom])
        return
    for each, value in whom:
        line(f"forgotten: {each} {value.replace(chr(0), ' ')}")


@decoys.command("list")
def planted_(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Decoys of the configuration, and canaries without their values. Example: limen decoys list"""
    from limen.detection.canaries import planted

    with opened(context, config) as (settings, state):
        tools = [
            {"kind": "tool", "name": f"{one.server}/{one.name}", "by": "configuration"} for one in settings.decoys.tools
        ]
        named = [{"kind": "canary", "name": name, "by": "configuration"} for name in settings.decoys.canaries]
        issued = [{"kind": "canary", **one} for one in planted(state.behavior)]
    rows: list[dict[str, Any]] = [*tools, *named, *issued]
    if as_json:
        emit(rows)
        return
    table(("kind", "name", "by"), rows)


@decoys.command()
def canary(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is called in alerts: say where it is planted.")],
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Issue a value to plant where only a thief looks. It is shown once. Example: limen decoys canary wiki-backup"""
    from limen.detection.canaries import plant

    if not name.strip() or len(name) > 200:
        raise Misused("a name of 1 to 200 characters")
    with opened(context, config) as (_, state):
        try:
            value = plant(state.behavior, name, user(by), time.time())
        except ValueError as error:
            raise Refused(str(error)) from None
        state.tell("decoys.planted", name=name, by=user(by))
    if as_json:
        emit({"name": name, "value": value})
        return
    line(value)


@decoys.command()
def uproot(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="As it was issued.")],
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for a canary no longer. Example: limen decoys uproot wiki-backup"""
    from limen.detection.canaries import uproot as drop

    with opened(context, config) as (_, state):
        if not drop(state.behavior, name):
            raise Refused(f"no canary named {name!r} was issued")
        state.tell("decoys.uprooted", name=name, by=user(by))
    if as_json:
        emit({"name": name})
        return
    line(f"no longer looked for: {name}")
