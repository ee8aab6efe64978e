"""A browser, a gateway's sign-in and its neighbours, small enough for tests of the way between them.

world = World(tmp_path)
browser = world.browser()
page = browser.ask()                          # GET /oauth/authorize
onward = browser.allow(page)                  # POST /oauth/consent: the URL at the provider
answer = browser.open(world.idp.authorize(onward))
answer.query["code"]                          # what the client gets
"""

from __future__ import annotations

import asyncio
import hmac
import html
import itertools
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from limen.adapters.sqlite import SqliteTable
from limen.core.faults import DependencyFault
from limen.core.ports import Exchange
from limen.oauth.arrivals import Arrivals
from limen.oauth.authorize import Judge, Offer
from limen.oauth.flow import Continuation, Flow, Grantor
from limen.oauth.model import Asked, Client, Tokens, User
from limen.oauth.pkce import challenge_of
from limen.oauth.provider import Provider
from limen.oauth.settings import ProviderSettings
from limen.oauth.transactions import Transactions
from limen.oauth.web import OAuthError, Reply, Visit
from limen.signin import jose
from minting import Clock
from oauth.idp_simulator import ISSUER, Idp

GATEWAY = "https://gw.example"
HR, FINANCE = f"{GATEWAY}/hr/mcp", f"{GATEWAY}/fin/mcp"
CALLBACK = "https://app.example.com/cb"
VERIFIER = "v" * 43
OFFERS = {HR: Offer("hr", ("hr:read", "hr:write"), ("hr:read",)), FINANCE: Offer("fin", ("fin:read",), ("fin:read",))}
_COOKIE = "__Host-limen-browser"


@dataclass(frozen=True)
class Decision:
    transaction: str
    approved: bool
    browser: str
    scopes: tuple[str, ...]


class Asking:
    """Stands in for the consent page: shows what is asked, and believes only the browser it was shown to."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def page(self, visit: Visit, transaction: str, asked: Asked, client: Client, *, device: str = "") -> Reply:
        value, cookies = visit.cookie(_COOKIE), ()
        if not value:
            value = secrets.token_urlsafe(32)
            cookies = (("set-cookie", f"{_COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Lax"),)
        shown = " ".join(map(html.escape, (client.name, asked.redirect_uri, asked.resource, *asked.scopes, device)))
        form = f'<p>{shown}</p><input name="transaction" value="{transaction}"><input name="csrf" value="{{}}">'
        return Reply(200, form.format(self._csrf(value, transaction)).encode(), cookies)

    def decided(self, visit: Visit) -> Decision:
        form, value = visit.parameters(), visit.cookie(_COOKIE)
        right = self._csrf(value, form.get("transaction", ""))
        if not value or not hmac.compare_digest(form.get("csrf", ""), right):
            raise OAuthError("access_denied", "not a page of yours", status=403, detail="csrf: another")
        return Decision(
            form["transaction"], form.get("decision") == "allow", sha256(value.encode()).hexdigest(),
            tuple(form.get("scopes", "").split()),
        )  # fmt: skip

    def browser(self, visit: Visit) -> str:
        value = visit.cookie(_COOKIE)
        return sha256(value.encode()).hexdigest() if value else ""

    def leave(self, url: str, cookies: tuple[str, ...] = ()) -> Reply:
        link = f'<a href="{html.escape(url)}">on</a>'.encode()
        return Reply(200, link, tuple(("set-cookie", cookie) for cookie in cookies))

    def error(self, error: OAuthError) -> Reply:
        text = f"<h1>{html.escape(error.code)}</h1><p>{html.escape(error.description)}</p>"
        return Reply(error.status, text.encode(), (("content-security-policy", "frame-ancestors 'none'"),))

    def _csrf(self, value: str, transaction: str) -> str:
        return hmac.digest(self._key, f"{value}\0{transaction}".encode(), "sha256").hex()


class PlainSealer:
    """Stands in for the vault: what was sealed for one place opens nowhere else."""

    def seal(self, owner: str, place: str, secret: bytes) -> bytes:
        return b64encode(b"\0".join((owner.encode(), place.encode(), secret)))

    def open(self, owner: str, place: str, sealed: bytes) -> bytes:
        told_owner, told_place, secret = b64decode(sealed).split(b"\0", 2)
        if (told_owner, told_place) != (owner.encode(), place.encode()):
            raise DependencyFault("vault", "sealed for another place", retryable=False)
        return secret


class Neighbours:
    """Consents, codes and devices, as lists of what they were told."""

    def __init__(self) -> None:
        self.given: list[tuple[User, Asked, Client]] = []
        self.codes: dict[str, tuple[Asked, User, str]] = {}
        self.kept: list[tuple[User, Tokens]] = []
        self.devices: list[tuple[str, str]] = []
        self.noted: list[dict[str, Any]] = []
        self.recorded: list[tuple[str, dict[str, Any]]] = []

    def give(self, user: User, asked: Asked, client: Client) -> str:
        self.given.append((user, asked, client))
        return f"consent-{len(self.given)}"

    def code(self, asked: Asked, user: User, consent: str) -> str:
        code = secrets.token_urlsafe(32)
        self.codes[code] = (asked, user, consent)
        return code

    def approved(self, device: str, asked: Asked, user: User, consent: str) -> Reply:
        self.devices.append((device, user.subject))
        return Reply(200, b"go back to your device")

    def denied(self, device: str) -> Reply:
        self.devices.append((device, ""))
        return Reply(200, b"refused")

    def keep(self, user: User, tokens: Tokens) -> None:
        self.kept.append((user, tokens))

    def note(self, leg: str, outcome: str, **more: Any) -> None:
        self.noted.append({"leg": leg, "outcome": outcome, **more})

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        self.recorded.append((event, dict(fields)))

    def alerts(self) -> list[str]:
        return [fields["event"] for event, fields in self.recorded if event == "security"]


def app(name: str = "app", **changes: Any) -> Client:
    more: dict[str, Any] = {"source": "configured", "redirect_uris": (CALLBACK,), "digest": "d1", **changes}
    return Client(name, name=f"The {name}", **more)


class World:
    """One gateway in front of one provider. `exchange`: how the provider is reached, when not in process."""

    def __init__(
        self,
        place: Path,
        *,
        exchange: Exchange | None = None,
        clock: Callable[[], float] | None = None,
        gateway: str = GATEWAY,
        continuations: Mapping[str, Continuation] | None = None,
        arrivals: Mapping[str, Any] | None = None,
        **provider: Any,
    ) -> None:
        self.clock = Clock()
        now = clock or self.clock
        self.idp, self.neighbours, self.asking = Idp(self.clock), Neighbours(), Asking()
        self.table = SqliteTable(place / f"oauth-{secrets.token_hex(4)}.db", "oauth", now, durable=False)
        self.clients = {"app": app()}
        honest = {"issuer": ISSUER, "client_id": "limen", "client_secret": self.idp.client_secret}
        self.settings = ProviderSettings.model_validate({**honest, **provider})
        self.provider = Provider(
            self.settings, f"{gateway}/oauth/callback", self.table, PlainSealer(), exchange or self.idp, jose(),
            self.asking.browser, now,
        )  # fmt: skip
        mine = self.neighbours
        self.flow = Flow(
            gateway, Judge(self.find, lambda client, uri: uri in client.redirect_uris, OFFERS),
            Transactions(self.table, now), self.asking, self.provider,
            Grantor(mine, mine, mine, mine.keep), mine, mine.record, Arrivals(now, **(arrivals or {})), continuations,
        )  # fmt: skip
        self.handlers = {
            "/oauth/authorize": self.flow.authorize,
            "/oauth/consent": self.flow.consent,
            "/oauth/callback": self.flow.callback,
        }
        self.loop = asyncio.new_event_loop()

    async def find(self, client_id: str) -> Client:
        if client_id not in self.clients:
            raise OAuthError("invalid_client", "unknown client", detail="client_id: unknown")
        return self.clients[client_id]

    def browser(self) -> Browser:
        return Browser(self)

    def visit(self, visit: Visit) -> Answer:
        return Answer(self.loop.run_until_complete(self.handlers[visit.path](visit)))

    def rows(self, prefix: str) -> list[str]:
        return [key for key, _ in self.table.scan(prefix)]


@dataclass
class Answer:
    """What a browser sees."""

    reply: Reply

    @property
    def status(self) -> int:
        return self.reply.status

    @property
    def text(self) -> str:
        return self.reply.body.decode()

    @property
    def location(self) -> str:
        return dict(self.reply.headers).get("location", "")

    @property
    def link(self) -> str:
        found = re.search(r'href="([^"]+)"', self.text)
        return html.unescape(found[1]) if found is not None else ""

    @property
    def query(self) -> dict[str, str]:
        """What a client finds in its address, sent there by a redirect or a link."""
        return dict(parse_qsl(urlsplit(self.location or self.link).query))

    @property
    def cookies(self) -> list[str]:
        return [value for name, value in self.reply.headers if name == "set-cookie"]


def request(**changes: str | None) -> str:
    """The query of an honest authorization request, but for what is changed."""
    honest: dict[str, str | None] = {
        "response_type": "code", "client_id": "app", "redirect_uri": CALLBACK, "resource": HR, "scope": "hr:read",
        "state": "client-state", "code_challenge": challenge_of(VERIFIER), "code_challenge_method": "S256",
    }  # fmt: skip
    return urlencode({name: value for name, value in {**honest, **changes}.items() if value is not None})


@dataclass
class Browser:
    """Keeps cookies as browsers do, and visits the gateway only."""

    world: World
    jar: dict[str, str] = field(default_factory=dict)
    address: str = "192.0.2.7"
    _tabs: Any = field(default_factory=itertools.count)

    def open(self, place: str, body: Mapping[str, str] | None = None, method: str = "") -> Answer:
        path, _, query = place.partition("?")
        headers = {"cookie": ("; ".join(f"{name}={value}" for name, value in self.jar.items()),)} if self.jar else {}
        if body is not None:
            headers["content-type"] = ("application/x-www-form-urlencoded",)
        sent = urlencode(body).encode() if body is not None else b""
        kind = method or ("POST" if body is not None else "GET")
        answer = self.world.visit(Visit(kind, path, query, headers, sent, self.address))
        for cookie in answer.cookies:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.jar[name] = value
            if "Max-Age=0" in cookie:
                del self.jar[name]
        return answer

    def ask(self, **changes: str | None) -> Answer:
        return self.open(f"/oauth/authorize?{request(**changes)}")

    def answer(self, page: Answer, decision: str, scopes: str = "hr:read") -> Answer:
        form = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page.text))
        return self.open("/oauth/consent", {**form, "decision": decision, "scopes": scopes})

    def allow(self, page: Answer, scopes: str = "hr:read") -> str:
        """The URL at the provider."""
        answer = self.answer(page, "allow", scopes)
        assert answer.status == 200 and answer.link, answer.text
        return answer.link

    def sign_in(self, **changes: str | None) -> Answer:
        """The whole way of an honest person."""
        onward = self.allow(self.ask(**changes), changes.get("scope") or "hr:read")
        return self.open(self.world.idp.authorize(onward))
