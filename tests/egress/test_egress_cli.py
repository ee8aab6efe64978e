"""`limen egress`, and the settings it reads (G5)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from limen.adapters.egress_dns import socket as dns_socket
from limen.audit.ledger import Ledger
from limen.cli.main import app
from limen.config.load import load_config
from limen.core.faults import ConfigFault
from limen.opening import open_signer

EGRESS: dict[str, Any] = {
    "allow": ["api.example.com:443", "*.github.io:443", {"to": "plain.example.com:80", "methods": ["GET"]}],
    "limits": {"connections": 5},
}


def written(folder: Path, security: dict[str, Any], **server: Any) -> Path:
    path = folder / "limen.yaml"
    one = {"command": "x", "disabled": True, "security": security, **server}
    others = {"web": {"url": "http://127.0.0.1:9/mcp"}, "quiet": {"command": "y", "disabled": True}}
    path.write_text(json.dumps({"mcpServers": {"files": one, **others}}))
    path.chmod(0o600)
    return path


def limen(path: Path, *arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, ["-c", str(path), "egress", *arguments])
    assert done.exit_code == status, (done.output, done.exception)
    return done.stdout + done.stderr if status else done.stdout


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return written(tmp_path, {"egress": EGRESS})


def test_show(config: Path) -> None:
    text = limen(config, "show")
    assert "api.example.com:443" in text
    assert "anyone can have a name there" in text
    assert "quiet: no network" in text
    found = json.loads(limen(config, "show", "files", "--json"))
    assert list(found) == ["files"]
    assert [one["to"] for one in found["files"]["rules"]] == [
        "api.example.com:443",
        "*.github.io:443",
        "plain.example.com:80",
    ]
    assert (found["files"]["ports"], found["files"]["limits"]["connections"]) == ([80, 443], 5)
    assert "no server named nobody" in limen(config, "show", "nobody", status=1)
    assert "not a local command" in limen(config, "show", "web", status=1)


def test_explain(config: Path) -> None:
    assert "allowed by rule api.example.com:443" in limen(config, "explain", "files", "api.example.com:443")
    found = json.loads(limen(config, "explain", "files", "evil.example:443", "--json", status=1))
    assert (found["allowed"], found["reason"]) == (False, "dns.not_allowed")
    assert "evil.example" in found["say"]
    assert "connect.address" in limen(config, "explain", "files", "169.254.169.254:80", "--json", status=1)
    assert "host:port" in limen(config, "explain", "files", "https://api.example.com", status=2)
    assert "not a wildcard" in limen(config, "explain", "files", "*.github.io:443", status=2)


@pytest.mark.parametrize(("address", "status"), [("127.0.0.1", 1), ("169.254.169.254", 1)])
def test_explain_looks_up(config: Path, monkeypatch: pytest.MonkeyPatch, address: str, status: int) -> None:
    monkeypatch.setattr(dns_socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (address, 0))])
    text = limen(config, "explain", "files", "api.example.com:443", "--resolve", status=status)
    assert "not public" in text or "could not be resolved" in text


def test_learn_reads_the_log_and_changes_nothing(config: Path) -> None:
    assert "no log yet" in limen(config, "learn", status=1)
    loaded = load_config(config).config
    loaded.audit.path.mkdir(parents=True)
    before = config.read_bytes()
    events = [
        {
            "t": "egress",
            "ts": 1e9,
            "server": "files",
            "reason": "learn.wanted",
            "target": "new.example:443",
            "detail": "tls",
        },
        {"t": "egress", "ts": 1e9, "server": "files", "reason": "dns.not_allowed", "target": "\x1b[2Jodd.example"},
        {
            "t": "refusal",
            "server": "files",
            "detail": '"t":"egress"',
            "target": "fake.example",
            "reason": "dns.not_allowed",
        },
        {"t": "egress", "ts": 1e9, "server": "files", "reason": "dns.not_allowed", "target": "x.github.io"},
    ]
    ledger = Ledger.open(loaded.audit.path, open_signer(loaded))
    for event in events:
        ledger.append(orjson.dumps(event))
    import asyncio

    asyncio.run(ledger.close())
    text = limen(config, "learn", "files")
    assert 'in mcpServers.files.security.egress: ["new.example:443"]' in text
    assert "\x1b" not in text
    assert "fake" not in text
    assert [one["to"] for one in json.loads(limen(config, "learn", "--json"))] == [
        "\x1b[2Jodd.example",
        "new.example:443",
    ]
    assert config.read_bytes() == before
    assert "nothing was refused" in limen(config, "learn", "quiet")


@pytest.mark.parametrize(
    ("security", "server", "what"),
    [
        ({"egress": ["a.example:443"], "unsafe_no_sandbox": True}, {}, "inside the sandbox only"),
        ({"egress": ["a.example:443"]}, {"command": None, "url": "https://x.example/mcp"}, "for a local command"),
        ({"egress": ["a.example"]}, {}, "host:port"),
        ({"egress": ["*"]}, {}, "host:port"),
        ({"egress": {"mode": "open"}}, {}, "learn"),
        ({"egress": {"alow": []}}, {}, "unknown key"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, security: Any, server: Any, what: str) -> None:
    with pytest.raises(ConfigFault, match=what):
        load_config(written(tmp_path, security, **server))


def test_both_forms_are_read_and_are_in_the_schema(tmp_path: Path) -> None:
    short = load_config(written(tmp_path, {"egress": ["a.example:443"]})).config.mcpServers["files"].security.egress
    long = load_config(written(tmp_path, {"egress": {"allow": [{"to": "a.example:443"}]}}))
    assert short == long.config.mcpServers["files"].security.egress
    schema = json.loads((Path(__file__).parents[2] / "schema" / "limen.schema.json").read_text())
    assert [one["type"] for one in schema["$defs"]["EgressSettings"]["anyOf"]] == ["array", "object"]
    assert [one["type"] for one in schema["$defs"]["EgressRule"]["anyOf"]] == ["string", "object"]
