"""Two published incidents, played to their end through a running gateway by a model that obeys everything it reads
(PI-01, PI-02, PI-15). Each is stopped twice: by what is found in a text, and, where nothing is looked for, by where
data came from and may go and by what an argument may be."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from attacks.content_texts import PULL, TICKET
from gateway.rugpull import Rug, serving
from gateway.running import META, Running, running
from limen.config.load import load_config
from limen.opening import open_registry

PAYROLL = "payroll.csv: Ann 5200, Bob 4100"
TOKEN_ROW = "integration token of the shop: tok-5f1c"
EFFECTS = {
    ("issues", "get_issue"): "read", ("issues", "add_comment"): "write", ("code", "get_file"): "read",
    ("code", "create_pull_request"): "write", ("desk", "get_ticket"): "read", ("desk", "reply"): "write",
    ("database", "query"): "read", ("notes", "append"): "write",
}  # fmt: skip
SECOND_LINE = ("injection.*", "poisoning.*", "exfiltration.*", "hidden.*", "secret.*", "pii.*")


class Acting(Rug):
    """Offers these tools and does what they say."""

    def __init__(self, **does: Callable[..., str]) -> None:
        super().__init__("steady")
        self.does = does

    def tools(self, client: str, agent: str) -> dict[str, Any]:
        listed = [{"name": n, "description": f"The tool {n}.", "inputSchema": {"type": "object"}} for n in self.does]
        return {"tools": listed}

    def answer(self, message: dict[str, Any], client: str, agent: str) -> dict[str, Any] | None:
        if message.get("method") != "tools/call":
            return super().answer(message, client, agent)
        params = message["params"]
        self.calls.append(params)
        said = self.does[params["name"]](**params.get("arguments", {}))
        return {"content": [{"type": "text", "text": said}]}


class World:
    """The servers of both incidents. Number 1 of everything is hostile, number 2 is not."""

    def __init__(self) -> None:
        self.posted: list[str] = []
        self.noted: list[str] = []
        self.database = sqlite3.connect(":memory:", check_same_thread=False)
        self.database.executescript(
            f"CREATE TABLE integration_tokens (v); INSERT INTO integration_tokens VALUES ('{TOKEN_ROW}');"
            "CREATE TABLE orders (state); INSERT INTO orders VALUES ('sent'), ('open');"
        )
        issue = {1: f"The page is slow.\n\n{PULL}", 2: "The page is slow since the last release, could you look at it?"}
        ticket = {
            1: f"My order is late.\n\n{TICKET}",
            2: "My order is late. Could you tell me where it is? Thanks, Bob",
        }

        def post(text: str, **_: Any) -> str:
            self.posted.append(text)
            return "posted"

        def note(text: str) -> str:
            self.noted.append(text)
            return "noted"

        def query(sql: str) -> str:
            return json.dumps(self.database.execute(sql).fetchall())

        self.servers = {
            "issues": Acting(get_issue=lambda repo, n: issue[n], add_comment=post),
            "code": Acting(
                get_file=lambda repo, path: PAYROLL if repo == "payroll" else "Welcome.", create_pull_request=post
            ),
            "desk": Acting(get_ticket=lambda n: ticket[n], reply=post),
            "database": Acting(query=query),
            "notes": Acting(append=note),
        }


CONTENT = {
    "servers": {
        "code": {
            "trusted": True,
            "labels": {
                "rules": [
                    {"match": "get_file", "where": {"repo": "website"}, "reads": []},
                    {"match": "get_file", "reads": ["private"]},
                ]
            },
        },
        "database": {"trusted": True, "labels": {"reads": ["private"]}},
        "notes": {"trusted": True, "labels": {"sink": "internal"}},
    },
    "arguments": {"tools": {"database/query": {"sql": {"read_only": True}}}},
    "spotlight": "off",
}
# Nothing that reads words has a say: results and messages are recorded only, and of arguments only rules are left.
BLIND = {
    **CONTENT,
    "unsafe_observe": ["results", "messages"],
    "allow": [
        {"finding": one, "server": server, "owner": "test", "expires": "2099-01-01", "reason": "flow rules only"}
        for one in SECOND_LINE
        for server in ("issues", "code", "desk", "database", "notes")
    ],
}


@pytest.fixture(scope="module", params=[CONTENT, BLIND], ids=["detectors", "no detectors"])
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, World, bool]]:
    """A gateway in front of all of them; whether it reads words."""
    world = World()
    with contextlib.ExitStack() as stack:
        servers = {name: {"url": stack.enter_context(serving(one))} for name, one in world.servers.items()}
        rules = [{"allow": "anyone", "call": "*/*", "scopes": ["use"]}]
        made = stack.enter_context(
            running(
                tmp_path_factory.mktemp("played"), approved=(), mcpServers=servers, policy={"rules": rules},
                content=request.param,
            )
        )  # fmt: skip
        registry = open_registry(load_config(made.config).config)
        # What is written last of a reading is the list of all that was announced.
        made.until(lambda: {server for server, kind, _ in registry.names() if kind == "set"} == set(servers), 40)
        for (server, name), effect in EFFECTS.items():
            registry.approve(server, "tool", name, "ann", "looked at it", effect=effect)
        made.until(lambda: {(server, tool) for server in servers for tool in offered(made, server)} == set(EFFECTS))
        yield made, world, request.param is CONTENT


def offered(gateway: Running, server: str) -> list[str]:
    """Names a client is shown."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
    headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/list"}
    _, _, body = gateway.post(message, gateway.token(server=server), server, **headers)
    return [one["name"] for one in body["result"]["tools"]]


def call(gateway: Running, server: str, tool: str, subject: str, **arguments: Any) -> tuple[int, str]:
    """Status, and the text of the answer or of the error."""
    params = {"name": tool, "arguments": arguments, "_meta": META}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": tool}
    status, _, body = gateway.post(message, gateway.token(subject, server), server, **headers)
    return status, body["result"]["content"][0]["text"] if "result" in body else body["error"]["message"]


def test_a_public_issue_does_not_publish_a_private_repository(played: tuple[Running, World, bool]) -> None:
    """PI-01, PI-15: read the issue, obey it: read the private file, put it where everybody reads."""
    gateway, world, reads = played
    status, issue = call(gateway, "issues", "get_issue", "dev", repo="website", n=1)
    assert ("payroll" in issue) is not reads
    if reads:
        return  # the model never learns of payroll
    assert status == 200
    assert call(gateway, "code", "get_file", "dev", repo="payroll", path="all") == (200, PAYROLL)
    assert call(gateway, "code", "create_pull_request", "dev", repo="website", text=PAYROLL)[0] == 403
    assert call(gateway, "issues", "add_comment", "dev", repo="website", n=1, text=PAYROLL)[0] == 403
    assert world.posted == []


def test_the_flow_holds_where_the_text_is_honest_too(played: tuple[Running, World, bool]) -> None:
    """PI-15: the order to leak may come from anywhere; both kinds of data in one head are enough, in any order."""
    gateway, world, _ = played
    assert call(gateway, "code", "get_file", "eve", repo="payroll", path="all")[0] == 200
    assert call(gateway, "issues", "get_issue", "eve", repo="website", n=2)[0] == 200
    assert call(gateway, "issues", "add_comment", "eve", repo="website", n=2, text="5200 and 4100")[0] == 403
    assert call(gateway, "desk", "reply", "eve", n=2, text="another way out")[0] == 403
    assert not world.posted


def test_an_issue_is_answered_in_its_own_repository(played: tuple[Running, World, bool]) -> None:
    """PI-01, PI-15, honest twins: a public issue, a public file, a comment and a pull request there."""
    gateway, world, _ = played
    assert "slow" in call(gateway, "issues", "get_issue", "maintainer", repo="website", n=2)[1]
    assert call(gateway, "code", "get_file", "maintainer", repo="website", path="a") == (200, "Welcome.")
    assert call(gateway, "issues", "add_comment", "maintainer", repo="website", n=2, text="Fixed in 2.4.") == (
        200,
        "posted",
    )
    assert call(gateway, "code", "create_pull_request", "maintainer", repo="website", text="Faster.") == (200, "posted")
    assert world.posted == ["Fixed in 2.4.", "Faster."]
    world.posted.clear()


def test_a_ticket_does_not_post_the_table_of_tokens(played: tuple[Running, World, bool]) -> None:
    """PI-02: read the ticket, obey it: run the query, reply with the result."""
    gateway, world, reads = played
    _, ticket = call(gateway, "desk", "get_ticket", "agent", n=1)
    assert ("integration_tokens" in ticket) is not reads
    if reads:
        return
    status, rows = call(gateway, "database", "query", "agent", sql="SELECT * FROM integration_tokens")
    assert status == 200
    assert TOKEN_ROW in rows
    assert call(gateway, "desk", "reply", "agent", n=1, text=rows)[0] == 403
    assert world.posted == []


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM orders", "SELECT 1; DROP TABLE orders", "INSERT INTO orders VALUES ('x')",
        "ATTACH DATABASE '/tmp/x' AS y", "SELECT 1; COMMIT; DELETE FROM orders",
        "WITH a AS (SELECT 1) DELETE FROM orders",
    ],
)  # fmt: skip
def test_a_ticket_does_not_change_the_database(played: tuple[Running, World, bool], sql: str) -> None:
    """PI-02, CI-07: the statement is not what the argument may be, whoever talked the model into it."""
    gateway, world, _ = played
    before = len(world.servers["database"].calls)
    assert call(gateway, "database", "query", "writer", sql=sql)[0] == 403
    assert len(world.servers["database"].calls) == before


def test_a_ticket_is_answered_and_a_query_is_noted(played: tuple[Running, World, bool]) -> None:
    """PI-02, honest twins: a reply without private data in hand; a query whose result stays inside."""
    gateway, world, _ = played
    assert "late" in call(gateway, "desk", "get_ticket", "clerk", n=2)[1]
    assert call(gateway, "desk", "reply", "clerk", n=2, text="It is on its way.") == (200, "posted")
    status, rows = call(gateway, "database", "query", "clerk", sql="SELECT count(*) FROM orders WHERE state = 'open'")
    assert (status, rows) == (200, "[[1]]")
    assert call(gateway, "notes", "append", "clerk", text="one order is open") == (200, "noted")
    assert (world.posted, world.noted) == (["It is on its way."], ["one order is open"])
    world.posted.clear()


def test_who_stopped_it_is_on_record(played: tuple[Running, World, bool]) -> None:
    """PI-15: that a person was asked, about which call of whom; none of the data."""
    gateway, _, _ = played
    refused = [one for one in gateway.records("refusal") if one.get("sub") == "eve"]
    assert {(one["reason"], one["server"], one["name"]) for one in refused} == {
        ("policy.approval", "issues", "add_comment"),
        ("policy.approval", "desk", "reply"),
    }
    waiting = json.loads(gateway.limen("approvals", "list", "--json"))
    assert {"add_comment", "reply"} <= {word for word in ("add_comment", "reply") if word in json.dumps(waiting)}
    assert PAYROLL not in json.dumps(refused)
