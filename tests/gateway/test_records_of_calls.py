"""I1: what the log holds of a call: each record says by itself who, what, by which rules, and what came of it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.inhouse import Inhouse, lived
from limen.audit.read import read
from limen.audit.verify import verify
from limen.core.call import Peer, Presented
from limen.core.faults import DependencyFault, UpstreamFault
from limen.core.verdict import Refusal
from limen.records import uri_digest

SHARED = (
    "iss", "sub", "client", "token", "session", "peer", "ref", "server", "method", "name", "args", "in", "revision",
    "agent", "trace", "upstream", "tool", "digest", "drifted", "decision", "rules", "policy", "catalog", "credential",
)  # fmt: skip
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_I1_an_outcome_says_by_itself_who_and_what(tmp_path: Path) -> None:
    """I1: intent and outcome carry the same who, what and why; the outcome sizes, time and what came of it."""

    async def work(inhouse: Inhouse) -> None:
        await inhouse.call(arguments={"text": "four"}, trace={"traceparent": TRACE}, client="desk 1")

    inhouse = lived(tmp_path, work)
    intent, outcome = (one for one in inhouse.records if one["t"] in ("intent", "outcome"))
    assert {name: intent[name] for name in SHARED} == {name: outcome[name] for name in SHARED}
    assert (outcome["sub"], outcome["tool"], outcome["trace"]) == ("ann", "echo", TRACE)
    event = inhouse.of("call.outcome")[0]
    assert event.reason == "ok"
    assert event.received == len(b'{"text":"four"}')
    assert event.sent is not None and event.sent >= len(b'{"content":[{"type":"text","text":"hello"}]}')
    assert event.ms is not None and event.ms >= 0
    assert event.args == sha256(b'{"text":"four"}').hexdigest()
    assert event.rules and event.digest and event.policy and event.catalog
    assert "four" not in orjson.dumps(inhouse.records).decode()


def test_I1_a_tool_that_failed_and_what_was_read(tmp_path: Path) -> None:
    """I1: `isError`, and the URIs in a result: by their digests unless the operator wants them plain."""
    uri = "file:///reports/ann.txt"
    answer = {"content": [
        {"type": "resource", "resource": {"uri": uri, "text": "r"}},
        {"type": "resource_link", "uri": "file:///other", "name": "other"}, {"type": "text", "text": "t"},
    ], "isError": True}  # fmt: skip

    async def work(inhouse: Inhouse) -> None:
        inhouse.behind.answer = answer
        await inhouse.call()

    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    record = lived(tmp_path / "one", work).of("call.outcome")[0].record
    assert record["isError"] is True
    assert record["resources"] == [uri_digest(uri), uri_digest("file:///other")]
    plain = lived(tmp_path / "two", work, "audit: {resources: plain}\n").of("call.outcome")[0].record
    assert plain["resources"] == [uri, "file:///other"]


def test_I1_failures_are_outcomes_of_the_same_call(tmp_path: Path) -> None:
    """I1: a server that fails leaves an outcome with the same who and what, graver than one that went well."""

    async def work(inhouse: Inhouse) -> None:
        inhouse.behind.answer = UpstreamFault("up", "gone")
        assert isinstance(await inhouse.call(), Refusal)

    (event,) = lived(tmp_path, work).of("call.outcome")
    assert (event.reason, event.severity, event.subject, event.name) == ("fault.upstream", "medium", "ann", "echo")
    assert event.sent is None


def test_I1_refusals_carry_what_was_known(tmp_path: Path) -> None:
    """I1: a refusal names the definition and rules where they were found out; one without a caller names the peer."""

    async def work(inhouse: Inhouse) -> None:
        held = await inhouse.call("send")
        assert isinstance(held, Refusal) and held.reason.id == "policy.approval"
        await inhouse.call(who=Presented(), peer=Peer("http", "192.0.2.7"))

    held, stranger = lived(tmp_path, work).of("call.refused")
    assert (held.category, held.subject, held.server, held.name, held.decision) == (
        "authorization", "ann", "up", "send", "deny",
    )  # fmt: skip
    assert held.digest and held.rules and held.catalog and held.record["upstream"] == "up"
    assert (stranger.category, stranger.subject, stranger.peer) == ("authentication", "", "192.0.2.7")


def test_I1_an_approval_that_was_used_up_stands_with_the_call(tmp_path: Path) -> None:
    """I1: who said yes stands in both records of the call that it let through."""
    from limen.policy.approval import approve

    async def work(inhouse: Inhouse) -> None:
        held = await inhouse.call("send")
        approve(inhouse.house.state.approvals, held.public["approval"], "carol")
        assert not isinstance(await inhouse.call("send"), Refusal)

    inhouse = lived(tmp_path, work)
    for type in ("call.intent", "call.outcome"):
        (event,) = inhouse.of(type)
        assert event.record["approved_by"] == "carol"
        assert event.record["approval"]


def test_I1_the_first_use_of_a_credential_is_an_event_and_the_second_is_none(tmp_path: Path) -> None:
    """I1: `authenticated` comes once for each credential in a process, with the reference of the call it came with."""

    async def work(inhouse: Inhouse) -> None:
        for _ in range(3):
            await inhouse.call(trace={"traceparent": TRACE})
        await inhouse.call(who=Presented(local_user="bob", private=True))
        await inhouse.call(who=Presented(), peer=Peer("http", "192.0.2.7"))  # nobody: no authentication

    inhouse = lived(tmp_path, work)
    first, second = inhouse.of("authenticated")
    assert (first.subject, second.subject, first.issuer) == ("ann", "bob", "local")
    assert first.ref == inhouse.of("call.intent")[0].ref
    assert first.trace == TRACE
    assert first.category == "authentication"


def test_I1_what_cannot_be_recorded_does_not_happen(tmp_path: Path) -> None:
    """I1/OP: with a log that takes nothing, a new credential is refused, and is recorded when the log works again."""

    async def work(inhouse: Inhouse) -> None:
        log, broken = inhouse.house.engine.log, True

        class Broken:
            def append(self, record: bytes) -> int:
                if broken:
                    raise DependencyFault("audit", "disk full")
                return log.append(record)

            def defer(self, record: bytes) -> None:
                log.defer(record)

            async def durable(self, index: int) -> None:
                await log.durable(index)

        inhouse.house.engine.log = Broken()
        refused = await inhouse.call()
        assert isinstance(refused, Refusal) and refused.reason.id == "fault.audit"
        broken = False
        assert not isinstance(await inhouse.call(), Refusal)

    inhouse = lived(tmp_path, work)
    assert len(inhouse.of("authenticated")) == len(inhouse.of("call.outcome")) == 1


EVIL = ['a\r\n{"t":"released"}', "\x1b[2J\x1b]0;owned\x07", '","t":"stop","x":"', "\u2028\u2029\x00", "%0d%0a"]


@pytest.mark.parametrize("evil", EVIL)
def test_OP01_log_injection_stays_one_record(tmp_path: Path, evil: str) -> None:
    """OP-01: names, arguments, agents and traces that hold line breaks, control sequences or the end of a text."""

    async def work(inhouse: Inhouse) -> None:
        await inhouse.call(evil)  # a name nobody knows
        await inhouse.call(arguments={"text": evil}, client=evil, trace={"traceparent": evil})
        await inhouse.call(who=Presented(), peer=Peer("http", evil))
        inhouse.behind.answer = {"content": [{"type": "resource_link", "uri": f"file:///{evil}", "name": evil}]}
        await inhouse.call()
        inhouse.behind.answer = UpstreamFault("up", evil)
        await inhouse.call()

    inhouse = lived(tmp_path, work, "audit: {resources: plain, parameters: redacted}\n")
    raw = [record for _, record in read(inhouse.config.audit.path, 0)]
    assert all(b"\n" not in record and b"\r" not in record and b"\x1b" not in record for record in raw)
    kinds = [event.type for event in inhouse.events if event.type.startswith(("call.", "stop", "released"))]
    assert kinds == [
        "call.refused", "call.intent", "call.outcome", "call.refused", "call.intent", "call.outcome", "call.intent",
        "call.outcome",
    ]  # fmt: skip
    key = (inhouse.config.audit.key.with_name(inhouse.config.audit.key.name + ".pub")).read_text().strip()
    assert verify(inhouse.config.audit.path, key).ok


def test_I1_a_call_answered_here(tmp_path: Path) -> None:
    """I1: lists and pings are records too, with who and under which policy."""

    async def work(inhouse: Inhouse) -> None:
        await inhouse.call("", method="tools/list", arguments={})

    (event,) = lived(tmp_path, work).of("call.local")
    assert (event.subject, event.method, event.decision) == ("ann", "tools/list", "allow")
    assert event.policy and event.catalog


def test_readers_of_records_still_read_them(tmp_path: Path) -> None:
    """Access reviews count a call once, though its outcome names caller and policy as well."""
    from limen.policy.usage import Usage

    async def work(inhouse: Inhouse) -> None:
        for _ in range(3):
            await inhouse.call()

    inhouse = lived(tmp_path, work)
    digest = inhouse.of("call.intent")[0].digest
    approved = [one for one in _approved(inhouse) if one.digest == digest]
    usage = Usage(approved, inhouse.of("call.intent")[0].policy, 0.0, 1e12)
    for _, record in read(inhouse.config.audit.path, 0):
        usage.absorb(record)
    assert [use.count for use in usage.uses.values()] == [3]
    assert usage.unreadable == 0


def _approved(inhouse: Inhouse) -> Any:
    return inhouse.house.corridor.catalog.approved("up", "tool")
