"""A server, its authorization server and a vault for tests of accounts people connect: in memory, and able to lie."""

from __future__ import annotations

import asyncio
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx2
import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from limen.adapters.sqlite import open_tables
from limen.core.faults import DependencyFault
from limen.core.ports import Fetched
from limen.core.verdict import Refuse
from limen.credentials.connection import Person
from limen.credentials.discovery import Discovery, Place
from limen.credentials.linking import Linking, Made, Shown
from limen.credentials.upstream_client import Clients, Identity
from limen.credentials.user_grants import Account, UserGrants

URL = "https://mcp.example/tools/mcp"
ISSUER = "https://as.example"
BASE = "https://gw.example"
PROVIDER = "https://idp.example"
ALICE, BOB = Person(PROVIDER, "alice"), Person(PROVIDER, "bob")
BROWSER = sha256(b"a browser").hexdigest()


class Sealing:
    """A Sealer with one key, bound to owner and place as the vault's are."""

    def __init__(self, key: bytes = bytes(32)) -> None:
        self._box = AESGCM(key)

    def seal(self, owner: str, place: str, secret: bytes) -> bytes:
        nonce = secrets.token_bytes(12)
        return nonce + self._box.encrypt(nonce, secret, f"{owner}\0{place}".encode())

    def open(self, owner: str, place: str, sealed: bytes) -> bytes:
        try:
            return self._box.decrypt(sealed[:12], sealed[12:], f"{owner}\0{place}".encode())
        except InvalidTag:
            raise DependencyFault("vault", "not sealed for this", retryable=False) from None


class OverHttp:
    """An Exchange over real HTTP on loopback."""

    def __init__(self) -> None:
        self._client = httpx2.AsyncClient(timeout=20, trust_env=False, follow_redirects=False)

    async def get(self, url: str, accept: str = "application/json") -> Fetched:
        return await self._ask("GET", url, b"", {"accept": accept})

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        return await self._ask("POST", url, body, headers)

    async def _ask(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        try:
            answer = await self._client.request(method, url, content=body, headers=dict(headers))
        except httpx2.HTTPError as error:
            raise DependencyFault("fetch", f"{type(error).__name__}") from None
        return Fetched(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, answer.content)


def reply(document: object, status: int = 200, **headers: str) -> Fetched:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fetched(status, {"content-type": "application/json", **named}, orjson.dumps(document))


@dataclass
class World:
    """Implements Exchange. `documents` by URL override what would be served; `asked` is everything that was fetched."""

    url: str = URL
    issuer: str = ISSUER
    challenge: str = 'Bearer resource_metadata="https://mcp.example/.well-known/oauth-protected-resource/tools/mcp"'
    documents: dict[str, Fetched] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    lasts: int = 3600
    rotate: bool = True
    refuse: str = ""  # OAuth error of the token endpoint
    down: bool = False
    slow: float = 0.0
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    refreshes: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    revoked: list[str] = field(default_factory=list)
    registered: list[dict[str, Any]] = field(default_factory=list)
    scope: str | None = "read"

    def metadata(self, **changed: Any) -> dict[str, Any]:
        told = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "registration_endpoint": f"{self.issuer}/register",
            "revocation_endpoint": f"{self.issuer}/revoke",
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_basic"],
            "client_id_metadata_document_supported": True,
            "authorization_response_iss_parameter_supported": True,
            **changed,
        }
        return {name: value for name, value in told.items() if value is not None}

    def resource(self, **changed: Any) -> dict[str, Any]:
        told = {"resource": self.url, "authorization_servers": [self.issuer], "scopes_supported": ["read"], **changed}
        return {name: value for name, value in told.items() if value is not None}

    async def get(self, url: str, accept: str = "application/json") -> Fetched:
        self.asked.append(url)
        if self.down:
            raise DependencyFault("fetch", "down")
        if url in self.documents:
            return self.documents[url]
        parts = urlsplit(self.url)
        if url == f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path}":
            return reply(self.resource())
        if url == f"{self.issuer}/.well-known/oauth-authorization-server":
            return reply(self.metadata())
        return Fetched(404, {}, b"")

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        self.asked.append(url)
        if self.slow:
            await asyncio.sleep(self.slow)
        if self.down:
            raise DependencyFault("fetch", "down")
        if url in self.documents:
            return self.documents[url]
        if url == self.url:
            return Fetched(401, {"www-authenticate": self.challenge}, b"")
        if url.endswith("/register"):
            self.registered.append(orjson.loads(body))
            given = {"client_id": f"client-{len(self.registered)}", "token_endpoint_auth_method": "none"}
            return reply(given, 201)
        form = dict(parse_qsl(body.decode()))
        self.forms.append({**form, "endpoint": url})
        if url.endswith("/revoke"):
            self.revoked.append(form["token"])
            return Fetched(200, {}, b"")
        return self.token(form)

    def token(self, form: dict[str, str]) -> Fetched:
        if self.refuse:
            return reply({"error": self.refuse}, 400)
        if form["grant_type"] == "authorization_code":
            asked = self.codes.pop(form["code"], None)
            digest = sha256(form["code_verifier"].encode()).digest()
            proven = urlsafe_b64encode(digest).rstrip(b"=").decode()
            if asked is None or asked["code_challenge"] != proven or asked["redirect_uri"] != form["redirect_uri"]:
                return reply({"error": "invalid_grant"}, 400)
        elif form["refresh_token"] not in self.refreshes:
            return reply({"error": "invalid_grant"}, 400)
        elif self.rotate:
            self.refreshes.discard(form["refresh_token"])
            self.used.add(form["refresh_token"])
        fresh = f"refresh-canary-{secrets.token_hex(8)}"
        self.refreshes.add(fresh)
        return reply(
            {
                "access_token": f"access-canary-{secrets.token_hex(8)}", "token_type": "Bearer",
                "expires_in": self.lasts, "refresh_token": fresh, "scope": self.scope,
            }
        )  # fmt: skip

    def authorize(self, url: str) -> dict[str, str]:
        """What the person's browser brings back after they agreed there."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert all(len(values) == 1 for values in parse_qs(urlsplit(url).query).values())
        code = secrets.token_urlsafe(8)
        self.codes[code] = asked
        return {"code": code, "state": asked["state"], "iss": self.issuer}


class House:
    """Everything of a gateway that connects accounts, over one database."""

    def __init__(
        self,
        directory: Path,
        world: Any = None,
        place: Place | None = None,
        client: Identity | None = None,
        now: Any = None,
        base: str = BASE,
    ) -> None:
        self.tables = open_tables(directory / "limen.db", ("oauth", "vault"))
        self.world = world if world is not None else World()
        self.place = place or Place("notes", URL)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.clock = time.time()
        now = now or (lambda: self.clock)
        self.sealer = Sealing()
        self.accounts = {self.place.name: Account(self.place, self.world, client)}
        vault, oauth = self.tables["vault"], self.tables["oauth"]
        self.grants = UserGrants(vault, self.sealer, self.accounts, self.record, now)
        self.clients = Clients(base, vault, self.sealer, now=now)
        self.discovery = Discovery(self.world, self.world, vault, self.record, now)
        self.linking = Linking(
            oauth, self.sealer, self.accounts, self.discovery, self.clients, self.grants, base, self.record, now
        )

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        self.events.append((event, dict(fields)))

    def named(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]

    async def shown(self, person: Person = ALICE, by: Person | None = None, browser: str = BROWSER) -> Shown | Refuse:
        """Up to the page: a link for `person`, opened by `by`."""
        _, url = self.linking.offer(person, self.place.name, ())
        handle = parse_qs(urlsplit(url).query)["handle"][0]
        id = self.linking.opened(self.place.name, handle)
        assert isinstance(id, str)
        came = by or person
        return await self.linking.recognised(id, came.issuer, came.subject, "Alice", browser)

    async def way(self, person: Person = ALICE) -> str:
        """Up to the server's authorization server."""
        shown = await self.shown(person)
        assert isinstance(shown, Shown)
        url = await self.linking.approved(self.place.name, shown.id, shown.token, BROWSER)
        assert isinstance(url, str), url
        return url

    async def connect(self, person: Person = ALICE) -> None:
        """All the way."""
        made = await self.linking.finished(self.world.authorize(await self.way(person)), BROWSER)
        assert isinstance(made, Made), made

    def everything(self) -> bytes:
        """Every byte of the records."""
        return b"".join(
            key.encode() + raw for table in self.tables.values() for key, raw in table.scan("")
        ) + orjson.dumps(self.events)
