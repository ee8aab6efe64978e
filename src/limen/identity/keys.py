"""Decides which published keys may verify which algorithm (RFC 7517, RFC 7518, RFC 8037)."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from limen.core.encoding import encode_base64url
from limen.protocol.jsonrpc import JsonLimits, NotJson, canonical, parse

_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES: Final = {
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA", "Ed25519"}),
}
ASYMMETRIC: Final = _RSA.union(*_CURVES.values())
MAX_KEYS: Final = 64
MAX_KID: Final = 256
JWKS_LIMITS: Final = JsonLimits(size=512 << 10, depth=16, members=10_000, string=64 << 10)
_RSA_BITS: Final = (2048, 8192)
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def decode_base64url(text: str) -> bytes:
    """Bytes of an RFC 7515 section 2 base64url text. Raises ValueError on padding, other alphabets and unused bits
    that are not zero: one value has one spelling only."""
    if not _BASE64URL.match(text):
        raise ValueError("not base64url")
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64url(data) != text:
        raise ValueError("base64url that is not canonical")
    return data


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key and what it may verify. Equal when it is the same key under the same name and rules."""

    kid: str | None
    algorithms: frozenset[str]
    material: bytes
    key: RSAKey | ECKey | OKPKey = field(compare=False, repr=False)

    @property
    def thumbprint(self) -> str:
        """RFC 7638: SHA-256 over the required members in canonical JSON, which is what `material` is; base64url."""
        return encode_base64url(sha256(self.material).digest())


class AlgorithmList(jws.JWSRegistry):
    """The algorithms of one issuer, and nothing joserfc would add to them by itself."""

    max_header_length = 8 << 10
    max_payload_length = 16 << 10
    max_signature_length = 2 << 10

    def __init__(self, algorithms: Iterable[str]) -> None:
        allowed = frozenset(algorithms)
        if not allowed or not allowed <= ASYMMETRIC:
            raise ValueError("only asymmetric signature algorithms, and at least one")
        # RFC 7515 section 4: header parameters we do not know are ignored; the dangerous ones are refused in token.py.
        super().__init__(algorithms=allowed, strict_check_header=False)
        self._allowed = allowed

    def get_alg(self, name: str) -> Any:
        """The implementation of a listed algorithm. Raises UnsupportedAlgorithmError for every other name."""
        if name not in self._allowed:
            raise UnsupportedAlgorithmError("not in the issuer's list")
        return self.algorithms[name]


def signature_holds(token: bytes, key: VerificationKey, algorithms: AlgorithmList) -> bool:
    """Whether this key made this compact JWS with a listed algorithm (RFC 7515 section 5.2)."""
    try:
        jws.deserialize_compact(token, key.key, registry=algorithms)
    except (JoseError, ValueError):
        return False
    return True


class KeySet:
    """The usable keys of one issuer at one moment."""

    def __init__(self, keys: tuple[VerificationKey, ...] = ()) -> None:
        self.keys = keys

    def find(self, algorithm: str, kid: str | None) -> tuple[VerificationKey, ...]:
        """Keys that fit. Without a `kid` every key of the algorithm fits: the caller accepts only a single one."""
        return tuple(key for key in self.keys if algorithm in key.algorithms and (kid is None or key.kid == kid))


def read_key_set(data: bytes, issuers: Container[str] | None = None) -> KeySet:
    """Keys of a JWK set. Raises ValueError when the document as a whole cannot be trusted.

    `issuers`: in a set that several issuers share, the marks of keys that are for us (Entra's member `issuer`).

    Keys of a kind we do not use are left out (RFC 7517 section 5), and so are weak keys, symmetric keys and keys
    published together with their private half.
    """
    try:
        document = parse(data, JWKS_LIMITS)
    except NotJson as error:
        raise ValueError(f"not a JWK set: {error}") from None
    items = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(items, list):
        raise ValueError("not a JWK set")
    if len(items) > MAX_KEYS:
        raise ValueError(f"more than {MAX_KEYS} keys")
    if issuers is not None:
        items = [item for item in items if isinstance(item, dict) and _is_for(item, issuers)]
    read = (read_key(item) for item in items)
    return KeySet(tuple(key for key in read if key is not None))


def _is_for(item: dict[str, Any], issuers: Container[str]) -> bool:
    return "issuer" not in item or (isinstance(item["issuer"], str) and item["issuer"] in issuers)


def read_key(item: Any) -> VerificationKey | None:
    """One public key of a JWK, or None for a kind we do not use, a weak key, or one with its private half."""
    if not isinstance(item, dict) or not _PRIVATE.isdisjoint(item):
        return None
    kid, operations = item.get("kid"), item.get("key_ops")
    if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID):
        return None
    if item.get("use", "sig") != "sig":
        return None
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    try:
        algorithms, key, members = _import(item)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    if "alg" in item:
        named = item["alg"]
        algorithms = frozenset({named}) & algorithms if isinstance(named, str) else frozenset()
    return VerificationKey(kid, algorithms, canonical(members), key) if algorithms else None


def _import(item: dict[str, Any]) -> tuple[frozenset[str], RSAKey | ECKey | OKPKey, dict[str, str]]:
    """The key itself from its own members only. Raises ValueError and kin for anything weak or malformed."""
    kind = item["kty"]
    if kind == "RSA":
        members = {name: str(item[name]) for name in ("kty", "n", "e")}
        bits = int.from_bytes(decode_base64url(members["n"])).bit_length()
        exponent = int.from_bytes(decode_base64url(members["e"]))
        if not _RSA_BITS[0] <= bits <= _RSA_BITS[1] or not 3 <= exponent < 1 << 32 or exponent % 2 == 0:
            raise ValueError("RSA key size or exponent out of bounds")
        rsa = RSAKey.import_key(dict(members))
        rsa.get_op_key("verify")
        return _RSA, rsa, members
    algorithms = _CURVES[(kind, item["crv"])]
    if kind == "EC":
        members = {name: str(item[name]) for name in ("kty", "crv", "x", "y")}
        ec = ECKey.import_key(dict(members))
        ec.get_op_key("verify")
        return algorithms, ec, members
    members = {name: str(item[name]) for name in ("kty", "crv", "x")}
    okp = OKPKey.import_key(dict(members))
    okp.get_op_key("verify")
    return algorithms, okp, members
