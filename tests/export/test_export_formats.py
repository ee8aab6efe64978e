"""I3: events leave in forms others can read: valid by their own schemas, provable, and safe to put into a line."""

from __future__ import annotations

import base64
import hmac
from functools import cache
from hashlib import sha256
from typing import Any

import orjson
import pytest
from jsonschema_rs import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
from prometheus_client.parser import text_string_to_metric_families

from export.following import entry, outcome
from limen.adapters.sink_http import batch_id, sign
from limen.audit.exposition import MOST_SERIES, Counts, Gauge
from limen.audit.lines import cef, framed, json_record, syslog
from limen.audit.ocsf import VERSION, ocsf
from limen.audit.semantics import span_attributes, span_name, trace_of
from limen.audit.tree import leaf_hash

NAMES = {
    6003: "api_activity", 3002: "authentication", 2004: "detection_finding", 2005: "incident_finding",
    3004: "entity_management",
}  # fmt: skip
RECORDS: tuple[tuple[int, dict[str, Any]], ...] = (
    (6003, outcome(1)),
    (6003, outcome(2, method="resources/read", name="file:///a", trace="")),
    (6003, {"t": "local", "ts": 1.0, "ref": "r", "method": "tools/list", "peer": "stdio"}),
    (
        6003,
        {
            "t": "refusal",
            "ts": 1.0,
            "ref": "r",
            "reason": "policy.denied",
            "decision": "deny",
            "method": "tools/call",
            "server": "files",
            "name": "delete",
            "sub": "bob",
            "iss": "i",
            "peer": "2001:db8::1",
            "detail": "no rule",
        },
    ),
    (6003, {"t": "refusal", "reason": "wire.not_json", "peer": "192.0.2.1", "server": "files", "ts": 1.0}),
    (3002, {"t": "refusal", "ts": 1.0, "reason": "identity.invalid", "peer": "192.0.2.1", "decision": "deny"}),
    (3002, {"t": "authenticated", "ts": 1.0, "iss": "i", "sub": "ann", "client": "desk", "session": "s"}),
    (3002, {"t": "session", "act": "ended", "ts": 1.0, "sub": "ann", "iss": "i"}),
    (
        2004,
        {
            "t": "refusal",
            "ts": 1.0,
            "reason": "content.blocked",
            "decision": "deny",
            "method": "tools/call",
            "server": "files",
            "name": "x",
            "risk": 0.91,
            "findings": ["secret.aws_key"],
            "sub": "bob",
            "iss": "i",
        },
    ),
    (
        2004,
        {
            "t": "signal",
            "ts": 1.0,
            "about": "caller",
            "value": "i\0bob",
            "source": "behaviour",
            "score": 0.7,
            "why": "14 times the usual volume",
            "event": "limen:7",
            "seconds": 3600,
        },
    ),
    (
        2004,
        {
            "t": "alert",
            "ts": 1.0,
            "id": "a1",
            "rule": "token-replay",
            "severity": "high",
            "title": "Token replayed",
            "about": "caller",
            "group": "g",
            "count": 3,
            "events": ["limen:1"],
        },
    ),
    (2004, {"t": "finding", "ts": 1.0, "server": "files", "detail": "shadowed tool"}),
    (
        2005,
        {"t": "incident", "act": "opened", "ts": 1.0, "id": "inc1", "title": "Exfiltration", "severity": "critical"},
    ),
    (2005, {"t": "incident", "act": "closed", "ts": 1.0, "id": "inc1", "by": "ann"}),
    (2005, {"t": "playbook", "act": "run", "ts": 1.0, "id": "p", "playbook": "token-theft", "incident": "inc1"}),
    (3004, {"t": "contained", "ts": 1.0, "id": "c", "action": "stop_all", "value": "*", "by": "ann", "reason": "fire"}),
    (3004, {"t": "released", "ts": 1.0, "id": "c", "action": "stop_all", "value": "*", "by": "ann"}),
    (
        3004,
        {
            "t": "catalog",
            "change": "approved",
            "ts": 1.0,
            "server": "files",
            "name": "read",
            "digest": "d",
            "by": "ann",
        },
    ),
    (3004, {"t": "follower", "act": "behind", "ts": 1.0, "name": "siem", "severity": "high", "detail": "refused"}),
    (3004, {"t": "start", "ts": 1.0, "version": "1"}),
    (3004, {"t": "recovered", "detail": "the log was cut to its last whole record"}),
    (3004, {"t": "never heard of", "ts": 1.0, "odd": [1, {"a": None}]}),
)


@cache
def published() -> OcsfJsonSchemaEmbedded:
    return OcsfJsonSchemaEmbedded(get_ocsf_schema(VERSION))


@cache
def validator(name: str, profiles: tuple[str, ...]) -> Draft202012Validator:
    return Draft202012Validator(published().get_class_schema(name, list(profiles)))


@pytest.mark.parametrize(
    ("number", "record"), RECORDS, ids=lambda one: str(one.get("t")) if isinstance(one, dict) else None
)
def test_events_are_valid_by_the_published_schema_of_ocsf(number: int, record: dict[str, Any]) -> None:
    found = orjson.loads(orjson.dumps(ocsf(entry(record, 5))))
    assert (found["class_uid"], found["type_uid"]) == (number, number * 100 + found["activity_id"])
    name = published().lookup_class_name_from_uid(number)
    assert name == NAMES[number]
    errors = [f"{one.instance_path}: {one.message}" for one in
              validator(name, tuple(found["metadata"]["profiles"])).iter_errors(found)]  # fmt: skip
    assert not errors


def test_the_validator_would_notice() -> None:
    found = ocsf(entry(outcome(1)))
    del found["api"]
    assert not validator("api_activity", tuple(found["metadata"]["profiles"])).is_valid(found)


@pytest.mark.parametrize("record", [record for _, record in RECORDS])
def test_nothing_of_a_record_is_lost_and_the_proof_survives(record: dict[str, Any]) -> None:
    one = entry(record, 41, size=77)
    found = ocsf(one)
    proof = found["unmapped"]["proof"]
    assert leaf_hash(found["raw_data"].encode()).hex() == proof["leaf"]
    assert orjson.loads(found["raw_data"]) == record
    assert (proof["origin"], proof["index"], proof["size"]) == ("limen", 41, 77)
    assert found["metadata"]["uid"] == one.id
    assert leaf_hash(json_record(one)["raw"].encode()).hex() == proof["leaf"]


def hostile() -> dict[str, Any]:
    return {
        "t": "refusal",
        "ts": 1.5,
        "ref": "r|1",
        "reason": "policy.denied",
        "decision": "deny",
        "method": "tools/call",
        "sub": "a=b\\",
        "iss": "x",
        "name": "del|ete\nCEF:0|Evil|x|1|1|fake|10| act=allow",
        "agent": 'q"]\\ \r\n<134>1 - - -',
        "server": "f",
        "detail": "line\u2028two\x00 act=allow",
        "peer": "192.0.2.1",
        "findings": ["secret.key"],
        "risk": 0.5,
    }


def extension(line: str) -> dict[str, str]:
    """The fields of a CEF line, read by the rules of its description."""
    import re

    parts = re.split(r"(?<!\\)(?:\\\\)*\|", line, maxsplit=7)
    keys = list(re.finditer(r"(?:^| )([A-Za-z0-9]+)=", parts[7]))
    ends = [one.start() for one in keys[1:]] + [len(parts[7])]
    found = {one[1]: parts[7][one.end() : end] for one, end in zip(keys, ends, strict=True)}
    return {key: re.sub(r"\\(.)", r"\1", value) for key, value in found.items()}


def test_cef_is_one_line_whose_fields_nobody_else_can_write() -> None:
    line = cef(entry(hostile(), 3))
    assert len(line.splitlines()) == 1
    assert line.startswith("CEF:0|Limen|Limen|")
    assert line.split("|")[4:7] == ["call.refused", "call.refused policy.denied", "3"]
    fields = extension(line)
    assert (fields["act"], fields["suser"], fields["src"], fields["cs5Label"]) == ("deny", "a=b\\", "192.0.2.1", "leaf")
    assert fields["fname"].startswith("del|ete CEF:0|Evil")
    assert fields["msg"] == "line two  act=allow"
    assert extension(cef(entry(outcome(1))))["cfp1"] == "12.5"
    assert "c6a2" in extension(cef(entry(outcome(1, peer="2001:db8::1"))))


def test_syslog_is_rfc_5424_and_framed_by_octets() -> None:
    message = syslog(entry(hostile(), 3), "cef", "gate way\n", 77)
    head, _, rest = message.partition(b" [")
    assert head.split(b" ")[:2] == [b"<109>1", b"1970-01-01T00:00:01.500000Z"]  # facility 13, notice
    assert head.split(b" ")[2:] == [b"gateway", b"limen", b"77", b"call.refused"]
    data, _, text = rest.partition(b"] ")
    assert data.startswith(b'limen@32473 id="limen:3:')
    assert text.startswith(b"CEF:0|")
    assert framed(message).startswith(b"%d <109>1 " % len(message))
    assert b"\n" not in message


def test_webhooks_are_signed_as_the_specification_says() -> None:
    key, body = b"k" * 32, b'{"a":1}'
    assert (
        sign(key, "msg_1", 5, body) == "v1," + base64.b64encode(hmac.digest(key, b"msg_1.5." + body, sha256)).decode()
    )
    assert sign(key, "msg_1", 6, body) != sign(key, "msg_1", 5, body)
    one, two = entry(outcome(1), 1), entry(outcome(2), 2)
    assert batch_id([one, two]) == batch_id([one, two]) != batch_id([one])


def test_metrics_are_what_prometheus_reads() -> None:
    counts = Counts(["files"])
    for number in range(3):
        counts.see(entry(outcome(number)).event)
    counts.see(entry(outcome(4, reason="fault.upstream_timeout", ms=70_000)).event)
    counts.see(entry(hostile()).event)
    text = counts.render([Gauge("limen_follower_lag_records", "x", (("follower", 'a"\\\nb'),), 3.0)])
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    found = {(one.name, one.labels.get("reason", ""), one.labels.get("le", "")): one for one in samples}
    calls = found["limen_calls_total", "ok", ""]
    assert calls.value == 3
    assert calls.labels == {"server": "files", "name": "read_file", "method": "tools/call", "reason": "ok"}
    assert found["limen_refusals_total", "policy.denied", ""].value == 1
    assert found["limen_findings_total", "", ""].labels == {"kind": "secret"}
    assert found["mcp_server_operation_duration_seconds_bucket", "", "120.0"].value == 1  # of the one that failed
    assert found["limen_follower_lag_records", "", ""].labels == {"follower": 'a"\\\nb'}


def test_strangers_cannot_make_series() -> None:
    """Names of refused calls, unknown servers and methods never become labels; and there is an end to all of them."""
    counts = Counts(["files"])
    for number in range(5000):
        counts.see(entry({**hostile(), "name": f"n{number}", "method": f"m{number}", "server": f"s{number}"}).event)
        counts.see(entry(outcome(number, server=f"s{number}", upstream="", name=f"n{number}")).event)
        counts.see(entry({"t": "cell", "event": f"e{number}", "ts": 1.0}).event)
        counts.see(entry(outcome(number, name=f"approved{number}")).event)
    text = counts.render()
    assert "n4" not in text
    assert "s49" not in text
    for name in ("limen_calls_total", "limen_refusals_total", "limen_events_total"):
        assert text.count(f"\n{name}{{") <= MOST_SERIES + 1


def test_spans_join_the_callers_trace_and_a_false_one_is_not_believed() -> None:
    event = entry(outcome(1)).event
    trace = trace_of(event)
    assert (trace.trace.hex(), trace.parent.hex()) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert trace_of(event) == trace
    for bad in (
        "",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "x" * 55,
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n",
    ):
        own = trace_of(entry(outcome(1, trace=bad)).event)
        assert own.parent == b""
        assert own.trace != trace.trace
    assert span_name(event) == "tools/call read_file"
    assert span_name(entry(hostile()).event) == "tools/call"
    attributes = span_attributes(event)
    assert (attributes["mcp.method.name"], attributes["gen_ai.tool.name"], attributes["mcp.session.id"]) == (
        "tools/call", "read_file", "ab12",
    )  # fmt: skip
    assert "error.type" not in attributes
    assert span_attributes(entry(hostile()).event)["error.type"] == "policy.denied"
