"""A person whose browser is a script: pages are read, forms are posted as Chromium posts them, cookies are kept.

A way through the gateway's pages takes milliseconds; what a real browser makes of them is tested with a real one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import httpx2

_SENT = {"sec-fetch-site": "same-origin", "sec-fetch-dest": "document", "origin": "null"}  # by a page without referrer


class _Form(HTMLParser):
    """The form of a page: where it goes, and what stands in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        members = dict(attrs)
        if tag == "form":
            self.action = members["action"]
        if tag == "input" and members.get("name"):
            self.fields[members["name"]] = members.get("value") or ("on" if members.get("type") == "checkbox" else "")


@dataclass
class Person:
    """One browser. `signs_in(url)`: what they do at the provider; the address they are sent back to. `door`: the
    replica a load balancer takes them to, host and port, if not the one the address names."""

    signs_in: Any
    cookies: dict[str, str] = field(default_factory=dict)
    door: str = ""

    def ask(self, method: str, url: str, form: dict[str, str] | None = None) -> httpx2.Response:
        """One request with this browser's cookies; no redirect is followed."""
        sent = {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())} if self.cookies else {}
        sent |= _SENT if method == "POST" else {}
        answer = _ask(self.door, method, url, data=form, headers=sent)
        for line in answer.headers.get_list("set-cookie"):
            name, _, rest = line.partition("=")
            value = rest.partition(";")[0]
            self.cookies.pop(name, None)
            if value and "max-age=0" not in line.lower():
                self.cookies[name] = value
        return answer

    def send(self, page: httpx2.Response, **typed: str) -> httpx2.Response:
        """Fill in the form of a page and send it."""
        form = _Form(page.text)
        assert form.action, page.text[-2000:]
        base = f"http://{page.request.headers['host']}"
        return self.ask("POST", urljoin(base, form.action), {**form.fields, **typed})

    def agree(self, page: httpx2.Response) -> str:
        """Press Allow; the provider's address the browser goes on to."""
        left = self.send(page, decision="allow")
        assert left.status_code == 200, left.text[-2000:]
        return left.headers["refresh"].partition("url=")[2]

    def come_back(self, url: str) -> str:
        """Open the callback; where the browser is sent."""
        answer = self.ask("GET", url)
        assert answer.is_redirect, answer.text[-2000:]
        return str(answer.headers["location"])

    def authorize(self, url: str) -> str:
        """The whole way: where the client gets its code or error."""
        return self.come_back(self.signs_in(self.agree(self.ask("GET", url))))


@dataclass
class Program:
    """A client of the gateway at `base`, without a library. `secret`: it proves itself with HTTP Basic."""

    base: str
    client_id: str
    redirect: str = ""
    resource: str = ""
    secret: str = ""
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    door: str = ""

    def url(self, **more: str) -> str:
        """What it opens in a browser."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        query = {
            "response_type": "code", "client_id": self.client_id, "redirect_uri": self.redirect, "state": "s" * 20,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), "code_challenge_method": "S256",
            "resource": self.resource, **more,
        }  # fmt: skip
        return f"{self.base}/oauth/authorize?{urlencode(query)}"

    def post(self, path: str, **form: str) -> httpx2.Response:
        """One of the gateway's endpoints for clients."""
        proof: Any = (self.client_id, self.secret) if self.secret else None
        named = {} if self.secret else {"client_id": self.client_id}
        return _ask(self.door, "POST", f"{self.base}{path}", data={**named, **form}, auth=proof)

    def redeem(self, came: str) -> httpx2.Response:
        """The code it was sent, for tokens."""
        code = dict(parse_qsl(urlsplit(came).query))["code"]
        return self.post(
            "/oauth/token", grant_type="authorization_code", code=code, redirect_uri=self.redirect,
            code_verifier=self.verifier, resource=self.resource,
        )  # fmt: skip

    def refresh(self, token: str) -> httpx2.Response:
        return self.post("/oauth/token", grant_type="refresh_token", refresh_token=token)


def _ask(door: str, method: str, url: str, **more: Any) -> httpx2.Response:
    """Follows no redirect."""
    parts = urlsplit(url)
    headers = {**more.pop("headers", {}), "host": parts.netloc}
    with httpx2.Client(timeout=30, trust_env=False) as web:
        return web.request(method, parts._replace(netloc=door or parts.netloc).geturl(), headers=headers, **more)


def claims(token: str) -> dict[str, Any]:
    """What an access token says, unverified."""
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found
