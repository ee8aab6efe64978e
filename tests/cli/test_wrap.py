"""`limen wrap` and `unwrap`: clients' files keep every other byte, come back byte for byte, are never half written."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from typer.testing import CliRunner

from limen.cli.clients import CLIENTS, found_places
from limen.cli.main import app
from limen.cli.wrapping import look, shown
from limen.config.load import load_config

SECRET = "sk-abcdefghijklmnopqrstuvwxyz"
CURSOR = """{
\t"other" : [ 1,2 ,3.50 ],
\t"mcpServers": {
\t\t"web":{"url":"https://mcp.example.com/x","headers":{"Authorization":"Bearer SECRET"}},
\t\t"docs": {"url": "https://docs.example.com/mcp"}
\t}, "z": "\\u00e9\\/é"
}""".replace("SECRET", SECRET)
VSCODE = """\ufeff// the team's servers
{
  /* "servers": {"fake": {"command": "x"}} */
  "inputs": [],   // nothing yet
  "servers": {
    "docs": {"url": "https://docs.example.com/other", "description": "d"}, // keep me
    "asks": {"url": "https://a.example.com/", "headers": {"Authorization": "Bearer ${input:token}"}},
    "odd": {"url": "https://o.example.com/", "oauth": {"clientId": "x"}},
  },
}
"""
CODEX = """# mine
model = "o9" # comment

[mcp_servers.docs]   # the docs
url = "https://docs.example.com/mcp"
startup_timeout_sec = 20

# about the next table
[profiles.work]
text = \"\"\"
[mcp_servers.docs]
\"\"\"

[mcp_servers.inline]
url = "https://i.example.com/"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("LIMEN_CONFIG", raising=False)
    put(tmp_path / ".cursor/mcp.json", CURSOR, 0o640)
    put(tmp_path / ".config/Code/User/mcp.json", VSCODE.replace("\n", "\r\n"), 0o644)
    put(tmp_path / ".codex/config.toml", CODEX, 0o600)
    return tmp_path


def put(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    path.chmod(mode)
    return path


def limen(*arguments: str, status: int = 0) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == status, (result.output, result.stderr, result.exception)
    assert SECRET not in result.output + result.stderr
    return json.loads(result.stdout) if result.stdout else None


def files(home: Path) -> dict[str, tuple[bytes, int]]:
    """Every file there is, with its mode."""
    found = [path for path in home.rglob("*") if path.is_file()]
    return {str(path.relative_to(home)): (path.read_bytes(), path.stat().st_mode & 0o777) for path in found}


def states(answer: Any) -> dict[tuple[str, str], str]:
    return {(row["client"], row["server"]): row["state"] for row in answer["entries"] if row["server"]}


def test_looking_changes_nothing_and_names_every_place(home: Path) -> None:
    before = files(home)
    for arguments in (
        ["wrap"],
        ["wrap", "--all", "--dry-run"],
        ["wrap", "--client", "cursor", "--dry-run"],
        ["unwrap"],
    ):
        limen(*arguments)
    assert files(home) == before
    rows = limen("wrap")["entries"]
    assert {row["client"] for row in rows} == {client.name for client in CLIENTS}
    assert [row["state"] for row in rows if row["client"] == "windsurf"] == ["no such file"]
    text = CliRunner().invoke(app, ["wrap"]).output
    assert SECRET not in text
    assert "Authorization" in text
    assert "limen wrap --all" in text


def test_wrapped_entries_start_limen_and_every_other_byte_stays(home: Path) -> None:
    found = states(limen("wrap", "--all"))
    assert found["cursor", "web"] == found["vscode", "docs"] == found["codex", "docs"] == "wrapped"
    assert found["vscode", "asks"] == "uses variables that only the client knows"
    assert found["vscode", "odd"] == "has oauth, which would be lost"
    assert found["codex", "inline"] == "wrapped"
    assert found["vscode", "docs"] == "wrapped"
    text = (home / ".cursor/mcp.json").read_bytes().decode()
    assert text.startswith('{\n\t"other" : [ 1,2 ,3.50 ],\n\t"mcpServers": {\n\t\t"web":{\n')
    assert text.endswith('\n\t}, "z": "\\u00e9\\/é"\n}')
    entry = json.loads(text)["mcpServers"]["web"]
    config = str(home / "limen.yaml")
    assert entry == {"command": sys.executable, "args": ["-m", "limen", "-c", config, "stdio", "web"]}
    code = (home / ".config/Code/User/mcp.json").read_bytes().decode()
    assert "\n" not in code.replace("\r\n", "")
    assert code.startswith("\ufeff// the team's servers\r\n")
    assert '"description": "d"\r\n    }, // keep me' in code
    assert '"type": "stdio"' in code
    toml = (home / ".codex/config.toml").read_text()
    assert toml.startswith('# mine\nmodel = "o9" # comment\n\n[mcp_servers.docs]   # the docs\ncommand = ')
    assert "startup_timeout_sec = 20\n\n# about the next table\n[profiles.work]" in toml
    assert oct((home / ".cursor/mcp.json").stat().st_mode & 0o777) == "0o640"
    loaded = load_config(home / "limen.yaml").config
    assert loaded.servers["web"].header_values() == (("Authorization", f"Bearer {SECRET}"),)
    assert loaded.servers["docs"].url == "https://docs.example.com/mcp"
    assert loaded.servers["docs-vscode"].url == "https://docs.example.com/other"
    assert len({server.url for server in loaded.servers.values()}) == len(loaded.servers) == 4
    assert SECRET not in (home / "limen.yaml").read_text()
    assert not [path for path in (home / "limen-wrapped").iterdir() if path.stat().st_mode & 0o077]
    assert (home / "limen-wrapped.json").stat().st_mode & 0o077 == 0


def test_unwrapping_leaves_every_file_as_it_was_and_none_of_ours(home: Path) -> None:
    before = files(home)
    limen("wrap", "--client", "cursor")
    limen("wrap", "--all")
    wrapped = files(home)
    limen("wrap", "--all")
    assert files(home) == wrapped, "wrapping twice is wrapping once"
    limen("unwrap", "--all")
    assert files(home) == before
    limen("unwrap", "--all")
    assert files(home) == before


def test_one_entry_by_its_name(home: Path) -> None:
    before = files(home)
    limen("wrap", "nosuch", "--all", status=1)
    assert files(home) == before
    assert states(limen("wrap", "web", "--all")) == {("cursor", "web"): "wrapped"}
    assert json.loads((home / ".cursor/mcp.json").read_text())["mcpServers"]["docs"] == {
        "url": "https://docs.example.com/mcp"
    }
    limen("unwrap", "--file", str(home / ".cursor/mcp.json"))
    assert files(home) == before


def test_what_a_client_changed_meanwhile_is_kept(home: Path) -> None:
    path = home / ".cursor/mcp.json"
    limen("wrap", "--client", "cursor")
    text = path.read_text().replace('\n\t}, "z"', ',\n\t\t"new": {"url": "https://new.example.com/"}\n\t}, "z"')
    path.write_text(text)
    limen("wrap", "--client", "cursor")
    assert len(load_config(home / "limen.yaml").config.servers) == 3
    limen("unwrap", "--client", "cursor")
    expected = CURSOR.replace('mcp"}\n\t}, "z"', 'mcp"},\n\t\t"new": {"url": "https://new.example.com/"}\n\t}, "z"')
    assert path.read_bytes().decode() == expected
    limen("wrap", "--client", "cursor")
    kept = json.loads(path.read_text())
    del kept["mcpServers"]["docs"]
    kept["mcpServers"]["web"] = {"url": "https://other.example.com/"}
    path.write_text(json.dumps(kept))
    found = states(limen("unwrap", "--client", "cursor"))
    assert found["cursor", "web"] == "web: was changed since"
    assert found["cursor", "docs"] == "docs: was removed since"
    assert json.loads(path.read_text())["mcpServers"]["new"] == {"url": "https://new.example.com/"}
    assert json.loads(path.read_text())["mcpServers"]["web"] == {"url": "https://other.example.com/"}


def test_an_operators_own_configuration_is_kept_and_comes_back(home: Path) -> None:
    own = '# ours\nversion: 1\ninclude: [ "team.json" ] # both\nmcpServers: {a: {url: "https://a.example.com/"}}\n'
    put(home / "team.json", '{"mcpServers": {}}')
    put(home / "limen.yaml", own)
    before = files(home)
    limen("wrap", "--all")
    text = (home / "limen.yaml").read_text()
    assert text == own.replace('[ "team.json" ]', '[ "team.json", limen-wrapped.json]')
    assert "a" in load_config(home / "limen.yaml").config.servers
    limen("unwrap", "--all")
    assert files(home) == before
    put(home / "limen.yaml", "version: 1\ninclude:\n  - team.json\n")
    before = files(home)
    assert limen("wrap", "--all", status=2) is None
    assert files(home) == before


def test_a_configuration_that_would_not_load_changes_nothing(home: Path) -> None:
    """The client would lose its servers: everything is put back before its file is touched."""
    put(home / "limen.yaml", "version: 1\nmcpServers: {web: {url: 'https://mine.example.com/'}}\n")
    before = files(home)
    assert limen("wrap", "--all", status=2) is None
    assert files(home) == before


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"mcpServers": {\n "a": {"url": "https://a.example.com/"}\n "b": 1}}', ":3:2: a comma was expected"),
        ('{"mcpServers": {"a": 1, "a": 2}}', ":1:28: this name stands twice"),
        ('{"mcpServers": {\n', "2:1: a name in double quotes"),
        ("{'mcpServers': {}}", ":1:2: a name in double quotes"),
        ('{"mcpServers": {}} x', ":1:20: something follows"),
        ("[]", ":1:1: is not an object"),
        ('{"mcpServers": ' + "[" * 100, "nested too deep"),
        ('{"a": 01}', "a comma was expected"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_line(home: Path, text: str, where: str) -> None:
    path = put(home / ".cursor/mcp.json", text)
    before = files(home)
    answer = limen("wrap", "--file", str(path), status=1)
    assert where in next(row["state"] for row in answer["entries"])
    assert files(home) == before
    path.write_bytes(b'{"mcpServers": {}}\n\xff')
    assert ":2: not UTF-8" in limen("wrap", "--file", str(path), status=1)["entries"][0]["state"]


def test_toml_that_is_not_written_as_tables_is_left_alone(home: Path) -> None:
    path = put(home / ".codex/config.toml", 'mcp_servers = {a = {url = "https://a.example.com/"}}\n')
    found = states(limen("wrap", "--client", "codex"))
    assert found["codex", "a"] == "is not written as a table of its own"
    text = '[mcp_servers.a.env]\nX = "1"\n[mcp_servers.a]\ncommand = "x"\n'
    put(path, text)
    limen("wrap", "--client", "codex")
    assert path.read_text() == text
    put(path, "a = \n")
    assert ":1:" in limen("wrap", "--client", "codex", status=1)["entries"][0]["state"]


def test_a_link_stays_a_link_and_goose_is_told(home: Path) -> None:
    path = home / ".cursor/mcp.json"
    target = path.rename(home / "dotfiles.json")
    path.symlink_to(target)
    put(home / ".config/goose/config.yaml", "extensions: {}\n")
    limen("wrap", "--client", "cursor")
    assert path.is_symlink()
    assert "limen" in target.read_text()
    limen("unwrap", "--all")
    assert path.is_symlink()
    assert target.read_text() == CURSOR
    assert "YAML" in limen("wrap", "--client", "goose", status=1)["entries"][0]["state"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"command": "bash", "args": ["-c", f"TOKEN={SECRET} npx x"]}, "command line"),
        ({"command": "uv", "args": ["run", "server.py"]}, "uv tool run"),
        ({"command": "npx", "args": ["x"], "env": {"NODE_OPTIONS": "-r /x"}}, "other code"),
        ({"command": "x", "args": [1]}, "another form"),
        ({"command": "x", "url": "https://h.example/"}, "exactly one"),
        ({"url": "https://h.example/", "type": "sse"}, "not spoken"),
        ({"command": "x", "disabled": True}, "is disabled"),
        ({"command": "docker", "args": ["run", "-i", f"org/x@sha256:{'0' * 64}"]}, "security.isolate: podman"),
        ("x", "not an object"),
    ],
)
def test_an_entry_that_would_not_run_is_skipped_with_its_reason(home: Path, entry: Any, reason: str) -> None:
    text = json.dumps({"mcpServers": {"a": entry, "b": {"url": "https://b.example.com/"}}})
    path = put(home / ".cursor/mcp.json", text)
    found = states(limen("wrap", "--client", "cursor"))
    assert reason in found["cursor", "a"]
    assert found["cursor", "b"] == "wrapped"
    assert json.loads(path.read_text())["mcpServers"]["a"] == entry


def test_places_of_every_platform() -> None:
    home, project = Path("/h"), Path("/p")
    for platform in ("linux", "darwin", "win32"):
        known = {str(path) for _, path in found_places(home, project, platform)}
        assert {"/h/.cursor/mcp.json", "/p/.vscode/mcp.json", "/h/.claude.json", "/p/.mcp.json"} <= known
    assert "/h/Library/Application Support/Claude/claude_desktop_config.json" in {
        str(path) for _, path in found_places(home, project, "darwin")
    }
    assert "/h/AppData/Roaming/Claude/claude_desktop_config.json" in {
        str(path) for _, path in found_places(home, project, "win32")
    }


def test_servers_of_projects_in_claude_code_are_found(home: Path) -> None:
    entry = {"type": "stdio", "command": "x", "args": [], "env": {}}
    path = put(home / ".claude.json", json.dumps({"mcpServers": {}, "projects": {"/p": {"mcpServers": {"a": entry}}}}))
    found = look(next(one for one in CLIENTS if one.name == "claude-code"), path)
    assert [(one.keys, one.name, one.state) for one in found.entries] == [
        (("projects", "/p", "mcpServers"), "a", "open")
    ]


@pytest.mark.parametrize(
    "value",
    [
        {"command": "npx", "args": ["--api-key", SECRET, "x"]}, {"command": "npx", "args": [f"--token={SECRET}"]},
        {"command": "npx", "args": [SECRET]}, {"url": f"https://h.example/?key={SECRET}"},
        {"url": f"https://u:{SECRET}@h.example/"}, {"command": "x", "env": {"A": SECRET}},
        {"command": "x", "args": [f"postgres://u:{SECRET}@h/db"]},
    ],
)  # fmt: skip
def test_what_is_shown_holds_no_secret(value: dict[str, Any]) -> None:
    assert SECRET not in shown(value)


def killed(command: str, step: int, *, after: bool) -> bool:
    """Run a command in a process that is killed at its so many-th change of the disk. Whether it came to that."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(change: Any) -> Any:
            def changed(*args: Any, **more: Any) -> Any:
                nonlocal count
                count += not str(args[0]).endswith(".limen") or change is replace
                if count == step and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                found = change(*args, **more)
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return found

            return changed

        replace = Path.replace
        Path.replace, Path.unlink, Path.rmdir = map(counted, (replace, Path.unlink, Path.rmdir))
        CliRunner().invoke(app, [command, "--all"])
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_step_a_file_is_old_or_new_and_the_way_back_is_open(home: Path, after: bool) -> None:
    """kill -9 at every change of the disk: never a mixture, never an entry that nobody can put back."""
    path, code = home / ".cursor/mcp.json", home / ".config/Code/User/mcp.json"
    before = files(home)
    limen("wrap", "--all")
    whole = {CURSOR, path.read_text()}
    codes = {VSCODE.replace("\n", "\r\n").encode(), code.read_bytes()}
    limen("unwrap", "--all")
    for command in ("wrap", "unwrap"):
        for step in range(1, 100):
            if command == "unwrap":
                limen("wrap", "--all")
            hit = killed(command, step, after=after)
            assert path.read_text() in whole
            assert code.read_bytes() in codes
            limen("unwrap", "--all")
            assert {name: files(home)[name] for name in before} == before
            for draft in home.rglob(".*.limen"):
                draft.unlink()
            if not hit:
                assert step > 4
                break
        else:
            pytest.fail("it never came to its end")
    limen("wrap", "--all")
    limen("unwrap", "--all")
    assert files(home) == before


def test_a_client_reaches_its_server_through_what_was_written(home: Path) -> None:
    """The official client starts what stands in the wrapped file, and meets the guards: nothing is approved yet."""
    server = Path(__file__).parents[1] / "upstreams" / "sdk_server.py"
    entry = {"command": sys.executable, "args": [str(server), "stdio"]}
    path = put(home / ".cursor/mcp.json", json.dumps({"mcpServers": {"sdk": entry}}))
    own = "version: 1\nmcpServers: {sdk: {security: {unsafe_no_sandbox: true}}}\n"
    put(home / "limen.yaml", own + "policy: {rules: [{allow: anyone, call: '*/*'}]}\n")
    limen("wrap", "--client", "cursor")

    async def tools() -> list[str]:
        made = json.loads(path.read_text())["mcpServers"]["sdk"]
        env = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "HOME": str(home)}
        start = StdioServerParameters(command=made["command"], args=made["args"], env=env)
        async with stdio_client(start) as (reading, writing), ClientSession(reading, writing) as session:
            await session.initialize()
            return [tool.name for tool in (await session.list_tools()).tools]

    assert asyncio.run(tools()) == []
    limen("tools", "approve", "sdk", "--all", "--reason", "test")
    assert "echo" in asyncio.run(tools())
