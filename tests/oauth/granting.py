"""The token endpoint with stand-ins for its neighbours: clients, vault, keys, consents; and what a client sends."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from itertools import count
from typing import Any
from urllib.parse import urlencode

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from contracts.memory import MemoryTable
from limen.core.faults import DependencyFault
from limen.oauth.codes import Codes
from limen.oauth.families import Families
from limen.oauth.grants import DEVICE, Grants
from limen.oauth.minting import Mint
from limen.oauth.model import Asked, Client, User
from limen.oauth.redeeming import Redeemer, Ties
from limen.oauth.settings import TokenSettings
from limen.oauth.web import OAuthError, Reply, Visit
from limen.policy.buckets import MemoryCounter
from minting import Clock, Key

ISSUER = "https://gw.example"
RESOURCE = "https://gw.example/mcp/hr"
REDIRECT = "http://127.0.0.1:7777/cb"
VERIFIER = "v" * 64
CHALLENGE = urlsafe_b64encode(sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
ALICE = User("https://idp.example", "alice", "Alice", ("staff",), ("admin",), ("pwd", "mfa"), "gold", 1_899_999_000)
GRANTS = frozenset({"authorization_code", "refresh_token", DEVICE})
APP = Client("app", "registered", "App", (REDIRECT,), digest="d-app", grant_types=GRANTS)
OTHER = Client("other", "registered", "Other", (REDIRECT,), digest="d-other", grant_types=GRANTS)
SERVER = Client(
    "server", "configured", "Server", (REDIRECT,), auth_method="client_secret_post",
    secret_digest=sha256(b"s3cret").hexdigest(), digest="d-server", grant_types=GRANTS,
)  # fmt: skip
KEY = Key("ES256", kid="own")
PROCESSES = count(1)


REFUSED = (400, {"error": "invalid_grant", "error_description": "not valid, or not any more"})


class RealClock(Clock):
    """For tables that have a clock of their own: it is the same, or so many seconds on."""

    def __init__(self, ahead: float = 0.0) -> None:
        super().__init__(ahead)

    def __call__(self) -> float:
        return time.time() + self.now


class LockedTable(MemoryTable):
    """Threads may share it, as they may the real ones."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now)
        self.lock = threading.RLock()

    def swap(self, key: str, old: bytes | None, new: bytes | None, expires: float | None = None) -> bool:
        with self.lock:
            return bool(super().swap(key, old, new, expires))

    def put(self, key: str, value: bytes, expires: float | None = None) -> None:
        with self.lock:
            super().put(key, value, expires)

    def scan(self, prefix: str) -> Any:
        with self.lock:
            return super().scan(prefix)


class Vault:
    """Seals with one key for everybody: who opens what is the neighbour's business, that it opens nowhere else ours."""

    def __init__(self, key: bytes = b"k" * 32) -> None:
        self.cipher = AESGCM(key)

    def seal(self, owner: str, place: str, secret: bytes) -> bytes:
        nonce = sha256(secret).digest()[:12]
        return nonce + self.cipher.encrypt(nonce, secret, f"{owner}|{place}".encode())

    def open(self, owner: str, place: str, sealed: bytes) -> bytes:
        try:
            return self.cipher.decrypt(sealed[:12], sealed[12:], f"{owner}|{place}".encode())
        except InvalidTag:
            raise DependencyFault("vault", "does not open") from None


class Signer:
    """One key at a time; the ones before are published on."""

    def __init__(self, *keys: Key) -> None:
        self.keys = list(keys or (KEY,))

    def sign(self, kind: str, claims: Mapping[str, object]) -> str:
        return self.keys[0].sign(self.keys[0].header(typ=kind), dict(claims))

    def key_set(self) -> bytes:
        return json.dumps({"keys": [key.jwk for key in self.keys]}).encode()


class Known:
    """Clients by id; a secret, where there is one, comes in the form."""

    def __init__(self, *clients: Client) -> None:
        self.clients = {one.id: one for one in clients}

    async def find(self, client_id: str) -> Client:
        if client_id not in self.clients:
            raise OAuthError("invalid_client", status=401)
        return self.clients[client_id]

    async def used(self, client: Client) -> None:
        """Nothing is kept of it."""

    async def authenticate(self, visit: Visit, form: Mapping[str, str], endpoint_url: str) -> Client:
        client = await self.find(form.get("client_id", ""))
        given = sha256(form.get("client_secret", "").encode()).hexdigest()
        if client.secret_digest and given != client.secret_digest:
            raise OAuthError("invalid_client", status=401)
        return client


class Steps:
    """The flight recorder: what was noted."""

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []

    def note(self, leg: str, outcome: str, **more: Any) -> None:
        self.notes.append({"leg": leg, "outcome": outcome, **more})


class World:
    """Everything behind the token endpoint. `keys`: the DPoP header is the thumbprint itself."""

    def __init__(self, table: Any = None, *, alone: bool = True, clock: Clock | None = None, **settings: Any) -> None:
        self.clock = clock or Clock()
        self.table = table if table is not None else LockedTable(self.clock)
        self.settings = TokenSettings(**settings)
        self.clients, self.steps, self.signer = Known(APP, OTHER, SERVER), Steps(), Signer()
        self.withdrawn: set[str] = set()
        self.locked_out: set[str] = set()
        self.revoked: list[tuple[str, str, float]] = []
        self.events: list[tuple[str, Mapping[str, object]]] = []
        self.counter = MemoryCounter(now=self.clock)
        self.ties = Ties(
            holds=lambda consent: consent not in self.withdrawn,
            revoked=lambda user, client, token: bool({user.subject, client, token} & self.locked_out),
            revoke=lambda kind, name, until: self.revoked.append((kind, name, until)),
            possession=self.possession,
            recorder=self.steps,
            record=lambda event, fields: self.events.append((event, fields)),
            counter=self.counter,
        )
        self.devices: Any = None
        self.build(alone=alone)

    def build(self, *, alone: bool = True, process: str = "") -> None:
        """A process that starts: it knows what is in the tables."""
        codes = Codes(self.table, self.settings.code, self.clock)
        self.families = Families(self.table, Vault(), self.settings, self.ties.revoke, self.clock)
        self.mint = Mint(ISSUER, self.signer, self.settings.access, now=self.clock)
        redeemer = Redeemer(
            codes, self.families, self.mint, self.ties, self.settings,
            devices=self.devices, alone=alone, process=process or f"{os.getpid()}.{next(PROCESSES)}", now=self.clock,
        )  # fmt: skip
        self.grants = Grants(
            ISSUER, codes, self.families, self.mint, redeemer, self.clients, self.ties,
            key_set=self.signer.key_set, devices=self.devices is not None, now=self.clock,
        )  # fmt: skip

    async def possession(self, visit: Visit) -> str:
        return visit.header("dpop")

    def code(self, client: Client = APP, **changes: Any) -> str:
        return self.grants.code(asked(client, **changes), ALICE, "consent-1")

    def ask(self, endpoint: str = "token", dpop: str = "", **form: Any) -> tuple[int, dict[str, Any]]:
        return answer(asyncio.run(getattr(self.grants, endpoint)(visit(form, endpoint, dpop))))

    def redeem(self, code: str, client: Client = APP, **changes: Any) -> tuple[int, dict[str, Any]]:
        return self.ask(**redemption(code, client, **changes))

    def refresh(self, token: str, client: Client = APP, **changes: Any) -> tuple[int, dict[str, Any]]:
        return self.ask(**renewal(token, client, **changes))

    def signed_in(self, client: Client = APP, **changes: Any) -> dict[str, Any]:
        status, document = self.redeem(self.code(client), client, **changes)
        assert status == 200, document
        return document

    def many(self, count: int, form: Mapping[str, str], *grants: Grants) -> list[tuple[int, dict[str, Any]]]:
        """So many at once, spread over these processes."""
        ways = grants or (self.grants,)

        async def all_of_them() -> list[Reply]:
            asked = [ways[at % len(ways)].token(visit(form, "token")) for at in range(count)]
            return await asyncio.gather(*asked)

        return [answer(reply) for reply in asyncio.run(all_of_them())]

    @property
    def ended(self) -> bool:
        """Whether every grant is over, and its access tokens with it."""
        return not self.live and {kind for kind, _, _ in self.revoked} == {"grant"}

    @property
    def live(self) -> list[str]:
        """Ids of families that have not ended."""
        found = [key.removeprefix("family/") for key, _ in self.table.scan("family/")]
        return [one for one in found if self.families.get(one) is not None]


def asked(client: Client = APP, **changes: Any) -> Asked:
    honest = Asked(client.id, client.digest, REDIRECT, RESOURCE, "hr", ("read", "write"), CHALLENGE, state="s")
    return replace(honest, **changes)


def secret_of(client: Client) -> dict[str, str]:
    return {"client_secret": "s3cret"} if client.secret_digest else {}


def redemption(code: str, client: Client = APP, **changes: Any) -> dict[str, str]:
    form = {
        "grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "code_verifier": VERIFIER,
        "client_id": client.id, "resource": RESOURCE, **secret_of(client), **changes,
    }  # fmt: skip
    return {name: value for name, value in form.items() if value is not None}


def renewal(token: str, client: Client = APP, **changes: Any) -> dict[str, str]:
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": client.id, **secret_of(client)}
    return {name: value for name, value in {**form, **changes}.items() if value is not None}


def visit(form: Mapping[str, str] | str, endpoint: str = "token", dpop: str = "", **headers: str) -> Visit:
    sent = {"content-type": ("application/x-www-form-urlencoded",), **{name: (one,) for name, one in headers.items()}}
    if dpop:
        sent["dpop"] = (dpop,)
    body = form if isinstance(form, str) else urlencode(form)
    return Visit("POST", f"/oauth/{endpoint}", "", sent, body.encode(), "192.0.2.7")


def answer(reply: Reply) -> tuple[int, dict[str, Any]]:
    return reply.status, json.loads(reply.body) if reply.body else {}
