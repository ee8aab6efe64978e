"""Registration for clients that have no document about themselves (RFC 7591, RFC 7592). Off unless configured.

Whoever registers is a stranger, and so is what it says. What it gets is small: a place in a bounded list, from which
it falls unless somebody signs in with it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from hmac import compare_digest
from typing import Any, Final

from limen.core.encoding import digest
from limen.core.ports import Counter, Quota, Table
from limen.oauth import registered
from limen.oauth.client_metadata import (
    check_responses,
    read_grants,
    read_name,
    read_object,
    read_page,
    read_scopes,
    wrong,
)
from limen.oauth.recorder import Recorder
from limen.oauth.redirects import lint
from limen.oauth.registered import PREFIX, Registered
from limen.oauth.settings import ClientSettings
from limen.oauth.throttle import network, take
from limen.oauth.trust import Trust
from limen.oauth.web import OAuthError, Reply, Visit, json_reply

PATH: Final = "/oauth/register"
_LARGEST: Final = 16 << 10  # bytes of a request
_NAMELESS: Final = "Unnamed client"
_OURS: Final = (
    "registration_access_token",
    "registration_client_uri",
    "client_secret_expires_at",
    "client_id_issued_at",
)
_NOBODY: Final = "0" * 64  # no digest


class Registration:
    """The endpoints. `own`: origins no code may be sent to; `record` takes the events an operator should see."""

    def __init__(
        self,
        settings: ClientSettings,
        table: Table,
        counter: Counter,
        trust: Trust,
        issuer: str,
        own: Collection[str],
        recorder: Recorder,
        record: Callable[[str, Mapping[str, Any]], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._table, self._counter, self._trust = settings, table, counter, trust
        self._issuer, self._own, self._recorder, self._record, self._now = issuer, own, recorder, record, now
        self._one_at_a_time = asyncio.Lock()  # what is counted is still so when it is written

    async def register(self, visit: Visit) -> Reply:
        """POST /oauth/register (RFC 7591 section 3.1)."""
        try:
            if not self._settings.registration:
                raise OAuthError("access_denied", "clients do not register here", status=403)
            if visit.method != "POST":
                raise OAuthError("invalid_request", "POST registers a client", status=405)
            hourly = self._settings.limits.hourly
            await take(self._counter, f"oauth-register/{network(visit.address)}", Quota(hourly, hourly / 3600))
            document = _body(visit)
            for member in ("client_id", "client_secret", *_OURS):
                if member in document:
                    raise wrong(member, "is given by the server")
            reply = await self._create(document, visit)
        except OAuthError as error:
            self._note(visit, error, "")
            raise
        return reply

    async def manage(self, visit: Visit) -> Reply:
        """GET, PUT and DELETE /oauth/register/ID (RFC 7592 section 2), by whoever holds its access token."""
        client_id = visit.path.rpartition("/")[2]
        try:
            if not self._settings.registration:
                raise OAuthError("access_denied", "clients do not register here", status=403)
            token = _bearer(visit)
            quota = Quota(30, 0.5)
            await take(self._counter, f"oauth-client/{network(visit.address)}", quota)
            found = await asyncio.to_thread(registered.load, self._table, client_id)
            known = _NOBODY if found is None else found[1].token
            if not compare_digest(digest(token), known) or found is None:
                raise OAuthError("invalid_token", status=401, detail=f"not the access token of {client_id!r}")
            await take(self._counter, f"oauth-client/{network(visit.address)}", quota, -1)
            reply = await self._managed(visit, found, token)
        except OAuthError as error:
            self._note(visit, error, client_id)
            if error.code == "invalid_token":
                return json_reply({"error": error.code}, 401, ("www-authenticate", 'Bearer error="invalid_token"'))
            raise
        return reply

    async def _create(self, document: dict[str, Any], visit: Visit) -> Reply:
        now, token = self._now(), secrets.token_urlsafe(32)
        client = self._read(document, registered.new_id(), visit.address)
        secret = "" if client.auth_method == "none" else secrets.token_urlsafe(32)
        client = replace(
            client,
            secret=digest(secret) if secret else "",
            token=digest(token),
            created=now,
            expires=now + self._settings.limits.unused,
        )
        async with self._one_at_a_time:
            await asyncio.to_thread(self._store, client)
        self._recorder.note("registration", "ok", visit=visit, client=client.id)
        return json_reply(self._shown(client, token, secret), 201)

    def _store(self, client: Registered) -> None:
        """One more, as long as there is room. The log hears of it first."""
        if registered.count(self._table) >= self._settings.limits.most:
            self._record("oauth.registrations_full", {"most": self._settings.limits.most})
            raise OAuthError("temporarily_unavailable", "too many clients have registered", status=503)
        self._tell("oauth.client_registered", client)
        if not self._table.swap(PREFIX + client.id, None, client.encode(), client.expires):
            raise OAuthError("temporarily_unavailable", status=503, detail="the same random id twice")

    async def _managed(self, visit: Visit, found: tuple[bytes, Registered], token: str) -> Reply:
        before, client = found
        if visit.method == "GET":
            return json_reply(self._shown(client, token))
        if visit.method == "DELETE":
            self._tell("oauth.client_deleted", client)
            await asyncio.to_thread(registered.remove, self._table, client.id)
            return Reply(204)
        if visit.method != "PUT":
            raise OAuthError("invalid_request", "GET, PUT or DELETE", status=405)
        document = _body(visit)
        self._check_same(document, client)
        after = replace(
            self._read(document, client.id, client.address),
            secret=client.secret,
            token=client.token,
            created=client.created,
            expires=client.expires,
            used=client.used,
        )
        if after.auth_method != client.auth_method:
            raise wrong("token_endpoint_auth_method", "cannot be changed; register anew")
        self._tell("oauth.client_updated", after)
        if not await asyncio.to_thread(self._table.swap, PREFIX + client.id, before, after.encode(), after.expires):
            raise OAuthError("temporarily_unavailable", "changed in the meantime", status=503)
        return json_reply(self._shown(after, token))

    def _check_same(self, document: dict[str, Any], client: Registered) -> None:
        """RFC 7592 section 2.2: the client says which one it is, and nothing that is ours. Raises OAuthError."""
        if document.get("client_id") != client.id:
            raise OAuthError("invalid_request", "client_id is not this client's")
        for member in _OURS:
            if member in document:
                raise wrong(member, "is given by the server")
        secret = document.get("client_secret")
        if secret is not None and not (
            isinstance(secret, str) and compare_digest(digest(secret), client.secret or _NOBODY)
        ):
            raise OAuthError("invalid_request", "client_secret is not this client's")

    def _read(self, document: dict[str, Any], client_id: str, address: str) -> Registered:
        """What the client says about itself, each member judged. Raises OAuthError."""
        if "software_statement" in document:
            raise OAuthError("invalid_software_statement", "software statements are not accepted")
        redirect_uris = lint(document.get("redirect_uris"), self._own)
        method = registered.as_method(document.get("token_endpoint_auth_method", "client_secret_basic"))
        if method is None:
            raise wrong("token_endpoint_auth_method", "none, client_secret_basic or client_secret_post")
        for member in ("jwks", "jwks_uri"):
            if document.get(member) is not None:
                raise wrong(member, "keys are for clients with a document, or that an operator configured")
        check_responses(document.get("response_types"))
        if document.get("application_type", "web") not in ("web", "native"):
            raise wrong("application_type", "web or native")
        name, disguised = read_name(document.get("client_name") or _NAMELESS)
        for member in ("logo_uri", "tos_uri", "policy_uri"):
            read_page(document, member)
        return Registered(
            id=client_id,
            name=name,
            redirect_uris=redirect_uris,
            auth_method=method,
            grant_types=tuple(sorted(read_grants(document.get("grant_types"), strict=True))),
            scopes=tuple(sorted(read_scopes(document.get("scope")))),
            uri=read_page(document, "client_uri"),
            warnings=tuple(self._trust.warnings(name, disguised, "", redirect_uris)),
            secret="",
            token="",
            created=0.0,
            expires=0.0,
            address=address,
        )

    def _shown(self, client: Registered, token: str, secret: str = "") -> dict[str, Any]:
        """RFC 7591 section 3.2.1, RFC 7592 section 3. The secret is shown once: later there is only its digest."""
        shown: dict[str, Any] = {
            "client_id": client.id,
            "client_id_issued_at": int(client.created),
            "client_name": client.name,
            "redirect_uris": client.redirect_uris,
            "grant_types": [one for one in ("authorization_code", "refresh_token") if one in client.grant_types],
            "response_types": ["code"],
            "token_endpoint_auth_method": client.auth_method,
            "registration_access_token": token,
            "registration_client_uri": f"{self._issuer}{PATH}/{client.id}",
        }
        if client.scopes:
            shown["scope"] = " ".join(client.scopes)
        if client.uri:
            shown["client_uri"] = client.uri
        if secret:
            shown |= {"client_secret": secret, "client_secret_expires_at": 0}
        return shown

    def _tell(self, event: str, client: Registered) -> None:
        seen = {"client": client.id, "name": client.name, "redirect_uris": client.redirect_uris}
        self._record(event, {**seen, "address": client.address, "warnings": client.warnings})

    def _note(self, visit: Visit, error: OAuthError, client_id: str) -> None:
        member = error.description.partition(":")[0] if ":" in error.description else ""
        self._recorder.note(
            "registration",
            error.code,
            visit=visit,
            client=client_id,
            field=member.partition("[")[0],
            detail=error.detail,
        )


def _body(visit: Visit) -> dict[str, Any]:
    """The JSON object that was sent. Raises OAuthError."""
    if visit.header("content-type").partition(";")[0].strip().lower() != "application/json":
        raise OAuthError("invalid_client_metadata", "body: not application/json")
    if visit.query:
        raise OAuthError("invalid_request", "no parameters belong here")
    try:
        return read_object(visit.body, _LARGEST)
    except ValueError as error:
        raise OAuthError("invalid_client_metadata", f"body: {error}") from None


def _bearer(visit: Visit) -> str:
    """The registration access token, "" when there is none. Raises OAuthError."""
    scheme, _, token = visit.header("authorization").partition(" ")
    return token if scheme.lower() == "bearer" and len(token) <= 200 else ""
