"""The other side of the gateway, whole: a person connects an account of theirs at a server with an authorization server
of its own, and a server that trusts Limen's keys verifies what it is given."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from browser import chromium
from credentials.test_real_account import HERE, running
from gateway.running import META
from gateway.running import running as running_gateway
from launched import free_port
from oauth.scripted import Person
from oauth.signing_in import Scene, scene

READ = "what-the-operator-reads-the-tools-with"
EVERYBODY = {"rules": [{"allow": "anyone", "call": "*/*"}]}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    port = free_port()
    with running(port, "use", seconds=300, read=READ):
        monkeypatch.setenv("NOTES_READ", READ)
        security = {"credential": {"kind": "user"}}
        headers = {"Authorization": "Bearer ${env:NOTES_READ}"}
        server = {"url": f"http://127.0.0.1:{port}/mcp", "headers": headers, "security": security}
        more: dict[str, Any] = {"mcpServers": {"notes": server}, "approved": ("notes",), "tools": ("whoami",)}
        with scene(tmp_path, monkeypatch, policy=EVERYBODY, **more) as found:
            yield found


def scripted(made: Scene, name: str, url: str) -> None:
    """Sign in for the client itself."""
    came = Person(partial(made.provider.come_back, sub=name)).authorize(url)
    assert httpx2.get(came, trust_env=False).status_code == 200


def sign_in(page: Any, name: str) -> None:
    """At either provider: a name, and yes to what it asks."""
    page.fill("input[name=login]", name)
    page.fill("input[name=password]", "any")
    page.click("button[type=submit]")
    page.wait_for_selector("text=Authorize")


@pytest.mark.timeout(180)
def test_a_person_connects_an_account_and_nobody_else_with_their_link(made: Scene) -> None:
    """B2, ELI-10: the refused call gives the link; who opens it and is somebody else gets 403, and it is spent. The
    person signs in here and there, and the call, sent again, acts with their account. The next one asks nobody."""
    opened: list[str] = []

    def shown(url: str) -> None:
        opened.append(url)
        assert url.startswith(f"{made.base}/oauth/connect/notes?")
        with chromium() as browser:
            page = browser.new_context(java_script_enabled=False).new_page()
            page.goto(url)
            page.wait_for_url(f"{made.provider.issuer}/**")
            sign_in(page, "bob" if len(opened) == 1 else "alice")
            with page.expect_response(f"{made.base}/oauth/callback?*") as callback:
                page.click("button[type=submit]")
            if len(opened) == 1:
                assert callback.value.status == 403
                return
            page.get_by_role("button", name="Connect", exact=True).click()
            page.wait_for_selector("input[name=login]")
            assert not page.url.startswith((made.base, made.provider.issuer))
            sign_in(page, "alice-at-the-server")
            page.click("button[type=submit]")
            page.get_by_text("Connected").first.wait_for()
            assert page.url.startswith(f"{made.base}/oauth/connected")

    alice = partial(scripted, made, "alice")
    answer = made.connect(alice, tool="whoami", server="notes", shown=shown)
    assert answer == "alice-at-the-server"
    assert len(set(opened)) == 2
    assert made.connect(alice, tool="whoami", server="notes", shown=shown) == "alice-at-the-server"
    assert len(opened) == 2
    (row,) = json.loads(made.gateway.limen("connections", "list", "--json"))
    assert row["server"] == "notes"
    (event,) = made.gateway.records("connect_by_another")
    assert (event["server"], event["sub"], event["came_sub"]) == ("notes", "alice", "bob")


@pytest.mark.timeout(120)
def test_a_server_verifies_tokens_minted_for_it(tmp_path: Path) -> None:
    """F5: by PyJWT and our published keys alone: who calls, through which client, for which tool and arguments. A token
    for another server, and the caller's own, are none there."""
    mine, port = free_port(), free_port()
    base, place = f"http://127.0.0.1:{mine}", f"http://127.0.0.1:{port}/mcp"
    argv = [sys.executable, str(HERE / "account_server.py"), str(port), base, "", "/oauth/jwks"]
    with subprocess.Popen(argv) as server:
        try:
            for _ in range(300):
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 0.2).close()
                    break
                time.sleep(0.1)
            security = {"credential": {"kind": "minted"}}
            more: dict[str, Any] = {"mcpServers": {"books": {"url": place, "security": security}}}
            more |= {"policy": EVERYBODY, "approved": ("books",), "tools": ("told",)}
            with running_gateway(tmp_path, port=mine, **more) as gateway:
                token = gateway.token("alice", "books")
                arguments = {"word": "hello"}
                params = {"name": "told", "arguments": arguments, "_meta": META}
                message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
                named = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "told"}
                status, _, body = gateway.post(message, token, "books", **named)
                assert status == 200, body
                claims = json.loads(body["result"]["content"][0]["text"])
                assert (claims["iss"], claims["aud"], claims["sub"]) == (base, place, "alice")
                assert (claims["client_id"], claims["scope"]) == ("client", "tool:told")
                assert claims["exp"] - claims["iat"] == 120
                said = {"method": "tools/call", "name": "told", "arguments": arguments}
                text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
                digest = hashlib.sha256(text.encode()).digest()
                assert claims["limen_call"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                refused = httpx2.post(place, headers={"authorization": f"Bearer {token}"}, json={}, trust_env=False)
                assert refused.status_code == 401
        finally:
            server.kill()
