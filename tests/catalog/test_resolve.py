"""A call names an approved definition, or it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.catalogue import ECHO, announce, approve_all, approved_registry, call, context, reason, registry, tool
from limen.catalog.resolve import Resolve
from limen.catalog.templates import Template

ROW = {"uriTemplate": "db://{table}/rows/{id}", "name": "row"}
FILE = {"uri": "file:///srv/readme.md", "name": "readme"}
PROMPT = {"name": "review", "arguments": [{"name": "code", "required": True}, {"name": "style"}]}


def resolve(made, given):
    verdict = Resolve(made.snapshot()).check(context(given))
    return reason(verdict), verdict


def read(uri):
    return call(uri, method="resources/read")


def test_approved_names_resolve_to_their_definition():
    made = approved_registry(ECHO, prompts=(PROMPT,), resources=(FILE,), templates=(ROW,))
    for made_call, kind in (
        (call("echo"), "tool"),
        (call("review", method="prompts/get"), "prompt"),
        (read("file:///srv/readme.md"), "resource"),
        (read("db://users/rows/7"), "template"),
        (call("prompt:review", method="completion/complete"), "prompt"),
        (call("template:db://{table}/rows/{id}", method="completion/complete"), "template"),
    ):
        said, verdict = resolve(made, made_call)
        assert said == "pass"
        assert verdict.facts[0].kind == kind


@pytest.mark.parametrize(
    "given",
    [
        call("nope"),
        call("Echo"),
        call("echo "),
        call("echo\0"),
        call("ech\u043e"),
        call("echo", server="other"),
        call("echo", server=""),
        call("echo", method="prompts/get"),
        read("echo"),
        call("prompt:echo", method="completion/complete"),
        call("template:db://x", method="completion/complete"),
    ],
)
def test_names_nobody_announced_are_unknown(given):
    assert resolve(approved_registry(ECHO), given)[0] == "catalog.unknown"


def test_other_references_and_methods_end_here():
    made = approved_registry(ECHO)
    assert resolve(made, call("echo", method="completion/complete"))[0] == "wire.params"
    assert resolve(made, call("echo", method="tools/other"))[0] == "fault.bug"


def test_pending_rejected_and_held():
    made = registry()
    made.observe(announce(ECHO, tool(name="bad")))
    assert resolve(made, call("echo"))[0] == "catalog.pending"
    made.reject("s", "tool", "bad", "root", "no")
    assert resolve(made, call("bad"))[0] == "catalog.unknown"
    made.observe(announce(tool(description="x\u200b")))
    assert resolve(made, call("echo"))[0] == "catalog.pending"


def test_drift_is_served_as_approved_unless_it_cannot_work():
    made = approved_registry(ECHO)
    made.observe(announce(tool(description="new text")))
    said, verdict = resolve(made, call("echo"))
    assert said == "pass"
    assert verdict.facts[0].drifted
    assert verdict.facts[0].read() == ECHO
    made.observe(announce(tool(inputSchema={"type": "object", "required": ["text", "more"]})))
    assert resolve(made, call("echo"))[0] == "catalog.drifted"
    made.observe(announce())
    assert resolve(made, call("echo"))[0] == "catalog.drifted"


@pytest.mark.parametrize(
    ("uri", "fits"),
    [
        ("db://users/rows/7", True),
        ("db://us%20ers/rows/a.b-c_d~e", True),
        ("db://%ED%95%9C/rows/7", True),
        ("db://users/rows/", False),
        ("db:///rows/7", False),
        ("db://users/rows/7/x", False),
        ("db://users/rows/..", False),
        ("db://../rows/7", False),
        ("db://users/rows/%2e%2e", False),
        ("db://users/rows/%2e.", False),
        ("db://users/rows/a%2fb", False),
        ("db://users/rows/a%5Cb", False),
        ("db://users/rows/%252e%252e", False),
        ("db://users/rows/%00", False),
        ("db://users/rows/%0a", False),
        ("db://users/rows/%ff", False),
        ("db://users/rows/%E2%80%AE", False),
        ("db://users/rows/7?x=1", False),
        ("db://users/rows/7#f", False),
        ("db://users/rows/7;x", False),
        ("db://us@ers/rows/7", False),
        ("db://users/rows/a\\b", False),
        ("DB://users/rows/7", False),
        ("db://users/rows/7\n", False),
    ],
)
def test_a_template_variable_is_one_harmless_segment(uri, fits):
    said, _ = resolve(approved_registry(templates=(ROW,)), read(uri))
    assert said == ("pass" if fits else "catalog.unknown")


def test_two_templates_for_one_uri_decide_nothing():
    made = approved_registry(templates=(ROW, {"uriTemplate": "db://users/rows/{id}", "name": "user"}))
    assert resolve(made, read("db://users/rows/7"))[0] == "catalog.unknown"
    assert resolve(made, read("db://orders/rows/7"))[0] == "pass"


def test_a_resource_nobody_approved_does_not_slip_through_a_template():
    made = registry()
    made.observe(announce(templates=(ROW,)))
    approve_all(made)
    made.observe(announce(templates=(ROW,), resources=({"uri": "db://secrets/rows/1", "name": "x"},)))
    assert resolve(made, read("db://secrets/rows/1"))[0] == "catalog.pending"
    made.reject("s", "resource", "db://secrets/rows/1", "root", "no")
    assert resolve(made, read("db://secrets/rows/1"))[0] == "catalog.unknown"
    assert resolve(made, read("db://secrets/rows/2"))[0] == "pass"


@given(st.lists(st.text("ab-/", min_size=1, max_size=3), min_size=1, max_size=6), st.text("ab-/", max_size=40))
def test_matching_any_text_ends_and_never_raises(literals, text):
    template = Template(("x:", *literals, ""))
    assert template.matches("x:" + text) in (True, False)


@given(st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True), st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True))
def test_what_a_template_expands_to_fits_it(table, row):
    assert Template.compile(ROW["uriTemplate"]).matches(f"db://{table}/rows/{row}")
