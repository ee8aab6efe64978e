"""Everything a sign-in takes, real: an OpenID provider, the gateway as a process, the official client, a browser."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import trustme
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp.types import ElicitRequestParams, ElicitRequestURLParams, ElicitResult

from gateway.running import Running, running
from launched import free_port
from provider import Provider, running_provider

HOST = "clients.example.test"
_NAMES = f"""
import socket
_known = socket.getaddrinfo
def getaddrinfo(host, *more, **named):
    name = host.decode() if isinstance(host, bytes) else str(host)
    here = name.rstrip(".") == "{HOST}"
    return _known("127.0.0.1" if here else host, *more, **named)
socket.getaddrinfo = getaddrinfo
"""
SECRET = "p&ss+word: 100%"  # of the client `gateway` at the provider
RULES = {"rules": [{"allow": "user:alice", "call": "*/*", "scopes": ["use"]}]}


class Callback(http.server.BaseHTTPRequestHandler):
    """Where the client waits for the browser."""

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        if self.path.startswith("/callback?"):
            self.server.came.append(dict(parse_qsl(urlsplit(self.path).query)))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>done</title><p>You can close this page.")


class Kept:
    """Storage of the official client."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@dataclass
class Scene:
    """A provider, the gateway in front of two servers, and where a client on this machine waits."""

    provider: Provider
    gateway: Running
    waiting: Any
    kept: Kept = field(default_factory=Kept)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    @property
    def redirect(self) -> str:
        return f"http://127.0.0.1:{self.waiting.server_port}/callback"

    def connect(
        self, person: Any, *, document: str | None = None, tool: str = "echo", server: str = "one", shown: Any = None
    ) -> str:
        """The official client calls a tool; `person(url)` does what a person does in a browser until it is done.
        `shown(url)`: the same for links of a server's own; without it the client cannot show any."""

        async def asked(_: Any, params: ElicitRequestParams) -> ElicitResult:
            assert isinstance(params, ElicitRequestURLParams), params
            await asyncio.to_thread(shown, params.url)
            return ElicitResult(action="accept")

        async def redirected(url: str) -> None:
            await asyncio.to_thread(person, url)

        async def called_back() -> AuthorizationCodeResult:
            came = self.waiting.came.pop()
            if "error" in came:
                raise PermissionError(came["error"])
            return AuthorizationCodeResult(code=came["code"], state=came.get("state"), iss=came.get("iss"))

        async def main() -> str:
            url = f"{self.base}/mcp/{server}"
            metadata = OAuthClientMetadata(
                client_name="Notes for Linux", redirect_uris=[self.redirect], response_types=["code"],
                grant_types=["authorization_code", "refresh_token"], token_endpoint_auth_method="none",
            )  # fmt: skip
            auth = OAuthClientProvider(url, metadata, self.kept, redirected, called_back, client_metadata_url=document)
            async with (
                httpx2.AsyncClient(auth=auth, timeout=60, trust_env=False) as web,
                Client(
                    streamable_http_client(url, http_client=web), elicitation_callback=asked if shown else None
                ) as client,
            ):
                result = await client.call_tool(tool, {})
                return str(result.content[0].text)

        return asyncio.run(main())


class Page(http.server.BaseHTTPRequestHandler):
    """A client's metadata document."""

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        body = json.dumps(self.server.document).encode()  # type: ignore[attr-defined]
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def published(directory: Path, monkeypatch: Any, redirect: str, **members: Any) -> Iterator[tuple[str, Any]]:
    """A metadata document at https://clients.example.test, a name only the gateway's process knows: its address, and
    its server. The gateway is started afterwards, with what this puts into its environment."""
    names = directory / "names"
    names.mkdir()
    (names / "sitecustomize.py").write_text(_NAMES)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(directory / "ca.pem"))
    monkeypatch.setenv("PYTHONPATH", f"{names}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://{HOST}:{server.server_port}/notes.json"
    server.asked = 0  # type: ignore[attr-defined]
    server.document = {  # type: ignore[attr-defined]
        "client_id": url, "client_name": "Notes for the Web", "redirect_uris": [redirect],
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
        "token_endpoint_auth_method": "none", **members,
    }  # fmt: skip
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield url, server
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def waiting_client() -> Iterator[Any]:
    """Where a client on this machine waits for the browser."""
    waiting = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Callback)
    waiting.came = []  # type: ignore[attr-defined]
    waiting.daemon_threads = True
    threading.Thread(target=waiting.serve_forever, daemon=True).start()
    try:
        yield waiting
    finally:
        waiting.shutdown()
        waiting.server_close()


@contextlib.contextmanager
def scene(
    directory: Path,
    monkeypatch: Any,
    *,
    clients: dict[str, Any] | None = None,
    waiting: Any = None,
    oauth: dict[str, Any] | None = None,
    **more: Any,
) -> Iterator[Scene]:
    """`clients`: of the settings; registration is on by default. `oauth`: its other parts. `more` replaces other parts
    of the configuration."""
    monkeypatch.setenv("PROVIDER_SECRET", SECRET)
    port = free_port()
    with contextlib.ExitStack() as stack:
        waiting = waiting or stack.enter_context(waiting_client())
        provider = stack.enter_context(running_provider({}, callback=f"http://127.0.0.1:{port}/oauth/callback"))
        whole = {
            "provider": {
                "issuer": provider.issuer, "client_id": "gateway", "client_secret": "${env:PROVIDER_SECRET}",
                "scopes": ["openid"],
            },
            "clients": {"registration": True} if clients is None else clients,
            **(oauth or {}),
        }  # fmt: skip
        settings = {"identity": {}, "oauth": whole, "policy": RULES, **more}
        gateway = stack.enter_context(running(directory, port=port, **settings))
        yield Scene(provider, gateway, waiting)
