"""Where an HTTP upstream is, and what may stand in the head of a request to it."""

from __future__ import annotations

import re
import ssl
from base64 import b64decode
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from limen import __version__
from limen.core.addresses import is_loopback
from limen.core.faults import ConfigFault, InvariantFault

_LINE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_AGENT: Final = re.compile(rb"\r\nuser-agent: [^\r\n]*\r\n")
_PARAM: Final = re.compile(r"mcp-param-[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Target:
    """One origin and the constant part of every request's head, from the path on."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    line: bytes
    pins: frozenset[bytes] = frozenset()  # SHA-256 digests, one of which the certificate or its key must have

    def as_agent(self, agent: str) -> Target:
        """The same, with another User-Agent. Raises InvariantFault for one that cannot stand in a header."""
        if not _LINE.fullmatch(agent):
            raise InvariantFault(f"{agent[:40]!r} is not a User-Agent")
        return replace(self, line=_AGENT.sub(b"\r\nuser-agent: " + agent.encode("ascii") + b"\r\n", self.line, count=1))


def header_lines(pairs: tuple[tuple[str, str], ...], allowed: frozenset[str] | None = None) -> bytes:
    """Credential headers as lines. Raises InvariantFault for what must not, or cannot safely, be sent."""
    lines: list[str] = []
    for name, value in pairs:
        if allowed is not None and name.lower() not in allowed:
            raise InvariantFault(f"the header {name[:40]!r} may not be sent to this server")
        if not _LINE.fullmatch(value) or not _LINE.fullmatch(name) or ":" in name or " " in name:
            raise InvariantFault(f"the header {name[:40]!r} cannot be sent as it is")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("ascii")


def param_lines(pairs: tuple[tuple[str, str], ...]) -> bytes:
    """Mcp-Param-* lines. Raises InvariantFault for any other name or an unencoded value."""
    for name, value in pairs:
        if not _PARAM.fullmatch(name) or (value and not _LINE.fullmatch(value)):
            raise InvariantFault(f"{name[:40]!r} is not a parameter header that can be sent")
    return b"".join(f"{name}: {value}\r\n".encode("ascii") for name, value in pairs)


def target(name: str, url: str, tls: ssl.SSLContext | None, pins: tuple[str, ...] = ()) -> Target:
    """Read a configured URL. Raises ConfigFault unless it is https, or http on loopback, and verified."""
    where = f"servers.{name}.url"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigFault(str(error), where) from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or parts.fragment:
        raise ConfigFault("needs an http or https URL without user and fragment", where)
    if not re.fullmatch(r"[\x21-\x7e]+", url) or "\\" in url:
        raise ConfigFault("the URL has characters that must be encoded", where)
    secure = parts.scheme == "https"
    if not secure and not is_loopback(host):
        raise ConfigFault("plain http is for loopback only", where)
    port = port or (443 if secure else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    shown = f"[{host}]" if ":" in host else host
    line = (
        f" {path} HTTP/1.1\r\nhost: {shown}:{port}\r\nuser-agent: limen/{__version__}\r\n"
        "content-type: application/json\r\naccept: application/json, text/event-stream\r\naccept-encoding: identity\r\n"
    )
    if pins and not secure:
        raise ConfigFault("pins need https", where)
    digests = frozenset(b64decode(pin.removeprefix("sha256/"), validate=True) for pin in pins)
    return Target(host, port, _context(name, tls) if secure else None, line.encode("ascii"), digests)


def pinned(certificate: bytes | None, pins: frozenset[bytes]) -> bool:
    """Whether this certificate (DER) or its public key (RFC 7469 section 2.4: SHA-256 of SubjectPublicKeyInfo) is one
    of those pinned."""
    if certificate is None:
        return False
    if sha256(certificate).digest() in pins:
        return True
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest() in pins


def _context(name: str, given: ssl.SSLContext | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, certificates and host names verified. Raises ConfigFault for a context that would not."""
    context = given if given is not None else ssl.create_default_context()
    if context.verify_mode != ssl.CERT_REQUIRED or not context.check_hostname:
        raise ConfigFault("the TLS context does not verify the server", f"servers.{name}.tls")
    if context.minimum_version < ssl.TLSVersion.TLSv1_2:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
