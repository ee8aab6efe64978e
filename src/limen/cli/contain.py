"""`limen contain`: stop an attack on every replica within a second, and take that back afterwards.

Works on the records, whether or not a gateway runs, and whoever is locked out of it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, ReasonOption, Refused, group, opened, user
from limen.cli.revoke import IssuerOption, UntilOption, read_until
from limen.cli.terminal import complain, emit, line, table

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.containing import Containing
    from limen.incidents.actions import Applied
    from limen.storage import State

app = group("Stop an attack on every replica within a second.")
_COLUMNS: Final = ("id", "action", "value", "issuer", "until", "waits", "incident", "reason", "by")
IncidentOption = Annotated[str, typer.Option(help="The incident this belongs to.")]


def _why(reason: str) -> None:
    if not reason.strip():
        raise Misused("--reason is needed: why is recorded with each")


def _put(
    context: typer.Context,
    kind: str,
    value: str,
    by: str,
    reason: str,
    config: Path | None,
    as_json: bool,
    *,
    issuer: str = "",
    until: str = "",
    incident: str = "",
) -> None:
    from limen.incidents.actions import Action

    _why(reason)
    action = Action(kind, value, issuer, read_until(until, time.time()))
    with opened(context, config) as (settings, state):
        try:
            applied = _hands(settings, state).apply(action, by=user(by), reason=reason, incident=incident)
        except ValueError as error:
            raise Misused(str(error)) from None
        if kind == "quarantine_tool":
            _look_up(settings, state, value)
    if as_json:
        emit(_row(applied))
        return
    if applied.waits:
        line(f"waits: a second person must agree to {kind} {value}, with the same command")
        return
    line(f"contained: {kind} {value}, {applied.id}")
    if kind != "revoke_grants":
        line(f"take it back with: limen contain release {applied.id}")


def _hands(config: Config, state: State) -> Containing:
    from limen.containing import Containing

    return Containing(config, state, lambda event, fields: state.tell(event, **fields))


def _look_up(config: Config, state: State, value: str) -> None:
    """A name that is misspelt contains nothing: better said now than found out later."""
    from limen.opening import open_signer, registry_of

    entries = registry_of(config, state.catalog, open_signer(config)).entries()
    if not any(f"{entry.server}/{entry.name}" == value for entry in entries):
        complain(f"warning: nothing of this name is known; it is contained should it appear: {value}")


@app.command("end-session")
def end_session(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="SESSION", help="The 16 digits the audit log shows.")],
    by: ByOption = "",
    reason: ReasonOption = "",
    until: UntilOption = "",
    incident: IncidentOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End one session. Example: limen contain end-session 0a1b2c3d4e5f6071 --reason "odd calls" """
    _put(context, "end_session", value, by, reason, config, as_json, until=until, incident=incident)


@app.command("lock-caller")
def lock_caller(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="SUBJECT", help="`sub`, as the audit log shows it.")],
    issuer: IssuerOption = "",
    by: ByOption = "",
    reason: ReasonOption = "",
    until: UntilOption = "",
    incident: IncidentOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lock a caller out, whatever the token. Example: limen contain lock-caller alice --until 8h --reason stolen"""
    _put(context, "lock_caller", value, by, reason, config, as_json, issuer=issuer, until=until, incident=incident)


@app.command("block-client")
def block_client(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="CLIENT", help="`client_id`, as the audit log shows it.")],
    issuer: IssuerOption = "",
    by: ByOption = "",
    reason: ReasonOption = "",
    until: UntilOption = "",
    incident: IncidentOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse all tokens of one client. Example: limen contain block-client app-1 --reason "bad release" """
    _put(context, "block_client", value, by, reason, config, as_json, issuer=issuer, until=until, incident=incident)


@app.command("revoke-token")
def revoke_token(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="ID", help="Its `jti`, or the digest the audit log shows.")],
    issuer: IssuerOption = "",
    by: ByOption = "",
    reason: ReasonOption = "",
    until: UntilOption = "",
    incident: IncidentOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse one token. Example: limen contain revoke-token 7d1f0c --until 24h --reason "in a paste" """
    _put(context, "revoke_token", value, by, reason, config, as_json, issuer=issuer, until=until, incident=incident)


@app.command("revoke-grants")
def revoke_grants(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="SUBJECT", help="`sub`, as the audit log shows it.")],
    issuer: IssuerOption = "",
    by: ByOption = "",
    reason: ReasonOption = "",
    incident: IncidentOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End all grants, consents and connections of one person, for good. They may sign in again.

    Example: limen contain revoke-grants alice --reason "laptop stolen"
    """
    _put(context, "revoke_grants", value, by, reason, config, as_json, issuer=issuer, incident=incident)


@app.command("quarantine-tool")
def quarantine_tool(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="SERVER/NAME", help="A tool, prompt, resource or template.")],
    by: ByOption = "",
    reason: ReasonOption = "",
    until: UntilOption = "",
    incident: IncidentOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have nobody call it, and list it to nobody. Example: limen contain quarantine-tool mail/send --reason leaks"""
    _put(context, "quarantine_tool", value, by, reason, config, as_json, until=until, incident=incident)


@app.command("quarantine-server")
def quarantine_server(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="SERVER")],
    by: ByOption = "",
    reason: ReasonOption = "",
    until: UntilOption = "",
    incident: IncidentOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have nobody call anything of one server. Example: limen contain quarantine-server mail --reason "rug pull" """
    _put(context, "quarantine_server", value, by, reason, config, as_json, until=until, incident=incident)


@app.command("cut-egress")
def cut_egress(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="SERVER")],
    by: ByOption = "",
    reason: ReasonOption = "",
    until: UntilOption = "",
    incident: IncidentOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cut a server's network: of a local one, whatever its processes have open. Of a remote one, our way to it.

    Example: limen contain cut-egress files --reason exfiltration
    """
    _put(context, "cut_egress", value, by, reason, config, as_json, until=until, incident=incident)


@app.command("read-only")
def read_only(
    context: typer.Context,
    value: Annotated[str, typer.Argument(metavar="[SERVER]", help="Default: all servers.")] = "*",
    by: ByOption = "",
    reason: ReasonOption = "",
    until: UntilOption = "",
    incident: IncidentOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let pass only what was approved as reading. Example: limen contain read-only mail --reason "being looked at" """
    _put(context, "read_only", value, by, reason, config, as_json, until=until, incident=incident)


@app.command("stop-all")
def stop_all(
    context: typer.Context,
    by: ByOption = "",
    reason: ReasonOption = "",
    until: UntilOption = "",
    incident: IncidentOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Nothing is called at all. Example: limen contain stop-all --until 1h --reason "attack under way" """
    _put(context, "stop_all", "*", by, reason, config, as_json, until=until, incident=incident)


@app.command("list")
def list_(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what is contained, and what waits for a second person. Example: limen contain list --json"""
    with opened(context, config) as (settings, state):
        found = _hands(settings, state).standing()
    rows = [{**_row(one.applied(waits=waits)), "release_asked_by": one.asked} for one, waits in found]
    if as_json:
        emit(rows)
        return
    table(_COLUMNS, [{**row, "until": _shown(row["until"])} for row in rows])


@app.command()
def release(
    context: typer.Context,
    id: Annotated[str, typer.Argument(help="Id, as `limen contain list` shows it.")],
    by: ByOption = "",
    reason: ReasonOption = "",
    break_glass: Annotated[
        bool, typer.Option("--break-glass", help="Without a second person; recorded as critical.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take it back. Example: limen contain release 5e884898da280471 --reason "false alarm" """
    _why(reason)
    with opened(context, config) as (settings, state):
        try:
            applied = _hands(settings, state).release(id, by=user(by), reason=reason, break_glass=break_glass)
        except LookupError as error:
            raise Refused(str(error.args[0])) from None
        except ValueError as error:
            raise Misused(str(error)) from None
    if as_json:
        emit({**_row(applied), "released": not applied.waits})
        return
    what = f"{applied.action.kind} {applied.action.value}"
    line(f"waits: a second person must release {what} as well" if applied.waits else f"released: {what}")


def _row(applied: Applied) -> dict[str, Any]:
    action = applied.action
    return {
        "id": applied.id, "action": action.kind, "value": action.value, "issuer": action.issuer, "until": action.until,
        "waits": applied.waits, "incident": applied.incident, "reason": applied.reason, "by": applied.by,
        "at": applied.at,
    }  # fmt: skip


def _shown(until: float | None) -> str:
    return "" if until is None else datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds")
