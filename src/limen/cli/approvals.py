"""`limen approvals`: calls that wait for a person."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, ReasonOption, Refused, group, load, user
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.policy.approval import ApprovalRecord

app = group("Calls that wait for a person.")
_COLUMNS = ("id", "state", "age", "subject", "client", "call", "arguments")
IdArgument = Annotated[str, typer.Argument(help="Id, as `limen approvals list` shows it.")]


def _open(context: typer.Context, config: Path | None) -> Any:
    from limen.storage import State

    return State.open(load(context, config).config)


@app.command("list")
def list_(
    context: typer.Context,
    state: Annotated[str, typer.Option(help="pending, approved, rejected or all.")] = "pending",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what waits. Example: limen approvals list --state all"""
    from limen.policy.approval import list_approvals

    if state not in ("pending", "approved", "rejected", "all"):
        raise typer.BadParameter("pending, approved, rejected or all")
    records = list_approvals(_open(context, config).approvals, None if state == "all" else state)
    if as_json:
        emit([asdict(record) for record in records])
        return
    table(_COLUMNS, [_row(record) for record in records])


@app.command()
def approve(
    context: typer.Context,
    id: IdArgument,
    by: ByOption = "",
    reason: ReasonOption = "",
    seconds: Annotated[float, typer.Option(help="How long the yes is good for, once.")] = 900.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let exactly this call happen once. Example: limen approvals approve 1f2e... --reason agreed"""
    from limen.policy.approval import approve as approve_call

    _decided(lambda table_: approve_call(table_, id, user(by), reason, seconds=seconds), context, config, as_json)


@app.command()
def reject(
    context: typer.Context,
    id: IdArgument,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse exactly this call from now on. Example: limen approvals reject 1f2e..."""
    from limen.policy.approval import reject as reject_call

    _decided(lambda table_: reject_call(table_, id, user(by), reason), context, config, as_json)


def _decided(decide: Any, context: typer.Context, config: Path | None, as_json: bool) -> None:
    state = _open(context, config)
    try:
        record: ApprovalRecord = decide(state.approvals)
    except (LookupError, ValueError) as error:
        raise Refused(str(error.args[0]) if error.args else "no such request") from None
    state.tell(
        "approval", act=record.state, id=record.id, by=record.by, reason=record.reason, iss=record.issuer,
        sub=record.subject, client=record.client, server=record.server, name=record.name, digest=record.definition,
        args=record.arguments_sha256, until=record.expires,
    )  # fmt: skip
    if as_json:
        emit(asdict(record))
        return
    line(f"{record.state}: {record.subject} calling {record.server}/{record.name}, by {record.by}")
    line(f"arguments: {record.arguments}")
    if record.truncated:
        line(
            f"only the first part of {record.arguments_size} bytes is shown; sha256 {record.arguments_sha256}", red=True
        )


def _row(record: ApprovalRecord) -> dict[str, Any]:
    return {
        **asdict(record),
        "age": f"{max(0, time.time() - record.created):.0f}s",
        "call": f"{record.server}/{record.name}",
        "arguments": f"{record.arguments[:300]}{' ... cut' if record.truncated or len(record.arguments) > 300 else ''}",
    }
