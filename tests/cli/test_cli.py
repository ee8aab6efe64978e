"""The command line: exit statuses, one clear line for each fault, JSON everywhere, hostile text kept from terminals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from limen.adapters.keys import FileSigner
from limen.audit.ledger import Ledger
from limen.cli import context as cli_context
from limen.cli.main import app
from limen.cli.terminal import as_text
from limen.config.load import load_config
from limen.core.announce import Announcement
from limen.opening import open_registry
from limen.policy.approval import ApprovalRecord
from limen.storage import State

HOSTILE = "fine\x1b[2J\u202eevil"
CONFIG: dict[str, Any] = {
    "mcpServers": {"files": {"url": "http://127.0.0.1:9/mcp"}},
    "identity": {"issuers": [{"issuer": "http://127.0.0.1:9"}]},
    "policy": {"rules": [{"allow": "group:dev", "call": "files/*", "scopes": ["files.read"]}]},
}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object", "properties": {"path": {"type": "string"}}}, **more}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "limen.yaml"
    path.write_text(json.dumps(CONFIG))
    path.chmod(0o600)
    return path


@pytest.fixture
def known(config: Path) -> Path:
    """Of this server something was announced before."""
    announce(config, tool("read_file", annotations={"readOnlyHint": True}), tool("rm"))
    return config


def announce(config: Path, *tools: dict[str, Any]) -> None:
    open_registry(load_config(config).config).observe(
        Announcement(
            "files", "2025-11-25", instructions="Be nice.", tools=tools, prompts=({"name": "p", "description": "d"},)
        )
    )


def limen(config: Path, *arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["-c", str(config), *arguments])
    assert result.exit_code == status, (result.output, result.stderr, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def answer(config: Path, *arguments: str, status: int = 0) -> Any:
    return json.loads(limen(config, *arguments, "--json", status=status).stdout)


def program(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "LIMEN_CONFIG"}
    source = str(Path(cli_context.__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "limen", *arguments],
        cwd=cwd,
        env={**variables, "PYTHONPATH": source, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


# the program itself


def test_init_then_check(tmp_path: Path) -> None:
    done = program("init", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "limen.yaml").stat().st_mode & 0o777 == 0o600
    assert program("check", cwd=tmp_path).returncode == 0
    assert not (tmp_path / "limen-state").exists()
    text = (tmp_path / "limen.yaml").read_text()
    again = program("init", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (1, "limen: limen.yaml exists already\n")
    assert (tmp_path / "limen.yaml").read_text() == text


def test_bad_configuration_is_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("version: 1\nlisten:\n  xyzzy: 1\n")
    done = program("check", cwd=tmp_path, LIMEN_CONFIG="bad.yaml")
    assert done.returncode == 2
    assert done.stderr == "limen: bad.yaml:3:3 listen.xyzzy: unknown key\n"
    assert done.stdout == ""
    missing = program("serve", cwd=tmp_path)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "limen init" in missing.stderr


def test_serve_without_an_issuer_refuses(tmp_path: Path) -> None:
    (tmp_path / "limen.yaml").write_text("mcpServers: {}\n")
    done = program("serve", cwd=tmp_path)
    assert done.returncode == 2
    assert "no issuer configured" in done.stderr
    assert not (tmp_path / "limen-state").exists()


def test_completion_works(tmp_path: Path) -> None:
    done = program("--show-completion", "bash", cwd=tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0
    assert "complete" in done.stdout


def test_a_server_never_read_is_read_now(tmp_path: Path) -> None:
    server = {"command": sys.executable, "args": ["-m", "mcp_server_time"], "security": {"unsafe_no_sandbox": True}}
    config = {"mcpServers": {"time": server}, "policy": {"rules": [{"allow": "anyone", "call": "time/*"}]}}
    (tmp_path / "limen.yaml").write_text(json.dumps(config))
    done = program("tools", "approve", "time", "--all", "--by", "ann", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(one["name"] for one in json.loads(done.stdout)["approved"]) == ["convert_time", "get_current_time"]


# every command


def commands(group: Any, prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for name, command in group.commands.items():
        here = (*prefix, name)
        found.extend(commands(command, here) if hasattr(command, "commands") else [(here, command)])
    return found


def test_every_command_has_help_with_an_example_and_json() -> None:
    from typer.main import get_command

    every = commands(get_command(app))
    assert len(every) == 158
    for path, command in every:
        assert "Example: limen" in (command.help or ""), path
        options = {option for parameter in command.params for option in parameter.opts}
        # stdio speaks the protocol on standard output, demo tells a story
        assert ("--json" in options) is (path not in (("stdio",), ("demo",))), path


def test_usage_errors_are_status_2(config: Path) -> None:
    for arguments in (
        ["nonsense"],
        ["serve", "--port", "x"],
        ["tools", "approve"],
        ["approvals", "list", "--state", "x"],
    ):
        limen(config, *arguments, status=2)


def test_dependencies_are_status_3(config: Path) -> None:
    assert "files" in limen(config, "tools", "list", status=3).stderr
    assert "files" in limen(config, "tools", "approve", "files", "--all", status=3).stderr


def test_no_traceback_when_the_database_is_broken(config: Path) -> None:
    (config.parent / "limen-state").mkdir()
    (config.parent / "limen-state" / "limen.db").write_bytes(b"not a database at all" * 1000)
    for arguments in (["tools", "list"], ["approvals", "list"], ["policy", "show"], ["check"]):
        assert limen(config, *arguments, status=3).stderr.count("\n") == 1


# check, posture, doctor


def test_check_tells_what_is_loosened(config: Path) -> None:
    settings = {**CONFIG, "identity": {"unsafe_anonymous": True}}
    config.write_text(json.dumps(settings))
    found = answer(config, "check")
    assert found["ok"] is True
    assert found["loosened"] == ["identity.unsafe_anonymous"]
    assert found["servers"][0]["address"] == "http://127.0.0.1:8300/mcp/files"
    assert "LOOSENED: identity.unsafe_anonymous" in limen(config, "check").stdout


OAUTH: dict[str, Any] = {"provider": {"issuer": "http://127.0.0.1:9", "client_id": "limen"}}


def test_check_and_posture_tell_who_signs_people_in_and_what_servers_get(config: Path) -> None:
    minted = {"credential": {"kind": "minted", "bind": "caller"}}
    server = {"url": "http://127.0.0.1:9/mcp", "security": minted}
    on = {**OAUTH, "clients": {"registration": True, "unsafe_localhost_ports": True}, "tokens": {"device": True}}
    config.write_text(json.dumps({**CONFIG, "mcpServers": {"files": server}, "identity": {}, "oauth": on}))
    found = answer(config, "check")
    assert found["oauth"]["callback"] == "http://127.0.0.1:8300/oauth/callback"
    assert (found["oauth"]["clients"], found["oauth"]["devices"]) == (["documents", "registration"], True)
    assert found["servers"][0]["credential"] == "minted"
    for text in ("public client", "clients.registration: whoever", "phish", "bind: caller"):
        assert any(text in warning for warning in found["warnings"]), text
    assert "people sign in at http://127.0.0.1:9" in limen(config, "check").stdout
    rows = {row["guard"]: row for row in answer(config, "posture")}
    assert rows["consent"]["state"] == "enforced"
    assert rows["clients"]["loosened"] == "oauth.clients.unsafe_localhost_ports"
    assert rows["credential files"]["state"] == "minted"
    assert {"registration", "devices"} <= rows.keys()


def test_check_has_nothing_to_say_about_a_sign_in_that_is_tight(config: Path) -> None:
    tight = {"provider": {**OAUTH["provider"], "client_secret": "${env:LIMEN_TEST_TOKEN}"}}
    server = {"url": "http://127.0.0.1:9/mcp", "security": {"credential": {"kind": "minted"}}}
    config.write_text(json.dumps({**CONFIG, "mcpServers": {"files": server}, "identity": {}, "oauth": tight}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMEN_TEST_TOKEN", "very-secret")
        found = answer(config, "check")
        assert not {"registration", "devices"} & {row["guard"] for row in answer(config, "posture")}
    assert not [text for text in found["warnings"] if "oauth" in text or "credential" in text]
    assert found["loosened"] == []


def test_signing_in_over_plain_http_is_refused_before_anybody_tries(config: Path) -> None:
    listen = {"url": "http://gw.internal", "bind": "0.0.0.0:80", "unsafe_plain_http": True}
    config.write_text(json.dumps({**CONFIG, "listen": listen, "oauth": OAUTH}))
    assert "https" in limen(config, "check", status=2).stderr
    config.write_text(json.dumps({**CONFIG, "listen": {**listen, "url": "https://gw.internal"}, "oauth": OAUTH}))
    assert any("trusted_proxies" in warning for warning in answer(config, "check")["warnings"])


def test_check_without_an_issuer(config: Path) -> None:
    config.write_text(json.dumps({**CONFIG, "identity": {}}))
    found = answer(config, "check", status=2)
    assert "no issuer configured" in found["problem"]
    assert answer(config, "check", "--stdio")["ok"] is True


def test_check_compiles_the_rules(config: Path) -> None:
    config.write_text(json.dumps({**CONFIG, "policy": {"rules": [{"allow": "anyone", "call": "nowhere/*"}]}}))
    assert "nowhere" in limen(config, "check", status=2).stderr
    assert "nowhere" in limen(config, "policy", "check", status=2).stderr


def test_check_shows_no_secret(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMEN_TEST_TOKEN", "very-secret")
    server = {
        "url": "https://mcp.example.com/?tenant=very-private",
        "headers": {"Authorization": "${env:LIMEN_TEST_TOKEN}"},
    }
    config.write_text(json.dumps({**CONFIG, "mcpServers": {"files": server}}))
    output = limen(config, "check").output + json.dumps(answer(config, "check"))
    assert "very-secret" not in output
    assert "very-private" not in output


def test_posture_is_printed(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"control": "A1", "guard": "Authenticate", "state": "on", "evidence": HOSTILE, "loosened": True}
    monkeypatch.setattr("limen.cli.controls.describe", lambda config: [row])
    assert answer(config, "posture") == [row]
    shown = limen(config, "posture").stdout
    assert "Authenticate" in shown
    assert "\x1b" not in shown


def test_doctor_finds_what_is_wrong(config: Path) -> None:
    found = {row["check"]: row for row in answer(config, "doctor", status=1)}
    assert found["configuration"]["ok"] is True
    assert found["storage directory"]["ok"] is True
    assert found["signing key"]["ok"] is True
    assert found["issuer http://127.0.0.1:9"]["ok"] is False
    assert found["server files"]["ok"] is False


def test_doctor_looks_at_the_key(config: Path) -> None:
    path = load_config(config).config.audit.key
    FileSigner.open(path, "limen")
    path.chmod(0o644)
    found = {row["check"]: row for row in answer(config, "doctor", status=1)}
    assert found["signing key"]["ok"] is False
    assert "0644" in found["signing key"]["found"]


# tools


def states(config: Path) -> dict[str, str]:
    return {f"{one['kind']}:{one['name']}": one["state"] for one in answer(config, "tools", "list")["entries"]}


def test_all_means_tools_only(known: Path) -> None:
    done = answer(known, "tools", "approve", "files", "--all", "--by", "ann", "--reason", "looked at them")["approved"]
    assert [one["name"] for one in done] == ["read_file", "rm"]
    assert all(len(one["digest"]) == 64 for one in done)
    assert states(known) == {
        "tool:read_file": "approved", "tool:rm": "approved", "prompt:p": "pending", "instructions:": "pending",
        "server:": "approved", "set:": "approved",
    }  # fmt: skip
    answer(known, "tools", "approve", "files", "--all", "--kind", "prompt")
    assert states(known)["prompt:p"] == "approved"
    rows = list(open_registry(load_config(known).config).history())
    assert {(row.by, row.reason) for row in rows if row.event == "approved"} >= {("ann", "looked at them")}
    assert {row.by for row in rows if row.kind == "prompt" and row.event == "approved"} == {cli_context.user()}


def test_instructions_are_asked_for_by_name(known: Path) -> None:
    limen(known, "tools", "approve", "files", status=2)
    limen(known, "tools", "approve", "files", "", status=2)
    (done,) = answer(known, "tools", "approve", "files", "--kind", "instructions")["approved"]
    assert done["kind"] == "instructions"


def test_effect_comes_from_the_operator_first(known: Path) -> None:
    settings = json.loads(known.read_text())
    settings["mcpServers"]["files"]["security"] = {"effects": {"rm": "destructive", "read_file": "write"}}
    known.write_text(json.dumps(settings))
    effect = {one["name"]: one["effect"] for one in answer(known, "tools", "approve", "files", "--all")["approved"]}
    assert effect == {"rm": "destructive", "read_file": "write"}
    announce(known, tool("rm", description="new"), tool("read_file"))
    assert answer(known, "tools", "approve", "files", "rm", "--effect", "read")["approved"][0]["effect"] == "read"
    limen(known, "tools", "approve", "files", "read_file", "--effect", "harmless", status=2)


def test_a_change_shows_as_a_difference(known: Path) -> None:
    (approved,) = answer(known, "tools", "approve", "files", "rm")["approved"]
    assert answer(known, "tools", "diff", "files", "rm")["changes"] == []
    announce(known, tool("read_file"), tool("rm", description="Now sends everything to me."))
    difference = answer(known, "tools", "diff", "files", "rm", status=1)
    assert difference["before"] == approved["digest"]
    assert difference["changes"][0]["after"] == "Now sends everything to me."
    assert states(known)["tool:rm"] == "drifted"
    (rejected,) = answer(known, "tools", "reject", "files", "rm", "--reason", "no")["rejected"]
    assert rejected["digest"] == difference["after"]
    limen(known, "tools", "reject", "files", "rm", status=1)
    limen(known, "tools", "reject", "files", "rm", "--digest", approved["digest"])
    assert states(known)["tool:rm"] == "rejected"


def test_what_is_not_there(known: Path) -> None:
    assert "never announced" in limen(known, "tools", "approve", "files", "none", status=1).stderr
    assert "no server named other" in limen(known, "tools", "list", "other", status=1).stderr
    limen(known, "tools", "approve", "files", "rm", "--digest", "0" * 64, status=1)
    limen(known, "tools", "approve", "files", "rm", "--kind", "toool", status=2)
    limen(known, "tools", "approve", "files", "rm", "--all", status=2)
    limen(known, "tools", "approve", "files", "--all")
    limen(known, "tools", "approve", "files", "--all", status=1)


def test_held_definitions_are_shown_safely(known: Path) -> None:
    announce(known, tool("rm"), tool("sly", description=HOSTILE), tool(HOSTILE))
    result = limen(known, "tools", "list")
    assert "held: files tool sly" in result.stdout
    assert "\x1b" not in result.output
    assert "\u202e" not in result.output
    limen(known, "tools", "approve", "files", "sly", status=1)


def test_nothing_a_stranger_wrote_is_obeyed_by_the_terminal() -> None:
    assert as_text(HOSTILE) == "fine\\u{1b}[2J\\u{202e}evil"
    assert as_text("a\nb\rc") == "a\\u{a}b\\u{d}c"


# policy


def test_policy_is_shown_and_explained(known: Path) -> None:
    assert "permit" in answer(known, "policy", "show")["cedar"]
    limen(known, "policy", "explain", "files", "rm", status=1)
    limen(known, "tools", "approve", "files", "--all")
    allowed = answer(known, "policy", "explain", "files", "rm", "--group", "dev", "--scope", "files.read")
    assert allowed["allowed"] is True
    refused = answer(known, "policy", "explain", "files", "rm", "--group", "dev", status=1)
    assert refused["missing_scopes"] == ["files.read"]
    assert "refused" in limen(known, "policy", "explain", "files", "rm", status=1).stdout
    limen(known, "policy", "explain", "files", "rm", "--arguments", "[", status=2)
    assert answer(known, "policy", "check")["policies"] == 1


def test_explain_shows_the_step_up(known: Path) -> None:
    rule = {"allow": "group:dev", "call": "files/*", "scopes": ["read"], "require": ["mfa", "fresh(10m)", "acr(gold)"]}
    identity = {**CONFIG["identity"], "scope_implies": {"write": ["read"]}}
    known.write_text(json.dumps({**CONFIG, "identity": identity, "policy": {"rules": [rule]}}))
    limen(known, "tools", "approve", "files", "--all")
    call = ("policy", "explain", "files", "rm", "--group", "dev", "--scope", "write", "--mfa", "--acr", "gold")
    said = limen(known, *call, "--signed-in", "700", status=1).stdout
    assert (
        "identity.step_up" in said and "fresh(600s)" in said and "max_age: 600" in said and "acr_values: gold" in said
    )
    assert answer(known, *call, "--signed-in", "30")["requires"] == ["acr(gold)", "fresh(600s)", "mfa"]


# approvals


def pending(config: Path) -> str:
    id = f"{'a' * 32}-{'b' * 32}-{'c' * 32}"
    record = ApprovalRecord(
        id,
        "pending",
        1.0,
        0.0,
        "iss",
        "bob",
        "app",
        "files",
        "tool",
        "rm",
        "d" * 64,
        '{"path":"/"}',
        "e" * 64,
        12,
        False,
    )
    State.open(load_config(config).config).approvals.put(f"approval/{'a' * 32}/{'b' * 32}", record.encode())
    return id


def test_a_person_decides(config: Path) -> None:
    assert answer(config, "approvals", "list") == []
    id = pending(config)
    assert [one["id"] for one in answer(config, "approvals", "list")] == [id]
    assert id in limen(config, "approvals", "list").stdout
    decided = answer(config, "approvals", "approve", id, "--by", "ann", "--reason", "fine")
    assert (decided["state"], decided["by"], decided["reason"]) == ("approved", "ann", "fine")
    assert answer(config, "approvals", "reject", id)["by"] == cli_context.user()
    assert answer(config, "approvals", "list", "--state", "all")[0]["state"] == "rejected"
    limen(config, "approvals", "approve", "nonsense", status=1)
    limen(config, "approvals", "approve", id, "--seconds", "0", status=1)


# audit


def log(config: Path, count: int) -> Path:
    settings = load_config(config).config.audit
    settings.path.mkdir(parents=True, mode=0o700)
    ledger = Ledger.open(settings.path, FileSigner.open(settings.key, settings.name))
    for number in range(count):
        ledger.append(json.dumps({"t": "intent", "ts": 1.5, "name": HOSTILE, "n": number}).encode())
    ledger.close_now()
    return settings.path


def test_the_log_is_read_and_verified(config: Path) -> None:
    place = log(config, 300)
    rows = [json.loads(row) for row in limen(config, "audit", "tail", "-n", "3", "--json").stdout.splitlines()]
    assert [row["index"] for row in rows] == [297, 298, 299]
    shown = limen(config, "audit", "tail").stdout
    assert "intent" in shown
    assert "\x1b" not in shown
    assert limen(config, "audit", "tail", "-n", "0").stdout == ""
    report = answer(config, "audit", "verify")
    assert (report["ok"], report["size"]) == (True, 300)
    key = answer(config, "audit", "key")["key"]
    elsewhere = CliRunner().invoke(app, ["audit", "verify", "--directory", str(place), "--key", key])
    assert elsewhere.exit_code == 0
    earlier = config.parent / "checkpoint"
    earlier.write_bytes((place / "checkpoint").read_bytes())
    limen(config, "audit", "verify", "--checkpoint", str(earlier))


def test_a_changed_log_does_not_verify(config: Path) -> None:
    place = log(config, 300)
    changed = [path for path in place.rglob("*") if path.is_file() and b'"n": 7}' in path.read_bytes()]
    for path in changed:
        path.chmod(0o600)
        path.write_bytes(path.read_bytes().replace(b'"n": 7}', b'"n": 8}'))
    report = answer(config, "audit", "verify", status=1)
    assert (report["ok"], report["first_bad"]) == (False, 7)
    assert "record 7" in limen(config, "audit", "verify", status=1).stdout


def test_a_key_that_is_none(config: Path) -> None:
    place = log(config, 1)
    limen(config, "audit", "verify", "--directory", str(place), "--key", "nonsense", status=2)
    limen(config, "audit", "verify", "--key", "@/nowhere", status=2)


def test_a_log_that_is_not_there(config: Path) -> None:
    limen(config, "audit", "tail", status=1)
    limen(config, "audit", "key", status=1)
    assert not (config.parent / "limen-state").exists()


def test_the_schema_is_printed(config: Path) -> None:
    assert "mcpServers" in answer(config, "config", "schema")["properties"]


def test_who_decides_is_not_what_the_environment_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cli_context.user()
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert cli_context.user() == before
    assert cli_context.user("ann") == "ann"
