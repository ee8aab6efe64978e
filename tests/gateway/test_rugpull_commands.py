"""From the change of a server to a decision, with the commands a person has, and the log that proves all of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

import pytest

from gateway.rugpull import EVIL, Rug, serving
from gateway.running import Running, running
from limen.catalog.registry import Entry
from limen.config.load import load_config
from limen.opening import open_registry

INTERVAL = 5.0
NOTICED = INTERVAL * 1.2 + 3
WAYS = ("silent", "after")


class House:
    """The gateway, the servers behind it, and what is asked of them."""

    def __init__(self, gateway: Running, rugs: dict[str, Rug]) -> None:
        self.gateway, self.rugs = gateway, rugs
        self.registry = open_registry(load_config(gateway.config).config)

    def entry(self, server: str) -> Entry:
        return next(one for one in self.registry.entries(server) if (one.kind, one.name) == ("tool", "echo"))

    def pull(self, server: str) -> None:
        rug = self.rugs[server]
        if rug.mode == "after":
            rug.after = rug.readings + 1  # it counts: one more reading is clean
        else:
            rug.pull()

    def shown(self, server: str) -> str:
        """The description a client is shown."""
        token = self.gateway.token(server=server)
        ask = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
        session = self.gateway.session(token, server)
        _, _, answer = self.gateway.post(ask, token, server, Mcp_Session_Id=session, MCP_Protocol_Version="2025-11-25")
        return next(str(tool["description"]) for tool in answer["result"]["tools"] if tool["name"] == "echo")

    def call(self, server: str) -> None:
        """It works as it was approved."""
        status, body = self.gateway.call("echo", self.gateway.token(server=server), server)
        assert (status, body["result"]["content"][0]["text"]) == (200, "ran echo")

    def story(self, server: str) -> list[tuple[str, str, str, str]]:
        """Change, who, reason and digest of every record in the log about the tool, oldest first."""
        return [
            (row["change"], row["by"], row["reason"], row["digest"])
            for row in self.gateway.records("catalog", 5000)
            if (row["server"], row["kind"], row["name"]) == (server, "tool", "echo")
        ]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with contextlib.ExitStack() as stack:
        rugs = {way: Rug("after:1000000" if way == "after" else way) for way in WAYS} | {"client": Rug("client")}
        servers = {name: {"url": stack.enter_context(serving(rug))} for name, rug in rugs.items()}
        gateway = running(
            tmp_path_factory.mktemp("commands"), approved=tuple(rugs), tools=("echo",), mcpServers=servers,
            catalog={"refresh": INTERVAL}, policy={"rules": [{"allow": "anyone", "call": "*/*", "scopes": ["use"]}]},
        )  # fmt: skip
        yield House(stack.enter_context(gateway), rugs)


@pytest.mark.parametrize("server", WAYS)
def test_a_change_is_held_decided_in_one_command_and_undone_in_another(house: House, server: str) -> None:
    limen, until = house.gateway.limen, house.gateway.until
    good = house.entry(server).approved
    house.call(server)

    house.pull(server)
    until(lambda: house.entry(server).state == "drifted", 2 * NOTICED)
    until(lambda: "changed" in [row[0] for row in house.story(server)], 10)  # now the gateway decides by it as well
    waiting = house.entry(server)
    bad = waiting.pending
    assert (waiting.approved, waiting.withheld) == (good, "")
    assert waiting.risk in ("high", "critical")
    assert house.shown(server) == "Echoes."
    house.call(server)

    with pytest.raises(subprocess.CalledProcessError) as differs:
        limen("tools", "diff", server, "echo")
    assert differs.value.returncode == 1
    assert ".ssh/id_rsa" in differs.value.stdout
    assert waiting.risk in differs.value.stdout
    with pytest.raises(subprocess.CalledProcessError) as careless:
        limen("tools", "approve", server, "echo")
    assert careless.value.returncode == 2
    assert house.shown(server) == "Echoes."

    limen("tools", "approve", server, "echo", "--reason", "we wanted that")
    until(lambda: house.shown(server) == EVIL, 10)
    house.call(server)

    limen("tools", "rollback", server, "echo", "--reason", "we did not")
    until(lambda: house.shown(server) == "Echoes.", 10)
    house.call(server)
    assert house.entry(server).approved == good

    # The log has each step, in order, and says which definition each call was judged by.
    rows = [(change, reason, digest) for change, _, reason, digest in house.story(server)]
    assert rows == [
        ("new", "", good),
        ("approved", "test", good),
        ("changed", "", bad),
        ("approved", "we wanted that", bad),
        ("rolled_back", "we did not", good),
    ]
    people = [by for change, by, _, _ in house.story(server) if change in ("approved", "rolled_back")]
    assert all(people) and "server" not in people
    intents = [row for row in house.gateway.records("intent", 5000) if row["server"] == server]
    assert [row["digest"] for row in intents] == [good, good, bad, good]
    assert [row["drifted"] for row in intents] == [False, True, False, True]
    outcomes = {row["ref"]: row["reason"] for row in house.gateway.records("outcome", 5000)}
    assert [outcomes[row["ref"]] for row in intents] == ["ok"] * 4


def test_a_list_for_others_is_told_by_the_commands_and_hurts_nobody(house: House) -> None:
    """By client name: nothing changed that anybody approved, so there is nothing to undo, and a finding to look at."""
    house.gateway.until(lambda: house.gateway.records("finding"), 2 * NOTICED)
    assert house.entry("client").state == "approved"
    assert house.shown("client") == "Echoes."
    house.call("client")
    history = json.loads(house.gateway.limen("tools", "history", "client", "--json"))
    found = next(row for row in history if row["event"] == "finding")
    assert "shows another list to a client named" in found["reason"]
    assert found["sequence"] in [row["sequence"] for row in house.gateway.records("catalog", 5000)]
    assert "finding" in house.gateway.limen("audit", "tail", "-n", "5000")
    with pytest.raises(subprocess.CalledProcessError) as nothing:
        house.gateway.limen("tools", "rollback", "client", "echo", "--reason", "just in case")
    assert nothing.value.returncode == 1


def test_the_log_of_all_this_verifies_and_outlives_a_restart(house: House) -> None:
    limen = house.gateway.limen
    report = json.loads(limen("audit", "verify", "--json"))
    assert report["ok"] is True
    checkpoint = house.gateway.directory / "before"
    checkpoint.write_bytes((house.gateway.directory / "limen-state" / "audit" / "checkpoint").read_bytes())
    told = len(house.story("silent"))
    assert house.gateway.stop() == 0
    house.gateway.start()
    after = json.loads(limen("audit", "verify", "--checkpoint", str(checkpoint), "--json"))
    assert after["ok"] is True
    assert after["size"] > report["size"]
    assert len(house.story("silent")) == told  # nothing is told twice
    assert house.shown("silent") == "Echoes."
    house.call("silent")
