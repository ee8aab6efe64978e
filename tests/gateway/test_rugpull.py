"""Servers that change after they were approved, behind the running gateway: noticed, held, and the approved version
stays in service. Honest servers beside them are left alone."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.rugpull import EVIL, Rug, serving
from gateway.running import Running, running

INTERVAL = 8.0
NOTICED = INTERVAL * 1.2 + 3
PROGRAM = Path(__file__).parent / "rugpull.py"
REMOTE = ("silent", "announced", "required", "client", "after:1000000", "steady", "shuffled", "noise")
LOCAL = ("silent", "announced", "client", "shuffled")


def name(mode: str, how: str) -> str:
    return f"{how}-{mode.partition(':')[0]}"


class House:
    """The gateway and the servers behind it."""

    def __init__(self, gateway: Running, rugs: dict[str, Rug]) -> None:
        self.gateway, self.rugs = gateway, rugs

    def pull(self, server: str) -> None:
        if server in self.rugs:
            self.rugs[server].pull()
        else:
            (self.gateway.directory / server / "pull").touch()

    def state(self, server: str) -> str:
        rows = json.loads(self.gateway.limen("tools", "list", server, "--json"))["entries"]
        return next(str(row["state"]) for row in rows if row["name"] == "echo" and row["kind"] == "tool")

    def call(self, server: str) -> tuple[int, dict[str, Any]]:
        return self.gateway.call("echo", self.gateway.token(server=server), server)

    def still_serves(self, server: str) -> None:
        """What was approved: the tool can be called, and its description is the one a person saw."""
        status, body = self.call(server)
        assert (status, body["result"]["content"][0]["text"]) == (200, "ran echo")
        token = self.gateway.token(server=server)
        ask = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
        session = self.gateway.session(token, server)
        _, _, answer = self.gateway.post(ask, token, server, Mcp_Session_Id=session, MCP_Protocol_Version="2025-11-25")
        texts = {tool["name"]: tool["description"] for tool in answer["result"]["tools"]}
        assert texts["echo"] == "Echoes."

    def findings(self, server: str) -> list[str]:
        return [line for line in self.gateway.log.splitlines() if f"FINDING {server}:" in line]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("rugs")
    servers: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        rugs = {name(mode, "http"): Rug(mode) for mode in REMOTE} | {"old-client": Rug("client", modern=False)}
        for server, rug in rugs.items():
            servers[server] = {"url": stack.enter_context(serving(rug))}
        for mode in LOCAL:
            server = name(mode, "stdio")
            (directory / server).mkdir()
            servers[server] = {
                "command": sys.executable,
                "args": [str(PROGRAM), mode, str(directory / server)],
                "security": {"unsafe_no_sandbox": True},
            }
        rules = [{"allow": "anyone", "call": "*/*", "scopes": ["use"]}]
        gateway = running(
            directory, approved=tuple(servers), tools=("echo",), mcpServers=servers, catalog={"refresh": INTERVAL},
            policy={"rules": rules},
        )  # fmt: skip
        yield House(stack.enter_context(gateway), rugs)


@pytest.mark.parametrize("server", ["http-silent", "stdio-silent"])
def test_a_silent_change_is_noticed_within_one_interval_and_held(house: House, server: str) -> None:
    assert house.state(server) == "approved"
    house.pull(server)
    house.gateway.until(lambda: house.state(server) == "drifted", NOTICED)
    house.still_serves(server)
    assert not house.findings(server)


@pytest.mark.parametrize("server", ["http-announced", "stdio-announced"])
def test_an_announced_change_is_noticed_at_once_and_held(house: House, server: str) -> None:
    house.pull(server)
    house.gateway.until(lambda: f"{server}/echo: changed" in house.gateway.log, 4)
    assert house.state(server) == "drifted"
    house.still_serves(server)


def test_a_change_after_some_readings_is_noticed_and_held(house: House) -> None:
    rug = house.rugs["http-after"]
    assert house.state("http-after") == "approved"
    rug.after = rug.readings + 1
    house.gateway.until(lambda: house.state("http-after") == "drifted", 2 * NOTICED)
    house.still_serves("http-after")


def test_a_change_that_asks_for_more_takes_the_tool_out_of_service(house: House) -> None:
    assert house.call("http-required")[0] == 200
    house.pull("http-required")
    house.gateway.until(lambda: house.state("http-required") == "drifted", NOTICED)
    house.gateway.until(lambda: "error" in house.call("http-required")[1], 3)
    assert not house.rugs["http-required"].calls[1:]


@pytest.mark.parametrize("server", ["http-client", "old-client", "stdio-client"])
def test_a_list_for_other_clients_is_found_told_and_recorded(house: House, server: str) -> None:
    house.gateway.until(lambda: house.findings(server), 2 * NOTICED)
    assert "shows another list to a client named" in house.findings(server)[0]
    assert EVIL not in house.gateway.log
    found = [record for record in house.gateway.records("finding") if record["server"] == server]
    assert "tool echo is " in found[0]["detail"]
    rows = [record for record in house.gateway.records("catalog") if record["server"] == server]
    assert found[0]["detail"][:500] in [row["reason"] for row in rows if row["change"] == "finding"]
    assert house.state(server) == "approved"
    house.still_serves(server)


def test_the_last_process_that_looked_like_another_client_is_gone(house: House) -> None:
    house.gateway.until(lambda: house.findings("stdio-client"), 2 * NOTICED)
    place = house.gateway.directory / "stdio-client"

    def running_now() -> int:
        return len(list(place.glob("started-*"))) - len(list(place.glob("ended-*")))

    assert len(list(place.glob("started-*"))) > 1
    house.gateway.until(lambda: running_now() == 1, NOTICED)


@pytest.mark.parametrize("server", ["http-steady", "http-shuffled", "http-noise", "stdio-shuffled"])
def test_honest_servers_are_left_alone(house: House, server: str) -> None:
    if server in house.rugs:
        house.gateway.until(lambda: set(house.rugs[server].clients) - {"limen"}, 2 * NOTICED)
    else:
        place = house.gateway.directory / server
        house.gateway.until(lambda: len(list(place.glob("started-*"))) > 1, 2 * NOTICED)
    time.sleep(1)
    assert not house.findings(server)
    assert house.state(server) == "approved"
    house.still_serves(server)
    changes = [row["change"] for row in house.gateway.records("catalog") if row["server"] == server]
    assert set(changes) <= {"new", "approved"}
