"""`limen tools lock`: write what is approved into one signed file, and fail a pipeline when servers differ from it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import DEPENDENCY, ConfigOption, JsonOption, Misused, Refused, load
from limen.cli.definitions import KINDS, KindOption, complete_server, open_registry, read_servers, writable
from limen.cli.terminal import complain, emit, line, table

if TYPE_CHECKING:
    from limen.catalog.lock import Lock
    from limen.catalog.locked import Drift
    from limen.config.load import Loaded
    from limen.config.model import Config

FILE: Final = Path("mcp.lock")
DIFFERS, NOT_AUTHENTIC = 1, 4
_COLUMNS: Final = ("server", "kind", "name", "event", "level", "detail")


def lock(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Compare the lock with the servers; write nothing.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where to write; default: mcp.lock.")] = None,
    file: Annotated[Path | None, typer.Option(help="With --check: the lock; default: as configured, mcp.lock.")] = None,
    key: Annotated[
        str, typer.Option(help="With --check: verifier key name+hash+key, or @FILE; default: as configured, our own.")
    ] = "",
    offline: Annotated[bool, typer.Option("--offline", help="With --check: compare with the records instead.")] = False,
    server: Annotated[
        list[str] | None, typer.Option("--server", "-s", help="Only these.", autocompletion=complete_server)
    ] = None,
    kind: KindOption = None,
    as_sarif: Annotated[bool, typer.Option("--sarif", help="With --check: print SARIF 2.1.0.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write every approved definition to a signed file, or check servers against it.

    Status: 0 written, or the same; 1 something differs, or nothing is approved; 2 usage; 3 a server could not be read
    (and what could be read is the same); 4 the lock is not authentic.
    Example: limen tools lock --check --key @limen.pub --sarif > drift.sarif
    """
    loaded = load(context, config)
    servers, kinds = tuple(server or ()), tuple(kind or ())
    if unknown := [name for name in servers if name not in loaded.config.mcpServers]:
        raise Refused(f"no server named {unknown[0]}; there is {', '.join(loaded.config.mcpServers) or 'none'}")
    if unknown := [name for name in kinds if name not in KINDS]:
        raise Misused(f"{unknown[0]} is not a kind; there is {', '.join(KINDS)}")
    if check:
        if out or (as_json and as_sarif):
            raise Misused("--check goes with neither --out nor both of --json and --sarif")
        _check(loaded, file, key, servers, kinds, offline, "sarif" if as_sarif else "json" if as_json else "")
        return
    if file or key or offline or as_sarif or kinds:
        raise Misused("--file, --key, --kind, --offline and --sarif go with --check; --out says where to write")
    _write(loaded, out or FILE, servers, as_json)


def _write(loaded: Loaded, path: Path, servers: tuple[str, ...], as_json: bool) -> None:
    from limen.catalog.lock import read, write
    from limen.catalog.locked import collect
    from limen.opening import open_signer

    writable(loaded)
    registry = open_registry(loaded.config)
    entries = [entry for name in servers or loaded.config.mcpServers for entry in collect(registry, name)]
    if not entries:
        raise Refused("nothing is approved, so there is nothing to lock")
    signer = open_signer(loaded.config)
    data = write(entries, signer)
    _replace(path, data)
    made = read(data, {signer.name: signer.public_key})
    odd = [entry for name in made.servers for entry in registry.entries(name) if entry.approved and entry.withheld]
    if as_json:
        withheld = [{"server": one.server, "kind": one.kind, "name": one.name, "why": one.withheld} for one in odd]
        counts = {"definitions": len(entries), "servers": list(made.servers), "digest": made.digest}
        emit({"path": str(path.absolute()), **counts, "key": signer.verifier_key, "withheld": withheld})
        return
    for one in odd:
        line(f"{one.server}/{one.name or one.kind} is locked although it is withheld now: {one.withheld}", red=True)
    line(f"wrote {path}: {len(entries)} definitions of {len(made.servers)} servers, digest {made.digest}")
    line(f"verify with: limen tools lock --check --key {signer.verifier_key}")


def _replace(path: Path, data: bytes) -> None:
    """The whole file or the one before. Raises Refused."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(draft, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as fault:
        draft.unlink(missing_ok=True)
        raise Refused(f"{path}: {fault.strerror or fault}") from None


def _check(
    loaded: Loaded,
    file: Path | None,
    key: str,
    servers: tuple[str, ...],
    kinds: tuple[str, ...],
    offline: bool,
    form: str,
) -> None:
    from limen.catalog.lock import LockFault

    path = file or loaded.config.catalog.lock or FILE
    try:
        made = _read(loaded.config, path, key)
    except LockFault as fault:
        _tell([], path, {str(path): fault.message}, NOT_AUTHENTIC, form, None)
        raise typer.Exit(NOT_AUTHENTIC) from None
    drifts, trouble = _compared(loaded.config, made, servers, offline)
    drifts = [drift for drift in drifts if not kinds or drift.kind in kinds]
    status = DIFFERS if drifts else DEPENDENCY if trouble else 0
    _tell(drifts, path, trouble, status, form, made)
    raise typer.Exit(status)


def _compared(config: Config, made: Lock, only: Iterable[str], offline: bool) -> tuple[list[Drift], dict[str, str]]:
    """What differs, and which servers could not be read, of the servers in the lock and the configured ones."""
    from limen.catalog.locked import LockedRegistry, against_records, against_servers

    names = list(only) or list(dict.fromkeys((*made.servers, *config.servers)))
    if offline:
        if config.catalog.lock:
            raise Misused("--offline compares with records, and this configuration has a lock in their place")
        return against_records(made, open_registry(config), names), {}
    missing = {name: f"{name}: is not configured, or disabled" for name in names if name not in config.servers}
    known = LockedRegistry(made)
    trouble = read_servers(config, [name for name in names if name not in missing], known.observe)
    trouble = {**missing, **trouble}
    return against_servers(made, known, [name for name in names if name not in trouble]), trouble


def _read(config: Config, path: Path, key: str) -> Lock:
    """The lock, verified. Raises LockFault when it is not authentic, ConfigFault when there is no file or no key."""
    from limen.adapters.lockfile import load_lock, own_key
    from limen.config.document import read_file

    if key.startswith("@"):
        key = read_file(Path(key[1:]), "the key", follow=True).decode("utf-8", "replace")
    return load_lock(path, [key] if key else config.catalog.lock_keys or [own_key(config.audit.key)])


def _tell(
    drifts: list[Drift], path: Path, trouble: Mapping[str, str], status: int, form: str, made: Lock | None
) -> None:
    if form == "sarif":
        from limen.cli.sarif import report

        emit(report(drifts, path, trouble, status))
        return
    if form == "json":
        about: dict[str, Any] = {"digest": made.digest, "key": made.key} if made else {"digest": "", "key": ""}
        found = [asdict(drift) for drift in drifts]
        emit({"ok": status == 0, "status": status, "lock": str(path), **about, "drift": found, "trouble": trouble})
        return
    if drifts:
        rows = [{**asdict(drift), "loud": drift.level in ("high", "critical")} for drift in drifts]
        table(_COLUMNS, rows, red="loud")
    for text in trouble.values():
        complain(text if made else f"{path} is not authentic: {text}")
    if made is None:
        return
    if status == 0:
        line(f"same: {len(made.entries)} definitions, digest {made.digest}, signed by {made.key}")
    elif drifts:
        line(f"{len(drifts)} differ from {path}", red=True)
