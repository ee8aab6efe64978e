"""The whole way with real parts: npm oidc-provider as the server's authorization server, the official SDK as the server
that takes tokens for itself only, and Limen's own transport in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import httpx2

import provider
from credentials.account_kit import ALICE, BOB, House, OverHttp
from credentials.test_user_source import context, headers, source_of, verdict
from launched import free_port, readable
from limen.core.call import Caller
from limen.core.faults import UpstreamFault
from limen.core.verdict import Refuse
from limen.credentials.connection import Person
from limen.credentials.discovery import Place
from limen.gateway.upstreams import HttpUpstream
from oauth.connect_desk import Browser, Site, onward
from upstreams.minted import Heard, call, permit

HERE = Path(__file__).resolve().parent
SECONDS = 3  # a token of the authorization server is good for


@contextmanager
def running(port: int, scope: str, seconds: int = SECONDS, read: str = "") -> Iterator[str]:
    """The MCP server at `port` and its authorization server, whose tokens are good for `seconds`; its issuer. `read`: a
    token that opens what the server offers."""
    place = provider._install()
    shutil.copy(HERE / "upstream_idp.mjs", place / "upstream_idp.mjs")
    resource = f"http://127.0.0.1:{port}/mcp"
    started: list[subprocess.Popen[bytes]] = []
    try:
        argv = [provider._node(place), "upstream_idp.mjs", resource, scope, str(seconds)]
        with (place / "log").open("ab") as log:
            idp = subprocess.Popen(argv, cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        started.append(idp)
        assert idp.stdout is not None
        line = b""
        while not line.startswith(b'{"issuer"'):
            line = idp.stdout.readline() if readable(idp.stdout, 60) else b""
            assert line, "the authorization server did not start"
        issuer = json.loads(line)["issuer"]
        argv = [sys.executable, str(HERE / "account_server.py"), str(port), issuer, scope, "/jwks", read]
        started.append(subprocess.Popen(argv))
        for _ in range(300):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            time.sleep(0.1)
        yield issuer
    finally:
        for process in started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def at_the_server(url: str, login: str, back: str) -> str:
    """What a person does at the server's authorization server; the URL their browser comes back to."""
    with httpx2.Client(timeout=20, trust_env=False) as client:
        page = client.get(url)
        for _ in range(12):
            if page.is_redirect:
                place = urljoin(str(page.url), page.headers["location"])
                if place.startswith(back):
                    return place
                page = client.get(place)
                continue
            import re

            action = re.search(r'<form[^>]*action="([^"]+)"', page.text)
            prompt = re.search(r'name="prompt" value="(\w+)"', page.text)
            assert action is not None, page.text[-2000:]
            assert prompt is not None, page.text[-2000:]
            fields = {"prompt": prompt[1], **({"login": login, "password": "x"} if prompt[1] == "login" else {})}
            page = client.post(urljoin(str(page.url), action[1]), data=fields)
    raise AssertionError("it does not end")


async def connected(house: House, person: Person, login: str, base: str) -> None:
    """From the refused call's URL to the connection, in one browser."""
    source = source_of(house)
    refused = await verdict(source, context(Caller(person.issuer, person.subject, "client")))
    assert isinstance(refused, Refuse)
    browser = Browser(Site(house, base))
    page = await browser.sign_in(await browser.open(refused.public["connect"]), person)
    assert page.status == 200, browser.site.notes.steps[-1]
    left = await browser.click(page)
    back = await asyncio.to_thread(at_the_server, onward(left), login, f"{base}/oauth/connected")
    done = await browser.back(back)
    assert b"Connected" in done.body, (done.body, browser.site.notes.steps[-1])


def test_each_person_acts_with_their_own_account_at_a_real_server_b2_b3(tmp_path: Path) -> None:
    port, base = free_port(), "http://127.0.0.1:9"

    async def run(issuer: str) -> None:
        exchange = OverHttp()
        place = Place("notes", f"http://127.0.0.1:{port}/mcp")
        house = House(tmp_path, exchange, place, now=time.time, base=base)
        source = source_of(house)
        source._now = time.time
        upstream = HttpUpstream("notes", place.url, timeout=20)
        people = {"alice": ALICE, "bob": BOB}
        for name, person in people.items():
            await connected(house, person, f"{name}-at-the-server", base)

        async def whoami(name: str) -> str:
            caller = Caller(people[name].issuer, name, "client")
            given = headers(await verdict(source, context(caller)))
            asked = call("tools/call", "whoami", b"{}")
            allowed = await permit(asked, server="up", headers=tuple(given.items()), subject=name)
            result = await upstream.forward(allowed, Heard())
            return str(result["content"][0]["text"])

        try:
            assert await whoami("alice") == "alice-at-the-server"
            assert await whoami("bob") == "bob-at-the-server"
            first = headers(await verdict(source))["authorization"]
            await asyncio.sleep(SECONDS + 1)  # tokens expire: renewed with a refresh token that is used once
            assert await whoami("alice") == "alice-at-the-server"
            assert headers(await verdict(source))["authorization"] != first
            # B1: the caller's own token is good for nothing there.
            stolen = await permit(
                call("tools/call", "whoami", b"{}"), server="up", headers=(("authorization", "Bearer caller-token"),)
            )
            try:
                await upstream.forward(stolen, Heard())
            except UpstreamFault as fault:
                assert "401" in str(fault)
            else:
                raise AssertionError("a foreign token was taken")
            # Ended here, and told there: the refresh token is dead at the authorization server as well.
            connection = await house.grants.find(ALICE, "notes")
            assert connection is not None
            _, refresh, client = house.grants._opened(connection)
            await house.grants.end(connection.id, "test")
            assert await house.grants.tell() == 1
            form = {"grant_type": "refresh_token", "refresh_token": refresh, "resource": place.url}
            from limen.credentials.upstream_client import Denied, token

            try:
                await token(exchange, connection.token_endpoint, client, form)
            except Denied as denied:
                assert denied.code == "invalid_grant"
            else:
                raise AssertionError("the refresh token outlived its revocation")
        finally:
            await upstream.close()

    with running(port, "use") as issuer:
        asyncio.run(run(issuer))
