"""`limen revoke`: who or what is no longer welcome, on every replica within a second."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, ReasonOption, Refused, group, load, user
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.core.ports import Bus
    from limen.identity.revoked import Revocation
    from limen.storage import State

app = group("Who or what is no longer welcome.")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_COLUMNS: Final = ("id", "kind", "value", "issuer", "until", "reason", "by")
IssuerOption = Annotated[str, typer.Option(help="Only of this issuer; default: of any.")]
UntilOption = Annotated[
    str, typer.Option(help="End by itself: 90s, 15m, 8h, 30d, or a time like 2030-01-31T18:00Z; default: never.")
]


def _open(context: typer.Context, config: Path | None) -> State:
    from limen.storage import State

    return State.open(load(context, config).config)


def read_until(text: str, now: float) -> float | None:
    """Seconds since the epoch. Raises Misused."""
    if not text:
        return None
    if found := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return now + int(found[1]) * _UNITS[found[2]]
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise Misused("--until reads 90s, 15m, 8h, 30d, or a time like 2030-01-31T18:00Z") from None
    return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()


def _put(context: typer.Context, config: Path | None, as_json: bool, until: str, **what: str) -> None:
    from limen.identity.revoked import Revocation, as_row, described, revoke

    now = time.time()
    what["by"] = user(what["by"])
    state = _open(context, config)
    wanted = Revocation(**what, at=now, until=read_until(until, now))
    _not_contained(state, wanted)
    try:
        record = revoke(state.revocations, wanted)
    except ValueError as error:
        raise Misused(str(error)) from None
    _wake(state.bus)
    state.tell("revocation", act="made", **as_row(record))
    if as_json:
        emit(as_row(record))
        return
    line(f"revoked: {described(record)}")
    line(f"take it back with: limen revoke undo {record.id}")


def _not_contained(state: State, revocation: Revocation) -> None:
    """What was contained is changed by `limen contain` alone, where two people may have to agree."""
    from limen.containing import covered

    if id := covered(state, revocation):
        raise Refused(f"this is contained: limen contain release {id}")


def _wake(bus: Bus | None) -> None:
    """The record is in the table; gateways that are not woken look by themselves within a quarter of a second."""
    from limen.cli.terminal import complain
    from limen.core.faults import DependencyFault

    try:
        if bus is not None:
            bus.publish("revocations")
    except DependencyFault as fault:
        complain(f"warning: the bus is down ({fault}); gateways see it at their next look")


@app.command()
def token(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="ID", help="Its `jti`, or the digest the audit log shows.")],
    issuer: IssuerOption = "",
    reason: ReasonOption = "",
    until: UntilOption = "",
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse one token. Example: limen revoke token 7d1f... --reason stolen --until 24h"""
    _put(context, config, as_json, until, kind="token", value=value, issuer=issuer, reason=reason, by=by)


@app.command("user")
def user_(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="SUBJECT", help="`sub`, as the audit log shows it.")],
    issuer: IssuerOption = "",
    reason: ReasonOption = "",
    until: UntilOption = "",
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lock a caller out, whatever the token. Example: limen revoke user alice --reason "left the company" """
    _put(context, config, as_json, until, kind="user", value=value, issuer=issuer, reason=reason, by=by)


@app.command()
def client(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="CLIENT", help="`client_id`, as the audit log shows it.")],
    issuer: IssuerOption = "",
    reason: ReasonOption = "",
    until: UntilOption = "",
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse all tokens of one client. Example: limen revoke client app-1 --until 15m"""
    _put(context, config, as_json, until, kind="client", value=value, issuer=issuer, reason=reason, by=by)


@app.command()
def session(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="SESSION", help="Its id, or the 16 digits the audit log shows.")],
    reason: ReasonOption = "",
    until: UntilOption = "",
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End one session. Example: limen revoke session 0a1b2c3d4e5f6071"""
    from limen.identity.revoked import session_digest

    digest = value if re.fullmatch(r"[0-9a-f]{16}", value) else session_digest(value)
    _put(context, config, as_json, until, kind="session", value=digest, issuer="", reason=reason, by=by)


@app.command()
def key(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="KEY", help="Id of an API key, or `kid` of an issuer's key.")],
    issuer: IssuerOption = "",
    reason: ReasonOption = "",
    until: UntilOption = "",
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse an API key, or all an issuer's key signed. Example: limen revoke key k-2024 --issuer https://id.example"""
    _put(context, config, as_json, until, kind="key", value=value, issuer=issuer, reason=reason, by=by)


@app.command("list")
def list_(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what is revoked. Example: limen revoke list --json"""
    from limen.identity.revoked import as_row, revocations

    rows = [as_row(record) for record in revocations(_open(context, config).revocations)]
    if as_json:
        emit(rows)
        return
    table(_COLUMNS, [{**row, "until": _shown(row["until"])} for row in rows])


def _shown(until: Any) -> str:
    return "" if until is None else datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds")


@app.command()
def undo(
    context: typer.Context,
    id: Annotated[str, typer.Argument(help="Id, as `limen revoke list` shows it.")],
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a revocation back. Example: limen revoke undo 5e884898da280471"""
    from limen.identity.revoked import as_row, described, revocations
    from limen.identity.revoked import undo as take_back

    state = _open(context, config)
    for standing in revocations(state.revocations):
        if standing.id == id:
            _not_contained(state, standing)
    try:
        record = take_back(state.revocations, id)
    except LookupError as error:
        raise Refused(str(error.args[0])) from None
    _wake(state.bus)
    state.tell("revocation", act="undone", **{**as_row(record), "by": user(by)})
    if as_json:
        emit(as_row(record))
        return
    line(f"no longer revoked: {described(record)}")
