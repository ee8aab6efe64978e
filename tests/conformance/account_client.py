"""Limen's way to a connected account, as a client of the official suite: `python account_client.py SOCKET` waits there
for account_command.py and forks a process for each, since what is imported here takes longer than a scenario.

The suite is server, authorization server and the person who agrees at once. The messages are the official SDK's; who
signs in, where, with which scopes, and which token is sent, is Limen's.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from credentials.account_kit import ALICE, BROWSER, House, OverHttp
from credentials.test_user_source import context, source_of, verdict
from limen.core.call import Caller
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Refuse
from limen.credentials.discovery import Place
from limen.credentials.linking import Made
from limen.credentials.upstream_client import Identity
from limen.credentials.user_grants import Account

URL, SCENARIO = "", ""
CONTEXT: dict[str, Any] = {}
BASE = "http://127.0.0.1:9"


class GivenUp(Exception):
    """Limen would not go on, which is what some scenarios want."""


class ThroughLimen(httpx2.Auth):
    """Sends what Limen would send; what a server says to it goes back to Limen."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.source = source_of(house)
        self.source._now = time.time
        self.caller = Caller(ALICE.issuer, ALICE.subject, "client")

    async def headers(self) -> dict[str, str]:
        answer = await verdict(self.source, context(self.caller))
        if isinstance(answer, Pass):
            return dict(answer.facts[0].headers)  # type: ignore[attr-defined]
        if answer.reason.id != "credentials.connect":
            raise GivenUp(answer.detail)
        await self.connect(answer)
        return await self.headers()

    async def connect(self, refused: Refuse) -> None:
        linking, name = self.house.linking, self.house.place.name
        id = linking.opened(name, refused.public["connect"].partition("handle=")[2])
        assert isinstance(id, str)
        try:
            shown = await linking.recognised(id, ALICE.issuer, ALICE.subject, "", BROWSER)
        except DependencyFault:
            if SCENARIO != "auth/authorization-server-migration":
                raise
            await self.migrate()
            return
        assert not isinstance(shown, Refuse), shown
        url = await linking.approved(name, shown.id, shown.token, BROWSER)
        assert isinstance(url, str), url
        async with httpx2.AsyncClient(trust_env=False, follow_redirects=False) as browser:
            left = await browser.get(url)
        answer = dict(parse_qsl(urlsplit(left.headers["location"]).query))
        made = await linking.finished(answer, BROWSER)
        if not isinstance(made, Made):
            raise GivenUp(made.detail)

    async def migrate(self) -> None:
        """The operator, told of another authorization server than the known one, writes that one down."""
        exchange, place = self.house.world, self.house.place
        parts = urlsplit(place.url)
        prm = await exchange.get(f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path}")
        place = Place(place.name, place.url, issuer=json.loads(prm.body)["authorization_servers"][0])
        self.house.accounts[place.name] = Account(place, exchange)

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        for _ in range(4):
            request.headers.update(await self.headers())
            response = yield request
            if response.status_code not in (401, 403):
                return
            self.source.rejected(self.caller, response.status_code, response.headers.get("www-authenticate", ""))


async def configured(exchange: OverHttp, place: Place) -> tuple[Place, Identity | None]:
    """What an operator would write down where the suite hands out a client: its id, and whose it is."""
    if "client_id" not in CONTEXT or SCENARIO != "auth/pre-registration":
        return place, None
    parts = urlsplit(place.url)
    prm = await exchange.get(f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path}")
    issuer = json.loads(prm.body)["authorization_servers"][0]
    client = Identity(CONTEXT["client_id"], "client_secret_basic", CONTEXT["client_secret"])
    return Place(place.name, place.url, issuer=issuer), client


async def main() -> None:
    exchange = OverHttp()
    place, client = await configured(exchange, Place("notes", URL))
    with tempfile.TemporaryDirectory() as directory:
        base = "https://conformance-test.local" if SCENARIO == "auth/basic-cimd" else BASE
        house = House(Path(directory), exchange, place, client, now=time.time, base=base)
        house.clients.document_url = f"{base}/client-metadata.json"  # where the suite believes a document to be
        through = ThroughLimen(house)
        try:
            async with (
                httpx2.AsyncClient(auth=through, trust_env=False, timeout=20) as http,
                Client(streamable_http_client(URL, http_client=http)) as speaking,
            ):
                await speaking.list_tools()
                await speaking.call_tool("test-tool", {})
        except* (GivenUp, DependencyFault) as group:
            print(f"given up: {group.exceptions}", file=sys.stderr)
            sys.exit(1)


def one(connection: socket.socket) -> None:
    """In a process of its own: be what the suite started, and tell how it ended."""
    global URL, SCENARIO, CONTEXT
    data, outputs, _, _ = socket.recv_fds(connection, 1 << 16, 2)
    for number, output in enumerate(outputs, 1):
        os.dup2(output, number)
    URL, SCENARIO, context = json.loads(data)
    CONTEXT = json.loads(context)
    status = 1
    try:
        asyncio.run(main())
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        connection.sendall(b"%d" % status)
        os._exit(0)


def serve(path: str) -> None:
    """Until the process that started this one has gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                one(connection)
            connection.close()


if __name__ == "__main__":
    serve(sys.argv[1])
