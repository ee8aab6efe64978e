"""Addresses as an operator writes them. Every function raises ValueError that does not quote what was given."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit


def split_url(value: str) -> SplitResult:
    """An http(s) URL with a host and without a user. Raises ValueError that does not quote it."""
    if not value.isascii() or not value.isprintable() or " " in value or "\\" in value:
        raise ValueError("not a URL of printable ASCII")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("a URL reads http(s)://host[:port]")
    if "@" in parts.netloc:
        raise ValueError("a URL must not hold a user or password")
    return parts


def split_bind(value: str) -> tuple[str, int]:
    """host:port, the host an IP address (IPv6 in brackets) or `localhost`. Raises ValueError."""
    host, colon, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535 or (":" in host and bare == host):
        raise ValueError("bind reads host:port, for example 127.0.0.1:8300 or [::1]:8300")
    if bare != "localhost":
        try:
            ip_address(bare)
        except ValueError:
            raise ValueError("the host of bind is an IP address or localhost; 0.0.0.0 listens everywhere") from None
    return bare, int(port)
