"""Requests a browser would send to the consent page, and what stands on the page it gets."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

from limen.oauth.web import Reply, Visit

BROWSER = {"sec-fetch-site": ("same-origin",), "sec-fetch-dest": ("document",), "origin": ("null",)}


class Read(HTMLParser):
    """Text, tags and form of a page."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.form: dict[str, str] = {}
        self._skip = False
        self.feed(reply.body.decode())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        members = dict(attrs)
        self.tags.append((tag, members))
        self._skip = tag == "style"
        if tag == "input":
            value = members.get("value")
            self.form[str(members["name"])] = "on" if value is None else value

    def handle_data(self, data: str) -> None:
        self.text += "" if self._skip else data


def arrive(**headers: str) -> Visit:
    return Visit("GET", "/oauth/authorize", "", {name.replace("_", "-"): (value,) for name, value in headers.items()})


def cookie_of(reply: Reply) -> str:
    return next(value.partition(";")[0] for name, value in reply.headers if name == "set-cookie")


def answer(form: dict[str, str], cookie: str, method: str = "POST", **headers: tuple[str, ...]) -> Visit:
    sent = {**BROWSER, "cookie": (cookie,), "content-type": ("application/x-www-form-urlencoded",)}
    sent.update({name.replace("_", "-"): value for name, value in headers.items()})
    sent = {name: value for name, value in sent.items() if value}
    return Visit(method, "/oauth/consent", "", sent, urlencode(form).encode(), "192.0.2.7")
