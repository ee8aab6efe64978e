"""`limen vault`: the keys that keep secrets at rest, and those that sign our tokens."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, ReasonOption, Refused, group, opened, user
from limen.cli.terminal import complain, emit, line, table

if TYPE_CHECKING:
    from limen.credentials.vault import Progress, Vault

app = group("Keys that keep secrets at rest, and keys that sign tokens.")
SETTLE: Final = 2.0  # seconds in which what another process wrapped with the former key reaches the database
_COLUMNS: Final = ("token key", "algorithm", "state", "made", "signs from")


@app.command()
def status(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show what keys there are, and prove that the vault can be opened. Example: limen vault status"""
    from limen.credentials.vault import in_use
    from limen.opening import TOKEN_KEYS, open_token_keys, open_vault

    with opened(context, config) as (settings, state):
        found: dict[str, Any] = {"keys": settings.vault.keys.kind, "owners": 0, "data_keys": 0, "behind": 0}
        used = in_use(state.vault)
        if used:
            standing = open_vault(settings, state).status()
            found |= {"owners": standing.owners, "data_keys": standing.keys, "behind": standing.behind}
    rows: list[dict[str, Any]] = []
    if settings.storage.path.with_name(TOKEN_KEYS).exists():
        rows = [
            {
                "token key": key.id, "algorithm": key.algorithm, "state": what, "made": _moment(key.made),
                "signs from": _moment(key.starts),
            }
            for key, what in open_token_keys(settings).published()
        ]  # fmt: skip
    if as_json:
        emit({**found, "used": used, "token_keys": rows})
        return
    line(f"key-encryption key   {found['keys']}" + (", opens what is there" if used else ", not used yet"))
    line(f"owners, data keys    {found['owners']}, {found['data_keys']}")
    if found["behind"]:
        line(f"{found['behind']} data keys are wrapped by an older key: limen vault rewrap", red=True)
    table(_COLUMNS, rows)


@app.command()
def rotate(
    context: typer.Context,
    kek: Annotated[bool, typer.Option("--kek", help="The key-encryption key; data keys are wrapped anew.")] = False,
    data: Annotated[bool, typer.Option("--data", help="The data key of every owner.")] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="The key that signs tokens.")] = False,
    retire: Annotated[
        bool, typer.Option("--retire", help="With --kek: give up older ones. Earlier backups cannot be opened then.")
    ] = False,
    distrust: Annotated[
        bool, typer.Option("--distrust", help="With --tokens: every token signed so far is void at once.")
    ] = False,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace keys while calls run. Example: limen vault rotate --kek --data --tokens"""
    from limen.opening import open_token_keys, open_vault

    if not (kek or data or tokens) or (retire and not kek) or (distrust and not tokens):
        raise Misused("say which keys: --kek (with --retire), --data, --tokens (with --distrust)")
    done: dict[str, Any] = {}
    with opened(context, config) as (settings, state):
        if kek or data:
            vault = open_vault(settings, state)
            if data:
                done["data"] = _watched("new data keys", vault.rotate_all)
            if kek:
                vault.rotate_kek()
                done["rewrapped"] = _rewrapped(vault, retire)
                done["retired"] = retire
        if tokens:
            done["token_key"] = open_token_keys(settings).rotate(distrust=distrust)
            done["distrusted"] = distrust
        kinds = [name for name, wanted in (("kek", kek), ("data", data), ("tokens", tokens)) if wanted]
        state.tell("vault", act="rotated", keys=kinds, by=user(by), reason=reason, **done)
    _done({"rotated": kinds, **done, "by": user(by)}, f"rotated: {', '.join(kinds)}", as_json)


@app.command()
def rewrap(
    context: typer.Context,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """After the key was rotated elsewhere: wrap data keys with the newest version. Example: limen vault rewrap"""
    from limen.opening import open_vault

    with opened(context, config) as (settings, state):
        count = _watched("wrapping data keys anew", open_vault(settings, state).rewrap)
        state.tell("vault", act="rewrapped", rewrapped=count, by=user(by), reason=reason)
    _done({"rewrapped": count, "by": user(by)}, f"rewrapped: the data keys of {count} owners", as_json)


@app.command()
def shred(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(help="Whose sealed secrets to make unreadable for good.")],
    issuer: Annotated[str, typer.Option(help="Who says who they are.")],
    yes: Annotated[bool, typer.Option("--yes", help="Needed: there is no way back.")] = False,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Destroy a person's data keys. Example: limen vault shred alice --issuer https://id.example --yes --reason left"""
    from limen.core.ports import owner_of
    from limen.opening import open_vault

    if not yes or not reason.strip():
        raise Refused("destroying keys cannot be undone: say --yes and give a --reason")
    with opened(context, config) as (settings, state):
        if not open_vault(settings, state).destroy(owner_of(issuer, subject)):
            raise Refused(f"nothing is sealed for {subject} ({issuer})")
        state.tell("vault", act="shredded", issuer=issuer, subject=subject, by=user(by), reason=reason)
    shown = {"shredded": subject, "issuer": issuer, "by": user(by), "reason": reason}
    _done(shown, f"shredded: {subject} ({issuer}); running gateways notice within a minute", as_json)


def _rewrapped(vault: Vault, retire: bool) -> int:
    """Wrap everything with the new key; before the former ones go, look again for what was on its way."""
    count = _watched("wrapping data keys anew", vault.rewrap)
    if retire:
        time.sleep(SETTLE)
        count += vault.rewrap()
        vault.retire()
    return count


def _watched(label: str, work: Any) -> int:
    """Do it, under a progress bar if somebody is watching."""
    if not sys.stderr.isatty():
        return int(work())
    with typer.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def progress(done: int, of: int) -> None:
            bar.length = of
            bar.update(done - bar.pos)

        told: Progress = progress
        return int(work(told))


def _done(answer: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        emit(answer)
        return
    line(text)
    if answer.get("token_key") and not answer["distrusted"]:
        complain("the new token key is published now and signs in ten minutes")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
