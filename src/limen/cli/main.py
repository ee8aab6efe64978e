"""The command line: `limen --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from limen import __version__
from limen.cli import (
    access,
    alerts,
    approvals,
    audit,
    audit_keep,
    audit_proofs,
    audit_query,
    backup,
    behavior,
    config_history,
    connections,
    consents,
    contain,
    content,
    egress,
    evidence,
    followers,
    keys,
    oauth_clients,
    playbooks,
    policy,
    revoke,
    risk,
    servers,
    servers_restart,
    servers_status,
    setup,
    signins,
    tools,
    vault,
    wrap,
)  # fmt: skip
from limen.cli.context import Commands, ConfigOption, JsonOption, Misused, group, load
from limen.cli.eval import evaluate
from limen.cli.terminal import complain, emit, line

app = typer.Typer(
    cls=Commands,
    help="The guarded threshold in front of Model Context Protocol servers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
configuration = group("About the configuration file.")
app.add_typer(tools.app, name="tools")
servers.app.command("status")(servers_status.status)
servers.app.command("restart")(servers_restart.restart)
app.add_typer(servers.app, name="servers")
app.add_typer(approvals.app, name="approvals")
app.add_typer(content.quarantine, name="quarantine")
app.add_typer(content.labels, name="labels")
app.add_typer(content.protect, name="protect")
policy.app.command("history")(config_history.policy_history)
policy.app.command("diff")(config_history.policy_diff)
app.add_typer(policy.app, name="policy")
app.add_typer(revoke.app, name="revoke")
app.add_typer(contain.app, name="contain")
app.add_typer(risk.app, name="risk")
app.add_typer(alerts.app, name="alerts")
app.add_typer(connections.app, name="connections")
app.add_typer(access.app, name="access")
app.add_typer(consents.app, name="consents")
audit.app.command("followers")(followers.followers)
audit.app.command()(audit_query.query)
audit.app.command()(audit_query.export)
audit.app.add_typer(audit_query.index_app, name="index")
audit.app.command()(audit_proofs.prove)
audit.app.command("verify-proof")(audit_proofs.verify_proof)
audit.app.command()(audit_proofs.witness)
audit.app.command()(audit_keep.prune)
audit.app.command()(audit_keep.logs)
audit.app.add_typer(audit_keep.hold_app, name="hold")
app.add_typer(audit.app, name="audit")
app.add_typer(behavior.app, name="behavior")
app.add_typer(behavior.decoys, name="decoys")
app.add_typer(evidence.app, name="incident")  # the same group as incidents.app
app.add_typer(playbooks.app, name="playbook")
app.add_typer(keys.app, name="keys")
app.add_typer(backup.app, name="backup")
app.add_typer(oauth_clients.app, name="clients")
app.add_typer(vault.app, name="vault")
app.add_typer(egress.app, name="egress")
app.add_typer(signins.app, name="signins")
for command in (config_history.history, config_history.show, config_history.diff, config_history.rollback):
    configuration.command()(command)
app.add_typer(configuration, name="config")
app.command()(setup.init)
app.command()(setup.check)
app.command()(setup.posture)
app.command()(setup.doctor)
app.command("eval")(evaluate)
app.command()(wrap.wrap)
app.command()(wrap.unwrap)


def _version(wanted: bool) -> None:
    if wanted:
        line(__version__)
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    config: ConfigOption = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """The guarded threshold in front of Model Context Protocol servers."""
    context.obj = config


@app.command()
def serve(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="Configuration file.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Another port than the file says.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the gateway until stopped. Example: limen serve limen.yaml --port 8300"""
    from limen.config.load import check_consistency

    if file is not None and config is not None:
        raise Misused("name the configuration once")
    loaded = load(context, file or config)
    check_consistency(loaded.config)
    if as_json:
        emit({"config": str(loaded.path), "url": loaded.config.listen.url, "warnings": loaded.warnings})
    for warning in () if as_json else loaded.warnings:
        complain(f"warning: {warning}")
    from limen.gateway.run import serve as run_server

    raise typer.Exit(run_server(loaded, port))


@app.command()
def stdio(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Server or bundle; default: all servers.")] = "",
    config: ConfigOption = None,
) -> None:
    """Offer servers to a local client on standard input and output. Example: limen -c limen.yaml stdio files"""
    loaded = load(context, config)
    for warning in loaded.warnings:
        complain(f"warning: {warning}")
    from limen.gateway.run import serve_stdio

    raise typer.Exit(serve_stdio(loaded, name))


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit by itself; status 0 if all went as it should.")] = False,
) -> None:
    """Show the whole thing at work on loopback. Example: limen demo --once"""
    from limen.cli.demo import run as run_demo

    raise typer.Exit(run_demo(once))


@configuration.command()
def schema(as_json: JsonOption = False) -> None:
    """Print the file's JSON Schema. Example: limen config schema > limen.schema.json"""
    from limen.config.load import config_schema

    emit(config_schema())


def run() -> None:
    """Entry point of the program. Building every group of commands takes longer than most commands do, so only the one
    that is asked for is built; all of them for help, for completion, and for a name that is unknown."""
    asked = _asked(sys.argv[1:])
    groups = [one for one in app.registered_groups if one.name == asked]
    if (groups or asked in COMMANDS) and "_LIMEN_COMPLETE" not in os.environ:
        app.registered_groups = groups
    app()


def _asked(words: Sequence[str]) -> str:
    """The first word that is neither an option of the program itself nor its value; "" if there is none."""
    rest = iter(words)
    for word in rest:
        if word in ("-c", "--config"):
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return ""


COMMANDS = frozenset(one.name or one.callback.__name__ for one in app.registered_commands if one.callback)
