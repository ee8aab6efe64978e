"""Credentials that another authorization server gives: for ourselves, or in exchange for a token of the caller."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from limen.core.call import Context
from limen.core.faults import DependencyFault
from limen.core.verdict import Refuse, refuse
from limen.credentials.endpoint import Denied, Endpoint, Granted
from limen.credentials.settings import ClientCredentials, Credential, IdJag, OnBehalfOf, TokenExchange
from limen.credentials.sources import Obtained
from limen.credentials.subjects import TYPES, Subject, Subjects, read_claims, refused

_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ISSUED: Final = frozenset({"", f"{TYPES}access_token", f"{TYPES}jwt"})


def header(settings: Credential, token: str) -> tuple[str, str]:
    """The token as it is sent."""
    return settings.header.lower(), f"{settings.scheme} {token}" if settings.scheme else token


class OwnToken:
    """RFC 6749 section 4.4: Limen as itself, whoever calls."""

    kind, personal = "client_credentials", False

    def __init__(self, settings: ClientCredentials, endpoint: Endpoint) -> None:
        self._settings, self._endpoint = settings, endpoint
        self._form: dict[str, str | tuple[str, ...]] = {
            "grant_type": "client_credentials",
            "scope": " ".join(settings.scopes),
            "resource": settings.resource or "",
            "audience": settings.audience or "",
        }

    def differs(self, context: Context) -> Hashable:
        return None

    async def obtain(self, context: Context) -> Obtained | Refuse:
        return await self.own()

    async def own(self) -> Obtained:
        """Also without a call: to read what the server offers. Raises DependencyFault."""
        try:
            got = await self._endpoint.token(self._form)
        except Denied as denied:  # nothing a caller did: our own registration is not as it should be
            raise DependencyFault("credentials", f"no token for ourselves: {denied}") from None
        return Obtained(header(self._settings, got.access), got.expires)


class Exchanged:
    """RFC 8693: the caller's token for one of the upstream."""

    kind, personal = "exchange", True

    def __init__(self, settings: TokenExchange, place: str, endpoint: Endpoint, subjects: Subjects) -> None:
        self._settings, self._endpoint, self._subjects = settings, endpoint, subjects
        resource = settings.resource or (() if settings.audience else (place,))
        self._form: dict[str, str | tuple[str, ...]] = {
            "grant_type": _EXCHANGE,
            "subject_token_type": f"{TYPES}access_token",
            "requested_token_type": f"{TYPES}access_token",
            "scope": " ".join(settings.scopes),
            "resource": resource,
            "audience": settings.audience,
        }

    def differs(self, context: Context) -> Hashable:
        return None

    async def obtain(self, context: Context) -> Obtained | Refuse:
        subject = await self._subjects.find(context, self._settings.subject_issuers)
        if isinstance(subject, Refuse):
            return subject
        try:
            got = await self._endpoint.token({**self._form, "subject_token": subject.token})
        except Denied as denied:
            return refused(denied, subject)
        if got.issued not in _ISSUED:
            raise DependencyFault("credentials", f"the exchange gave {got.issued[:100]}, not an access token")
        return _another(self._settings, got, subject, context)


class OnBehalf:
    """Entra ID's on-behalf-of flow: a jwt-bearer grant with `requested_token_use`, for tokens of people only."""

    kind, personal = "on_behalf_of", True

    def __init__(self, settings: OnBehalfOf, endpoint: Endpoint, subjects: Subjects) -> None:
        self._settings, self._endpoint, self._subjects = settings, endpoint, subjects

    def differs(self, context: Context) -> Hashable:
        return None

    async def obtain(self, context: Context) -> Obtained | Refuse:
        subject = await self._subjects.find(context, self._settings.subject_issuers)
        if isinstance(subject, Refuse):
            return subject
        meant = read_claims(subject.token).get("aud")
        if not isinstance(meant, str) or meant not in self._settings.audiences:
            return refuse("credentials.refused", "the token is not meant for our application: not shown to anybody")
        form = {
            "grant_type": _JWT_BEARER,
            "assertion": subject.token,
            "scope": " ".join(self._settings.scopes),
            "requested_token_use": "on_behalf_of",
        }
        try:
            got = await self._endpoint.token(form)
        except Denied as denied:
            return refused(denied, subject)
        return _another(self._settings, got, subject, context)


class Vouched:
    """Enterprise-managed authorization (MCP extension, ID-JAG): an assertion of the provider for the upstream's
    authorization server, and there a token for it (RFC 8693, then RFC 7523)."""

    kind, personal = "id_jag", True

    def __init__(self, settings: IdJag, place: str, provider: Endpoint, server: Endpoint, subjects: Subjects) -> None:
        self._settings, self._provider, self._server, self._subjects = settings, provider, server, subjects
        self._resource, self._scope = settings.resource or place, " ".join(settings.scopes)

    def differs(self, context: Context) -> Hashable:
        return None

    async def obtain(self, context: Context) -> Obtained | Refuse:
        settings = self._settings
        subject = await self._subjects.find(context, settings.subject_issuers, settings.subject)
        if isinstance(subject, Refuse):
            return subject
        asked = {
            "grant_type": _EXCHANGE,
            "requested_token_type": f"{TYPES}id-jag",
            "audience": self._server.issuer,
            "resource": self._resource,
            "scope": self._scope,
            "subject_token": subject.token,
            "subject_token_type": f"{TYPES}{settings.subject}",
        }
        try:
            assertion = await self._provider.token(asked, bearer="N_A")
        except Denied as denied:
            return refused(denied, subject)
        self._check(assertion)
        form = {"grant_type": _JWT_BEARER, "assertion": assertion.access, "scope": self._scope}
        try:
            got = await self._server.token({**form, "resource": self._resource})
        except Denied as denied:
            return refuse("credentials.refused", str(denied))
        return _another(settings, got, subject, context)

    def _check(self, assertion: Granted) -> None:
        """What is not an ID-JAG for exactly this server is not shown to it. Raises DependencyFault."""
        claims = read_claims(assertion.access)
        right = claims.get("typ") == "oauth-id-jag+jwt" and claims.get("aud") == self._server.issuer
        if (
            assertion.issued != f"{TYPES}id-jag"
            or not right
            or claims.get("resource", self._resource) != self._resource
        ):
            raise DependencyFault("credentials", "the provider's assertion is not an ID-JAG for this server")


def _another(settings: Credential, got: Granted, subject: Subject, context: Context) -> Obtained:
    """What was given must be another token than what we showed or were shown (B1). Raises DependencyFault."""
    given = got.access.encode("ascii")
    if got.access == subject.token or any(given in one for one in context.presented.authorization):
        raise DependencyFault("credentials", "the exchange gave the caller's own token back", retryable=False)
    return Obtained(header(settings, got.access), got.expires)
