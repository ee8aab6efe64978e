"""Reads what a client signed to prove that it is that client (RFC 7523 section 2.2), with keys of that client only."""

from __future__ import annotations

from typing import Any, Final

from limen.identity.keys import AlgorithmList, read_key_set, signature_holds
from limen.identity.token import TokenRefused, read_compact

ALGORITHMS: Final = ("ES256", "ES384", "PS256", "RS256", "EdDSA")
_KINDS: Final = frozenset({"", "jwt", "client-authentication+jwt"})  # never a token that was made for something else


class ClientKeys:
    """Implements the ClientKeys that the room of the authorization server asks for."""

    algorithms = ALGORITHMS

    def __init__(self) -> None:
        self._list = AlgorithmList(ALGORITHMS)

    def check(self, key_set: bytes) -> None:
        """Raises ValueError unless this JWK set holds a public key that can verify."""
        if not read_key_set(key_set).keys:
            raise ValueError("no usable public key")

    def subject(self, token: bytes) -> str:
        """Whose it says it is. Nothing of it is proven. Raises ValueError."""
        try:
            subject = read_compact(token).claims.get("sub")
        except TokenRefused as error:
            raise ValueError(error.detail) from None
        if not isinstance(subject, str):
            raise ValueError("sub is not a text")
        return subject

    def read(self, token: bytes, key_set: bytes) -> dict[str, Any]:
        """The claims of a JWT that exactly one key of the set signed. Raises ValueError, LookupError when the set has
        no key of its name: it may have been rotated."""
        try:
            compact = read_compact(token)
        except TokenRefused as error:
            raise ValueError(error.detail) from None
        if compact.kind not in _KINDS or compact.algorithm not in ALGORITHMS:
            raise ValueError("typ or alg is not accepted")
        keys = read_key_set(key_set).find(compact.algorithm, compact.kid)
        if not keys:
            raise LookupError("no key of this name")
        if len(keys) != 1 or not signature_holds(token, keys[0], self._list):
            raise ValueError("the signature does not hold")
        return compact.claims
