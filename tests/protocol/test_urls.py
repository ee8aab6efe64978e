"""One reading of a URL: what `read_url` takes, two libraries and a browser's parser take for the same place."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx2
import pytest

from limen.core.urls import Url, is_under, read_url

SEEDS = (
    "https://app.example.com/cb", "https://app.example.com:8443/a/b?c=d&e=%20", "http://127.0.0.1:33418/",
    "http://[::1]/cb",
    "https://xn--bcher-kva.example/x", "https://93.184.216.34/x", "http://localhost/callback",
    "https://a.b-c_d.example/~x;y=1/,z",
    "https://app.example.com", "https://app.example.com?x=1", "https://[2606:2800:220:1:248:1893:25c8:1946]:1/x",
)  # fmt: skip
PIECES = (
    "@", "\\", "/", "//", "?", "#", ":", ";", "%2e", "%2f", "%5c", "%00", "%", ".", "..", "/../", "/./", "\t", "\n",
    "\r", " ", "\0", "0",
    "0x7f", "2130706433", "127.1", "[", "]", "[::ffff:7f00:1]", "\u3002", "\u0430", "\u00df", "\u212a", "\uff0f", "A",
    "Z", "-", "_", "*",
    "localhost", "evil.tld", "user:pw@", ":443", ":80", ":0", ":65536", "&", "=", "+", "'", '"', "<", "^", "`", "{",
    "|", "~", "\x7f",
)  # fmt: skip


def mutated(count: int) -> list[str]:
    chance = random.Random(20)
    found = []
    for _ in range(count):
        text = chance.choice(SEEDS)
        for _ in range(chance.randint(0, 3)):
            at = chance.randint(0, len(text))
            text = text[:at] + chance.choice(PIECES) + text[at + chance.choice((0, 0, 1, 4)) :]
        found.append(text)
    return found


def accepted(count: int) -> list[Url]:
    found = {}
    for text in mutated(count):
        try:
            found[text] = read_url(text)
        except ValueError:
            continue
    return list(found.values())


def test_what_is_taken_is_read_alike_by_two_libraries() -> None:
    taken = accepted(30_000)
    assert len(taken) > 500
    for url in taken:
        parts = urlsplit(url.text)
        assert (parts.scheme, parts.hostname, parts.port) == (url.scheme, url.host, url.port)
        assert (parts.path, parts.query, parts.username) == (url.path, url.query or "", None)
        other = httpx2.URL(url.text)
        assert other.raw_host.decode().strip("[]") == url.host
        assert not other.userinfo
        assert not other.fragment
        if url.address is not None:
            assert ip_address(url.host) == url.address


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_what_is_taken_is_read_alike_by_a_browsers_parser() -> None:
    """WHATWG URL: host and origin are the same for all; the path as well for those that are not crooked."""
    taken = [url for url in accepted(30_000) if url.scheme in ("http", "https")]
    program = """
        const urls = JSON.parse(require("fs").readFileSync(0));
        console.log(JSON.stringify(urls.map((text) => {
          try { const u = new URL(text); return [u.hostname, u.port, u.pathname, u.search, u.username, u.hash] }
          catch (error) { return null }
        })));
    """
    texts = json.dumps([url.text for url in taken])
    done = subprocess.run(["node", "-e", program], input=texts, capture_output=True, text=True, timeout=60, check=True)
    for url, seen in zip(taken, json.loads(done.stdout), strict=True):
        if seen is None:
            continue  # a browser does not go there at all
        host, port, path, search, user, fragment = seen
        assert host.strip("[]") == url.host, url.text
        assert port == ("" if url.port in (None, 443 if url.scheme == "https" else 80) else str(url.port)), url.text
        assert (user, fragment) == ("", "")
        if not url.crooked:
            assert path == (url.path or "/"), url.text
            assert search in (
                "" if not url.query else f"?{url.query}",
                f"?{(url.query or '').replace(chr(39), '%27')}",
            ), url.text


@pytest.mark.parametrize(("host", "domain", "under"), [
    ("example.com", "example.com", True), ("a.example.com", "example.com", True), ("aexample.com", "example.com",
    False),
    ("example.com.evil.tld", "example.com", False), ("com", "example.com", False),
])  # fmt: skip
def test_domains(host: str, domain: str, under: bool) -> None:
    assert is_under(host, domain) is under
