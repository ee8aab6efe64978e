"""Names on a bundle: every name has one meaning, and nobody can write a name that means somebody else's thing."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from mcp.shared.uri_template import UriTemplate
from pydantic import AnyUrl

from limen.catalog.templates import Template, template_fault, uri_fault, variables
from limen.config.servers import check_names
from limen.core.call import Call, Peer
from limen.core.verdict import Refuse
from limen.posture import ADMIT
from limen.protocol.inbound import Draft, Endpoint, admit
from limen.protocol.naming import LONGEST, Bundle, LongNames, is_server, shown_name, shown_uri

SERVERS = st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII), fullmatch=True).filter(
    lambda name: "__" not in name and not name.endswith("_")
)
NAMES = st.from_regex(re.compile(r"[A-Za-z0-9._/-]{1,128}", re.ASCII), fullmatch=True)
TIGHT = st.text("aA_", min_size=1, max_size=6)  # few letters: collisions are near
_CHARACTERS = "abZ019-._~:/?#[]@!$&'()*+,;="
URIS = st.builds(
    "{}:{}".format,
    st.from_regex(re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}", re.ASCII), fullmatch=True),
    st.lists(st.sampled_from([*_CHARACTERS, "%2F", "%2f", "%25", "limen+", "b:"]), min_size=1).map("".join),
).filter(lambda uri: not uri_fault(uri))
_LITERALS = st.text("ab:/-?=&+._", min_size=1, max_size=4)
TEMPLATES = st.builds(
    lambda scheme, parts: scheme + "".join(f"{literal}{{v{n}.x_{n}}}" for n, literal in enumerate(parts)),
    st.sampled_from(["file://", "x:", "limen+b:", "a.b-c+d:/"]),
    st.lists(_LITERALS, min_size=1, max_size=5),
)
ALL = Bundle(["a", "aA", "b", "x", "files", "git.io", "My_Server", "one-two"])


def test_names_read_as_people_expect() -> None:
    assert shown_name("files", "read_file") == "files__read_file"
    assert shown_uri("files", "file:///etc/hosts") == "limen+files:file:///etc/hosts"
    assert shown_uri("My_Server", "note://{id}") == "limen+my+server:note://{id}"
    assert ALL.read_name("files__read__all") == ("files", "read__all")
    assert ALL.read_uri("limen+my+server:note://1") == ("My_Server", "note://1")


@given(SERVERS, NAMES)
@example("a", "_")
@example("a", "__b__")
@example("a" * 63, "x" * 128)
def test_names_come_back_and_fit_clients(server: str, name: str) -> None:
    long = LongNames()
    long.learn([(server, name)])
    shown = shown_name(server, name)
    assert len(shown) <= LONGEST
    assert Bundle([server], long).read_name(shown) == (server, name)
    if len(server) + 2 + len(name) > LONGEST:
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", shown)
        assert Bundle([server]).read_name(shown) is None  # nobody told it


@given(TIGHT, TIGHT, TIGHT, TIGHT)
@example("x", "a__b", "x__a", "b")
@example("x", "_a", "x_", "a")
@example("x", "__a", "x_", "_a")
@settings(max_examples=2000)
def test_no_two_things_share_a_name(server: str, name: str, other: str, theirs: str) -> None:
    assume((server, name) != (other, theirs))
    for one in (server, other):
        if not is_server(one):
            with pytest.raises(ValueError):
                shown_name(one, name)
            return
    assert shown_name(server, name) != shown_name(other, theirs)


@given(SERVERS, NAMES, SERVERS, st.text(max_size=80))
def test_a_server_cannot_write_a_name_of_another(server: str, name: str, other: str, noise: str) -> None:
    """Whatever one puts into its own name, read back it is its own; whatever a client makes up has one reading."""
    assume(server.casefold() != other.casefold())
    bundle, long = Bundle([server, other]), LongNames()
    for hostile in (name, f"{other}__{name}", f"__{other}__{name}", f"_{shown_name(other, name)}"):
        long.learn([(server, hostile), (other, name)])
        bundle = Bundle([server, other], long)
        assert bundle.read_name(shown_name(server, hostile)) == (server, hostile)
        assert bundle.read_name(shown_name(other, name)) == (other, name)
    found = bundle.read_name(noise)
    assert found is None or shown_name(*found) == noise


def test_long_names_that_begin_alike_stay_apart_and_cannot_be_forged() -> None:
    long, stem = LongNames(), "n" * 120
    known = [("files", f"{stem}{number}") for number in range(200)] + [("files", "short"), ("git", f"{stem}0")]
    long.learn(known)
    bundle = Bundle(["files", "git"], long)
    shown = [shown_name(*one) for one in known]
    assert len(set(shown)) == len(known)
    assert [bundle.read_name(one) for one in shown] == known
    # A tool of one server that is called as another's short name stays its own, under a name of its own.
    long.learn([*known, ("files", shown[-1])])
    forged = shown_name("files", shown[-1])
    assert forged not in shown
    assert bundle.read_name(forged) == ("files", shown[-1])
    assert bundle.read_name(shown[-1]) == ("git", f"{stem}0")
    assert Bundle(["git"], long).read_name(shown[0]) is None  # not of this bundle, although known
    assert bundle.read_name(f"files__{stem}0") is None  # one name each: the long spelling is nobody's


@given(SERVERS, URIS)
@example("x", "limen+b:note://1")
@example("My_Server", "urn:x")
def test_uris_come_back_and_stay_uris(server: str, uri: str) -> None:
    shown = shown_uri(server, uri)
    assert Bundle([server]).read_uri(shown) == (server, uri)
    assert re.fullmatch(r"[a-z][a-z0-9+.-]*:(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+", shown)
    if len(server) < 56 and len(shown) <= 2048:
        assert uri_fault(shown) == ""  # another gateway behind this one takes it too


@given(SERVERS, URIS, SERVERS, URIS)
@example("x", "limen+b:note://1", "b", "note://1")
@example("a_b", "x:y", "a-b", "x:y")
@example("a_b", "x:y", "a.b", "x:y")
def test_no_two_resources_share_a_uri(server: str, uri: str, other: str, theirs: str) -> None:
    assume(server.casefold() != other.casefold() or (server == other and uri != theirs))
    assert shown_uri(server, uri) != shown_uri(other, theirs)
    if server != other:
        assert Bundle([server, other]).read_uri(shown_uri(server, shown_uri(other, theirs))) == (
            server, shown_uri(other, theirs),
        )  # fmt: skip


@given(st.one_of(URIS, st.text(max_size=40), st.text("limen+fgxb:./_ABX", max_size=20)))
@example("LIMEN+FILES:note://1")
@example("limen+files:")
@example("limen+:note://1")
@example("limen+my_server:note://1")
@example("limen%2Bfiles:note://1")
@example("note://one")
@example("limen+files%3Anote://1")
def test_a_uri_made_up_by_a_client_has_one_reading_or_none(made_up: str) -> None:
    found = ALL.read_uri(made_up)
    assert found is None or (shown_uri(*found) == made_up and found[0] in ALL.servers)


@given(SERVERS, TEMPLATES, st.lists(st.sampled_from(["1", "ab", "a%2Fb", "..", "x-y", "%41"]), min_size=6, max_size=6))
@example("files", "file:///{path}", ["a%2Fb"] * 6)
def test_templates_stay_templates_and_fit_the_same_uris(server: str, template: str, values: list[str]) -> None:
    assume(not template_fault(template) and len(server) < 56 and len(template) < 1900)
    shown = shown_uri(server, template)
    assert template_fault(shown) == ""
    assert variables(shown) == variables(template)
    assert Bundle([server]).read_uri(shown) == (server, template)
    iterator = iter(values)
    filled = re.sub(r"\{[^{}]*\}", lambda _: next(iterator, "1"), template)
    assert Bundle([server]).read_uri(shown_uri(server, filled)) == (server, filled)
    assert Template.compile(shown).matches(shown_uri(server, filled)) is Template.compile(template).matches(filled)


@pytest.mark.parametrize("template", ["file:///{path}", "note://{a}/x-{b.c}", "urn:isbn:{n}", "limen+b:{x}"])
def test_the_official_client_expands_them_to_the_same(template: str) -> None:
    values = dict.fromkeys(variables(template), "a/b %ä")
    expanded = UriTemplate.parse(template).expand(values)
    assert UriTemplate.parse(shown_uri("files", template)).expand(values) == shown_uri("files", expanded)


@pytest.mark.parametrize(
    "uri", ["file:///a/../b%2Fc", "https://EX.example", "note://One", "limen+b:X://y", "urn:a?b#c"]
)
def test_clients_that_normalise_uris_change_nothing(uri: str) -> None:
    assert str(AnyUrl(shown_uri("files", uri))) == shown_uri("files", uri)


@pytest.mark.parametrize("name", ["x__a", "x_", "_x", "", ".x", "-x", "x" * 64, "x/y", "x+y", "x:y", "x y", "ä", "х"])
def test_servers_whose_names_could_be_misread_are_refused(name: str) -> None:
    for refusing in (
        lambda: check_names({name: None}),
        lambda: shown_name(name, "t"),
        lambda: shown_uri(name, "a:b"),
        lambda: Bundle([name]),
    ):
        with pytest.raises(ValueError):
            refusing()


def test_look_alike_servers_are_refused_or_kept_apart() -> None:
    with pytest.raises(ValueError, match="upper and lower case"):
        Bundle(["files", "Files"])
    apart = Bundle(["a_b", "a-b", "a.b", "ab"])
    assert {apart.read_uri(shown_uri(server, "x:y")) for server in apart.servers} == {
        (server, "x:y") for server in apart.servers
    }
    assert apart.read_name("A_B__t") is None
    assert apart.read_uri("limen+A+B:x:y") is None


@given(SERVERS)
def test_what_the_configuration_takes_can_be_named(server: str) -> None:
    check_names({server: None})
    assert is_server(server)


# the same call, on a server's own route and on a bundle

OWN = Endpoint("files", "http://h/mcp/files", hosts=frozenset({"h"}))
TEAM = Endpoint("team", "http://h/mcp/team", hosts=frozenset({"h"}), bundle=Bundle(["files", "git"]))
HEADERS = {"host": ["h"], "content-type": ["application/json"], "mcp-protocol-version": ["2025-11-25"]}
ARGUMENT = {"name": "path", "value": "x"}


def climb(endpoint: Endpoint, method: str, params: dict[str, Any]) -> Call | Refuse:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    return admit(Draft(body, HEADERS, endpoint, Peer("http")), ADMIT)


def call(endpoint: Endpoint, method: str, params: dict[str, Any]) -> Call:
    admitted = climb(endpoint, method, params)
    assert isinstance(admitted, Call)
    return admitted


@pytest.mark.parametrize(
    ("method", "own", "team"),
    [
        ("tools/call", {"name": "git__x", "arguments": {"a": 1}}, {"name": "files__git__x", "arguments": {"a": 1}}),
        ("prompts/get", {"name": "hail"}, {"name": "files__hail"}),
        ("resources/read", {"uri": "limen+git:x:y"}, {"uri": "limen+files:limen+git:x:y"}),
        ("resources/read", {"uri": "file:///a%2Fb"}, {"uri": "limen+files:file:///a%2Fb"}),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "hail"}, "argument": ARGUMENT},
            {"ref": {"type": "ref/prompt", "name": "files__hail"}, "argument": ARGUMENT},
        ),
        (
            "completion/complete",
            {"ref": {"type": "ref/resource", "uri": "file:///{path}"}, "argument": ARGUMENT},
            {"ref": {"type": "ref/resource", "uri": "limen+files:file:///{path}"}, "argument": ARGUMENT},
        ),
    ],
)
def test_past_the_door_only_the_route_differs(method: str, own: dict[str, Any], team: dict[str, Any]) -> None:
    assert call(TEAM, method, team) == replace(call(OWN, method, own), route="team")


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "hr__pay"}),  # a server, but not of this bundle
        ("tools/call", {"name": "pay"}),
        ("tools/call", {"name": "files__"}),
        ("tools/call", {"name": "__pay"}),
        ("tools/call", {"name": "_files__pay-abc"}),
        ("tools/call", {"name": "Files__pay"}),
        ("prompts/get", {"name": "team__pay"}),
        ("resources/read", {"uri": "note://one"}),
        ("resources/read", {"uri": "limen+hr:note://one"}),
        ("resources/read", {"uri": "LIMEN+files:note://one"}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "pay"}, "argument": ARGUMENT}),
        ("completion/complete", {"ref": {"type": "ref/prompt"}, "argument": ARGUMENT}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": ["files__x"]}, "argument": ARGUMENT}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "files__x"}, "argument": ARGUMENT}),
    ],
)
def test_what_the_bundle_does_not_have_belongs_to_no_server(method: str, params: dict[str, Any]) -> None:
    met = call(TEAM, method, params)
    assert (met.route, met.server) == ("team", "")
    assert met.name in (params.get("name"), params.get("uri")) or met.name.partition(":")[0] in ("prompt", "template")


def test_the_longest_uri_of_a_catalog_fits_under_the_longest_name() -> None:
    server, uri = "s" * 63, "x:" + "y" * 2046
    bundle = replace(TEAM, bundle=Bundle([server]))
    assert uri_fault(uri) == ""
    met = call(bundle, "resources/read", {"uri": shown_uri(server, uri)})
    assert (met.server, met.name) == (server, uri)
    assert isinstance(climb(bundle, "resources/read", {"uri": shown_uri(server, uri + "y")}), Refuse)
