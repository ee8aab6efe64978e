"""Client certificates: of our own TLS connections, or told by a proxy we were told to believe.

What a token is bound to is the SHA-256 of the certificate (RFC 8705 section 3.1). Whether its key was proven is for TLS
to say: our listener's, or that of a proxy at a named address. From any other address the header is an attempt to pose
as such a proxy and is refused.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network
from typing import Final, Literal
from urllib.parse import unquote

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from limen.core.encoding import encode_base64url
from limen.core.verdict import Refuse, refuse
from limen.gateway.forwarded import within

Form = Literal["rfc9440", "nginx"]
_LONGEST: Final = 16 << 10
_ITEM: Final = re.compile(r":([A-Za-z0-9+/]+={0,2}):\Z")  # a byte sequence of RFC 8941 section 3.3.5, nothing more
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----\s*\Z")


def thumbprint(certificate: bytes | None) -> str:
    """SHA-256 of a DER certificate in base64url; "" where there is none."""
    return encode_base64url(sha256(certificate).digest()) if certificate else ""


class ForwardedCertificates:
    """The header a TLS-terminating proxy adds (RFC 9440 Client-Cert, or nginx's $ssl_client_escaped_cert)."""

    def __init__(self, header: str, form: Form, peers: Sequence[IPv4Network | IPv6Network]) -> None:
        self.header, self._form, self._peers = header.lower(), form, tuple(peers)

    def read(self, peer: str, values: Sequence[str], own: str) -> str | Refuse:
        """The thumbprint to go by. `own` is that of the connection: the client's, unless a proxy is in between."""
        if not within(peer, self._peers):
            return (
                refuse("identity.forwarded", f"{self.header} from {peer}, which is no proxy of ours") if values else own
            )
        if not values:
            return ""
        if len(values) > 1:
            return refuse("identity.forwarded", f"{len(values)} {self.header} headers")
        try:
            return _read(values[0], self._form)
        except ValueError as error:
            return refuse("identity.forwarded", f"{self.header}: {error}")


@lru_cache(maxsize=1024)
def _read(value: str, form: Form) -> str:
    """Raises ValueError for anything but one certificate."""
    if len(value) > _LONGEST:
        raise ValueError("larger than a certificate may be")
    match = _ITEM.match(value) if form == "rfc9440" else _PEM.match(unquote(value, errors="strict"))
    if match is None:
        raise ValueError("not one certificate in the form that is configured")
    der = b64decode(re.sub(r"[\r\n]", "", match[1]), validate=True)
    if load_der_x509_certificate(der).public_bytes(Encoding.DER) != der:
        raise ValueError("more than one certificate")
    return thumbprint(der)
