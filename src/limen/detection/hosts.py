"""What a host in an argument really is: every notation of an address, names that mean this machine or its network.

Source of the notations: WHATWG URL (IPv4 parser), inet_aton(3), RFC 4291, 6052 and 3056. Nothing is resolved here: a
public name that resolves to a private address is the egress control's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final

from limen.core.addresses import METADATA
from limen.core.remembered import remembered
from limen.detection.decoded import plain

Sign = tuple[str, float, str]

_NUMBER: Final = re.compile(r"(?:0[xX][0-9a-fA-F]{0,16}|[0-9]{1,24})\Z")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_-]{1,63}){0,30}\Z")
_METADATA_NAMES: Final = (
    "metadata.google.internal",
    "instance-data",
    "metadata",
    "metadata.goog",
    "instance-data.ec2.internal",
)
_LOCAL_NAMES: Final = (
    "localhost",
    "localhost.localdomain",
    "localhost6",
    "ip6-localhost",
    "ip6-loopback",
    "broadcasthost",
)
_LOOPBACK_DOMAINS: Final = ("localtest.me", "lvh.me", "vcap.me", "lacolhost.com", "yoogle.com", "localho.st")
_ECHO_DOMAINS: Final = (
    "nip.io",
    "sslip.io",
    "xip.io",
    "rbndr.us",
    "1u.ms",
    "rebind.network",
    "traefik.me",
    "backname.io",
)
_INSIDE: Final = (
    "local", "internal", "localdomain", "lan", "intranet", "corp", "home", "private", "home.arpa", "svc",
    "cluster.local",
    "docker.internal", "consul",
)  # fmt: skip
_COLLECTORS: Final = (
    "oast.pro", "oast.live", "oast.site", "oast.online", "oast.fun", "oast.me", "interact.sh", "oastify.com",
    "dnslog.cn",
    "burpcollaborator.net", "ceye.io", "canarytokens.com", "webhook.site", "requestbin.com", "pipedream.net",
    "requestbin.net",
    "requestcatcher.com", "beeceptor.com", "hookbin.com", "requestrepo.com", "eyes.sh", "exfil.com",
)  # fmt: skip
_SPOOF: Final = str.maketrans("аеорсухіјѕԁһӏԛԝɡαονρτυіɑｏ", "aeopcyxijsdhlqwgaovptuiao")
_EMBEDDED: Final = re.compile(r"(?<![0-9])(\d{1,3})[.-](\d{1,3})[.-](\d{1,3})[.-](\d{1,3})(?![0-9])")


def addresses(host: str) -> tuple[list[IPv4Address | IPv6Address], bool]:
    """Every address a parser could read in `host`, embedded ones included; and whether it is written canonically."""
    bare = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
    if ":" in bare:
        try:
            six = IPv6Address(bare.partition("%")[0])
        except ValueError:
            return [], True
        return [six, *_inside(six)], "%" not in bare
    fields = bare.split(".")
    if len(fields) > 4 or not all(_NUMBER.match(field) for field in fields):
        return [], True
    decimal = all(field.isdigit() and (field == "0" or field[0] != "0") for field in fields)
    found: list[IPv4Address | IPv6Address] = []
    for octal in (True, False):  # 0177 is 127 to some parsers and 177 to others
        value = _aton(fields, octal)
        if value is not None and IPv4Address(value) not in found:
            found.append(IPv4Address(value))
    return found, decimal and len(fields) == 4


def _aton(fields: list[str], octal: bool) -> int | None:
    numbers = []
    for field in fields:
        if field[:2] in ("0x", "0X"):
            numbers.append(int(field[2:] or "0", 16))
        elif octal and len(field) > 1 and field[0] == "0":
            if set(field) & {"8", "9"}:
                return None
            numbers.append(int(field, 8))
        else:
            numbers.append(int(field))
    last = numbers.pop()
    value = 0
    for number in numbers:
        value = value << 8 | number & 0xFF  # some parsers wrap what is too large
    room = 8 * (4 - len(numbers))
    return (value << room | last & (1 << room) - 1) & 0xFFFFFFFF


def _inside(six: IPv6Address) -> Iterator[IPv4Address]:
    """IPv4 addresses an IPv6 address carries: mapped, compatible, translated (NAT64), 6to4, Teredo."""
    packed = int(six)
    if six.ipv4_mapped:
        yield six.ipv4_mapped
    elif packed >> 32 == 0 and packed > 0xFFFF:
        yield IPv4Address(packed & 0xFFFFFFFF)
    if six.sixtofour:
        yield six.sixtofour
    if six.teredo:
        yield from six.teredo
    if six in _NAT64 or packed >> 32 == 0xFFFF0000:
        yield IPv4Address(packed & 0xFFFFFFFF)


_NAT64: Final = ip_network("64:ff9b::/96")


def _judge_address(address: IPv4Address | IPv6Address) -> tuple[float, str] | None:
    if address in METADATA:
        return 0.99, "the metadata service of a cloud"
    if address.is_loopback:
        return 0.85, "this machine (loopback)"
    if address.is_link_local:
        return 0.92, "a link-local address"
    if address.is_unspecified:
        return 0.92, "the unspecified address"
    if not address.is_global or address.is_multicast:
        return 0.85, "an address that is not public"
    return None


@remembered(2048)
def host_signs(host: str) -> tuple[Sign, ...]:
    """`check_host`, remembered: the same few hosts are named again and again."""
    return tuple(check_host(host))


def check_host(host: str) -> Iterator[Sign]:
    """Does this host (without port) name something inside, or hide what it names?"""
    folded = plain(host).lower().strip(" ")
    disguised = folded != host.lower()
    bare = folded.rstrip(".") or folded
    found, canonical = addresses(bare)
    if "%" in bare and ":" in bare:
        yield "argument.ssrf", 0.9, "an address with a zone"
    for address in found:
        judged = _judge_address(address)
        if judged:
            score = judged[0] if canonical and not disguised else max(judged[0], 0.97)
            yield "argument.ssrf", score, judged[1]
    if found:
        if not canonical or disguised:
            yield "argument.host_disguised", 0.75, "an address in an unusual notation"
        return
    yield from _judge_name(bare)
    if disguised and bare.isascii():
        yield "argument.host_disguised", 0.85, "characters that only look like those of the name"
    elif not bare.isascii() or "xn--" in bare:
        yield from _spoofed(bare)


def _judge_name(name: str) -> Iterator[Sign]:
    if name in _METADATA_NAMES:
        yield "argument.ssrf", 0.98, "the metadata service of a cloud"
    elif name in _LOCAL_NAMES or name.endswith(".localhost") or _within(name, _LOOPBACK_DOMAINS):
        yield "argument.ssrf", 0.85, "a name of this machine"
    elif _within(name, _ECHO_DOMAINS):
        inner = (
            [IPv4Address(".".join(m)) for m in _EMBEDDED.findall(name) if all(int(octet) < 256 for octet in m)]
            if len(name) < 254
            else []
        )
        private = any(_judge_address(address) for address in inner)
        yield "argument.ssrf", 0.95 if private else 0.7, "a name that resolves to whatever it spells"
    elif _within(name, _INSIDE):
        yield "argument.ssrf", 0.8, "a name of the inner network"
    elif "." not in name and name and ":" not in name:
        yield "argument.ssrf", 0.6, "a name without a domain"
    if _within(name, _COLLECTORS):
        yield "exfiltration.collector", 0.85, "a service that collects what it is sent"


def _spoofed(name: str) -> Iterator[Sign]:
    for label in name.split("."):
        shown = label
        if label.startswith("xn--") and len(label) <= 63:
            try:
                shown = label[4:].encode("ascii").decode("punycode")
            except UnicodeError:
                yield "argument.host_disguised", 0.7, "a label that is not valid Punycode"
                continue
        if not shown.isascii() and shown.translate(_SPOOF).isascii():
            yield "argument.host_disguised", 0.85, "letters of another script in place of Latin ones"


def _within(name: str, domains: tuple[str, ...]) -> bool:
    # Few ask for a suffix of one of these; the last two labels find nearly all of them without a loop.
    return name.endswith(domains) and any(name == domain or name.endswith("." + domain) for domain in domains)


class Hosts:
    """Hosts an operator allows: `example.org`, `*.example.org`, `10.0.0.5`, `10.0.0.0/8`, with or without `:port`."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._exact: set[tuple[str, str]] = set()
        self._under: set[tuple[str, str]] = set()
        self._networks = []
        for entry in hosts:
            if "/" in entry:
                self._networks.append(ip_network(entry))
                continue
            name, port = split_port(entry.lower())
            if name.startswith("*."):
                self._under.add((name[1:], port))
                name = name[2:]
            elif not name.startswith("["):
                name = name.rstrip(".")
            if not (_NAME.match(name) or addresses(name)[0]):
                raise ValueError(
                    "a host reads name, *.name, address or network, each but the last with an optional :port"
                )
            if not entry.startswith("*."):
                self._exact.add((name, port))

    def holds(self, host: str, port: str) -> bool:
        """`host` in lower case as written; a port an entry does not name may be any."""
        if host.endswith("."):
            host = host[:-1]
        if (host, "") in self._exact or (host, port) in self._exact:
            return True
        if any(
            host.endswith(suffix) and wanted in ("", port) and len(host) > len(suffix) for suffix, wanted in self._under
        ):
            return _NAME.match(host) is not None
        found, canonical = addresses(host)
        return canonical and len(found) == 1 and any(found[0] in network for network in self._networks)


def split_port(authority: str) -> tuple[str, str]:
    """Host and port of `host[:port]`; an IPv6 address keeps its brackets."""
    if authority.startswith("["):
        inner, _, after = authority.partition("]")
        return inner + "]", after[1:] if after.startswith(":") else ""
    host, colon, port = authority.rpartition(":")
    if not colon or ":" in host:
        return authority, ""
    return host, port
