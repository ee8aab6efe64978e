"""`limen servers`: what the configured commands run, installed ahead and verified, so that starting fetches nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ConfigOption, JsonOption, Refused, group, load
from limen.cli.terminal import complain, emit, line, table

if TYPE_CHECKING:
    from limen.adapters.package_store import PackageStore
    from limen.config.load import Loaded
    from limen.config.servers import ServerConfig
    from limen.launching import Launches
    from limen.sandbox.packages import Package, Record

app = group("Programs of local servers: install them once, verified, and start them offline.")
_COLUMNS: Final = ("server", "kind", "wanted", "state", "version", "artifact", "note")
NamesArgument = Annotated[list[str] | None, typer.Argument(metavar="[SERVER]...", help="Default: all of them.")]
_FLOATING: Final = "no exact version is configured; the one of the installation is kept until `install --update`"


@app.command("list")
def list_(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show where each local server's program comes from and whether it is installed. Reads, starts and fetches nothing.

    Example: limen servers list --json
    Status: 0 shown, 2 configuration or usage.
    """
    loaded, store, _ = _opened(context, config)
    rows = [_row(store, name, server) for name, server in _local(loaded, None)]
    if as_json:
        emit({"servers": rows})
    else:
        table(_COLUMNS, [{**row, "loud": row["state"] == "refused"} for row in rows], red="loud")


@app.command()
def install(
    context: typer.Context,
    names: NamesArgument = None,
    update: Annotated[bool, typer.Option("--update", help="Resolve again what is installed already.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --update: accept other content under an unchanged version.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch packages without running anything of them, and record exactly what was fetched. Starting never fetches.

    Example: limen servers install time; limen servers install --update
    Status: 0 all installed, 1 one was refused, 2 configuration or usage, 3 npm, pip or the disk failed.
    """
    from limen.core.faults import DependencyFault
    from limen.sandbox.launch import NotLaunchable

    loaded, store, launches = _opened(context, config)
    rows: list[dict[str, Any]] = []
    status = 0
    for name, server in _local(loaded, names):
        package = _package(server)
        if package is None:
            if names:
                complain(f"{name}: nothing to install, it is {_row(store, name, server)['kind']}")
            continue
        try:
            expected = launches.expected(name, server)
            say = _quiet if as_json else complain
            fresh = store.find(package) is None
            record, changed = store.install(package, expected, say, update=update, replace=replace)
            if changed or fresh:
                _recorded(loaded, "installed", server=name, packages=list(package.specs), changed=changed)
            rows.append({**_row(store, name, server), "changed": changed, "packages": len(record.parts)})
            if not as_json:
                _tell(name, package, record, changed)
        except (NotLaunchable, DependencyFault) as fault:
            status = max(status, 1 if isinstance(fault, NotLaunchable) else 3)
            rows.append({"server": name, "state": "refused", "note": str(fault)})
            complain(f"{name}: {fault}")
    if as_json:
        emit({"ok": status == 0, "servers": rows})
    if status:
        raise typer.Exit(status)


@app.command()
def verify(
    context: typer.Context, names: NamesArgument = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Read every byte of what would run and compare it with its record, `security.artifact` and the lock. Offline.

    Example: limen servers verify
    Status: 0 as recorded, 1 something is not, 2 configuration or usage, 3 the disk failed.
    """
    from limen.core.faults import UpstreamFault

    loaded, store, launches = _opened(context, config)
    rows: list[dict[str, Any]] = []
    for name, server in _local(loaded, names):
        row = {**_row(store, name, server), "ok": True}
        try:
            row["artifact"] = launches.plan(name, server).digest
        except UpstreamFault as fault:
            row = {**row, "ok": False, "note": str(fault).removeprefix(f"{name}: ")}
        rows.append(row)
    if as_json:
        emit({"ok": all(row["ok"] for row in rows), "servers": rows})
    else:
        shown = [{**row, "bad": not row["ok"]} for row in rows]
        table(("server", "ok", "kind", "version", "artifact", "note"), shown, red="bad")
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


@app.command()
def gc(
    context: typer.Context,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete installed packages that no configured server wants. A server that is disabled keeps its own.

    Example: limen servers gc --dry-run
    Status: 0 done, 2 configuration or usage, 3 the disk failed.
    """
    loaded, store, _ = _opened(context, config)
    wanted = [package for _, server in _local(loaded, None, disabled=True) if (package := _package(server))]
    gone = store.collect(wanted, dry=dry)
    if gone and not dry:
        _recorded(loaded, "deleted", paths=gone)
    if as_json:
        emit({"deleted": [] if dry else gone, "would_delete": gone if dry else []})
    for path in () if as_json else gone:
        line(f"{'would delete' if dry else 'deleted'} {path}")


def _recorded(loaded: Loaded, act: str, **members: Any) -> None:
    """Leave word for the log."""
    from limen.cli.context import user
    from limen.storage import State

    state = State.open(loaded.config)
    try:
        state.tell("package", act=act, **members, by=user(""))
    finally:
        state.close()


def _opened(context: typer.Context, config: Any) -> tuple[Loaded, PackageStore, Launches]:
    from limen.gateway.run import launcher

    loaded = load(context, config)
    launches = launcher(loaded.config)
    return loaded, launches.store, launches


def _local(loaded: Loaded, names: list[str] | None, *, disabled: bool = False) -> list[tuple[str, ServerConfig]]:
    known = loaded.config.mcpServers if disabled else loaded.config.servers
    if unknown := [name for name in names or () if name not in known]:
        raise Refused(f"{unknown[0]}: no such server is in use")
    return [(name, known[name]) for name in names or known if known[name].command is not None]


def _package(server: ServerConfig) -> Package | None:
    from limen.sandbox.launch import NotLaunchable
    from limen.sandbox.packages import Package

    if server.security.unsafe_unverified:
        return None
    try:
        form = server.form()
    except NotLaunchable:
        return None  # of a disabled server: one in use would not have passed the configuration
    return form if isinstance(form, Package) else None


def _row(store: PackageStore, name: str, server: ServerConfig) -> dict[str, Any]:
    from limen.sandbox.launch import Image, NotLaunchable
    from limen.sandbox.packages import Package

    row: dict[str, Any] = dict.fromkeys(_COLUMNS, "") | {"server": name}
    if server.security.unsafe_unverified:
        return row | {"kind": "unverified", "wanted": server.target, "state": "as written"}
    form = server.form()
    if isinstance(form, Image):
        return row | {"kind": "image", "wanted": form.name, "state": "pinned", "artifact": form.digest}
    if not isinstance(form, Package):
        pinned = server.security.artifact or ""
        return (
            row
            | {"kind": "program", "wanted": server.target, "state": "pinned" if pinned else "local"}
            | ({"artifact": pinned} if pinned else {})
        )
    row |= {"kind": form.ecosystem, "wanted": " ".join(form.specs), "note": "" if form.pinned else _FLOATING}
    try:
        record = store.find(form)
    except NotLaunchable as fault:
        return row | {"state": "refused", "note": str(fault)}
    if record is None:
        return row | {"state": "not installed"}
    version = record.main.version if record.main else ""
    return row | {"state": "installed", "version": version, "artifact": record.digest}


def _tell(name: str, package: Package, record: Record, changed: list[str]) -> None:
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.at))
    version = record.main.version if record.main else ""
    line(f"{name}: {package.specs[0]} is {version}, {len(record.parts)} packages, resolved {at}")
    line(f"  artifact {record.digest}")
    for text in changed:
        line(f"  {text}")
    if held := [part.name for part in record.parts if part.scripts]:
        line(f"  install scripts that were not run: {', '.join(held)}")
    if not package.pinned:
        line(f"  {_FLOATING}")


def _quiet(text: str) -> None:
    """Progress is for people."""
