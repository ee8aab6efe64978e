"""`limen connections`: list and end connected accounts, without a key and without showing a token."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

import launched
from credentials.account_kit import ALICE, BOB, House
from limen.config.load import load_config
from limen.core.faults import ConfigFault
from limen.storage import State


def limen(directory: Path, *arguments: str, status: int = 0) -> str:
    done = launched.limen("-c", str(directory / "limen.yaml"), "connections", *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def house(tmp_path: Path) -> House:
    (tmp_path / "limen.yaml").write_text(json.dumps({"storage": {"path": "limen.db"}}))
    made = House(tmp_path, now=time.time)

    async def connect() -> None:
        await made.connect(ALICE)
        await made.connect(BOB)

    asyncio.run(connect())
    return made


def test_list_and_revoke(tmp_path: Path, house: House) -> None:
    rows = json.loads(limen(tmp_path, "list", "--json"))
    assert {row["subject"] for row in rows} == {"alice", "bob"}
    assert "canary" not in json.dumps(rows)
    assert "alice" in limen(tmp_path, "list", "--user", "alice", "--server", "notes")
    assert json.loads(limen(tmp_path, "list", "--server", "other", "--json")) == []
    id = next(row["id"] for row in rows if row["subject"] == "alice")
    assert "ended: notes for alice" in limen(tmp_path, "revoke", id, "--reason", "left")
    assert asyncio.run(house.grants.held(ALICE, "notes")) is None
    assert asyncio.run(house.grants.held(BOB, "notes")) is not None
    ended = json.loads(limen(tmp_path, "revoke", "--user", "bob", "--json"))
    assert [row["subject"] for row in ended] == ["bob"]
    assert asyncio.run(house.grants.tell()) == 2
    told = [json.loads(raw) for _, raw in State.open(load_config(tmp_path / "limen.yaml").config).told.scan("")]
    assert [(one["event"], one["sub"], one["reason"]) for one in told] == [
        ("disconnected", "alice", "left"),
        ("disconnected", "bob", ""),
    ]


def test_what_makes_no_sense(tmp_path: Path, house: House) -> None:
    limen(tmp_path, "revoke", "f" * 12, status=1)
    limen(tmp_path, "revoke", "--user", "nobody", status=1)
    limen(tmp_path, "revoke", status=2)
    limen(tmp_path, "revoke", "abc", "--user", "bob", status=2)


@pytest.mark.parametrize(
    ("server", "oauth", "wrong"),
    [
        ({"url": "https://a.example/mcp"}, False, "oauth.provider"),
        ({"command": "true"}, True, "goes with url"),
        ({"url": "https://a.example/mcp", "client": {"id": "x"}}, True, "name its issuer"),
        ({"url": "https://a.example/mcp", "issuer": "http://as.example"}, True, "https"),
        ({"url": "https://a.example/mcp", "hosts": ["https://x"]}, True, "a name in lower case"),
        ({"url": "https://a.example/mcp", "header": "Mcp-Session-Id"}, True, "header of the protocol"),
        ({"url": "https://a.example/mcp", "scopes": ['a"b']}, True, "scope"),
        ({"url": "https://a.example/mcp", "issuer": "https://as.example", "client": {"id": "x"}}, True, ""),
    ],
)
def test_configurations(tmp_path: Path, server: dict[str, object], oauth: bool, wrong: str) -> None:
    place = {name: server.pop(name) for name in ("url", "command") if name in server}
    unverified = {"unsafe_unverified": True, "unsafe_no_sandbox": True} if "command" in place else {}
    settings: dict[str, object] = {
        "mcpServers": {"notes": {**place, "security": {**unverified, "credential": {"kind": "user", **server}}}}
    }
    if oauth:
        settings["oauth"] = {"provider": {"issuer": "https://idp.example", "client_id": "limen"}}
    (tmp_path / "limen.yaml").write_text(json.dumps(settings))
    if wrong:
        with pytest.raises(ConfigFault, match=wrong):
            load_config(tmp_path / "limen.yaml")
    else:
        load_config(tmp_path / "limen.yaml")
