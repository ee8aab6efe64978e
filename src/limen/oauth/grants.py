"""The token endpoint and its siblings: revocation, introspection, and the keys that verify what is issued.

Whatever is wrong with a grant is answered in the same words; the operator reads the difference.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Protocol

from limen.core.encoding import digest
from limen.core.faults import DependencyFault
from limen.core.ports import Quota
from limen.oauth.codes import PREFIX, Codes
from limen.oauth.families import Families, Family
from limen.oauth.minting import Mint
from limen.oauth.model import Asked, Client, User
from limen.oauth.recorder import Leg
from limen.oauth.redeeming import Given, Job, Redeemer, Ties
from limen.oauth.throttle import network, take
from limen.oauth.web import OAuthError, Reply, Visit, error_reply, json_reply

DEVICE: Final = "urn:ietf:params:oauth:grant-type:device_code"
PER_ADDRESS: Final = Quota(200, 20.0)  # requests; guessing is hopeless anyway, this is about work
PER_CLIENT: Final = Quota(400, 50.0)  # of one that proved who it is: nobody else can use up its share
REVOKED: Final = Quota(10, 1 / 60)  # access tokens of one grant
JWKS: Final = (
    ("content-type", "application/jwk-set+json"),
    ("cache-control", "public, max-age=60"),  # a new key is published for longer than that before it signs
    ("access-control-allow-origin", "*"),
)


Other = Callable[[Mapping[str, str], Client], Reply]  # raises OAuthError, DependencyFault


class Authenticates(Protocol):
    """Who knows the clients."""

    async def authenticate(self, visit: Visit, form: Mapping[str, str], endpoint_url: str) -> Client: ...
    async def used(self, client: Client) -> None: ...


class Grants:
    """Endpoints /oauth/token, /oauth/revoke, /oauth/introspect, /oauth/jwks. `devices`: whether devices may ask."""

    def __init__(
        self,
        issuer: str,
        codes: Codes,
        families: Families,
        mint: Mint,
        redeemer: Redeemer,
        clients: Authenticates,
        ties: Ties,
        *,
        key_set: Callable[[], bytes],
        devices: bool = False,
        others: Mapping[str, Other] = MappingProxyType({}),
        now: Callable[[], float] = time.time,
    ) -> None:
        """`others`: grants that other rooms know, by type."""
        self._others = others
        self._issuer, self._codes, self._families, self._mint = issuer, codes, families, mint
        self._redeemer, self._clients, self._ties = redeemer, clients, ties
        self._key_set, self._devices, self._now = key_set, devices, now

    def code(self, asked: Asked, user: User, consent: str) -> str:
        """A code for what a person agreed to. Synchronous. Raises DependencyFault."""
        return self._codes.make(asked, user, consent)

    def withdraw(self, consent: str) -> list[str]:
        """End every grant that rests on this consent; their ids. Synchronous. Raises DependencyFault."""
        return self._families.withdraw(consent)

    # endpoints

    async def token(self, visit: Visit) -> Reply:
        """RFC 6749 section 3.2, with RFC 8707, RFC 9449 section 5 and RFC 8628 section 3.4."""
        return await self._answer("token", "token", visit, self._token)

    async def revoke(self, visit: Visit) -> Reply:
        """RFC 7009. What is not this client's is left alone, and the answer does not say so."""
        return await self._answer("token", "revoke", visit, self._revoked)

    async def introspect(self, visit: Visit) -> Reply:
        """RFC 7662, for clients that can prove who they are, about tokens of their own."""
        return await self._answer("token", "introspect", visit, self._introspected)

    async def jwks(self, visit: Visit) -> Reply:
        """RFC 7517 section 5."""
        if visit.method not in ("GET", "HEAD"):
            return _not_allowed("GET, HEAD")
        return Reply(200, await asyncio.to_thread(self._key_set), JWKS)

    async def _answer(
        self,
        leg: Leg,
        name: str,
        visit: Visit,
        work: Callable[[Visit, Mapping[str, str], Client], Awaitable[Reply]],
    ) -> Reply:
        """What the endpoints have in common. Errors are answered here, and recorded."""
        if visit.method != "POST":
            return _not_allowed("POST")
        try:
            await take(self._ties.counter, f"oauth:address:{network(visit.address)}", PER_ADDRESS)
            form = visit.parameters()
            client = await self._clients.authenticate(visit, form, f"{self._issuer}/oauth/{name}")
            if client.auth_method != "none":
                await take(self._ties.counter, f"oauth:client:{client.id}", PER_CLIENT)
        except OAuthError as error:
            self._ties.recorder.note(leg, error.code, visit=visit, detail=error.detail)
            return error_reply(error)
        try:
            return await work(visit, form, client)
        except OAuthError as error:
            return error_reply(error)

    # token

    async def _token(self, visit: Visit, form: Mapping[str, str], client: Client) -> Reply:
        leg: Leg = "refresh" if form.get("grant_type") == "refresh_token" else "token"
        job = Job(leg, visit, client, form, "", time.monotonic(), self._now())
        try:
            if (other := self._others.get(form.get("grant_type", ""))) is not None:
                reply = await asyncio.to_thread(other, form, client)
                self._note(job, "ok", "")
                return reply
            work, key = self._work(job)
            job.jkt = await self._ties.possession(visit)
            given = await self._flown(key, partial(work, job))
        except OAuthError as error:
            self._note(job, error.code, error.detail)
            raise
        except DependencyFault as fault:
            self._note(job, "temporarily_unavailable", str(fault))
            raise
        self._note(job, "ok", "")
        await self._clients.used(client)
        issued = given.issued
        document: dict[str, Any] = {
            "access_token": issued.token,
            "token_type": "DPoP" if issued.bound else "Bearer",
            "expires_in": issued.expires_in,
            "scope": " ".join(issued.scopes),
        }
        return json_reply({**document, **({"refresh_token": given.refresh} if given.refresh else {})})

    def _work(self, job: Job) -> tuple[Callable[[Job], Given], str]:
        """What this grant type means, and the code it spends ("" for none)."""
        form, grant = job.form, job.form.get("grant_type", "")
        known = {"authorization_code": "code", "refresh_token": "refresh_token"}
        if self._devices:
            known[DEVICE] = "device_code"
        job.wrong = "grant_type"
        if not grant:
            raise OAuthError("invalid_request", "grant_type is missing")
        if grant not in known:
            raise OAuthError("unsupported_grant_type", detail=f"grant_type {grant[:100]!r}")
        if grant not in job.client.grant_types:
            raise OAuthError("unauthorized_client", detail=f"not one of this client's grant types: {grant}")
        job.wrong = known[grant]
        if not (secret := form.get(known[grant], "")):
            raise OAuthError("invalid_request", f"{known[grant]} is missing")
        job.wrong = ""
        if grant == "refresh_token":
            return self._redeemer.refresh, ""
        if grant == "authorization_code":
            return self._redeemer.redeem_code, PREFIX + digest(secret)
        return self._redeemer.redeem_device, f"device:{digest(secret)}"

    async def _flown(self, key: str, work: Callable[[], Given]) -> Given:
        if not key:
            return await asyncio.to_thread(work)
        self._redeemer.flights.enter(key)
        won = False
        try:
            given = await asyncio.to_thread(work)
            won = True
            return given
        finally:
            self._redeemer.flights.leave(key, won=won)

    def _note(self, job: Job, outcome: str, detail: str) -> None:
        for event, fields in job.events:
            self._ties.record(event, fields)
        self._ties.recorder.note(
            job.leg, outcome, visit=job.visit, client=job.client.id, resource=job.resource, grant=job.family,
            user=job.user, field=job.wrong, detail=detail,
        )  # fmt: skip

    # revocation and introspection

    async def _revoked(self, visit: Visit, form: Mapping[str, str], client: Client) -> Reply:
        if "token" not in form:
            raise OAuthError("invalid_request", "token is missing")
        what, grant, name, until = await asyncio.to_thread(self._whose, form["token"], client)
        if what == "access token":
            try:
                await take(self._ties.counter, f"oauth:revoked:{grant}", REVOKED)
            except OAuthError:  # each is a record that every gateway reads: of who wants so many, the grant ends
                what = "grant"
        if what == "access token":
            await asyncio.to_thread(self._ties.revoke, "token", name, until)
        elif what:
            await asyncio.to_thread(self._families.end, grant, "revoked by its client")
        if what:
            self._ties.record("grant", {"state": f"{what} revoked", "grant": grant, "client": client.id})
        return Reply(200)

    def _whose(self, token: str, client: Client) -> tuple[str, str, str, float]:
        """What a token of this client is, of which grant, its id, and until when its end matters; "" for any other."""
        presented = self._families.find(token)
        if presented is not None:
            mine = presented.family.asked.client == client.id
            return ("refresh token" if mine else ""), presented.family.id, "", 0.0
        claims = self._mint.read(token)
        if claims is None or claims["client_id"] != client.id:
            return "", "", "", 0.0
        return "access token", claims["sid"], claims["jti"], float(claims["exp"]) + 120.0

    async def _introspected(self, visit: Visit, form: Mapping[str, str], client: Client) -> Reply:
        if client.auth_method == "none":
            raise OAuthError("invalid_client", "only for clients that prove who they are", status=401)
        if "token" not in form:
            raise OAuthError("invalid_request", "token is missing")
        return json_reply(await asyncio.to_thread(self._said_of, form["token"], client))

    def _said_of(self, token: str, client: Client) -> dict[str, Any]:
        presented = self._families.find(token)
        if presented is not None:
            family, until = presented.family, presented.family.ends
            good = presented.is_current and self._is_live(family, client, "")
            shown = {"client_id": client.id, "sub": family.user.subject, "scope": " ".join(family.asked.scopes)}
            return {"active": True, **shown, "iss": self._issuer, "exp": int(until)} if good else {"active": False}
        claims = self._mint.read(token)
        known = self._families.get(claims["sid"]) if claims is not None else None
        if claims is None or known is None or not self._is_live(known, client, claims["jti"]):
            return {"active": False}
        names = ("iss", "sub", "aud", "client_id", "scope", "exp", "iat", "jti", "sid", "cnf")
        kind = "DPoP" if "cnf" in claims else "Bearer"
        return {"active": True, "token_type": kind, **{name: claims[name] for name in names if name in claims}}

    def _is_live(self, family: Family, client: Client, token: str) -> bool:
        if family.asked.client != client.id or not self._ties.holds(family.consent):
            return False
        return not self._ties.revoked(family.user, client.id, token)


def _not_allowed(methods: str) -> Reply:
    return error_reply(OAuthError("invalid_request", "not with this method", status=405, headers=(("allow", methods),)))
