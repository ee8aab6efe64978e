"""RFC 8693 at our own token endpoint: a server that was given a minted token gets one for another server behind us.

Only a token we minted, for the very server that asks, for a server it is configured to reach, for no more than it had.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from limen.core.ports import TokenSigner
from limen.credentials.minted import DEEPEST, depth
from limen.credentials.settings import Minted
from limen.credentials.subjects import TYPES

GRANT: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_ALGORITHMS: Final = ("ES256", "EdDSA", "Ed25519", "PS256", "RS256")
_TAKEN: Final = frozenset({f"{TYPES}access_token", f"{TYPES}jwt"})
_LONGEST: Final = 16 << 10
_KEPT: Final = ("sub", "idp", "acr", "amr", "auth_time")  # what is said of the person stays as it is
_KNOWN: Final = frozenset(
    {"grant_type", "subject_token", "subject_token_type", "requested_token_type", "audience", "resource", "scope",
     "client_id", "client_secret", "client_assertion", "client_assertion_type"}
)  # fmt: skip


class NotExchanged(Exception):
    """The token endpoint's answer: an error code of RFC 6749 section 5.2 or RFC 8693 section 2.2.2. `detail` is for the
    operator."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is given minted tokens, by the audience they have."""

    name: str
    audience: str
    settings: Minted


class ExchangeGrant:
    """`issuer` is ours, `servers` those that are given minted tokens. `ended` says whether the token with these claims,
    or somebody it speaks of, was revoked."""

    def __init__(
        self,
        issuer: str,
        servers: tuple[Server, ...],
        signer: TokenSigner,
        ended: Callable[[Mapping[str, Any]], bool] = lambda claims: False,
        now: Callable[[], float] = time.time,
        record: Callable[[str, Mapping[str, object]], None] = lambda event, fields: None,
    ) -> None:
        self._issuer, self._servers, self._signer, self._ended, self._now = issuer, servers, signer, ended, now
        self._record = record

    def exchange(self, form: Mapping[str, str], client: str) -> dict[str, Any]:
        """The token response for this form; `client` has proven who it is. Raises NotExchanged, DependencyFault."""
        if stray := form.keys() - _KNOWN:
            raise NotExchanged("invalid_request", f"not understood: {', '.join(sorted(stray))[:200]}")
        if (
            form.get("subject_token_type") not in _TAKEN
            or form.get("requested_token_type", f"{TYPES}jwt") not in _TAKEN
        ):
            raise NotExchanged("invalid_request", "only access tokens are exchanged, for access tokens")
        claims = self._read(form.get("subject_token", ""))
        source = next((one for one in self._servers if one.audience == claims["aud"]), None)
        reachable = source.settings.exchange.get(client, ()) if source is not None else ()
        if source is None or not reachable:
            raise NotExchanged("invalid_grant", f"{client[:100]} is not the server this token was made for")
        asked = {form[name] for name in ("audience", "resource") if name in form}
        wanted = next((one for one in self._servers if asked == {one.audience}), None)
        if wanted is None or wanted.name not in reachable:
            raise NotExchanged("invalid_target", f"{source.name} may not reach {', '.join(sorted(asked))[:200]}")
        return self._answer(claims, wanted, self._scope(form, claims), client)

    def _read(self, token: str) -> dict[str, Any]:
        """The claims of a token of ours that is still good."""
        if not 0 < len(token) <= _LONGEST:
            raise NotExchanged("invalid_request", "no subject_token, or one that is too long")
        try:
            keys = KeySet.import_key_set(orjson.loads(self._signer.key_set()))
            found = jws.deserialize_compact(token, keys, algorithms=list(_ALGORITHMS))
            claims = orjson.loads(found.payload)
        except (JoseError, ValueError) as error:
            raise NotExchanged("invalid_grant", f"not a token of ours: {type(error).__name__}") from None
        header, now = found.headers(), self._now()
        good = isinstance(claims, dict) and header.get("typ") == "at+jwt" and claims.get("iss") == self._issuer
        if not good or not isinstance(claims.get("aud"), str) or not isinstance(claims.get("sub"), str):
            raise NotExchanged("invalid_grant", "not an access token of ours")
        if not isinstance(claims.get("exp"), int) or claims["exp"] <= now:
            raise NotExchanged("invalid_grant", "the token is over")
        if not isinstance(claims.get("jti"), str) or self._ended(claims):
            raise NotExchanged("invalid_grant", "the token was revoked")
        return dict(claims)

    def _scope(self, form: Mapping[str, str], claims: Mapping[str, Any]) -> str:
        """What is asked for, if it was there before; by default all of it."""
        had = str(claims.get("scope", "")).split()
        asked = form["scope"].split() if "scope" in form else had
        if not set(asked) <= set(had):
            raise NotExchanged("invalid_scope", "wider than the token that is exchanged")
        return " ".join(asked)

    def _answer(self, claims: Mapping[str, Any], wanted: Server, scope: str, client: str) -> dict[str, Any]:
        """Same person, one more actor, no longer than the token it is made from."""
        before = claims.get("act")
        chain: dict[str, Any] = {"sub": client, **({"act": before} if before is not None else {})}
        if not 0 < depth(chain) <= DEEPEST:
            raise NotExchanged("invalid_request", f"more than {DEEPEST} actors in a row")
        at = int(self._now())
        until = min(at + wanted.settings.lifetime, int(claims["exp"]))
        body = {
            **{name: claims[name] for name in _KEPT if name in claims},
            "iss": self._issuer, "aud": wanted.audience, "client_id": client, "scope": scope, "act": chain,
            "iat": at, "exp": until, "jti": secrets.token_urlsafe(18),
        }  # fmt: skip
        told = {name: body.get(name, "") for name in ("client_id", "sub", "idp", "aud", "scope", "jti")}
        self._record("exchange", {**told, "of": claims["jti"]})
        return {
            "access_token": self._signer.sign("at+jwt", body), "issued_token_type": f"{TYPES}access_token",
            "token_type": "Bearer", "expires_in": until - at, "scope": scope,
        }  # fmt: skip
