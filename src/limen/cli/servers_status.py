"""`limen servers status`: how the local servers of a running gateway are."""

from __future__ import annotations

import time
from typing import Any, Final

import orjson
import typer

from limen.cli.context import ConfigOption, JsonOption, Refused, load
from limen.cli.terminal import emit, table

_EGRESS: Final = ("allowed", "refused", "sent", "received")
_STALE: Final = 15.0  # seconds after which nobody writes it any more


def status(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print what each local server uses; status 1 without a running gateway. Example: limen servers status --json"""
    from limen.gateway.cells import states_path

    path = states_path(load(context, config).config)
    try:
        told = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        told = None
    if told is None or time.time() - told["ts"] > _STALE:
        raise Refused("no gateway with local servers runs from this configuration")
    rows = [_row(server) for server in told["servers"]]
    if as_json:
        emit({"pid": told["pid"], "servers": rows})
    else:
        columns: tuple[str, ...] = (
            "server", "running", "pid", "seconds", "starts", "failures", "memory", "cpu", "processes",
        )  # fmt: skip
        if any(row["allowed"] is not None for row in rows):
            columns += _EGRESS
        table(columns, [{name: "" if row[name] is None else row[name] for name in columns} for row in rows])


def _row(server: dict[str, Any]) -> dict[str, Any]:
    """Bytes, seconds and counts; None where it does not run. `egress`: everything its network counted, None where it
    has no network: connections `allowed`, `refused`, each reason of a refusal, bytes `sent` and `received`."""
    used = server.get("usage") or {}
    network = server.get("egress")
    counted = {name: None if network is None else network.get(name, 0) for name in _EGRESS}
    return {
        "server": server["server"],
        "running": server["running"],
        "pid": server.get("pid"),
        "seconds": server.get("seconds"),
        "starts": server["starts"],
        "failures": server["failures"],
        **{name: used.get(name) for name in ("memory", "cpu", "processes", "read", "written")},
        **counted,
        "egress": network,
    }
