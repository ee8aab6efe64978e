"""D9: what a server need not know leaves as a token, comes back in clear to whom it may, and dies with its keys."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from limen.adapters.datakeys import FileKeyStore
from limen.core.call import Approved, Call, Caller, Context, Era, Inspected, Presented, Protected
from limen.core.verdict import _SEAL, Pass, Permit, Refuse, Replace, Verdict
from limen.detection.protect import Protector
from limen.detection.settings import ContentSettings
from limen.detection.tokenise import Protect, Reveal
from limen.gateway import eras
from limen.protocol.jsonrpc import canonical

SETTINGS = ContentSettings.model_validate(
    {
        "servers": {
            "crm": {
                "protect": [
                    {"tool": "add_*", "arguments": ["/email", "/people/*/phone"], "kind": "contact"},
                    {"tool": "find", "arguments": ["/email"], "equal": True},
                ],
                "reveal": ["role:support"],
            }
        }
    }
)
ANN = Caller("https://id.example", "ann", roles=frozenset({"support"}))
BOB = Caller("https://id.example", "bob")
EVE = Caller("https://other.example", "eve", roles=frozenset({"support"}))
SEEN: dict[str, Inspected] = {}


def asked(tool: str, arguments: Any, caller: Caller = BOB) -> Context:
    call = Call(
        method="tools/call", server="crm", route="crm", era=Era.MODERN, revision="2026-07-28", name=tool,
        arguments=canonical(arguments),
    )  # fmt: skip
    facts = {Caller: caller, Approved: Approved("crm", "tool", tool, "d", b"{}")}
    return Context(call, Presented(), 1e12, "ref", facts)


def sent(verdict: Verdict) -> Any:
    assert isinstance(verdict, Pass)
    (fact,) = verdict.facts
    assert isinstance(fact, Protected)
    return json.loads(fact.arguments) if fact.arguments else None


def shown(protector: Protector, result: dict[str, Any], caller: Caller) -> tuple[str, str]:
    call = asked("find", {}).call
    facts = {Approved: Approved("crm", "tool", "find", "d", b""), Caller: caller}
    permit = Permit(_SEAL, call, MappingProxyType(facts), "r")
    verdict = Reveal(SETTINGS, protector).check_result(permit, result)
    return json.dumps(verdict.result if isinstance(verdict, Replace) else result), getattr(verdict, "detail", "")


def test_declared_arguments_leave_as_tokens_and_others_as_they_are(tmp_path: Path) -> None:
    protector = Protector(FileKeyStore(tmp_path / "keys"))
    guard = Protect(SETTINGS, protector, SEEN)
    people = [{"phone": "+82-2-555-0101", "name": "Kim"}, {"name": "Lee"}]
    context = asked("add_person", {"email": "kim@example.org", "note": "vip", "people": people})
    arguments = sent(guard.check(context))
    assert "kim@example.org" not in json.dumps(arguments) and "555-0101" not in json.dumps(arguments)
    assert arguments["email"].startswith("lp1.contact.") and arguments["note"] == "vip"
    assert arguments["people"][1] == {"name": "Lee"} and arguments["people"][0]["name"] == "Kim"
    assert SEEN["ref"].findings == ("protected.arguments",)
    assert sent(guard.check(asked("remove", {"email": "kim@example.org"}))) is None  # no rule speaks of this tool
    # What is put on the wire is the token, whatever renders it.
    facts = {Approved: context.get(Approved), Protected: Protected(canonical(arguments))}
    rendered = eras.outgoing(Permit(_SEAL, context.call, MappingProxyType(facts), "r"))
    wire = orjson.dumps(rendered.members)
    assert b"lp1.contact." in wire and b"kim@example.org" not in wire


def test_tokens_come_back_in_clear_to_whom_they_may_and_to_nobody_else(tmp_path: Path) -> None:
    protector = Protector(FileKeyStore(tmp_path / "keys"))
    token = sent(Protect(SETTINGS, protector, SEEN).check(asked("add_x", {"email": "kim@example.org"})))["email"]
    result = {"content": [{"type": "text", "text": f"mail {token} now"}], "structuredContent": {"to": [token]}}
    text, detail = shown(protector, result, ANN)
    assert text.count("kim@example.org") == 2 and "revealed tokens in 2 texts" in detail
    for other in (BOB, EVE):  # without the role; with the role at another issuer
        assert shown(protector, result, other) == (json.dumps(result), "")


def test_equal_texts_give_equal_tokens_only_where_that_is_asked_for(tmp_path: Path) -> None:
    guard = Protect(SETTINGS, Protector(FileKeyStore(tmp_path / "keys")), SEEN)
    for tool, equal in (("find", True), ("add_x", False)):
        tokens = {sent(guard.check(asked(tool, {"email": "kim@example.org"})))["email"] for _ in range(2)}
        assert (len(tokens) == 1) is equal


def test_nothing_leaves_uncovered(tmp_path: Path) -> None:
    protector = Protector(FileKeyStore(tmp_path / "keys"))
    guard = Protect(SETTINGS, protector, SEEN)
    for value in (5, None, {"a": "kim@example.org"}, ["kim@example.org"]):
        assert isinstance(guard.check(asked("add_x", {"email": value})), Refuse)
    for people in ("kim", [{"phone": ["1"]}], ["kim"], [[{"phone": "1"}]]):  # not as declared: it could be anywhere
        assert isinstance(guard.check(asked("add_x", {"people": people})), Refuse)
    assert sent(guard.check(asked("add_x", {"people": {"a": {"phone": "1"}}})))["people"]["a"]["phone"] != "1"
    assert isinstance(Protect(SETTINGS, None, SEEN).check(asked("add_x", {"email": "x"})), Refuse)


def test_destroyed_keys_make_tokens_worthless_and_calls_refused(tmp_path: Path) -> None:
    protector = Protector(FileKeyStore(tmp_path / "keys"))
    guard = Protect(SETTINGS, protector, SEEN)
    token = sent(guard.check(asked("add_x", {"email": "kim@example.org"})))["email"]
    protector.destroy("https://id.example")
    result = {"content": [{"type": "text", "text": token}]}
    assert shown(protector, result, ANN)[0] == json.dumps(result)
    refused = guard.check(asked("add_x", {"email": "kim@example.org"}))
    assert isinstance(refused, Refuse) and "destroyed" in refused.detail
    assert isinstance(guard.check(asked("add_x", {"email": "a@b.example"}, EVE)), Pass)
