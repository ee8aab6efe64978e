"""Arguments are judged by the approved schema, headers by the body, and neither takes long."""

import time

import pytest

from catalog.catalogue import ECHO, GRANT, announce, approved_registry, call, context, reason, tool
from limen.catalog.bounds import MAX_STEPS, UnsafeSchema, compile_schema
from limen.catalog.headers import encode
from limen.catalog.schema import ValidateArguments, param_headers
from limen.core.call import Approved, Era, Peer
from limen.protocol.inbound import decode_header

MIRRORED = tool(
    inputSchema={
        "type": "object",
        "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "count": {"type": ["integer"]},
            "size": {"type": "integer", "x-mcp-header": "Size"},
            "dry": {"type": "boolean", "x-mcp-header": "Dry-Run"},
            "deep": {"type": "object", "properties": {"zone": {"type": "string", "x-mcp-header": "Zone"}}},
        },
    }
)


def judge(definition, given, kind="tool", name="echo", **rest):
    catalog = (
        approved_registry(definition, **rest).snapshot() if kind == "tool" else approved_registry(**rest).snapshot()
    )
    approved = catalog.find("s", kind, name)
    assert approved is not None
    return ValidateArguments(catalog).check(context(given, approved, GRANT))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"text": "hi"}, "pass"),
        ({"text": "hi", "more": 1}, "pass"),
        ({"text": 5}, "catalog.arguments"),
        ({}, "catalog.arguments"),
        (None, "catalog.arguments"),
        ({"text": None}, "catalog.arguments"),
    ],
)
def test_arguments_fit_the_approved_schema(arguments, said):
    assert reason(judge(ECHO, call(arguments=arguments))) == said


def test_the_detail_is_a_path_and_never_a_value():
    verdict = judge(ECHO, call(arguments={"text": ["secret-value"]}))
    assert verdict.detail == "/text: type"
    assert "secret" not in repr(verdict)


def test_after_a_rug_pull_the_approved_schema_still_decides():
    made = approved_registry(ECHO)
    made.observe(announce(tool(inputSchema={"type": "object", "properties": {"text": {"type": "integer"}}})))
    catalog = made.snapshot()
    guard, approved = ValidateArguments(catalog), catalog.find("s", "tool", "echo")
    assert reason(guard.check(context(call(arguments={"text": "x"}), approved, GRANT))) == "pass"
    assert reason(guard.check(context(call(arguments={"text": 1}), approved, GRANT))) == "catalog.arguments"


def test_a_fact_of_another_catalog_is_no_proof():
    catalog = approved_registry(ECHO).snapshot()
    forged = Approved("s", "tool", "echo", "0" * 64, b'{"inputSchema":{"type":"object"}}')
    assert reason(ValidateArguments(catalog).check(context(call(arguments={}), forged, GRANT))) == "catalog.drifted"


def test_draft_07_means_what_it_meant():
    old = tool(
        inputSchema={
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "object",
            "properties": {"pair": {"type": "array", "items": [{"type": "string"}, {"type": "integer"}]}},
        }
    )
    assert reason(judge(old, call(arguments={"pair": ["a", 1]}))) == "pass"
    assert reason(judge(old, call(arguments={"pair": [1, "a"]}))) == "catalog.arguments"


def nested(levels):
    value = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def test_a_recursive_schema_runs_as_deep_as_it_is_cheap():
    chain = tool(inputSchema={"type": "object", "properties": {"a": {"$ref": "#"}}})
    assert reason(judge(chain, call(arguments=nested(60)))) == "pass"
    double = {"type": "object", "allOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]}
    assert reason(judge(tool(inputSchema=double), call(arguments=nested(4)))) == "pass"
    verdict = judge(tool(inputSchema=double), call(arguments=nested(60)))
    assert reason(verdict) == "catalog.arguments"
    assert "nested deeper" in verdict.detail


def test_patterns_are_linear_and_multiplying_references_are_refused():
    evil = compile_schema({"type": "object", "properties": {"t": {"type": "string", "pattern": "^(a+)+$"}}})
    started = time.process_time()
    assert not evil.accepts({"t": "a" * 200_000 + "!"})
    fast = time.process_time() - started
    calibrated = time.process_time()
    sum(range(5_000_000))
    assert fast < 20 * (time.process_time() - calibrated)
    defs = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 3} for n in range(12)}
    with pytest.raises(UnsafeSchema, match="multiply"):
        compile_schema({"$ref": "#/$defs/d0", "$defs": {**defs, "d12": {}}})
    assert MAX_STEPS < 3**12


def headers(**given):
    return tuple((f"mcp-param-{name.replace('_', '-')}", value) for name, value in given.items())


BODY = {"region": "eu", "size": 42, "dry": True, "deep": {"zone": "한국"}}
ZONE = "=?base64?7ZWc6rWt?="
RIGHT = {"region": "eu", "size": "42", "dry_run": "true", "zone": ZONE}


@pytest.mark.requirement("HTTP-24", "HTTP-25", "HTTP-29")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "pass"),
        ({"size": "42.0"}, "pass"),
        ({"size": "042"}, "pass"),
        ({"unknown": "x"}, "pass"),
        ({"region": "=?base64?ZXU=?="}, "pass"),
        ({"region": None}, "wire.header_mismatch"),
        ({"zone": None}, "wire.header_mismatch"),
        ({"region": "us"}, "wire.header_mismatch"),
        ({"region": "EU"}, "wire.header_mismatch"),
        ({"region": "eu "}, "wire.header_mismatch"),
        ({"region": "eu\r\nX: 1"}, "wire.header_mismatch"),
        ({"region": "e\u00fc"}, "wire.header_mismatch"),
        ({"region": "=?base64?ZXV=?="}, "wire.header_mismatch"),
        ({"region": "=?base64?!!!?="}, "wire.header_mismatch"),
        ({"zone": "=?base64?/w==?="}, "wire.header_mismatch"),
        ({"size": "42.5"}, "wire.header_mismatch"),
        ({"size": "4.2e1"}, "wire.header_mismatch"),
        ({"size": "43"}, "wire.header_mismatch"),
        ({"dry_run": "True"}, "wire.header_mismatch"),
        ({"dry_run": "1"}, "wire.header_mismatch"),
    ],
)
def test_mirrored_headers_agree_with_the_body(changed, said):
    presented = {name: value for name, value in (RIGHT | changed).items() if value is not None}
    given = call(arguments=BODY, param_headers=headers(**presented))
    assert reason(judge(MIRRORED, given)) == said


@pytest.mark.requirement("HTTP-24")
def test_a_header_without_an_argument_or_given_twice_is_a_mismatch():
    only = headers(region="eu")
    assert reason(judge(MIRRORED, call(arguments={}, param_headers=only))) == "wire.header_mismatch"
    assert reason(judge(MIRRORED, call(arguments={"region": "eu"}, param_headers=only * 2))) == "wire.header_mismatch"
    assert reason(judge(MIRRORED, call(arguments={"region": "eu"}, param_headers=only))) == "pass"
    assert reason(judge(MIRRORED, call(arguments={}))) == "pass"


@pytest.mark.requirement("HTTP-21")
def test_there_are_no_mirrored_headers_in_the_old_era_or_over_pipes():
    for rest in ({"era": Era.HANDSHAKE}, {"peer": Peer("stdio")}):
        assert reason(judge(MIRRORED, call(arguments=BODY, **rest))) == "pass"


@pytest.mark.requirement("HTTP-27")
def test_what_is_sent_upstream_is_computed_from_the_body():
    approved = approved_registry(MIRRORED).snapshot().find("s", "tool", "echo")
    assert dict(param_headers(approved, call(arguments=BODY))) == {
        "Mcp-Param-Region": "eu",
        "Mcp-Param-Size": "42",
        "Mcp-Param-Dry-Run": "true",
        "Mcp-Param-Zone": ZONE,
    }
    assert param_headers(approved, call(arguments={"deep": 5, "region": None})) == ()
    for value in ("a\r\nX-Evil: 1", " a", "=?base64?eA==?=", "", "é", "plain text"):
        sent = encode(value)
        assert sent.isascii()
        assert sent.isprintable()
        assert decode_header(sent) == value


PROMPT = {"name": "review", "arguments": [{"name": "code", "required": True}, {"name": "style"}]}
ROW = {"uriTemplate": "db://{table}/rows/{id}", "name": "row"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"code": "x"}, "pass"),
        ({"code": "x", "style": "terse"}, "pass"),
        ({}, "catalog.arguments"),
        ({"style": "terse"}, "catalog.arguments"),
        ({"code": 5}, "catalog.arguments"),
        ({"code": "x", "other": "y"}, "catalog.arguments"),
    ],
)
def test_prompts_take_the_texts_they_declare(arguments, said):
    given = call("review", arguments, method="prompts/get")
    assert reason(judge(None, given, "prompt", "review", prompts=(PROMPT,))) == said


@pytest.mark.parametrize(
    ("kind", "argument", "said"),
    [
        ("prompt", b'{"argument":{"name":"code","value":"x"}}', "pass"),
        ("prompt", b'{"argument":{"name":"other","value":"x"}}', "catalog.arguments"),
        ("prompt", b'{"argument":{"name":"code","value":5}}', "catalog.arguments"),
        ("prompt", b"{}", "catalog.arguments"),
        ("template", b'{"argument":{"name":"table","value":""}}', "pass"),
        ("template", b'{"argument":{"name":"table}/rows/{id","value":""}}', "catalog.arguments"),
    ],
)
def test_completions_are_for_declared_arguments(kind, argument, said):
    name = "review" if kind == "prompt" else ROW["uriTemplate"]
    given = call(f"{kind}:{name}", method="completion/complete", rest=argument)
    assert reason(judge(None, given, kind, name, prompts=(PROMPT,), templates=(ROW,))) == said


def test_reading_takes_no_arguments():
    file = {"uri": "x://a", "name": "a"}
    assert reason(judge(None, call("x://a", method="resources/read"), "resource", "x://a", resources=(file,))) == "pass"
