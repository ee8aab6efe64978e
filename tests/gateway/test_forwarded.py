"""Whose address it was (AU-13): X-Forwarded-For is believed from trusted proxies only, and only the part they saw."""

from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from limen.config.model import Listen
from limen.gateway.forwarded import client_address

PROXIES = (ip_network("10.0.0.0/8"), ip_network("2001:db8:ff::/48"))
CLIENT = "203.0.113.5"


@pytest.mark.requirement("AU-13")
@pytest.mark.parametrize(
    ("socket", "forwarded", "address"),
    [
        ("10.0.0.1", [CLIENT], CLIENT),
        ("10.0.0.1", [f"{CLIENT}, 10.0.0.2"], CLIENT),
        ("10.0.0.1", [CLIENT, "10.0.0.2"], CLIENT),
        ("::ffff:10.0.0.1", [CLIENT], CLIENT),
        ("2001:db8:ff::1", ["2001:db8:1::9"], "2001:db8:1::9"),
        ("10.0.0.1", [f"{CLIENT}:4711"], CLIENT),
        ("10.0.0.1", ["[2001:db8:1::9]:4711"], "2001:db8:1::9"),
        ("10.0.0.1", [], "10.0.0.1"),
        # a client that invents what stands left of what the proxy saw
        ("10.0.0.1", [f"192.0.2.1, {CLIENT}"], CLIENT),
        ("10.0.0.1", ["10.9.9.9", CLIENT], CLIENT),
        ("10.0.0.1", [f"192.0.2.1, nonsense, {CLIENT}"], CLIENT),
        ("10.0.0.1", [f"{CLIENT}, nonsense"], "10.0.0.1"),
        ("10.0.0.1", [f"{CLIENT}, nonsense, 10.0.0.7"], "10.0.0.7"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["x" * 100_000], "10.0.0.1"),
        ("10.0.0.1", [", ".join(["10.0.0.9"] * 5000)], "10.0.0.9"),
        # nobody's proxy
        ("198.51.100.7", [CLIENT], "198.51.100.7"),
        ("127.0.0.1", [CLIENT], "127.0.0.1"),
    ],
)
def test_au13_addresses(socket: str, forwarded: list[str], address: str) -> None:
    assert client_address(socket, forwarded, PROXIES) == address
    assert client_address(socket, forwarded, ()) == socket  # by default no header is believed


def test_trusted_proxies_in_the_configuration() -> None:
    assert Listen(trusted_proxies=("10.0.0.1", "10.1.0.0/16")).trusted_proxies == ("10.0.0.1/32", "10.1.0.0/16")
    for wrong in ("0.0.0.0/0", "::/0", "10.0.0.1/8", "proxy.example"):
        with pytest.raises(ValidationError):
            Listen(trusted_proxies=(wrong,))
