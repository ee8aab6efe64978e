"""`limen policy`: what the rules mean, in Cedar and for one call."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limen.cli.context import ConfigOption, JsonOption, Refused, group, load
from limen.cli.terminal import block, complain, emit, line

if TYPE_CHECKING:
    from limen.catalog.snapshot import Catalog
    from limen.config.load import Loaded
    from limen.core.call import Approved, Caller, FlowState
    from limen.policy.decision import PolicySet

app = group("What the rules mean.")
Strings = list[str]


def catalog_of(loaded: Loaded) -> Catalog:
    """What is approved now; nothing where nothing was ever recorded. Creates no file."""
    from limen.catalog.snapshot import Catalog

    if not loaded.config.storage.path.exists():
        return Catalog()
    from limen.opening import open_registry

    return open_registry(loaded.config).snapshot()


def compiled(loaded: Loaded) -> tuple[Catalog, PolicySet]:
    """The policy as the gateway would compile it now. Raises ConfigFault."""
    from limen.policy.compile import compile_policy

    catalog = catalog_of(loaded)
    return catalog, compile_policy(loaded.config.policy, catalog.approved(), servers=loaded.config.servers)


@app.command()
def show(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the rules as Cedar decides them. Example: limen policy show"""
    _, policy = compiled(load(context, config))
    if as_json:
        emit({"digest": policy.digest, "cedar": policy.cedar_text, "warnings": policy.warnings})
        return
    block(policy.cedar_text)
    line(f"// digest {policy.digest}")


@app.command()
def check(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Compile the rules against what is approved. Status 2 if they are wrong. Example: limen policy check"""
    _, policy = compiled(load(context, config))
    if as_json:
        emit({"ok": True, "digest": policy.digest, "policies": policy.size, "warnings": policy.warnings})
        return
    for warning in policy.warnings:
        complain(f"warning: {warning}")
    line(f"{policy.size} policies, digest {policy.digest}")


@app.command()
def explain(
    context: typer.Context,
    server: Annotated[str, typer.Argument(help="Server, as the configuration names it.")],
    name: Annotated[str, typer.Argument(help="Approved tool (or see --kind).")],
    sub: Annotated[str, typer.Option("--user", help="Subject of the caller.")] = "someone",
    issuer: Annotated[str, typer.Option(help="Issuer; default: the first configured.")] = "",
    client: Annotated[str, typer.Option(help="Client id.")] = "",
    group_: Annotated[Strings | None, typer.Option("--group", help="Group; may be repeated.")] = None,
    role: Annotated[Strings | None, typer.Option(help="Role; may be repeated.")] = None,
    scope: Annotated[Strings | None, typer.Option(help="Scope; may be repeated.")] = None,
    mfa: Annotated[bool, typer.Option("--mfa", help="Signed in with more than one factor.")] = False,
    acr: Annotated[str, typer.Option(help="Authentication context (acr) of the token.")] = "",
    signed_in: Annotated[int | None, typer.Option(min=0, help="Seconds since the sign-in (auth_time).")] = None,
    device: Annotated[str, typer.Option(help="Trust level of the device.")] = "",
    risk: Annotated[str, typer.Option(help="Risk level of the sign-in.")] = "",
    machine: Annotated[bool, typer.Option("--machine", help="An application on its own account.")] = False,
    arguments: Annotated[str, typer.Option(help="Arguments of the call, a JSON object.")] = "{}",
    kind: Annotated[str, typer.Option(help="tool, prompt, resource or template.")] = "tool",
    flow: Annotated[
        str, typer.Option(help="What was read: untrusted,private,secret or none. Default: as recorded of this user.")
    ] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a call is allowed or not; status 1 if not.

    Example: limen policy explain files read_file --user ann --group dev --mfa --signed-in 300 --device compliant

    Example: limen policy explain github create_pr --user ann --flow private,untrusted
    """
    import time

    from limen.core.call import Caller
    from limen.identity.scopes import held

    loaded = load(context, config)
    catalog, policy = compiled(loaded)
    approved = catalog.find(server, kind, name)
    if approved is None:
        raise Refused(f"{server}/{name}: not approved; it is {catalog.state(server, kind, name)}")
    identity = loaded.config.identity
    issuers = loaded.config.issuers
    caller = Caller(
        issuer=issuer or (issuers[0] if issuers else "local"),
        subject=sub,
        client=client,
        scopes=held(frozenset(scope or ()), identity.implied),
        roles=frozenset(role or ()),
        groups=frozenset(group_ or ()),
        amr=frozenset({"mfa"} if mfa else ()),
        acr=acr,
        auth_time=None if signed_in is None else int(time.time()) - signed_in,
        device=device,
        risk=risk.casefold(),
        machine=machine,
    )
    read, told = _read(loaded, policy, caller, flow)
    report = _explained(policy, caller, approved, arguments, read)
    report["flow"].update(told)
    if as_json:
        emit(report)
    else:
        _print(report)
    if not report["allowed"]:
        raise typer.Exit(1)


def _read(loaded: Loaded, policy: PolicySet, caller: Caller, given: str) -> tuple[FlowState, dict[str, Any]]:
    """What the caller has read: as given, or as recorded where some rule asks; and where that comes from."""
    from limen.core.call import NOTHING_READ, FlowState
    from limen.detection.dataflow import Labels, LabelSet
    from limen.detection.labels import Label
    from limen.detection.sinks import Flow, chain

    config = loaded.config
    if given:
        try:
            labels = frozenset(map(Label, () if given == "none" else given.split(",")))
        except ValueError:
            raise typer.BadParameter("--flow is untrusted, private and secret, with commas between, or none") from None
        return FlowState(**LabelSet(labels).context()), {"from": "given"}
    if not policy.reads_flow:
        return NOTHING_READ, {"from": "no rule asks"}
    found = LabelSet()
    if config.storage.path.exists() or config.storage.kind != "sqlite":
        from limen.storage import State

        state = State.open(config)
        found = Labels(state.labels, ttl=config.content.flow.ttl).read((caller.issuer, caller.subject))
        state.close()
    held = Flow(config.content.flow).held(caller, found)
    return FlowState(**held.context()), {"from": "recorded", "chain": chain(held)}


def _explained(
    policy: PolicySet, caller: Caller, approved: Approved, arguments: str, flow: FlowState
) -> dict[str, Any]:
    try:
        given = json.loads(arguments)
    except ValueError:
        raise typer.BadParameter("--arguments is not JSON") from None
    if not isinstance(given, dict):
        raise typer.BadParameter("--arguments is a JSON object")
    return policy.explain(caller, approved, given, flow=flow)


def _print(report: dict[str, Any]) -> None:
    line("allowed" if report["allowed"] else f"refused: {report['reason']} {report['detail']}".rstrip())
    flow = report["flow"]
    if flow["asked"]:
        line(f"the caller has read: {', '.join(flow['read']) or 'nothing that is labelled'} ({flow['from']})")
        for one in filter(None, flow.get("chain", "").split("; ")):
            line(f"  {one}")
    for key in ("rules", "requires", "missing_scopes"):
        if report[key]:
            line(f"{key.replace('_', ' ')}: {', '.join(report[key])}")
    asked = report["challenge"] if report["reason"] == "identity.step_up" else {}
    for key, value in asked.items():
        line(f"the challenge asks for {key}: {' '.join(value) if isinstance(value, list) else value}")
    for one in report["policies"]:
        line(f"{one['where']} ({one['effect']}): {'applies' if one['matched'] else 'does not apply'}")
        if one["matched"] and one["requires"]:
            line(f"  requires: {', '.join(one['requires'])}")
        for clause in one["clauses"]:
            if clause["state"] != "true":
                line(f"  {clause['clause']}: {clause.get('why', clause['state'])}")
    line(f"{report['not_concerned']} other policies are about something else")
