"""One reading of a URL that somebody else wrote, or none. Pure.

Browsers, servers and libraries disagree about backslashes, odd ways to write an address, dots and escapes; each
disagreement is a way to name one place and reach another (RFC 3986 section 7.6, RFC 9700 section 4.1). So whatever is
not written in the plainest way is refused, and nothing is ever normalised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from limen.core.addresses import Address

LONGEST: Final = 2048
_URL: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<place>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?\Z")
_PLAIN: Final = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*\Z")  # RFC 3986 section 2
_PLACE: Final = re.compile(r"(?P<host>\[[0-9a-f:]+\]|[^:\[\]@]+)(?::(?P<port>[1-9][0-9]{0,4}))?\Z")
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?\Z")
_NUMBER: Final = re.compile(r"[0-9]+\Z|0x[0-9a-f]*\Z")  # what WHATWG URL reads as the end of an IPv4 address
_PORTS: Final = {"https": 443, "http": 80}
_SMUGGLED: Final = re.compile(r"%(?:2[ef]|5c|[01][0-9a-f]|7f)", re.IGNORECASE)  # . / \ and control characters
_SEPARATORS: Final = re.compile(r"[;,]")


@dataclass(frozen=True, slots=True)
class Url:
    """An absolute URL with a host, without user and fragment. Every part is as it was written."""

    text: str
    scheme: str
    host: str  # lower case; without the brackets of an IPv6 address
    port: int | None
    path: str
    query: str | None
    address: Address | None  # where the host is one

    @property
    def origin(self) -> str:
        """scheme://host:port, the port always written."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port or _PORTS.get(self.scheme, 0)}"

    @property
    def loopback(self) -> bool:
        """Whether the host names this machine: an address, or `localhost`."""
        return self.host == "localhost" if self.address is None else self.address.is_loopback

    @property
    def crooked(self) -> str:
        """Why servers and browsers may not agree on which path this is, or ""."""
        segments = self.path.split("/")[1:]
        if any(_SEPARATORS.split(segment)[0] in (".", "..") for segment in segments):
            return "dot segments"
        if "" in segments[:-1]:
            return "an empty segment in the path"
        if _SMUGGLED.search(self.path):
            return "an encoded dot, slash, backslash or control character in the path"
        return ""


def read_url(text: str, longest: int = LONGEST) -> Url:
    """Take a URL apart. Raises ValueError, which says what is wrong and does not quote it."""
    if len(text) > longest:
        raise ValueError(f"longer than {longest} characters")
    if not _PLAIN.match(text):
        raise ValueError("characters that do not belong into a URL")
    if "#" in text:
        raise ValueError("a fragment")
    found = _URL.match(text)
    if found is None:
        raise ValueError("not an absolute URL with its scheme in lower case")
    place = _PLACE.match(found["place"])
    if place is None:
        raise ValueError("a user, a port that is none, or no host")
    port = int(place["port"]) if place["port"] else None
    if port is not None and port > 65_535:
        raise ValueError("a port that is none")
    host, address = _host(place["host"])
    return Url(text, found["scheme"], host, port, found["path"], found["query"], address)


def _host(text: str) -> tuple[str, Address | None]:
    """A name of lower-case labels, or an address in the one way it is written. Raises ValueError."""
    bare = text[1:-1] if text.startswith("[") else text
    labels = bare.split(".")
    if bare != text or _NUMBER.match(labels[-1]):
        try:
            address = ip_address(bare)
        except ValueError:
            raise ValueError("an address that is not written in the usual way") from None
        if str(address) != bare or (address.version == 6) is (bare == text):
            raise ValueError("an address that is not written in the usual way")
        return bare, address
    if len(bare) > 253 or not all(_LABEL.match(label) for label in labels):
        raise ValueError("a host that is not a name in lower case")
    return bare, None


def is_under(host: str, domain: str) -> bool:
    """Whether a host is a domain or below it."""
    return host == domain or host.endswith(f".{domain}")
