"""What the tests of `limen tools` share: a configuration, a server that announces things, and running the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

import launched
from limen.cli import context as cli_context
from limen.cli.main import app
from limen.config.load import load_config
from limen.core.announce import Announcement
from limen.opening import open_registry

SERVER = Path(__file__).with_name("shifting_server.py")
CONFIG: dict[str, Any] = {
    "mcpServers": {"files": {"url": "http://127.0.0.1:9/mcp"}},
    "identity": {"issuers": [{"issuer": "http://127.0.0.1:9"}]},
    "policy": {"rules": []},
}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object", "properties": {"path": {"type": "string"}}}, **more}


def configure(place: Path, **changes: Any) -> Path:
    path = place / "limen.yaml"
    path.write_text(json.dumps(CONFIG | changes))
    path.chmod(0o600)
    return path


def announce(config: Path, *tools: dict[str, Any], **rest: Any) -> None:
    given: dict[str, Any] = {
        "info": {"name": "files", "version": "1"},
        "instructions": "Be nice.",
        "prompts": ({"name": "p", "description": "d"},),
    } | rest
    open_registry(load_config(config).config).observe(Announcement("files", "2025-11-25", tools=tools, **given))


def limen(config: Path, *arguments: str, status: int = 0, answers: str | None = None) -> Result:
    result = CliRunner().invoke(app, ["-c", str(config), *arguments], input=answers)
    assert result.exit_code == status, (result.output, result.stderr, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def answer(config: Path, *arguments: str, status: int = 0) -> Any:
    return json.loads(limen(config, *arguments, "--json", status=status).stdout)


def environment(**more: str) -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if name != "LIMEN_CONFIG"}
    return {**variables, "PYTHONPATH": str(Path(cli_context.__file__).parents[2]), **more}


def started(*arguments: str, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """By the interpreter, which builds its commands itself: what forks programs for tests has built them all."""
    code = "import sys; sys.argv[0] = 'limen'; from limen.cli.main import run; run()"
    argv = [sys.executable, "-c", code, *arguments]
    return subprocess.run(argv, env=environment(**more), cwd=cwd, capture_output=True, text=True, timeout=60)


def program(*arguments: str, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """A real process."""
    known = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    done = launched.limen(*arguments, cwd=cwd, env=known)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done


def shifting(place: Path, **tools: str) -> None:
    """A server of its own, with these tools and descriptions, and a configuration that starts it."""
    (place / "tools.json").write_text(json.dumps(tools))
    server = {
        "command": sys.executable,
        "args": [str(SERVER), "tools.json"],
        "cwd": ".",  # relative, so that a copy of the place is a place of its own
        "security": {"unsafe_no_sandbox": True},
    }
    configure(place, mcpServers={"notes": server})
