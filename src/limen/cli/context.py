"""What every command shares: options, the configuration in use, and how a fault ends the program.

Exit status: 0 done, 1 refused or a check failed, 2 configuration or usage is wrong, 3 something we depend on failed.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from limen.cli.terminal import complain
from limen.core.faults import ConfigFault, DependencyFault, Fault, UpstreamError, UpstreamFault

if TYPE_CHECKING:
    from limen.config.load import Loaded
    from limen.config.model import Config
    from limen.storage import State

REFUSED, MISUSED, DEPENDENCY = 1, 2, 3
DEFAULT: Final = Path("limen.yaml")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file; default $LIMEN_CONFIG, then ./limen.yaml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ByOption = Annotated[str, typer.Option(help="Who decides; default: the user running this.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for the record.")]


class Refused(Exception):
    """What was asked cannot be done: nothing such, or not in this state. Exit status 1."""


class Misused(Exception):
    """The command line does not make sense. Exit status 2."""


class Commands(TyperGroup):
    """Turns what commands raise into one line and an exit status; never a traceback for what we foresee."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except Refused as error:
            status = REFUSED
            complain(str(error))
        except (Misused, ConfigFault) as error:
            status = MISUSED
            complain(str(error))
        except (DependencyFault, UpstreamFault, UpstreamError) as error:
            status = DEPENDENCY
            complain(str(error))
        except Fault as error:
            status = REFUSED
            complain(f"internal error: {error}")
        raise typer.Exit(status)


def group(help: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(help=help, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def chosen(context: typer.Context, config: Path | None) -> Path:
    """The file named nearest: after the command, before it, in LIMEN_CONFIG, or ./limen.yaml."""
    before = context.find_root().obj
    if config is not None or isinstance(before, Path):
        return config or before
    return Path(os.environ.get("LIMEN_CONFIG") or DEFAULT)


def load(context: typer.Context, config: Path | None) -> Loaded:
    """The configuration in use. Raises ConfigFault."""
    from limen.config.load import load_config

    path = chosen(context, config)
    if not path.exists() and path == DEFAULT:
        raise ConfigFault("no such file; make one with `limen init`, or name one with --config", str(path))
    return load_config(path)


@contextmanager
def opened(context: typer.Context, file: Path | None) -> Iterator[tuple[Config, State]]:
    """The configuration and its state, for as long as a command works with it. Raises ConfigFault, DependencyFault."""
    from limen.storage import State

    config = load(context, file).config
    state = State.open(config)
    try:
        yield config, state
    finally:
        state.close()


def user(by: str = "") -> str:
    """Who decides: as given, else the operating-system user (not what the environment claims)."""
    if by.strip():
        return by.strip()
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def run_async(work: Any) -> Any:
    """Run one coroutine to its end."""
    import asyncio

    return asyncio.run(work)
