"""`limen audit`: read the log, and verify it with nothing but a public key."""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from limen.cli import audit_events
from limen.cli.context import ConfigOption, JsonOption, Misused, Refused, group, load, run_async
from limen.cli.terminal import emit, line
from limen.core.faults import ConfigFault

app = group("The log of every decision.")
app.command()(audit_events.events)
app.command()(audit_events.parameters)
_SHOWN: Final = (
    "decision",
    "reason",
    "guard",
    "iss",
    "sub",
    "client",
    "server",
    "method",
    "name",
    "change",
    "by",
    "ref",
)
DirectoryOption = Annotated[Path | None, typer.Option(help="The log's directory; default: as configured.")]


@app.command()
def tail(
    context: typer.Context,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="How many records.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then whatever is appended, until stopped.")] = False,
    directory: DirectoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the last records, unverified. With --json one object a line. Example: limen audit tail -n 50 --follow"""
    from limen.audit.read import follow as follow_log
    from limen.audit.read import read

    place = directory or load(context, config).config.audit.path
    if not place.is_dir() and not follow:
        raise Refused(f"{place}: there is no log yet")
    last = deque(read(place, _start(place, count)), maxlen=count) if count else deque[tuple[int, bytes]]()
    for index, record in last:
        _print(index, record, as_json)
    if not follow:
        return
    start = last[-1][0] + 1 if last else sum(1 for _ in read(place))

    async def watch() -> None:
        async for index, record in follow_log(place, start):
            _print(index, record, as_json)

    run_async(watch())


@app.command()
def verify(
    context: typer.Context,
    key: Annotated[
        str, typer.Option(help="Verifier key name+hash+key, or @FILE; default: beside the signing key.")
    ] = "",
    checkpoint: Annotated[Path | None, typer.Option(help="An earlier checkpoint the log must continue.")] = None,
    directory: DirectoryOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every record against the signed checkpoint; status 1 if it fails.

    Example: limen audit verify --key @limen.pub
    """
    from limen.audit.verify import verify as verify_log

    settings = load(context, config).config.audit if directory is None or not key else None
    place = directory or (settings.path if settings else Path())
    text = key_text(key or f"@{settings.key}.pub" if settings else key)
    report = verify_log(place, text, at_least=_bytes(checkpoint) if checkpoint is not None else None)
    found = {**{name: getattr(report, name) for name in report.__dataclass_fields__}, "root": report.root.hex()}
    if as_json:
        emit({**found, "directory": str(place)})
    elif report.ok:
        line(f"verified: {report.size} records, root {report.root.hex()}")
        if report.tail:
            line(f"{report.tail} newer records are not signed yet")
        if not key:
            line("the key came from this machine; keep a copy elsewhere and pass it with --key")
    else:
        where = "" if report.first_bad is None else f"record {report.first_bad}: "
        line(f"NOT what was signed: {where}{report.problem}", red=True)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def key(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the public key to keep elsewhere. Example: limen audit key > limen.pub"""
    from limen.adapters.keys import FileSigner

    settings = load(context, config).config.audit
    if not settings.key.exists():
        raise Refused(f"{settings.key}: there is no key yet; `limen serve` makes it")
    text = FileSigner.open(settings.key, settings.name, create=False).verifier_key
    if as_json:
        emit({"key": text, "name": settings.name})
    else:
        line(text)


def _start(place: Path, count: int) -> int:
    """Where to begin reading: what the checkpoint says of the size is only a hint here, so trust is not needed."""
    from limen.audit.publish import CHECKPOINT
    from limen.audit.read import load as load_file

    lines = (load_file(place, CHECKPOINT) or b"").split(b"\n")
    size = int(lines[1]) if len(lines) > 1 and lines[1].isdigit() and len(lines[1]) < 19 else 0
    return max(0, size - count)


def _print(index: int, record: bytes, as_json: bool) -> None:
    try:
        found: Any = json.loads(record)
    except ValueError:
        found = {"raw": record.decode("utf-8", "replace")}
    members = found if isinstance(found, dict) else {"raw": found}
    if as_json:
        print(json.dumps({"index": index, **members}), flush=True)
        return
    stamp = members.get("ts")
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(stamp)) if isinstance(stamp, int | float) else ""
    rest = " ".join(f"{name}={members[name]}" for name in (*_SHOWN, "raw") if members.get(name) not in (None, ""))
    line(f"{index} {when} {members.get('t', '')} {rest}")


def key_text(key: str) -> str:
    """A verifier key as given, or from the file it names with an @. Raises Misused."""
    if not key.startswith("@"):
        return key
    return _bytes(Path(key[1:])).decode("utf-8", "replace").strip()


def _bytes(path: Path) -> bytes:
    from limen.config.document import read_file

    try:
        return read_file(path, "the file", follow=True)
    except ConfigFault as fault:
        raise Misused(str(fault)) from None
