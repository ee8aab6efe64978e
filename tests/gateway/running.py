"""Starts the real gateway in front of a recording server, with a development issuer that signs real tokens."""

import contextlib
import http.client
import http.server
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey

import launched

ISSUER = "https://idp.example"
KEY = ECKey.generate_key("P-256", {"kid": "test", "alg": "ES256", "use": "sig"})
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Recorder(http.server.BaseHTTPRequestHandler):
    """An MCP server that keeps every byte it was sent."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((str(self.headers), body))  # type: ignore[attr-defined]
        message = json.loads(body)
        method, params = message.get("method"), message.get("params", {})
        if self.server.refusing and method == "tools/call":  # type: ignore[attr-defined]
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Bearer error="invalid_token"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if method == "tools/call" and params["name"] == "slow":
            time.sleep(30)
        tools = [
            {"name": name, "description": f"The tool {name}.", "inputSchema": {"type": "object"}}
            for name in ("echo", "danger", "slow", *self.server.extra)  # type: ignore[attr-defined]
        ]
        results = {
            "server/discover": {
                "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                "serverInfo": {"name": "recorder", "version": "1"},
            },
            "tools/list": {"tools": tools},
            "tools/call": {"content": [{"type": "text", "text": f"ran {params.get('name')}"}]},
        }  # fmt: skip
        result = results.get(method)
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message.get("id")}
        if result is None:
            answer["error"] = {"code": -32601, "message": "Method not found"}
        else:
            answer["result"] = {**result, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def written(directory: Path) -> dict[Path, bytes]:
    """Every file below. One that goes while it is looked for is not kept."""
    found: dict[Path, bytes] = {}
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                found[path] = path.read_bytes()
    return found


@dataclass
class Running:
    """A gateway with two routes to one recording server."""

    port: int
    directory: Path
    recorder: Any
    process: launched.Program | subprocess.Popen[bytes] = field(init=False)

    @property
    def config(self) -> Path:
        return self.directory / "limen.yaml"

    def start(self) -> None:
        """Start, and wait until it listens."""
        with open(self.directory / "gateway.log", "ab") as log:
            self.process = launched.start(["-c", str(self.config), "serve"], out=log)
        for _ in range(900):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            assert self.process.poll() is None, (self.directory / "gateway.log").read_text()
            time.sleep(0.1)
        raise AssertionError("the gateway does not listen")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it and return its status."""
        self.process.send_signal(number)
        return self.process.wait(40)

    def limen(self, *arguments: str) -> str:
        """One command of the CLI."""
        return launched.limen("-c", str(self.config), *arguments, check=True).stdout

    def approve(self, *tools: tuple[str, str]) -> None:
        """`limen tools approve SERVER TOOL` for each."""
        for one in tools:
            self.limen("tools", "approve", *one, "--reason", "test")

    def token(self, subject: str = "alice", server: str = "one", **claims: Any) -> str:
        """A signed access token for one route."""
        now = int(time.time())
        body = {
            "iss": ISSUER, "aud": f"http://127.0.0.1:{self.port}/mcp/{server}", "sub": subject, "client_id": "client",
            "iat": now, "exp": now + 300, "scope": "use", **claims,
        }  # fmt: skip
        return jwt.encode({"alg": "ES256", "typ": "at+jwt", "kid": "test"}, body, KEY)

    def post(
        self, message: dict[str, Any], token: str | None, server: str = "one", **headers: str
    ) -> tuple[int, dict[str, str], dict[str, Any]]:
        """One POST: status, headers, body."""
        sent = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", f"/mcp/{server}" if server else "/mcp", json.dumps(message), sent)
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.loads(raw) if raw else {}

    def call(self, tool: str, token: str | None, server: str = "one", **headers: str) -> tuple[int, dict[str, Any]]:
        """A self-contained tools/call."""
        params = {"name": tool, "arguments": {}, "_meta": META}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        mirrored = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": tool}
        status, _, body = self.post(message, token, server, **{**mirrored, **headers})
        return status, body

    def session(self, token: str, server: str = "one") -> str:
        """A handshake-era session."""
        asked = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": asked}
        _, headers, _ = self.post(message, token, server)
        return headers["mcp-session-id"]

    @property
    def log(self) -> str:
        """What it told the operator."""
        return (self.directory / "gateway.log").read_text()

    def until(self, true: Callable[[], Any], seconds: float = 15.0) -> float:
        """Wait for it; seconds it took."""
        started = time.monotonic()
        while not true():
            assert time.monotonic() - started < seconds, self.log
            time.sleep(0.1)
        return time.monotonic() - started

    def records(self, kind: str, count: int = 400) -> list[dict[str, Any]]:
        """The newest records of one type in the audit log."""
        lines = self.limen("audit", "tail", "--json", "-n", str(count)).splitlines()
        return [record for record in map(json.loads, lines) if record["t"] == kind]

    def calls_seen(self) -> int:
        """How many tool calls reached the server."""
        return sum(b'"tools/call"' in body for _, body in self.recorder.seen)


@contextlib.contextmanager
def running(
    directory: Path,
    extra: tuple[str, ...] = (),
    port: int = 0,
    approved: tuple[str, ...] = ("one", "two"),
    tools: tuple[str, ...] = ("echo", "danger", "slow"),
    prepare: Callable[[Running], None] = lambda gateway: None,
    **settings: Any,
) -> Iterator[Running]:
    """A gateway: `echo` and `slow` are approved and allowed, `danger` is approved and denied. `settings` replace parts
    of its configuration, `approved` and `tools` say what is approved at first, `prepare` is called before the
    start."""
    recorder = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    recorder.daemon_threads = True
    recorder.seen, recorder.extra, recorder.refusing = [], extra, False  # type: ignore[attr-defined]
    threading.Thread(target=recorder.serve_forever, daemon=True).start()
    gateway = Running(port or launched.free_port(), directory, recorder)
    port = gateway.port
    url = f"http://127.0.0.1:{recorder.server_port}/mcp"
    config = {
        "version": 1,
        "listen": {"url": f"http://127.0.0.1:{port}"},
        "identity": {"issuers": [{"issuer": ISSUER, "jwks": json.dumps({"keys": [KEY.as_dict(private=False)]})}]},
        "content": {"spotlight": "off"},  # texts are compared as they were said
        "mcpServers": {"one": {"url": url, "security": {"scopes": ["use"]}}, "two": {"url": url}},
        "policy": {
            "rules": [
                {"allow": "anyone", "call": "*/*", "scopes": ["use"]},
                {"deny": "anyone", "call": "one/danger"},
                {"deny": "anyone", "call": "two/danger"},
            ]
        },
        **settings,
    }
    gateway.config.write_text(json.dumps(config))
    gateway.config.chmod(0o600)
    try:
        prepare(gateway)
        gateway.start()
        gateway.approve(*((server, tool) for server in approved for tool in tools))
        time.sleep(1)
        yield gateway
    finally:
        if hasattr(gateway, "process") and gateway.process.poll() is None:
            gateway.stop()
        recorder.shutdown()
        recorder.server_close()
