"""How we show the provider which client of its we are (RFC 6749 section 2.3, RFC 7523 section 2.2)."""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Callable
from typing import Final
from urllib.parse import quote_plus

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from limen.core.encoding import encode_base64url
from limen.core.faults import DependencyFault

_LIFETIME: Final = 60  # seconds
_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_SECRET: Final = ("client_secret_basic", "client_secret_post")  # best first
_SIGNING: Final = ((ECKey, "ES256"), (OKPKey, "EdDSA"), (RSAKey, "PS256"))


class ClientProof:
    """A secret, a private key (PEM, with the PEM of its certificate where the provider knows that), or neither."""

    def __init__(
        self, client_id: str, secret: str, key: str, key_id: str, certificate: str, now: Callable[[], float]
    ) -> None:
        """Raises ValueError for a key nothing signs with, or a certificate of another key."""
        self._client_id, self._secret, self._now = client_id, secret, now
        self._key: Key | None = None
        self._header: dict[str, str] = {}
        if key:
            self._key, algorithm = _signing(key)
            self._header = {"alg": algorithm, "typ": "JWT", **({"kid": key_id} if key_id else {})}
            if certificate:
                self._header["x5t#S256"] = _thumbprint(certificate, self._key)

    def method(self, offered: tuple[str, ...]) -> str:
        """How, of what a token endpoint takes. Raises DependencyFault."""
        if self._key is not None:
            return "private_key_jwt"
        if not self._secret:
            return "none"
        for one in _SECRET:
            if one in offered:
                return one
        raise DependencyFault(
            "identity provider", "token_endpoint_auth_methods_supported: takes no client secret", retryable=False
        )

    def show(self, method: str, endpoint: str) -> tuple[dict[str, str], dict[str, str]]:
        """Members of the form and headers, for one request to this endpoint."""
        if method == "client_secret_basic":  # each half form-encoded first (RFC 6749 section 2.3.1)
            pair = f"{quote_plus(self._client_id)}:{quote_plus(self._secret)}"
            return {}, {"authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        form = {"client_id": self._client_id}
        if method == "client_secret_post":
            form["client_secret"] = self._secret
        if method == "private_key_jwt":
            form |= {"client_assertion_type": _ASSERTION, "client_assertion": self._assertion(endpoint)}
        return form, {}

    def _assertion(self, endpoint: str) -> str:
        if self._key is None:  # a way that began under another configuration
            raise DependencyFault("identity provider", "the client's key is not configured any more", retryable=False)
        now = int(self._now())
        claims = {"iss": self._client_id, "sub": self._client_id, "aud": endpoint, "jti": secrets.token_urlsafe(24)}
        return jwt.encode(
            dict(self._header), {**claims, "iat": now, "nbf": now, "exp": now + _LIFETIME}, self._key,
            algorithms=[self._header["alg"]],
        )  # fmt: skip


def _signing(pem: str) -> tuple[Key, str]:
    for kind, algorithm in _SIGNING:
        try:
            key = kind.import_key(pem)
            key.get_op_key("sign")
        except (JoseError, ValueError, TypeError):
            continue
        if isinstance(key, ECKey) and key.curve_name != "P-256":
            continue
        if isinstance(key, RSAKey) and key.raw_value.key_size < 2048:
            continue
        return key, algorithm
    raise ValueError("not the PEM of a private P-256, Ed25519 or RSA (2048 bits) key without a password")


def _thumbprint(pem: str, key: Key) -> str:
    """RFC 7515 section 4.1.8."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise ValueError("not the PEM of a certificate") from None
    if certificate.public_key() != key.get_op_key("verify"):
        raise ValueError("the certificate is of another key")
    return encode_base64url(certificate.fingerprint(hashes.SHA256()))
