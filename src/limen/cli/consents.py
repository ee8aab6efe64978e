"""`limen consents`: what people let clients do in their name, and its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, ReasonOption, Refused, group, opened, user
from limen.cli.terminal import as_text, emit, line, table

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.oauth.consent import Consent, Consents

app = group("What people let clients do in their name.")
EVERY: Final = "*"  # the route of all servers has no name; nor can a server have this one
_COLUMNS: Final = ("id", "user", "client", "server", "scopes", "at", "expires")
_SHORT: Final = 16  # characters of an id that differ from row to row
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id, or enough of its beginning to name one.")]
UserOption = Annotated[str, typer.Option("--user", help="Only of this person: `sub`, as the audit log shows it.")]
ClientOption = Annotated[str, typer.Option("--client", help="Only to this client: its `client_id`.")]
ServerOption = Annotated[
    str, typer.Option("--server", help="Only for this server or bundle; '*' is the address of all servers.")
]


@contextmanager
def _opened(context: typer.Context, file: Path | None) -> Iterator[tuple[Config, Consents]]:
    from limen.issuing import withdrawal
    from limen.oauth.consent import Consents
    from limen.oauth.settings import ConsentSettings

    with opened(context, file) as (config, state):
        settings = config.oauth.consent if config.oauth is not None else ConsentSettings()
        end = withdrawal(config, state)
        yield (
            config,
            Consents(state.consents, lambda event, fields: state.tell(event, **fields), settings, time.time, end),
        )


@app.command("list")
def list_(
    context: typer.Context,
    who: UserOption = "",
    client: ClientOption = "",
    server: ServerOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show consents that hold, oldest first. Example: limen consents list --user alice --json"""
    with _opened(context, config) as (settings, ledger):
        rows = [_shown(row) for row in _chosen(settings, ledger, who, client, server)]
    if as_json:
        emit(rows)
        return
    table(_COLUMNS, [{**row, "id": row["id"][:_SHORT], "server": row["server"] or EVERY} for row in rows])


@app.command()
def show(context: typer.Context, id: IdArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one consent. Example: limen consents show 3f0c9a"""
    with _opened(context, config) as (_, ledger):
        row = _shown(_one(ledger, id))
    if as_json:
        emit(row)
        return
    for name, value in row.items():
        line(f"{name:<13} {as_text(value)}")


@app.command()
def revoke(
    context: typer.Context,
    id: Annotated[str, typer.Argument(metavar="[ID]", help="Id, or enough of its beginning to name one.")] = "",
    who: UserOption = "",
    client: ClientOption = "",
    server: ServerOption = "",
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End one consent, or all that the options name. What was issued under it ends within a second.

    Example: limen consents revoke 3f0c9a --reason "lost laptop"; limen consents revoke --client https://app.example/c
    """
    if bool(id) == bool(who or client or server):
        raise Misused("name one consent by its id, or several by --user, --client or --server")
    done: list[Consent] = []
    with _opened(context, config) as (settings, ledger):
        rows = (_one(ledger, id),) if id else _chosen(settings, ledger, who, client, server)
        for row in rows:
            try:
                done.append(ledger.revoke(row.id, by=user(by), reason=reason))
            except LookupError:
                continue  # ended by somebody else meanwhile
    if not done:
        raise Refused("no such consent")
    if as_json:
        emit([_shown(row) for row in done])
        return
    for row in done:
        line(f"revoked: {row.id[:_SHORT]}, {row.subject} to {row.client} on {row.route or EVERY}")


def _chosen(config: Config, ledger: Consents, who: str, client: str, server: str) -> tuple[Consent, ...]:
    known = {EVERY, *config.mcpServers, *config.bundles}
    found = ledger.list(user=who, client=client, server=None if not server else "" if server == EVERY else server)
    if server and not found and server not in known:
        raise Misused(f"no server or bundle named {server!r}: {', '.join(sorted(known))}")
    return found


def _one(ledger: Consents, prefix: str) -> Consent:
    found = [row for row in ledger.list() if row.id.startswith(prefix)]
    if len(found) != 1:
        raise Refused(f"{len(found)} consents begin with {prefix[:64]!r}; name one" if found else "no such consent")
    return found[0]


def _shown(row: Consent) -> dict[str, Any]:
    return {
        "id": row.id,
        "user": row.subject,
        "name": row.name,
        "issuer": row.issuer,
        "client": row.client,
        "client_name": row.client_name,
        "redirect_uri": row.redirect_uri,
        "server": row.route,
        "resource": row.resource,
        "scopes": list(row.scopes),
        "at": _minute(row.at),
        "expires": _minute(row.expires),
    }


def _minute(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="minutes")
