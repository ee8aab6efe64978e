"""Whose address a request came from, where a proxy stands in front of us.

X-Forwarded-For is what anybody writes into it. It is read only when the socket's other side is a trusted proxy, and
from the right: the last address no trusted proxy has is the nearest that somebody we trust has seen (MDN, RFC 7239
section 8.1). Everything left of it may be invented.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from limen.core.remembered import remembered

MOST = 32  # entries looked at
Networks = tuple[IPv4Network | IPv6Network, ...]


def client_address(socket: str, forwarded: Sequence[str], trusted: Networks) -> str:
    """The address to judge. `forwarded`: the values of X-Forwarded-For in order. What cannot be read is not believed:
    the address of the proxy that said it stands instead."""
    if not trusted or not within(socket, trusted):
        return socket
    nearest = socket
    for entry in ",".join(forwarded).rsplit(",", MOST)[::-1][:MOST]:
        text = _bare(entry.strip())
        if _read(text) is None:
            return nearest
        nearest = text
        if not within(text, trusted):
            return nearest
    return nearest


def _bare(entry: str) -> str:
    """Without brackets and port, as some proxies write it."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


@remembered(8192)
def _read(text: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    return parsed.ipv4_mapped or parsed if isinstance(parsed, IPv6Address) else parsed


def within(text: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether an address as text lies in one of these; an IPv4 address in IPv6 clothes is the IPv4 address."""
    parsed = _read(text)
    return parsed is not None and any(parsed in network for network in networks)
