"""`limen config history|show|diff|rollback`, `limen policy history|diff`: what was in force, and back to it."""

from __future__ import annotations

import difflib
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from limen.cli.context import ByOption, ConfigOption, JsonOption, Misused, ReasonOption, Refused, chosen, opened, user
from limen.cli.terminal import block, complain, emit, line, table

if TYPE_CHECKING:
    from limen.history import Kept
    from limen.storage import State

_COLUMNS: Final = ("id", "since", "by", "text", "policy", "reason")
_POLICIES: Final = ("policy", "since")
_SHORT: Final = 12
_WAIT: Final = 15.0  # seconds a running gateway has to take it over
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id or digest, or enough of its beginning.")]
LimitOption = Annotated[int, typer.Option("--count", "-n", min=1, help="How many, the newest first.")]


def history(
    context: typer.Context, count: LimitOption = 20, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List the configurations that were in force. Example: limen config history -n 5"""
    from limen.history import kept

    with opened(context, config) as (_, state):
        rows = [_row(one) for one in kept(state.history)[:count]]
    if as_json:
        emit(rows)
        return
    table(_COLUMNS, [{**row, "text": row["text"][:_SHORT], "policy": row["policy"][:_SHORT]} for row in rows])


def show(context: typer.Context, id: IdArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print a configuration that was in force. Example: limen config show 17325"""
    from limen.history import text_of

    with opened(context, config) as (_, state):
        one = _one(state, id)
        text = text_of(state.history, one).decode("utf-8", "replace")
    if as_json:
        emit({**_row(one), "content": text})
        return
    block(text)


def diff(
    context: typer.Context,
    id: IdArgument,
    other: Annotated[str, typer.Argument(metavar="[ID]", help="Another one; default: the file as it is now.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a configuration changed. Example: limen config diff 17325"""
    from limen.config.document import read_file
    from limen.history import redacted, text_of

    path = chosen(context, config)
    with opened(context, config) as (_, state):
        before = text_of(state.history, one := _one(state, id))
        if other:
            after, name = text_of(state.history, second := _one(state, other)), second.id
        else:
            after, name = redacted(read_file(path, "the configuration"), str(path))[0], str(path)
    _differ(before.decode("utf-8", "replace"), after.decode("utf-8", "replace"), one.id, name, as_json)


def rollback(
    context: typer.Context,
    id: IdArgument,
    yes: Annotated[
        bool, typer.Option("--yes", help="Write the file; without it, only show what would change.")
    ] = False,
    by: ByOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the very text of an earlier configuration back, and in force. Example: limen config rollback 17325 --yes

    Status: 0 in force (or shown), 1 refused: it does not check, or a gateway did not take it over; then the file is
    as before.
    """
    from limen.adapters.replace import replace_file
    from limen.config.document import read_file
    from limen.errands import ask, await_answers
    from limen.history import redacted, restored, tell_who, text_of

    path = chosen(context, config).absolute()
    with opened(context, config) as (_, state):
        current = read_file(path, "the configuration")
        one = _one(state, id)
        text = restored(text_of(state.history, one), one, current, str(path))
        _checked(text, path)
        shown = [redacted(each, str(path))[0].decode() for each in (current, text)]
        if not yes:
            _differ(shown[0], shown[1], str(path), one.id, as_json)
            return
        if text != current:
            tell_who(state.history, redacted(text, str(path))[0], user(by), reason)
            replace_file(path, text, current)
        state.tell("config", change="rollback", to=one.id, digest=one.digest, by=user(by), reason=reason)
        found = await_answers(state.history, ask(state.history, "reload", by=user(by), reason=reason), first=_WAIT)
        if trouble := [answer.detail for answer in found if not answer.ok]:
            replace_file(path, current, text)
            raise Refused(f"{trouble[0]}; the file is as it was before")
    stale = [name for name, digest in one.beside.items() if _now(name) != digest]
    if as_json:
        emit({"to": one.id, "gateways": len(found), "changed_beside": stale})
        return
    line(f"{path}: as it was at {_moment(one.at)}" + (f", in force at {len(found)} gateways" if found else ""))
    for name in stale:
        complain(f"warning: {name} is not what it was then; it is not part of the file and stays as it is")
    if not found:
        complain("no gateway runs (or none answered): it takes effect with the next start")


def policy_history(
    context: typer.Context, count: LimitOption = 20, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List the policies that were in force. Example: limen policy history"""
    from limen.history import policies

    with opened(context, config) as (_, state):
        rows = [{"policy": row["digest"], "since": _moment(row["at"])} for row in policies(state.history)[:count]]
    if as_json:
        emit(rows)
        return
    table(_POLICIES, rows)


def policy_diff(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="DIGEST", help="Enough of its beginning.")],
    second: Annotated[str, typer.Argument(metavar="[DIGEST]", help="Default: the newest.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what changed between two policies, as Cedar. Example: limen policy diff 4f2a 91c0"""
    from limen.history import policies
    from limen.policy.kept import NotKept, policy_text

    with opened(context, config) as (_, state):
        rows = policies(state.history)
        found = []
        for prefix in (first, second):
            matching = [row for row in rows if row["digest"].startswith(prefix)]
            if len({row["digest"] for row in matching}) != 1 and prefix:
                raise Refused(
                    f"{len(matching)} policies begin with {prefix!r}; name one" if matching else "no such policy"
                )
            if not matching:
                raise Refused("no policy is kept")
            found.append(matching[0])
        try:
            texts = [policy_text(state.history, row["digest"]) for row in found]
        except NotKept as fault:
            raise Refused(str(fault)) from None
    _differ(texts[0], texts[1], found[0]["digest"][:_SHORT], found[1]["digest"][:_SHORT], as_json)


def _checked(text: bytes, path: Path) -> None:
    """Judge the text as the file it will be, beside it, before it is. Raises ConfigFault."""
    from limen.config.load import check_consistency, load_config
    from limen.signin import check_signin

    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix) as draft:
        draft.write(text)
        draft.flush()
        config = load_config(draft.name).config
    check_consistency(config)
    check_signin(config)


def _differ(before: str, after: str, first: str, second: str, as_json: bool) -> None:
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), first, second, lineterm=""))
    if as_json:
        emit({"from": first, "to": second, "diff": lines})
        return
    if not lines:
        line("the same")
    block("\n".join(lines))


def _one(state: State, prefix: str) -> Kept:
    from limen.history import kept

    if not prefix:
        raise Misused("name one: limen config history")
    rows = kept(state.history)
    found = [one for one in rows if one.id.startswith(prefix) or one.digest.startswith(prefix)]
    if not found:
        raise Refused(f"nothing is kept under {prefix!r}: limen config history")
    if len({one.digest for one in found}) > 1:
        raise Refused(f"{len(found)} configurations begin with {prefix!r}; name one")
    return found[0]


def _row(one: Kept) -> dict[str, Any]:
    return {
        "id": one.id, "since": _moment(one.at), "by": one.by, "reason": one.reason, "text": one.digest,
        "policy": one.policy, "file": one.file, "hidden": len(one.hidden),
    }  # fmt: skip


def _now(name: str) -> str:
    from hashlib import sha256

    try:
        return sha256(Path(name).read_bytes()).hexdigest()
    except OSError:
        return ""


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
