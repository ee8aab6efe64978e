"""To the identity provider and back: who is it that sits at this browser? Decides nothing about what they may do.

OpenID Connect Core 1.0 section 3.1, RFC 7636, RFC 9207, RFC 9700. Each way has its own random state, which is kept as
a digest, belongs to one browser and is used up by the first answer that names it, whatever that answer says. Where the
code is redeemed stands in the record of the way, never in the answer (OA-30).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final

import orjson

from limen.core.encoding import digest
from limen.core.faults import DependencyFault
from limen.core.ports import Exchange, Sealer, Table
from limen.oauth.id_token import Claims, Expected, Untrusted, check, person, verified
from limen.oauth.model import SignedIn, Tokens
from limen.oauth.pkce import challenge_of
from limen.oauth.provider_kinds import KINDS
from limen.oauth.provider_metadata import Jose, ProviderMetadata
from limen.oauth.redeem import Redeemed, RedeemRefused, redeem
from limen.oauth.settings import ProviderSettings
from limen.oauth.web import OAuthError, Visit, with_query

LIFETIME: Final = 600  # seconds one way may take (OA-10, AS-39)
_COOKIE: Final = "__Host-limen-state-"
_LONGEST: Final = 16 << 10  # characters of an answer; codes of some providers are long
_STATE: Final = 43  # characters of 256 bits
# What a client is told when the provider refuses; everything else is between the provider and the operator.
_PASSED_ON: Final = frozenset({"access_denied", "login_required", "temporarily_unavailable"})
_WITHOUT_PERSON: Final = frozenset({"consent_required", "interaction_required", "account_selection_required"})


class NotSignedIn(OAuthError):
    """A way that began here ended without anybody signed in. It is used up.

    `tell`: the error its purpose may tell its own client; "" when the answer is not to be trusted at all.
    """

    def __init__(
        self, way: Way, field: str, detail: str, *, tell: str = "", status: int = 400, strange: bool = False
    ) -> None:
        super().__init__(tell or "access_denied", "The sign-in did not succeed.", status=status, detail=detail)
        self.purpose, self.about, self.tell, self.field = way.purpose, way.about, tell, field
        self.strange = strange  # another browser brought the answer


@dataclass(frozen=True, slots=True)
class Way:
    """What is kept of one way to the provider. Times in seconds since the epoch."""

    purpose: str
    about: str
    browser: str  # digest of the browser that left
    binding: str  # digest of the cookie it left with
    issuer: str
    client_id: str
    token: str  # where the code is redeemed
    method: str
    jwks: str
    names_itself: bool
    sealed: str  # PKCE verifier and nonce
    max_age: int | None = None


class Provider:
    """The configured identity provider. `browser` tells which browser a visit comes from, as a digest or ""."""

    def __init__(
        self,
        settings: ProviderSettings,
        callback: str,
        table: Table,
        sealer: Sealer,
        exchange: Exchange,
        jose: Jose,
        browser: Callable[[Visit], str],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._callback, self._table, self._sealer = settings, callback, table, sealer
        self._exchange, self._jose, self._browser, self._now = exchange, jose, browser, now
        self._kind, self._proof = KINDS[settings.kind], settings.proof(now)
        self._published = ProviderMetadata(settings.issuer, self._kind.key_marks(settings.issuer), exchange, jose, now)
        wanted = (*settings.scopes, *(("offline_access",) if settings.refresh else ()))
        self._scopes = self._kind.scopes(("openid", *wanted), settings.client_id)

    async def begin(
        self,
        purpose: str,
        about: str,
        browser: str,
        *,
        prompt: str = "",
        max_age: int | None = None,
        acr_values: tuple[str, ...] = (),
    ) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Where the browser goes now, and the cookies it takes along, as headers. Only for a browser that is known.

        Nothing else a client asked reaches the provider (OA-34). Raises DependencyFault, OAuthError.
        """
        if not browser:
            raise OAuthError("access_denied", "This browser sent no cookie. Allow cookies and start again.", status=403)
        server = await self._published.server()
        state, binding, verifier, nonce = (secrets.token_urlsafe(32) for _ in range(4))
        place = _place(state)
        asked = {
            "prompt": prompt,
            "max_age": "" if max_age is None else str(max_age),
            "acr_values": " ".join(acr_values),
        }

        def keep() -> None:
            private = self._sealer.seal("oauth", place, orjson.dumps([verifier, nonce]))
            way = Way(
                purpose, about, browser, digest(binding), server.issuer, self._settings.client_id, server.token,
                self._proof.method(server.methods), server.jwks, server.names_itself, b64encode(private).decode(),
                max_age,
            )  # fmt: skip
            if not self._table.swap(place, None, orjson.dumps(way), self._now() + LIFETIME):
                raise DependencyFault("table", "a state of 256 random bits was there before", retryable=False)

        await asyncio.to_thread(keep)
        parameters = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._callback,
            "scope": " ".join(self._scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge_of(verifier),
            "code_challenge_method": "S256",
            "resource": self._settings.resource or "",
            **{name: value for name, value in asked.items() if name in self._kind.forwards},
        }
        return with_query(server.authorization, parameters), (_cookie(state, binding, LIFETIME),)

    async def finish(self, visit: Visit) -> SignedIn:
        """Who came back. Raises OAuthError for an answer to no way of ours, NotSignedIn for the end of one."""
        if visit.method != "GET":
            raise OAuthError("invalid_request", "The provider answers by a redirect.", status=405)
        if len(visit.query) > _LONGEST:
            raise OAuthError("invalid_request", "The answer is too long.")
        answer = visit.parameters()
        state = answer.get("state", "")
        if len(state) != _STATE:
            raise OAuthError("invalid_request", "The answer has no state of ours.", detail="state: missing or not ours")
        way = await asyncio.to_thread(self._take, state)
        if way is None:
            raise OAuthError(
                "access_denied", "This sign-in is over, or was used before. Start again from the application.",
                status=403, detail="state: unknown, expired or used",
            )  # fmt: skip
        self._same_browser(way, visit, state)
        code = self._judge(way, answer)
        return await self._redeem(way, _place(state), code)

    def ended(self, visit: Visit) -> tuple[tuple[str, str], ...]:
        """The cookie of a way that is over, taken back, as headers."""
        if visit.method != "GET":
            return ()
        try:
            state = visit.parameters().get("state", "")
        except OAuthError:
            return ()
        return (_cookie(state, "", 0),) if len(state) == _STATE and visit.cookie(_cookie_name(state)) else ()

    def _take(self, state: str) -> Way | None:
        """The way of this state, which is used up now: one of many who ask at once gets it (AS-39). A record that
        cannot be read is none."""
        place = _place(state)
        kept = self._table.get(place)
        if kept is None or not self._table.swap(place, kept, None):
            return None
        try:
            return Way(**orjson.loads(kept))
        except (TypeError, ValueError):
            return None

    def _same_browser(self, way: Way, visit: Visit, state: str) -> None:
        """OA-02, OA-27: the browser that comes back is the one that left."""
        binding, browser = visit.cookie(_cookie_name(state)), self._browser(visit)
        if not browser or not compare_digest(browser, way.browser):
            raise NotSignedIn(way, "browser", "another browser than the one that agreed", status=403, strange=True)
        if not binding or not compare_digest(digest(binding), way.binding):
            raise NotSignedIn(way, "cookie", "the state's cookie is missing or another", status=403, strange=True)

    def _judge(self, way: Way, answer: Mapping[str, str]) -> str:
        """The code of an answer that is the provider's. Raises NotSignedIn."""
        issuer = answer.get("iss", "")
        if issuer != way.issuer and (issuer or way.names_itself):
            # RFC 9207 section 2.4, OA-28: compared as it stands, and nothing else in the answer is read or shown.
            raise NotSignedIn(way, "iss", f"answered as {issuer[:200]!r}, asked was {way.issuer!r}")
        if (way.issuer, way.client_id) != (self._settings.issuer, self._settings.client_id):
            raise NotSignedIn(way, "issuer", "another provider is configured now", tell="temporarily_unavailable")
        error, code = answer.get("error", ""), answer.get("code", "")
        if error and code:
            raise NotSignedIn(way, "error", "an error and a code in one answer")
        if error:
            raise self._refused(way, error, answer.get("error_description", ""))
        if not code or not code.isascii() or not code.isprintable():
            raise NotSignedIn(way, "code", "missing or unreadable")
        return code

    def _refused(self, way: Way, error: str, description: str) -> NotSignedIn:
        tell = error if error in _PASSED_ON else "login_required" if error in _WITHOUT_PERSON else "server_error"
        said = "".join(letter if letter.isprintable() else " " for letter in f"{error}: {description}")[:500]
        return NotSignedIn(way, self._kind.own_code(description) or "error", said, tell=tell)

    async def _redeem(self, way: Way, place: str, code: str) -> SignedIn:
        private = await asyncio.to_thread(self._sealer.open, "oauth", place, b64decode(way.sealed))
        verifier, nonce = orjson.loads(private)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._callback,
            "code_verifier": verifier,
        }
        expected = Expected(
            way.issuer, way.client_id, nonce, way.jwks, self._settings.signed_with, way.max_age
        )  # fmt: skip
        try:
            redeemed = await self._post(way.token, way.method, form)
            token = await verified(redeemed.id_token, expected, self._jose, self._published)
            check(token, expected, self._now(), redeemed.access)
            names = Claims(self._settings.groups_claim, self._settings.roles_claim)
            user = person(way.issuer, token.claims, self._kind, names)
        except RedeemRefused as refused:
            tell = "temporarily_unavailable" if refused.retryable else "server_error"
            field = self._kind.own_code(refused.detail) or refused.field
            raise NotSignedIn(way, field, refused.detail, tell=tell, status=502) from None
        except Untrusted as untrusted:
            raise NotSignedIn(way, untrusted.claim, str(untrusted), tell="server_error", status=502) from None
        except DependencyFault as fault:
            raise NotSignedIn(way, "provider", str(fault), tell="temporarily_unavailable", status=503) from None
        return SignedIn(way.purpose, way.about, user, self._tokens(redeemed))

    async def _post(self, endpoint: str, method: str, form: Mapping[str, str]) -> Redeemed:
        """`scope` goes along on every leg: some providers cannot do without it (AADSTS900144)."""
        more = {"scope": " ".join(self._scopes), "resource": self._settings.resource or ""}
        shown, headers = self._proof.show(method, endpoint)
        whole = {**form, **more, **shown}
        return await redeem(
            self._exchange, endpoint, {name: value for name, value in whole.items() if value}, headers
        )  # fmt: skip

    def _tokens(self, redeemed: Redeemed) -> Tokens:
        """With the scopes to renew them under: what was granted, and of what was asked what answers leave out (Entra
        does not repeat `offline_access`, and without it the next refresh token would be the last)."""
        granted = redeemed.scopes or self._scopes
        silent = [one for one in self._scopes if one == "openid" or (one == "offline_access" and redeemed.refresh)]
        scopes = tuple(one for one in dict.fromkeys((*self._scopes, *granted)) if one in granted or one in silent)
        return Tokens(redeemed.access, redeemed.refresh, self._now() + redeemed.lifetime, scopes, redeemed.id_token)


def _place(state: str) -> str:
    return f"state/{digest(state)}"


def _cookie_name(state: str) -> str:
    """One for each way, so that tabs do not take each other's."""
    return f"{_COOKIE}{digest(state)[:16]}"


def _cookie(state: str, value: str, seconds: int) -> tuple[str, str]:
    """AS-36: set when the browser leaves, and never before a person agreed."""
    return "set-cookie", f"{_cookie_name(state)}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}"
