"""`limen connections`: accounts people connected at servers behind us. Needs no key and shows no token."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, ReasonOption, Refused, group, load, user
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.credentials.connection import Connection
    from limen.storage import State

app = group("Accounts people connected at servers behind this gateway.")
_COLUMNS: Final = ("id", "server", "person", "account at", "scopes", "connected", "renews")
ServerOption = Annotated[str, typer.Option(help="Only of this server.")]
PersonOption = Annotated[str, typer.Option("--user", help="Only of this person: the subject of their sign-in.")]


@app.command("list")
def list_(
    context: typer.Context,
    server: ServerOption = "",
    person: PersonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who connected what. Example: limen connections list --server notes"""
    found = _found(_state(context, config), server, person)
    if as_json:
        emit([_row(connection) for connection in found])
        return
    table(_COLUMNS, [_shown(connection) for connection in found])


@app.command()
def revoke(
    context: typer.Context,
    id: Annotated[str, typer.Argument(help="Id, or its beginning, as `limen connections list` shows it.")] = "",
    server: ServerOption = "",
    person: PersonOption = "",
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End connections: here within a second, and where the tokens came from by the running gateway, or the next one.

    Example: limen connections revoke 1f2e3d4c5b6a --reason "left the team"

    Example: limen connections revoke --user alice
    """
    from limen.credentials.user_grants import end_connection

    if bool(id) == bool(server or person):
        raise Misused("name an id, or whose connections with --server and --user")
    state, who = _state(context, config), user(by)

    def told(event: str, fields: Any) -> None:
        state.tell(event, **fields, by=who, reason=reason)

    wanted = [id] if id else [connection.key.partition("/")[2] for connection in _found(state, server, person)]
    ended: list[Connection] = []
    for one in wanted:
        try:
            connection = end_connection(state.vault, one, "revoked", told, time.time())
        except LookupError as error:
            raise Misused(str(error.args[0])) from None
        if connection is not None:
            ended.append(connection)
    if not ended:
        raise Refused("no such connection")
    if as_json:
        emit([_row(connection) for connection in ended])
        return
    for connection in ended:
        line(f"ended: {connection.server} for {connection.subject}")
        if not connection.revocation_endpoint:
            line(f"{connection.authorization_server} cannot be told: its token lives until it expires", red=True)


def _state(context: typer.Context, config: Path | None) -> State:
    from limen.storage import State

    return State.open(load(context, config).config)


def _found(state: State, server: str, person: str) -> list[Connection]:
    from limen.credentials.connection import PREFIX, read

    every = [read(raw) for _, raw in state.vault.scan(PREFIX)]
    return [one for one in every if server in ("", one.server) and person in ("", one.subject)]


def _row(connection: Connection) -> dict[str, Any]:
    return {
        "id": connection.id,
        "server": connection.server,
        "issuer": connection.issuer,
        "subject": connection.subject,
        "name": connection.name,
        "authorization_server": connection.authorization_server,
        "resource": connection.resource,
        "client": connection.client,
        "scopes": list(connection.scopes),
        "connected": connection.linked,
        "expires": connection.expires,
        "renews": connection.renewable,
    }


def _shown(connection: Connection) -> dict[str, Any]:
    return {
        "id": connection.id,
        "server": connection.server,
        "person": f"{connection.subject} ({connection.name})" if connection.name else connection.subject,
        "account at": connection.authorization_server,
        "scopes": " ".join(connection.scopes),
        "connected": datetime.fromtimestamp(connection.linked, UTC).strftime("%Y-%m-%d %H:%M"),
        "renews": "yes" if connection.renewable else "no",
    }
