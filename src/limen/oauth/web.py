"""What a browser or a client sends to the authorization server, and what it gets. Knows HTTP's words, not its bytes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import orjson

from limen.core.addresses import is_loopback

SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,255}\Z")  # one scope (RFC 6749 section 3.3)
_MOST: Final = 64  # parameters of one request
_COOKIE: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*\Z")  # RFC 6265 section 4.1.1
_FORM: Final = "application/x-www-form-urlencoded"
_PLAIN: Final = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")  # not allowed in error_description (RFC 6749 section 5.2)
_CLOSED: Final = (
    ("cache-control", "no-store"),
    ("pragma", "no-cache"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
)


class OAuthError(Exception):
    """A refusal in OAuth's words. `description` and `headers` are for whoever asked, `detail` only for the operator."""

    def __init__(
        self,
        code: str,
        description: str = "",
        *,
        status: int = 400,
        detail: str = "",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(f"{code}: {description}")
        self.code, self.status, self.headers = code, status, headers
        self.description = _PLAIN.sub("?", description)[:300]
        self.detail = detail or description


@dataclass(frozen=True, slots=True)
class Visit:
    """One HTTP request to the authorization server."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by lower-case name
    body: bytes = field(default=b"", repr=False)
    address: str = ""
    secure: bool = True  # came over TLS, or never left this machine

    def header(self, name: str) -> str:
        """The only value of a header, or "". Raises OAuthError when there are several."""
        values = self.headers.get(name, ())
        if len(values) > 1:
            raise OAuthError("invalid_request", f"{name} was sent more than once")
        return values[0] if values else ""

    def parameters(self) -> dict[str, str]:
        """What was asked: of the query for GET, of the form for POST, never of both.

        Raises OAuthError for a parameter that is there twice (RFC 6749 section 3.1), and for any other kind of body.
        """
        text = self.query
        if self.method == "POST":
            if self.header("content-type").partition(";")[0].strip().lower() != _FORM:
                raise OAuthError("invalid_request", "the body must be a form")
            if self.query:
                raise OAuthError("invalid_request", "parameters belong into the body")
            try:
                text = self.body.decode("ascii")
            except UnicodeDecodeError:
                raise OAuthError("invalid_request", "the form is not encoded") from None
        return read_form(text)

    def cookie(self, name: str) -> str:
        """The value of a cookie; "" where there is none, or more than one of that name."""
        found = [
            value
            for line in self.headers.get("cookie", ())
            for key, _, value in (part.strip().partition("=") for part in line.split(";"))
            if key == name
        ]
        return found[0] if len(found) == 1 and _COOKIE.match(found[0]) else ""


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer. Never cached, and sends no referrer on (RFC 6749 section 5.1, RFC 9700 section 4.2.4)."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def all_headers(self) -> tuple[tuple[str, str], ...]:
        """With those every answer has, unless it has its own."""
        own = {name for name, _ in self.headers}
        return (*self.headers, *((name, value) for name, value in _CLOSED if name not in own))


Handler = Callable[[Visit], Awaitable[Reply]]


def read_form(text: str) -> dict[str, str]:
    """Parameters by name. Empty ones count as left out (RFC 6749 section 3.1). Raises OAuthError."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST, errors="strict")
    except ValueError:
        raise OAuthError("invalid_request", "the parameters cannot be read") from None
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise OAuthError("invalid_request", "a parameter was sent more than once")
    if any("\0" in text for pair in pairs for text in pair):
        raise OAuthError("invalid_request", "a parameter holds a NUL character")
    return {name: value for name, value in pairs if value}


def plain_url(url: str, *, query: bool = False) -> str:
    """An absolute https URL, http on this machine, without user and fragment; without a query unless `query`.

    Raises ValueError. Everything else a browser might be sent to (`javascript:`, `file:`) is none.
    """
    if not 0 < len(url) <= 2048 or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("a URL of printable ASCII is needed")
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError when out of range
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise ValueError("https is needed (http only on this machine)")
    if not parts.hostname or parts.username is not None or "#" in url or ("?" in url and not query):
        raise ValueError("a URL with a host and without user, query or fragment is needed")
    return url


def with_query(url: str, parameters: Mapping[str, str]) -> str:
    """The URL with these parameters after those it has (RFC 6749 section 3.1.2). Empty ones are left out."""
    query = urlencode({name: value for name, value in parameters.items() if value})
    return f"{url}{'&' if '?' in url else '?'}{query}"


def json_reply(document: Mapping[str, Any], status: int = 200, *headers: tuple[str, str]) -> Reply:
    """A JSON object."""
    return Reply(status, orjson.dumps(document), (("content-type", "application/json"), *headers))


def error_reply(error: OAuthError) -> Reply:
    """An error of the token endpoint and its siblings (RFC 6749 section 5.2)."""
    document = {"error": error.code, **({"error_description": error.description} if error.description else {})}
    more = (("www-authenticate", 'Basic realm="limen"'),) if error.status == 401 else ()
    return json_reply(document, error.status, *more, *error.headers)
