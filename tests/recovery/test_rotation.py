"""J3: keys are replaced while twenty callers call; none of their calls fails; what was replaced is void."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import launched
from gateway.running import ISSUER, KEY, META, Running, running
from limen.adapters.handlekeys import HandleKeys
from limen.identity.handles import STATE, Handles
from limen.storage import State
from recovery.load import calling

OWNER = ("https://idp.example", "alice", "client")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    jwks = json.dumps({"keys": [KEY.as_dict(private=False)]})
    identity = {"issuers": [{"issuer": ISSUER, "jwks": jwks}], "api_keys": True}
    limits = {"caller": {"rate": 1000}}
    with running(
        tmp_path_factory.mktemp("rotate"), approved=("one",), tools=("echo",), identity=identity, limits=limits
    ) as started:
        yield started


def rotate(gateway: Running, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gateway.limen("keys", "rotate", *arguments, "--json"))
    assert found["ok"]
    return found


def test_the_log_key_is_replaced_under_load_and_the_log_verifies_from_the_first_key_j3(gateway: Running) -> None:
    first = json.loads(gateway.limen("audit", "key", "--json"))["key"]
    with calling(gateway) as load:
        for _ in range(2):
            rotate(gateway, "log")
    assert load.failed == {}
    assert load.outcomes["result"] > 20
    current = json.loads(gateway.limen("audit", "key", "--json"))["key"]
    assert current != first
    for key in (first, current):
        gateway.until(lambda key=key: json.loads(gateway.limen("audit", "verify", "--json", "--key", key))["ok"])
    assert [one["why"] for one in gateway.records("rotated", 4000)] == ["planned", "planned"]
    gateway.stop()
    gateway.start()  # with the key the log itself names
    assert json.loads(gateway.limen("audit", "key", "--json"))["key"] == current
    assert gateway.call("echo", gateway.token())[0] == 200


def test_handles_survive_a_planned_change_and_not_an_emergency_j3_c1(gateway: Running) -> None:
    state = State.open(_config(gateway))
    handles = Handles(HandleKeys(gateway.directory / "limen-state" / "handle-keys"), state.spent)
    sealed = handles.seal(STATE, OWNER, "one", b"x", 600.0)
    session = gateway.session(gateway.token())
    with calling(gateway, 10) as load:
        rotate(gateway, "handles")
        assert handles.open(STATE, OWNER, "one", sealed) is not None
        assert _listed(gateway, session) == 200
        rotate(gateway, "handles", "--emergency", "--reason", "the file was copied")
    assert load.failed == {}
    gateway.until(lambda: handles.open(STATE, OWNER, "one", sealed) is None, 3.0)
    gateway.until(lambda: _listed(gateway, session) == 404, 3.0)
    assert _listed(gateway, gateway.session(gateway.token())) == 200
    gateway.until(lambda: [one["why"] for one in gateway.records("rotated", 4000) if one["key"] == "handles"] == [
        "planned", "emergency"])  # fmt: skip
    state.close()


def test_api_keys_are_regenerated_with_overlap_and_without_j3(gateway: Running) -> None:
    made = json.loads(gateway.limen("keys", "api", "create", "nightly", "--server", "one", "--scope", "use", "--json"))
    assert _by_key(gateway, made["key"]) == 200
    (second,) = json.loads(gateway.limen("keys", "api", "regenerate", made["id"], "--overlap", "1", "--json"))
    assert second["owner"] == "nightly" and second["servers"] == ["one"] and second["key"] != made["key"]
    assert _by_key(gateway, made["key"]) == _by_key(gateway, second["key"]) == 200
    third = json.loads(gateway.limen("keys", "api", "regenerate", "--of", "nightly", "--overlap", "0", "--json"))
    assert {_by_key(gateway, key) for key in (made["key"], second["key"])} == {401}
    assert {_by_key(gateway, one["key"]) for one in third} == {200}
    with pytest.raises(subprocess.CalledProcessError):
        gateway.limen("keys", "api", "regenerate", made["id"])  # what was revoked does not come back
    row = next(one for one in json.loads(gateway.limen("keys", "list", "--json")) if one["name"].startswith("api"))
    assert row["what"] == "nightly" and made["key"] not in json.dumps(row)


def test_rotating_all_says_what_there_is_nothing_of(gateway: Running) -> None:
    rows = {row["name"]: row for row in rotate(gateway, "all")["keys"]}
    assert rows["tls"]["done"] == rows["tokens"]["done"] == "" and "no certificate" in rows["tls"]["follows"]
    assert rows["log"]["done"].startswith("limen+")
    assert {row["name"] for row in json.loads(gateway.limen("keys", "list", "--json"))} >= {"handles", "log", "house"}


def test_an_emergency_needs_a_reason(gateway: Running) -> None:
    assert launched.limen("-c", str(gateway.config), "keys", "rotate", "log", "--emergency").returncode == 2


def test_the_log_key_is_replaced_while_nobody_runs(tmp_path: Path) -> None:
    (tmp_path / "limen.yaml").write_text("identity: {unsafe_anonymous: true}\n")
    (tmp_path / "limen.yaml").chmod(0o600)
    (tmp_path / "limen-state").mkdir(mode=0o700)

    def limen(*arguments: str) -> dict[str, Any]:
        done = launched.limen("-c", str(tmp_path / "limen.yaml"), *arguments, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    limen("keys", "rotate", "log")
    first = (tmp_path / "limen-state" / "audit.key.pub").read_text().strip()
    assert limen("audit", "verify", "--key", first)["ok"]
    assert limen("audit", "key")["key"] != first
    (tmp_path / "limen-state" / "audit-log.key").unlink()
    lost = launched.limen("-c", str(tmp_path / "limen.yaml"), "keys", "rotate", "log")
    assert lost.returncode == 1 and "restore it" in lost.stdout


def _config(gateway: Running) -> Any:
    from limen.config.load import load_config

    return load_config(gateway.config).config


def _listed(gateway: Running, session: str) -> int:
    message = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
    headers = {"Mcp_Session_Id": session, "MCP_Protocol_Version": "2025-11-25"}
    status: int = gateway.post(message, gateway.token(), **headers)[0]
    return status


def _by_key(gateway: Running, key: str) -> int:
    params = {"name": "echo", "arguments": {}, "_meta": META}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    mirrored = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "echo"}
    status: int = gateway.post(message, None, **mirrored, X_API_Key=key)[0]
    return status
