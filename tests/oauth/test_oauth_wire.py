"""The same endpoints as bytes of HTTP: our own server, its pages, and a client that sends what browsers would not."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from limen.gateway.http import HttpSurface, Site
from limen.gateway.pages import Pages
from limen.gateway.server import HttpServer
from limen.oauth.metadata import Metadata, server_metadata
from limen.oauth.settings import OAuthSettings
from limen.signin import SignIn
from oauth.ways import CALLBACK, GATEWAY, OFFERS, World, request


class Running:
    """A server in a thread of its own."""

    def __init__(self, world: World) -> None:
        self.world, self.loop, self.port = world, world.loop, 0
        settings = OAuthSettings.model_validate({"provider": {"issuer": "https://id.example", "client_id": "limen"}})
        metadata = Metadata(server_metadata(GATEWAY, settings, OFFERS), world.neighbours)
        handlers = {path.encode(): handler for path, handler in world.handlers.items()}
        signin = SignIn({**handlers, **metadata.endpoints()})
        site = Site({}, {}, lambda *_: "", True)
        surface = HttpSurface(None, site, lambda: True, Pages(signin, True))  # type: ignore[arg-type]
        self.server, self._ready = HttpServer(surface), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    def _run(self) -> None:
        async def start() -> None:
            self.port = await self.server.start("127.0.0.1", 0)
            self._ready.set()

        self.loop.run_until_complete(start())
        self.loop.run_forever()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(), self.loop).result(20)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body or None, sent)
            answer = connection.getresponse()
            return answer.status, [(name.lower(), value) for name, value in answer.getheaders()], answer.read()
        finally:
            connection.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    started = Running(World(tmp_path))
    yield started
    started.stop()


@pytest.mark.requirement("AS-02")
def test_metadata_under_both_names_and_words_where_nothing_is(running: Running) -> None:
    """AS-02, and peers' issues: a client that tries other forms gets JSON, which it can read, and not an empty page."""
    for path in ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"):
        status, headers, body = running.ask("GET", path, host="evil.example", x_forwarded_host="evil.example")
        assert status == 200 and json.loads(body)["issuer"] == GATEWAY
        assert ("access-control-allow-origin", "*") in headers
    nothing = (
        "/.well-known/oauth-authorization-server/mcp/hr",
        "/.well-known/openid-configuration/mcp/hr",
        "/mcp/hr/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server/../oauth-authorization-server",
        "/.well-known/oauth-protected-resource/nothing",
    )
    for path in nothing:
        status, headers, body = running.ask("GET", path)
        assert status == 404 and json.loads(body)["error"] == "not_found"
        assert ("content-type", "application/json") in headers


@pytest.mark.requirement("OA-27", "OA-89")
def test_one_header_stays_one_header(running: Running) -> None:
    """OA-27, OA-89: line breaks in what a client or a provider sends are data."""
    odd = "a\r\nSet-Cookie: stolen=1\r\n\r\n<script>"
    status, headers, body = running.ask("GET", f"/oauth/authorize?{request(state=odd, scope='nope')}")
    (location,) = (value for name, value in headers if name == "location")
    assert status == 302 and location.startswith(f"{CALLBACK}?error=invalid_scope&") and quote("\r\n") in location
    assert not [name for name, _ in headers if name == "set-cookie"] and not body
    answer = urlencode({"state": odd, "error": odd, "error_description": odd, "iss": odd})
    status, headers, body = running.ask("GET", f"/oauth/callback?{answer}")
    assert status == 400 and b"<script>" not in body and not [name for name, _ in headers if name == "set-cookie"]


def test_a_page_is_shown_and_its_cookie_is_the_hosts_own(running: Running) -> None:
    status, headers, body = running.ask("GET", f"/oauth/authorize?{request()}")
    sent = dict(headers)
    assert status == 200 and b"The app" in body
    assert (
        sent["set-cookie"].startswith("__Host-limen-browser=")
        and "; Secure; HttpOnly; SameSite=Lax" in sent["set-cookie"]
    )
    assert (sent["cache-control"], sent["referrer-policy"]) == ("no-store", "no-referrer")
    assert sent["x-content-type-options"] == "nosniff" and sent["content-length"] == str(len(body))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"/oauth/authorize?{request()}%ZZ&%00=%00", ""),
        ("GET", f"/oauth/authorize?{request()}&x=%ff%fe", ""),
        ("GET", "/oauth/authorize?" + "&".join(f"p{n}=1" for n in range(70)), ""),
        ("GET", "/oauth/authorize?" + "x" * 14_000, ""),
        ("POST", "/oauth/consent", "transaction=x&csrf=y&decision=allow"),
        ("POST", "/oauth/consent?decision=allow", "csrf=y"),
        ("POST", "/oauth/consent", "{}"),
        ("PUT", "/oauth/callback", ""),
        ("HEAD", "/oauth/callback?state=x", ""),
    ],
)
def test_nonsense_gets_a_page_and_never_a_redirect(running: Running, method: str, path: str, body: str) -> None:
    status, headers, _ = running.ask(method, path, body, content_type="application/x-www-form-urlencoded")
    assert 400 <= status < 500 and not [name for name, _ in headers if name in ("location", "set-cookie")]
    assert running.world.rows("") == []
