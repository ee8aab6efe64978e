"""Clients whose id is the address of a document about them (draft-ietf-oauth-client-id-metadata-document).

Nothing of a document counts before all of it was judged, and never after it expired: a document that is gone or was
broken is no client, whatever it said before.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any, Final

from limen.core.faults import DependencyFault
from limen.core.ports import Exchange, Fetched
from limen.core.urls import Url, read_url
from limen.oauth.assertion import ClientKeys
from limen.oauth.client_metadata import (
    check_responses,
    read_grants,
    read_name,
    read_object,
    read_page,
    read_scopes,
    wrong,
)
from limen.oauth.model import AuthMethod, Client
from limen.oauth.redirects import host_of, is_loopback, lint
from limen.oauth.settings import DocumentSettings
from limen.oauth.trust import Trust
from limen.oauth.web import OAuthError
from limen.protocol.jsonrpc import canonical

LARGEST: Final = 5 << 10  # bytes of a document, as the draft proposes
_LONGEST: Final = 512  # characters of an id: it is kept with every grant
_UNSAID: Final = 300.0  # seconds a document is kept that does not say how long
_FAILED: Final = 15.0  # and that it could not be used
_KEPT: Final = 1000  # documents, and failures
_AT_ONCE: Final = 32  # documents being fetched, and of these
_PER_HOST: Final = 4
_JSON: Final = re.compile(r"application/(?:json|[a-z0-9][a-z0-9.!#$&^_+-]*\+json)\s*(?:;\s*charset=\"?utf-8\"?\s*)?\Z")
_SECONDS: Final = re.compile(r"[0-9]{1,9}\Z")


@dataclass(frozen=True, slots=True)
class _Kept:
    """What came of one address. `until`: seconds since the epoch."""

    until: float
    client: Client | None
    refused: tuple[str, str] = ("", "")  # for whoever asked, and for the operator


class Documents:
    """Finds clients by the address of their document.

    `own`: origins of ours, which hold no clients. `record`: takes the events an operator should see.
    """

    def __init__(
        self,
        exchange: Exchange,
        settings: DocumentSettings,
        trust: Trust,
        keys: ClientKeys,
        own: Collection[str],
        record: Callable[[str, Mapping[str, Any]], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._exchange, self._settings, self._trust, self._keys = exchange, settings, trust, keys
        self._own, self._record, self._now = own, record, now
        self._good: OrderedDict[str, _Kept] = OrderedDict()
        self._bad: OrderedDict[str, _Kept] = OrderedDict()
        self._fetching: dict[str, asyncio.Task[_Kept]] = {}
        self._hosts: dict[str, int] = {}

    async def find(self, client_id: str) -> Client:
        """The client with this address. Raises OAuthError: invalid_client, or temporarily_unavailable under a flood."""
        kept = self._kept(client_id)
        if kept is None:
            task = self._fetching.get(client_id)
            if task is None:
                url = self._address(client_id)
                if len(self._fetching) >= _AT_ONCE or self._hosts.get(url.host, 0) >= _PER_HOST:
                    raise OAuthError("temporarily_unavailable", "too many documents are being fetched", status=503)
                task = asyncio.create_task(self._fetch(client_id, url))
                self._fetching[client_id] = task
                self._hosts[url.host] = self._hosts.get(url.host, 0) + 1
            kept = await asyncio.shield(task)  # whoever asked first may go away while others wait
        if kept.client is None:
            raise OAuthError("invalid_client", kept.refused[0], detail=kept.refused[1])
        return kept.client

    def _kept(self, client_id: str) -> _Kept | None:
        for found in (self._good.get(client_id), self._bad.get(client_id)):
            if found is not None and found.until > self._now():
                return found
        return None

    def _address(self, client_id: str) -> Url:
        """Judges an id before anything is asked of anybody. Raises OAuthError."""
        try:
            url = read_url(client_id, _LONGEST)
        except ValueError as error:
            raise _unusable(f"the client_id has {error}") from None
        if not self._settings.enabled:
            raise _unusable("clients with a document are not accepted here")
        if url.scheme != "https":
            raise _unusable("the client_id is not an https URL")
        if url.path in ("", "/") or url.query is not None or url.crooked:
            raise _unusable("the client_id needs a path, and no query or dot segments")
        if url.origin in self._own:
            raise _unusable("the client_id is an address of the authorization server itself")
        if why := self._trust.refusal(url):
            self._record("oauth.client_refused", {"client": client_id, "why": why})
            raise _unusable("clients of this host are not accepted here", detail=f"{client_id}: {why}")
        return url

    async def _fetch(self, client_id: str, url: Url) -> _Kept:
        """Ask for the document, judge it, and keep what came of it. Raises nothing but what is a bug of ours."""
        try:
            try:
                answer = await self._exchange.get(client_id)
                client = self._judge(client_id, url, answer)
            except OAuthError as error:
                kept = _Kept(self._now() + _FAILED, None, (error.description, f"{client_id}: {error.detail}"))
            except DependencyFault as fault:
                # The same words whatever it was: nobody explores networks with our eyes.
                kept = _Kept(self._now() + _FAILED, None, (_UNREACHED, f"{client_id}: {fault}"))
            else:
                kept = _Kept(self._now() + self._lifetime(answer.headers), client)
        finally:
            del self._fetching[client_id]
            self._hosts[url.host] -= 1
            if not self._hosts[url.host]:
                del self._hosts[url.host]
        self._keep(client_id, kept)
        return kept

    def _keep(self, client_id: str, kept: _Kept) -> None:
        before = self._good.get(client_id)
        place = self._bad
        if kept.client is not None:
            place = self._good
            if before is not None and before.client is not None and before.client.digest != kept.client.digest:
                seen = {"client": client_id, "before": before.client.digest, "after": kept.client.digest}
                self._record("oauth.client_changed", seen)
        place[client_id] = kept
        place.move_to_end(client_id)
        if len(place) > _KEPT:
            place.popitem(last=False)

    def _lifetime(self, headers: Mapping[str, str]) -> float:
        """Seconds for which an answer may be used (RFC 9111 section 4.2), within what the operator set."""
        said = _said(headers, self._now())
        return float(min(max(said, self._settings.min_age), self._settings.max_age))

    def _judge(self, client_id: str, url: Url, answer: Fetched) -> Client:
        """The client a document describes. Raises OAuthError, which says to its author what is wrong."""
        if answer.status != 200:
            raise _unusable(_UNREACHED, detail=f"status {answer.status}")
        if not _JSON.match(answer.headers.get("content-type", "").lower()):
            raise _unusable("the client's document is not application/json")
        try:
            document = read_object(answer.body, LARGEST)
        except ValueError as error:
            raise _unusable(f"the client's document cannot be read: {error}") from None
        if document.get("client_id") != client_id:
            raise _unusable("client_id in the client's document is not its address")
        try:
            return self._read(client_id, url, document)
        except OAuthError as error:
            raise _unusable(f"in the client's document, {error.description}") from None

    def _read(self, client_id: str, url: Url, document: dict[str, Any]) -> Client:
        """Raises OAuthError."""
        for member in ("client_secret", "client_secret_expires_at"):
            if member in document:
                raise wrong(member, "what everybody can read is no secret")
        name, disguised = read_name(document.get("client_name"))
        redirect_uris = lint(document.get("redirect_uris"), self._own)
        check_responses(document.get("response_types"))
        self._check_home(url.host, redirect_uris)
        method, jwks, jwks_uri = self._read_keys(url.host, document)
        warnings = list(self._trust.warnings(name, disguised, url.host, redirect_uris))
        pages = {member: read_page(document, member) for member in ("client_uri", "logo_uri")}
        foreign = [page for page in pages.values() if page and not self._trust.owns(url.host, read_url(page).host)]
        if foreign:
            warnings.append("foreign_page")
        return Client(
            id=client_id,
            source="metadata",
            name=name,
            redirect_uris=redirect_uris,
            auth_method=method,
            jwks=jwks,
            jwks_uri=jwks_uri,
            grant_types=read_grants(document.get("grant_types"), strict=False),
            scopes=read_scopes(document.get("scope")),
            uri="" if pages["client_uri"] in foreign else pages["client_uri"],
            digest=sha256(canonical(document)).hexdigest(),
            verified=self._trust.vouched(url.host),
            warnings=tuple(warnings),
        )

    def _check_home(self, home: str, redirect_uris: tuple[str, ...]) -> None:
        """A document speaks for its own host: codes go there, or to the machine of whoever consents."""
        if self._settings.unsafe_foreign_redirects or self._trust.vouched(home):
            return
        for uri in redirect_uris:
            if not is_loopback(uri) and not self._trust.owns(home, host_of(uri)):
                raise OAuthError(
                    "invalid_redirect_uri", "redirect_uris: an address of a host that is not the document's"
                )

    def _read_keys(self, home: str, document: dict[str, Any]) -> tuple[AuthMethod, str, str]:
        """How the client proves itself, and its keys or where they are. Raises OAuthError."""
        method = document.get("token_endpoint_auth_method", "none")
        jwks, jwks_uri = document.get("jwks"), read_page(document, "jwks_uri")
        if method == "none":
            return "none", "", ""
        if method != "private_key_jwt":
            raise wrong("token_endpoint_auth_method", "none or private_key_jwt")
        if (jwks is None) == (not jwks_uri):
            raise wrong("jwks", "private_key_jwt needs jwks or jwks_uri, and not both")
        if jwks_uri:
            if not self._trust.owns(home, read_url(jwks_uri).host):
                raise wrong("jwks_uri", "not an address of the document's host")
            return "private_key_jwt", "", jwks_uri
        text = canonical(jwks)
        try:
            self._keys.check(text)
        except ValueError as error:
            raise wrong("jwks", str(error)) from None
        return "private_key_jwt", text.decode(), ""


_UNREACHED: Final = "the client's document cannot be fetched"


def _unusable(text: str, detail: str = "") -> OAuthError:
    return OAuthError("invalid_client", text, detail=detail)


def _said(headers: Mapping[str, str], now: float) -> float:
    """Seconds the answer itself allows; what contradicts itself allows none."""
    directives = [one.strip().lower() for one in headers.get("cache-control", "").split(",")]
    if any(one.partition("=")[0] in ("no-store", "no-cache") for one in directives):
        return 0.0
    ages = [one.partition("=")[2].strip('"') for one in directives if one.partition("=")[0] == "max-age"]
    if ages:
        spent = headers.get("age", "0")
        if not all(_SECONDS.match(one) for one in (*ages, spent)):
            return 0.0
        return float(min(map(int, ages))) - float(spent)
    if "expires" in headers:
        try:
            return parsedate_to_datetime(headers["expires"]).timestamp() - now
        except ValueError:
            return 0.0
    return _UNSAID
