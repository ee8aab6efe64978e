"""`limen keys api`: API keys for clients that cannot do OAuth."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, Refused, group, opened, user
from limen.cli.terminal import complain, emit, line, table

if TYPE_CHECKING:
    from limen.identity.api_keys import ApiKey
    from limen.storage import State

app = group("API keys, for clients that cannot do OAuth.")
_COLUMNS: Final = ("id", "state", "owner", "servers", "scopes", "expires", "used")
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id, or enough of its beginning to name one key.")]


@app.command()
def create(
    context: typer.Context,
    owner: Annotated[str, typer.Argument(help="Who answers for it; rules see it as the user.")],
    server: Annotated[list[str], typer.Option(help="Server or bundle it is for; repeat it, or '*' for all.")],
    scope: Annotated[list[str] | None, typer.Option(help="What it may be used for; repeat it.")] = None,
    days: Annotated[float | None, typer.Option(help="Days until it expires, 366 at most; default: 90.")] = None,
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and show it, once. Example: limen keys api create nightly-job --server files --scope read --days 30"""
    from limen.identity.api_keys import DEFAULT_DAYS, EVERY
    from limen.identity.api_keys import create as create_key

    with opened(context, config) as (settings, state):
        known = {EVERY, *settings.mcpServers, *settings.bundles}
        if unknown := [name for name in server if name not in known]:
            raise Misused(f"no server or bundle named {unknown[0]!r}: {', '.join(sorted(known))}")
        try:
            key, record = create_key(
                state.keys,
                state.tell,
                owner=owner,
                servers=tuple(server),
                scopes=tuple(scope or ()),
                by=user(by),
                days=DEFAULT_DAYS if days is None else days,
                now=time.time(),
            )
        except ValueError as error:
            raise Misused(str(error)) from None
        if as_json:
            emit({**_shown(record, state), "key": key})
        else:
            line(key)
            complain(f"key {record.id} is shown this once; it expires {_day(record.expires)}")
        if not settings.identity.api_keys:
            complain("warning: keys are not accepted; set identity.api_keys: true")


@app.command("list")
def list_(
    context: typer.Context,
    prefix: Annotated[str, typer.Argument(help="Beginning of an id, or of a key that was found somewhere.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Expired and revoked keys too.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show keys, never their secrets. Example: limen keys api list --all"""
    from limen.identity.api_keys import find

    with opened(context, config) as (_, state):
        rows = [_shown(record, state) for record in find(state.keys, prefix)]
    rows = [row for row in rows if everything or prefix or row["state"] == "active"]
    if as_json:
        emit(rows)
        return
    table(_COLUMNS, [{**row, **{name: _cell(row[name]) for name in _COLUMNS}} for row in rows])


@app.command()
def show(context: typer.Context, id: IdArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one key. Example: limen keys api show 3f0c"""
    with opened(context, config) as (_, state):
        row = _shown(_one(state, id), state)
    if as_json:
        emit(row)
        return
    for name, value in row.items():
        line(f"{name:<10} {_cell(value)}")


@app.command()
def revoke(
    context: typer.Context, id: IdArgument, by: ByOption = "", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """End a key at once and for good. Example: limen keys api revoke 3f0c9a --by carol"""
    from limen.identity.api_keys import revoke as revoke_key

    with opened(context, config) as (_, state):
        record = revoke_key(state.keys, state.tell, _one(state, id).id, by=user(by), now=time.time())
        row = _shown(record, state)
    if as_json:
        emit(row)
        return
    line(f"revoked: {record.id} of {record.owner}, by {record.revoked_by}")


@app.command()
def regenerate(
    context: typer.Context,
    id: Annotated[str, typer.Argument(metavar="[ID]", help="Id, or enough of its beginning to name one key.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every key that is active.")] = False,
    owner: Annotated[str, typer.Option("--of", metavar="SUBJECT", help="Every active key of this owner.")] = "",
    overlap: Annotated[
        float, typer.Option(min=0, max=720, help="Hours for which the former key still works; 0: none.")
    ] = 24.0,
    by: ByOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Exchange a key for a new one, which is shown this once. Example: limen keys api regenerate 3f0c --overlap 1"""
    from limen.identity.api_keys import find
    from limen.identity.api_keys import regenerate as regenerate_key

    if sum((bool(id), everything, bool(owner))) != 1:
        raise Misused("say which: one ID, --of SUBJECT, or --all")
    made: list[dict[str, Any]] = []
    with opened(context, config) as (_, state):
        now = time.time()
        active = [record for record in find(state.keys) if record.state(now) == "active"]
        chosen = [_one(state, id)] if id else [one for one in active if everything or one.owner == owner]
        if not chosen:
            raise Refused("no such key is active")
        for former in chosen:
            try:
                key, record = regenerate_key(
                    state.keys, state.tell, former.id, by=user(by), now=time.time(), overlap=overlap * 3600
                )
            except ValueError as error:
                raise Refused(str(error)) from None
            made.append({**_shown(record, state), "key": key, "instead_of": former.id})
            if not as_json:
                line(f"{key}  # {record.owner}, instead of {former.id}")
    if as_json:
        emit(made)
        return
    ends = f"the former ones end in {overlap:g} hours" if overlap else "the former ones are refused from now on"
    complain(f"{len(made)} keys are shown this once; {ends}")


def _one(state: State, prefix: str) -> ApiKey:
    from limen.identity.api_keys import find

    found = find(state.keys, prefix)
    if len(found) != 1:
        raise Refused(f"{len(found)} keys begin with {prefix[:18]!r}; name one" if found else "no such key")
    return found[0]


def _shown(record: ApiKey, state: State) -> dict[str, Any]:
    from limen.identity.api_keys import last_used

    return {
        "id": record.id,
        "state": record.state(time.time()),
        "owner": record.owner,
        "servers": list(record.servers),
        "scopes": list(record.scopes),
        "created": _day(record.created),
        "by": record.by,
        "expires": _day(record.expires),
        "used": _day(last_used(state.seen, record.id)),
        "revoked": _day(record.revoked),
        "revoked_by": record.revoked_by,
    }


def _cell(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value or "never")


def _day(moment: float | None) -> str | None:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="minutes") if moment else None
