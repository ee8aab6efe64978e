"""`limen wrap` and `limen unwrap`: a client's servers run through Limen, and as before."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ConfigOption, JsonOption, Misused, Refused, chosen, user
from limen.cli.terminal import complain, emit, line, table
from limen.core.faults import ConfigFault

if TYPE_CHECKING:
    from limen.cli.wrapping import Found, Wrapping

_COLUMNS: Final = ("client", "file", "server", "state", "now", "then")
_NEW: Final = """\
# Made by `limen wrap`. What servers offer still waits for approval: limen tools list; limen tools approve SERVER
version: 1
include: [{state}]
policy:
  rules:
    - {{allow: {who}, call: "*/*", operations: [tool, prompt, resource]}}
"""
ClientOption = Annotated[list[str] | None, typer.Option("--client", help="Only this client, e.g. cursor.")]
FileOption = Annotated[list[Path] | None, typer.Option("--file", help="This file, whatever client it is of.")]
AllOption = Annotated[bool, typer.Option("--all", help="Every client that is found.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")]


def wrap(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[SERVER]...", help="Only these entries.")] = None,
    client: ClientOption = None,
    file: FileOption = None,
    all_: AllOption = False,
    dry: DryOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the servers in clients' files run through Limen. Without --all, --client or --file: show what is there.

    Example: limen wrap --all --dry-run; limen wrap --client cursor; limen unwrap --all
    Status: 0 done, 1 a file could not be changed, 2 usage or configuration, 3 the disk failed.
    """
    from limen.adapters.replace import replace_file
    from limen.cli.wrapping import Wrapping, shown

    wrapping = Wrapping(chosen(context, config))
    places = _places(client, file)
    dry = dry or not (all_ or client or file)
    rows: list[dict[str, Any]] = []
    work: list[tuple[Found, bytes]] = []
    wanted = frozenset(names or ())
    for found in places:
        waiting = [one for one in found.entries if one.state == "open" and (not wanted or one.name in wanted)]
        if waiting and not dry:
            work.append((found, wrapping.wrap(found, wanted)))
        for one in found.entries if not wanted else [one for one in found.entries if one.name in wanted]:
            row = _row(found, one.name, one.reason or one.state, shown(one.value))
            if one in waiting:
                row |= {"state": "would wrap" if dry else "wrapped", "then": f"limen stdio {one.server or one.name}"}
            rows.append(row)
        if not found.entries:
            rows.append(
                _row(found, "", found.reason or ("no servers" if found.state == "read" else "no such file"), "")
            )
    if missing := sorted(wanted - {one.name for found in places for one in found.entries}):
        wrapping.discard()
        raise Refused(f"{missing[0]}: no such entry in the files that were looked at")
    if work:
        _ready(wrapping)
        for found, data in work:
            replace_file(found.path, data, found.data)
    _told(rows, dry=dry, as_json=as_json, config=wrapping.config, refused=_refused(places, bool(client or file)))


def unwrap(
    context: typer.Context,
    client: ClientOption = None,
    file: FileOption = None,
    all_: AllOption = False,
    dry: DryOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put clients' files back: byte for byte where nobody changed them since. Without --all or names: show.

    Example: limen unwrap --all
    Status: 0 done, 1 a file could not be changed, 2 usage or configuration, 3 the disk failed.
    """
    from limen.adapters.replace import replace_file
    from limen.cli.clients import CLIENTS, by_file
    from limen.cli.wrapping import Wrapping, look

    wrapping = Wrapping(chosen(context, config))
    known = {one.name: one for one in CLIENTS}
    paths = {str(path.absolute()) for path in file or ()}
    if unknown := [name for name in client or () if name not in known]:
        raise Misused(f"{unknown[0]}: no such client; known: {', '.join(known)}")
    records = [
        one for one in wrapping.files if one["client"] in (client or ()) or one["path"] in paths or not (client or file)
    ]
    dry = dry or not (all_ or client or file)
    rows: list[dict[str, Any]] = []
    failed = False
    for record in list(records):
        path = Path(record["path"])
        found = look(known.get(record["client"]) or by_file(path), path)
        if found.state == "refused":
            failed = True
            complain(f"{path}: {found.reason}")
            continue
        data, left = wrapping.unwrap(found) if found.state == "read" else (b"", ["the file is gone"])
        state = "would unwrap" if dry else "unwrapped"
        rows += [_row(found, one["name"], state, f"limen stdio {one['server']}") for one in record["entries"]]
        rows += [_row(found, text.split(":")[0], text, "") for text in left]
        if not dry:
            if found.state == "read" and data != found.data:
                replace_file(path, data, found.data)
            wrapping.forget(path)
    if not dry:
        if not wrapping.files:
            _config_back(wrapping)
        wrapping.save()
    _told(rows, dry=dry, as_json=as_json, config=wrapping.config, refused=failed)


def _places(client: list[str] | None, file: list[Path] | None) -> list[Found]:
    """Every place to look at; a file that two clients read is looked at once."""
    from limen.cli.clients import CLIENTS, by_file, found_places
    from limen.cli.wrapping import look

    if unknown := [name for name in client or () if name not in {one.name for one in CLIENTS}]:
        raise Misused(f"{unknown[0]}: no such client; known: {', '.join(one.name for one in CLIENTS)}")
    for path in file or ():
        if not path.exists():
            raise Refused(f"{path}: no such file")
    pairs = [(by_file(path), path.absolute()) for path in file or ()]
    if client or not file:
        pairs += [(one, path) for one, path in found_places() if not client or one.name in client]
    return [look(one, path) for path, one in {path: one for one, path in reversed(pairs)}.items()][::-1]


def _row(found: Found, name: str, state: str, now: str) -> dict[str, Any]:
    return {
        "client": found.client.name,
        "file": str(found.path),
        "server": name,
        "state": state,
        "now": now,
        "then": "",
    }


def _refused(places: list[Found], named: bool) -> bool:
    for found in places:
        if found.state == "refused" and named:
            complain(f"{found.path}: {found.reason}")
    return named and any(found.state == "refused" for found in places)


def _ready(wrapping: Wrapping) -> None:
    """Our state and the configuration on disk, and checked, before any client's file is touched. Raises ConfigFault:
    then everything is as before."""
    from limen.adapters.replace import remove_file, replace_file
    from limen.config.load import load_config

    path, state = wrapping.config, wrapping.path.read_bytes() if wrapping.path.exists() else None
    before = path.read_bytes() if path.exists() else None
    try:
        after = _including(before, path)
    except ConfigFault:
        wrapping.discard()
        raise
    if after != before and wrapping.before is None:
        wrapping.before = {
            "text": before.decode("utf-8") if before is not None else None,
            "after": after.decode("utf-8"),
        }
    wrapping.save()
    try:
        if after != before:
            replace_file(path, after, before)
        load_config(path)
    except ConfigFault:
        if before is None:
            remove_file(path)
        elif after != before:
            replace_file(path, before, after)
        if state is None:
            remove_file(wrapping.path)
        else:
            replace_file(wrapping.path, state, wrapping.path.read_bytes())
        wrapping.discard()
        raise


def _including(before: bytes | None, path: Path) -> bytes:
    """The configuration with our file among what it includes. Raises ConfigFault where that cannot be told for sure."""
    from limen.cli.wrapping import STATE
    from limen.config.document import parse

    if before is None:
        return _NEW.format(state=STATE, who=json.dumps(f"user:{user()}")).encode()
    value = parse(before, str(path)).value or {}
    listed = value.get("include") if isinstance(value, dict) else None
    if isinstance(listed, list) and STATE in listed:
        return before
    text = before.decode("utf-8")
    flow = re.search(r"^include:[ \t]*\[(?P<inside>[^\]\n#]*)\]", text, re.MULTILINE)
    if not listed and "include" not in value:
        after = text + ("" if text.endswith("\n") or not text else "\n") + f"include: [{STATE}]\n"
    elif flow is not None:
        inside = flow["inside"].rstrip(", \t")
        new = f"include: [{inside}{', ' if inside.strip() else ''}{STATE}]"
        after = text[: flow.start()] + new + text[flow.end() :]
    else:
        raise ConfigFault(f"add {STATE} to include, then wrap again", str(path))
    if parse(after.encode(), str(path)).value != {**value, "include": [*(listed or []), STATE]}:
        raise ConfigFault(f"add {STATE} to include, then wrap again", str(path))
    return after.encode()


def _config_back(wrapping: Wrapping) -> None:
    """The configuration as it was before the first wrap, if nobody changed it since."""
    from limen.adapters.replace import remove_file, replace_file

    known, path = wrapping.before, wrapping.config
    if known is None or not path.exists():
        return
    now = path.read_bytes()
    if known["text"] is not None and now == known["text"].encode():
        return  # the wrap that would have changed it was interrupted
    if now != known["after"].encode():
        complain(f"{path} was changed since; take {wrapping.path.name} out of its include")
    elif known["text"] is None:
        remove_file(path)
    else:
        replace_file(path, known["text"].encode(), now)


def _told(rows: list[dict[str, Any]], *, dry: bool, as_json: bool, config: Path, refused: bool) -> None:
    if as_json:
        emit({"ok": not refused, "dry_run": dry, "config": str(config), "entries": rows})
    else:
        here = [row for row in rows if row["state"] != "no such file"]
        table(_COLUMNS, here)
        if absent := len(rows) - len(here):
            line(f"{absent} more places were looked at and have no file; --json names them")
        if any(row["state"] == "would wrap" for row in rows):
            line("nothing was changed; to do it: limen wrap --all, or --client NAME, or --file PATH")
        if any(row["state"] == "wrapped" and row["then"] for row in rows):
            line(f"then: limen -c {config} servers install; limen -c {config} tools list, approve what you trust;")
            line("and restart the clients")
    if refused:
        raise typer.Exit(1)
