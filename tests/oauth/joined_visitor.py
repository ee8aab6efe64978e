"""A browser without a screen, for sign-ins through the running gateway: cookies, forms, and what secrets it saw."""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64encode
from hashlib import sha256
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2

from oauth.signing_in import Scene


class Visitor:
    """One person's browser and their client, at one gateway. `seen`: every secret that went over the wire, by name."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.cookies, self.seen = scene, dict[str, str](), dict[str, str]()
        self.client_id, self.verifier = "", secrets.token_urlsafe(48)

    def send(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """One request; cookies are kept and sent, marked Secure or not: this is loopback."""
        headers = {
            "cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            **more.pop("headers", {}),
        }
        with httpx2.Client(timeout=30, trust_env=False) as web:
            answer = web.request(method, f"{self.scene.base}{path}", headers=headers, **more)
        for line in answer.headers.get_list("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            if value and "Max-Age=0" not in line:
                self.cookies[name] = value
                self.seen[f"cookie {name} {len(self.seen)}"] = value.partition(".")[0]
            else:
                self.cookies.pop(name, None)
        return answer

    def register(self, **more: Any) -> dict[str, Any]:
        """RFC 7591, as the person's application does it."""
        document = {
            "client_name": "Notes", "redirect_uris": [self.scene.redirect], "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], **more,
        }  # fmt: skip
        found: dict[str, Any] = self.send("POST", "/oauth/register", json=document).raise_for_status().json()
        self.client_id = found["client_id"]
        for name in ("client_secret", "registration_access_token"):
            if name in found:
                self.seen[name] = found[name]
        return found

    def asking(self, server: str = "one", **more: str) -> dict[str, str]:
        challenge = urlsafe_b64encode(sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()
        state = secrets.token_urlsafe(16)
        return {
            "response_type": "code", "client_id": self.client_id, "redirect_uri": self.scene.redirect, "state": state,
            "resource": f"{self.scene.base}/mcp/{server}", "code_challenge": challenge,
            "code_challenge_method": "S256", **more,
        }  # fmt: skip

    def page(self, server: str = "one", **more: str) -> httpx2.Response:
        """The consent page."""
        return self.send("GET", "/oauth/authorize", params=self.asking(server, **more))

    def form(self, page: httpx2.Response, decision: str = "allow") -> dict[str, str]:
        """What a person's click on it sends."""
        hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text)
        boxes = re.findall(r'type="checkbox"[^>]*name="([^"]+)"', page.text)
        form = {name: unescape(value) for name, value in hidden}
        self.seen[f"csrf {len(self.seen)}"] = form["csrf"]
        return {**form, **dict.fromkeys(boxes, "on"), "decision": decision}

    def click(self, form: dict[str, str], **headers: str) -> httpx2.Response:
        own = {"origin": self.scene.base, "sec-fetch-site": "same-origin"}
        return self.send("POST", "/oauth/consent", data=form, headers={**own, **headers})

    def onward(self, reply: httpx2.Response) -> str:
        """Where the page after the click leads: the provider."""
        found = re.search(r"url=(.+)", reply.headers.get("refresh", ""))
        assert found is not None, reply.text
        url = found[1].strip("\"'")
        for name in ("state", "nonce"):
            self.seen[f"provider's {name} {len(self.seen)}"] = dict(parse_qsl(urlsplit(url).query))[name]
        return url

    def left(self, server: str = "one", **more: str) -> str:
        """Agree, and stand before the provider: its URL."""
        return self.onward(self.click(self.form(self.page(server, **more))))

    def back(self, url: str, user: str = "alice") -> httpx2.Response:
        """Sign in at this URL of the provider, and come back."""
        return self.come(self.scene.provider.come_back(url, user))

    def come(self, place: str) -> httpx2.Response:
        parts = urlsplit(place)
        self.seen[f"provider's code {len(self.seen)}"] = dict(parse_qsl(parts.query)).get("code", "x" * 32)
        return self.send("GET", f"{parts.path}?{parts.query}")

    def code(self, reply: httpx2.Response) -> str:
        """The code an answer to the client holds."""
        answer = dict(parse_qsl(urlsplit(reply.headers["location"]).query))
        self.seen[f"code {len(self.seen)}"] = answer["code"]
        return answer["code"]

    def redeem(self, code: str, **more: str) -> httpx2.Response:
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": self.scene.redirect,
            "code_verifier": self.verifier, "client_id": self.client_id, **more,
        }  # fmt: skip
        self.seen["verifier"] = self.verifier
        return self.tokens(form)

    def tokens(self, form: dict[str, str]) -> httpx2.Response:
        answer = self.send("POST", "/oauth/token", data=form)
        for name in ("access_token", "refresh_token"):
            if answer.status_code == 200 and name in answer.json():
                self.seen[f"{name} {len(self.seen)}"] = answer.json()[name]
        return answer

    def signed_in(self, server: str = "one", user: str = "alice", **more: str) -> dict[str, Any]:
        """The whole way, to the tokens."""
        found: dict[str, Any] = (
            self.redeem(self.code(self.back(self.left(server, **more), user))).raise_for_status().json()
        )
        return found
