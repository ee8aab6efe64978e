"""`limen keys`: every key Limen has, how old it is, and how to replace it while calls run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli import api_keys
from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, ReasonOption, Refused, group, opened, user
from limen.cli.terminal import complain, emit, line, table
from limen.core.faults import ConfigFault, DependencyFault

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.storage import State

app = group("Keys: how old they are, and replacing them while calls run.")
app.add_typer(api_keys.app, name="api")
_COLUMNS: Final = ("name", "what", "made", "days", "state", "due")
_YEAR: Final = 365.0
_WAIT: Final = 10.0  # seconds a running gateway has to answer
NAMES: Final = ("tokens", "handles", "vault", "log", "tls")


@app.command("list")
def list_(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show every key, its age and what is due. Reads only. Example: limen keys list --json"""
    with opened(context, config) as (settings, state):
        rows = [_aged(**row) for row in _found(settings, state)]
    if as_json:
        emit(rows)
        return
    table(_COLUMNS, [{**row, "loud": row["due"] == "now"} for row in rows], red="loud")
    if any(row["due"] == "now" for row in rows):
        complain("due: limen keys rotate NAME; a certificate is renewed on disk and taken over by itself")


@app.command()
def rotate(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="tokens, handles, vault, log, tls, or all.")],
    emergency: Annotated[
        bool, typer.Option("--emergency", help="No overlap: what was signed or sealed before is refused at once.")
    ] = False,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace keys while calls run. Example: limen keys rotate all; limen keys rotate tokens --emergency --reason leak

    Status: 0 all replaced, 1 one could not be, 2 configuration or usage, 3 something we depend on failed.
    """
    if name not in (*NAMES, "all"):
        raise Misused(f"one of {', '.join(NAMES)}, or all")
    if emergency and not reason.strip():
        raise Misused("an emergency has a --reason, for the record")
    with opened(context, config) as (settings, state):
        who = user(by)
        rows: list[dict[str, Any]] = []
        for one in NAMES if name == "all" else (name,):
            why = _absent(one, settings, state)
            if why and name != "all":
                raise Refused(why)
            if why:
                rows.append({"name": one, "ok": True, "done": "", "follows": why})
                continue
            rows.append(_rotated(one, settings, state, emergency, who, reason))
    if as_json:
        emit({"ok": all(row["ok"] for row in rows), "emergency": emergency, "by": who, "keys": rows})
    for row in () if as_json else rows:
        line(f"{row['name']:<8} {row['done']}", red=not row["ok"])
        line(f"         {row['follows']}")
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


def _rotated(name: str, config: Config, state: State, emergency: bool, by: str, reason: str) -> dict[str, Any]:
    work: dict[str, Callable[[], tuple[str, str]]] = {
        "tokens": lambda: _tokens(config, emergency),
        "handles": lambda: _handles(config, state, emergency),
        "vault": lambda: _vault(config, state, emergency),
        "log": lambda: _log(config, state, emergency, by, reason),
        "tls": lambda: _tls(config, state, by, reason),
    }
    try:
        done, follows = work[name]()
    except (ConfigFault, Refused) as fault:
        return {"name": name, "ok": False, "done": f"not replaced: {fault}", "follows": "the former one goes on"}
    if name not in ("log", "tls"):  # of those the gateway itself makes a record
        state.tell("rotated", key=name, why="emergency" if emergency else "planned", by=by, reason=reason)
    return {"name": name, "ok": True, "done": done, "follows": follows}


def _absent(name: str, config: Config, state: State) -> str:
    """Why there is nothing to replace, or ""."""
    from limen.credentials.vault import in_use
    from limen.opening import TOKEN_KEYS

    if name == "tls" and config.listen.tls is None:
        return "no certificate is configured here"
    if name == "tokens" and not config.storage.path.with_name(TOKEN_KEYS).exists():
        return "no tokens are signed here"
    return "nothing is sealed here yet" if name == "vault" and not in_use(state.vault) else ""


def _tokens(config: Config, emergency: bool) -> tuple[str, str]:
    from limen.opening import open_token_keys

    made = open_token_keys(config).rotate(distrust=emergency)
    if emergency:
        return (
            f"key {made} signs now",
            "every token signed before is refused within a second; clients refresh by themselves",
        )
    return f"key {made} is published", "it signs in ten minutes; tokens of the former one are good until they expire"


def _handles(config: Config, state: State, emergency: bool) -> tuple[str, str]:
    from limen.adapters.handlekeys import HandleKeys

    keys = HandleKeys(config.storage.path.parent / "handle-keys")
    if not emergency:
        keys.renew()
        return (
            "a new key seals in three seconds",
            "what the former one sealed is good until it expires or the next change",
        )
    keys.replace()
    ended = _emptied(state.sessions)
    return (
        "a new key seals now",
        f"states and event ids of before are refused, and {ended} sessions ended; clients begin anew",
    )


def _emptied(kept: Any) -> int:
    rows = list(kept.scan(""))
    return sum(kept.swap(place, raw, None) for place, raw in rows)


def _vault(config: Config, state: State, emergency: bool) -> tuple[str, str]:
    from limen.cli.vault import SETTLE
    from limen.opening import open_vault

    vault = open_vault(config, state)
    owners = vault.rotate_all()
    vault.rotate_kek()
    count = vault.rewrap()
    if not emergency:
        return f"new data keys of {owners} owners, {count} wrapped anew", "what was sealed before still opens"
    time.sleep(SETTLE)
    count += vault.rewrap()
    vault.retire()
    return (
        f"new data keys of {owners} owners, {count} wrapped anew, older key-encryption keys given up",
        "earlier backups of the vault cannot be opened; what was sealed is as it was: revoke it where it came from",
    )


def _log(config: Config, state: State, emergency: bool, by: str, reason: str) -> tuple[str, str]:
    """By the gateways that run, each for its own log; here when none does."""
    from limen.audit.ledger import Ledger
    from limen.errands import ask, await_answers
    from limen.opening import open_log_signer, replace_log_key

    follows = "keep the new key elsewhere; `limen audit verify` follows the chain from any earlier one"
    try:
        ledger = Ledger.open(config.audit.path, open_log_signer(config))
    except DependencyFault as fault:
        if not isinstance(fault.__cause__, BlockingIOError):
            raise
        wanted = ask(state.history, "log-key", by=by, reason=reason, urgent=emergency)
        found = await_answers(state.history, wanted, first=_WAIT)
        if not found or not all(one.ok for one in found):
            trouble = "; ".join(one.detail for one in found if not one.ok)
            raise Refused(trouble or "the process that writes the log did not answer") from None
        return ", ".join(one.detail for one in found), follows
    try:
        key = replace_log_key(config, ledger, "emergency" if emergency else "planned").verifier_key
    finally:
        ledger.close_now()
    state.tell("rotated", key="log", now=key, why="emergency" if emergency else "planned", by=by, reason=reason)
    return key, follows


def _tls(config: Config, state: State, by: str, reason: str) -> tuple[str, str]:
    """The files are somebody else's work: check them, and have gateways take them over now."""
    from limen.errands import ask, await_answers
    from limen.gateway.renewal import context_of, describe

    assert config.listen.tls is not None
    context_of(config.listen.tls)
    about = describe(config.listen.tls)
    wanted = ask(state.history, "tls", by=by, reason=reason)
    found = await_answers(state.history, wanted, first=3.0)
    if any(not one.ok for one in found):
        raise Refused("; ".join(one.detail for one in found if not one.ok))
    taken = f"taken over by {len(found)} gateways" if found else "no gateway runs; the next one takes it"
    return f"certificate {about['digest'][:16]}, {taken}", f"good until {about['ends']}; connections there are go on"


def _found(config: Config, state: State) -> Iterator[dict[str, Any]]:
    """Every key there is, with when it was made (seconds since the epoch) and after how many days it is due."""
    from limen.adapters.handlekeys import HandleKeys
    from limen.credentials.vault_settings import FileKeys
    from limen.identity.api_keys import find
    from limen.opening import TOKEN_KEYS, VAULT_KEYS, log_key, open_token_keys

    beside = config.storage.path.with_name
    now = time.time()
    if beside(TOKEN_KEYS).exists():
        for key, what in open_token_keys(config).published():
            due = config.vault.signing.days if what != "verifying" else None
            yield {
                "name": "tokens",
                "what": f"{key.algorithm} {key.id[:12]}",
                "made": key.made,
                "state": what,
                "after": due,
            }
    if beside("handle-keys").exists():
        age = HandleKeys(beside("handle-keys")).age
        yield {
            "name": "handles",
            "what": "seals handles",
            "made": now - age,
            "state": "in use",
            "after": config.sessions.key_days,
        }
    keys = config.vault.keys
    directory = (keys.directory or beside(VAULT_KEYS)) if isinstance(keys, FileKeys) else None
    if directory is None or directory.exists():
        made = _mtime(directory / "kek") if directory is not None else 0.0
        yield {
            "name": "vault",
            "what": f"wraps data keys, {keys.kind}",
            "made": made,
            "state": "in use",
            "after": _YEAR,
        }
    signing = log_key(config) if log_key(config).exists() else config.audit.key
    if signing.exists():
        yield {"name": "log", "what": "signs the log", "made": _mtime(signing), "state": "in use", "after": _YEAR}
        yield {
            "name": "house",
            "what": "seals approvals",
            "made": _mtime(config.audit.key),
            "state": "in use",
            "after": None,
        }
    if config.listen.tls is not None:
        yield _certificate(config.listen.tls)
    for one in find(state.keys):
        if one.state(now) == "active":
            days = (one.expires - one.created) / 86_400
            yield {
                "name": f"api {one.id}",
                "what": one.owner,
                "made": one.created,
                "state": "active",
                "after": days - 14,
            }


def _certificate(tls: Any) -> dict[str, Any]:
    from limen.gateway.renewal import describe

    try:
        about = describe(tls)
    except ConfigFault as fault:
        return {"name": "tls", "what": str(fault), "made": 0.0, "state": "broken", "after": 0.0}
    begins, ends = (datetime.fromisoformat(about[part]).timestamp() for part in ("begins", "ends"))
    two_thirds = (ends - begins) / 86_400 * 2 / 3
    state = "expired" if time.time() > ends else f"until {about['ends'][:10]}"
    return {"name": "tls", "what": ", ".join(about["names"])[:60], "made": begins, "state": state, "after": two_thirds}


def _aged(name: str, what: str, made: float, state: str, after: float | None) -> dict[str, Any]:
    days = (time.time() - made) / 86_400
    due = "" if after is None or (not made and after) else "now" if days >= after else f"in {after - days:.0f} days"
    moment = datetime.fromtimestamp(made, UTC).isoformat(timespec="minutes") if made else ""
    return {"name": name, "what": what, "made": moment, "days": int(days) if made else None, "state": state, "due": due}


def _mtime(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0
