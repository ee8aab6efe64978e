"""SIGHUP: the running gateway takes its file over whole or not at all, while calls go on."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.rugpull import Rug, serving
from gateway.running import ISSUER, Running, running
from launched import free_port

PROGRAM = Path(__file__).parent / "rugpull.py"
OPEN = [{"allow": "anyone", "call": "*/*", "scopes": ["use"]}]


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, approved=("one",), tools=("echo",)) as started:
        yield started


def change(gateway: Running, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit the file and ask for it to be read; wait until it was."""
    config = json.loads(gateway.config.read_text())
    edit(config)
    gateway.config.write_text(json.dumps(config))
    hang_up(gateway)


def hang_up(gateway: Running) -> None:
    before = answers(gateway)
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: answers(gateway) > before)


def sets(gateway: Running) -> list[dict[str, Any]]:
    return [row for row in gateway.records("catalog") if (row["kind"], row["change"]) == ("set", "new")]


def answers(gateway: Running) -> int:
    return gateway.log.count("configuration taken over") + gateway.log.count("read before stays in force")


def test_a_changed_policy_decides_without_a_restart_and_is_recorded(gateway: Running) -> None:
    assert "result" in gateway.call("echo", gateway.token())[1]
    change(gateway, lambda config: config["policy"]["rules"].append({"deny": "anyone", "call": "one/echo"}))
    assert gateway.call("echo", gateway.token())[1]["error"]["message"] == "Unknown name"
    change(gateway, lambda config: config["policy"]["rules"].pop())
    assert "result" in gateway.call("echo", gateway.token())[1]
    first, second = gateway.records("reload")
    assert first["ok"] is second["ok"] is True
    assert first["policy_before"] == second["policy"] != first["policy"] == second["policy_before"]
    assert first["servers"] == {"added": [], "removed": [], "changed": []}
    assert json.loads(gateway.limen("audit", "verify", "--json"))["ok"] is True


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ('{"version": 1,\n "polcy": {}}', "limen.yaml:2"),
        ("version: 1\npolicy:\n  rules:\n    - {allow: anyone}\n", "limen.yaml:4"),
        ("version: 1\nmcpServers: {a: {url: http://far.example}}\n", "https is needed"),
        ("{", "limen.yaml"),
    ],
)
def test_a_broken_file_changes_nothing_and_says_where(tmp_path: Path, broken: str, said: str) -> None:
    with running(tmp_path, approved=("one",), tools=("echo",)) as gateway:
        whole = gateway.config.read_text()
        gateway.config.write_text(broken)
        hang_up(gateway)
        complaint = next(line for line in gateway.log.splitlines() if "configuration not taken over" in line)
        assert said in complaint
        assert "result" in gateway.call("echo", gateway.token())[1]
        gateway.config.write_text(whole)
        (record,) = gateway.records("reload")
        assert record["ok"] is False
        assert said in record["detail"]
        hang_up(gateway)
        assert "configuration taken over; policy" in gateway.log


def test_a_file_without_an_issuer_is_not_taken_over(gateway: Running) -> None:
    change(gateway, lambda config: config.update(identity={}))
    assert "no issuer configured" in gateway.log
    assert gateway.call("echo", None)[0] == 401


def test_a_rule_that_cannot_be_compiled_is_not_taken_over(gateway: Running) -> None:
    change(gateway, lambda config: config["policy"].update(cedar=["permit(principal, action, resource) when { 1 };"]))
    assert "configuration not taken over" in gateway.log
    assert "result" in gateway.call("echo", gateway.token())[1]


def test_limits_and_issuers_change(gateway: Running) -> None:
    change(gateway, lambda config: config.update(limits={"rate": 0.01, "burst": 1}))
    assert [gateway.call("echo", gateway.token("fast"))[0] for _ in range(2)] == [200, 429]
    change(gateway, lambda config: config["identity"]["issuers"][0].update(issuer="https://other.example"))
    assert gateway.call("echo", gateway.token())[0] == 401
    assert gateway.call("echo", gateway.token(iss="https://other.example"))[0] == 200
    assert gateway.call("echo", gateway.token(iss=ISSUER))[0] == 401


def test_a_server_is_added_and_another_leaves_when_its_calls_are_done(tmp_path: Path) -> None:
    (tmp_path / "program").mkdir()
    leaving = {
        "command": sys.executable,
        "args": [str(PROGRAM), "steady", str(tmp_path / "program")],
        "security": {"unsafe_no_sandbox": True},
    }
    with (
        serving(fresh := Rug("steady")) as url,
        running(
            tmp_path, approved=("old",), tools=("slow", "echo"), mcpServers={"old": leaving}, policy={"rules": OPEN}
        ) as gateway,
    ):
        answer: list[Any] = []
        token = gateway.token(server="old")
        thread = threading.Thread(target=lambda: answer.append(gateway.call("slow", token, "old")))
        thread.start()
        gateway.until(lambda: gateway.records("intent"))
        change(gateway, lambda config: config.update(mcpServers={"new": {"url": url}}))
        assert gateway.call("echo", gateway.token(server="old"), "old")[0] == 404
        assert not answer
        assert not list((tmp_path / "program").glob("ended-*"))
        gateway.until(lambda: fresh.readings >= 1)
        gateway.limen("tools", "approve", "new", "echo", "--reason", "test")
        gateway.until(lambda: "result" in gateway.call("echo", gateway.token(server="new"), "new")[1])
        thread.join(20)
        assert answer[0][1]["result"]["content"][0]["text"] == "ran slow"  # in flight when its server was taken out
        gateway.until(lambda: list((tmp_path / "program").glob("ended-*")), 5)
        assert gateway.records("reload")[-1]["servers"] == {"added": ["new"], "removed": ["old"], "changed": []}


def test_a_server_that_is_exchanged_behind_its_name_is_read_before_it_gets_calls(tmp_path: Path) -> None:
    with (
        serving(Rug("steady")) as honest,
        serving(other := Rug("counter")) as evil,
        running(
            tmp_path, approved=("one",), tools=("echo",), mcpServers={"one": {"url": honest}}, policy={"rules": OPEN}
        ) as gateway,
    ):
        gateway.limen("tools", "approve", "one", "--all", "--kind", "server", "--reason", "test")
        assert "result" in gateway.call("echo", gateway.token())[1]
        change(gateway, lambda config: config["mcpServers"]["one"].update(url=evil))
        assert other.readings
        assert "error" in gateway.call("echo", gateway.token())[1]
        assert not other.calls
        change(gateway, lambda config: config["mcpServers"]["one"].update(url=honest))
        assert "result" in gateway.call("echo", gateway.token())[1]


@pytest.mark.requirement("AUTH-08")
def test_headers_of_a_server_change_with_the_file(gateway: Running) -> None:
    change(gateway, lambda config: config["mcpServers"]["one"].update(headers={"X-Plain": "second"}))
    assert "result" in gateway.call("echo", gateway.token())[1]
    headers, _ = [pair for pair in gateway.recorder.seen if b'"tools/call"' in pair[1]][-1]
    assert "x-plain: second" in headers.lower()


def test_what_needs_a_restart_is_named_and_stays_as_it_was(gateway: Running) -> None:
    port = free_port()

    def edit(config: dict[str, Any]) -> None:
        config["listen"]["url"] = f"http://127.0.0.1:{port}"
        config["audit"] = {"path": "elsewhere"}
        config["storage"] = {"path": "elsewhere.db"}
        config["policy"]["rules"].append({"deny": "anyone", "call": "one/slow"})

    whole = gateway.config.read_text()
    change(gateway, edit)
    gateway.config.write_text(whole)  # the commands below look where the gateway still writes
    for key in ("listen.url", "audit.path", "storage.path"):
        assert f"{key}: changed in the file, and needs a restart" in gateway.log
    assert gateway.records("reload")[-1]["restart"] == ["listen.url", "audit.path", "storage.path"]
    assert "result" in gateway.call("echo", gateway.token())[1]
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 1)
    assert not (gateway.directory / "elsewhere").exists()


def test_a_storm_of_signals_is_survived(gateway: Running) -> None:
    for _ in range(50):
        gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: answers(gateway) >= 1)
    assert "result" in gateway.call("echo", gateway.token())[1]
    assert gateway.stop() == 0


def test_a_lock_taken_over_is_all_that_is_in_force(tmp_path: Path) -> None:
    lock = tmp_path / "mcp.lock"
    open_rules = {"rules": OPEN}
    with running(tmp_path, extra=("late",), approved=("one",), tools=("echo",), policy=open_rules) as gateway:
        gateway.limen("tools", "lock", "--out", str(lock))
        gateway.limen("tools", "approve", "one", "late", "--reason", "test")
        gateway.until(lambda: "result" in gateway.call("late", gateway.token())[1], 5)
        change(gateway, lambda config: config.update(catalog={"lock": "mcp.lock"}))
        assert "result" in gateway.call("echo", gateway.token())[1]
        assert "error" in gateway.call("late", gateway.token())[1]  # approved after the lock was written
        with pytest.raises(subprocess.CalledProcessError):
            gateway.limen("tools", "approve", "one", "late", "--reason", "test")
        gateway.until(lambda: [row["server"] for row in sets(gateway)].count("one") == 2)  # read again against the lock
        lock.write_bytes(lock.read_bytes().replace(b"echo", b"ohce"))
        hang_up(gateway)
        assert "the configuration read before stays in force" in gateway.log
        assert "result" in gateway.call("echo", gateway.token())[1]
