"""J4, OP-09: what was in force is kept, compared and put back; a file that is being written is not taken over."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import launched
from gateway.running import Running, running
from limen.config.load import load_config
from limen.core.faults import ConfigFault, DependencyFault
from limen.history import keep_config, kept, policies, redacted, restored, text_of
from limen.storage import State


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, approved=("one",), tools=("echo",)) as started:
        yield started


def limen(gateway: Running, *arguments: str) -> Any:
    return json.loads(gateway.limen(*arguments, "--json"))


def change(gateway: Running, text: str) -> None:
    before = gateway.log.count("configuration taken over") + gateway.log.count("read before stays in force")
    gateway.config.write_text(text)
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(
        lambda: gateway.log.count("configuration taken over") + gateway.log.count("read before stays") > before
    )


def test_a_tampered_policy_is_seen_compared_and_put_back_op_09(gateway: Running) -> None:
    honest = gateway.config.read_text()
    config = json.loads(honest)
    config["policy"]["rules"] = [{"allow": "anyone", "call": "*/*"}]
    change(gateway, "# opened up\n" + json.dumps(config, indent=1))
    newest, oldest = limen(gateway, "config", "history")
    assert newest["policy"] != oldest["policy"] and newest["by"].startswith("owner of the file: ")
    assert any(
        '"deny"' in one and one.startswith("-") for one in limen(gateway, "config", "diff", oldest["id"])["diff"]
    )
    assert limen(gateway, "config", "show", oldest["id"])["content"] == honest
    limen(gateway, "config", "rollback", oldest["id"])  # only shown
    assert gateway.config.read_text() != honest
    done = limen(gateway, "config", "rollback", oldest["id"], "--yes", "--by", "ann", "--reason", "OP-09")
    assert done["gateways"] == 1
    assert gateway.config.read_text() == honest
    opened, back = gateway.records("reload")
    assert back["policy"] == opened["policy_before"] and back["text"] == oldest["text"]
    last = limen(gateway, "config", "history")[0]
    assert (last["text"], last["by"], last["reason"]) == (oldest["text"], "ann", "OP-09")
    gateway.until(lambda: gateway.records("config"))
    assert gateway.records("config")[-1]["by"] == "ann"
    digests = [row["policy"] for row in limen(gateway, "policy", "history")]
    assert {opened["policy"], back["policy"]} <= set(digests)
    changed = limen(gateway, "policy", "diff", back["policy"], opened["policy"])["diff"]
    assert any("forbid" in one and one.startswith("-") for one in changed)
    assert "result" in gateway.call("echo", gateway.token())[1]


def test_a_rollback_that_does_not_check_changes_nothing(gateway: Running) -> None:
    """What was good then need not be good now: the gateway's own judgement is asked, and the file stays."""
    (gateway.directory / "rules.cedar").write_text('forbid(principal, action, resource == Tool::"one/danger");')
    config = json.loads(gateway.config.read_text())
    config["policy"]["cedar"] = ["rules.cedar"]
    change(gateway, json.dumps(config))
    config["policy"]["cedar"] = []
    change(gateway, json.dumps(config))
    rows = limen(gateway, "config", "history")
    (gateway.directory / "rules.cedar").unlink()
    before = gateway.config.read_text()
    refused = launched.limen("-c", str(gateway.config), "config", "rollback", rows[1]["id"], "--yes")
    assert refused.returncode == 2, refused.stdout
    assert gateway.config.read_text() == before


def test_damaged_and_unknown_entries_are_said(tmp_path: Path) -> None:
    path = tmp_path / "limen.yaml"
    path.write_text("identity: {unsafe_anonymous: true}\n")
    loaded = load_config(path)
    state = State.open(loaded.config)
    digest = keep_config(state.history, loaded, "p1")
    assert keep_config(state.history, loaded, "p1") == digest and len(kept(state.history)) == 1
    (one,) = kept(state.history)
    state.history.put(f"text/{digest}", b"identity: {unsafe_anonymous: false}\n")
    with pytest.raises(DependencyFault, match="damaged"):
        text_of(state.history, one)
    state.history.put("policies/1", json.dumps({"at": 1.0}).encode())
    with pytest.raises(DependencyFault, match="damaged"):
        policies(state.history)
    for arguments, status in ((["config", "show", one.id], 3), (["config", "show", "nothing"], 1)):
        assert launched.limen("-c", str(path), *arguments).returncode == status
    state.history.put("config/5", b"{")
    with pytest.raises(DependencyFault, match="config/5"):
        kept(state.history)
    state.close()


SECRETS = """# mine
mcpServers:
  files:
    command: files
    args: ["--api-key=abcdef", "--quiet"]
    env:
      FILES_TOKEN: hunter22   # not by reference
      HOME_DIR: "${env:HOME}"
"""


def test_secrets_in_the_file_are_not_kept_and_come_back_from_the_file(tmp_path: Path) -> None:
    text, hidden = redacted(SECRETS.encode(), "limen.yaml")
    assert b"hunter22" not in text and b"abcdef" not in text and len(hidden) == 2
    assert b"# mine" in text and b"${env:HOME}" in text and b"# not by reference" in text
    path = tmp_path / "limen.yaml"
    path.write_text(SECRETS)
    loaded = load_config(path)
    state = State.open(loaded.config)
    keep_config(state.history, loaded, "p")
    (one,) = kept(state.history)
    now = SECRETS.replace("hunter22", "renewed").replace("# mine", "# theirs")
    assert (
        restored(text, one, now.encode(), "limen.yaml")
        == SECRETS.replace("hunter22", '"renewed"').replace('"--api-key=abcdef"', '"--api-key=abcdef"').encode()
    )
    with pytest.raises(ConfigFault, match="kept nowhere"):
        restored(text, one, b"mcpServers: {}\n", "limen.yaml")
    database = b"".join(file.read_bytes() for file in (tmp_path / "limen-state").iterdir() if file.is_file())
    assert b"hunter22" not in database
    state.close()


def test_a_file_that_is_being_written_is_not_taken_over_op_09(gateway: Running) -> None:
    """A writer that is not done yet: what is there parses, without the rules that deny."""
    whole = json.loads(gateway.config.read_text())
    half = {**whole, "policy": {"rules": whole["policy"]["rules"][:1]}}
    script = (
        "import sys,time,pathlib,os,signal\n"
        "path, one, two, pid = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])\n"
        "os.kill(pid, signal.SIGHUP)\n"
        "end = time.monotonic() + 2\n"
        "while time.monotonic() < end:\n"
        "    path.write_text(one)\n"
        "    time.sleep(0.0005)\n"
        "    path.write_text(two)\n"
        "    os.kill(pid, signal.SIGHUP)\n"
    )
    argv = [sys.executable, "-c", script, str(gateway.config), json.dumps(half), json.dumps(whole)]
    subprocess.run([*argv, str(gateway.process.pid)], timeout=30, check=True)
    change(gateway, json.dumps(whole))
    assert gateway.call("danger", gateway.token())[1]["error"]
    assert gateway.records("reload", 4000)[-1]["ok"]
