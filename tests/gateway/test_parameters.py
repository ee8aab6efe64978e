"""I1: arguments in the log by policy: a digest, or without what is private, or sealed under their caller's key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from gateway.inhouse import Inhouse, lived
from limen.audit.parameters import SEALED, SHOWN, Parameters, opened
from limen.audit.read import read
from limen.audit.verify import verify
from limen.cli.main import app
from limen.core.call import Call, Caller, Era, Presented
from limen.core.faults import DependencyFault
from limen.core.verdict import Refusal
from limen.opening import open_vault
from limen.storage import State

SECRET = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
PRIVATE = {"text": f"use {SECRET} now", "card": 4111111111111111, "deep": [{"password": "hunter2-Very-Long"}], "n": 7}
BOB = Presented(local_user="bob", private=True)


def raw(inhouse: Inhouse) -> bytes:
    return b"\n".join(record for _, record in read(inhouse.config.audit.path, 0))


def kept(inhouse: Inhouse) -> list[Any]:
    return [event.record.get("parameters") for event in inhouse.of("call.intent")]


def command(inhouse: Inhouse, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["-c", str(inhouse.file), *arguments])
    return result.exit_code, result.output


def test_I1_by_default_nothing_but_a_digest_is_kept(tmp_path: Path) -> None:
    async def work(inhouse: Inhouse) -> None:
        await inhouse.call(arguments={"text": "only-here"})

    inhouse = lived(tmp_path, work)
    assert kept(inhouse) == [None]
    assert b"only-here" not in raw(inhouse)
    status, said = command(inhouse, "audit", "parameters", inhouse.of("call.intent")[0].ref, "--reason", "test")
    assert (status, "only the digest" in said) == (1, True)


def test_I1_redacted_holds_what_is_harmless_and_nothing_private(tmp_path: Path) -> None:
    """The attack: a secret, a card number as a number and a password in a member. The honest twin stays readable."""

    async def work(inhouse: Inhouse) -> None:
        redact = inhouse.house.plan_in_force.inspection.redacted
        parameters = Parameters("redacted", {}, redact, lambda: None)
        call = Call("tools/call", "up", "up", Era.MODERN, "2026-07-28", 1, "echo", orjson.dumps(PRIVATE))
        found = await parameters.of(call, "up", Caller("local", "ann"), "r1")
        for value in (SECRET, "4111111111111111", "hunter2"):
            assert value not in found["value"], value
        assert '"n":7' in found["value"]
        assert "now" in found["value"]
        await inhouse.call(arguments={"text": "harmless"})

    inhouse = lived(tmp_path, work, "audit: {parameters: redacted}\n")
    assert kept(inhouse) == [{"kind": "redacted", "value": '{"text":"harmless"}', "size": 19}]


def test_I1_redacted_is_bounded(tmp_path: Path) -> None:
    async def work(inhouse: Inhouse) -> None:
        await inhouse.call(arguments={"text": "word " * 2000})

    (found,) = kept(lived(tmp_path, work, "audit: {parameters: redacted}\n"))
    assert found["cut"] is True
    assert len(found["value"]) == SHOWN


def test_I1_a_server_has_a_say_of_its_own(tmp_path: Path) -> None:
    async def work(inhouse: Inhouse) -> None:
        parameters = Parameters("digest", {"up": "redacted"}, lambda text, name: text, lambda: None)
        assert parameters.kept("up")
        assert not parameters.kept("other")

    lived(tmp_path, work)


def test_I1_encrypted_opens_for_an_operator_until_its_callers_key_is_destroyed(tmp_path: Path) -> None:
    """I1: sealed by caller and call; reading them is an event; shredding one person leaves the other, and the log
    verifies as before."""

    async def work(inhouse: Inhouse) -> None:
        await inhouse.call(arguments={"text": "of-ann"})
        await inhouse.call(arguments={"text": "of-bob"}, who=BOB)

    inhouse = lived(tmp_path, work, "audit: {parameters: encrypted}\n")
    assert b"of-ann" not in raw(inhouse)
    ann, bob = (event.ref for event in inhouse.of("call.intent"))
    read_ann = ("audit", "parameters", ann, "--reason", "incident 12", "--by", "carol")
    assert command(inhouse, "audit", "parameters", ann)[0] == 1, "a reason is asked for"
    status, said = command(inhouse, *read_ann, "--json")
    assert (status, orjson.loads(said)["parameters"]) == (0, '{"text":"of-ann"}')
    told = [orjson.loads(value) for _, value in State.open(inhouse.config).told.scan("")]
    assert [(one["event"], one["act"], one["ref"], one["by"], one["subject"]) for one in told] == [
        ("parameters", "read", ann, "carol", "ann")
    ]
    shred = ("vault", "shred", "ann", "--issuer", "local", "--yes", "--reason", "left")
    assert command(inhouse, *shred)[0] == 0
    status, said = command(inhouse, *read_ann)
    assert (status, "of-ann" in said) == (1, False)
    assert command(inhouse, "audit", "parameters", bob, "--reason", "x")[1].strip() == '{"text":"of-bob"}'
    key = inhouse.config.audit.key.with_name(inhouse.config.audit.key.name + ".pub").read_text().strip()
    assert verify(inhouse.config.audit.path, key).ok
    assert command(inhouse, "audit", "parameters", "0" * 16, "--reason", "x")[0] == 1


def test_I1_what_was_sealed_for_one_call_opens_for_no_other(tmp_path: Path) -> None:
    """The attack: sealed arguments under another reference or another caller's name. The honest twin opens."""

    async def work(inhouse: Inhouse) -> None:
        await inhouse.call(arguments={"text": "of-ann"})

    inhouse = lived(tmp_path, work, "audit: {parameters: encrypted}\n")
    record = dict(inhouse.of("call.intent")[0].record)
    vault = open_vault(inhouse.config, State.open(inhouse.config))
    assert opened(record, lambda: vault) == b'{"text":"of-ann"}'
    for changed in ({"ref": "f" * 16}, {"sub": "bob"}, {"parameters": {**record["parameters"], "value": "%%"}}):
        with pytest.raises(DependencyFault):
            opened({**record, **changed}, lambda: vault)


def test_I1_what_cannot_be_sealed_is_not_sent(tmp_path: Path) -> None:
    async def work(inhouse: Inhouse) -> None:
        inhouse.house.vault = None
        refused = await inhouse.call()
        assert isinstance(refused, Refusal)
        assert refused.reason.id == "fault.audit"

    assert lived(tmp_path, work, "audit: {parameters: encrypted}\n").of("call.intent") == []


def test_I1_the_largest_arguments_fit_a_record(tmp_path: Path) -> None:
    async def work(inhouse: Inhouse) -> None:
        assert not isinstance(await inhouse.call(arguments={"text": "a b " * 15_000}), Refusal)

    inhouse = lived(tmp_path, work, "audit: {parameters: encrypted}\n")
    (found,) = kept(inhouse)
    assert found["cut"] is True
    assert found["size"] > SEALED
    status, said = command(inhouse, "audit", "parameters", inhouse.of("call.intent")[0].ref, "--reason", "x")
    assert (status, "only the beginning" in said) == (0, True)
