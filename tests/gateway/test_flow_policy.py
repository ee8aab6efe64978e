"""D10, G5: what was read decides by a rule of the policy, with every detector and every flow rule switched off."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.running import ISSUER, META, Running, running
from limen.adapters.sqlite import SqliteTable
from limen.core.call import Call, Caller, Context, Era, FlowState, Presented
from limen.core.chain import Chain
from limen.core.verdict import Pass, Refusal, Verdict
from limen.detection.dataflow import Labels, Read
from limen.detection.flow import ReadFlow, Watch
from limen.detection.labels import Label
from limen.detection.settings import ContentSettings
from limen.posture import CALL

OFF = {
    "unsafe_observe": ["arguments", "results", "messages", "definitions"],
    "flow": {"unsafe_observe": True},
    "spotlight": "off",
    "defuse": "off",
    "servers": {"two": {"trusted": True, "labels": {"reads": ["private"]}}},  # "one" holds what strangers write
}
RULES = {
    "rules": [
        {"allow": "anyone", "call": "*/*", "scopes": ["use"]},
        {"deny": "anyone", "call": "one/publish", "when": "context.flow.untrusted && context.flow.private"},
    ]
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory, tools = tmp_path_factory.mktemp("flow"), ("echo", "publish")
    with running(directory, extra=("publish",), tools=tools, content=OFF, policy=RULES) as started:
        yield started


def call(gateway: Running, subject: str, server: str, tool: str) -> tuple[int, str]:
    status, body = gateway.call(tool, gateway.token(subject, server), server)
    return status, json.dumps(body)


def published(gateway: Running) -> int:
    return sum(b'"tools/call"' in body and b'"publish"' in body for _, body in gateway.recorder.seen)


def listed(gateway: Running, subject: str) -> list[str]:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
    headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/list"}
    _, _, body = gateway.post(message, gateway.token(subject), "one", **headers)
    return sorted(one["name"] for one in body["result"]["tools"])


def explained(gateway: Running, *more: str) -> tuple[int, dict[str, Any]]:
    argv = ["policy", "explain", "one", "publish", "--issuer", ISSUER, "--scope", "use", "--json", *more]
    try:
        return 0, json.loads(gateway.limen(*argv))
    except subprocess.CalledProcessError as failed:
        return failed.returncode, json.loads(failed.stdout)


def test_exfiltration_by_way_of_an_issue_is_stopped_by_one_line_g5(gateway: Running) -> None:
    assert call(gateway, "mallet", "one", "echo")[0] == 200  # a stranger's issue with orders in it
    assert call(gateway, "mallet", "two", "echo")[0] == 200  # the private repository they send the model to
    shown, before = listed(gateway, "mallet"), published(gateway)
    status, body = call(gateway, "mallet", "one", "publish")
    assert (status, published(gateway)) == (403, before)
    assert "Denied by policy" in body and "private" not in body and "rule" not in body
    assert listed(gateway, "mallet") == shown and "publish" in shown
    refused = [one for one in gateway.records("refusal") if one.get("sub") == "mallet"]
    assert "rule-2" in refused[-1]["detail"] and "has read: untrusted, private" in refused[-1]["detail"]
    assert call(gateway, "mallet", "one", "echo")[0] == 200  # what is not the way out goes on


def test_the_same_order_of_calls_without_one_of_the_two_passes_g5(gateway: Running) -> None:
    assert call(gateway, "ann", "one", "publish")[0] == 200
    assert call(gateway, "ann", "one", "echo")[0] == 200
    assert call(gateway, "ann", "one", "publish")[0] == 200
    assert call(gateway, "bob", "two", "echo")[0] == 200
    status, body = call(gateway, "bob", "one", "publish")
    assert (status, "ran publish" in body) == (200, True)


def test_explain_shows_the_reads_that_led_there_until_an_operator_clears_them(gateway: Running) -> None:
    for server in ("one", "two"):
        call(gateway, "eve", server, "echo")
    status, told = explained(gateway, "--user", "eve")
    assert (status, told["reason"], told["flow"]["read"]) == (1, "policy.denied", ["untrusted", "private"])
    assert told["flow"]["from"] == "recorded"
    assert "from one/echo (definition " in told["flow"]["chain"] and "from two/echo" in told["flow"]["chain"]
    argv = [*_limen(gateway), "policy", "explain", "one", "publish", "--issuer", ISSUER, "--user", "eve"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout
    assert "the caller has read: untrusted, private (recorded)" in said and "private since" in said
    assert explained(gateway, "--user", "eve", "--flow", "none")[0] == 0
    assert explained(gateway, "--user", "nobody", "--flow", "private,untrusted")[1]["flow"]["from"] == "given"
    assert explained(gateway, "--user", "nobody")[0] == 0
    assert call(gateway, "eve", "one", "publish")[0] == 403
    gateway.limen("labels", "clear", "eve", "--issuer", ISSUER, "--label", "private", "--reason", "looked at")
    gateway.until(lambda: call(gateway, "eve", "one", "publish")[0] == 200)


def _limen(gateway: Running) -> list[str]:

    return [sys.executable, "-m", "limen", "-c", str(gateway.config)]


class Knows:
    needs: tuple[type, ...] = ()
    gives = (Caller,)

    def check(self, context: Context) -> Verdict:
        return Pass((Caller("i", "alice"),))


def walk(guard: ReadFlow) -> FlowState | Refusal:

    call = Call("tools/call", "s", "s", Era.MODERN, "x", 1, "t")
    context = Context(call, Presented(), time.monotonic() + 5, "ref")
    walked = asyncio.run(Chain([Knows(), guard], [Caller, FlowState]).run(context))
    return walked.get(FlowState) if isinstance(walked, Context) else walked[0]


def test_labels_that_cannot_be_read_refuse_every_name_alike_d10(tmp_path: Path) -> None:
    table = SqliteTable(tmp_path / "labels.db", "labels")
    labels = Labels(table, table.change_token)
    settings = {"flow": {"callers": [{"user": "alice", "reads": ["untrusted"]}]}}
    watch = Watch(ContentSettings.model_validate(settings), labels)
    assert walk(ReadFlow(watch, asked=False)) == FlowState()
    assert walk(ReadFlow(watch, asked=True)) == FlowState(untrusted=True)  # by what the caller is
    labels.add(("i", "alice"), Read("s", "tool", "t", "d", frozenset({Label.SECRET})))
    assert walk(ReadFlow(watch, asked=True)) == FlowState(True, True, True)  # what is secret is private as well
    table.close()
    fresh = ReadFlow(Watch(ContentSettings.model_validate(settings), Labels(table)), asked=True)
    refusal = walk(fresh)
    assert isinstance(refusal, Refusal) and refusal.reason.id in ("fault.dependency", "fault.guard")
    assert walk(ReadFlow(watch, asked=False)) == FlowState()  # no rule asks: nobody waits for labels
    names = [guard.__name__ for guard in CALL]
    assert names.index("ReadFlow") < names.index("Resolve")  # an outage does not tell which names exist
