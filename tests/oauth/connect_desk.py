"""Stand-ins for what the pages of connecting are given: a browser with cookies, a sign-in, the pages of elsewhere."""

from __future__ import annotations

import asyncio
import re
import secrets
from functools import partial
from hashlib import sha256
from html import unescape
from typing import Any
from urllib.parse import urlencode, urlsplit

from credentials.account_kit import BASE, House
from limen.credentials.connection import Person
from limen.oauth.connect import Connect
from limen.oauth.model import SignedIn, User
from limen.oauth.throttle import may_begin
from limen.oauth.web import OAuthError, Reply, Visit
from limen.policy.buckets import MemoryCounter

COOKIE = "__Host-limen-browser"


class Desk:
    def meet(self, visit: Visit) -> tuple[str, tuple[tuple[str, str], ...]]:
        if known := self.browser(visit):
            return known, ()
        value = secrets.token_urlsafe(32)
        cookie = ("set-cookie", f"{COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Lax")
        return sha256(value.encode()).hexdigest(), (cookie,)

    def browser(self, visit: Visit) -> str:
        value = visit.cookie(COOKIE)
        return sha256(value.encode()).hexdigest() if value else ""

    def leave(self, url: str) -> Reply:
        return Reply(200, b"going on", (("refresh", f"0; url={url}"),))

    def done(self, title: str, text: str) -> Reply:
        return Reply(200, f"{title}: {text}".encode())

    def error(self, error: OAuthError) -> Reply:
        return Reply(error.status, f"{error.code}: {error.description}".encode())


class Notes:
    """A Recorder."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str, dict[str, Any]]] = []

    def note(self, leg: str, outcome: str, **more: Any) -> None:
        self.steps.append((leg, outcome, more))


class Site:
    """Limen's pages, with a sign-in that believes whoever comes."""

    def __init__(self, house: House, base: str = BASE) -> None:
        self.house, self.notes, self.begun = house, Notes(), dict[str, tuple[str, str]]()
        self.pages = Connect(
            house.linking, self.begin, Desk(), self.notes, base, house.clients.document(), asyncio.to_thread,
            partial(may_begin, MemoryCounter()),
        )  # fmt: skip

    async def begin(self, purpose: str, about: str, browser: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        state = secrets.token_urlsafe(8)
        self.begun[state] = (purpose, about)
        return f"https://idp.example/authorize?state={state}", (("set-cookie", "__Host-limen-state-x=1; Secure"),)


class Browser:
    """Keeps cookies, follows nothing by itself."""

    def __init__(self, site: Site) -> None:
        self.site, self.cookies = site, dict[str, str]()

    def visit(self, method: str, url: str, form: dict[str, str] | None = None, **headers: str) -> Visit:
        parts = urlsplit(url)
        sent = {name.replace("_", "-"): (value,) for name, value in headers.items()}
        if self.cookies:
            sent["cookie"] = ("; ".join(f"{name}={value}" for name, value in self.cookies.items()),)
        body = urlencode(form or {}).encode()
        if method == "POST":
            sent["content-type"] = ("application/x-www-form-urlencoded",)
        return Visit(method, parts.path, parts.query, sent, body)

    def take(self, reply: Reply) -> Reply:
        for name, value in reply.all_headers:
            if name == "set-cookie":
                key, _, rest = value.partition("=")
                self.cookies[key] = rest.partition(";")[0]
        return reply

    async def open(self, url: str) -> Reply:
        return self.take(await self.site.pages.page(self.visit("GET", url)))

    async def sign_in(self, reply: Reply, person: Person, name: str = "Alice") -> Reply:
        """At the provider, and back."""
        state = dict(reply.headers)["location"].partition("state=")[2]
        purpose, about = self.site.begun.pop(state)
        signed = SignedIn(purpose, about, User(person.issuer, person.subject, name))
        return self.take(await self.site.pages.signed_in(signed, self.visit("GET", f"{BASE}/oauth/callback")))

    async def click(self, page: Reply, decision: str = "allow", **headers: str) -> Reply:
        text = page.body.decode()
        fields = {
            name: unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', text)
        }
        action = unescape(re.findall(r'action="([^"]+)"', text)[0])
        form = {**fields, "decision": decision}
        return self.take(await self.site.pages.page(self.visit("POST", f"{BASE}{action}", form, **headers)))

    async def back(self, url: str) -> Reply:
        return self.take(await self.site.pages.connected(self.visit("GET", url)))


def onward(reply: Reply) -> str:
    return dict(reply.headers)["refresh"].partition("url=")[2]
