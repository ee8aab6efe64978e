"""URLs in arguments: where they lead in every reading of them, and whether they carry data away.

Parsers disagree about backslashes, user parts and white space; what is read differently by two parsers is reported,
because the one that checks is not the one that fetches. Linear; longer than `LONGEST` is reported.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Final

from limen.detection.decoded import readings
from limen.detection.hosts import Hosts, Sign, addresses, host_signs, split_port
from limen.detection.paths import check_path

LONGEST: Final = 16_384
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31}):")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SPLIT_HEADER: Final = re.compile(r"[\r\n]{1,4}[A-Za-z][A-Za-z-]{1,40}:")
_ORDINARY: Final = re.compile(r"https?://[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*\.[a-zA-Z]{2,24}(?::\d{1,5})?(?:[/?#]|\Z)")
_WEB: Final = frozenset({"http", "https", "ws", "wss"})
_ACTIVE: Final = {
    "gopher": 0.97, "dict": 0.97, "jar": 0.95, "netdoc": 0.97, "php": 0.97, "phar": 0.97, "expect": 0.98, "glob": 0.9,
    "zip": 0.9, "ogg": 0.9, "ssh2": 0.9, "zlib": 0.9, "compress.zlib": 0.95, "javascript": 0.93, "vbscript": 0.95,
    "view-source": 0.85, "tftp": 0.93, "smb": 0.85, "ldap": 0.75, "ldaps": 0.75, "rmi": 0.9, "jndi": 0.98, "ext": 0.98,
    "fd": 0.9, "mhtml": 0.9, "ms-msdt": 0.97, "search-ms": 0.95, "chrome": 0.8, "about": 0.3, "unix": 0.85, "imap": 0.7,
}  # fmt: skip
# Parameters that honestly hold long opaque values.
_OPAQUE: Final = re.compile(
    r"(?:x-(?:amz|goog|ms)-.*|.*(?:sig|signature|token|state|nonce|cursor|hash|digest|hmac|jwt|assertion|code"
    r"|challenge|verifier"
    r"|samlrequest|samlresponse|sv|se|key|id|etag|hdnea|policy|expires|integrity|checksum|sha256))\Z",
    re.IGNORECASE | re.DOTALL,
)
_BLOB: Final = re.compile(r"[A-Za-z0-9/_-]{40,}={0,2}")
_LABEL: Final = re.compile(r"[a-z0-9_-]{20,63}")
_SECURE_COPY: Final = re.compile(r"[A-Za-z0-9._-]{1,64}@([A-Za-z0-9.-]{1,253}):(?!\d{1,5}(?:/|\Z))")


def check_url(text: str, hosts: Hosts | None = None, *, identifier: bool = False) -> Iterator[Sign]:
    """`hosts`: those allowed (else 1.0). `identifier`: a resource URI, where `file:` is ordinary."""
    if len(text) > LONGEST:
        yield "argument.url_long", 1.0 if hosts else 0.9, f"longer than {LONGEST} characters"
        return
    sure = 1.0 if hosts else 0.0
    if not text.isprintable() and _CONTROL.search(text):
        yield "argument.url_control", sure or 0.9, "a control character"
        text = _CONTROL.sub("", text)
    text = text.strip(" \u00a0\u3000")
    if hosts is None and (copied := _SECURE_COPY.match(text)):
        yield from host_signs(copied[1])
        return
    match = _SCHEME.match(text)
    scheme = match[1].lower() if match else ""
    rest = text[match.end() :] if match else text
    if scheme and scheme not in _WEB and (rest[:2] == "//" or scheme in _ACTIVE or scheme in ("file", "data")):
        if hosts:
            yield "argument.scheme", 1.0, "not a web address"
        yield from _other_scheme(scheme, rest, identifier=identifier)
        if scheme in _ACTIVE or scheme in ("file", "data"):
            return
    elif scheme and scheme not in _WEB:
        rest = text  # `host:port`, or `name:value`
    elif not scheme and hosts is None and rest[:2] not in ("//", "\\\\") and not _looks_like_host(rest):
        return  # a relative reference; the role says URL, so a bare host is read as one
    own = identifier and hosts is None and scheme not in _WEB  # the host of `notes://inbox/1` is the server's own word
    yield from (sign for sign in _authority(scheme, rest, hosts) if not own or sign[1] > 0.7)
    yield from _tail(rest)


def _looks_like_host(rest: str) -> bool:
    host = split_port(re.split(r"[/?#\\]", rest, maxsplit=1)[0])[0]
    return bool(addresses(host)[0]) or host.lower().startswith(("localhost", "[")) or "." in host or "@" in host


def _other_scheme(scheme: str, rest: str, *, identifier: bool) -> Iterator[Sign]:
    if scheme in _ACTIVE:
        yield "argument.scheme", _ACTIVE[scheme], "a scheme that reaches other interpreters"
    elif scheme == "file":
        if not identifier:
            yield "argument.scheme", 0.85, "a local file where an address is expected"
        path = rest[2:] if rest.startswith("//") else rest
        if path and path[0] not in "/\\":
            yield "argument.path_remote", 0.7, "a file of another machine"
        yield from check_path(path)
    elif scheme == "data" and re.match(r"[^,]{0,80}(?:html|svg|javascript)", rest):
        yield "argument.scheme", 0.6, "active content in the address itself"


def _authority(scheme: str, rest: str, hosts: Hosts | None) -> Iterator[Sign]:
    stripped = rest.lstrip("/\\") if scheme in _WEB or rest[:2] in ("//", "\\\\") else rest.removeprefix("//")
    slashes = rest[: len(rest) - len(stripped)]
    authority = re.split(r"[/?#\\]", stripped, maxsplit=1)[0]
    odd = "\\" in slashes or stripped[len(authority) : len(authority) + 1] == "\\"
    odd = odd or (scheme in _WEB and slashes != "//")
    user, at, hostport = authority.rpartition("@")
    if odd:
        yield "argument.url_ambiguous", 1.0 if hosts else 0.88, "slashes that parsers read differently"
    if at and (scheme in _WEB or not scheme):
        many = "@" in user or "." in user or "%" in user or "[" in user
        yield "argument.userinfo", 1.0 if hosts else 0.92 if many else 0.45, "a user part before the host"
    if "#" in rest and "@" in rest[rest.index("#") :] and re.match(r"[^/?]{0,253}#[^/?]{0,253}@", stripped):
        yield "argument.url_ambiguous", 1.0 if hosts else 0.92, "a fragment that may be read as a user part"
    host, port = split_port(hostport)
    if port and not (port.isascii() and port.isdigit()):
        yield "argument.url_ambiguous", 1.0 if hosts else 0.8, "a port that is not a number"
    if hosts is not None:
        if not hosts.holds(host.lower(), port or {"http": "80", "ws": "80"}.get(scheme, "443")):
            yield "argument.host", 1.0, "not one of the declared hosts"
        return  # a declared host may be an inner one
    if not host:
        return
    zoned = host.startswith("[")
    forms, deeper = ([host], False) if zoned else readings(host)
    if deeper or (len(forms) > 1 and "%" in host):
        yield "argument.host_disguised", 0.9, "a host with escapes"
    for form in forms:
        yield from host_signs(split_port(re.split(r"[/?#\\]", form, maxsplit=1)[0])[0].rpartition("@")[2])
    yield from check_labels(host.lower())


def check_labels(host: str) -> Iterator[Sign]:
    """Data smuggled out as names that a resolver will ask for."""
    if len(host) > 253:
        yield "exfiltration.host", 0.9, "a host longer than names can be"
        return
    if len(host) < 40:
        return
    long = [label for label in host.split(".")[:-2] if _LABEL.fullmatch(label) and _mixed(label)]
    if sum(map(len, long)) > 48:
        yield "exfiltration.host", 0.85, "labels that look like encoded data"
    elif any(len(label) >= 30 for label in long):
        yield "exfiltration.host", 0.5, "a label that looks like encoded data"


def _mixed(label: str) -> bool:
    """Letters and digits mixed as encodings mix them, or letters no language has in such numbers."""
    digits = sum(character.isdigit() for character in label)
    vowels = sum(character in "aeiou" for character in label)
    return (digits >= 2 or vowels * 6 < len(label)) and "-" not in label


def _tail(rest: str) -> Iterator[Sign]:
    """Path and query: split headers, nested addresses, encoded data."""
    if "%" in rest:
        decoded = readings(rest)[0][-1]
        if _SPLIT_HEADER.search(decoded) or "\x00" in decoded:
            yield "argument.crlf", 0.9, "an escaped line break or NUL that may split a header"
        if "169.254.169.254" in decoded and "169.254.169.254" in rest.partition("?")[2]:
            yield "argument.ssrf", 0.7, "an address of a metadata service inside the query"
    if len(rest) < 60:
        return
    path, _, query = rest.partition("?")
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if len(value) >= 40:
            yield from _carried(name, value)
    for part in path.split("/")[3:]:
        if len(part) >= 64:
            yield from _carried("id", part)


def _carried(name: str, value: str) -> Iterator[Sign]:
    """A long value in a query: text in an encoding is data being carried; binary in a token's place is a token."""
    blob = _BLOB.search(value.replace("%2B", "-").replace("%2F", "/").replace("%3D", "="))
    if blob is None:
        return
    opaque = bool(_OPAQUE.match(name[:200]))
    if _hides_text(blob[0]) and not blob[0].startswith("eyJ"):
        yield "exfiltration.url", 0.55 if opaque else 0.88, "encoded text in an address"
    elif not opaque and len(blob[0]) >= 256:
        yield "exfiltration.url", 0.6, "a long opaque value in an address"
    elif not opaque and blob[0].startswith("eyJ"):
        yield "exfiltration.url", 0.7, "encoded data in an address"


def _hides_text(blob: str) -> bool:
    head = blob[:512].rstrip("=").replace("-", "+").replace("_", "/")
    try:
        if re.fullmatch(r"[0-9a-fA-F]+", head):
            raw = bytes.fromhex(head[: len(head) & ~1])
        else:
            raw = base64.b64decode(head[: len(head) & ~3])
    except (binascii.Error, ValueError):
        return False
    printable = sum(32 <= octet < 127 or octet in (9, 10, 13) for octet in raw)
    return len(raw) >= 24 and printable >= 0.97 * len(raw)
