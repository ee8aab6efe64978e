"""A gateway in front of servers that offer the same names, with bundles of them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from gateway.running import ISSUER, KEY, Running
from launched import free_port
from limen.config.load import load_config
from limen.opening import open_registry

LONG = "n" * 100
SERVER = Path(__file__).with_name("twin_server.py")


class Twins(Running):
    """A gateway in front of servers `one`, `two` and `Three_3`; bundle `team` is the first two."""

    @contextlib.asynccontextmanager
    async def client(self, route: str, mode: str = "auto", **settings: Any) -> AsyncIterator[Client]:
        """The official client on one route ("" is the bundle of all)."""
        headers = {"Authorization": f"Bearer {self.token('alice', route)}"}
        async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
            transport = streamable_http_client(self.url(route), http_client=http)
            async with Client(transport, mode=mode, **settings) as client:
                yield client

    def url(self, route: str) -> str:
        """Address and audience of a route."""
        return f"http://127.0.0.1:{self.port}/mcp" + (f"/{route}" if route else "")

    def token(self, subject: str = "alice", server: str = "one", **claims: Any) -> str:
        """A signed access token for one route."""
        return super().token(subject, server, **{"aud": self.url(server), **claims})

    def records(self, count: int = 400) -> list[dict[str, Any]]:
        """The newest records of the log."""
        return [json.loads(line) for line in self.limen("audit", "tail", "--json", "-n", str(count)).splitlines()]


@contextlib.contextmanager
def twins(directory: Path) -> Iterator[Twins]:
    """Everything is approved but what is called late; what is called denied or secret is denied."""
    with contextlib.ExitStack() as stack:
        ports = {}
        for name in ("one", "two", "Three_3"):
            argv = [sys.executable, str(SERVER), name]
            process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            ports[name] = int(process.stdout.readline())
        gateway = Twins(free_port(), directory, None)
        everything = {"operations": ["tool", "prompt", "resource"]}
        config = {
            "version": 1,
            "listen": {"url": f"http://127.0.0.1:{gateway.port}"},
            "identity": {"issuers": [{"issuer": ISSUER, "jwks": json.dumps({"keys": [KEY.as_dict(private=False)]})}]},
            "content": {"spotlight": "off"},  # texts are compared as they were said
            "mcpServers": {
                name: {"url": f"http://127.0.0.1:{port}/mcp", "security": {"scopes": [f"{name}.use"]}}
                for name, port in ports.items()
            },
            "bundles": {"team": ["one", "two"]},
            "policy": {
                "rules": [
                    {"allow": "anyone", "call": "*/*", **everything},
                    {"deny": "anyone", "call": ["*/denied", "resource:*/note://secret"]},
                ]
            },
        }
        gateway.config.write_text(json.dumps(config))
        gateway.config.chmod(0o600)
        gateway.limen("tools", "list", "--refresh")
        registry = open_registry(load_config(gateway.config).config)
        for entry in registry.entries():
            if "late" not in entry.name:
                registry.approve(entry.server, entry.kind, entry.name, "tester", "test", entry.pending)
        gateway.start()
        stack.callback(lambda: gateway.process.poll() is None and gateway.stop())
        time.sleep(1.5)  # the servers have been read
        yield gateway
