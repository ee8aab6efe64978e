"""`limen servers restart`: the program of a server anew, from what is pinned."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, ReasonOption, Refused, opened, user
from limen.cli.terminal import complain, emit, line

_WAIT: Final = 45.0  # seconds a gateway has to start and read it


def restart(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="SERVER", help="As the configuration names it.")],
    clean: Annotated[
        bool, typer.Option("--clean", help="End the running program first: the calls it has fail, nothing overlaps.")
    ] = False,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a server's program anew in every gateway: artifact verified byte by byte, new cell, definitions compared.

    Example: limen servers restart files --clean --reason "behaved oddly"
    Status: 0 started again, 1 refused or no gateway answered, 2 configuration or usage.
    """
    from limen.errands import ask, await_answers

    with opened(context, config) as (settings, state):
        server = settings.servers.get(name)
        if server is None:
            raise Refused(f"{name}: no such server is in use")
        if server.command is None:
            raise Refused(f"{name}: is reached at an address; nothing of it runs here")
        wanted = ask(state.history, "restart", name, by=user(by), reason=reason, urgent=clean)
        found = await_answers(state.history, wanted, first=_WAIT, more=2.0)
    if as_json:
        emit({"server": name, "clean": clean, "gateways": [one._asdict() for one in found]})
    for one in () if as_json else found:
        line(f"{one.replica}: {one.detail}", red=not one.ok)
    if not found:
        complain("no gateway answered: none runs, or none could within 45 seconds")
    if not found or not all(one.ok for one in found):
        raise typer.Exit(1)
