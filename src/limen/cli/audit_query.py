"""`limen audit query`, `index`, `export`: find records, and show that they are what was signed."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer

from limen.cli.audit import log_key
from limen.cli.context import ConfigOption, JsonOption, Misused, Refused, group, load
from limen.cli.terminal import emit, line, table
from limen.core.events import SEVERITIES

if TYPE_CHECKING:
    from limen.audit.index import Index, Query, Row
    from limen.audit.proofs import Prover
    from limen.config.model import Config

index_app = group("The index that `limen audit query` looks things up in. It can be made again at any time.")
_SHOWN: Final = (
    "time",
    "id",
    "type",
    "severity",
    "caller",
    "client",
    "server",
    "tool",
    "decision",
    "reason",
    "log says",
)
_BATCH: Final = 5000


def query(
    context: typer.Context,
    caller: Annotated[str, typer.Option(help="Subject.")] = "",
    issuer: Annotated[str, typer.Option(help="Who says who the caller is.")] = "",
    client: Annotated[str, typer.Option(help="Client id.")] = "",
    tool: Annotated[str, typer.Option(help="Tool, prompt or resource.")] = "",
    server: Annotated[str, typer.Option(help="Server.")] = "",
    digest: Annotated[str, typer.Option(help="Digest of the definition that was called.")] = "",
    decision: Annotated[str, typer.Option(help="allow or deny.")] = "",
    reason: Annotated[str, typer.Option(help="Reason of a refusal.")] = "",
    kind: Annotated[str, typer.Option("--type", help="Type of event, such as call.refused.")] = "",
    session: Annotated[str, typer.Option(help="Digest of a session.")] = "",
    ref: Annotated[str, typer.Option(help="What joins the events of one call.")] = "",
    log: Annotated[str, typer.Option(help="One replica's log; default: all that share the index.")] = "",
    severity: Annotated[str, typer.Option(help=f"At least: {', '.join(SEVERITIES)}.")] = "info",
    since: Annotated[str, typer.Option(help="Not before: 2026-11-20T08:00Z, or 24h, 7d ago.")] = "",
    until: Annotated[str, typer.Option(help="Before.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows of a page.")] = 50,
    order: Annotated[str, typer.Option(help="newest or oldest first.")] = "newest",
    after: Annotated[str, typer.Option(help="Where the page before ended.")] = "",
    count: Annotated[bool, typer.Option("--count", help="Only how many there are.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="However long it takes: count all, or look through all.")
    ] = False,
    proof: Annotated[
        bool, typer.Option("--proof", help="With each record, proof that it is in the signed log.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find records. Each is read back from its log; status 1 if one is not what the index says.

    An answer that takes longer than about half a second says how far it goes: see --after and --exact.

    Example: limen audit query --caller alice --decision deny --since 24h
    """
    from limen.audit.index import SOON, Query, counted
    from limen.storage import open_index

    if severity not in SEVERITIES or order not in ("newest", "oldest") or decision not in ("", "allow", "deny"):
        raise Misused("--severity info…critical, --order newest or oldest, --decision allow or deny")
    settings = load(context, config).config
    asked = Query(
        caller=caller, issuer=issuer, client=client, tool=tool, server=server, digest=digest, decision=decision,
        reason=reason, type=kind, session=session, ref=ref, log=log, severity=severity,
        since=moment(since), until=moment(until), newest_first=order == "newest", limit=limit, after=after,
    )  # fmt: skip
    index, seconds = open_index(settings), None if exact else SOON
    try:
        if count:
            found = counted(index, asked, seconds)
            if as_json:
                emit({"count": found.number, "exact": found.since is None, "counted_since": found.since})
            else:
                line(str(found.number) if found.since is None else
                     f"at least {found.number}: counted back to {_when(found.since)}; --exact counts all")  # fmt: skip
            return
        shown, following, reached = _found(settings, index, asked, proof, seconds)
    except ValueError as error:
        raise Misused(f"--after {error}") from None
    finally:
        index.close()
    if as_json:
        emit({"records": shown, "after": following, "reached": reached})
    else:
        table(_SHOWN, [_cells(one) for one in shown], red="wrong")
        if reached is not None:
            line(f"looked as far as {_when(reached)}; --exact looks through all")
        if following:
            line(f"more: --after {following}")
    if any(one["log says"] == "something else" for one in shown):
        raise typer.Exit(1)


def _found(
    config: Config, index: Index, asked: Query, proof: bool, seconds: float | None
) -> tuple[list[dict[str, Any]], str, float | None]:
    """The hits of one page with what the log says of each, where the next page begins ("" for no more), and how far
    was looked if time ran out."""
    from limen.audit.index import page

    found = page(index, asked, seconds)
    back = _Back(config, proof)
    return [back.read(row) for row, _ in found.rows], found.after.text() if found.after else "", found.reached


class _Back:
    """Reads hits back from the log that is here."""

    def __init__(self, config: Config, proof: bool) -> None:
        from limen.audit.proofs import Prover

        self._directory = config.audit.path
        self._key = log_key(config.audit, "", self._directory)
        self._prover: Prover | None = Prover(self._directory, self._key) if proof else None

    def read(self, row: Row) -> dict[str, Any]:
        """One hit, for people and programs."""
        from limen.audit.events import read_event
        from limen.audit.index import row_of
        from limen.audit.proofs import Unprovable, record_at

        told = {**row._asdict(), "severity": SEVERITIES[row.severity], "id": f"{row.log}:{row.number}"}
        if row.log != self._key.name:
            return {**told, "log says": "elsewhere"}
        raw = record_at(self._directory, row.number)
        if raw is None:
            return {**told, "log says": "removed"}
        try:
            same = row_of(read_event(row.log, row.number, raw)) == row
        except ValueError:
            same = False
        if not same:
            return {**told, "log says": "something else", "record": raw.decode("utf-8", "replace")}
        found = {**told, "log says": "the same", "record": orjson.loads(raw)}
        if self._prover is not None:
            try:
                found["proof"] = self._prover.prove(row.number).text().decode()
            except Unprovable as fault:
                found["log says"] = "not signed yet" if row.number >= self._prover.checkpoint.size else "something else"
                found["problem"] = str(fault)
        return found


def _cells(found: Mapping[str, Any]) -> dict[str, Any]:
    return {**found, "time": _when(found["at"]), "wrong": found["log says"] == "something else"}


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


def moment(text: str, now: float | None = None) -> float | None:
    """Seconds since the epoch of a time written out, or so long ago (90s, 15m, 24h, 7d); None for "". Raises
    Misused."""
    from datetime import UTC, datetime

    if not text:
        return None
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    if text[-1] in units and text[:-1].isdigit():
        return (time.time() if now is None else now) - int(text[:-1]) * units[text[-1]]
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Misused(f"{text!r} is no time: 2026-11-20T08:00Z, or 24h for a day ago") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


@index_app.command()
def rebuild(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Make the index of this log again, from the log. Example: limen audit index rebuild"""
    from limen.audit.index import row_of
    from limen.storage import open_index

    settings = load(context, config).config
    name = log_key(settings.audit, "", settings.audit.path).name
    index, count, waiting = open_index(settings), 0, list[Any]()
    try:
        index.forget(name)
        for event in _events(settings.audit.path, name, "indexing"):
            waiting.append(row_of(event))
            if len(waiting) == _BATCH:
                index.add(waiting)
                waiting = []
            count += 1
        index.add(waiting)
    finally:
        index.close()
    emit({"log": name, "records": count}) if as_json else line(f"{name}: {count} records indexed")


@index_app.command()
def check(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Compare every row with its record; status 1 if one is missing, surplus or different.

    Example: limen audit index check
    """
    from limen.audit.index import row_of
    from limen.audit.proofs import record_at
    from limen.storage import open_index

    settings = load(context, config).config
    name = log_key(settings.audit, "", settings.audit.path).name
    wrong: dict[str, list[int]] = {"missing": [], "different": [], "surplus": []}
    index, count = open_index(settings), 0
    try:
        rows = index.numbers(name)  # both in order of number, so that neither need be held whole
        row = next(rows, None)
        for event in _events(settings.audit.path, name, "comparing"):
            while row is not None and row.number < event.index:
                wrong["surplus"].append(row.number)
                row = next(rows, None)
            if row is None:
                break  # what follows is not indexed yet
            if row.number > event.index:
                wrong["missing"].append(event.index)
            else:
                if row != row_of(event):
                    wrong["different"].append(event.index)
                row = next(rows, None)
            count += 1
        while row is not None:
            if record_at(settings.audit.path, row.number) is None:  # not one that was written meanwhile
                wrong["surplus"].append(row.number)
            row = next(rows, None)
    finally:
        index.close()
    if as_json:
        emit({"log": name, "records": count, **wrong})
    else:
        line(f"{name}: {count} records compared")
        for what, numbers in wrong.items():
            if numbers:
                line(f"{what}: {len(numbers)}, first {numbers[0]}", red=True)
    if any(wrong.values()):
        raise typer.Exit(1)


def export(
    context: typer.Context,
    person: Annotated[str, typer.Option(help="Subject: everything recorded of this person.")],
    issuer: Annotated[str, typer.Option(help="Who says who they are; default: anybody.")] = "",
    proof: Annotated[
        bool, typer.Option("--proof", help="With each record, proof that it is in the signed log.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print, always as one JSON object a line, what this log says of one person, for their request for access.

    Example: limen audit export --person alice --issuer https://id.example > alice.jsonl
    """
    from limen.audit.holds import mentions
    from limen.audit.proofs import Prover, Unprovable

    settings = load(context, config).config
    key = log_key(settings.audit, "", settings.audit.path)
    prover: Prover | None = Prover(settings.audit.path, key) if proof else None
    count = 0
    for event in _events(settings.audit.path, key.name, "reading"):
        if not mentions(event.record, person, issuer):
            continue
        found: dict[str, Any] = {"id": event.id, "type": event.type, "record": dict(event.record)}
        if prover is not None and event.index < prover.checkpoint.size:
            try:
                found["proof"] = base64.b64encode(prover.prove(event.index).text()).decode()
            except Unprovable as fault:
                raise Refused(str(fault)) from None
        print(json.dumps(found), flush=False)  # in ASCII: names of strangers are obeyed by no terminal
        count += 1
    print(f"limen: {count} records name {person!r}", file=sys.stderr)


def _events(directory: Path, name: str, label: str) -> Iterator[Any]:
    """Every record as an event, under a progress bar if somebody is watching."""
    from limen.audit.events import read_event
    from limen.audit.read import CHECKPOINT, read, size_of
    from limen.audit.read import load as load_file

    size = size_of(load_file(directory, CHECKPOINT))
    hidden = not sys.stderr.isatty()
    with typer.progressbar(length=max(size, 1), label=label, file=sys.stderr, hidden=hidden) as bar:
        for index, record in read(directory):
            if index % 1000 == 0:
                bar.update(index - bar.pos)
            yield read_event(name, index, record)
        bar.update(size - bar.pos)
