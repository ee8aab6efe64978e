"""Composition root of the authorization server: settings and state in, its endpoints by path out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from limen.identity.keys import AlgorithmList, VerificationKey, read_key_set, signature_holds
from limen.identity.token import Compact, TokenRefused, read_compact
from limen.oauth.provider_metadata import Jose
from limen.oauth.web import Handler


@dataclass(slots=True)
class SignIn:
    """The endpoints of the authorization server. Without `oauth` in the configuration there are none."""

    endpoints: Mapping[bytes, Handler] = field(default_factory=dict)  # by exact path
    below: Mapping[bytes, Handler] = field(default_factory=dict)  # by the path before its last segment, with the slash


def jose() -> Jose:
    """ID tokens are taken apart and their signatures checked by what does so for access tokens."""
    listed = cache(AlgorithmList)

    def read(token: bytes) -> Compact:
        try:
            return read_compact(token)
        except TokenRefused as refused:
            raise ValueError(refused.detail) from None

    def holds(token: bytes, key: VerificationKey, algorithms: tuple[str, ...]) -> bool:
        return signature_holds(token, key, listed(algorithms))

    return Jose(read, read_key_set, holds)
