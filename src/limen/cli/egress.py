"""`limen egress`: where sandboxed servers may connect to, what they were refused, and why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ConfigOption, JsonOption, Misused, Refused, group, load, run_async
from limen.cli.definitions import complete_server
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.config.load import Loaded
    from limen.config.model import Config
    from limen.core.addresses import Address
    from limen.sandbox.egress import Egress

app = group("Where sandboxed servers may connect to.")
_RULES: Final = ("server", "to", "protocol", "methods", "note")
_WANTED: Final = ("server", "to", "protocol", "seen", "last", "note")
ServerArgument = Annotated[
    str, typer.Argument(metavar="[SERVER]", help="Only this one.", autocompletion=complete_server)
]


@app.command()
def show(
    context: typer.Context, server: ServerArgument = "", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Show the rules in force. A server without rules has no network. Example: limen egress show files

    Status: 0 shown, 1 no such server, 2 usage.
    """
    known = _known(load(context, config), server)
    rows = [_row(egress, rule) for egress in known.values() for rule in egress.rules]
    if as_json:
        emit(
            {
                name: {
                    "mode": egress.settings.mode,
                    "ports": list(egress.settings.ports),
                    "unsafe_ech": egress.settings.unsafe_ech,
                    "limits": egress.settings.limits.model_dump(),
                    "rules": [_row(egress, rule) for rule in egress.rules],
                }
                for name, egress in known.items()
            }
        )
        return
    if rows:
        table(_RULES, rows, red="note")
    for name, egress in known.items():
        if egress.learning:
            line(f"{name}: learning; what is not listed is refused and noted: limen egress learn {name}")
        elif not egress.rules:
            line(f"{name}: no network")


@app.command()
def learn(
    context: typer.Context, server: ServerArgument = "", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Propose rules for what servers were refused, from the log. Nothing is changed.

    With security.egress.mode: learn the log knows ports and protocols as well.
    Example: limen egress learn files
    Status: 0 shown, 1 no such server or no log, 2 usage.
    """
    from limen.sandbox.egress_learn import propose

    loaded = load(context, config)
    found = propose(_events(loaded.config), _known(loaded, server))
    if as_json:
        emit([{**asdict(one), "entry": one.entry} for one in found])
        return
    if not found:
        line("nothing was refused that a rule could allow")
        return
    rows = [{**asdict(one), "last": _when(one.last), "loud": bool(one.note)} for one in found]
    table(_WANTED, rows, red="loud")
    for name in dict.fromkeys(one.server for one in found):
        entries = [one.entry for one in found if one.server == name and one.entry is not None and not one.note]
        if entries:
            line(f"to allow, in mcpServers.{name}.security.egress: {json.dumps(entries)}")


@app.command()
def explain(
    context: typer.Context,
    server: Annotated[str, typer.Argument(help="The server.", autocompletion=complete_server)],
    destination: Annotated[str, typer.Argument(help="host:port or address:port.")],
    resolve: Annotated[bool, typer.Option("--resolve", help="Look the name up now, and judge its addresses.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a server may connect there, by which rule or why not.

    Example: limen egress explain files api.example.com:443 --resolve
    Status: 0 allowed, 1 refused or no such server, 2 usage.
    """
    from limen.sandbox.egress import Denied
    from limen.sandbox.egress_rules import parse_destination

    egress = _known(load(context, config), server)[server]
    try:
        name, wildcard, address, port = parse_destination(destination)
        if wildcard:
            raise ValueError("name one host, not a wildcard")
    except ValueError as fault:
        raise Misused(str(fault)) from None
    decided = egress.explain(name, address, port)
    found: list[Address] = []
    if resolve and not isinstance(decided, Denied) and address is None:
        found = _looked_up(name)
        kept, odd = egress.usable(name, found)
        if odd or not kept:
            decided = Denied("dns.address" if odd else "dns.failed", name, odd)
    answer: dict[str, Any] = {"server": server, "destination": destination, "addresses": [str(one) for one in found]}
    if isinstance(decided, Denied):
        answer |= {"allowed": False, "reason": decided.reason, "rule": decided.rule, "say": egress.say(decided)}
    else:
        answer |= {"allowed": True, "reason": "", "rule": decided.text}
        answer["say"] = f"{server}: {destination} is allowed by rule {decided.text}, spoken as {decided.protocol}"
    if as_json:
        emit(answer)
    else:
        line(answer["say"], red=not answer["allowed"])
        for one in found:
            line(f"  {one}")
    if not answer["allowed"]:
        raise typer.Exit(1)


def _looked_up(name: str) -> list[Address]:
    from limen.adapters.egress_dns import SystemLookup

    async def ask() -> list[Address]:
        return await asyncio.wait_for(SystemLookup()(name), 10)

    try:
        found: list[Address] = run_async(ask())
    except (OSError, TimeoutError) as fault:
        raise Refused(f"{name}: could not be resolved: {fault or 'no answer in time'}") from None
    return found


def _known(loaded: Loaded, server: str) -> dict[str, Egress]:
    """The decisions for each local command, or for this one. Raises Refused."""
    from limen.adapters.egress_dns import is_own
    from limen.sandbox.egress import Egress

    servers = loaded.config.mcpServers
    if server and server not in servers:
        raise Refused(f"no server named {server}; there is {', '.join(servers) or 'none'}")
    if server and servers[server].command is None:
        raise Refused(f"{server} is not a local command: what it reaches is out of our hands")
    return {
        name: Egress(name, one.security.egress, is_own)
        for name, one in servers.items()
        if one.command is not None and server in ("", name)
    }


def _row(egress: Egress, rule: Any) -> dict[str, Any]:
    from limen.sandbox.egress_rules import METHODS

    notes = ["anyone can have a name there"] if rule.shared else []
    notes += ["may lead to private addresses"] if rule.allow_private else []
    methods = sorted(rule.methods) if rule.methods != METHODS else []
    return {
        "server": egress.server, "to": rule.text, "name": rule.name, "port": rule.port, "protocol": rule.protocol,
        "methods": methods, "note": "; ".join(notes),
    }  # fmt: skip


def _events(config: Config) -> Iterator[dict[str, Any]]:
    from limen.audit.read import read

    place = config.audit.path
    if not place.is_dir():
        raise Refused(f"{place}: there is no log yet")
    for _, record in read(place):
        if b'"t":"egress"' in record:
            event = json.loads(record)
            if isinstance(event, dict) and event.get("t") == "egress":
                yield event


def _when(stamp: float) -> str:
    return datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%d %H:%M:%S")
