"""What incidents are made of: servers that turn bad, the attack's calls, and the evidence."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.running import META, Running
from limen.audit.bundle_check import unpack


class Shifting(http.server.BaseHTTPRequestHandler):
    """An MCP server whose tools say and return what the test wants."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method, params = message.get("method"), message.get("params", {})
        words: dict[str, str] = self.server.words  # type: ignore[attr-defined]
        schema = {"type": "object", "properties": {"text": {"type": "string"}}}
        tools = [{"name": n, "description": d, "inputSchema": schema} for n, d in words.items()]
        results: dict[str, Any] = {
            "server/discover": {
                "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                "serverInfo": {"name": "shifting", "version": "1"},
            },
            "tools/list": {"tools": tools},
            "tools/call": {"content": [{"type": "text", "text": self.server.says}]},  # type: ignore[attr-defined]
        }  # fmt: skip
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message.get("id")}
        found = results.get(method)
        if found is None:
            answer["error"] = {"code": -32601, "message": "Method not found"}
        else:
            answer["result"] = {**found, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
        if method == "tools/call":
            self.server.called.append(params)  # type: ignore[attr-defined]
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def shifting(**words: str) -> Iterator[Any]:
    """Such a server; `.words`, `.says` and `.called` can be changed and read."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shifting)
    server.daemon_threads = True
    server.words, server.says, server.called = dict(words), "fine", []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def call(
    gateway: Running, tool: str, token: str, server: str = "one", text: str = "", **headers: str
) -> tuple[int, Any]:
    """A tools/call with a text, or with no arguments."""
    params = {"name": tool, "arguments": {"text": text} if text else {}, "_meta": META}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    mirrored = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": tool}
    status, _, body = gateway.post(message, token, server, **{**mirrored, **headers})
    return status, body


def works(answer: tuple[int, Any]) -> bool:
    """Whether the call reached its server and came back."""
    return answer[0] == 200 and "result" in answer[1] and not answer[1]["result"].get("isError")


def approve(gateway: Running, *playbooks: str) -> None:
    """By the command people use."""
    for one in playbooks:
        gateway.limen("playbook", "approve", one, "--by", "ann", "--reason", "reviewed")


def incident_of(gateway: Running, subject: str, kind: str) -> dict[str, Any]:
    """Wait for the incident about this subject that something of this kind was contained for."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        rows = json.loads(gateway.limen("incident", "list", "--json"))
        found[:] = [one for one in rows if subject in one["subjects"] and one["containments"]]
        return bool(found)

    gateway.until(lambda: any(one["action"] == kind for one in gateway.records("contained")), 20)
    gateway.until(there, 20)
    return found[0]


def proven(gateway: Running, incident: str, place: Path) -> dict[str, bytes]:
    """Evidence by the documented commands alone; returns the files of the bundle."""
    key = gateway.limen("audit", "key").strip()
    report = json.loads(gateway.limen("audit", "verify", "--json"))
    written = report["size"] + report["tail"]
    if report["tail"]:
        gateway.until(lambda: json.loads(gateway.limen("audit", "verify", "--json"))["size"] >= written, 30)
    bundle = place / "bundle.zip"
    gateway.limen("incident", "evidence", incident, "-o", str(bundle))
    assert "verified" in gateway.limen("incident", "verify", str(bundle), "--key", key)
    files = unpack(bundle.read_bytes())
    inside, other = (name for name in files if name.endswith("verify.py")), place / "verify.py"
    other.write_bytes(files[next(inside)])
    for key_, status in ((key, 0), (key[:-4] + "AAAA", 1)):  # and not with a key that is not the log's
        command = [sys.executable, "-I", "-S", str(other), str(bundle), "--key", key_]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert bool(done.returncode) == bool(status), done.stderr
    return files
