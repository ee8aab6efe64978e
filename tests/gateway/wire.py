"""Requests to a running gateway exactly as a test writes them: any method, path and headers, or raw bytes."""

from __future__ import annotations

import http.client
import io
import json
import socket
import time
from typing import Any, ClassVar

from gateway.running import META, Recorder, Running
from launched import readable
from limen.core.call import Era
from limen.posture import METHODS as OFFERED
from limen.protocol.methods import METHODS

OLD, NEW = "2025-11-25", "2026-07-28"
JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
Answer = tuple[int, dict[str, str], bytes]


def ask(
    gateway: Running,
    method: str = "POST",
    path: str = "/mcp/one",
    headers: dict[str, str] | None = None,
    body: Any = None,
) -> Answer:
    """One request on a connection of its own: status, headers in lower case, body. A `Host` header replaces ours."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    try:
        return on(connection, method, path, headers or {}, body)
    finally:
        connection.close()


def on(connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str], body: Any) -> Answer:
    """The same on a connection that is kept."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method, path, data, headers)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def raw(gateway: Running, data: bytes, seconds: float = 15.0) -> bytes:
    """Bytes in, bytes out until the gateway closes or has answered with a body of known length."""
    with socket.create_connection(("127.0.0.1", gateway.port), seconds) as connection:
        connection.sendall(data)
        got = b""
        while b"\r\n\r\n" not in got and (more := connection.recv(65536)):
            got += more
        return got


def message(method: str, era: Era) -> tuple[dict[str, Any], dict[str, str]]:
    """A well-formed message of this method with the headers its era wants."""
    row = METHODS[method]
    params: dict[str, Any] = {row.names: "echo"} if row.names else {}
    if method == "initialize":
        params = {"protocolVersion": OLD, "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    if method == "logging/setLevel":
        params = {"level": "info"}
    if method == "subscriptions/listen":
        params = {"notifications": {"toolsListChanged": True}}
    if method == "completion/complete":
        params = {"ref": {"type": "ref/prompt", "name": "echo"}, "argument": {"name": "a", "value": ""}}
    headers = {**JSON, "MCP-Protocol-Version": OLD}
    if era is Era.MODERN:
        params["_meta"] = META
        headers |= {"MCP-Protocol-Version": NEW, "Mcp-Method": method}
        if row.names and row.request:
            headers["Mcp-Name"] = "echo"
    built: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    return ({**built, "id": 1} if row.request else built), headers


EVERY = [(method, era) for method, row in METHODS.items() if method in OFFERED for era in sorted(row.eras, key=str)]


class Patient(Recorder):
    """Its tool `pause` takes up to three seconds and notices when whoever called has left."""

    begun: ClassVar[list[float]] = []
    left: ClassVar[list[bool]] = []

    def do_POST(self) -> None:
        body, stream = self.rfile.read(int(self.headers["Content-Length"])), self.rfile
        self.rfile = io.BytesIO(body)
        try:
            if b'"pause"' in body and b'"tools/call"' in body:
                self.begun.append(time.monotonic())
                self.left.append(self._abandoned(3.0))
            super().do_POST()
        except OSError:
            self.close_connection = True
        finally:
            self.rfile = stream

    def _abandoned(self, seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if readable(self.connection, 0.05) and not self.connection.recv(1, socket.MSG_PEEK):
                return True
        return False
