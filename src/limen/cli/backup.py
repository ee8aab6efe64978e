"""`limen backup`: everything a gateway keeps in one sealed file, and back onto an empty machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, group, load, user
from limen.cli.terminal import complain, emit, line

app = group("Backup of everything a gateway keeps, and restoring it.")
VARIABLE: Final = "LIMEN_BACKUP_PASSPHRASE"
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]
PassphraseOption = Annotated[
    Path | None, typer.Option("--passphrase-file", help=f"File of the passphrase; default: ${VARIABLE}, or asked for.")
]


@app.command()
def create(
    context: typer.Context,
    file: FileArgument,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Leave keys out: they are kept apart, and put back by hand.")
    ] = False,
    passphrase_file: PassphraseOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a backup while the gateway runs. Example: limen backup create /safe/limen-monday.backup

    Status: 0 made, 2 configuration or usage, 3 the disk or the database failed.
    """
    from limen.backup import Backup, check_passphrase

    loaded = load(context, config)
    passphrase = _passphrase(passphrase_file, confirm=True)
    check_passphrase(passphrase)
    with _watched() as progress:
        manifest = Backup(loaded, keys=not without_keys).create(file, passphrase, progress)
    shown = _shown(manifest, file)
    if as_json:
        emit(shown)
        return
    keys = "keys in it" if manifest["keys"] else "keys NOT in it"
    line(f"{file}: {shown['rows']} rows, {shown['records']} records of the log, {keys}")
    _beside(manifest)
    complain("it opens with the passphrase only; try it: limen backup verify")


@app.command()
def verify(file: FileArgument, passphrase_file: PassphraseOption = None, as_json: JsonOption = False) -> None:
    """Read and authenticate a whole backup. Writes nothing. Example: limen backup verify /safe/limen-monday.backup

    Status: 0 as it was written, 2 it is not, or another passphrase, 3 it cannot be read.
    """
    from limen.restore import Opened

    with _watched() as progress, Opened(file, _passphrase(passphrase_file), progress) as opened:
        manifest = opened.manifest
    if as_json:
        emit({"ok": True, **_shown(manifest, file)})
        return
    shown = _shown(manifest, file)
    line(f"as it was written: made {shown['made']}, {shown['rows']} rows, {shown['records']} records")
    _beside(manifest)


@app.command()
def restore(
    file: FileArgument,
    into: Annotated[Path, typer.Option(help="Directory to make; it must not be there, or be empty.")],
    database: Annotated[
        str, typer.Option(envvar="LIMEN_DATABASE", help="URL of an empty PostgreSQL database, if records were in one.")
    ] = "",
    keep_issued: Annotated[
        bool,
        typer.Option("--keep-issued", help="Accept tokens, sessions and API keys issued before: also revoked ones."),
    ] = False,
    by: ByOption = "",
    passphrase_file: PassphraseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a backup into an empty directory. Example: limen backup restore /safe/limen-monday.backup --into /srv/limen

    Status: 0 restored, 2 refused: tampered with, cut off, another passphrase, or something is there already.
    """
    from limen.restore import Opened
    from limen.restore import restore as put_back

    with _watched() as progress, Opened(file, _passphrase(passphrase_file), progress) as opened:
        database = database if opened.manifest["kind"] == "postgres" else ""
        done = put_back(opened, into, by=user(by), database=database, keep_issued=keep_issued, progress=progress)
        manifest = opened.manifest
    if as_json:
        emit({"into": str(into), **done})
        return
    line(f"{into}: {done['rows']} rows, {done['records']} records of the log, as of {_moment(done['made'])}")
    if done["issued_before_refused"]:
        line("refused from now on: every token, session and handle issued before")
        line(f"{done['api_keys_revoked']} API keys are revoked: limen keys api create")
    else:
        line("ACCEPTED: what was issued before, also what was revoked since the backup", red=True)
    if done["log_key"]:
        line(f"the log continues at record {done['records']} under a new key: {done['log_key']}")
    else:
        line("the backup holds no keys: put them back before the start, and then")
        line("limen keys rotate handles --emergency --reason restored: what is sealed would open again")
    line(f"next: limen -c {into / manifest['config']} audit verify; limen -c {into / manifest['config']} tools list")
    _beside(manifest)


def _beside(manifest: dict[str, Any]) -> None:
    for name in manifest["outside"]:
        complain(f"not in the backup: {name}")
    for server, digest in manifest["artifacts"].items():
        complain(f"to be installed again: limen servers install {server}  ({digest})")


def _shown(manifest: dict[str, Any], file: Path) -> dict[str, Any]:
    return {
        "file": str(file), "id": manifest["id"], "made": _moment(manifest["at"]),
        "rows": sum(manifest["tables"].values()), "records": manifest["log"]["size"], "root": manifest["log"]["root"],
        "log_key": manifest["log"]["key"], "keys": manifest["keys"], "kind": manifest["kind"],
        "outside": manifest["outside"], "artifacts": manifest["artifacts"],
    }  # fmt: skip


def _passphrase(file: Path | None, *, confirm: bool = False) -> str:
    """From the file, the environment, or whoever sits there. Raises Misused."""
    from limen.config.document import read_file

    if file is not None:
        return read_file(file, "the file of the passphrase").decode("utf-8", "replace").rstrip("\r\n")
    if given := os.environ.get(VARIABLE):
        return given
    if not sys.stdin.isatty():
        raise Misused(f"no passphrase: --passphrase-file, or ${VARIABLE}")
    asked: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return asked


@contextmanager
def _watched() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar where somebody is watching."""
    if not sys.stderr.isatty():
        yield lambda what, done, of: None
        return
    with typer.progressbar(length=1, label="reading", file=sys.stderr) as bar:

        def progress(what: str, done: int, of: int) -> None:
            if bar.label != what:
                bar.label, bar.pos = what, 0
            bar.length = max(of, 1)
            bar.update(done - bar.pos)

        yield progress


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
