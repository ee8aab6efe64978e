"""`limen risk`: what is suspected of whom, from which events, how it fades, what follows; and taking it back."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, Refused, group, opened, user
from limen.cli.terminal import complain, emit, line, table

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.core.events import Subject
    from limen.core.ports import Bus
    from limen.incidents.risk import Limits

app = group("What is suspected of whom, and what follows.")
SubjectArgument = Annotated[
    str,
    typer.Argument(metavar="SUBJECT", help="KIND:VALUE with kind caller, client, session, server or tool; of a caller "
                   "the subject, and with --issuer that of one issuer."),
]  # fmt: skip
IssuerOption = Annotated[str, typer.Option(help="Whose subject a caller is; default: of any issuer.")]
_COLUMNS = ("about", "value", "risk", "follows", "signals", "newest")


@app.command("list")
def list_(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show everybody who is suspected of anything, worst first. Example: limen risk list --json"""
    from limen.incidents.threats import as_row, suspects

    now = time.time()
    with opened(context, config) as (settings, state):
        rows = [as_row(one, now) | {"follows": _follows(one, now, settings)} for one in suspects(state.threats)]
    rows = sorted((row for row in rows if row["signals"]), key=lambda row: (-row["risk"], row["about"], row["value"]))
    if as_json:
        emit(rows)
        return
    table(_COLUMNS, [_short(row) for row in rows], red="stops")


@app.command()
def explain(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="SUBJECT|REF", help="KIND:VALUE, or the reference of a call that is in the log.")
    ],
    issuer: IssuerOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which signals, from which events, how they fade, what follows. Example: limen risk explain caller:alice"""
    from limen.incidents.threats import as_row

    now = time.time()
    if ":" not in what:
        with opened(context, config) as (settings, _):
            _explain_call(settings, what, as_json)
        return
    with opened(context, config) as (settings, state):
        found = _named(state.threats, what, issuer)
        rows = [as_row(one, now) | {"follows": _follows(one, now, settings)} for one in found]
    if as_json:
        emit(rows)
        return
    if not rows:
        line("nothing is suspected")
    for row in rows:
        line(f"{row['about']} {_value(row)}: risk {row['risk']:.2f}, {row['follows']}", red=row["risk"] >= 0.8)
        if "cleared" in row:
            line(f"  cleared by {row['by']} at {_when(row['cleared'])}: {row['reason']}")
        for one in row["signals"]:
            line(f"  {one['left']:.2f} of {one['score']:.2f}  {one['source']}: {one['why']}  "
                 f"[{one['event']}, {_when(one['at'])}, half after {one['half_life'] / 60:.0f} min]")  # fmt: skip


@app.command()
def clear(
    context: typer.Context,
    subject: SubjectArgument,
    reason: Annotated[str, typer.Option(help="Why this was a false alarm, for the record.")],
    issuer: IssuerOption = "",
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a suspicion back. Example: limen risk clear caller:alice --reason "our own test" """
    from limen.incidents.threats import as_row
    from limen.incidents.threats import clear as take_back

    if not reason.strip():
        raise Misused("a suspicion is taken back for a reason")
    now, done = time.time(), []
    with opened(context, config) as (_, state):
        found = [one for one in _named(state.threats, subject, issuer) if one.signals]
        if not found:
            raise Refused(f"nothing is suspected of {subject}")
        for one in found:
            state.tell("risk", act="cleared", about=one.subject.kind, value=one.subject.value, by=user(by),
                       reason=reason, signals=len(one.signals))  # fmt: skip
            done.append(as_row(take_back(state.threats, one.subject, user(by), reason, now), now))
        _wake(state.bus)
    if as_json:
        emit(done)
        return
    for row in done:
        line(f"cleared: {row['about']} {_value(row)}, {len(row['signals'])} signals")


def _named(kept: Any, what: str, issuer: str) -> list[Any]:
    """The suspects an operator means. A caller's issuer may be left out. Raises Misused."""
    from limen.incidents.threats import KINDS, suspects

    kind, _, value = what.partition(":")
    if kind not in KINDS or not value:
        raise Misused(f"a subject is KIND:VALUE, with kind one of {', '.join(KINDS)}")

    def meant(subject: Subject) -> bool:
        if subject.kind != kind:
            return False
        of, _, who = subject.value.rpartition("\0")
        return subject.value == value or (kind == "caller" and who == value and issuer in ("", of))

    return [one for one in suspects(kept) if meant(one.subject)]


def _follows(suspect: Any, now: float, settings: Config) -> str:
    from limen.incidents.risk import risk_of

    limits: Limits = settings.risk.limits
    risk = risk_of(suspect.signals, now)
    if risk < limits.record:
        return "nothing follows"
    if settings.risk.unsafe_observe:
        return "calls are recorded (unsafe_observe)"
    if risk >= limits.block:
        return "calls are refused"
    return "a person must approve calls" if risk >= limits.hold else "calls are watched closely"


def _explain_call(settings: Config, ref: str, as_json: bool) -> None:
    """What the log of this replica says of one call."""
    from limen.audit.logs import name_of
    from limen.cli.records_of import records_of

    name = name_of(settings.audit.path, settings.audit.name)
    found = [{"event": f"{name}:{number}", **record} for number, record in sorted(records_of(settings, ref).items())]
    if not found:
        raise Refused(f"no call {ref} in the log")
    shown = ("event", "t", "reason", "guard", "risk", "own_risk", "weighed", "because", "findings", "flow", "detail")
    rows = [{name: row[name] for name in shown if name in row} for row in found]
    if as_json:
        emit(rows)
        return
    for row in rows:
        line(f"{row['event']} {row['t']} {row.get('reason', '')}")
        for name in shown[3:]:
            if row.get(name):
                line(f"  {name}: {row[name]}")


def _short(row: dict[str, Any]) -> dict[str, Any]:
    newest = max(one["at"] for one in row["signals"])
    value, stops = _value(row), row["follows"] == "calls are refused"
    return {**row, "value": value, "signals": len(row["signals"]), "newest": _when(newest), "stops": stops}


def _value(row: dict[str, Any]) -> str:
    return str(row["value"]).replace("\0", " ")


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _wake(bus: Bus | None) -> None:
    from limen.core.faults import DependencyFault

    try:
        if bus is not None:
            bus.publish("threats")
    except DependencyFault as fault:
        complain(f"warning: the bus is down ({fault}); gateways see it at their next look")
