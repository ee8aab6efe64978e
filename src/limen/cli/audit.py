"""`limen audit`: read the log, and verify it with nothing but a public key."""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli import audit_events
from limen.cli.context import ConfigOption, JsonOption, Misused, Refused, group, load, run_async
from limen.cli.terminal import emit, line
from limen.core.faults import ConfigFault

if TYPE_CHECKING:
    from limen.audit.note import VerifierKey
    from limen.audit.verify import Report
    from limen.config.kept import AuditConfig

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
        list[str] | None,
        typer.Option(
            help="Verifier key name+hash+key, or @FILE; default: beside the signing key. Of the witness, if any."
        ),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="An earlier checkpoint the log must continue.")] = None,
    directory: Annotated[
        list[Path] | None, typer.Option(help="A log's directory, one or several; default: as configured.")
    ] = None,
    witness: Annotated[
        Path | None, typer.Option(help="A statement over all logs: it says their keys, and how far each must be.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every record against the signed checkpoint; status 1 if it fails.

    Example: limen audit verify --key @limen.pub
    Example: limen audit verify --directory a --directory b --witness witness.note --key @limen.pub
    """
    keys, earlier = key or [], file_bytes(checkpoint) if checkpoint is not None else None
    settings = load(context, config).config.audit if not directory or not keys else None
    places = directory or ([settings.path] if settings else [])
    if checkpoint is not None and len(places) > 1:
        raise Misused("--checkpoint is of one log; for several, use --witness")
    if witness is not None:
        found = _against(witness, log_key(settings, keys[0] if keys else "", None), places)
    else:
        found = [_verified(settings, keys, number, place, earlier) for number, place in enumerate(places)]
    for place, name, report in found:
        _report(place, name, report, as_json, alone=len(found) == 1 and witness is None)
    if all(report.ok for _, _, report in found) and not keys and not as_json:
        line("the key came from this machine; keep a copy elsewhere and pass it with --key")
    if not all(report.ok for _, _, report in found):
        raise typer.Exit(1)


def _verified(
    settings: AuditConfig | None, keys: list[str], number: int, place: Path, earlier: bytes | None
) -> tuple[Path, str, Report]:
    from limen.audit.verify import verify as verify_log

    if keys and number >= len(keys):
        raise Misused("give one --key for each --directory, in the same order, or --witness")
    known = log_key(settings, keys[number] if keys else "", place)
    return place, known.name, verify_log(place, known.text, at_least=earlier)


def _against(witness: Path, key: VerifierKey, places: list[Path]) -> list[tuple[Path, str, Report]]:
    """Each log against its own key and length as witnessed. A witnessed log that is not among them is a bad one."""
    from limen.audit.logs import key_of
    from limen.audit.note import NoteError
    from limen.audit.verify import Report
    from limen.audit.verify import verify as verify_log
    from limen.audit.witness import read_statement

    try:
        statement = read_statement(file_bytes(witness), key)
    except NoteError as fault:
        raise Refused(f"the statement must not be believed: {fault}") from None
    found, missing = list[tuple[Path, str, Report]](), dict(statement.logs)
    for place in places:
        name = key_of(place, key).name
        seen = missing.pop(name, None)
        if seen is None:
            report = Report(ok=False, problem=f"the statement names no log {name}, or it was given twice")
        else:
            report = verify_log(place, seen.key, at_least=seen.checkpoint)
        found.append((place, name, report))
    gone = [(witness, name, Report(ok=False, problem=f"{seen.size} records were witnessed, and the log is not given"))
            for name, seen in missing.items()]  # fmt: skip
    return [*found, *gone]


def _report(place: Path, name: str, report: Report, as_json: bool, *, alone: bool) -> None:
    """One log's result; `alone`: it need not be named."""
    if as_json:
        found = {member: getattr(report, member) for member in report.__dataclass_fields__}
        shown = {**found, "root": report.root.hex(), "directory": str(place), "log": name}
        emit(shown) if alone else print(json.dumps(shown))
        return
    which = "" if alone and "/" not in name else f"{name}: "
    if not report.ok:
        where = "" if report.first_bad is None else f"record {report.first_bad}: "
        line(f"{which}NOT what was signed: {where}{report.problem}", red=True)
        return
    line(f"{which}verified: {report.size} records, root {report.root.hex()}")
    if report.pruned:
        line(f"{which}{report.pruned} of them were removed, as a signed note says")
    if report.tail:
        line(f"{which}{report.tail} newer records are not signed yet")


@app.command()
def key(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the public key to keep elsewhere. Example: limen audit key > limen.pub"""
    from limen.audit.note import parse_verifier_key
    from limen.opening import open_log_signer

    loaded = load(context, config).config
    settings = loaded.audit
    if not settings.key.exists():
        raise Refused(f"{settings.key}: there is no key yet; `limen serve` makes it")
    known = parse_verifier_key(open_log_signer(loaded).verifier_key)
    if as_json:
        emit({"key": known.text, "name": known.name})
    else:
        line(known.text)


def _start(place: Path, count: int) -> int:
    """Where to begin reading: what the checkpoint says of the size is only a hint here, so trust is not needed."""
    from limen.audit.read import CHECKPOINT, size_of
    from limen.audit.read import load as load_file

    return max(0, size_of(load_file(place, CHECKPOINT)) - count)


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


def log_key(settings: AuditConfig | None, key: str, place: Path | None) -> VerifierKey:
    """The key of the log in `place`: as given, else of our own log the one that signs it now, of others the one all
    began with; under the log's own name, which may have a suffix. Of no log: as it is. Raises Misused."""
    from limen.audit.logs import key_beside, key_of
    from limen.audit.note import NoteError, parse_verifier_key

    if settings is not None and not key:
        newest = key_beside(settings.path)
        key = f"@{newest if place == settings.path and newest.exists() else settings.key}.pub"
    text = key_text(key)
    try:
        known = parse_verifier_key(text)
    except NoteError as fault:
        raise Misused(f"--key: {fault}") from None
    return known if place is None else key_of(place, known)


def key_text(key: str) -> str:
    """A verifier key as given, or from the file it names with an @. Raises Misused."""
    if not key.startswith("@"):
        return key
    return file_bytes(Path(key[1:])).decode("utf-8", "replace").strip()


def file_bytes(path: Path) -> bytes:
    """A file somebody named. Raises Misused."""
    from limen.config.document import read_file

    try:
        return read_file(path, "the file", follow=True)
    except ConfigFault as fault:
        raise Misused(str(fault)) from None
