"""`limen clients`: which clients may ask for tokens, those written down and those that registered themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, Refused, group, opened, user
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.oauth.model import Client
    from limen.oauth.settings import ClientSettings
    from limen.storage import State

app = group("Clients of the authorization server.")
_COLUMNS: Final = ("id", "name", "source", "auth", "redirects to", "warnings", "used")
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id, or enough of its beginning to name one client.")]


@contextmanager
def _opened(context: typer.Context, file: Path | None) -> Iterator[tuple[ClientSettings, State]]:
    with opened(context, file) as (config, state):
        if config.oauth is None:
            raise Misused("there is no authorization server: the configuration has no `oauth`")
        yield config.oauth.clients, state


@app.command("list")
def list_(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show clients, never their secrets. Example: limen clients list --json

    Clients with a metadata document are not kept and so not listed: they are whatever their document says.
    """
    with _opened(context, config) as (settings, state):
        rows = _rows(settings, state)
    if as_json:
        emit(rows)
        return
    shown = [{**row, "auth": row["auth_method"], "redirects to": row["redirect_uris"]} for row in rows]
    table(_COLUMNS, [{**row, "used": row["used"] or "never"} for row in shown])


@app.command()
def show(context: typer.Context, id: IdArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one client. Example: limen clients show reg_4f"""
    with _opened(context, config) as (settings, state):
        row = _one(_rows(settings, state), id)
    if as_json:
        emit(row)
        return
    for name, value in row.items():
        line(f"{name:<14} {' '.join(value) if isinstance(value, list) else value or '-'}")


@app.command()
def remove(
    context: typer.Context, id: IdArgument, by: ByOption = "", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Forget a client that registered itself, at once. Example: limen clients remove reg_4f --by carol"""
    from limen.oauth import registered

    with _opened(context, config) as (settings, state):
        row = _one(_rows(settings, state), id)
        if row["source"] != "registered":
            raise Refused(f"{row['id']} is in the configuration file; take it out there")
        # The log hears of it first: a change that nobody recorded must not take effect.
        state.tell("oauth.client_removed", client=row["id"], name=row["name"], by=user(by))
        if registered.remove(state.oauth, row["id"]) is None:
            raise Refused("it was gone already")
    if as_json:
        emit(row)
        return
    line(f"removed: {row['id']} ({row['name']}), by {user(by)}; what it was granted can no longer be refreshed")


def _rows(settings: ClientSettings, state: State) -> list[dict[str, Any]]:
    from limen.identity.client_keys import ClientKeys
    from limen.oauth import registered
    from limen.oauth.clients import known_clients

    rows = [_row(client) for client in known_clients(settings, (), ClientKeys()).values()]
    for one in registered.each(state.oauth):
        row = _row(one.client)
        rows.append(
            {
                **row,
                "registered": _moment(one.created),
                "address": one.address,
                "expires": _moment(one.expires),
                "used": _moment(one.used),
                "accepted": settings.registration,
            }
        )
    return rows


def _row(client: Client) -> dict[str, Any]:
    return {
        "id": client.id,
        "name": client.name,
        "source": client.source,
        "auth_method": client.auth_method,
        "redirect_uris": list(client.redirect_uris),
        "scopes": sorted(client.scopes),
        "grant_types": sorted(client.grant_types),
        "warnings": list(client.warnings),
        "uri": client.uri,
        "registered": None,
        "address": "",
        "expires": None,
        "used": None,
        "accepted": True,
    }


def _one(rows: list[dict[str, Any]], prefix: str) -> dict[str, Any]:
    found = [row for row in rows if row["id"] == prefix] or [row for row in rows if row["id"].startswith(prefix)]
    if len(found) != 1:
        raise Refused(f"{len(found)} clients begin with {prefix[:60]!r}; name one" if found else "no such client")
    return found[0]


def _moment(at: float) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="minutes") if at else None
