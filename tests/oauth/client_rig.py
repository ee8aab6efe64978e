"""What the tests of clients share: a TLS server on loopback posing as a public one, a clock, and everything wired."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlencode

import trustme

from contracts.memory import MemoryTable
from limen.adapters.public_http import PublicHttp
from limen.catalog.lookalike import lookalike_letters, plain, squat_key
from limen.core.addresses import Address
from limen.core.faults import DependencyFault
from limen.core.ports import Fetched
from limen.identity.client_keys import ClientKeys
from limen.oauth.assertion import Assertions
from limen.oauth.clients import Clients
from limen.oauth.documents import Documents
from limen.oauth.registration import Registration
from limen.oauth.settings import ClientSettings
from limen.oauth.trust import Letters, Trust
from limen.oauth.web import OAuthError, Reply, Visit
from limen.policy.buckets import MemoryCounter

ISSUER = "https://limen.example.com"
OWN = frozenset({"https://limen.example.com:443", "https://login.provider.example:443"})
PUBLIC = "93.184.216.34"
CIMD = "https://app.example.com/oauth/client.json"
TOKEN = f"{ISSUER}/oauth/token"
LETTERS = Letters(squat_key, plain, lookalike_letters)


def document(client_id: str = CIMD, **more: Any) -> dict[str, Any]:
    base = {"client_id": client_id, "client_name": "Example App", "redirect_uris": ["https://app.example.com/cb"]}
    return {name: value for name, value in {**base, **more}.items() if value is not ...}


class Scripted:
    """An Exchange that answers from a table; what is not in it cannot be reached."""

    def __init__(self) -> None:
        self.answers: dict[str, Fetched | Exception] = {}
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None

    def put(self, url: str, body: Any, status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[url] = Fetched(status, {"content-type": "application/json", **named}, data)

    async def get(self, url: str, accept: str = "application/json") -> Fetched:
        self.asked.append(url)
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.get(url, DependencyFault("fetch", "10.0.0.7: refused"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        raise AssertionError("nothing of clients is posted")


class Notes:
    """A Recorder, and the log."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.events: list[tuple[str, Mapping[str, Any]]] = []

    def note(self, leg: str, outcome: str, **fields: Any) -> None:
        self.steps.append({"leg": leg, "outcome": outcome, **fields})

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        self.events.append((event, fields))

    def named(self, event: str) -> list[Mapping[str, Any]]:
        return [fields for name, fields in self.events if name == event]


class Rig:
    """Everything about clients, wired as the composition root does, on a clock of its own."""

    def __init__(self, table: Any = None, exchange: Any = None, **settings: Any) -> None:
        self.at = 1_800_000_000.0
        self.settings = ClientSettings.model_validate(settings)
        self.table = table or MemoryTable(self.now)
        self.exchange = exchange or Scripted()
        self.notes, self.counter, self.keys = Notes(), MemoryCounter(now=self.now), ClientKeys()
        self.trust = Trust(self.settings.documents, LETTERS)
        self.documents = Documents(
            self.exchange, self.settings.documents, self.trust, self.keys, OWN, self.notes.record, self.now
        )
        self.assertions = Assertions(self.table, self.keys, self.exchange, ISSUER, self.now)
        self.clients = Clients(
            self.settings, self.table, self.documents, self.assertions, self.counter, OWN, self.notes, self.now
        )
        self.registration = Registration(
            self.settings, self.table, self.counter, self.trust, ISSUER, OWN, self.notes, self.notes.record, self.now
        )

    def now(self) -> float:
        return self.at


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def refused(work: Callable[[], Any], code: str | None = None) -> OAuthError:
    """The refusal that calling this must end in."""
    try:
        found = work()
    except OAuthError as error:
        assert code is None or error.code == code, error
        return error
    raise AssertionError(f"not refused: {found!r}")


def form_visit(form: Mapping[str, str], *, query: str = "", address: str = "192.0.2.7", **headers: str) -> Visit:
    """A form, as sent to the token endpoint."""
    named = {name: (value,) for name, value in headers.items()}
    kind = {"content-type": ("application/x-www-form-urlencoded",)}
    return Visit("POST", "/oauth/token", query, {**kind, **named}, urlencode(form).encode(), address)


def json_visit(
    body: Any, method: str = "POST", path: str = "/oauth/register", address: str = "192.0.2.7", **headers: str
) -> Visit:
    named = {name: (value,) for name, value in headers.items()}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Visit(method, path, "", {"content-type": ("application/json",), **named}, data, address)


def read(reply: Reply) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reply.body)
    return found


@asynccontextmanager
async def posing(
    answer: bytes | Callable[[bytes], bytes], authority: trustme.CA, name: str, seen: list[bytes] | None = None,
    *, slow: float = 0.0,
) -> AsyncIterator[int]:  # fmt: skip
    """A TLS server on loopback with a certificate of this name. `slow`: seconds between two bytes."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(tls)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            request = await reader.readuntil(b"\r\n\r\n")
            if seen is not None:
                seen.append(request)
            data = answer(request) if callable(answer) else answer
            for start in range(0, len(data), 1 if slow else len(data)):
                writer.write(data[start : start + (1 if slow else len(data))])
                await writer.drain()
                await asyncio.sleep(slow)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class World:
    """Names and addresses of a made-up internet: every address leads to one port of loopback, and is remembered."""

    def __init__(self, authority: trustme.CA, port: int = 0) -> None:
        self.port = port
        self.names: dict[str, list[list[str]]] = {}  # answers in turn; the last one stays
        self.lookups: list[str] = []
        self.connected: list[tuple[str, int, str]] = []
        self.tls = ssl.create_default_context()
        authority.configure_trust(self.tls)

    async def lookup(self, name: str) -> list[Address]:
        self.lookups.append(name)
        answers = self.names.get(name)
        if answers is None:
            raise OSError("no such name")
        return [ip_address(one) for one in (answers.pop(0) if len(answers) > 1 else answers[0])]

    async def connect(
        self, address: Address, port: int, tls: ssl.SSLContext | None, name: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.connected.append((str(address), port, name))
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname=name if tls else None)

    def http(self, **more: Any) -> PublicHttp:
        return PublicHttp(tls=self.tls, lookup=self.lookup, connect=self.connect, **more)
