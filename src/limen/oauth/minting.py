"""Access tokens as RFC 9068 has them: signed JSON web tokens for one resource, minutes long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from limen.core.ports import TokenSigner
from limen.oauth.codes import new_secret
from limen.oauth.families import Family

_ALGORITHMS: Final = ("ES256", "EdDSA", "RS256", "PS256")
_MOST: Final = 16 << 10  # characters of a token


@dataclass(frozen=True, slots=True)
class Issued:
    """One access token."""

    token: str = field(repr=False)
    id: str  # `jti`: the family's id, a dot, and the token's own
    expires_in: int  # seconds
    scopes: tuple[str, ...]
    bound: bool  # to a key


@dataclass(frozen=True, slots=True)
class Claims:
    """Where Authenticate looks for what the provider told us about a person."""

    groups: str = "groups"
    roles: str = "roles"


class Mint:
    """Makes access tokens and recognises them. `issuer` is our own URL. Raises DependencyFault."""

    def __init__(
        self,
        issuer: str,
        signer: TokenSigner,
        lifetime: int,
        claims: Claims = Claims(),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._issuer, self._signer, self._lifetime, self._claims, self._now = issuer, signer, lifetime, claims, now
        self._known: tuple[bytes, KeySet] | None = None

    def access(self, family: Family, scopes: Iterable[str], jkt: str) -> Issued:
        """A token for the one resource of this family, good for no longer than it. `jkt`: the thumbprint of the key it
        is bound to, "" for none (RFC 9449 section 6.1)."""
        now, user, granted = int(self._now()), family.user, tuple(scopes)
        seconds = max(1, min(self._lifetime, int(family.ends) - now))
        claims: dict[str, object] = {
            "iss": self._issuer,
            "sub": user.subject,
            "aud": family.asked.resource,
            "client_id": family.asked.client,
            "iat": now,
            "exp": now + seconds,
            "jti": f"{family.id}.{new_secret(12)}",
            "sid": family.id,
            "idp": user.issuer,
            "scope": " ".join(granted),
        }
        optional: dict[str, object] = {
            "auth_time": user.auth_time and min(user.auth_time, now),  # by the provider's clock, which may be ahead
            "acr": user.acr,
            "amr": list(user.amr),
            self._claims.groups: list(user.groups),
            self._claims.roles: list(user.roles),
        }
        # What is said of a person never takes the place of what we say.
        claims = {**{name: value for name, value in optional.items() if name and value}, **claims}
        if not granted:
            del claims["scope"]
        if jkt:
            claims["cnf"] = {"jkt": jkt}
        return Issued(self._signer.sign("at+jwt", claims), str(claims["jti"]), seconds, granted, bool(jkt))

    def read(self, token: str) -> Mapping[str, Any] | None:
        """The claims of an access token that `access` made and that has not expired, or None. Tokens for servers behind
        us are signed with the same keys and are none of these."""
        if len(token) > _MOST or token.count(".") != 2:
            return None
        try:
            found = jwt.decode(token, self._keys(), algorithms=list(_ALGORITHMS))
        except (JoseError, ValueError, TypeError, KeyError):
            return None
        claims: Mapping[str, Any] = found.claims
        if found.header.get("typ") != "at+jwt" or claims.get("iss") != self._issuer:
            return None
        if not all(isinstance(claims.get(name), str) for name in ("sid", "jti", "client_id")):
            return None
        expires = claims.get("exp")
        return claims if type(expires) is int and self._now() < expires else None

    def _keys(self) -> KeySet:
        published = self._signer.key_set()
        if self._known is None or self._known[0] != published:
            self._known = published, KeySet.import_key_set(orjson.loads(published))
        return self._known[1]
