"""`limen audit events` and `limen audit parameters`: what the log can hold, and the arguments it kept."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, ReasonOption, Refused, opened, user
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.config.model import Config


def events(
    type: Annotated[str, typer.Argument(help="Only of this type, or of types that begin so.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="The page docs/events.md.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every type of event, what it means and what it carries. Example: limen audit events security --json"""
    from limen.audit.catalogue import CATALOGUE
    from limen.audit.events_page import page

    if markdown:
        print(page(), end="")
        return
    rows = [asdict(row) for row in CATALOGUE.values() if row.id == type or row.id.startswith(type)]
    if not rows:
        raise Refused(f"no type of event begins with {type!r}")
    if as_json:
        emit(rows)
        return
    table(("id", "category", "severity", "text"), rows)
    if len(rows) == 1:
        line(f"carries: {' '.join(rows[0]['members'])}")


def parameters(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF", help="Reference of the call, as the log shows it.")],
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the arguments the log kept of a call; that somebody read them is put on record first.

    Example: limen audit parameters 4f0c9a1b2c3d4e5f --reason "incident 12"
    Status: 0 shown, 1 nothing was kept or its key was destroyed, 2 configuration or usage, 3 the database failed.
    """
    from limen.audit.parameters import opened as arguments
    from limen.core.faults import DependencyFault
    from limen.opening import open_vault

    if not reason.strip():
        raise Refused("arguments of calls are private: give a --reason")
    with opened(context, config) as (settings, state):
        record = _intent(settings, reference)
        kept = record.get("parameters") or {}
        try:
            plain = arguments(record, lambda: open_vault(settings, state))
        except LookupError as error:
            raise Refused(str(error.args[0])) from None
        except DependencyFault as fault:
            if fault.retryable:
                raise
            raise Refused(f"they cannot be opened: {fault}") from None
        state.tell(
            "parameters", act="read", ref=reference, by=user(by), reason=reason, kind=kept["kind"],
            issuer=record.get("iss", ""), subject=record.get("sub", ""), server=record.get("upstream", ""),
        )  # fmt: skip
    text = plain.decode("utf-8", "replace")
    if as_json:
        emit({"ref": reference, "parameters": text, **{name: kept.get(name) for name in ("kind", "size", "cut")}})
        return
    line(text)
    if kept.get("cut"):
        line(f"only the beginning of {kept['size']} bytes was kept", red=True)


def _intent(config: Config, reference: str) -> dict[str, Any]:
    """The record of the call with this reference that was about to be sent."""
    from limen.cli.records_of import records_of

    for scan in (False, True):
        for record in records_of(config, reference, scan=scan).values():
            if record.get("t") == "intent":
                return record
    raise Refused(f"{reference}: no such call was sent, as far as this log goes")
