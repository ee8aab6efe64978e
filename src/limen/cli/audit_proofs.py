"""`limen audit prove`, `verify-proof`, `witness`: what convinces somebody who has only the public key."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from limen.cli.audit import DirectoryOption, file_bytes, key_text, log_key
from limen.cli.context import ConfigOption, JsonOption, Misused, Refused, load, opened
from limen.cli.terminal import emit, line

KeyOption = Annotated[str, typer.Option(help="Verifier key name+hash+key, or @FILE.")]


def prove(
    context: typer.Context,
    record: Annotated[str, typer.Argument(help="LOG:INDEX, or INDEX in the log that is here.")],
    since: Annotated[
        int | None, typer.Option(min=0, help="Instead: that the log continues its first so many records.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the proof here; default: standard output.")] = None,
    directory: DirectoryOption = None,
    key: Annotated[str, typer.Option(help="Verifier key, or @FILE; default: beside the signing key.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that a record is in the signed log (c2sp.org/tlog-proof), or with --since that the log only grew.

    Example: limen audit prove limen:1234 --out record.tlog-proof
    """
    from limen.audit.proofs import Prover, Unprovable

    settings = None if directory is not None and key else load(context, config).config.audit
    place = directory or (settings.path if settings else Path())
    known = log_key(settings, key, place)
    name, _, number = record.rpartition(":")
    if not number.isdigit() or len(number) > 18 or (name and name != known.name):
        raise Misused(f"{record}: say {known.name}:INDEX")
    try:
        prover = Prover(place, known)
        if since is not None:
            root, hashes = prover.consistency(since)
            answer: dict[str, Any] = {
                "log": known.name,
                "from": since,
                "root": root.hex(),
                "to": prover.checkpoint.size,
            }
            answer |= {"hashes": [base64.b64encode(one).decode() for one in hashes], "checkpoint": prover.note.decode()}
            text = orjson.dumps(answer, option=orjson.OPT_INDENT_2) + b"\n"
        else:
            proof = prover.prove(int(number))
            text, answer = proof.text(), {"log": known.name, "index": proof.index}
            answer |= {"hashes": [base64.b64encode(one).decode() for one in proof.hashes]}
            answer |= {"checkpoint": proof.checkpoint.decode(), "record": proof.record.decode("utf-8", "replace")}
    except Unprovable as fault:
        raise Refused(str(fault)) from None
    if out is not None:
        out.write_bytes(text)
    if as_json:
        emit(answer)
    elif out is not None:
        line(f"{out}: verify with `limen audit verify-proof {out} --key {prover.key.text}`")
    else:
        typer.echo(text.decode(), nl=False)


def verify_proof(
    file: Annotated[Path, typer.Argument(help="The proof.")],
    key: KeyOption,
    as_json: JsonOption = False,
) -> None:
    """Check a proof with nothing but the log's public key, and show the record; status 1 if it does not hold.

    Example: limen audit verify-proof record.tlog-proof --key @limen.pub
    """
    from limen.audit.note import NoteError, parse_verifier_key
    from limen.audit.proofs import check_proof, read_proof

    try:
        known = parse_verifier_key(key_text(key))
    except NoteError as fault:
        raise Misused(f"--key: {fault}") from None
    try:
        proof = read_proof(file_bytes(file))
        checkpoint = check_proof(proof, known)
    except NoteError as fault:
        raise Refused(f"NOT proven: {fault}") from None
    record = proof.record.decode("utf-8", "replace")
    if as_json:
        emit({"ok": True, "log": checkpoint.origin, "index": proof.index, "size": checkpoint.size, "record": record})
        return
    line(f"proven: record {proof.index} of the {checkpoint.size} that {checkpoint.origin} signed")
    line(record)


def witness(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Where to write it: best on another machine.")],
    directory: Annotated[
        list[Path] | None, typer.Option(help="A log that is here; default: all logs the storage knows.")
    ] = None,
    every: Annotated[float | None, typer.Option(min=1, help="Again and again, so many seconds apart.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """State, signed, how far all logs are, continuing the statement in the file; status 1 if one was set back.

    Example: limen audit witness --out witness.note --every 60
    """
    while True:
        _state_once(context, out, directory or [], config, as_json)
        if every is None:
            return
        time.sleep(every)


def _state_once(context: typer.Context, out: Path, directories: list[Path], config: Path | None, as_json: bool) -> None:
    from limen.audit.logs import Head, Logs, head_of
    from limen.audit.note import NoteError, parse_verifier_key
    from limen.audit.proofs import Unprovable
    from limen.audit.publish import write_apart
    from limen.audit.witness import RolledBack, advance, read_statement, sign_statement
    from limen.opening import open_signer

    with opened(context, config) as (settings, state):
        signer = open_signer(settings)
        known = parse_verifier_key(signer.verifier_key)
        before = file_bytes(out) if out.exists() else b""
        try:
            last = read_statement(before, known) if before else None
            heads = list[Head]()
            for one in directories:
                key = log_key(settings.audit, "", one)
                seen = last.seen(key.name) if last is not None else None
                heads.append(head_of(one, key, 0 if seen is None else seen.size))
            statement = advance(before, known, heads or Logs(state.logs).every(), time.time())
        except (RolledBack, NoteError, Unprovable) as fault:
            raise Refused(f"NOT witnessed: {fault}") from None
        write_apart(out.absolute().parent, out.name, sign_statement(signer, statement))
    logs = {name: seen.size for name, seen in statement.logs}
    if as_json:
        emit({"number": statement.number, "previous": statement.previous, "logs": logs})
    else:
        line(f"statement {statement.number}: " + ", ".join(f"{name} {size}" for name, size in logs.items()))
