"""`limen quarantine`, what was withheld and waits for an operator; `limen labels`, what callers have read."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, ReasonOption, Refused, group, load, user
from limen.cli.terminal import emit, line, table

if TYPE_CHECKING:
    from limen.detection.dataflow import Labels
    from limen.detection.protect import Protector
    from limen.detection.quarantine import Quarantine
    from limen.storage import State

quarantine = group("Answers that looked dangerous and were withheld.")
labels = group("What callers have read, and what that forbids them.")
protect = group("Keys of the tokens that stand for protected arguments; a tenant is an issuer.")
_COLUMNS = ("id", "state", "age", "call", "size", "findings")
IdArgument = Annotated[str, typer.Argument(help="Id, as `limen quarantine list` and the notice to the client show it.")]
SubjectArgument = Annotated[str, typer.Argument(help="Subject of the caller, as the audit log names it.")]
TenantArgument = Annotated[str, typer.Argument(help="Tenant: the issuer of the callers whose arguments are protected.")]
IssuerOption = Annotated[str, typer.Option(help="Issuer of the caller; `local` for users of stdio.")]


def _kept(context: typer.Context, config: Path | None) -> tuple[State, Quarantine]:
    from limen.inspection import open_quarantine
    from limen.storage import State

    loaded = load(context, config).config
    state = State.open(loaded)
    return state, open_quarantine(loaded, state.quarantine)


@quarantine.command("list")
def list_(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what was withheld, oldest first. Example: limen quarantine list --json"""
    items = _kept(context, config)[1].items()
    if as_json:
        emit([asdict(item) for item in items])
        return
    now = time.time()
    table(
        _COLUMNS,
        [
            {
                **asdict(item),
                "age": f"{max(0, now - item.created):.0f}s",
                "call": f"{item.method} {item.server}/{item.name}",
                "findings": " ".join(item.findings),
            }
            for item in items
        ],
    )


@quarantine.command()
def release(
    context: typer.Context,
    id: IdArgument,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the original, once. Example: limen quarantine release q-1f2e... --reason "read by ann" """
    state, kept = _kept(context, config)
    try:
        about, content = kept.release(id, user(by), reason)
    except (LookupError, ValueError) as error:
        raise Refused(str(error.args[0])) from None
    state.tell("quarantine", act="released", id=id, by=about.by, reason=about.why, server=about.server, name=about.name)
    if as_json:
        emit({"about": asdict(about), "content": content})
        return
    line(f"{id}: {about.method} {about.server}/{about.name}, withheld for {' '.join(about.findings)}", red=True)
    emit(content)


@quarantine.command()
def discard(
    context: typer.Context,
    id: IdArgument,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete the original unread. Example: limen quarantine discard q-1f2e... --reason spam"""
    state, kept = _kept(context, config)
    try:
        about = kept.discard(id, user(by), reason)
    except (LookupError, ValueError) as error:
        raise Refused(str(error.args[0])) from None
    state.tell(
        "quarantine", act="discarded", id=id, by=about.by, reason=about.why, server=about.server, name=about.name
    )
    if as_json:
        emit(asdict(about))
        return
    line(f"{id}: deleted")


def _labels(context: typer.Context, config: Path | None) -> tuple[State, Labels]:
    from limen.detection.dataflow import Labels
    from limen.storage import State

    loaded = load(context, config).config
    state = State.open(loaded)
    return state, Labels(state.labels, ttl=loaded.content.flow.ttl)


@labels.command()
def show(
    context: typer.Context,
    subject: SubjectArgument,
    issuer: IssuerOption = "local",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Labels of a caller and the reads that led there. Example: limen labels show ann --issuer https://id.example"""
    told = _labels(context, config)[1].explain((issuer, subject))
    if as_json:
        emit(told)
        return
    if not told["labels"]:
        line(f"{subject} ({issuer}) carries no labels")
    for label, about in told["labels"].items():
        line(f"{label}: for {max(0, about['expires'] - time.time()):.0f} s more")
    rows = [
        {**read, "read": f"{read['server']}/{read['name']}", "labels": " ".join(read["labels"])}
        for read in told["reads"]
    ]
    if rows:
        table(("read", "labels", "count", "reference"), rows)
    for one in told["cleared"]:
        line(f"cleared by {one['by']}: {' '.join(one['labels'])} ({one['why']})")


@labels.command()
def clear(
    context: typer.Context,
    subject: SubjectArgument,
    issuer: IssuerOption = "local",
    label: Annotated[
        list[str] | None, typer.Option(help="untrusted, private or secret; repeat it. Default: all.")
    ] = None,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Vouch that labels no longer hold. Example: limen labels clear ann --label untrusted --reason "new task" """
    from limen.detection.labels import Label

    try:
        chosen = [Label(one) for one in label] if label else list(Label)
    except ValueError:
        raise typer.BadParameter("untrusted, private or secret") from None
    state, kept = _labels(context, config)
    try:
        done: Any = kept.clear((issuer, subject), user(by), reason, chosen)
    except (LookupError, ValueError) as error:
        raise Refused(str(error.args[0])) from None
    gone = sorted(done.labels)
    state.tell("labels", act="cleared", issuer=issuer, subject=subject, labels=gone, by=done.by, reason=done.why)
    if as_json:
        emit(asdict(done))
        return
    line(f"{subject} ({issuer}) no longer carries {' '.join(gone)}")


def _protector(context: typer.Context, config: Path | None) -> tuple[State, Protector]:
    from limen.inspection import open_protector
    from limen.storage import State

    loaded = load(context, config).config
    return State.open(loaded), open_protector(loaded)


def _done(state: State, act: str, tenant: str, by: str, reason: str, as_json: bool) -> None:
    state.tell("protect", act=act, tenant=tenant, by=user(by), reason=reason)
    if as_json:
        emit({"act": act, "tenant": tenant, "by": user(by), "reason": reason})
        return
    line(f"{act}: {tenant}")


@protect.command()
def rotate(
    context: typer.Context,
    tenant: TenantArgument,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """New tokens get a new key; older ones can still be revealed. Example: limen protect rotate https://id.example"""
    from limen.detection.protect import KeyDestroyed

    state, protector = _protector(context, config)
    try:
        protector.rotate(tenant)
    except KeyDestroyed:
        raise Refused(f"the keys of {tenant} were destroyed") from None
    _done(state, "rotated", tenant, by, reason, as_json)


@protect.command()
def destroy(
    context: typer.Context,
    tenant: TenantArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Needed: there is no way back.")] = False,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make all tokens of a tenant unreadable for good. Example: limen protect destroy URL --yes --reason left"""
    if not yes or not reason.strip():
        raise Refused("destroying keys cannot be undone: say --yes and give a --reason")
    state, protector = _protector(context, config)
    protector.destroy(tenant)
    _done(state, "destroyed", tenant, by, reason, as_json)
