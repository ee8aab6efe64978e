"""Addresses that are never an ordinary destination, whoever asks. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address

METADATA: Final = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.169.253",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
    )
)
_GLOBAL_UNICAST: Final = ip_network("2000::/3")  # RFC 4291 section 2.4, as far as IANA hands it out
_CARRYING: Final = tuple(  # an IPv4 address inside: mapped, compatible, translated, NAT64, Teredo, 6to4
    ip_network(text)
    for text in (
        "::ffff:0:0/96",
        "::/96",
        "::ffff:0:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/32",
        "2002::/16",
    )
)
_RESERVED: Final = tuple(  # what `ipaddress` takes for public: protocol assignments, 6to4 relays, RFC 9637
    ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")
)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine itself. An IPv6 address may stand in brackets."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def kind(address: Address) -> str:
    """What keeps this from being a public unicast address, or "" if nothing does.

    One of metadata, loopback, link-local, unspecified, multicast, embedded (IPv6 that carries IPv4), private (also
    carrier-grade NAT and unique local) and reserved.
    """
    if address in METADATA:
        return "metadata"
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    if address.is_unspecified:
        return "unspecified"
    if address.is_multicast:
        return "multicast"
    if address.version == 6 and any(address in network for network in _CARRYING):
        return "embedded"
    if any(address.version == network.version and address in network for network in _PRIVATE):
        return "private"
    outside = address.version == 6 and address not in _GLOBAL_UNICAST
    if outside or not address.is_global or any(address in one for one in _RESERVED if one.version == address.version):
        return "reserved"
    return ""


_PRIVATE: Final = tuple(
    ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
