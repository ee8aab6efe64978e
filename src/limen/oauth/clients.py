"""Who may ask for tokens: clients an operator wrote down, clients with a document, clients that registered.

How a client proves who it is was fixed when it became known here, and no other way counts.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from hmac import compare_digest
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote_plus

from limen.core.encoding import digest
from limen.core.faults import ConfigFault, DependencyFault
from limen.core.ports import Counter, Quota, Table
from limen.oauth import assertion as proofs
from limen.oauth import registered
from limen.oauth.assertion import Assertions, ClientKeys, NotProven
from limen.oauth.documents import Documents
from limen.oauth.model import AuthMethod, Client
from limen.oauth.recorder import Recorder
from limen.oauth.redirects import is_loopback, lint
from limen.oauth.settings import ClientSettings, KnownClient
from limen.oauth.throttle import network, take
from limen.oauth.web import OAuthError, Visit
from limen.protocol.jsonrpc import canonical

_LONGEST: Final = 512  # characters of an id
_TRIES: Final = Quota(30, 0.5)  # failures of one address, and how many more each second
_PROOFS: Final = Quota(120, 2.0)  # assertions of one client: each is remembered until it expires
_MEMBERS: Final[Mapping[AuthMethod, str]] = MappingProxyType(
    {
        "none": "client_id",
        "client_secret_basic": "authorization",
        "client_secret_post": "client_secret",
        "private_key_jwt": "client_assertion",
    }
)
_NOBODY: Final = "0" * 64  # the digest of no secret


@dataclass(frozen=True, slots=True)
class _Presented:
    """What a request brings to prove who sent it."""

    client_id: str
    method: AuthMethod
    proof: str = field(default="", repr=False)  # secret or assertion


class Clients:
    """Finds clients and checks that they are who they say."""

    def __init__(
        self,
        settings: ClientSettings,
        table: Table,
        documents: Documents,
        assertions: Assertions,
        counter: Counter,
        own: Collection[str],
        recorder: Recorder,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Raises ConfigFault for a client that is written down and cannot be one."""
        self._settings, self._table, self._documents, self._assertions = settings, table, documents, assertions
        self._counter, self._recorder, self._now = counter, recorder, now
        self.known: Mapping[str, Client] = known_clients(settings, own, assertions.keys)

    async def find(self, client_id: str) -> Client:
        """The client of this id. Raises OAuthError: invalid_client, or temporarily_unavailable under a flood."""
        client = await self._find(client_id)
        return replace(client, localhost_ports=True) if self._settings.unsafe_localhost_ports else client

    async def _find(self, client_id: str) -> Client:
        if client_id in self.known:
            return self.known[client_id]
        if client_id.startswith("https://"):
            return await self._documents.find(client_id)
        found = None
        if self._settings.registration and 0 < len(client_id) <= _LONGEST and client_id.isascii():
            found = await asyncio.to_thread(registered.load, self._table, client_id)
        if found is None:
            raise OAuthError("invalid_client", "no such client", detail=f"no client {client_id[:_LONGEST]!r}")
        return found[1].client

    async def authenticate(self, visit: Visit, form: Mapping[str, str], endpoint_url: str) -> Client:
        """Who sent this to the token endpoint or one of its siblings (RFC 6749 section 2.3).

        Raises OAuthError: invalid_client with status 401, in the same words whatever was wrong, or
        temporarily_unavailable after too many failures.
        """
        place, client_id = f"oauth-client/{network(visit.address)}", form.get("client_id", "")
        wrong = "client_id"
        await take(self._counter, place, _TRIES)
        try:
            presented = self._presented(visit, form)
            client_id, wrong = presented.client_id, _MEMBERS[presented.method]
            client = await self._prove(presented, endpoint_url)
        except OAuthError as error:
            if error.code == "invalid_client":
                self._recorder.note(
                    "client", error.code, visit=visit, client=client_id, field=wrong, detail=error.detail
                )
                raise _refused(error.detail) from None
            raise
        await take(self._counter, place, _TRIES, -1)
        return client

    async def used(self, client: Client) -> None:
        """It got a token: of those that registered, the ones that never do are soon forgotten.

        Raises nothing: what it got stays good, and its next token says the same again.
        """
        if client.source != "registered":
            return
        idle = self._settings.limits.idle
        try:
            await asyncio.to_thread(registered.mark_used, self._table, client.id, self._now(), idle)
        except DependencyFault as fault:
            self._recorder.note("client", "temporarily_unavailable", client=client.id, detail=str(fault))

    def _presented(self, visit: Visit, form: Mapping[str, str]) -> _Presented:
        """The one way a request authenticates. Raises OAuthError for none that can be read, and for several."""
        if visit.query:
            raise _refused("parameters in the URL, where they are logged")
        header = visit.header("authorization")
        secret, assertion = form.get("client_secret", ""), form.get("client_assertion", "")
        if sum(map(bool, (header, secret, assertion or form.get("client_assertion_type", "")))) > 1:
            raise _refused("several ways to authenticate at once")
        client_id = form.get("client_id", "")
        if header:
            named, secret = _basic(header)
            presented = _Presented(named, "client_secret_basic", secret)
        elif assertion:
            if form.get("client_assertion_type", "") != proofs.KIND:
                raise _refused("client_assertion_type is not jwt-bearer")
            presented = _Presented(self._subject(assertion), "private_key_jwt", assertion)
        else:
            presented = _Presented(client_id, "client_secret_post" if secret else "none", secret)
        if not presented.client_id or client_id not in ("", presented.client_id):
            raise _refused("client_id is missing, or another one")
        return presented

    def _subject(self, assertion: str) -> str:
        try:
            return self._assertions.keys.subject(assertion.encode())
        except ValueError as error:
            raise _refused(str(error)) from None

    async def _prove(self, presented: _Presented, endpoint_url: str) -> Client:
        """Raises OAuthError. An unknown client takes the same steps as a wrong secret."""
        client: Client | None = None
        try:
            client = await self.find(presented.client_id)
        except OAuthError as error:
            if error.code != "invalid_client":
                raise
        known = (client.secret_digest if client is not None else "") or _NOBODY
        equal = compare_digest(digest(presented.proof), known)
        if client is None:
            raise _refused("no such client")
        if client.auth_method != presented.method:
            raise _refused(f"{presented.method} presented, {client.auth_method} agreed")
        if presented.method.startswith("client_secret") and not equal:
            raise _refused("wrong secret")
        if presented.method == "private_key_jwt":
            await take(self._counter, f"oauth-proof/{digest(client.id)}", _PROOFS)
            try:
                await self._assertions.check(client, presented.proof.encode(), endpoint_url)
            except NotProven as error:
                raise _refused(str(error)) from None
        return client


def known_clients(settings: ClientSettings, own: Collection[str], keys: ClientKeys) -> dict[str, Client]:
    """The clients an operator wrote down, by id. Raises ConfigFault."""
    found = {}
    for client_id, written in settings.known.items():
        where = f"oauth.clients.known.{client_id}"
        try:
            redirect_uris = lint(written.redirect_uris, own, configured=True) if written.redirect_uris else ()
            if written.jwks is not None:
                keys.check(written.jwks.encode())
        except OAuthError as error:
            raise ConfigFault(error.description, where) from None
        except ValueError as error:
            raise ConfigFault(f"jwks: {error}", where) from None
        found[client_id] = _known(client_id, written, redirect_uris)
    return found


def _known(client_id: str, written: KnownClient, redirect_uris: tuple[str, ...]) -> Client:
    grants = sorted(written.grants)
    relied = [client_id, written.name, redirect_uris, written.auth_method, grants, sorted(written.scopes), written.uri]
    loopback = bool(redirect_uris) and all(is_loopback(uri) for uri in redirect_uris)
    return Client(
        id=client_id,
        source="configured",
        name=written.name,
        redirect_uris=redirect_uris,
        auth_method=written.auth_method,
        secret_digest="" if written.secret is None else digest(written.secret.get_secret_value()),
        jwks=written.jwks or "",
        grant_types=frozenset(written.grants),
        scopes=frozenset(written.scopes),
        uri=written.uri,
        digest=sha256(canonical(relied)).hexdigest(),
        verified=True,
        # A public client's id is no secret: any program on the machine can say it is this one.
        warnings=("loopback_only",) if loopback and written.auth_method == "none" else (),
    )


def _basic(header: str) -> tuple[str, str]:
    """Id and secret of HTTP Basic, form-encoded inside (RFC 6749 section 2.3.1). Raises OAuthError."""
    scheme, _, coded = header.partition(" ")
    try:
        if scheme.lower() != "basic" or not coded.isascii():
            raise ValueError("another scheme")
        named, colon, secret = b64decode(coded, validate=True).decode("ascii").partition(":")
        client_id, secret = unquote_plus(named, errors="strict"), unquote_plus(secret, errors="strict")
    except ValueError:
        raise _refused("Authorization is not Basic with an id and a secret") from None
    if not colon or not secret:
        raise _refused("an empty secret")
    return client_id, secret


def _refused(detail: str) -> OAuthError:
    return OAuthError("invalid_client", "client authentication failed", status=401, detail=detail)
