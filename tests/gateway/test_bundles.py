"""Bundles at work: the official client, both eras, servers that offer the same names, some of them hostile."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp_types import (
    ElicitRequestParams,
    ElicitResult,
    PromptReference,
    ResourceTemplateReference,
    ToolListChangedNotification,
)

from gateway.running import META
from gateway.twins import LONG, Twins, twins
from limen.core.call import Approved
from limen.gateway.bundles import renamed
from limen.protocol.jsonrpc import canonical
from limen.protocol.naming import shown_name, shown_uri

ERAS = ("auto", "legacy")
LISTS = ("list_tools", "list_prompts", "list_resources", "list_resource_templates")
NAMING = {"list_tools": "name", "list_prompts": "name", "list_resources": "uri"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    with twins(tmp_path_factory.mktemp("bundles")) as started:
        yield started


async def everything(client: Client) -> dict[str, list[dict[str, Any]]]:
    """Every list as plain JSON, by method."""
    found = {}
    for method in LISTS:
        answer = (await getattr(client, method)()).model_dump(mode="json", by_alias=True, exclude_none=True)
        (found[method],) = (value for value in answer.values() if isinstance(value, list))
    return found


@pytest.mark.parametrize("mode", ERAS)
def test_lists_show_every_servers_definitions_under_other_names_and_nothing_else_changed(
    gateway: Twins, mode: str
) -> None:
    async def read(route: str) -> dict[str, list[dict[str, Any]]]:
        async with gateway.client(route, mode) as client:
            return await everything(client)

    async def scenario() -> None:
        own = {server: await read(server) for server in ("one", "two", "Three_3")}
        for route, servers in (("team", ("one", "two")), ("", ("Three_3", "one", "two"))):
            for method, shown in (await read(route)).items():
                expected = []
                for server in servers:
                    for item in own[server][method]:
                        member = NAMING.get(method, "uriTemplate")
                        naming = shown_name if member == "name" else shown_uri
                        expected.append({**item, member: naming(server, item[member])})
                assert shown == expected
                assert len(shown) >= len(servers)
                keys = [item[NAMING.get(method, "uriTemplate")] for item in shown]
                assert len(set(keys)) == len(keys)
                assert not [key for key in keys if "late" in key or "denied" in key or "secret" in key]

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("route", ["team", ""])
def test_equal_names_reach_the_server_that_is_meant(gateway: Twins, mode: str, route: str) -> None:
    async def scenario() -> None:
        async with gateway.client(route, mode) as client:
            for server in ("one", "two"):
                for tool in ("who", "a__b", "_x", f"{LONG}1", f"{LONG}2", f"other__{server}"):
                    answer = await client.call_tool(shown_name(server, tool), {})
                    assert answer.content[0].text == f"{server} {tool}"
                hail = await client.get_prompt(f"{server}__hail", {"name": "ada"})
                assert hail.messages[0].content.text == f"{server} hails ada"
                assert hail.messages[1].content.resource.uri == f"limen+{server}:note://same"
                for uri in ("note://same", "note://a%2Fb", "limen+two:note://same"):
                    read = await client.read_resource(f"limen+{server}:{uri}")
                    assert [(one.uri, one.text) for one in read.contents] == [
                        (f"limen+{server}:{uri}", f"{server} {uri}")
                    ]
                card = await client.read_resource(f"limen+{server}:user://ada/card")
                assert (card.contents[0].uri, card.contents[0].text) == (
                    f"limen+{server}:user://ada/card", f"{server} knows ada",
                )  # fmt: skip
                for ref in (
                    PromptReference(type="ref/prompt", name=f"{server}__hail"),
                    ResourceTemplateReference(type="ref/resource", uri=f"limen+{server}:user://{{name}}/card"),
                ):
                    completed = await client.complete(ref, {"name": "name", "value": "a"})
                    assert completed.completion.values == [f"{server}-a"]

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", ERAS)
def test_links_in_results_can_be_followed_and_lead_to_the_server_that_gave_them(gateway: Twins, mode: str) -> None:
    async def scenario() -> None:
        async with gateway.client("team", mode) as client:
            link, stolen, embedded, text = (await client.call_tool("one__links", {})).content
            assert (link.uri, embedded.resource.uri) == ("limen+one:note://same",) * 2
            assert (await client.read_resource(link.uri)).contents[0].text == "one note://same"
            assert stolen.uri == "limen+one:limen+two:note://secret"  # not two's, whatever it looks like
            assert text.text == "limen+two:note://secret"
            for uri in (stolen.uri, text.text):
                with pytest.raises(MCPError, match="Unknown name"):
                    await client.read_resource(uri)
        async with gateway.client("one", mode) as client:
            link, stolen, embedded, _ = (await client.call_tool("links", {})).content
            assert (link.uri, embedded.resource.uri) == ("note://same",) * 2
            assert stolen.uri == "limen+two:note://secret"
            assert (await client.read_resource("note://same")).contents[0].uri == "note://same"
            pretending = await client.read_resource("limen+two:note://same")  # one's own, on one's own route
            assert pretending.contents[0].text == "one limen+two:note://same"

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", ERAS)
def test_instructions_stand_under_headings_no_server_can_forge(gateway: Twins, mode: str) -> None:
    async def scenario() -> tuple[str, str]:
        async with gateway.client("team", mode) as team, gateway.client("one", mode) as one:
            assert team.server_info.name == "limen"
            return team.instructions or "", one.instructions or ""

    team, one = asyncio.run(scenario())
    assert [line for line in team.splitlines() if line.startswith("#")] == [
        "# Server one: its tools and prompts begin with one__",
        "# Server two: its tools and prompts begin with two__",
    ]
    assert "> Be brief." in team.split("# Server two")[-1]
    assert one.startswith("Be kind.\n")


@pytest.mark.parametrize("mode", ERAS)
def test_a_question_of_a_server_reaches_the_client_of_a_bundle(gateway: Twins, mode: str) -> None:
    async def answer(_: Any, params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": "ada"})

    async def scenario() -> None:
        async with gateway.client("team", mode, elicitation_callback=answer) as client:
            assert (await client.call_tool("two__greet", {})).content[0].text == "two greets ada"

    asyncio.run(scenario())


def post(gateway: Twins, route: str, method: str, **params: Any) -> tuple[int, dict[str, Any]]:
    """One self-contained request: status and error, without the reference that differs each time."""
    mirrored = params.get("name", params.get("uri"))
    headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": method}
    if mirrored is not None:
        headers["Mcp_Name"] = mirrored
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}
    status, _, body = gateway.post(message, gateway.token(server=route), route, **headers)
    if "error" in body:
        body["error"].get("data", {}).pop("reference", None)
        return status, body["error"]
    return status, {}


REF = {"argument": {"name": "name", "value": "a"}}


@pytest.mark.parametrize(
    ("method", "own", "team"),
    [
        ("tools/call", {"name": "denied"}, {"name": "one__denied"}),
        ("tools/call", {"name": "late"}, {"name": "one__late"}),
        ("tools/call", {"name": f"late{LONG}"}, {"name": shown_name("one", f"late{LONG}")}),
        ("tools/call", {"name": "nothing"}, {"name": "one__nothing"}),
        ("tools/call", {"name": "who", "arguments": 5}, {"name": "one__who", "arguments": 5}),
        ("prompts/get", {"name": "nothing"}, {"name": "one__nothing"}),
        ("prompts/get", {"name": "hail"}, {"name": "one__hail"}),  # an argument is missing
        ("resources/read", {"uri": "note://secret"}, {"uri": "limen+one:note://secret"}),
        ("resources/read", {"uri": "note://late"}, {"uri": "limen+one:note://late"}),
        ("resources/read", {"uri": "note://nothing"}, {"uri": "limen+one:note://nothing"}),
        ("resources/read", {"uri": "user://a%2F../card"}, {"uri": "limen+one:user://a%2F../card"}),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "nothing"}, **REF},
            {"ref": {"type": "ref/prompt", "name": "one__nothing"}, **REF},
        ),
        (
            "completion/complete",
            {"ref": {"type": "ref/resource", "uri": "user://{other}"}, **REF},
            {"ref": {"type": "ref/resource", "uri": "limen+one:user://{other}"}, **REF},
        ),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else value,
)
def test_refusals_are_the_same_on_both_routes(
    gateway: Twins, method: str, own: dict[str, Any], team: dict[str, Any]
) -> None:
    before, through = post(gateway, "one", method, **own), post(gateway, "team", method, **team)
    assert before[1]
    assert through[0] == before[0]
    if "uri" in before[1].get("data", {}):  # the caller's own words, in either case
        assert (before[1]["data"].pop("uri"), through[1]["data"].pop("uri")) == (own["uri"], team["uri"])
    assert through[1] == before[1]
    first, second = [record for record in gateway.records(20) if record["t"] == "refusal"][-2:]
    told = ("server", "name", "method", "args", "reason", "guard", "detail", "sub", "policy")
    if "arguments" not in own:
        assert [first.get(name) for name in told] == [second.get(name) for name in told]
    else:
        assert first["reason"] == second["reason"]


@pytest.mark.requirement("AU-18", "AU-05")
@pytest.mark.parametrize(
    "name",
    [
        "two__denied", "two__late", "two__nothing", "Three_3__who", "hr__who", "who", "team__who", "TWO__who", "__who",
        "_two__who", "two__", "one__two__who", "two___who", "two__who__", "two_who", "limen+two:who",
    ],
)  # fmt: skip
def test_what_a_caller_may_not_use_looks_like_what_is_not_there(gateway: Twins, name: str) -> None:
    assert post(gateway, "team", "tools/call", name=name) == post(gateway, "team", "tools/call", name="two__no-such")


@pytest.mark.requirement("AU-18")
@pytest.mark.parametrize(
    "uri",
    [
        "note://same", "limen+Three_3:note://same", "limen+three+3:note://same", "limen+two:", "LIMEN+TWO:note://same",
        "limen+tw%6F:note://same", "limen+two%3Anote://same", "limen+one:two:note://same", "two__note://same",
        "limen+two:note://a%252Fb", "limen+two:note://a/b", "limen+team:note://same", "limen+:note://same",
    ],
)  # fmt: skip
def test_uris_that_nearly_mean_another_resource_mean_nothing(gateway: Twins, uri: str) -> None:
    status, error = post(gateway, "team", "resources/read", uri=uri)
    assert (status, error["message"], error["data"]["uri"]) == (200, "Unknown name", uri)


def test_the_bundle_of_all_offers_what_a_named_one_leaves_out(gateway: Twins) -> None:
    assert post(gateway, "", "tools/call", name="Three_3__who") == (200, {})
    assert post(gateway, "", "resources/read", uri="limen+three+3:note://same") == (200, {})


def test_the_log_says_the_same_whichever_way_a_call_came(gateway: Twins) -> None:
    for route, prefix in (("one", ""), ("team", "one__"), ("", "one__")):
        assert post(gateway, route, "tools/call", name=f"{prefix}who", arguments={}) == (200, {})
    time.sleep(0.2)
    intents = [record for record in gateway.records(30) if record["t"] == "intent"][-3:]
    told = ("server", "name", "upstream", "tool", "digest", "args", "rules", "policy", "decision", "sub")
    assert [intents[0][name] for name in told[:4]] == ["one", "who", "one", "who"]
    assert len({json.dumps([intent[name] for name in told]) for intent in intents}) == 1


@pytest.mark.requirement("AUTH-05", "AU-03", "OA-76")
@pytest.mark.parametrize(
    ("meant", "used"), [("one", "team"), ("team", "one"), ("", "team"), ("team", ""), ("", "one"), ("one", "")]
)
def test_a_token_for_one_address_is_refused_at_another(gateway: Twins, meant: str, used: str) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
    headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/list"}
    status, answered, _ = gateway.post(message, gateway.token(server=meant), used, **headers)
    assert status == 401
    assert 'error="invalid_token"' in answered["www-authenticate"]
    assert gateway.post(message, gateway.token(server=used), used, **headers)[0] == 200


def test_a_bundle_describes_itself_as_a_resource_of_its_own(gateway: Twins) -> None:
    base = f"http://127.0.0.1:{gateway.port}"
    for route, scopes in (("team", ["one.use", "two.use"]), ("", ["Three_3.use", "one.use", "two.use"])):
        path = f"/mcp/{route}" if route else "/mcp"
        document = httpx2.get(f"{base}/.well-known/oauth-protected-resource{path}").json()
        assert (document["resource"], sorted(document["scopes_supported"])) == (base + path, scopes)
    _, answered, _ = gateway.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, None, "team")
    assert f"{base}/.well-known/oauth-protected-resource/mcp/team" in answered["www-authenticate"]


@pytest.mark.requirement("SES-04")
def test_a_session_belongs_to_the_route_it_was_opened_on(gateway: Twins) -> None:
    ping = {"jsonrpc": "2.0", "id": 3, "method": "ping"}
    old = {"MCP_Protocol_Version": "2025-11-25"}
    for mine, other in (("team", "one"), ("one", "team"), ("", "team")):
        session = gateway.session(gateway.token(server=mine), mine)
        assert gateway.post(ping, gateway.token(server=mine), mine, Mcp_Session_Id=session, **old)[0] == 200
        assert gateway.post(ping, gateway.token(server=other), other, Mcp_Session_Id=session, **old)[0] == 404


@pytest.mark.requirement("MRTR-03", "AU-11")
def test_a_request_state_belongs_to_the_route_it_was_given_on(gateway: Twins) -> None:
    able = {**META, "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}}

    def ask(route: str, name: str, **more: Any) -> dict[str, Any]:
        params = {"name": name, "arguments": {}, "_meta": able, **more}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": name}
        return gateway.post(message, gateway.token(server=route), route, **headers)[2]

    first = ask("team", "one__greet")["result"]
    assert first["resultType"] == "input_required"
    answers = {key: {"action": "accept", "content": {"name": "ada"}} for key in first["inputRequests"]}
    resumed = {"requestState": first["requestState"], "inputResponses": answers}
    assert "error" in ask("one", "greet", **resumed)
    assert "error" in ask("", "one__greet", **resumed)
    assert "error" in ask("team", "two__greet", **resumed)
    assert ask("team", "one__greet", **resumed)["result"]["content"][0]["text"] == "one greets ada"
    again = ask("team", "one__greet", **resumed)["error"]  # AU-11: good once
    unknown = ask("team", "one__greet", **{**resumed, "requestState": "A" * 90})["error"]
    assert (again["code"], again["message"]) == (unknown["code"], unknown["message"]) == (-32602, "Invalid params")


def test_a_definition_keeps_every_digit() -> None:
    schema = {"type": "object", "properties": {"n": {"maximum": 10**30, "minimum": -1e-9}}}
    definition = canonical({"name": "t", "inputSchema": schema, "title": "T"})
    shown = renamed(Approved("one", "tool", "t", "", definition))
    assert shown == definition.replace(b'"name":"t"', b'"name":"one__t"')


def toggle(gateway: Twins, *words: str) -> threading.Timer:
    """In a moment, take a tool of `two` out of service, or put it back."""
    timer = threading.Timer(0.7, gateway.limen, ("tools", *words, "--reason", "test"))
    timer.start()
    return timer


def test_a_modern_client_of_a_bundle_is_told_of_changes(gateway: Twins) -> None:
    async def scenario() -> None:
        async with gateway.client("team") as client:
            async with client.listen(tools_list_changed=True) as changes:
                timer = toggle(gateway, "approve", "two", "late", "--kind", "tool")
                async with asyncio.timeout(20):
                    await anext(aiter(changes))
            timer.join()
            names = [tool.name for tool in (await client.list_tools(cache_mode="bypass")).tools]
            assert "two__late" in names
            assert "one__late" not in names

    asyncio.run(scenario())
    digest = next(e["approved"] for e in listed(gateway) if (e["server"], e["name"]) == ("two", "late"))
    gateway.limen("tools", "reject", "two", "late", "--kind", "tool", "--digest", digest, "--reason", "test")


def listed(gateway: Twins) -> list[dict[str, Any]]:
    return list(json.loads(gateway.limen("tools", "list", "--json"))["entries"])


def test_an_older_client_of_a_bundle_is_told_of_changes(gateway: Twins) -> None:
    async def scenario() -> None:
        told = asyncio.Event()

        async def heard(message: Any) -> None:
            if isinstance(getattr(message, "root", message), ToolListChangedNotification):
                told.set()

        async with gateway.client("team", "legacy", message_handler=heard):
            timer = toggle(gateway, "approve", "one", "late", "--kind", "tool")
            async with asyncio.timeout(20):
                await told.wait()
            timer.join()

    asyncio.run(scenario())
    digest = next(e["approved"] for e in listed(gateway) if (e["server"], e["name"]) == ("one", "late"))
    gateway.limen("tools", "reject", "one", "late", "--kind", "tool", "--digest", digest, "--reason", "test")


# the same over standard input and output


def offer(path: Path, *arguments: str) -> StdioServerParameters:
    argv = ["-m", "limen", "-c", str(path), "stdio", *arguments]
    return StdioServerParameters(command=sys.executable, args=argv, env={"PYTHONPATH": os.getenv("PYTHONPATH", "")})


@pytest.fixture
def local(gateway: Twins) -> Iterator[Path]:
    """The same servers and approvals, without `Three_3`, which stays approved but is no longer configured."""
    config = json.loads(gateway.config.read_text())
    del config["mcpServers"]["Three_3"]
    path = gateway.directory / "local.yaml"
    state = gateway.directory / "limen-state"
    copy = gateway.directory / "local-state"
    subprocess.run(["cp", "-r", str(state), str(copy)], check=True)
    subprocess.run(["rm", "-rf", str(copy / "audit")], check=True)
    config["storage"] = {"path": str(copy / "limen.db")}
    config["audit"] = {"path": str(copy / "audit"), "key": str(copy / "audit.key")}
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    yield path
    subprocess.run(["rm", "-rf", str(copy)], check=True)


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("arguments", [(), ("team",)])
def test_a_local_client_is_offered_bundles(local: Path, mode: str, arguments: tuple[str, ...]) -> None:
    async def scenario() -> None:
        async with Client(offer(local, *arguments), mode=mode) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert {"one__who", "two__who"} <= names
            assert not [name for name in names if name.startswith("Three")]
            assert (await client.call_tool("two__who", {})).content[0].text == "two who"
            assert (await client.read_resource("limen+one:note://same")).contents[0].text == "one note://same"
            for gone in ("Three_3__who", "two__denied"):
                with pytest.raises(MCPError, match="Unknown name"):
                    await client.call_tool(gone, {})

    asyncio.run(scenario())


def test_a_name_nobody_has_is_an_error(local: Path) -> None:
    argv = [sys.executable, "-m", "limen", "-c", str(local), "stdio", "teem"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode != 0
    assert "no server or bundle named 'teem': one, two, team" in done.stderr
    assert not done.stdout
